"""cluster: photos of unknown people → clusters/PERSON/*.png, a folder a person, with names that can be edited.

``clusters.json`` is the truth; the folders and the contact sheet are drawn from it. Every edit says which faces
are one person from now on: those stay together, and apart from the others that were edited, whatever comes later.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import json
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facerec.artifacts import load_embeddings, remove, save_embeddings, write_bytes, write_image, write_text
from facerec.draw import BLUE, GREEN, ORANGE, WHITE, contact_sheet
from facerec.errors import ArtifactError, DataError, UsageError
from facerec.galleries.file import locked
from facerec.grouping import group, halves
from facerec.images import find_images, natural_key, read_image
from facerec.manifests import MANIFEST, Manifest, read_manifest
from facerec.paths import CLUSTERED, NOISE, SHEET
from facerec.stages.common import canonical, folded, output_names, require_apart, require_folder
from facerec.stages.detect import cut_faces
from facerec.stages.embed import embed
from facerec.stages.process import Item, process
from facerec.types import Detector, Embedder, FaceChoice, Progress, StageReport, no_progress

STATE = CLUSTERED
FACES, VECTORS = ".faces", ".faces.npz"
NUMBERED = re.compile(r"person_(\d+)")  # a cluster's name before a user gives it one: in each folder somebody else
FORMAT = 1
MAX_FACES = 20_000  # their distances take 3.2 GB: 1.6 GB, and once more inside the linkage
THRESHOLDS = {"facenet-128": 0.94}
"""Largest mean distance of a person's faces; chosen by measuring: see docs/choices.md."""
MIN_SIZE = 2
SHEET_ROWS, SHEET_COLUMNS = 60, 10


# --- names ----------------------------------------------------------------------------------------


def name_clusters(
    labels: npt.NDArray[np.intp], fixed: Sequence[str], before: Sequence[str], min_size: int, used: set[str]
) -> list[str]:
    """(n,) name of each row's cluster.

    A cluster has the name that the user fixed; or that of the earlier cluster with which it shares most faces;
    or the next free number. Those smaller than `min_size` are noise, unless the user fixed them.

    Args:
        labels: (n,) clusters.
        fixed: (n,) the user's names; empty for none.
        before: (n,) names of an earlier run; empty for none.
        min_size: faces.
        used: names whose numbers are not given again.
    """
    sizes = np.bincount(labels)
    names = {int(label): name for label, name in zip(labels, fixed, strict=True) if name}
    names |= {label: NOISE for label, size in enumerate(sizes) if size < min_size and label not in names}
    shared = Counter((name, int(label)) for label, name in zip(labels, before, strict=True) if name not in ("", NOISE))
    taken = set(names.values())
    for (name, label), _ in sorted(shared.items(), key=lambda item: (-item[1], natural_key(item[0][0]), item[0][1])):
        if label not in names and name not in taken:
            names[label] = name
            taken.add(name)
    number = _next_number(used | taken | set(before))
    for label in sorted(range(len(sizes)), key=lambda label: (-sizes[label], label)):
        if label not in names:
            names[label] = f"person_{number:03d}"
            number += 1
    return [names[int(label)] for label in labels]


def _next_number(names: set[str]) -> int:
    return 1 + max((int(m[1]) for name in names if (m := NUMBERED.fullmatch(name))), default=0)


