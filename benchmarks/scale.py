"""Galleries of 100,000 and 1,000,000 vectors: the exact search, the index, and their peers."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import Setting, load
from benchmarks.common import Section, Times, installed, timed
from facerec import runtime
from facerec.artifacts import save_embeddings
from facerec.classify import Classifier, PerPerson
from facerec.galleries.file import FileGallery
from facerec.search import COSINES, PROPOSED, Index, Search
from facerec.types import Crop, Embeddings, FloatArray, Gate, Space

REPEATS = 15
EACH = 5  # photos a person
SIZES = (100_000, 1_000_000)
PROBES = 400  # of each kind
TIMED = 20  # of them
GRAPH, BUILT, SEARCHED = 16, 60, 128  # links, breadth when built, breadth when searched: of HNSW
Make = Callable[[np.random.Generator, int, int], FloatArray]
"""People, photos of each → (people, each, d) unit vectors."""


class People:
    """People who do not exist, as alike as those of lfw-dev.

    Attributes:
        vectors: (n, d) of lfw-dev.
        labels: (n,) whose they are.
    """

    def __init__(self) -> None:
        photos = load(Setting())
        self.vectors, self.labels = photos.vectors[~photos.missing], photos.people[~photos.missing]
        _, owner, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        means = np.stack([self.vectors[owner == p].mean(axis=0) for p in range(len(counts))])
        several = counts[owner] > 1
        factor = np.sqrt(counts / np.maximum(counts - 1, 1))[owner, None]  # for the mean that is of the same photos
        self._deviations = ((self.vectors - means[owner]) * factor)[several].astype(np.float32)
        within = self._deviations.T @ self._deviations / several.sum()
        self._mean, self._means = means.mean(axis=0), means
        self._between = _root(np.cov(means.T) - within * (1 / counts).mean())
        self._within = _root(within)
        size = np.sqrt(((self._deviations @ np.linalg.pinv(within)) * self._deviations).sum(axis=1))
        self._size = size / np.sqrt((size**2).mean())

    def normal(self, rng: np.random.Generator, people: int, each: int) -> FloatArray:
        """Normally distributed, with lfw-dev's covariances of people and of photos around their person, these
        scaled by how far lfw-dev's photos are from their person."""
        d = len(self._mean)
        centres = (rng.standard_normal((people, d), np.float32) @ self._between + self._mean).astype(np.float32)
        photos = rng.standard_normal((people * each, d), np.float32) @ self._within
        photos *= rng.choice(self._size, people * each)[:, None]
        return _unit(photos.reshape(people, each, d) + centres[:, None])

    def mixed(self, rng: np.random.Generator, people: int, each: int) -> FloatArray:
        """Real parts: three people's means, mixed so that the covariance stays, and real photos' deviations."""
        weights = rng.standard_normal((people, 3)).astype(np.float32)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        centred = (self._means - self._mean).astype(np.float32)
        centres = self._mean + sum(w[:, None] * centred[rng.integers(0, len(centred), people)] for w in weights.T)
        photos = self._deviations[rng.integers(0, len(self._deviations), (people, each))]
        return _unit(photos + centres[:, None].astype(np.float32))

    def split(self) -> tuple[FloatArray, FloatArray]:
        """lfw-dev's people with several photos: all but one of each, and that one."""
        _, last = np.unique(self.labels[::-1], return_index=True)
        last = len(self.labels) - 1 - last
        names, counts = np.unique(self.labels, return_counts=True)
        several = np.isin(self.labels, names[counts > 1])
        held_out = np.zeros(len(self.labels), bool)
        held_out[last] = True
        return self.vectors[several & ~held_out], self.vectors[several & held_out]


def _root(covariance: npt.NDArray[np.floating]) -> FloatArray:
    """What normal rows are multiplied by to have this covariance."""
    values, axes = np.linalg.eigh(covariance)
    return ((axes * np.sqrt(np.maximum(values, 0))).T).astype(np.float32)


def _unit(rows: FloatArray) -> FloatArray:
    rows = rows.astype(np.float32, copy=False)
    rows /= np.sqrt(np.einsum("...i,...i", rows, rows))[..., None]
    return rows


