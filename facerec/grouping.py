"""Whose faces belong together, from unit vectors alone: average linkage."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facerec.metrics import distances
from facerec.types import FloatArray

_APART = 1e9  # the mean of 20,000² pairs with one that is _APART still exceeds any threshold


def linkage(vectors: FloatArray, fixed: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.float64]:
    """(n - 1, 4) dendrogram of unit rows (n, d), n ≥ 2, by the mean distance between clusters.

    It is what scikit-learn's AgglomerativeClustering calls, without its three copies of the distances; Müllner,
    "Modern hierarchical, agglomerative clustering algorithms", 2011. Rows of two fixed groups are put so far apart
    that they never come together.

    Args:
        vectors: unit rows.
        fixed: (n,) group of each row; negative for none.
    """
    from scipy.cluster.hierarchy import linkage

    n = len(vectors)
    fixed = np.full(n, -1) if fixed is None else fixed
    condensed = np.empty(n * (n - 1) // 2)
    at = 0
    for start in range(0, n, 256):
        rows = slice(start, start + 256)
        block = distances(vectors[rows], vectors[start:])
        a, b = fixed[rows, None], fixed[None, start:]
        block[(a != b) & (a >= 0) & (b >= 0)] = _APART
        for i, row in enumerate(block, 1):
            condensed[at : at + len(row) - i] = row[i:]
            at += len(row) - i
    return linkage(condensed, "average")


def group(vectors: FloatArray, threshold: float, fixed: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.intp]:
    """(n,) cluster of each unit row: those that are at most `threshold` apart in the mean, as in `linkage`.

    Clusters with rows of one fixed group are one in the end, not from the start: a new photo need only be close to
    one of the looks that a user has put together.
    """
    from scipy.cluster.hierarchy import fcluster

    if len(vectors) < 2:
        return np.zeros(len(vectors), np.intp)
    labels = fcluster(linkage(vectors, fixed), threshold, "distance")
    for one in () if fixed is None else np.unique(fixed[fixed >= 0]):
        parts = np.unique(labels[fixed == one])
        labels[np.isin(labels, parts)] = parts[0]
    return np.unique(labels, return_inverse=True)[1]


def halves(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """(n,) which unit rows, n ≥ 2, are of the smaller of the two parts that were joined last."""
    from scipy.cluster.hierarchy import cut_tree

    part = cut_tree(linkage(vectors), 2)[:, 0] == 1
    return part if part.sum() <= len(part) / 2 else ~part
