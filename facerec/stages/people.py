"""rename and forget: one person, in every file of a project that facerec made, and in a database."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from facerec import catalogue
from facerec.artifacts import remove
from facerec.classify import FEWEST, Classifier
from facerec.errors import ArtifactError, DataError, UsageError
from facerec.galleries import Database
from facerec.galleries import file as galleries
from facerec.galleries.people import enrolled_twice, renamed, swapped, without
from facerec.images import path_below
from facerec.manifests import Manifest, Record, read_manifest
from facerec.paths import SNAPSHOTS
from facerec.stages import cluster as clusters
from facerec.stages.common import folded, free, require_name
from facerec.stages.project import Project, labels_of, mentions, real_path, spellings
from facerec.types import Embeddings
from facerec.video import is_video

REPORT = ".report.json"
REPORTS = (".report.txt", REPORT, ".confusion.png")
SUMS = {"accuracy", "micro avg", "macro avg", "weighted avg"}  # of scikit-learn's reports, beside the people


def forget(project: Project, name: str, *, really: bool) -> list[str]:
    """Erases a person; classifiers that know them are trained again without them.

    Args:
        project: where to look.
        name: whom.
        really: otherwise nothing is touched.

    Returns:
        What is (or would be) erased or changed, a line each.

    Raises:
        UsageError: no name.
        DataError: nobody of that name is known.
    """
    if not name.strip():
        raise UsageError("whose?", "give a name")
    if really:
        project.require_idle()
        project.wait()
        project.sweep()
    done = [line for spelling in spellings(name) for line in _forget(project, spelling, really=really)]
    if not done:
        raise _nobody(project, name)
    for path in list(project.walk()):
        evaluated = path.is_relative_to(project.root / "evaluation") and path.suffix in (".html", ".json")
        if project.drew(path) or (evaluated and any(mentions(path, spelling) for spelling in spellings(name))):
            done.append(f"{project.shown(path)}: the whole file; the command that wrote it writes it again")
            if really:
                remove(path)
    return done


def _nobody(project: Project, name: str) -> DataError:
    """The error that nobody is called so, with who there is."""
    known = {label for path, kind in project.arrays() for labels in labels_of(path, kind) for label in labels}
    known |= {r.label for m in project.manifests() for r in read_manifest(m.folder, m.path.name)}
    known |= {n for path in project.walk() if path.name == clusters.STATE for n in clusters.names(path.parent)}
    known -= {""}
    there = ", ".join(sorted(known)[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    cure = f"known are {there}" if known else "nor anybody else"
    if project.database:
        cure += f"; who is in {project.database}, `facerec people` lists"
    return DataError(f"nobody called {name!r} is known here", cure)


def _forget(project: Project, name: str, *, really: bool) -> list[str]:
    """What is written in this spelling; nothing where nobody is."""
    done: list[str] = []

    def note(path: Path, what: str) -> None:
        done.append(f"{project.shown(path)}: {what}")

    if (database := project.database) and (held := _held(database, name)) is not None:
        done.append(f"{database}: {held} vectors with their crops")
        if really and (left := database.forget(name)):
            done.append(left)
    for folder in project.cluster_folders(name):
        note(folder / name, "the cluster, its faces and vectors, and the edits that name it")
        if really:
            photos = clusters.forget(folder, name)
            where = ", ".join(photos)
            more = ", and `facerec cluster` leaves these faces out without --force" if folder.exists() else ""
            done.append(f"their photos stay{more}: {where}")
    videos = []
    for manifest in list(project.manifests()):
        folder = manifest.folder
        records = [r for r in read_manifest(folder, manifest.path.name) if r.label == name]
        if not records:
            continue
        outputs = sum(len(r.outputs) for r in records)
        note(folder, f"{outputs} pictures of {len(records)} inputs, with their lines in {manifest.path.name}")
        videos += [folder.parent / r.input for r in records if is_video(Path(r.input))]
        if really:
            with manifest:
                manifest.forget([r.input for r in records])
    for folder in sorted({f for f in project.people_folders(name) if f.is_dir()}):
        if project.stays(folder):
            continue
        note(folder, f"{sum(p.is_file() for p in folder.rglob('*'))} files")
        if really:
            remove(folder)
    for video in sorted({v for v in (*videos, *project.videos_called(name)) if v.is_file()}):
        if project.is_elsewhere(video):
            continue
        note(video, "the video that the frames came from")
        if really:
            remove(video)
            if video.parent.name == name and not any(video.parent.iterdir()):
                remove(video.parent)
    # what people are listed by goes last: where this fails halfway, they can be forgotten again
    if really:
        project.wait()
    for path in [path for path, kind in project.arrays() if kind == "embeddings"]:
        rows, failures = labels_of(path, "embeddings")
        if name in (*rows, *failures):
            note(path, f"{rows.count(name)} of {len(rows)} vectors")
            if really:
                galleries.forget(path, name)
    # looked for now: train, which holds the embeddings, may have made one
    for path in [path for path, kind in project.arrays() if kind == "classifier"]:
        rows, failures = labels_of(path, "classifier")
        reports = _reports(path, name)
        if name in (*rows, *failures):
            few = len({*rows} - {name}) < FEWEST[Classifier.load(path).kind]
            left = "the whole file: too few people are left"
            note(path, left if few else f"{rows.count(name)} of {len(rows)} vectors")
            if really:
                _train(path, partial(without, name=name))
        for report in reports:
            note(report, "the whole file; `facerec train` writes it again")
            if really:
                remove(report)
    return done


def _reports(classifier: Path, name: str) -> list[Path]:
    """What `facerec train` wrote beside a classifier, where it is about a person: perhaps with test photos only."""
    about = {label for labels in labels_of(classifier, "classifier") for label in labels}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about |= json.loads(classifier.with_suffix(REPORT).read_text())["people"].keys() - SUMS
    return [path for suffix in REPORTS if name in about and (path := classifier.with_suffix(suffix)).exists()]


def erase(project: Project, name: str) -> tuple[list[str], list[str]]:
    """Forgets a person; what was erased or changed, and what still is theirs or names them: it is not facerec's."""
    linked = project.linked(name)
    done = forget(project, name, really=True)
    linked = [path for path in linked if path.exists()]
    return done, project.traces(name, linked) + [str(path) for path in linked]


