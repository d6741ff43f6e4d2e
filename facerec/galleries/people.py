"""What holds for every gallery, wherever it is kept: who is in it, and what forgetting and renaming change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from facerec import metrics
from facerec.errors import DataError
from facerec.galleries import Gallery
from facerec.types import Embeddings, Space

SPLITS = ("train", "test", "val")
Pairs = tuple[tuple[str, str], ...]


def empty(space: Space, dim: int) -> Embeddings:
    """A gallery without anybody."""
    none = np.empty(0, "U1")
    return Embeddings(np.empty((0, dim), np.float32), none, none, none, none, space)


def without(rows: Embeddings, name: str) -> Embeddings:
    """Everybody but one person; strings become as short as the rest allows, so that not even a length is left."""
    rest = rows[rows.labels != name]
    arrays: dict[str, Any] = {f: np.array(getattr(rest, f).tolist(), np.str_) for f in ("labels", "sources", "splits")}
    failures = tuple(f for f in rows.failures if f.label != name)
    return replace(rest, **arrays, failures=failures, lookalikes=tuple(p for p in rows.lookalikes if name not in p))


def lookalikes_renamed(pairs: Pairs, old: str, new: str) -> Pairs:
    """Declared pairs when a person gets another name; a pair that becomes one person is none."""
    named = (tuple(sorted(new if name == old else name for name in pair)) for pair in pairs)
    return tuple(sorted({(a, b) for a, b in named if a != b}))


def swapped(source: str, old: str, new: str) -> str:
    """A path […/][SPLIT/]NAME/… whose person's folder has the new name; a folder of theirs may be called so too."""
    if "://" in source:
        return source  # in a store nothing is renamed
    *folders, file = PurePosixPath(source).parts or ("",)
    if old in folders:
        at = folders.index(old)
        if old in SPLITS and folders[at + 1 : at + 2] == [old]:  # a person called as their split is
            at += 1
        folders[at] = new
    return str(PurePosixPath(*folders, file))


def renamed(about: Embeddings, old: str, new: str) -> Embeddings:
    """Failures and look-alikes when a person gets another name; the rows stay as they are."""
    failures = tuple(
        replace(f, label=new, source=swapped(f.source, old, new)) if f.label == old else f for f in about.failures
    )
    return replace(about, failures=failures, lookalikes=lookalikes_renamed(about.lookalikes, old, new))


def enrolled_twice(rows: Embeddings, name: str) -> np.ndarray:
    """(n,) the enrolled photos of a person that are one of their earlier ones, as when two names become one."""
    mine = np.flatnonzero((rows.labels == name) & (rows.added != ""))
    _, first = np.unique(rows.digests[mine], return_index=True)
    double = np.zeros(len(rows), bool)
    double[np.delete(mine, first)] = True
    return double


def tell_apart(gallery: Gallery, first: str, second: str, *, withdraw: bool = False) -> Pairs:
    """Declares that two people who look alike are two, or withdraws it; returns the pairs that are declared now.

    Raises:
        ArtifactError: no such gallery.
        DataError: nobody of one of the names, the same name twice, or a pair to withdraw that was never declared.
    """
    pair = (min(first, second), max(first, second))
    if not withdraw:
        for name in pair:
            if not len(gallery.of(name)):
                raise nobody(gallery, name)
        if first == second:
            raise DataError(f"{first} is one name", "look-alikes are two people")
    now: Pairs = ()

    def change(about: Embeddings) -> Embeddings:
        nonlocal now
        pairs = set(about.lookalikes)
        if withdraw and pair not in pairs:
            declared = ", ".join(f"{a} and {b}" for a, b in sorted(pairs))
            raise DataError(f"{first} and {second} are not declared look-alikes", f"declared: {declared or 'nobody'}")
        now = tuple(sorted(pairs - {pair} if withdraw else pairs | {pair}))
        return replace(about, lookalikes=now)

    gallery.edit(change)
    return now


def nobody(gallery: Gallery, name: str) -> DataError:
    """The error that nobody is called so, with who there is."""
    people = gallery.load().people
    there = ", ".join(people[:10]) + (f" and {len(people) - 10} more" if len(people) > 10 else "")
    return DataError(f"{gallery} holds nobody called {name!r}", f"it holds {there or 'nobody'}")


@dataclass(frozen=True)
class Person:
    """A line of `people`.

    Attributes:
        name: whose.
        photos: how many.
        quality: of their best photo, 0..1; None where it is not known.
        added: date of the first enrolment; empty where ``facerec embed`` made the rows.
        spread: root mean square distance of their photos from one another; None with one photo.
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
        spread = metrics.spread(mine.vectors) if n > 1 else None
        dates = sorted(d for d in mine.added.tolist() if d)
        found.append(Person(name, n, float(known.max()) if len(known) else None, dates[0] if dates else "", spread))
    return found
