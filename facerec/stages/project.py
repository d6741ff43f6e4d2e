"""A project: the folder that raw_images/, processed/, embeddings/, classifiers/ and evaluation/ stand in.

Nothing is believed about where things are: every manifest and every array file below it is looked into.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facerec.artifacts import load_embeddings, npz_kind, remove
from facerec.classify import Classifier
from facerec.errors import ArtifactError
from facerec.galleries import Database, Where, open_database
from facerec.galleries import file as galleries
from facerec.galleries.people import SPLITS
from facerec.images import is_image
from facerec.manifests import MANIFEST, Manifest, read_manifest
from facerec.paths import GALLERY, TEMPORARY
from facerec.stages import cluster as clusters
from facerec.video import is_video

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
        walked = {real_path(self.root)}
        while tops:
            for top, folders, files in os.walk(tops.pop(), onerror=lambda error: shut.append(Path(error.filename))):
                folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "lost+found")
                for link in (Path(top) / f for f in folders if (Path(top) / f).is_symlink()):
                    if real_path(link) not in walked and self._is_part(link):
                        walked.add(real_path(link))
                        tops.append(link)
                for file in sorted(files):
                    seen.add(real_path(Path(top) / file))
                    yield Path(top) / file
        outside = [self.gallery, *self.gallery.with_suffix("").rglob("*")]
        yield from (p for p in outside if p.is_file() and real_path(p) not in seen)
        yield from shut

    def _is_part(self, link: Path) -> bool:
        """Whether a link to a folder elsewhere leads to work of the project's own: not to all of a disk, say."""
        root, real = real_path(self.root), real_path(link)
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
        return not real_path(path.parent).is_relative_to(real_path(self.root))

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

    def sweep(self) -> None:
        """Removes what runs that were killed left half-written, where no stage is at work; `live` may be recording."""
        for manifest in list(self.manifests()):
            if manifest.path.name == MANIFEST:
                manifest.sweep()
        for path in list(self.walk()):
            if path.name.startswith(TEMPORARY) and path.suffix != ".mp4":
                remove(path)

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
        people = [folder for spelling in spellings(name) for folder in self.people_folders(spelling)]
        for folder in {f for f in people if f.is_dir()}:
            found += [p.resolve() for p in (folder, *folder.rglob("*")) if p.is_symlink() and p.exists()]
            found += [folder.resolve()] if self.stays(folder) else []
        for manifest in self.manifests():
            inputs = (r.input for r in read_manifest(manifest.folder, manifest.path.name) if r.label in spellings(name))
            videos = (manifest.folder.parent / i for i in inputs if is_video(Path(i)))
            found += [v.resolve() for v in videos if v.exists() and (v.is_symlink() or self.is_elsewhere(v))]
        found += [v.resolve() for s in spellings(name) for v in self.videos_called(s) if self.is_elsewhere(v)]
        return sorted(set(found))

    def videos_called(self, name: str) -> list[Path]:
        """videos/NAME.mp4 …, whether or not frames were taken from them."""
        return [p for p in (self.root / "videos").glob("*") if is_video(p) and p.stem == name]

    def people_folders(self, name: str) -> Iterator[Path]:
        """Folders of a person: videos/NAME, raw_images/NAME, raw_images/train/NAME, processed/train/NAME …; what is in
        them counts, also where no stage has noted it (yet, or because it was killed)."""
        if not _is_inside(name):
            return
        split = (f"{top}/{split}" for top in ("raw_images", "processed") for split in SPLITS)
        galleries = {self.gallery, *(path for path, kind in self.arrays() if kind == "embeddings")}
        places = [self.root / top for top in ("videos", "raw_images", *split)]
        places += [path.with_suffix("") for path in galleries]
        for folder in (place / name for place in places):
            if name not in SPLITS or not any(path.is_dir() for path in folder.glob("*")):  # else it is many people's
                yield folder
        for gallery in galleries:
            if gallery.is_file():  # what was exported keeps the folders that it was enrolled in
                tops = {source.partition("/")[0] for source in load_embeddings(gallery).sources.tolist()}
                yield from (gallery.parent / top / name for top in tops if _is_inside(top))

    def traces(self, name: str, linked: Sequence[Path] = ()) -> list[str]:
        """Files that still name a person, in their path or their content, or cannot be read; as `shown`.

        Those in `linked` folders are left out.
        """
        own = spellings(name)
        known = {label for path, kind in self.arrays() for labels in labels_of(path, kind) for label in labels}
        known |= {r.label for m in self.manifests() for r in read_manifest(m.folder, m.path.name)}
        longer = sorted((k for k in known for s in own if s in k and k not in own), key=len, reverse=True)
        left = {}
        for path in self.unreadable():
            left[path] = f"{self.shown(path)} (cannot be read)"
        for path in self.walk():
            if path in left or any(real_path(path).is_relative_to(place) for place in linked):
                continue
            if any(mentions(path, spelling, longer) for spelling in own):
                left[path] = self.shown(path)
        return list(left.values())

    def shown(self, path: Path) -> str:
        """A path below the root as such, any other in full."""
        try:
            return real_path(path).relative_to(real_path(self.root)).as_posix()
        except ValueError:
            return str(path)


def spellings(name: str) -> list[str]:
    """The ways in which a name may be written: ë is one character, or two as macOS writes it in folders."""
    return sorted({name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))})


def labels_of(path: Path, kind: str) -> tuple[list[str], list[str]]:
    """Labels of the rows and of the failures of a file."""
    photos = load_embeddings(path) if kind == "embeddings" else Classifier.load(path).photos
    return photos.labels.tolist(), [f.label for f in photos.failures]


def mentions(path: Path, name: str, longer: Sequence[str] = ()) -> bool:
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
        data = _written(path)
    except OSError:
        return False
    if _wide(name) in data:
        rest = data
        for other in longer:
            rest = rest.replace(_wide(other), b"")
        if _wide(name) in rest:
            return True
    return any(os.fsencode(form) in data for form in _forms(name)) and has(data.decode("utf-8", "surrogateescape"))


def _is_inside(name: str) -> bool:
    """Whether a name is that of a folder inside another: a label in somebody's file may be /, or a way out."""
    return Path(name).name == name and name not in ("", "..")


def real_path(path: Path) -> Path:
    """Where links lead to; a loop of links to itself."""
    return Path(os.path.realpath(path))


def _is_manifest(path: Path) -> bool:
    return path.name == MANIFEST or path.name.endswith(f".{MANIFEST}")


def _written(path: Path) -> bytes:
    """A file's content; of arrays without the numbers, whose bytes spell short names by chance."""
    if not npz_kind(path):
        return path.read_bytes()
    with np.load(path, allow_pickle=False) as arrays:
        return b"\0".join(a.tobytes() for a in map(arrays.get, arrays) if a.dtype.kind != "f")


def _wide(name: str) -> bytes:
    """As in NumPy's arrays of strings."""
    return name.encode("utf-32-le", "surrogatepass")


def _forms(name: str) -> set[str]:
    """How a name stands in text, HTML and JSON."""
    return {name, html.escape(name), json.dumps(name)[1:-1]}