def beyond(name: str) -> list[str]:
    """Where `erase` does not look, a sentence each."""
    lines = [f"pictures in folders of your choice (--output of predict, live, blur, audit) may still show {name}"]
    if SNAPSHOTS.is_dir():
        lines.append(f"pictures and recordings of facerec live in {SNAPSHOTS}/ may still show {name}, by name")
    if tuned := catalogue.tuned_names():
        lines.append(f"a fine-tuned model keeps what it learned of {name}, if it did: facerec models remove {tuned[0]}")
    return lines


def rename(project: Project, old: str, new: str, *, merge: bool = False) -> list[str]:
    """Gives a person another name everywhere; classifiers that know them are trained again.

    Args:
        project: where to look.
        old: as they are called.
        new: as they shall be called.
        merge: somebody is called that already, and they are one person.

    Returns:
        What was changed, a line each.

    Raises:
        UsageError: the new name cannot be one, or is taken.
        DataError: nobody is called by the old one.
    """
    new = require_name(new)
    if not old.strip():
        raise UsageError("who?", "give a name")
    if old == new:
        raise UsageError(f"{old!r} is called that already", "give another name")
    if shut := project.unreadable():
        raise ArtifactError(f"{shut[0]} cannot be read: {old} may be in it", "make it readable, or move it away")
    project.require_idle()
    project.wait()
    changed: list[str] = []
    for spelling in spellings(old):
        if spelling != new:
            changed += _rename(project, spelling, new, merge or bool(changed))
    if not changed:
        raise _nobody(project, old)
    return changed


