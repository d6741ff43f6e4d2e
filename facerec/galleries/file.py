"""A gallery on disk: the same .npz that ``facerec embed`` writes, its crops in a folder of its name beside it.

Writers wait for one another, and each reads what the one before it wrote; a crash leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from facerec.artifacts import load_embeddings, make_folder, save_embeddings, write_bytes
from facerec.errors import ArtifactError, InputError
from facerec.galleries import Crops, no_crops
from facerec.galleries.people import without
from facerec.images import path_below, read_bytes
from facerec.types import Embeddings

log = logging.getLogger("facerec")

WAIT = 60.0  # seconds that a writer waits for another one
SAY = 2.0  # seconds after which it says so


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other writers of a file away.

    Raises:
        ArtifactError: another writer did not finish within a minute.
    """
    make_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT, mode=0o600)
    try:
        try:
            lock.acquire(timeout=min(SAY, WAIT))
        except Timeout:
            log.warning("another facerec is writing %s: waiting for it", path)
            lock.acquire()
    except Timeout:
        raise ArtifactError(f"another facerec has been writing {path} for a minute", "try again later") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def held(path: Path) -> Iterator[Embeddings]:
    """A file's rows; writers wait: who is forgotten meanwhile must not come back in what is made of them.

    Raises:
        ArtifactError: missing or damaged, or another writer did not finish within a minute.
    """
    readonly = not path.exists() or not os.access(path.parent, os.W_OK)
    with contextlib.nullcontext() if readonly else locked(path):
        yield load_embeddings(path)


def index_path(path: Path) -> Path:
    """Where the index of a gallery is kept (`facerec.search.Index`)."""
    return path.with_name(f".{path.stem}.index.npz")


@contextlib.contextmanager
def dated(path: Path) -> Iterator[None]:
    """Keeps a file's date, whatever is written into it."""
    date = path.stat().st_mtime_ns
    yield
    os.utime(path, ns=(date, date))


@dataclass
class Edit:
    """Rows of a file; what stands in `rows` at the end is written."""

    rows: Embeddings


@contextlib.contextmanager
def edited(path: Path) -> Iterator[Edit]:
    """Reads a file, lets its rows be changed, and writes it, while other writers wait.

    Its date stays: which file names people is decided by who was enrolled or trained last.

    Raises:
        ArtifactError: missing, damaged, or it cannot be written.
    """
    with locked(path):
        edit = Edit(load_embeddings(path))
        yield edit
        with dated(path):
            save_embeddings(path, edit.rows)


def forget(path: Path, name: str) -> None:
    """Removes a person from a file.

    Raises:
        ArtifactError: missing, damaged, or it cannot be written.
    """
    with edited(path) as edit:
        edit.rows = without(edit.rows, name)
        index_path(path).unlink(missing_ok=True)  # its centres were means of these photos too


class FileGallery:
    """A `facerec.galleries.Gallery` in a file."""

    def __init__(self, path: Path) -> None:
        self.where = path
        self.folder = path.stem
        self._read: tuple[object, Embeddings] | None = None  # the content, and the state that it is of

    def __str__(self) -> str:
        return str(self.where)

    def exists(self) -> bool:
        return self.where.exists()

    def state(self) -> object:
        if not self.where.exists():
            return None
        found = self.where.stat()
        # the first stays where it decides who names people, and a disk gives numbers of files out again
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size

    def about(self) -> Embeddings:
        photos = self.load()
        return photos[np.zeros(len(photos), bool)]

    def load(self) -> Embeddings:
        state = self.state()
        if self._read is None or self._read[0] != state:
            self._read = state, load_embeddings(self.where)
        return self._read[1]

    def of(self, name: str) -> Embeddings:
        photos = self.load()
        return photos[photos.labels == name]

    def search(self) -> None:
        return None

    def crop(self, source: str) -> bytes | None:
        if path := path_below(source, [self.where.parent]):
            with contextlib.suppress(InputError):
                return read_bytes(path)
        return None

    def add(self, rows: Embeddings, crops: Crops = no_crops) -> int:
        with locked(self.where):
            gallery, there = rows, 0
            if self.where.exists():
                before = self.load()
                before.require_space(rows.space, str(self))
                gallery, there = before + rows[~_known(before, rows)], len(before)
            for source in rows.sources.tolist():
                if (data := crops(source)) is not None:
                    write_bytes(self._inside(source), data)
            save_embeddings(self.where, gallery)
            self._read = self.state(), gallery
            return len(gallery) - there

    def edit(self, change: Callable[[Embeddings], Embeddings]) -> None:
        with edited(self.where) as edit:
            edit.rows = change(edit.rows)

    def _inside(self, source: str) -> Path:
        """Where a crop is written; raises `ArtifactError` for a name that leads elsewhere."""
        path, folder = self.where.parent / source, self.where.parent.resolve()
        if folder not in path.resolve().parents:
            raise ArtifactError(f"the photo {source!r} would be written outside {folder}", "rename it in the gallery")
        return path


def _known(gallery: Embeddings, rows: Embeddings) -> np.ndarray:
    """(n,) which rows a gallery holds: the same photo under the same name."""
    same = np.isin(gallery.labels, np.unique(rows.labels))  # few: the others' digests need not be looked at
    known = set(zip(gallery.labels[same].tolist(), gallery.digests[same].tolist(), strict=True))
    return np.array([key in known for key in zip(rows.labels.tolist(), rows.digests.tolist(), strict=True)], bool)
