"""rename and forget: one person, in every file of a project that facerec made, and in a database.

A project is the folder that raw_images/, processed/, embeddings/, classifiers/ and evaluation/ stand in.
Nothing is believed about where things are: every manifest and every array file below it is looked into.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from facerec.artifacts import load_embeddings, npz_kind, remove
from facerec.classify import FEWEST, Classifier
from facerec.errors import ArtifactError, DataError, UsageError
from facerec.galleries import Database, Where, open_database
from facerec.galleries import file as galleries
from facerec.galleries.people import SPLITS, renamed, swapped, without
from facerec.images import is_image
from facerec.manifests import MANIFEST, Manifest, Record, read_manifest
from facerec.paths import GALLERY
from facerec.stages import cluster as clusters
from facerec.stages.common import require_name
from facerec.types import Embeddings
from facerec.video import is_video

REPORTS = (".report.txt", ".report.json", ".confusion.png")
STAGES = ("videos", "raw_images", "processed", "embeddings", "classifiers", "evaluation", "clusters", "audit")
DRAWN = ("contact_sheets", "explained")  # pictures of several people: who is on them is not written anywhere
AUDITED = Path("audit/contact_sheet.png")  # one more


@dataclass(frozen=True)
class Project:
    """Where to look.

    Attributes:
        root: the folder.
        gallery: the gallery, which may lie elsewhere.
        database: a gallery that is no file, which is in use beside the project's.
    """

    root: Path
    gallery: Path
    database: Database | None = None

    @classmethod
    def of(cls, root: Path, where: Where) -> Project:
        """A folder, and the gallery in use."""
        return cls(root, where) if isinstance(where, Path) else cls(root, GALLERY, open_database(where))

    def walk(self) -> Iterator[Path]:
        """Every file below the root, and the gallery's; what belongs to others (.git, .venv, lost+found) is left out.

        Folders that are links count where the project's work lies behind them. A folder that cannot be looked into
        comes itself.
        """
        seen: set[Path] = set()
        shut: list[Path] = []
        tops = [self.root]
        walked = {_real(self.root)}
        while tops:
            for top, folders, files in os.walk(tops.pop(), onerror=lambda error: shut.append(Path(error.filename))):
                folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "lost+found")
                for link in (Path(top) / f for f in folders if (Path(top) / f).is_symlink()):
                    if _real(link) not in walked and self._is_part(link):
                        walked.add(_real(link))
                        tops.append(link)
                for file in sorted(files):
                    seen.add(_real(Path(top) / file))
                    yield Path(top) / file
        outside = [self.gallery, *self.gallery.with_suffix("").rglob("*")]
        yield from (p for p in outside if p.is_file() and _real(p) not in seen)
        yield from shut

    def _is_part(self, link: Path) -> bool:
        """Whether a link to a folder elsewhere leads to work of the project's own: not to all of a disk, say."""
        root, real = _real(self.root), _real(link)
        if real.is_relative_to(root) or root.is_relative_to(real):
            return False
        if link.parent == self.root and link.name in STAGES:
            return True
        try:
            return any(
                _is_manifest(p) or p.name == clusters.STATE or (p.suffix == ".npz" and npz_kind(p))
                for p in real.iterdir()
            )
        except OSError:
            return False

    def unreadable(self) -> list[Path]:
        """Folders and files that may hold something of a person, and cannot be looked into."""
        shut = [p for p in self.walk() if not (is_image(p) or is_video(p) or os.access(p, os.R_OK))]
        return [p for p in shut if p.exists() or not p.is_symlink()]  # a link to nothing holds nothing

    def is_elsewhere(self, path: Path) -> bool:
        """Whether a file or folder lies outside the project, also behind a link; a link itself lies where it stands."""
        return not _real(path.parent).is_relative_to(_real(self.root))

    def stays(self, folder: Path) -> bool:
        """Whether a person's folder holds the user's own photos or videos, outside the project."""
        originals = any(folder.is_relative_to(self.root / top) for top in ("videos", "raw_images"))
        return originals and self.is_elsewhere(folder)

    def arrays(self) -> Iterator[tuple[Path, str]]:
        """(path, kind) of the files of labelled vectors."""
        for path in self.walk():
            if path.suffix == ".npz" and (kind := npz_kind(path)) in ("embeddings", "classifier"):
                yield path, kind

    def manifests(self) -> Iterator[Manifest]:
        """Of the folders and files that a stage wrote."""
        for path in self.walk():
            if _is_manifest(path):
                yield Manifest(path.parent, path.name)

    def require_idle(self) -> None:
        """Raises `ArtifactError` where a stage is at work: it would write what it has read of a person again."""
        for manifest in list(self.manifests()):
            manifest.require_free()

    def wait(self) -> None:
        """Waits for those who write vectors at the moment, also into files that are not there yet."""
        for lock in list(self.walk()):
            if lock.name.startswith(".") and lock.name.endswith(".npz.lock"):
                with galleries.locked(lock.with_name(lock.name[1:].removesuffix(".lock"))):
                    pass

    def cluster_folders(self, name: str) -> list[Path]:
        """Folders of `facerec cluster` that know a person."""
        usual = self.root / "clusters"
        found = []
        for path in self.walk():
            if path.name != clusters.STATE or not (path.parent / clusters.VECTORS).exists():
                continue  # or a copy without what is hidden
            if path.parent == usual or not clusters.NUMBERED.fullmatch(name):
                with contextlib.suppress(ArtifactError):  # another program's file
                    found += [path.parent] if name in clusters.names(path.parent) else []
        return found

    def drew(self, path: Path) -> bool:
        """Whether a file is a sheet of several people's faces, in the places where facerec puts them."""
        if path.name == clusters.SHEET and (path.parent / clusters.STATE).exists():
            return True
        ours = path == self.root / AUDITED or path.parent in [self.root / folder for folder in DRAWN]
        return ours and path.suffix == ".png"

    def linked(self, name: str) -> list[Path]:
        """What links among a person's photos lead to: it is not the project's."""
        found = []
        people = [folder for spelling in _spellings(name) for folder in self.people_folders(spelling)]
        for folder in {f for f in people if f.is_dir()}:
            found += [p.resolve() for p in (folder, *folder.rglob("*")) if p.is_symlink() and p.exists()]
            found += [folder.resolve()] if self.stays(folder) else []
        for manifest in self.manifests():
            inputs = (
                r.input for r in read_manifest(manifest.folder, manifest.path.name) if r.label in _spellings(name)
            )
            videos = (manifest.folder.parent / i for i in inputs if is_video(Path(i)))
            found += [v.resolve() for v in videos if v.exists() and (v.is_symlink() or self.is_elsewhere(v))]
        found += [v.resolve() for s in _spellings(name) for v in self.videos_called(s) if self.is_elsewhere(v)]
        return sorted(set(found))

    def videos_called(self, name: str) -> list[Path]:
        """videos/NAME.mp4 …, whether or not frames were taken from them."""
        return [p for p in (self.root / "videos").glob("*") if is_video(p) and p.stem == name]

    def people_folders(self, name: str) -> Iterator[Path]:
        """Folders of a person: videos/NAME, raw_images/NAME, raw_images/train/NAME, processed/train/NAME …; what is in
        them counts, also where no stage has noted it (yet, or because it was killed)."""
        if Path(name).parts != (name,) or name == "..":
            return  # a label in somebody's file that is no name, but a way out of these folders
        split = (f"{top}/{split}" for top in ("raw_images", "processed") for split in SPLITS)
        for top in ("videos", "raw_images", *split):
            folder = self.root / top / name
            if name not in SPLITS or not any(path.is_dir() for path in folder.glob("*")):  # else it is many people's
                yield folder
        for gallery in {self.gallery, *(path for path, kind in self.arrays() if kind == "embeddings")}:
            yield gallery.with_suffix("") / name
            if gallery.is_file():  # what was exported keeps the folders that it was enrolled in
                tops = {source.partition("/")[0] for source in load_embeddings(gallery).sources.tolist()}
                yield from (gallery.parent / top / name for top in tops if Path(top).parts == (top,) and top != "..")


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
    done = [line for spelling in _spellings(name) for line in _forget(project, spelling, really=really)]
    if not done:
        raise DataError(f"nobody called {name!r} is known here", "facerec people lists who is")
    for path in list(project.walk()):
        evaluated = path.is_relative_to(project.root / "evaluation") and path.suffix in (".html", ".json")
        if project.drew(path) or (evaluated and any(_mentions(path, spelling) for spelling in _spellings(name))):
            done.append(f"{_shown(project, path)}: the whole file; the command that wrote it writes it again")
            if really:
                remove(path)
    return done


