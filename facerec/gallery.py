"""A gallery on disk: labelled unit vectors that people are added to, renamed in and removed from.

It is the same .npz that ``facerec embed`` writes. Writers wait for one another, and each reads what the one
before it wrote; a crash leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from facerec.artifacts import load_embeddings, make_folder, save_embeddings
from facerec.errors import ArtifactError, DataError
from facerec.types import Embeddings, Space

WAIT = 60.0  # seconds that a writer waits for another one

Pairs = tuple[tuple[str, str], ...]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other writers of a file away.

    Raises:
        ArtifactError: another writer did not finish within a minute.
    """
    make_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise ArtifactError(f"another facerec has been writing {path} for a minute", "try again later") from None
    try:
        yield
    finally:
        lock.release()


def index_path(path: Path) -> Path:
    """Where the index of a gallery is kept (`facerec.search.Index`)."""
    return path.with_name(f".{path.stem}.index.npz")


def empty(space: Space, dim: int) -> Embeddings:
    """A gallery without anybody."""
    none = np.empty(0, "U1")
    return Embeddings(np.empty((0, dim), np.float32), none, none, none, none, space)


def add(path: Path, rows: Embeddings) -> Embeddings:
    """Adds rows to a gallery, making it where there is none; photos that it holds under that name stay single.

    Returns:
        The gallery as it is now.

    Raises:
        ArtifactError: the file is damaged, or cannot be written.
        SpaceError: it holds vectors of another space.
    """
    with locked(path):
        gallery = load_embeddings(path) if path.exists() else empty(rows.space, rows.vectors.shape[1])
        gallery.require_space(rows.space, str(path))
        same = np.isin(gallery.labels, np.unique(rows.labels))  # few: the others' digests need not be looked at
        known = set(zip(gallery.labels[same].tolist(), gallery.digests[same].tolist(), strict=True))
        keys = zip(rows.labels.tolist(), rows.digests.tolist(), strict=True)
        gallery = gallery + rows[np.array([key not in known for key in keys], bool)]
        save_embeddings(path, gallery)
    return gallery


@dataclass
class Edit:
    """Rows of a file; what stands in `rows` at the end is written."""

    rows: Embeddings


@contextlib.contextmanager
def edited(path: Path) -> Iterator[Edit]:
    """Reads a file, lets its rows be changed, and writes it, while other writers wait.

    Raises:
        ArtifactError: missing, damaged, or it cannot be written.
    """
    with locked(path):
        edit = Edit(load_embeddings(path))
        yield edit
        save_embeddings(path, edit.rows)


def without(rows: Embeddings, name: str) -> Embeddings:
    """Everybody but one person; strings become as short as the rest allows, so that not even a length is left."""
    rest = rows[rows.labels != name]
    arrays: dict[str, Any] = {f: np.array(getattr(rest, f).tolist(), np.str_) for f in ("labels", "sources", "splits")}
    failures = tuple(f for f in rows.failures if f.label != name)
    return replace(rest, **arrays, failures=failures, lookalikes=tuple(p for p in rows.lookalikes if name not in p))


def forget(path: Path, name: str) -> None:
    """Removes a person from a file.

    Raises:
        ArtifactError: missing, damaged, or it cannot be written.
    """
    with edited(path) as edit:
        edit.rows = without(edit.rows, name)
        index_path(path).unlink(missing_ok=True)  # its centres were means of these photos too


def lookalikes_renamed(pairs: Pairs, old: str, new: str) -> Pairs:
    """Declared pairs when a person gets another name; a pair that becomes one person is none."""
    named = (tuple(sorted(new if name == old else name for name in pair)) for pair in pairs)
    return tuple(sorted({(a, b) for a, b in named if a != b}))


def tell_apart(path: Path, first: str, second: str, *, withdraw: bool = False) -> Embeddings:
    """Declares that two people who look alike are two, or withdraws it; returns the gallery as it is now.

    Raises:
        ArtifactError: no such file.
        DataError: nobody of one of the names, the same name twice, or a pair to withdraw that was never declared.
    """
    with edited(path) as edit:
        pair = (min(first, second), max(first, second))
        pairs = set(edit.rows.lookalikes)
        if withdraw:
            if pair not in pairs:
                declared = ", ".join(f"{a} and {b}" for a, b in sorted(pairs))
                raise DataError(
                    f"{first} and {second} are not declared look-alikes", f"declared: {declared or 'nobody'}"
                )
            pairs.remove(pair)
        else:
            for name in pair:
                require_person(edit.rows, name, path)
            if first == second:
                raise DataError(f"{first} is one name", "look-alikes are two people")
            pairs.add(pair)
        edit.rows = replace(edit.rows, lookalikes=tuple(sorted(pairs)))
    return edit.rows


def require_person(gallery: Embeddings, name: str, path: Path) -> np.ndarray:
    """(n,) which rows are a person's, or a `DataError` that lists who there is."""
    rows = gallery.labels == name
    if not rows.any():
        people = gallery.people
        there = ", ".join(people[:10]) + (f" and {len(people) - 10} more" if len(people) > 10 else "")
        raise DataError(f"{path} holds nobody called {name!r}", f"it holds {there or 'nobody'}")
    return rows


@dataclass(frozen=True)
class Person:
    """A line of `people`.

    Attributes:
        name: whose.
        photos: how many.
        quality: of their best photo, 0..1; None where it is not known.
        added: date of the first enrolment; empty where ``facerec embed`` made the rows.
        spread: mean distance of their photos from one another; None with one photo.
    """

    name: str
    photos: int
    quality: float | None
    added: str
    spread: float | None


def people(gallery: Embeddings) -> list[Person]:
    """Who is in a gallery, in the order of their names."""
    found = []
    for name in gallery.people:
        mine = gallery[gallery.labels == name]
        known = mine.quality[~np.isnan(mine.quality)]
        n = len(mine)
        # of unit vectors: the mean of all cosines is the square of the mean vector's length
        cosine = float((mine.vectors.mean(axis=0) ** 2).sum()) * n * n
        spread = float(np.sqrt(max(2 - 2 * (cosine - n) / (n * (n - 1)), 0))) if n > 1 else None
        dates = sorted(d for d in mine.added.tolist() if d)
        found.append(Person(name, n, float(known.max()) if len(known) else None, dates[0] if dates else "", spread))
    return found
