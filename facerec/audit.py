"""Which labels look wrong: names that are one person, names that hold two, photos that fit another person better.

Pure functions on labelled vectors. All limits start from the gate's threshold, up to which two photos pass for one
person, and keep away from it by `CLEARLY`; how often they are right is in docs/choices.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facerec import metrics
from facerec.quality import TO_ENROLL, Quality
from facerec.types import Embeddings, FloatArray

CLEARLY = 0.1
"""By how much a distance must be on the other side before a label is doubted."""
DUPLICATE = 0.24
"""Distance up to which two crops are one picture, perhaps scaled or compressed again."""
GOOD = Quality(TO_ENROLL.size, TO_ENROLL.sharpness, 1.0).score
"""Quality of a face that is just large and sharp enough to be enrolled."""
LARGEST = 2000  # photos of a person that are clustered; of more, every k-th
CHUNK = 1024

KINDS = ("same person?", "two people?", "mislabelled?", "near-duplicate", "needs photos")

Rows = npt.NDArray[np.intp]
Close = npt.NDArray[np.bool_]
"""(people, people): who is too alike to tell whose a photo is; everybody to themselves."""


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: one of `KINDS`.
        people: whom it concerns; for a mislabelled photo its label first, then whom it looks like.
        photos: rows of the embeddings in groups that are to be compared, the most telling ones first.
        distance: between the groups; for a mislabelled photo to whom it looks like; None for "needs photos".
        text: what was found.
        advice: what to do.
    """

    kind: str
    people: tuple[str, ...]
    photos: tuple[tuple[int, ...], ...]
    distance: float | None
    text: str
    advice: str

    def to_json(self, embeddings: Embeddings) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "people": list(self.people),
            "photos": [[str(embeddings.sources[i]) for i in group] for group in self.photos],
            "distance": None if self.distance is None else round(self.distance, 4),
            "text": self.text,
            "advice": self.advice,
        }


def audit(embeddings: Embeddings, threshold: float, photos: int) -> list[Finding]:
    """All findings, by kind, the worst of each kind first.

    Args:
        embeddings: of both splits; declared look-alikes are not taken for one person.
        threshold: the gate's.
        photos: good ones that a person should have.
    """
    if len(embeddings) == 0:
        return []
    people, owner = np.unique(embeddings.labels, return_inverse=True)
    apart = between_people(embeddings.vectors, owner)
    close = apart <= threshold - CLEARLY
    np.fill_diagonal(close, True)
    wrong = mislabelled(embeddings.vectors, owner, close, threshold)
    right = np.ones(len(owner), bool)
    right[list(wrong)] = False
    keeper = duplicates(embeddings.vectors, embeddings.quality)
    names = people.tolist()
    return [
        *_same(embeddings, names, owner, apart, close),
        *_two(embeddings, names, owner, right, threshold),
        *_mislabelled(embeddings, names, owner, wrong),
        *_duplicates(embeddings, keeper),
        *_needing(embeddings, names, owner, right, keeper, photos),
    ]


# --- what is found -------------------------------------------------------------------------------


def between_people(vectors: FloatArray, owner: Rows) -> metrics.Distances:
    """Root mean square distance (people, people) of two people's photos, from unit rows (n, d) and owners 0…"""
    sums = _sums(vectors, owner)
    photos = np.bincount(owner)
    return np.sqrt(np.maximum(2 - 2 * (sums @ sums.T) / np.outer(photos, photos), 0))


