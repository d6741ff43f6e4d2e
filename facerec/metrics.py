"""Pure functions of distances and labels: no files, no models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facerec.errors import InputError

Distances = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

BOOTSTRAPS = 500


@dataclass(frozen=True)
class Pair:
    """Two photos, whether they show one person, and the fold that the pair belongs to."""

    first: str
    second: str
    same: bool
    fold: int


def read_pairs(path: Path) -> list[Pair]:
    """Reads pairs in the format of LFW's pairs.txt (photos as ``NAME/NAME_0001.jpg``), or of `write_pairs`.

    Raises:
        InputError: in neither format.
    """
    if path.suffix == ".json":
        try:
            listed = json.loads(path.read_text("utf-8", "surrogateescape"))  # names of files need not be Unicode
            return [Pair(str(a), str(b), bool(same), int(fold)) for a, b, same, fold in listed]
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} is not a list of pairs ({error})", "let facerec evaluate pairs make one"
            ) from None
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
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


def write_pairs(pairs: Sequence[Pair]) -> str:
    """Pairs as JSON: [first, second, same, fold] a line."""
    rows = (json.dumps([p.first, p.second, p.same, p.fold], ensure_ascii=False) for p in pairs)
    return "[" + ",\n ".join(rows) + "]\n"


def distance(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Distances:
    """Euclidean distance of unit rows (…, d), 0..2: sqrt(2 - 2 cos)."""
    return np.sqrt(np.maximum(2 - 2 * (a * b).sum(axis=-1), 0))


def distances(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Distances:
    """Euclidean distances (n, m) of unit rows (n, d) and (m, d), 0..2."""
    return np.sqrt(np.maximum(2 - 2 * (a @ b.T), 0))


def best_threshold(dist: Distances, same: Bools) -> float:
    """The distance that separates `same` from different with the fewest errors; accepts d <= threshold.

    Of no pairs it is 0.
    """
    if not len(dist):
        return 0.0
    order = np.argsort(dist, kind="stable")
    # errors with the first k accepted: different ones among them + same ones after them
    accepted = np.concatenate([[0], np.cumsum(~same[order])])
    rejected = same.sum() - np.concatenate([[0], np.cumsum(same[order])])
    ordered = dist[order]
    between = (ordered[1:] + ordered[:-1]) / 2
    between = np.where(between < ordered[1:], between, ordered[:-1])  # float32 may have nothing between two
    cuts = np.concatenate([[ordered[0] - 1e-6], between, [ordered[-1]]])
    tied = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])  # equal distances cannot be parted
    return float(cuts[np.argmin(np.where(tied, len(dist) + 1, accepted + rejected))])


def right_by_fold(dist: Distances, same: Bools, fold: npt.NDArray[np.integer]) -> Bools:
    """Whether each pair is answered right at the threshold that is best on the other folds (LFW View 2).

    Huang et al., "Labeled Faces in the Wild", UMass 07-49, 2007. A distance of NaN or infinity (no face
    found in one of the photos) is an error, and takes no part in choosing thresholds.
    """
    found = np.isfinite(dist)
    right = np.zeros(len(dist), bool)
    for k in np.unique(fold):
        others = (fold != k) & found
        threshold = best_threshold(dist[others], same[others])
        right |= (fold == k) & found & ((dist <= threshold) == same)
    return right


def fold_accuracies(dist: Distances, same: Bools, fold: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Share of `right_by_fold` in each fold."""
    right = right_by_fold(dist, same, fold)
    return np.array([right[fold == k].mean() for k in np.unique(fold)])


