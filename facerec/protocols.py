"""Evaluation protocols: labelled vectors in, error rates with intervals out. No files, no networks.

A photo in which no face was found stays in every denominator: it never matches anybody.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from facerec import metrics
from facerec.classify import KINDS, train_model
from facerec.errors import DataError
from facerec.metrics import Pair
from facerec.types import FloatArray, StrArray

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FPIRS = (1e-1, 1e-2, 1e-3)
GALLERY_SIZES = (10, 20, 40, 60, 80, 100, 120)
DRAWS = 10
BOOTSTRAPS = 500
MAX_RANK = 10


@dataclass(frozen=True)
class Photos:
    """Photographs of people, as vectors.

    Attributes:
        names: (n,) paths, as pairs name them.
        people: (n,) whose they are.
        vectors: (n, d) float32 unit rows; NaN where no face was found.
    """

    names: StrArray
    people: StrArray
    vectors: FloatArray

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """(n,) photos without a face."""
        return np.isnan(self.vectors[:, 0])

    def of_people(self, least: int) -> dict[str, npt.NDArray[np.intp]]:
        """Person → rows, for those with at least this many photos."""
        groups = {str(p): np.flatnonzero(self.people == p) for p in np.unique(self.people)}
        return {p: rows for p, rows in groups.items() if len(rows) >= least}


# --- pairs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairsResult:
    """Verification of pairs, as LFW's View 2 has it.

    Attributes:
        accuracy: mean over the folds, each at the threshold that is best on the others; a pair with a
            photo without a face is an error.
        standard_error: of that mean.
        accuracy_without_failures: the same with such pairs left out.
        interval: 95 % of the accuracy, by identity bootstrap.
        auc, eer: of all comparisons pooled; a photo without a face matches nobody.
        tar_at_far: FAR → (TAR, its 95 % interval), None where the pairs cannot carry the rate.
        failures: pairs with a photo without a face.
        rates: behind the curves.
        distances: (n,) infinity where there was no face.
        same: (n,).
        right: (n,) whether each pair was answered right, for comparing two settings.
    """

    accuracy: float
    standard_error: float
    accuracy_without_failures: float
    interval: tuple[float, float]
    auc: float
    auc_interval: tuple[float, float]
    eer: float
    eer_interval: tuple[float, float]
    tar_at_far: dict[float, tuple[float, tuple[float, float]] | None]
    failures: list[Pair]
    rates: metrics.ErrorRates
    distances: npt.NDArray[np.floating]
    same: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]

    def to_json(self) -> dict[str, Any]:
        tar = {f"{far:g}": None if v is None else round(v[0], 6) for far, v in self.tar_at_far.items()}
        intervals = {f"{far:g}": v[1] for far, v in self.tar_at_far.items() if v}
        return {
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "interval": self.interval,
            "accuracy_without_failures": self.accuracy_without_failures,
            "auc": self.auc,
            "auc_interval": self.auc_interval,
            "eer": self.eer,
            "eer_interval": self.eer_interval,
            "tar_at_far": tar,
            "tar_intervals": intervals,
            "pairs": len(self.same),
            "failures": [[p.first, p.second] for p in self.failures],
        }


def evaluate_pairs(photos: Photos, pairs: Sequence[Pair], seed: int = 0) -> PairsResult:
    """LFW's View 2 on any pairs: ten folds (or as many as there are), threshold from the others.

    Raises:
        DataError: a pair names a photo that is not there, or there are too few pairs.
    """
    row = {name: i for i, name in enumerate(photos.names.tolist())}
    if unknown := [name for p in pairs for name in (p.first, p.second) if name not in row]:
        raise DataError(f"the pairs name {unknown[0]}, which is not among the photos", "give the folder they come from")
    first, second = (np.array([row[getattr(p, side)] for p in pairs]) for side in ("first", "second"))
    same = np.array([p.same for p in pairs])
    fold = np.array([p.fold for p in pairs])
    if len(set(fold.tolist())) < 2 or same.all() or not same.any():
        raise DataError("pairs of both kinds in at least two folds are needed", "add people and photos")
    dist = metrics.distance(photos.vectors[first], photos.vectors[second])
    failed = np.isnan(dist)
    accuracies = metrics.fold_accuracies(dist, same, fold)
    kept = ~failed
    without = metrics.fold_accuracies(dist[kept], same[kept], fold[kept])
    dist = np.where(failed, np.inf, dist)
    rates = metrics.error_rates(dist, same)

    identities, who = np.unique(photos.people, return_inverse=True)
    rng = np.random.default_rng(seed)
    right = metrics.right_by_fold(dist, same, fold)
    draws: dict[Any, list[float]] = {"accuracy": [], "auc": [], "eer": []} | {far: [] for far in FARS}
    for _ in range(BOOTSTRAPS):
        # people are drawn with replacement; a pair counts as often as both its people came
        times = rng.multinomial(len(identities), np.full(len(identities), 1 / len(identities)))
        weight = np.where(same, times[who[first]], times[who[first]] * times[who[second]]).astype(float)
        if not weight[same].any() or not weight[~same].any():
            continue
        sample = metrics.error_rates(dist, same, weight)
        draws["accuracy"].append(float(np.average(right, weights=weight)))
        draws["auc"].append(sample.auc)
        draws["eer"].append(sample.eer)
        for far in FARS:
            draws[far].append(sample.tar_at_far(far))

    def interval(name: Any) -> tuple[float, float]:
        low, high = np.quantile(draws[name], (0.025, 0.975))
        return float(low), float(high)

    impostors = int((~same).sum())
    return PairsResult(
        float(accuracies.mean()),
        float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
        float(without.mean()),
        interval("accuracy"),
        rates.auc,
        interval("auc"),
        rates.eer,
        interval("eer"),
        {far: (rates.tar_at_far(far), interval(far)) if metrics.enough_for(far, impostors) else None for far in FARS},
        [p for p, bad in zip(pairs, failed, strict=True) if bad],
        rates,
        dist,
        same,
        right,
    )


def make_pairs(photos: Photos, folds: int = 10, seed: int = 0) -> list[Pair]:
    """A balanced protocol: as many impostor as genuine pairs, no person in two folds.

    Every person gives one genuine pair for each two photos; impostor pairs are drawn inside the fold.

    Raises:
        DataError: fewer than two people with two photos in each of two folds.
    """
    rng = np.random.default_rng(seed)
    groups = photos.of_people(2)
    names = sorted(groups)
    folds = min(folds, len(names) // 2)
    if folds < 2:
        raise DataError("pairs need at least four people with two photos each", "add people and photos")
    pairs = []
    for k, part in enumerate(np.array_split(rng.permutation(names), folds)):
        genuine = []
        for person in part:
            rows = rng.permutation(groups[str(person)])
            genuine += [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
        impostor: set[tuple[int, int]] = set()
        tries = 0
        while len(impostor) < len(genuine) and tries < 100 * len(genuine):
            a, b = rng.choice(len(part), 2, replace=False)
            x, y = (int(rng.choice(groups[str(part[i])])) for i in (a, b))
            impostor.add((min(x, y), max(x, y)))
            tries += 1
        for rows_, is_same in ((genuine[: len(impostor)], True), (sorted(impostor), False)):
            pairs += [Pair(str(photos.names[a]), str(photos.names[b]), is_same, k) for a, b in rows_]
    return pairs


# --- closed-set identification -------------------------------------------------------------------


@dataclass(frozen=True)
class IdentifyPoint:
    """One size of gallery: one photo enrolled and one searched a person, mean over the draws."""

    n: int
    accuracy: float
    standard_error: float
    seconds_per_sample: float


@dataclass(frozen=True)
class IdentifyResult:
    """Closed-set identification by each kind of classifier, and the ranks at the largest gallery."""

    points: dict[str, list[IdentifyPoint]]
    cmc: list[float]
    failures: list[str]
    draws: int

    def to_json(self) -> dict[str, Any]:
        return {
            **{kind: [vars(p) for p in points] for kind, points in self.points.items()},
            "cmc": self.cmc,
            "draws": self.draws,
            "failures": self.failures,
        }


def evaluate_identify(photos: Photos, seconds_a_photo: float, seed: int = 0, draws: int = DRAWS) -> IdentifyResult:
    """One photo of each of N people enrolled, another one searched, for growing N.

    Args:
        photos: people with one photo only are left out.
        seconds_a_photo: of detection and embedding, measured by the caller; the search is added.
        seed: of the draws.
        draws: of people and photos, for each N.

    Raises:
        DataError: fewer than two people with two photos.
    """
    groups = photos.of_people(2)
    names = sorted(groups)
    if len(names) < 2:
        raise DataError("identification needs two people with two photos each", "add people and photos")
    rng = np.random.default_rng(seed)
    sizes = [n for n in GALLERY_SIZES if n < len(names)] + [len(names)]
    points: dict[str, list[IdentifyPoint]] = {kind: [] for kind in KINDS}
    ranks: list[npt.NDArray[np.intp]] = []
    for n in sizes:
        accuracy: dict[str, list[float]] = {kind: [] for kind in KINDS}
        seconds = dict.fromkeys(KINDS, 0.0)
        for _ in range(draws):
            drawn = [rng.choice(groups[p], 2, replace=False) for p in rng.choice(names, n, replace=False)]
            gallery, probes = np.array(drawn).T
            enrolled = gallery[~photos.missing[gallery]]
            found = ~photos.missing[probes]
            for kind in KINDS:
                right = np.zeros(n, bool)
                if found.any() and len(enrolled) >= 2:
                    model = train_model(kind, photos.vectors[enrolled], photos.people[enrolled])
                    people = np.unique(photos.people[enrolled])
                    start = time.perf_counter()
                    scores = model.scores(photos.vectors[probes[found]])
                    best = people[scores.argmax(axis=1)]
                    seconds[kind] += (time.perf_counter() - start) / found.sum()
                    right[found] = best == photos.people[probes[found]]
                accuracy[kind].append(float(right.mean()))
            if n == sizes[-1]:
                ranks.append(_ranks(photos, enrolled, probes))
        for kind in KINDS:
            mean, spread = np.mean(accuracy[kind]), np.std(accuracy[kind], ddof=1) / np.sqrt(draws)
            points[kind].append(IdentifyPoint(n, float(mean), float(spread), seconds_a_photo + seconds[kind] / draws))
    cmc = metrics.cumulative_match(np.concatenate(ranks), MAX_RANK).tolist()
    used = np.concatenate([groups[p] for p in names])
    failures = photos.names[used[photos.missing[used]]].tolist()
    return IdentifyResult(points, cmc, failures, draws)


def _ranks(photos: Photos, enrolled: npt.NDArray[np.intp], probes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Rank of each probe's person among the enrolled, 1 = closest; 0 without a face on either side."""
    apart = metrics.distances(photos.vectors[probes], photos.vectors[enrolled])
    own = photos.people[probes][:, None] == photos.people[enrolled]
    mate = np.where(own, apart, np.inf).min(axis=1)
    rank = 1 + (apart < mate[:, None]).sum(axis=1)
    return np.where(np.isfinite(mate), rank, 0)


