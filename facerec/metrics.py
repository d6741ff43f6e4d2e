"""Pure functions of distances and labels: no files, no models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facerec.errors import InputError

Distances = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """Two photos, whether they show one person, and the fold that the pair belongs to."""

    first: str
    second: str
    same: bool
    fold: int


def read_pairs(path: Path) -> list[Pair]:
    """Reads pairs in the format of LFW's pairs.txt; photos as ``NAME/NAME_0001.jpg``.

    Raises:
        InputError: not in that format.
    """
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        folds, size = (int(v) for v in lines[0])
        if len(lines) != 1 + 2 * folds * size:
            raise ValueError(f"{len(lines) - 1} pairs instead of {2 * folds * size}")
        pairs = []
        for i, line in enumerate(lines[1:]):
            names = (line[0], line[0]) if len(line) == 3 else (line[0], line[2])
            numbers = (int(line[1]), int(line[-1]))
            a, b = (f"{name}/{name}_{number:04d}.jpg" for name, number in zip(names, numbers, strict=True))
            pairs.append(Pair(a, b, len(line) == 3, i // (2 * size)))
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is not in the format of LFW's pairs.txt ({error})") from None
    return pairs


def distance(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Distances:
    """Euclidean distance of unit rows (…, d), 0..2: sqrt(2 - 2 cos)."""
    return np.sqrt(np.maximum(2 - 2 * (a * b).sum(axis=-1), 0))


def distances(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Distances:
    """Euclidean distances (n, m) of unit rows (n, d) and (m, d), 0..2."""
    return np.sqrt(np.maximum(2 - 2 * (a @ b.T), 0))


def best_threshold(dist: Distances, same: Bools) -> float:
    """The distance that separates `same` from different with the fewest errors; accepts d <= threshold."""
    order = np.argsort(dist, kind="stable")
    # errors with the first k accepted: different ones among them + same ones after them
    accepted = np.concatenate([[0], np.cumsum(~same[order])])
    rejected = same.sum() - np.concatenate([[0], np.cumsum(same[order])])
    ordered = dist[order]
    cuts = np.concatenate([[ordered[0] - 1e-6], (ordered[1:] + ordered[:-1]) / 2, [ordered[-1]]])
    tied = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])  # equal distances cannot be parted
    return float(cuts[np.argmin(np.where(tied, len(dist) + 1, accepted + rejected))])


def fold_accuracies(dist: Distances, same: Bools, fold: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Accuracy of each fold at the threshold that is best on the others (LFW View 2).

    Huang et al., "Labeled Faces in the Wild", UMass 07-49, 2007. A distance of NaN (no face found in
    one of the photos) is an error, and takes no part in choosing thresholds.
    """
    result = []
    for k in np.unique(fold):
        chosen = (fold != k) & ~np.isnan(dist)
        threshold = best_threshold(dist[chosen], same[chosen])
        test = fold == k
        right = np.where(np.isnan(dist[test]), False, (dist[test] <= threshold) == same[test])
        result.append(right.mean())
    return np.array(result)


def threshold_at_fmr(impostors: Distances, fmr: float) -> float:
    """The largest distance at which at most a share `fmr` of impostor pairs is accepted (d <= threshold)."""
    ordered = np.sort(impostors)
    allowed = int(np.floor(fmr * len(ordered)))
    return float(np.nextafter(ordered[allowed], -np.inf)) if allowed < len(ordered) else float(ordered[-1])