@dataclass(frozen=True)
class ErrorRates:
    """False-match and false-non-match rates at every threshold that makes a difference.

    ISO/IEC 19795-1. A distance at or below the threshold is a match; a distance of infinity (no face was
    found) never is one.

    Attributes:
        thresholds: (k,) ascending distances, from below the smallest on.
        fmr: (k,) share of impostor comparisons accepted; rises.
        fnmr: (k,) share of genuine comparisons refused; falls.
    """

    thresholds: npt.NDArray[np.float64]
    fmr: npt.NDArray[np.float64]
    fnmr: npt.NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve of TAR = 1 - FNMR over FMR, by trapezia; what never matches adds a chord."""
        fmr, tar = np.append(self.fmr, 1.0), np.append(1 - self.fnmr, 1.0)
        return float(((fmr[1:] - fmr[:-1]) * (tar[1:] + tar[:-1])).sum() / 2)

    @property
    def eer(self) -> float:
        """Where FMR and FNMR are equal, interpolated between the two thresholds around the crossing."""
        fmr, fnmr = np.append(self.fmr, 1.0), np.append(self.fnmr, 0.0)  # the chord, as for `auc`
        k = int(np.argmax(fmr >= fnmr))
        gap_before, gap_after = fnmr[k - 1] - fmr[k - 1], fmr[k] - fnmr[k]
        share = gap_before / (gap_before + gap_after)
        return float(fmr[k - 1] + share * (fmr[k] - fmr[k - 1]))

    def tar_at_far(self, far: float) -> float:
        """Share of genuine comparisons accepted at the largest threshold with FMR <= far."""
        return float(1 - self.fnmr[np.flatnonzero(self.fmr <= far)[-1]])


def error_rates(dist: Distances, same: Bools, weight: npt.NDArray[np.floating] | None = None) -> ErrorRates:
    """The rates of comparisons with distances (n,), n of each kind at least one.

    Args:
        dist: infinity where there was no face.
        same: genuine or impostor.
        weight: of each comparison; None for one each.
    """
    weight = np.ones(len(dist)) if weight is None else weight
    order = np.argsort(dist, kind="stable")
    ordered = dist[order]
    genuine = np.cumsum(np.where(same, weight, 0)[order])
    impostor = np.cumsum(np.where(same, 0, weight)[order])
    last = np.append(ordered[1:] != ordered[:-1], True) & np.isfinite(ordered)  # of equal distances
    below = ordered[0] - 1e-6 if np.isfinite(ordered[0]) else 0.0
    return ErrorRates(
        np.concatenate([[below], ordered[last]]),
        np.concatenate([[0.0], impostor[last] / impostor[-1]]),
        np.concatenate([[1.0], 1 - genuine[last] / genuine[-1]]),
    )


def enough_for(rate: float, trials: int) -> bool:
    """Whether `trials` can carry an error rate: the rule of three, Jovanovic & Levy 1997.

    With no error in n trials the rate may still be 3 / n (95 %).
    """
    return trials * rate >= 3


def bcubed(truth: npt.NDArray[Any], clusters: npt.NDArray[Any]) -> tuple[float, float, float]:
    """BCubed precision, recall and F of a clustering.

    Bagga & Baldwin 1998; Amigó et al., "A comparison of extrinsic clustering evaluation metrics", 2009: the
    mean over items of the share of its cluster that is of its person, and of its person that is in its cluster.

    Args:
        truth: (n,) people.
        clusters: (n,) labels; an item that was left out as noise has a label of its own.
    """
    _, person = np.unique(truth, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    _, where, both = np.unique(np.stack([person, cluster]), axis=1, return_inverse=True, return_counts=True)
    shared = both[where.ravel()]
    precision = float((shared / np.bincount(cluster)[cluster]).mean())
    recall = float((shared / np.bincount(person)[person]).mean())
    return precision, recall, 2 * precision * recall / (precision + recall)


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """95 % interval of a share; Wilson 1927."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.959964
    p = successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def widened(interval: tuple[float, float], share: float, trials: int) -> tuple[float, float]:
    """A bootstrap's interval, no narrower than `wilson`'s: drawing again from trials without an error finds none."""
    low, high = wilson(share * trials, trials)
    return min(interval[0], low), max(interval[1], high)