# --- open-set identification ---------------------------------------------------------------------


@dataclass(frozen=True)
class OpenSetResult:
    """Open-set search: some people are enrolled, the others are strangers.

    Attributes:
        gallery: enrolled people; photos each.
        photos_each: enrolled for each of them.
        probes: mated searches, over all draws.
        impostors: searches by strangers, over all draws.
        fnir_at_fpir: kind → FPIR → mean FNIR over the draws; None where the strangers cannot carry it.
        intervals: kind → FPIR → 95 % of that mean, over the draws.
        curves: kind → (FPIR, FNIR) of one draw, for the DET plot.
        failures: photos without a face; they are in the denominators.
    """

    gallery: int
    photos_each: int
    probes: int
    impostors: int
    fnir_at_fpir: dict[str, dict[float, float | None]]
    intervals: dict[str, dict[float, tuple[float, float]]]
    curves: dict[str, tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]] = field(repr=False)
    failures: list[str]
    draws: int

    def to_json(self) -> dict[str, Any]:
        def text(rates: dict[float, Any]) -> dict[str, Any]:
            return {f"{f:g}": v for f, v in rates.items()}

        return {
            "gallery": self.gallery,
            "photos_each": self.photos_each,
            "probes": self.probes,
            "impostors": self.impostors,
            "draws": self.draws,
            "fnir_at_fpir": text(self.fnir_at_fpir["nearest"]),
            "gates": {
                kind: {"fnir_at_fpir": text(rates), "intervals": text(self.intervals[kind])}
                for kind, rates in self.fnir_at_fpir.items()
            },
            "failures": self.failures,
        }