def resident() -> float:
    """Memory of this process, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def alike(section: Section, people: People) -> None:
    """Distances in lfw-dev and among the people who do not exist."""
    rng = np.random.default_rng(0)
    sets = {
        "lfw-dev": (people.vectors, people.labels),
        **{
            name: (make(rng, 420, 4).reshape(-1, people.vectors.shape[1]), np.repeat(np.arange(420), 4))
            for name, make in (("normal", people.normal), ("mixed", people.mixed))
        },
    }
    rows: list[list[Any]] = []
    for name, (vectors, labels) in sets.items():
        upper = np.triu_indices(len(vectors), 1)
        apart = np.sqrt(np.maximum(2 - 2 * (vectors @ vectors.T), 0))[upper]
        same = (labels[:, None] == labels)[upper]
        genuine, impostor = apart[same], apart[~same]
        spread = [(float(d.mean()), float(d.std())) for d in (genuine, impostor)]
        rows.append([name, *spread, float(np.quantile(impostor, 1e-4))])
    section.table(
        "Distances of photos, mean ± standard deviation",
        {
            "set": "{}",
            "one person's": "{:.2f} ± {:.2f}",
            "different people's": "{:.2f} ± {:.2f}",
            "1e-4 are below": "{:.2f}",
        },
        rows,
    )


def reads(vectors: FloatArray) -> list[Times]:
    """Reading the vectors once, one core and all: their maximum, which NumPy takes as fast as memory delivers."""
    flat = vectors.reshape(-1)
    parts = np.array_split(flat, runtime.cpu_count())
    with ThreadPoolExecutor(len(parts)) as pool:
        return timed(REPEATS, flat.max, lambda: list(pool.map(np.max, parts)))


def exact(section: Section, make: Make) -> None:
    """The exact search against the time to read the vectors."""
    rows: list[list[Any]] = []
    for size in SIZES:
        rng = np.random.default_rng(1)
        before = resident()
        vectors = make(rng, size // EACH, EACH).reshape(size, -1)
        probes = make(rng, 32, 1)[:, 0]
        labels = np.repeat([f"person {i:07d}" for i in range(size // EACH)], EACH)
        space = Space("facenet-128", "0" * 64, Crop(0.075), False)
        none = np.full(size, "")
        photos = Embeddings(vectors, labels, none, none, none, space)
        held = resident()
        classifiers = [Classifier.of_gallery(kind, photos, Gate(0.9, 0.05)) for kind in ("knn", "nearest")]
        one = [partial(c.decide, probes[:1]) for c in classifiers]
        read = reads(vectors)
        matrix = partial(PerPerson(vectors, labels).distances, probes[:1])
        times = timed(REPEATS, vectors.reshape(-1).max, *one)
        times += timed(REPEATS, matrix)  # not in turn: BLAS's threads stay busy for a while
        (batch,) = timed(3, partial(classifiers[0].decide, probes))
        floor = min(read[0].minimum, read[1].minimum, times[0].minimum)
        rows += [
            [size, f"reading them once, {n} of the cores", t, t.minimum / floor, None]
            for n, t in zip(("one", "all"), read, strict=True)
        ]
        rows += [
            [size, "decision, knn, one face", times[1], times[1].minimum / floor, None],
            [size, "decision, nearest prototype, one face", times[2], times[2].minimum / floor, None],
            [size, "distances to everybody (`PerPerson`), one face", times[3], times[3].minimum / floor, None],
            [
                size,
                "decision, knn, of 32 faces each",
                Times.of([s / 32 for s in batch.seconds]),
                batch.minimum / 32 / floor,
                None,
            ],
        ]
        del classifiers, one, matrix
        searching = Classifier.of_gallery("knn", photos, Gate(0.9, 0.05))
        searching.decide(probes)
        rows.append(
            [
                size,
                "memory: vectors; names; the search beside them, MB",
                None,
                None,
                (vectors.nbytes / 1e6, (held - before - vectors.nbytes) / 1e6, (resident() - held) / 1e6),
            ]
        )
    section.table(
        f"Exact search, {REPEATS} repeats, {EACH} photos a person",
        {"vectors": "{:,}", "what": "{}", "ms": "{:.1f}", "reading = 1": "{:.2f}", "MB": "{:.0f}; {:.0f}; {:.0f}"},
        rows,
    )


def peers(vectors: FloatArray, large: bool) -> dict[str, Callable[[], tuple[Callable[[FloatArray], Any], float]]]:
    """Name → builds it: a search of probes (n, d) for the rows of the PROPOSED closest, and its bytes."""
    found: dict[str, Any] = {}
    threads, d = runtime.cpu_count(), vectors.shape[1]

    def flat() -> Any:
        import faiss

        index = faiss.IndexFlatIP(d)
        index.add(vectors)
        return lambda probes: index.search(probes, PROPOSED)[1], vectors.nbytes

    def graph() -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(d, GRAPH, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILT, SEARCHED
        index.add(vectors)
        return lambda probes: index.search(probes, PROPOSED)[1], vectors.nbytes + len(vectors) * GRAPH * 8

    def usearch() -> Any:
        from usearch.index import Index as USearch

        index = USearch(ndim=d, metric="ip", dtype="i8", connectivity=GRAPH, expansion_add=BUILT)
        index.add(np.arange(len(vectors)), vectors, threads=threads)
        index.expansion_search = SEARCHED

        def search(probes: FloatArray) -> Any:
            keys = index.search(probes if len(probes) > 1 else probes[0], PROPOSED).keys
            return keys if len(probes) > 1 else keys[None]

        return search, index.memory_usage

    if installed("faiss"):
        found["FAISS, flat"] = flat
    if installed("faiss") and not large:  # graphs of a million vectors take an hour to build
        found["FAISS, HNSW"] = graph
    if installed("usearch") and not large:
        found["USearch, HNSW in 8 bits"] = usearch
    return found


def ours(vectors: FloatArray, path: Path) -> Any:
    index = Index(vectors, path)
    return index.propose, vectors.nbytes / 4 + 8 * len(vectors)


def indexes(section: Section, people: People) -> None:
    """Time and recall@1 of the index and its peers."""
    section.note(
        f"Below: one face, {EACH} photos a person; recall@1 against the exact search, for {PROBES} photos of enrolled "
        f"people, {PROBES} of strangers, and lfw-dev's people with one photo held out."
    )
    for size in SIZES:
        for name, make in (("normal", people.normal), ("mixed", people.mixed)):
            section.table(
                f"{size:,} vectors, {name}",
                {
                    "what": "{}",
                    "build, s": "{:.1f}",
                    "MB beside the vectors": "{:.0f}",
                    "ms": "{:.2f}",
                    "faster than exact": "{:.1f}×",
                    "enrolled": "{:.4f}",
                    "strangers": "{:.4f}",
                    "lfw-dev": "{:.4f}",
                },
                compared(people, make, size, with_peers=size == SIZES[0] or name == "normal"),
            )


def compared(people: People, make: Make, size: int, with_peers: bool) -> list[list[Any]]:
    """Rows of one set."""
    rng = np.random.default_rng(2)
    photos = make(rng, size // EACH, EACH + 1)
    vectors = np.ascontiguousarray(photos[:, :-1]).reshape(size, -1)
    own = photos[-PROBES:, -1].copy()
    del photos
    enrolled, held_out = people.split()
    vectors[: len(enrolled)] = enrolled  # in the place of as many others
    probes = [own, make(rng, PROBES, 1)[:, 0], held_out]
    best = [_closest(vectors, p) for p in probes]
    labels = np.repeat(np.arange(size // EACH).astype(str), EACH)

    def hit(best: npt.NDArray[np.intp], found: Any) -> float:
        return float(np.mean([b in row for b, row in zip(best, found, strict=True)]))

    def recall(search: Callable[[FloatArray], Any]) -> list[float]:
        return [hit(rows, search(p)) for rows, p in zip(best, probes, strict=True)]

    def closest(search: Search, some: FloatArray) -> list[Any]:
        return [seen.closest(4) for seen in search.see(some, 4)]

    exactly = Search(vectors, labels)

    def asked(search: Callable[[FloatArray], Any]) -> tuple[Times, float]:
        """Seconds a probe, one at a time; and by how much that is faster than the exact search, in turn with it."""
        taken, exact = timed(7, lambda: [search(p[None]) for p in own[:TIMED]], lambda: closest(exactly, own[:1]))
        each = Times.of([s / TIMED for s in taken.seconds])
        return each, exact.minimum / each.minimum

    rows: list[list[Any]] = [["exact", None, 0.0, *asked(partial(closest, exactly)), 1.0, 1.0, 1.0]]
    means = _unit(vectors.reshape(-1, EACH, vectors.shape[1]).sum(axis=1))

    def first(some: FloatArray) -> npt.NDArray[np.intp]:
        return np.stack([np.argpartition(means @ p, -PROPOSED)[-PROPOSED:] for p in some])

    shares = [hit(best[i] // EACH, first(probes[i])) for i in range(2)]
    rows.append([f"prototypes first, exact, {PROPOSED} people", None, means.nbytes / 1e6, *asked(first), *shares, None])
    with tempfile.TemporaryDirectory() as temp:
        path = Path(temp) / "index.npz"
        builders: dict[str, Any] = peers(vectors, size > SIZES[0]) if with_peers else {}
        if installed("faiss"):
            builders = {"facerec's index: FAISS, IVF in 8 bits": partial(ours, vectors, path), **builders}
        for what, build in builders.items():
            start = time.perf_counter()
            search, memory = build()
            seconds = time.perf_counter() - start
            rows.append([what, seconds, memory / 1e6, *asked(search), *recall(search)])
            del search
        if installed("faiss"):
            start = time.perf_counter()
            index = Index(vectors, path)
            seconds = time.perf_counter() - start
            search = partial(closest, Search(vectors, labels, index))
            same = [
                float(np.mean([a[0][0] == b[0][0] for a, b in zip(closest(exactly, p), search(p), strict=True)]))
                for p in probes
            ]
            what = "facerec's index, read from its file, with exact distances of people"
            rows.append([what, seconds, None, *asked(search), *same])
    return rows


def _closest(vectors: FloatArray, probes: FloatArray) -> npt.NDArray[np.intp]:
    """(n,) rows of the closest vectors."""
    batch = COSINES // len(vectors)
    parts = [(probes[i : i + batch] @ vectors.T).argmax(axis=1) for i in range(0, len(probes), batch)]
    return np.concatenate(parts)


def enrolment(section: Section, make: Make) -> None:
    """One person with five photos into a gallery of 100,000 vectors: read, checked, written."""
    size = SIZES[0]
    vectors = make(np.random.default_rng(3), size // EACH + 1, EACH).reshape(size + EACH, -1)
    labels = np.repeat([f"person {i:06d}" for i in range(size // EACH + 1)], EACH)
    sources = np.char.add(np.char.add("train/", labels), "/photo.png")
    digests = np.array([f"{i:064x}" for i in range(len(labels))])
    space = Space("facenet-128", "0" * 64, Crop(0.075), False)
    everybody = Embeddings(vectors, labels, sources, np.full(len(labels), "train"), digests, space)
    new = np.arange(len(labels)) >= size
    with tempfile.TemporaryDirectory() as temp:
        path = Path(temp) / "faces.npz"
        save_embeddings(path, everybody[~new])
        start = path.read_bytes()
        seconds = []
        for _ in range(7):
            path.write_bytes(start)
            began = time.perf_counter()
            FileGallery(path).add(everybody[new])
            seconds.append(time.perf_counter() - began)
    taken = Times.of(seconds)
    section.note(
        f"One person with {EACH} photos enrolled in a gallery of {size:,} vectors ({len(start) / 1e6:.0f} MB): "
        f"{taken.minimum:.2f} s / {taken.median:.2f} s; nothing is trained."
    )


def main(section: Section) -> None:
    """All tables."""
    people = People()
    section.note(
        "Vectors of people who do not exist. *normal*: normally distributed, with lfw-dev's covariances of people and "
        "of one person's photos, which leaves lists and graphs the least to hold on to; *mixed*: real photos' "
        "deviations around mixtures of real people. Strangers' closest photos are hardly closer than the next ones. "
        "Reading is NumPy's maximum: one pass that computes next to nothing."
    )
    alike(section, people)
    enrolment(section, people.normal)
    exact(section, people.normal)
    for package in ("faiss-cpu", "usearch"):
        if installed(package.removesuffix("-cpu")):
            section.note(f"{package} {importlib.metadata.version(package)}")
        else:
            section.note(f"{package}: not installed, `pip install {package}`.")
    indexes(section, people)