# --- the state on disk ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A face.

    Attributes:
        face: the first half of its crop's sha256: the same face in the next run.
        crop: file name in its cluster's folder.
        photo: relative to the folder that the output stands in.
        box: (x, y, w, h) in the photo, pixels.
    """

    face: str
    crop: str
    photo: str
    box: list[float]


@dataclass
class Edit:
    """A decision of the user's.

    Attributes:
        edit: as it was asked for.
        before: cluster → its faces, of all whose cluster it changed.
        after: cluster → faces that are this one person from now on.
    """

    edit: str
    before: dict[str, list[str]]
    after: dict[str, list[str]]


@dataclass
class State:
    """``clusters.json``.

    Attributes:
        source: the photos, and all that their faces depend on.
        threshold: largest mean distance.
        min_size: smaller clusters are noise.
        clusters: name → faces, the most typical first; the largest cluster first.
        noise: faces of nobody.
        edits: oldest first.
    """

    source: dict[str, Any]
    threshold: float
    min_size: int
    clusters: dict[str, list[Found]] = field(default_factory=dict)
    noise: list[Found] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)

    @property
    def name_of(self) -> dict[str, str]:
        """Face → cluster."""
        return {f.face: name for name, faces in [(NOISE, self.noise), *self.clusters.items()] for f in faces}

    @property
    def fixed(self) -> dict[str, str]:
        """Face → the cluster that the user put it into."""
        return {face: name for edit in self.edits for name, faces in edit.after.items() for face in faces}

    @property
    def used(self) -> set[str]:
        """Every name that a cluster has, or had when it was edited: their numbers are not given again."""
        return set(self.clusters).union(*([*edit.before, *edit.after] for edit in self.edits))

    def places(self, output: Path) -> set[Path]:
        """Where in the folder the faces are shown."""
        return {output / name / f.crop for name, faces in [(NOISE, self.noise), *self.clusters.items()] for f in faces}

    def members(self, name: str) -> list[str]:
        """A cluster's faces, with those that the user put into it and whose photos are gone for now."""
        fixed, now = self.fixed, self.name_of
        return sorted({f for f in fixed | now if now.get(f, fixed.get(f)) == name})

    def require(self, name: str) -> None:
        """Raises where there is no cluster of that name."""
        if name == NOISE:
            raise UsageError(f"{NOISE} is not a person", f"take faces out of it first: --split {NOISE} FACE …")
        if name not in self.clusters:
            there = list(self.clusters)
            more = f" and {len(there) - 10} more" if len(there) > 10 else ""
            raise UsageError(f"there is no cluster {name!r}", f"there is {', '.join(there[:10]) or 'none'}{more}")

    def clusters_json(self) -> dict[str, Any]:
        """What is of interest to others: the clusters and the noise."""
        return {
            "clusters": [
                {"name": name, "size": len(faces), "faces": [asdict(f) for f in faces]}
                for name, faces in self.clusters.items()
            ],
            "noise": [asdict(f) for f in self.noise],
        }

    def write(self, path: Path) -> None:
        head = {"format": FORMAT, "source": self.source, "threshold": self.threshold, "min_size": self.min_size}
        edits = {"edits": [asdict(edit) for edit in self.edits]}
        write_text(path, json.dumps({**head, **self.clusters_json(), **edits}, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> State:
        """Raises `ArtifactError` where the file is missing, damaged, or of another format."""
        cure = "make it with `facerec cluster FOLDER`"
        if not path.exists():
            raise ArtifactError(f"{path} is missing", cure)
        try:
            data = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}")
            state = cls(
                dict(data["source"]),
                float(data["threshold"]),
                int(data["min_size"]),
                {c["name"]: [Found(**f) for f in c["faces"]] for c in data["clusters"]},
                [Found(**f) for f in data["noise"]],
                [Edit(**edit) for edit in data["edits"]],
            )
            for name in {*state.clusters, *state.fixed.values(), *state.name_of.values()} - {NOISE}:
                check_name(name)  # it becomes a folder
            for found in itertools.chain(state.noise, *state.clusters.values()):
                if Path(found.crop).name != found.crop:
                    raise ValueError(f"a crop called {found.crop!r}")
        except (ValueError, KeyError, TypeError, AttributeError, UsageError, RecursionError) as error:
            raise ArtifactError(f"{path} is damaged ({error})", f"delete it, and {cure}; its names are lost") from None
        return state


def check_name(name: str) -> None:
    """Raises `UsageError` where a name cannot be a cluster's folder."""
    reserved = {NOISE, STATE, SHEET, "manifest.jsonl"}
    if name != name.strip() or not name or not name.isprintable() or set(name) & set('/\\:*?"<>|') or name[0] == ".":
        raise UsageError(f"{name!r} cannot be a folder", "choose a name without / and the like")
    if name.casefold() in reserved:
        raise UsageError(f"{name!r} is not a person", "choose another name")


@dataclass
class ClusterReport(StageReport):
    """A `StageReport` with the clusters, and the edit that was made or undone."""

    state: State = field(default_factory=lambda: State({}, 0.0, 0))
    edit: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "edit": self.edit, **self.state.clusters_json()}