def _rename(project: Project, old: str, new: str, merge: bool) -> list[str]:
    """What is written in this spelling; nothing where nobody is."""
    files = {path: (kind, labels_of(path, kind)[0]) for path, kind in project.arrays()}
    manifests = {m: list(read_manifest(m.folder, m.path.name)) for m in project.manifests()}
    places = [f for f in project.people_folders(old) if f.is_dir()]
    known = {label for _, labels in files.values() for label in labels}
    known |= {r.label for records in manifests.values() for r in records}
    database = project.database
    there = {n: held for n in (old, new) if database and (held := _held(database, n)) is not None}
    clustered = {name: project.cluster_folders(name) for name in (old, new)}
    known |= {*there, *(name for name, folders in clustered.items() if folders)}
    if old not in known and not places and not project.videos_called(old):
        return []
    if not merge and (new in known or any(f.exists() for f in project.people_folders(new))):
        raise UsageError(f"{new!r} exists already", "put the two together (or end what was interrupted) with --merge")
    for folder in clustered[old]:
        if folder not in clustered[new] and folded(new) in (folded(n) for n in clusters.names(folder) if n != old):
            raise UsageError(f"{project.shown(folder)} has a {new!r} but for upper and lower case", "write it so")
        if folder not in clustered[new]:
            clusters.require_room(folder, new)
    theirs = [path for path, (kind, labels) in files.items() if old in (*labels, *labels_of(path, kind)[1])]
    theirs += [m.path for m, records in manifests.items() if any(r.label == old for r in records)]
    for folder in {*clustered[old], *places, *(path.parent for path in (*places, *theirs))}:
        if not os.access(folder, os.W_OK):  # seen now: half of it done would be two people
            raise ArtifactError(f"{folder} cannot be written", "nothing was changed; see its permissions: `ls -ld`")
    moved: dict[Path, Path] = {}
    changed = []
    for folder in clustered[old]:
        merged = partial(clusters.merge, names=[new, old])
        clusters.edit(folder, merged if folder in clustered[new] else partial(clusters.rename, old=old, new=new))
        changed.append(f"{project.shown(folder)}: {new}")
    if database and old in there:
        database.rename(old, new)
        changed.append(f"{database}: {there[old]} vectors")
    # crops first: their manifest names raw images by their old paths, which are moved after
    for manifest, records in manifests.items():
        folder = manifest.folder
        for output in (folder / o["path"] for r in records if r.label == old for o in r.outputs):
            _move(output, folder / swapped(output.relative_to(folder).as_posix(), old, new), moved)
    folders = {place.resolve() for place in places if not place.is_symlink()}
    for place in sorted(places, key=lambda place: not place.is_symlink()):
        if place.is_symlink() and not place.with_name(new).exists():  # what it leads to is seldom the project's
            there_now = [file.relative_to(place) for file in place.rglob("*") if file.is_file()]
            real = place.resolve()
            place.rename(place.with_name(new))
            if real in folders:
                place.with_name(new).unlink()
                place.with_name(new).symlink_to(os.path.relpath(real.with_name(new), place.parent.resolve()))
            moved |= {place / file: place.with_name(new) / file for file in there_now}
            continue
        for file in sorted(p for p in place.rglob("*") if p.is_file() or p.is_symlink()):
            _move(file, place.with_name(new) / file.relative_to(place), moved)
    sources = [m.folder.parent / r.input for m, records in manifests.items() for r in records if r.label == old]
    for source in dict.fromkeys((*project.videos_called(old), *filter(is_video, sources))):
        if not source.exists():
            continue
        if project.is_elsewhere(source):
            changed.append(f"{source} stays where it is: with its folder extracted again, its frames are {old}'s")
            continue
        stem = new if source.stem == old else source.stem  # a video's name, or its folder's, is a label
        below = real_path(source.parent).relative_to(real_path(project.root))
        parts = [new if part == old else part for part in below.parts]
        _move(source, project.root.joinpath(*parts, stem + source.suffix), moved)
    stay = {p.parent for p in sources if not is_video(p) and p.exists() and old in p.parent.parts}
    changed += [f"{place} stays where it is: called so, its photos are {old}'s again" for place in sorted(stay)]
    for manifest, records in manifests.items():
        if number := sum(r.label == old for r in records):
            _rewrite(manifest, records, old, new, moved)
            changed.append(f"{project.shown(manifest.path)}: {number} inputs")
    for path, (kind, labels) in files.items():
        if kind == "classifier":
            for report in _reports(path, old):
                remove(report)
        if path not in theirs:
            continue
        bases = [path.parent, project.root / "processed", path.with_suffix("")]
        if kind == "embeddings":
            with galleries.edited(path) as edit:
                rows = _renamed(edit.rows, old, new, moved, bases)
                double = enrolled_twice(rows, new)
                edit.rows = rows[~double]
            for source in {*rows.sources[double].tolist()} - {*rows.sources[~double].tolist()}:
                if (crop := path_below(source, [path.parent])) is not None:
                    remove(crop)
        else:
            _train(path, partial(_renamed, old=old, new=new, moved=moved, bases=bases))
        kept = f"{labels.count(old)} vectors" if path.exists() else "erased, too few people are left"
        changed.append(f"{project.shown(path)}: {kept}")
    if moved:
        changed.append(f"{len(moved)} files moved")
    return changed