def mislabelled(
    vectors: FloatArray, owner: Rows, close: Close, threshold: float
) -> dict[int, tuple[int, float, float]]:
    """Photos that fit another person better than their own.

    A photo is compared with prototypes (the mean of a person's vectors, scaled to length 1), its own person's without
    itself. The worst of each person is taken away, then all are compared again: a wrong photo pulls the prototype of
    its name towards somebody else, whose photos would look wrong too.

    Args:
        vectors: (n, d) unit rows.
        owner: (n,) their person, 0….
        close: other people that are not considered.
        threshold: distance up to which a photo may be another person's.

    Returns:
        Row → (the other person, distance to the own prototype, distance to the other's). A person keeps one photo.
    """
    found: dict[int, tuple[int, float, float]] = {}
    left = np.arange(len(owner))
    while True:
        x, own = vectors[left], owner[left]
        sums = _sums(x, own, len(close))
        photos = np.bincount(own, minlength=len(close))
        other, apart = _closest_other(x, own, _unit(sums), close)
        home = metrics.distance(x, _unit(sums[own] - x))
        lead = np.where((photos[own] > 1) & (apart <= threshold), home - apart, -np.inf)
        order = np.argsort(-lead, kind="stable")
        worst = order[np.unique(own[order], return_index=True)[1]]
        worst = worst[lead[worst] > CLEARLY]
        if not len(worst):
            return found
        found |= {int(left[i]): (int(other[i]), float(home[i]), float(apart[i])) for i in worst}
        left = np.delete(left, worst)


def duplicates(vectors: FloatArray, quality: FloatArray, limit: float = DUPLICATE) -> Rows:
    """Row → the best photo (n,) that is practically the same picture; itself where there is no better one.

    Each is near the photo that stands for it, not just near another copy: the frames of a video are not all one
    picture because each is like the next.
    """
    keeper = np.full(len(vectors), -1)
    order = np.argsort(-np.nan_to_num(quality), kind="stable")
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        for i, near in zip(rows, metrics.distances(vectors[rows], vectors) <= limit, strict=True):
            if keeper[i] < 0:
                keeper[near & (keeper < 0)] = i
                keeper[i] = i
    return keeper