def _forget(project: Project, name: str, *, really: bool) -> list[str]:
    """What is written in this spelling; nothing where nobody is."""
    done: list[str] = []

    def note(path: Path, what: str) -> None:
        done.append(f"{_shown(project, path)}: {what}")

    if (database := project.database) and (held := _held(database, name)) is not None:
        done.append(f"{database}: {held} vectors with their crops")
        if really and (left := database.forget(name)):
            done.append(left)
    for folder in project.cluster_folders(name):
        note(folder / name, "the cluster, its faces and vectors, and the edits that name it")
        if really:
            photos = clusters.forget(folder, name)
            done.append(f"their photos stay where they are: {', '.join(photos)}")
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
        rows, failures = _labels(path, "embeddings")
        if name in (*rows, *failures):
            note(path, f"{rows.count(name)} of {len(rows)} vectors")
            if really:
                galleries.forget(path, name)
    # looked for now: train, which holds the embeddings, may have made one
    for path in [path for path, kind in project.arrays() if kind == "classifier"]:
        rows, failures = _labels(path, "classifier")
        if name not in (*rows, *failures):
            continue
        few = len({*rows} - {name}) < FEWEST[Classifier.load(path).kind]
        note(path, "the whole file: too few people are left" if few else f"{rows.count(name)} of {len(rows)} vectors")
        if really:
            _train(path, partial(without, name=name))
        for report in (path.with_suffix(suffix) for suffix in REPORTS):
            if report.exists():
                note(report, "the whole file; `facerec train` writes it again")
                if really:
                    remove(report)
    return done