def mcnemar(first: Bools, second: Bools) -> float:
    """Exact two-sided p-value that two classifiers err equally often on the same trials.

    McNemar 1947; the binomial test on the trials that only one of them gets right.

    Args:
        first: (n,) whether the first was right.
        second: (n,) whether the second was.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    return min(2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n, 1.0)


def share_by_person(hit: Bools, who: npt.NDArray[Any], rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Share of trials that hit, and its 95 % interval by drawing people, not trials, with replacement.

    Bolle, Ratha & Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", CVIU 2004:
    trials of one person go together. Where fewer than three people hit or miss, `widened` with people as trials.

    Args:
        hit: (n,).
        who: (n,) the person of each trial.
        rng: draws.
    """
    _, owner = np.unique(who, return_inverse=True)
    hits, trials = np.bincount(owner, hit), np.bincount(owner)
    times = rng.multinomial(len(trials), np.full(len(trials), 1 / len(trials)), size=BOOTSTRAPS)
    low, high = np.quantile((times @ hits) / (times @ trials), (0.025, 0.975))
    share, interval = float(hit.mean()), (float(low), float(high))
    few = min((hits > 0).sum(), (hits < trials).sum()) < 3
    return share, widened(interval, share, len(trials)) if few else interval


def people_drawn_again(
    people: int,
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    same: Bools,
    rng: np.random.Generator,
    draws: int,
) -> Iterator[npt.NDArray[np.float64]]:
    """(n,) how often each pair of photos counts, for each draw of people with replacement: Bolle et al. 2004.

    A pair counts as often as both its people came. Draws without pairs of one person, or of two, are left out.

    Args:
        people: how many there are.
        first: (n,) numbers of the people on one side.
        second: (n,) on the other.
        same: (n,).
        rng: draws.
        draws: how many.
    """
    for _ in range(draws):
        times = rng.multinomial(people, np.full(people, 1 / people))
        weight = np.where(same, times[first], times[first] * times[second]).astype(float)
        if weight[same].any() and weight[~same].any():
            yield weight