def two_groups(vectors: FloatArray) -> tuple[Close, float]:
    """The two groups (n,) that average linkage joins last, and their mean distance; n of 2 or more."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    tree = linkage(vectors, "average")
    return cut_tree(tree, 2)[:, 0] == 0, float(tree[-1, 2])


def _sums(vectors: FloatArray, owner: Rows, people: int | None = None) -> FloatArray:
    sums = np.zeros((int(owner.max()) + 1 if people is None else people, vectors.shape[1]), np.float32)
    np.add.at(sums, owner, vectors)
    return sums


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _closest_other(
    vectors: FloatArray, owner: Rows, prototypes: FloatArray, close: Close
) -> tuple[Rows, metrics.Distances]:
    """The closest prototype of those who are not too alike, and its distance; infinity where there is none."""
    other, apart = np.empty(len(vectors), np.intp), np.empty(len(vectors))
    for start in range(0, len(vectors), CHUNK):
        rows = slice(start, start + CHUNK)
        each = np.where(close[owner[rows]], np.inf, metrics.distances(vectors[rows], prototypes))
        other[rows], apart[rows] = each.argmin(axis=1), each.min(axis=1)
    return other, apart


# --- in words ------------------------------------------------------------------------------------


def _nearest_first(vectors: FloatArray, rows: Rows, others: Rows) -> tuple[int, ...]:
    """Rows in the order of their distance to the mean of others."""
    return tuple(rows[np.argsort(-(vectors[rows] @ vectors[others].mean(axis=0)), kind="stable")].tolist())


def _same(e: Embeddings, names: list[str], owner: Rows, apart: metrics.Distances, close: Close) -> list[Finding]:
    found = []
    for a, b in zip(*np.nonzero(np.triu(close, 1)), strict=True):
        if (names[a], names[b]) in e.lookalikes:
            continue
        first, second = np.flatnonzero(owner == a), np.flatnonzero(owner == b)
        groups = _nearest_first(e.vectors, first, second), _nearest_first(e.vectors, second, first)
        within = [
            f"{metrics.spread(e.vectors[rows]):.2f} in {names[p]}'s"
            for p, rows in ((a, first), (b, second))
            if len(rows) > 1
        ]
        text = f"{names[a]} and {names[b]} look like one person: {apart[a, b]:.2f} between their photos"
        text += f" ({', '.join(within)} own)" if within else ""
        advice = "give both one name if they are; if not, declare it with --lookalikes"
        found.append(Finding(KINDS[0], (names[a], names[b]), groups, float(apart[a, b]), text, advice))
    return sorted(found, key=lambda f: f.distance or 0)


def _two(e: Embeddings, names: list[str], owner: Rows, right: Close, threshold: float) -> list[Finding]:
    found = []
    for p, name in enumerate(names):
        rows = np.flatnonzero((owner == p) & right)
        rows = rows[:: -(-len(rows) // LARGEST) or 1]
        if len(rows) < 2:
            continue
        first, apart = two_groups(e.vectors[rows])
        if apart <= threshold + CLEARLY:
            continue
        groups = sorted((rows[first], rows[~first]), key=len, reverse=True)
        text = f"{name} may hold two people: {len(groups[0])} and {len(groups[1])} photos, {apart:.2f} apart on average"
        advice = "give the one a name of their own, unless it is only the pose"
        found.append(
            Finding(KINDS[1], (name,), tuple(_nearest_first(e.vectors, g, g) for g in groups), apart, text, advice)
        )
    return sorted(found, key=lambda f: -(f.distance or 0))


def _mislabelled(
    e: Embeddings, names: list[str], owner: Rows, wrong: dict[int, tuple[int, float, float]]
) -> list[Finding]:
    found = []
    for row, (other, own, apart) in sorted(wrong.items(), key=lambda item: item[1][2] - item[1][1]):
        name, like = names[owner[row]], names[other]
        me = np.array([row])
        kin = [
            np.array([i for i in np.flatnonzero(owner == p) if i not in wrong], np.intp) for p in (owner[row], other)
        ]
        groups = ((row,), *(_nearest_first(e.vectors, rows, me) for rows in kin))
        text = f"{e.sources[row]} is called {name} ({own:.2f} away) and looks like {like} ({apart:.2f})"
        advice = f"move it to {like}, or remove it"
        found.append(Finding(KINDS[2], (name, like), groups, apart, text, advice))
    return found


def _duplicates(e: Embeddings, keeper: Rows) -> list[Finding]:
    found = []
    for best in np.unique(keeper[keeper != np.arange(len(keeper))]).tolist():
        copies = np.flatnonzero((keeper == best) & (np.arange(len(keeper)) != best))
        rows = [best, *copies.tolist()]
        apart = float(metrics.distances(e.vectors[[best]], e.vectors[copies]).max())
        people = tuple(dict.fromkeys(e.labels[rows].tolist()))
        text = f"{len(rows)} photos of {' and '.join(people)} are nearly one picture"
        text += f", within {apart:.2f} of {e.sources[best]}"
        if len(people) > 1:
            advice = "keep it under the right name only"
        elif len(set(e.splits[rows].tolist())) > 1:
            advice = "test photos that training photos repeat flatter the accuracy: keep one, or test on other days"
        else:
            advice = "keep one: the others add nothing"
        found.append(Finding(KINDS[3], people, ((best,), tuple(copies.tolist())), apart, text, advice))
    return sorted(found, key=lambda f: (-len(f.people), -len(f.photos[1])))


def _needing(e: Embeddings, names: list[str], owner: Rows, right: Close, keeper: Rows, photos: int) -> list[Finding]:
    good = right & ~(e.quality < GOOD)  # an unknown quality is no fault
    found: list[tuple[int, Finding]] = []
    for p, name in enumerate(names):
        mine = owner == p
        n = len(np.unique(keeper[mine & good]))
        if n < photos:
            text = f"{name} has {n} good photo{'' if n == 1 else 's'} of {mine.sum()}"
            advice = f"add {photos - n}: large, sharp, from another day or angle"
            rows: Sequence[int] = np.flatnonzero(mine).tolist()
            found.append((n, Finding(KINDS[4], (name,), (tuple(rows),), None, text, advice)))
    return [finding for _, finding in sorted(found, key=lambda item: item[0])]