def erase(project: Project, name: str) -> tuple[list[str], list[str]]:
    """Forgets a person; what was erased or changed, and what still is theirs or names them: it is not facerec's."""
    linked = project.linked(name)
    done = forget(project, name, really=True)
    linked = [path for path in linked if path.exists()]
    return done, find_traces(project, name, linked) + [str(path) for path in linked]


def find_traces(project: Project, name: str, linked: Sequence[Path] = ()) -> list[str]:
    """Files below the project that still name a person, in their path or their content, or cannot be read.

    Those in `linked` folders are left out.
    """
    spellings = _spellings(name)
    known = {label for path, kind in project.arrays() for labels in _labels(path, kind) for label in labels}
    known |= {r.label for m in project.manifests() for r in read_manifest(m.folder, m.path.name)}
    longer = sorted((k for k in known for s in spellings if s in k and k not in spellings), key=len, reverse=True)
    left = {}
    for path in project.unreadable():
        left[path] = f"{_shown(project, path)} (cannot be read)"
    for path in project.walk():
        if path in left or any(_real(path).is_relative_to(place) for place in linked):
            continue
        if any(_mentions(path, spelling, longer) for spelling in spellings):
            left[path] = _shown(project, path)
    return list(left.values())


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
    require_name(new)
    if not old.strip():
        raise UsageError("who?", "give a name")
    if old == new:
        raise UsageError(f"{old!r} is called that already", "give another name")
    if shut := project.unreadable():
        raise ArtifactError(f"{shut[0]} cannot be read: {old} may be in it", "make it readable, or move it away")
    project.require_idle()
    project.wait()
    changed: list[str] = []
    for spelling in _spellings(old):
        if spelling != new:
            changed += _rename(project, spelling, new, merge or bool(changed))
    if not changed:
        raise DataError(f"nobody called {old!r} is known here", "facerec people lists who is")
    return changed