def evaluate_open_set(photos: Photos, photos_each: int = 1, seed: int = 0, draws: int = DRAWS) -> OpenSetResult:
    """Half of the people are enrolled with some photos each and searched with the rest; the others are strangers.

    For every kind of classifier the score is the toolkit's own: the distance from the candidate's closest
    photo. A person whose photos to enrol all lack a face is not enrolled, and each search for them fails.

    Raises:
        DataError: too few people with enough photos, or no strangers.
    """
    groups = photos.of_people(1)
    able = sorted(p for p, rows in groups.items() if len(rows) > photos_each)
    if len(able) < 4:
        raise DataError(f"open-set search needs four people with more than {photos_each} photos", "add photos")
    rng = np.random.default_rng(seed)
    fnir: dict[str, dict[float, list[float]]] = {kind: {f: [] for f in FPIRS} for kind in KINDS}
    curves = {}
    probes_total = strangers_total = fewest = 0
    for draw in range(draws):
        enrolled_people = set(rng.choice(able, len(able) // 2, replace=False).tolist())
        gallery_rows: list[int] = []
        probe_rows: list[int] = []
        for person in sorted(enrolled_people):
            rows = rng.permutation(groups[person])
            gallery_rows += rows[:photos_each].tolist()
            probe_rows += rows[photos_each:].tolist()
        stranger_rows = np.concatenate([rows for p, rows in sorted(groups.items()) if p not in enrolled_people])
        gallery = np.array(gallery_rows)
        gallery = gallery[~photos.missing[gallery]]
        probes_total += len(probe_rows)
        strangers_total += len(stranger_rows)
        fewest = len(stranger_rows) if draw == 0 else min(fewest, len(stranger_rows))
        for kind in KINDS:
            found, names = _search(kind, photos, gallery, np.concatenate([probe_rows, stranger_rows]))
            mated, others = found[: len(probe_rows)], found[len(probe_rows) :]
            correct = names[: len(probe_rows)] == photos.people[probe_rows]
            for rate in FPIRS:
                fnir[kind][rate].append(metrics.fnir_at_fpir(mated, correct, others, rate)[0])
            if draw == 0:
                cuts = np.unique(np.concatenate([mated, others]))
                cuts = cuts[np.isfinite(cuts)]
                hits = np.sort(mated[correct])
                curves[kind] = (
                    np.searchsorted(np.sort(others), cuts, side="right") / len(others),
                    1 - np.searchsorted(hits, cuts, side="right") / len(mated),
                )

    def mean(kind: str, rate: float) -> float | None:
        return float(np.mean(fnir[kind][rate])) if metrics.enough_for(rate, fewest) else None

    def spread(kind: str, rate: float) -> tuple[float, float]:
        low, high = np.quantile(fnir[kind][rate], (0.025, 0.975))
        return float(low), float(high)

    return OpenSetResult(
        len(able) // 2,
        photos_each,
        probes_total,
        strangers_total,
        {kind: {rate: mean(kind, rate) for rate in FPIRS} for kind in KINDS},
        {kind: {r: spread(kind, r) for r in FPIRS if mean(kind, r) is not None} for kind in KINDS},
        curves,
        photos.names[photos.missing].tolist(),
        draws,
    )


def _search(
    kind: str, photos: Photos, gallery: npt.NDArray[np.intp], probes: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float64], StrArray]:
    """(distance, candidate) of each probe; (infinity, "") where it has no face."""
    distance = np.full(len(probes), np.inf)
    names = np.full(len(probes), "", photos.people.dtype)
    found = ~photos.missing[probes]
    model = train_model(kind, photos.vectors[gallery], photos.people[gallery])
    people, owner = np.unique(photos.people[gallery], return_inverse=True)
    best = model.scores(photos.vectors[probes[found]]).argmax(axis=1)
    apart = metrics.distances(photos.vectors[probes[found]], photos.vectors[gallery])
    distance[found] = np.where(owner[None] == best[:, None], apart, np.inf).min(axis=1)
    names[found] = people[best]
    return distance, names
