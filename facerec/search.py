"""Who in a gallery is closest to a face: exactly, in one pass over the vectors, or among those that an index proposes.

An exact query takes the time to read the vectors and little more; what it holds beside them is small.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from facerec.artifacts import read_npz, write_npz
from facerec.errors import ArtifactError, UsageError
from facerec.types import FloatArray, StrArray

ENOUGH = 100_000  # vectors up to which an exact search takes a few milliseconds: no index
VOTERS = 5  # closest photos that vote
COSINES = 1 << 24  # held at a time, of a batch of probes: 64 MB
TIE = 1e-6  # cosines that are no further apart may be one distance
BLOCK = 1 << 16  # vectors that are put into an index at a time
PROPOSED = 32  # photos that an index proposes
PROBED = 0.06  # share of its lists that it reads for them
SAMPLE = 30  # vectors a list that its centre is learnt from

log = logging.getLogger("facerec")

Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Seen:
    """What one probe sees: its cosines with all photos of all people, or of some.

    Attributes:
        cosines: (r,) float32.
        owner: (r,) whose each photo is: a row of `people`.
        people: (p,) ascending, numbers of `Search.people`.
        lengths: (p,) of the sum of each one's photos.
    """

    cosines: FloatArray
    owner: Numbers
    people: Numbers
    lengths: FloatArray

    def _top(self, k: int) -> Numbers:
        """Rows of the k closest photos and of some more, among them all that may be as close as the last."""
        m = len(self.cosines)
        if k >= m:
            return np.arange(m)
        width = max(m // (64 * k), 1)  # the best of stretches are some of all: the k-th best of them is no better
        peaks = self.cosines[: m - m % width].reshape(-1, width).max(axis=1)
        least = np.partition(peaks, len(peaks) - k)[len(peaks) - k]
        return np.flatnonzero(self.cosines >= min(least, 1) - TIE)

    def closest(self, k: int) -> tuple[Numbers, FloatArray]:
        """Up to k people and the distances of their closest photos; closest first, equal ones by name."""
        photos = 8 * k
        while True:
            rows = self._top(photos)
            found, whose = np.unique(self.owner[rows], return_inverse=True)
            if len(found) >= k or len(rows) == len(self.cosines):
                break
            photos *= 8  # somebody has many
        best = np.full(len(found), -1, np.float32)
        np.maximum.at(best, whose, self.cosines[rows])
        apart = _apart(best)
        order = np.argsort(apart, kind="stable")[:k]
        return self.people[found[order]], apart[order]

    def distance(self, person: int) -> np.float32:
        """Of the closest photo of a person who is seen."""
        return _apart(self.cosines[self.owner == np.searchsorted(self.people, person)]).min()

    def winner(self, kind: str) -> int:
        """Whom `facerec.classify.Neighbours` ("knn") or `Prototypes` ("nearest") would choose."""
        if kind == "knn":
            rows = self._top(VOTERS)
            apart = _apart(self.cosines[rows])
            voters = np.argsort(apart, kind="stable")[:VOTERS]
            return int(self.people[np.bincount(self.owner[rows[voters]], votes(apart[voters])).argmax()])
        # cosines with photos add up to that with their mean: prototypes need no pass of their own
        return int(self.people[(np.bincount(self.owner, self.cosines) / self.lengths).argmax()])


def votes(apart: FloatArray) -> FloatArray:
    """Weights of the closest photos from their distances (…, k): 1 for the closest, falling to 0 for the last.

    Dudani, "The distance-weighted k-nearest-neighbor rule", IEEE Trans. SMC 1976. Weights of 1 / distance would let a
    few strangers, who are all about as far away, outvote the one photo of the right person: see docs/choices.md.
    """
    near, far = apart.min(axis=-1, keepdims=True), apart.max(axis=-1, keepdims=True)
    return np.divide(far - apart, far - near, out=np.ones_like(apart), where=far > near)


class Searchable(Protocol):
    """A gallery to search.

    Attributes:
        people: their sorted names.
    """

    people: list[str]

    def see(self, probes: FloatArray, people: int) -> Iterator[Seen]:
        """What each of the unit rows (n, d) sees: at least so many people, if there are."""
        ...


def _apart(cosines: FloatArray) -> FloatArray:
    """Distances of unit vectors, as `facerec.metrics.distances` has them."""
    return np.sqrt(np.maximum(2 - 2 * cosines, 0))


class Search:
    """A gallery to search. Keeps the vectors themselves, not a copy.

    Args:
        vectors: (m, d) float32 unit rows, m at least one.
        labels: (m,) whose they are.
        index: proposes photos; None to look at all.

    Attributes:
        people: their sorted names.
    """

    def __init__(self, vectors: FloatArray, labels: StrArray, index: Index | None = None) -> None:
        names = labels.tolist()
        self.people: list[str] = sorted(set(names))
        number = {name: i for i, name in enumerate(self.people)}
        self._vectors = vectors
        self._index = index
        self._owner = np.fromiter((number[name] for name in names), np.int32, len(names))
        self._everybody = np.arange(len(self.people), dtype=np.int32)
        self._rows = np.argsort(self._owner, kind="stable")  # person by person
        self._starts = np.append(0, np.cumsum(np.bincount(self._owner)))
        self._lengths = self._measure()

    def _measure(self) -> FloatArray:
        """(people,) lengths of the sums of their vectors."""
        lengths = []
        for start in range(0, len(self.people), 8192):
            starts = self._starts[start : start + 8193]
            rows = self._rows[starts[0] : starts[-1]]
            lengths.append(np.linalg.norm(np.add.reduceat(self._vectors[rows], starts[:-1] - starts[0]), axis=1))
        return np.concatenate(lengths) if lengths else np.empty(0, np.float32)

    def see(self, probes: FloatArray, people: int) -> Iterator[Seen]:
        """What each of the unit rows (n, d) sees: with an index at least so many people, if there are, else all."""
        batch = max(1, COSINES // len(self._vectors))
        for i in range(0, len(probes), batch):
            some = probes[i : i + batch]
            yield from self._all(some) if self._index is None else self._proposed(self._index, some, people)

    def _all(self, probes: FloatArray) -> Iterator[Seen]:
        for cosines in probes @ self._vectors.T:
            yield Seen(cosines, self._owner, self._everybody, self._lengths)

    def _proposed(self, index: Index, probes: FloatArray, people: int) -> Iterator[Seen]:
        for probe, photos in zip(probes, index.propose(probes), strict=True):
            found = np.unique(self._owner[photos])
            if len(found) < min(people, len(self.people)):  # somebody with many photos hides the others
                yield from self._all(probe[None])
                continue
            rows = np.concatenate([self._rows[self._starts[p] : self._starts[p + 1]] for p in found])
            owner = np.repeat(np.arange(len(found)), self._starts[found + 1] - self._starts[found])
            yield Seen(self._vectors[rows] @ probe, owner, found, self._lengths[found])


class Index:
    """FAISS's inverted file: vectors in lists by the closest of some centres, read are the lists around a probe.

    What is kept on disk are the centres and each vector's list, in a file of our own, for these very vectors; those
    that were added behind them find their lists by the same centres. FAISS's own format is not read: its reader
    trusts what it reads. A forged file can hide people, no more.

    Args:
        vectors: (m, d) float32 unit rows; held once more, in 8 bits a number.
        path: where the file is, or is put.

    Raises:
        UsageError: FAISS is not installed.
        ArtifactError: the file cannot be written.
    """

    def __init__(self, vectors: FloatArray, path: Path) -> None:
        try:
            import faiss
        except ImportError:
            raise UsageError(
                "an index needs FAISS, which is not installed",
                "install it with `pip install 'facerec[index]'`, or search without an index",
            ) from None
        vectors = np.ascontiguousarray(vectors)
        try:
            centres, lists = _read(path, vectors)
        except ArtifactError as error:
            log.info("an index of %d vectors is made: %s", len(vectors), error.what)
            centres, lists = _learn(vectors), np.empty(0, np.uint16)
        self._centres = faiss.IndexFlatIP(vectors.shape[1])
        self._centres.add(centres)
        if len(lists) < len(vectors):
            new = range(len(lists), len(vectors), BLOCK)
            found = [self._centres.search(vectors[i : i + BLOCK], 1)[1][:, 0].astype(np.uint16) for i in new]
            lists = np.concatenate([lists, *found])
            write_npz(path, {"kind": "index", "of": _digest(vectors)}, {"centres": centres, "lists": lists})
        kept = faiss.ScalarQuantizer.QT_8bit_direct_signed  # whole numbers, -128..127: read fastest
        product = faiss.METRIC_INNER_PRODUCT
        self._file = faiss.IndexIVFScalarQuantizer(self._centres, vectors.shape[1], len(centres), kept, product, False)
        self._file.is_trained = True  # there is nothing to learn
        self._file.nprobe = max(round(PROBED * len(centres)), 8)
        self._scale = np.float32(127 / max(vectors.max(), -vectors.min()))
        for i in range(0, len(vectors), BLOCK):
            rows = self._whole(vectors[i : i + BLOCK])
            ids, own = np.arange(i, i + len(rows)), lists[i : i + BLOCK].astype(np.int64)
            self._file.add_core(len(rows), *(faiss.swig_ptr(array) for array in (rows, ids, own)))
        log.info("an index of %d vectors in %d lists: %s", len(vectors), len(centres), path)

    def propose(self, probes: FloatArray) -> list[Numbers]:
        """For each of the unit rows (n, d) the photos that are probably closest."""
        _, found = self._file.search(self._whole(probes), PROPOSED)
        return [row[row >= 0] for row in found]

    def _whole(self, vectors: FloatArray) -> FloatArray:
        """In whole numbers; scaled alike, so that the order of products stays."""
        return np.ascontiguousarray(np.clip(np.rint(vectors * self._scale), -127, 127))


def _digest(vectors: FloatArray) -> str:
    return hashlib.sha256(vectors.data).hexdigest()


def _read(path: Path, vectors: FloatArray) -> tuple[FloatArray, Numbers]:
    """Centres (c, d) and the lists (k,) of the first k vectors, at least half; else an `ArtifactError`."""
    header, arrays = read_npz(path, "index", {"centres": ("f", 2), "lists": ("u", 1)}, "")
    centres, lists = arrays["centres"], arrays["lists"]
    if not len(vectors) / 2 <= len(lists) <= len(vectors) or header.get("of") != _digest(vectors[: len(lists)]):
        raise ArtifactError(f"{path} is of other vectors")
    fits = centres.dtype == np.float32 and centres.shape[1] == vectors.shape[1]
    if not fits or not np.isfinite(centres).all() or lists.max() >= len(centres):
        raise ArtifactError(f"{path} is damaged")
    return np.ascontiguousarray(centres), lists


def _learn(vectors: FloatArray) -> FloatArray:
    """Centres (c, d) of lists, c near 8 √m, by spherical k-means on a sample."""
    import faiss

    count = min(1 << round(np.log2(8 * np.sqrt(len(vectors)))), len(vectors))
    sampled = {"min_points_per_centroid": 1, "max_points_per_centroid": SAMPLE}
    means = faiss.Kmeans(vectors.shape[1], count, niter=5, spherical=True, seed=0, **sampled)
    means.train(vectors)
    return np.asarray(means.centroids, np.float32)