def _held(database: Database, name: str) -> int | None:
    """How many a person has in a database; None where it does not know them, nor failures of theirs."""
    if not database.exists():
        return None
    photos = database.of(name)
    return len(photos) if len(photos) or any(f.label == name for f in photos.failures) else None


def _train(path: Path, change: Callable[[Embeddings], Embeddings]) -> None:
    """Trains a classifier again with other photos; removes it where too few people are left."""
    with galleries.locked(path):
        classifier = Classifier.load(path)
        try:
            trained = Classifier.train(classifier.kind, change(classifier.photos), classifier.gate)
        except DataError:
            remove(path)
            return
        with galleries.dated(path):
            trained.save(path)


def _renamed(rows: Embeddings, old: str, new: str, moved: dict[Path, Path], bases: list[Path]) -> Embeddings:
    """Vectors with another label, and their sources where they are now."""

    def source(text: str) -> str:
        for base in bases:
            if (target := moved.get(base / text)) is not None:
                return target.relative_to(base).as_posix()
            there = swapped(text, old, new)
            if (base / there).is_file() and not (base / text).exists():  # moved by a run that was interrupted
                return there
        return text

    labels = np.array([new if label == old else label for label in rows.labels.tolist()], np.str_)
    sources = np.array([source(s) for s in rows.sources.tolist()], np.str_)
    return replace(renamed(rows, old, new), labels=labels, sources=sources)


def _rewrite(manifest: Manifest, records: list[Record], old: str, new: str, moved: dict[Path, Path]) -> None:
    folder = manifest.folder
    with manifest:
        for key in manifest.records:  # `clear` is quadratic
            del manifest.records[key]
        for r in records:
            if r.label == old:
                r.label = new
                r.options = {**r.options, **({"label": new} if "label" in r.options else {})}
                source = moved.get(folder.parent / r.input)
                if source:
                    r.input = manifest.key(source)
                elif not (folder.parent / r.input).exists():
                    r.input = swapped(r.input, old, new)
                for output in r.outputs:
                    if target := moved.get(folder / output["path"]):
                        output["path"] = target.relative_to(folder).as_posix()
            manifest.records[r.input] = r


def _move(source: Path, target: Path, moved: dict[Path, Path]) -> None:
    """Moves a file, beside one that has its name already; empty folders go."""
    if source in moved or source == target or not (source.is_file() or source.is_symlink()):
        return
    target = free(target)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(source, target)  # perhaps through a link, to another disk
    moved[source] = target
    parent = source.parent
    while not any(parent.iterdir()):
        remove(parent)
        parent = parent.parent