def _weights(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """(n,) weights with which each pair of people counts once."""
    _, pair, times = np.unique(
        np.minimum(first, second).astype(np.int64) << 32 | np.maximum(first, second),
        return_inverse=True,
        return_counts=True,
    )
    return 1 / times[pair]


def threshold_by_people(
    impostors: Distances, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], fmr: float
) -> float:
    """The largest distance at which at most a share `fmr` is accepted, each pair of people counting once.

    Args:
        impostors: (n,) distances of photos of different people.
        first: (n,) numbers of the people on one side.
        second: (n,) on the other.
        fmr: share that may be accepted.
    """
    weight = _weights(first, second)
    order = np.argsort(impostors, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    over = int(np.searchsorted(share, fmr, side="right"))
    return float(np.nextafter(impostors[order[over]], -np.inf)) if over < len(order) else float(impostors.max())


def fmr_by_people(
    impostors: Distances,
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    threshold: float,
    rng: np.random.Generator,
) -> tuple[float, tuple[float, float]]:
    """False-match rate, each pair of people counting once, and its 95 % interval by drawing people with replacement.

    Bolle et al. 2004, as in `share_by_person`; a pair of people counts as often as both came. The arguments are
    those of `threshold_by_people`.
    """
    weight = _weights(first, second)
    size = int(max(first.max(), second.max())) + 1
    false, trials = np.zeros((size, size)), np.zeros((size, size))
    np.add.at(trials, (first, second), weight)
    np.add.at(false, (first, second), weight * (impostors <= threshold))
    rates = []
    for times in rng.multinomial(size, np.full(size, 1 / size), size=BOOTSTRAPS):
        if total := times @ trials @ times:
            rates.append(float(times @ false @ times / total))
    low, high = np.quantile(rates, (0.025, 0.975))
    return float(false.sum() / trials.sum()), (float(low), float(high))


def spread(vectors: npt.NDArray[np.floating]) -> float:
    """Root mean square distance of unit rows (n, d), n of 2 or more, from one another."""
    n = len(vectors)
    cosines = float((vectors.sum(axis=0) ** 2).sum())  # of all pairs, with each row's own
    return float(np.sqrt(max(2 - 2 * (cosines - n) / (n * (n - 1)), 0)))


def fmr_of_each(vectors: npt.NDArray[np.floating], who: npt.NDArray[Any], threshold: float) -> dict[str, float]:
    """Person → false-match rate of their photos with everybody else's, each other person counting once.

    Faces are not mistaken evenly: Doddington et al., "Sheep, goats, lambs and wolves", ICSLP 1998.

    Args:
        vectors: (n, d) unit rows, of two people or more.
        who: (n,) whose they are.
        threshold: distance up to which photos match.
    """
    order = np.argsort(who, kind="stable")
    vectors, names = vectors[order], who[order]
    people, start, count = np.unique(names, return_index=True, return_counts=True)
    rates = {}
    for i, (name, first, n) in enumerate(zip(people.tolist(), start, count, strict=True)):
        matches = (distances(vectors[first : first + n], vectors) <= threshold).sum(axis=0)
        share = np.add.reduceat(matches, start) / (n * count)
        rates[str(name)] = float(np.delete(share, i).mean())
    return rates


def uneven(rates: dict[str, float]) -> str:
    """What `fmr_of_each` found, in a sentence; the worst come first."""
    middle, high = np.quantile(list(rates.values()), (0.5, 0.95))
    many = f"one in twenty {high:.2%} or more, " if len(rates) >= 20 else ""
    worst = ", ".join(f"{name} {rate:.2%}" for name, rate in list(rates.items())[:3])
    return f"False matches by person: half {middle:.2%} or less, {many}most {worst}."


def margin_at_fpir(lead: Distances, who: npt.NDArray[Any], fpir: float, rng: np.random.Generator) -> float:
    """The smallest margin at which at most `fpir` of strangers' searches are let through in 97.5 % of the resamples.

    Of people other than these a larger share may pass: of few, resamples look like one another.

    Args:
        lead: (n,) by how much the candidate is closer than everybody else; minus infinity where the search
            is refused anyway.
        who: (n,) the stranger of each search; they are drawn with replacement.
        fpir: share that may pass.
        rng: draws.
    """
    order = np.argsort(-lead, kind="stable")
    _, owner = np.unique(who[order], return_inverse=True)
    people = int(owner.max()) + 1
    margins = np.empty(BOOTSTRAPS)
    for b in range(BOOTSTRAPS):
        weight = rng.multinomial(people, np.full(people, 1 / people))[owner]
        passed = np.cumsum(weight)
        first = np.searchsorted(passed, fpir * passed[-1], side="right")  # the first that must be refused
        margins[b] = np.nextafter(lead[order[first]], np.inf) if first < len(order) else 0.0
    return float(np.clip(np.quantile(margins, 0.975, method="higher"), 0.0, 2.0))


def det_curve(mated: Distances, correct: Bools, strangers: Distances) -> tuple[Distances, Distances]:
    """(FPIR, FNIR) at every score that makes a difference; the arguments are those of `fnir_at_fpir`."""
    cuts = np.unique(np.concatenate([mated, strangers]))
    cuts = cuts[np.isfinite(cuts)]
    hits = np.sort(mated[correct])
    return (
        np.searchsorted(np.sort(strangers), cuts, side="right") / len(strangers),
        1 - np.searchsorted(hits, cuts, side="right") / len(mated),
    )


def cumulative_match(ranks: npt.NDArray[np.integer], depth: int) -> npt.NDArray[np.float64]:
    """CMC: share of searches whose mate is among the first k, for k = 1…depth; rank 0 = not found at all."""
    return np.array([((ranks >= 1) & (ranks <= k)).mean() for k in range(1, depth + 1)])


def fnir_at_fpir(mated: Distances, correct: Bools, strangers: Distances, fpir: float) -> tuple[float, float]:
    """(FNIR, threshold) of open-set searches at a stated FPIR; NIST FRTE 1:N.

    Args:
        mated: distance of the best candidate of each search whose person is enrolled; infinity where there
            was no face in the search photo or in every photo that should have been enrolled.
        correct: whether that candidate is the right person.
        strangers: distance of the best candidate of each search whose person is not enrolled.
        fpir: share of strangers that may get a name.

    Returns:
        Share of mated searches that return the wrong person or none, and the distance threshold.
    """
    threshold = threshold_at_fmr(strangers, fpir)
    return float((~(correct & (mated <= threshold))).mean()), threshold


def threshold_at_fmr(impostors: Distances, fmr: float) -> float:
    """The largest distance at which at most a share `fmr` of impostor pairs is accepted (d <= threshold)."""
    ordered = np.sort(impostors)
    allowed = int(np.floor(fmr * len(ordered)))
    return float(np.nextafter(ordered[allowed], -np.inf)) if allowed < len(ordered) else float(ordered[-1])
