"""BCubed precision, recall and F of scikit-learn's methods on lfw-dev, and where the default threshold comes from."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering

from benchmarks.accuracy import Setting, load
from benchmarks.common import Section
from facerec.grouping import group
from facerec.metrics import bcubed, distances
from facerec.stages.cluster import THRESHOLDS

DRAWS = 5  # of people into two halves, each of which chooses for the other
THRESHOLD_GRID = [round(0.7 + 0.02 * i, 2) for i in range(25)]
BCUBED = {"precision": "{:.4f}", "recall": "{:.4f}", "F": "{:.4f}"}

Distances = npt.NDArray[np.floating]
Labels = npt.NDArray[np.intp]
Method = Callable[[Distances, Any], Labels]


def apart(labels: Labels) -> Labels:
    """Noise (-1) as clusters of one."""
    noise = labels < 0
    return np.where(noise, labels.max() + np.cumsum(noise), labels)


def agglomerative(linkage: str) -> Method:
    def cluster(dist: Distances, threshold: float) -> Labels:
        method = AgglomerativeClustering(None, metric="precomputed", linkage=linkage, distance_threshold=threshold)
        return method.fit_predict(dist)

    return cluster


def dbscan(dist: Distances, parameters: tuple[float, int]) -> Labels:
    eps, least = parameters
    return apart(DBSCAN(eps=eps, min_samples=least, metric="precomputed").fit_predict(dist))


def hdbscan(dist: Distances, parameters: tuple[str, int]) -> Labels:
    selection, least = parameters
    method = HDBSCAN(2, min_samples=least, metric="precomputed", cluster_selection_method=selection, copy=True)
    return apart(method.fit_predict(dist))


METHODS: dict[str, tuple[Method, list[Any]]] = {
    "agglomerative, average linkage": (agglomerative("average"), THRESHOLD_GRID),
    "agglomerative, complete linkage": (agglomerative("complete"), THRESHOLD_GRID),
    "agglomerative, single linkage": (agglomerative("single"), THRESHOLD_GRID),
    "DBSCAN: eps, min_samples": (dbscan, [(eps, least) for eps in THRESHOLD_GRID for least in (2, 3)]),
    "HDBSCAN: selection, min_samples": (hdbscan, [(how, least) for how in ("eom", "leaf") for least in (1, 2, 3)]),
}


def halves(people: npt.NDArray[Any], lone: float) -> Iterator[tuple[Labels, Labels]]:
    """Photos to choose by and photos to report on: the halves share no person.

    Args:
        people: of each photo.
        lone: share of the people of whom only one photo is taken, as of passers-by.
    """
    everyone = np.unique(people)
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        order = rng.permutation(everyone)
        alone = rng.random(len(order)) < lone
        rows = [
            rng.permutation(np.flatnonzero(people == p))[: 1 if a else None] for p, a in zip(order, alone, strict=True)
        ]
        one, other = np.concatenate(rows[::2]), np.concatenate(rows[1::2])
        yield one, other
        yield other, one


def methods(section: Section, dist: Distances, people: npt.NDArray[Any], lone: float, caption: str) -> None:
    """Each method with the parameters that are best on the other half."""
    rows = []
    for name, (method, parameters) in METHODS.items():
        chosen: Counter[str] = Counter()
        results = []
        for choose, report in halves(people, lone):
            inside = dist[np.ix_(choose, choose)]
            best = max(parameters, key=lambda p: bcubed(people[choose], method(inside, p))[2])
            chosen[str(best).strip("()")] += 1
            results.append(bcubed(people[report], method(dist[np.ix_(report, report)], best)))
        start = time.perf_counter()
        method(dist, best)
        seconds = time.perf_counter() - start
        f = [r[2] for r in results]
        often = ", ".join(f"{p} ({n})" for p, n in chosen.most_common())
        rows.append([name, *np.mean(results, axis=0).tolist(), (min(f), max(f)), often, seconds])
    section.table(
        caption,
        {
            "method": "{}",
            **BCUBED,
            "F, lowest – highest": "{:.3f} – {:.3f}",
            "chosen (times)": "{}",
            "seconds, all photos": "{:.2f}",
        },
        rows,
    )


def thresholds(section: Section, vectors: npt.NDArray[np.float32], people: npt.NDArray[Any]) -> None:
    """The default method, as the command runs it, around its threshold and for several numbers of people."""
    everyone = np.unique(people)
    grid = (0.86, 0.9, 0.92, 0.94, 0.96, 0.98, 1.02)
    rows = []
    for size, draws in ((5, 20), (50, 20), (210, 5), (len(everyone), 1)):
        scores = []
        for draw in range(draws):
            mine = np.isin(people, np.random.default_rng(draw).permutation(everyone)[:size])
            scores.append([bcubed(people[mine], group(vectors[mine], t))[2] for t in grid])
        rows.append([size, *np.mean(scores, axis=0).tolist()])
    section.table(
        f"F of `facerec cluster` (average linkage) by threshold and number of people; default "
        f"{THRESHOLDS['facenet-128']}",
        {"people": "{}", **{f"{t:.2f}": "{:.4f}" for t in grid}},
        rows,
    )
    section.table(
        "`facerec cluster` on all photos, default threshold",
        BCUBED,
        [list(bcubed(people, group(vectors, THRESHOLDS["facenet-128"])))],
    )


def main(section: Section) -> None:
    """All tables."""
    photos = load(Setting())
    found = ~photos.missing
    vectors, people = photos.vectors[found], photos.people[found]
    dist = distances(vectors, vectors).astype(np.float64)
    dist = (dist + dist.T) / 2  # HDBSCAN insists on symmetry to the last bit
    np.fill_diagonal(dist, 0)
    section.note(
        f"{len(vectors):,} faces of {len(set(people)):,} people of Labeled Faces in the Wild. Parameters are chosen by "
        f"BCubed F on one half of the people and reported on the other, {DRAWS} draws, both ways. Noise counts as "
        "clusters of one."
    )
    methods(section, dist, people, 0.0, "Everybody with all photos, two at least")
    methods(section, dist, people, 0.5, "Half of the people with one photo only, as passers-by have")
    thresholds(section, vectors, people)