def _rename(project: Project, old: str, new: str, merge: bool) -> list[str]:
    """What is written in this spelling; nothing where nobody is."""
    files = {path: (kind, _labels(path, kind)[0]) for path, kind in project.arrays()}
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
        raise UsageError(f"{new!r} exists already", "put the two together with --merge")
    for folder in clustered[old]:
        if folder not in clustered[new] and clusters.folded(new) in (
            clusters.folded(n) for n in clusters.names(folder) if n != old
        ):
            raise UsageError(f"{_shown(project, folder)} has a {new!r} but for upper and lower case", "write it so")
        if folder not in clustered[new]:
            clusters.require_room(folder, new)
    theirs = [path for path, (kind, labels) in files.items() if old in (*labels, *_labels(path, kind)[1])]
    theirs += [m.path for m, records in manifests.items() if any(r.label == old for r in records)]
    for folder in {*clustered[old], *places, *(path.parent for path in (*places, *theirs))}:
        if not os.access(folder, os.W_OK):  # seen now: half of it done would be two people
            raise ArtifactError(f"{folder} cannot be written", "nothing was changed; see its permissions: `ls -ld`")
    moved: dict[Path, Path] = {}
    changed = []
    for folder in clustered[old]:
        merged = partial(clusters.merge, names=[new, old])
        clusters.edit(folder, merged if folder in clustered[new] else partial(clusters.rename, old=old, new=new))
        changed.append(f"{_shown(project, folder)}: {new}")
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
            changed.append(f"{source} stays where it is: called so, its frames are {old}'s again")
            continue
        stem = new if source.stem == old else source.stem  # a video's name, or its folder's, is a label
        below = _real(source.parent).relative_to(_real(project.root))
        parts = [new if part == old else part for part in below.parts]
        _move(source, project.root.joinpath(*parts, stem + source.suffix), moved)
    for manifest, records in manifests.items():
        if number := sum(r.label == old for r in records):
            _rewrite(manifest, records, old, new, moved)
            changed.append(f"{_shown(project, manifest.path)}: {number} inputs")
    for path, (kind, labels) in files.items():
        if path not in theirs:
            continue
        bases = [path.parent, project.root / "processed", path.with_suffix("")]
        if kind == "embeddings":
            with galleries.edited(path) as edit:
                edit.rows = _renamed(edit.rows, old, new, moved, bases)
        else:
            _train(path, partial(_renamed, old=old, new=new, moved=moved, bases=bases))
            for suffix in REPORTS:
                remove(path.with_suffix(suffix))
        kept = f"{labels.count(old)} vectors" if path.exists() else "erased, too few people are left"
        changed.append(f"{_shown(project, path)}: {kept}")
    if moved:
        changed.append(f"{len(moved)} files moved")
    return changed


def _real(path: Path) -> Path:
    """Where links lead to; a loop of links to itself."""
    return Path(os.path.realpath(path))


def _is_manifest(path: Path) -> bool:
    return path.name == MANIFEST or path.name.endswith(f".{MANIFEST}")


def _spellings(name: str) -> list[str]:
    """The ways in which a name may be written: ë is one character, or two as macOS writes it in folders."""
    return sorted({name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))})


def _held(database: Database, name: str) -> int | None:
    """How many a person has in a database; None where it does not know them, nor failures of theirs."""
    if not database.exists():
        return None
    photos = database.of(name)
    return len(photos) if len(photos) or any(f.label == name for f in photos.failures) else None


def _labels(path: Path, kind: str) -> tuple[list[str], list[str]]:
    """Labels of the rows and of the failures of a file."""
    photos = load_embeddings(path) if kind == "embeddings" else Classifier.load(path).photos
    return photos.labels.tolist(), [f.label for f in photos.failures]


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
    number = 2
    free = target
    while free.exists():
        free = target.with_name(f"{target.stem}-{number}{target.suffix}")
        number += 1
    free.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(source, free)  # perhaps through a link, to another disk
    moved[source] = free
    parent = source.parent
    while not any(parent.iterdir()):
        remove(parent)
        parent = parent.parent


def _mentions(path: Path, name: str, longer: Sequence[str] = ()) -> bool:
    """Whether a file's path or content has a name as a word of its own, and not as a part of `longer` names."""

    word = re.compile("|".join(rf"(?<!\w){re.escape(form)}(?!\w)" for form in _forms(name)))
    others = [form for other in longer for form in _forms(other)]

    def has(text: str) -> bool:
        for other in others:
            text = text.replace(other, "")
        return word.search(text) is not None

    if any(map(has, path.parts)):
        return True
    if is_image(path) or is_video(path) or not path.is_file():
        return False  # a picture's bytes may spell a short name by chance
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if _wide(name) in data:
        rest = data
        for other in longer:
            rest = rest.replace(_wide(other), b"")
        if _wide(name) in rest:
            return True
    return any(os.fsencode(form) in data for form in _forms(name)) and has(data.decode("utf-8", "surrogateescape"))


def _wide(name: str) -> bytes:
    """As in NumPy's arrays of strings."""
    return name.encode("utf-32-le", "surrogatepass")


def _forms(name: str) -> set[str]:
    """How a name stands in text, HTML and JSON."""
    return {name, html.escape(name), json.dumps(name)[1:-1]}


def _shown(project: Project, path: Path) -> str:
    try:
        return _real(path).relative_to(_real(project.root)).as_posix()
    except ValueError:
        return str(path)