# --- the stage --------------------------------------------------------------------------------------


def cluster(
    folder: Path,
    output: Path,
    *,
    detector: Detector,
    embedder: Embedder,
    faces: FaceChoice = "all",
    min_face: int,
    min_confidence: float | None,
    threshold: float | None = None,
    min_size: int = MIN_SIZE,
    jobs: int = 1,
    cluster: str | None = None,
    force: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> ClusterReport:
    """Sorts the faces of a folder's photos by person; names and edits of earlier runs hold.

    Args:
        folder: photos, flat or nested.
        output: usually clusters/.
        detector: finds the faces.
        embedder: turns them into vectors.
        faces: which of several in a photo.
        min_face: as the detector was loaded with; recorded, since it changes the result.
        min_confidence: likewise.
        threshold: largest mean distance of a person's faces; None for the model's own.
        min_size: clusters with fewer faces are noise.
        jobs: photos treated side by side.
        cluster: of machines, where they are treated instead, see `facerec.parallel.spread`.
        force: find and embed all again.
        strict: stop at the first photo that fails.
        progress: shows how far it is.

    Raises:
        UsageError: no folder, no photos, or edits that are about other photos or other settings.
        DataError: no face, too many faces, or a model whose threshold is not known.
        ArtifactError: the output cannot be written, or was damaged.
    """
    start = time.perf_counter()
    require_folder(folder, "give a folder with photos")
    require_apart(folder, output)
    photos = find_images(folder)
    if not photos:
        raise UsageError(f"no photos in {folder}", "put some there; folders in it are searched too")
    space = embedder.space
    if threshold is None and (threshold := THRESHOLDS.get(space.model)) is None:
        raise DataError(f"no threshold is known for {space.model}", "give one: --threshold D, between 0 and 2")
    options = {
        "detector": detector.name,
        "min_face": min_face,
        "min_confidence": min_confidence,
        "faces": faces,
        "crop": asdict(space.crop),
        "size": embedder.input_size,
    }
    source = {"folder": Manifest(output).key(folder), **options, "space": space.to_json()}
    names = output_names([Path("_".join(photo.relative_to(folder).parts)) for photo in photos])
    items = [Item(photo, "", name=f"{FACES}/{name}") for photo, name in zip(photos, names, strict=True)]
    with locked(output / STATE):
        old = State.read(output / STATE) if (output / STATE).exists() else State(source, threshold, min_size)
        if old.edits and old.source != source:
            raise UsageError(
                f"the names in {output} are about other photos or settings",
                f"give {old.source.get('folder')} with the same options, or another --output",
            )
        drawn = _drawn(output, old)
        found = process(
            "cluster",
            items,
            [output.parent],  # whatever else is recorded there is of an earlier FOLDER
            output,
            options,
            partial(cut_faces, output, detector, space.crop, embedder.input_size, faces),
            jobs=jobs if detector.thread_safe else 1,
            cluster=cluster,
            force=force,
            strict=strict,
            progress=progress,
        )
        if not any(record.outputs for record in read_manifest(output)):
            raise DataError(f"no face in {len(photos)} photos of {folder}", f"see {output}/manifest.jsonl for why")
        embedded = embed(
            output, output / VECTORS,
            embedder=embedder, jobs=jobs, cluster=cluster, force=force, strict=strict, progress=progress,
        )  # fmt: skip
        new = _redrawn(output, replace(old, source=source), old.edits, old.name_of, drawn, threshold, min_size)
        new.write(output / STATE)
    report = ClusterReport(**vars(found), state=new)
    report.failed += embedded.failed
    report.seconds = time.perf_counter() - start
    return report


def edit(
    output: Path, change: Callable[[State], Edit], threshold: float | None = None, min_size: int | None = None
) -> ClusterReport:
    """Notes a decision of the user's and draws the clusters again.

    Args:
        output: usually clusters/.
        change: makes the decision, by `rename`, `merge` or `split`.
        threshold: another one; None for the last run's.
        min_size: likewise.

    Raises:
        UsageError: no such cluster or face, or a name that cannot be given.
        ArtifactError: there are no clusters.
    """
    with _opened(output) as old:
        made = change(old)
        before = old.name_of
        drawn = _drawn(output, old)
        for name in made.after.keys() - old.clusters.keys():
            if not NUMBERED.fullmatch(name):  # by the user
                require_room(output, name, drawn)
        new = _redrawn(output, old, [*old.edits, made], before, drawn, threshold, min_size)
        moved = {face for faces in made.after.values() for face in faces}
        moved |= {face for face, name in new.name_of.items() if name != before.get(face)}
        for face in sorted(moved & before.keys()):
            made.before.setdefault(before[face], []).append(face)
        new.write(output / STATE)
    return ClusterReport("cluster", output, skipped=len(new.name_of), state=new, edit=made.edit)


def require_room(output: Path, name: str, drawn: set[Path] | None = None) -> None:
    """Raises `UsageError` where the folder of a new name holds files that are not of the clusters (those `drawn`)."""
    drawn = _drawn(output, State.read(output / STATE)) if drawn is None else drawn
    if (output / name).is_dir() and not drawn.issuperset((output / name).iterdir()):
        raise UsageError(f"{output / name} holds other files", "choose another name, or move them away")


def undo(output: Path, threshold: float | None = None, min_size: int | None = None) -> ClusterReport:
    """Takes the last edit back; the arguments and errors are those of `edit`."""
    with _opened(output) as old:
        if not old.edits:
            raise UsageError("there is nothing to undo", "--rename, --merge and --split can be undone")
        last = old.edits[-1]
        # what has joined the edited clusters since then has no earlier name
        before = {face: "" if name in last.after else name for face, name in old.name_of.items()}
        before |= {face: name for name, faces in last.before.items() for face in faces}
        new = _redrawn(output, old, old.edits[:-1], before, _drawn(output, old), threshold, min_size)
        new.write(output / STATE)
    return ClusterReport("cluster", output, skipped=len(new.name_of), state=new, edit=f"undone: {last.edit}")


def names(output: Path) -> list[str]:
    """The clusters that there are; none where the folder is none of `cluster`."""
    return list(State.read(output / STATE).clusters) if (output / STATE).exists() else []


def forget(output: Path, name: str) -> list[str]:
    """Erases a person's cluster, its faces and vectors, and what was decided about them, also under earlier names.

    The photos count as searched: as long as there are others, these faces come back with ``--force`` only.

    Returns:
        The photos that the faces came from; they are the user's, and stay.

    Raises:
        UsageError: no such cluster.
        ArtifactError: there are no clusters.
    """
    with _opened(output) as state:
        state.require(name)
        drawn = _drawn(output, state)
        theirs = set(state.members(name))
        gone = state.clusters.pop(name)
        called = {n for e in state.edits for part in (e.before, e.after) for n in part if theirs & {*part[n]}}
        called = {name, *(n for n in called - state.clusters.keys() if not NUMBERED.fullmatch(n))}
        state.edits = [rest for edit in state.edits if (rest := _without(edit, called, theirs)).after]
        crops = {found.crop for found in gone}
        for crop in crops:
            remove(output / FACES / crop)
        with Manifest(output) as manifest:
            for record in list(read_manifest(output)):
                kept = [o for o in record.outputs if Path(o["path"]).name not in crops]
                if len(kept) < len(record.outputs):
                    manifest.write(replace(record, outputs=kept))
        vectors = load_embeddings(output / VECTORS)
        keep = np.array([Path(source).name not in crops for source in vectors.sources.tolist()], bool)
        save_embeddings(output / VECTORS, vectors[keep])
        _show(output, state, drawn)
        state.write(output / STATE)
        if not state.clusters and not state.noise:  # the folder may hold more than is ours
            for ours in (FACES, VECTORS, STATE, SHEET, MANIFEST):
                remove(output / ours)
    if not state.clusters and not state.noise:
        for lock in (STATE, VECTORS):
            remove(output / f".{lock}.lock")
        if not any(output.iterdir()):
            output.rmdir()
    return sorted({found.photo for found in gone})


def _without(edit: Edit, names: set[str], faces: set[str]) -> Edit:
    """An edit without a person, whatever they were called; one that was about them says no more what it was."""
    before, after = (
        {n: rest for n, of_n in part.items() if n not in names and (rest := [f for f in of_n if f not in faces])}
        for part in (edit.before, edit.after)
    )
    return edit if (before, after) == (edit.before, edit.after) else Edit("of somebody forgotten", before, after)


@contextlib.contextmanager
def _opened(output: Path) -> Iterator[State]:
    """The clusters that there are; other writers wait."""
    if not (output / STATE).exists():
        State.read(output / STATE)  # says so, and leaves no folder behind
    with locked(output / STATE):
        yield State.read(output / STATE)


def _redrawn(
    output: Path,
    old: State,
    edits: list[Edit],
    before: dict[str, str],
    drawn: Set[Path],
    threshold: float | None,
    min_size: int | None,
) -> State:
    new = State(
        old.source,
        old.threshold if threshold is None else threshold,
        old.min_size if min_size is None else min_size,
        edits=edits,
    )
    _regroup(output, new, before)
    _show(output, new, drawn)
    return new


def rename(state: State, old: str, new: str) -> Edit:
    """Gives a cluster a name."""
    state.require(old)
    new = canonical(new)
    check_name(new)
    for other in state.clusters:
        if folded(other) == folded(new) and other != old:
            raise UsageError(
                f"there is a {other} already", f"if they are one person: --merge {shlex.join([other, old])}"
            )
    return Edit(f"--rename {old} {new}", {}, {new: state.members(old)})


def merge(state: State, names: Sequence[str]) -> Edit:
    """Makes clusters one, under the name of the first."""
    if len(set(names)) < 2:
        raise UsageError("--merge takes two clusters or more", "the first one's name is kept")
    for name in names:
        state.require(name)
    faces = sorted({face for name in names for face in state.members(name)})
    return Edit(f"--merge {' '.join(names)}", {}, {names[0]: faces})


def split(output: Path, state: State, name: str, crops: Sequence[str]) -> Edit:
    """Moves faces (file names in the cluster's folder) to a cluster of their own; by default what was joined last."""
    if name != NOISE:
        state.require(name)
    inside = state.noise if name == NOISE else state.clusters[name]
    asked = {Path(crop).name.removesuffix(".png") for crop in crops}
    if missing := asked - {f.crop.removesuffix(".png") for f in inside}:
        raise UsageError(f"there is no {missing.pop()} in {name}", f"give the names of pictures in {output / name}/")
    if asked:
        moved = {f.face for f in inside if f.crop.removesuffix(".png") in asked}
    elif name == NOISE:
        raise UsageError(f"{NOISE} is not a person", f"give the faces that are one: --split {NOISE} FACE FACE")
    else:
        vector = _vectors(output)
        faces = sorted({f.face for f in inside})
        away = halves(np.stack([vector[f] for f in faces])) if len(faces) > 1 else np.ones(1, bool)
        moved = {face for face, goes in zip(faces, away, strict=True) if goes}
    after = {f"person_{_next_number(state.used):03d}": sorted(moved)}
    if name != NOISE:
        if moved == {f.face for f in inside}:
            raise UsageError(f"nothing would be left of {name}", "give fewer faces")
        after[name] = sorted(set(state.members(name)) - moved)
    return Edit(" ".join(["--split", name, *sorted(asked)]), {}, after)


def _vectors(output: Path) -> dict[str, npt.NDArray[np.float32]]:
    embeddings = load_embeddings(output / VECTORS)
    return {d[:32]: v for d, v in zip(embeddings.digests.tolist(), embeddings.vectors, strict=True)}


def _regroup(output: Path, state: State, before: dict[str, str]) -> None:
    """Fills in the clusters and the noise.

    Args:
        output: with the faces and their vectors.
        state: with the edits.
        before: face → the cluster that it was in.
    """
    if not (output / VECTORS).exists():
        raise ArtifactError(f"{output / VECTORS} is missing", "run `facerec cluster FOLDER` again")
    embeddings = load_embeddings(output / VECTORS)
    if len(embeddings) > MAX_FACES:
        raise DataError(
            f"{len(embeddings)} faces are more than the {MAX_FACES} that fit into memory",
            "take larger faces only (--min-face, --faces largest), or a part of the photos",
        )
    made = {o["path"]: (record.input, o["box"]) for record in read_manifest(output) for o in record.outputs}
    rows = [i for i, path in enumerate(embeddings.sources.tolist()) if path in made]
    vectors = embeddings.vectors[rows]
    faces = []
    for i in rows:
        path = str(embeddings.sources[i])
        faces.append(Found(str(embeddings.digests[i])[:32], Path(path).name, *made[path]))
    fixed = np.array([state.fixed.get(f.face, "") for f in faces])
    earlier = np.array([before.get(f.face, "") for f in faces])
    # a face that nobody would be named by is nobody's, unless the user says whose: such faces resemble one another
    told = (embeddings.quality[rows] != 0) | (fixed != "")
    groups = {name: i for i, name in enumerate(sorted({*fixed.tolist()} - {""}))}
    number = np.array([groups.get(name, -1) for name in fixed[told].tolist()], np.intp)
    labels = group(vectors[told], state.threshold, number)
    names = np.full(len(faces), NOISE, object)
    names[told] = name_clusters(labels, fixed[told].tolist(), earlier[told].tolist(), state.min_size, state.used)
    for name in sorted(set(names.tolist()), key=lambda name: (-(names == name).sum(), natural_key(name))):
        mine = np.flatnonzero(names == name)
        near = vectors[mine] @ vectors[mine].mean(axis=0)
        ordered = [faces[i] for i in mine[np.argsort(-near, kind="stable")]]
        if name == NOISE:
            state.noise = sorted(ordered, key=lambda f: natural_key(f.crop))
        else:
            state.clusters[name] = ordered


def _drawn(output: Path, state: State) -> set[Path]:
    """Where faces are shown: as the state says, and wherever a run that was killed, or the user, has put copies."""
    folders = (p for p in output.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    copies = {path for folder in folders for path in folder.iterdir() if _same(path, output / FACES / path.name)}
    return copies | state.places(output)


def _show(output: Path, state: State, drawn: Set[Path]) -> None:
    """Makes the folders and the contact sheet what the state says; removes no file but those that are `drawn`."""
    wanted = {place: output / FACES / place.name for place in state.places(output)}
    for path in drawn - wanted.keys():
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in drawn}:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    for path, crop in wanted.items():
        if not path.exists() or not filecmp.cmp(crop, path, shallow=False):
            write_bytes(path, crop.read_bytes())
    if wanted:
        write_image(output / SHEET, _sheet(output, state))


def _same(path: Path, crop: Path) -> bool:
    return path.is_file() and crop.is_file() and filecmp.cmp(crop, path, shallow=False)


def _sheet(output: Path, state: State) -> npt.NDArray[np.uint8]:
    """A row a person, from the typical to the odd one out; the largest clusters first, noise last."""
    rows = [*list(state.clusters.items())[:SHEET_ROWS], *([(NOISE, state.noise)] if state.noise else [])]
    columns = min(max(len(faces) for _, faces in rows), SHEET_COLUMNS)
    blank = np.full((8, 8, 3), 255, np.uint8)
    mine = set(state.fixed.values())
    tiles = []
    for name, faces in rows:
        colour = ORANGE if name == NOISE else GREEN if name in mine else BLUE
        picked = np.unique(np.linspace(0, len(faces) - 1, min(columns, len(faces))).round().astype(int))
        some = f"{len(picked)} of " if len(picked) < len(faces) else ""
        tiles.append((blank, f"{name}: {some}{len(faces)}", colour))
        tiles += [(read_image(output / FACES / faces[i].crop), Path(faces[i].crop).stem, colour) for i in picked]
        tiles += [(blank, "", WHITE)] * (columns - len(picked))
    total = sum(len(faces) for faces in state.clusters.values())
    shown = f", the {SHEET_ROWS} largest" if len(state.clusters) > SHEET_ROWS else ""
    title = f"{len(state.clusters)} people, {total} faces{shown} (green: named or edited, orange: nobody)"
    return contact_sheet(tiles, columns + 1, 110, 110, title)
