"""Evaluation protocols: labelled vectors in, error rates with intervals out. No files, no networks.

A photo in which no face was found stays in every denominator: it never matches anybody.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from facerec import metrics, runtime
from facerec.classify import KINDS, PerPerson, train_model
from facerec.errors import DataError
from facerec.metrics import Pair
from facerec.types import Failure, FloatArray, Gate, StrArray

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FPIRS = (1e-1, 1e-2, 1e-3)
GALLERY_SIZES = (10, 20, 40, 60, 80, 100, 120)
DRAWS = 10
MAX_RANK = 10
FMR, FPIR = 1e-3, 1e-2  # what a gate promises where nobody says otherwise
MAX_CALIBRATION = 4000  # photos; all their pairs are compared
CALIBRATION_DRAWS = 10


@dataclass(frozen=True)
class Photos:
    """Photographs of people, as vectors.

    Attributes:
        names: (n,) paths, as pairs name them.
        people: (n,) whose they are.
        vectors: (n, d) float32 unit rows; NaN where no face was found.
        failed: those of them that could not be read.
    """

    names: StrArray
    people: StrArray
    vectors: FloatArray
    failed: tuple[Failure, ...] = ()

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """(n,) photos without a face."""
        return np.isnan(self.vectors[:, 0])

    def of_people(self, least: int) -> dict[str, npt.NDArray[np.intp]]:
        """Person → rows, for those with at least this many photos."""
        people, owner, counts = np.unique(self.people, return_inverse=True, return_counts=True)
        rows = np.split(np.argsort(owner, kind="stable"), np.cumsum(counts)[:-1])
        return {str(p): mine for p, mine in zip(people, rows, strict=True) if len(mine) >= least}


def _side_by_side(calls: Iterable[Any]) -> list[Any]:
    """Results of joblib's delayed calls, one a core."""
    with threadpool_limits(1):  # the threads of BLAS would get in each other's way
        return Parallel(n_jobs=runtime.cpu_count(), prefer="threads")(calls)


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
        resampled: accuracy in each bootstrap sample of people; settings that were evaluated on the same
            pairs with the same seed have the same samples.
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
    resampled: npt.NDArray[np.floating]

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


def evaluate_pairs(
    photos: Photos, pairs: Sequence[Pair], seed: int = 0, draws: int = metrics.BOOTSTRAPS
) -> PairsResult:
    """LFW's View 2 on any pairs: ten folds (or as many as there are), threshold from the others.

    Args:
        photos: those that the pairs name.
        pairs: in folds.
        seed: of the bootstrap.
        draws: bootstrap samples.

    Raises:
        DataError: a pair names a photo that is not there, or there are too few pairs.
    """
    row = {name: i for i, name in enumerate(photos.names.tolist())}
    if unknown := [name for p in pairs for name in (p.first, p.second) if name not in row]:
        raise DataError(f"the pairs name {unknown[0]}, which is not among the photos", "give the folder they come from")
    first, second = (np.array([row[getattr(p, side)] for p in pairs]) for side in ("first", "second"))
    same = np.array([p.same for p in pairs])
    folds, fold = np.unique([p.fold for p in pairs], return_inverse=True)
    if len(folds) < 2 or same.all() or not same.any():
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
    resampled: dict[Any, list[float]] = {"accuracy": [], "auc": [], "eer": []} | {far: [] for far in FARS}
    for weight in metrics.people_drawn_again(len(identities), who[first], who[second], same, rng, draws):
        sample = metrics.error_rates(dist, same, weight)
        drawn, hit = np.bincount(fold, weight), np.bincount(fold, weight * right)
        resampled["accuracy"].append(float((hit[drawn > 0] / drawn[drawn > 0]).mean()))
        resampled["auc"].append(sample.auc)
        resampled["eer"].append(sample.eer)
        for far in FARS:
            resampled[far].append(sample.tar_at_far(far))

    present = len(np.unique(who[np.concatenate([first, second])]))

    def interval(name: Any, value: float) -> tuple[float, float]:
        low, high = (float(v) for v in np.quantile(resampled[name], (0.025, 0.975)))
        return metrics.widened((low, high), value, present) if value in (0, 1) else (low, high)

    impostors = int((~same).sum())
    return PairsResult(
        float(accuracies.mean()),
        float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
        float(without.mean()) if kept.any() else 0.0,
        interval("accuracy", float(accuracies.mean())),
        rates.auc,
        interval("auc", rates.auc),
        rates.eer,
        interval("eer", rates.eer),
        {
            far: (tar := rates.tar_at_far(far), interval(far, tar)) if metrics.enough_for(far, impostors) else None
            for far in FARS
        },
        [p for p, bad in zip(pairs, failed, strict=True) if bad],
        rates,
        dist,
        same,
        right,
        np.array(resampled["accuracy"]),
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
    """One size of gallery: one photo enrolled and one searched a person.

    Attributes:
        n: people.
        accuracy: share found, mean over the draws.
        standard_error: of that mean: how much depends on the photos and people drawn.
        interval: 95 % by identity bootstrap, all draws' searches of one person together.
        seconds_per_sample: detection and embedding included.
    """

    n: int
    accuracy: float
    standard_error: float
    interval: tuple[float, float]
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
    used = np.concatenate([groups[p] for p in names])
    if photos.missing[used].all():
        raise DataError("none of these photos shows a face", "look at the photos, or try a smaller --min-face")
    rng = np.random.default_rng(seed)
    sizes = [n for n in GALLERY_SIZES if n < len(names)] + [len(names)]
    drawn = [
        np.array([rng.choice(groups[p], 2, replace=False) for p in rng.choice(names, n, replace=False)]).T
        for n in sizes
        for _ in range(draws)
    ]
    results = _side_by_side(delayed(_identify)(photos, gallery, probes) for gallery, probes in drawn)
    points: dict[str, list[IdentifyPoint]] = {kind: [] for kind in KINDS}
    for i, n in enumerate(sizes):
        of_n = slice(i * draws, (i + 1) * draws)
        who = photos.people[np.concatenate([probes for _, probes in drawn[of_n]])]
        for kind in KINDS:
            hits, seconds = zip(*(result[kind] for result in results[of_n]), strict=True)
            share, interval = metrics.share_by_person(np.concatenate(hits), who, np.random.default_rng(seed))
            spread = float(np.mean(hits, axis=1).std(ddof=1) / np.sqrt(draws))
            points[kind].append(IdentifyPoint(n, share, spread, interval, seconds_a_photo + float(np.mean(seconds))))
    ranks = [_ranks(photos, gallery, probes) for gallery, probes in drawn[-draws:]]
    cmc = metrics.cumulative_match(np.concatenate(ranks), MAX_RANK).tolist()
    failures = photos.names[used[photos.missing[used]]].tolist()
    return IdentifyResult(points, cmc, failures, draws)


def _identify(
    photos: Photos, gallery: npt.NDArray[np.intp], probes: npt.NDArray[np.intp]
) -> dict[str, tuple[npt.NDArray[np.bool_], float]]:
    """Kind of classifier → (whether each search found its person, seconds a search)."""
    enrolled = gallery[~photos.missing[gallery]]
    found = ~photos.missing[probes]
    if not found.any() or len(enrolled) < 2:
        return dict.fromkeys(KINDS, (np.zeros(len(probes), bool), 0.0))
    people = np.unique(photos.people[enrolled])
    results = {}
    for kind in KINDS:
        model = train_model(kind, photos.vectors[enrolled], photos.people[enrolled])
        start = time.perf_counter()
        best = people[model.scores(photos.vectors[probes[found]]).argmax(axis=1)]
        seconds = (time.perf_counter() - start) / int(found.sum())
        hit = np.zeros(len(probes), bool)
        hit[found] = best == photos.people[probes[found]]
        results[kind] = hit, seconds
    return results


def _ranks(photos: Photos, enrolled: npt.NDArray[np.intp], probes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Rank of each probe's person among the enrolled, 1 = closest; 0 without a face on either side.

    Whoever is as close counts against the search.
    """
    enrolled = enrolled[~photos.missing[enrolled]]
    if not len(enrolled):
        return np.zeros(len(probes), np.intp)
    apart = metrics.distances(photos.vectors[probes], photos.vectors[enrolled])
    own = photos.people[probes][:, None] == photos.people[enrolled]
    mate = np.where(own, apart, np.inf).min(axis=1)
    rank = 1 + ((apart <= mate[:, None]) & ~own).sum(axis=1)
    return np.where(np.isfinite(mate), rank, 0)


# --- open-set identification ---------------------------------------------------------------------

GATES = ("distance", "distance and margin")


@dataclass(frozen=True)
class Promise:
    """Error rates of searches through a gate that was chosen on other people.

    Attributes:
        fpir: share of strangers' searches that return a name, and its 95 % interval by identity bootstrap.
        fnir: share of enrolled people's searches that return no name or a wrong one, likewise.
    """

    fpir: float
    fpir_interval: tuple[float, float]
    fnir: float
    fnir_interval: tuple[float, float]


@dataclass(frozen=True)
class OpenSetResult:
    """Open-set search: some people are enrolled, the others are strangers.

    Attributes:
        gallery: enrolled people.
        photos_each: enrolled for each of them.
        probes: searches for enrolled people, over all draws.
        impostors: searches by strangers, over all draws.
        fnir_at_fpir: "KIND, GATE" → FPIR → FNIR, mean of the draws, the cut taken on the same searches as
            NIST's FRTE 1:N does; None where the strangers cannot carry the rate.
        intervals: the middle 95 % of the draws.
        curves: "KIND, GATE" → (FPIR, FNIR) of the first draw, for the DET plot.
        failures: photos without a face; they are in the denominators.
        draws: of people.
        gate: chosen on all people, for the searches of a gallery like this one; None where they cannot carry its rates.
        fmr_of_each: person → false-match rate with all others at that gate's threshold, worst first; empty without.
        promised_gallery: enrolled people in the searches of `promises`.
        promises: what → rates where gate and searches share no person; empty with fewer than eight people.
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
    gate: Gate | None
    fmr_of_each: dict[str, float]
    promised_gallery: int
    promises: dict[str, Promise]

    def to_json(self) -> dict[str, Any]:
        def text(rates: dict[float, Any]) -> dict[str, Any]:
            return {f"{f:g}": v for f, v in rates.items()}

        return {
            "gallery": self.gallery,
            "photos_each": self.photos_each,
            "probes": self.probes,
            "impostors": self.impostors,
            "draws": self.draws,
            "fnir_at_fpir": text(self.fnir_at_fpir[f"nearest, {GATES[-1]}"]),
            "gates": {
                name: {"fnir_at_fpir": text(rates), "intervals": text(self.intervals[name])}
                for name, rates in self.fnir_at_fpir.items()
            },
            "gate": self.gate and self.gate.to_json(),
            "fmr_of_each": self.fmr_of_each,
            "promised": {"gallery": self.promised_gallery, **{k: vars(p) for k, p in self.promises.items()}},
            "failures": self.failures,
        }


@dataclass(frozen=True)
class _Searches:
    """Searches of one draw: rows of photos, mated ones first, and what each kind of classifier answers.

    Attributes:
        rows: (n,) of the photos.
        mated: how many of them show enrolled people.
        distance: kind → (n,) to the candidate's closest photo; infinity without a face.
        lead: kind → (n,) how much further away everybody else is; minus infinity without a face.
        correct: kind → (mated,) whether the candidate is the right person.
    """

    rows: npt.NDArray[np.intp]
    mated: int
    distance: dict[str, npt.NDArray[np.floating]]
    lead: dict[str, npt.NDArray[np.floating]]
    correct: dict[str, npt.NDArray[np.bool_]]

    def score(self, kind: str, gate: str, threshold: float) -> npt.NDArray[np.floating]:
        """What a gate cuts: the distance, or the lead (negative, so that less is better) within a distance."""
        if gate == "distance":
            return self.distance[kind]
        return np.where(self.distance[kind] <= threshold, -self.lead[kind], np.inf)


def _search(
    photos: Photos, people: Sequence[str], photos_each: int, size: int, rng: np.random.Generator, kinds: Sequence[str]
) -> _Searches:
    """Enrols `size` of `people` and searches with their other photos, and with all photos of the others."""
    groups = photos.of_people(1)
    able = [p for p in people if len(groups[p]) > photos_each]
    enrolled = set(rng.choice(able, size, replace=False).tolist())
    shuffled = {p: rng.permutation(groups[p]) for p in sorted(enrolled)}
    gallery = np.concatenate([rows[:photos_each] for rows in shuffled.values()])
    gallery = gallery[~photos.missing[gallery]]
    mated = np.concatenate([rows[photos_each:] for rows in shuffled.values()])
    rows = np.concatenate([mated, *(groups[p] for p in people if p not in enrolled)])
    found = np.flatnonzero(~photos.missing[rows])
    vectors, labels = photos.vectors[gallery], photos.people[gallery]
    if len(np.unique(labels)) < 2:  # the others' photos have no face: nobody to choose between
        nothing = np.full(len(rows), np.inf), np.full(len(rows), -np.inf), np.zeros(len(mated), bool)
        return _Searches(rows, len(mated), *(dict.fromkeys(kinds, values) for values in nothing))
    by_person = PerPerson(vectors, labels)
    apart = by_person.distances(photos.vectors[rows[found]])
    distance, lead, correct = {}, {}, {}
    for kind in kinds:
        best = train_model(kind, vectors, labels).scores(photos.vectors[rows[found]]).argmax(axis=1)
        own = apart[np.arange(len(best)), best]
        others = np.where(np.arange(apart.shape[1]) == best[:, None], np.inf, apart).min(axis=1)
        names = np.full(len(rows), "", photos.people.dtype)
        names[found] = by_person.people[best]
        distance[kind], lead[kind] = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
        distance[kind][found], lead[kind][found] = own, others - own
        correct[kind] = (names == photos.people[rows])[: len(mated)]
    return _Searches(rows, len(mated), distance, lead, correct)


def choose_gate(
    photos: Photos,
    people: Sequence[str],
    photos_each: int = 1,
    size: int | None = None,
    fmr: float = FMR,
    fpir: float = FPIR,
    seed: int = 0,
) -> Gate:
    """The gate for a stated false-match rate of pairs and false-positive rate of searches.

    The threshold is the largest distance at which at most `fmr` of the pairs of different people are
    accepted. The margin is the smallest at which, with it, at most `fpir` of strangers' searches return
    a name, in 97.5 % of samples of the strangers with replacement: a promise, not a guess at the mean.

    Args:
        photos: of the people.
        people: whose photos to take.
        photos_each: enrolled.
        size: people enrolled; None for half.
        fmr: as said.
        fpir: as said.
        seed: of the draws.

    Raises:
        DataError: faces of fewer than two people.
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(np.isin(photos.people, people) & ~photos.missing)
    if len(rows) > MAX_CALIBRATION:
        rows = np.sort(rng.choice(rows, MAX_CALIBRATION, replace=False))
    apart = metrics.distances(photos.vectors[rows], photos.vectors[rows])
    other = np.triu(photos.people[rows][:, None] != photos.people[rows])
    impostors = apart[other]
    if not len(impostors):
        raise DataError("a gate needs faces of two people", "add photos")
    threshold = max(metrics.threshold_at_fmr(impostors, fmr), 0.0)  # a photo may be there under two names
    counts = Counter(photos.people[np.isin(photos.people, people)].tolist())
    able = sum(n > photos_each for n in counts.values())
    searches = [
        _search(photos, people, photos_each, size or able // 2, rng, ("nearest",)) for _ in range(CALIBRATION_DRAWS)
    ]
    who = np.concatenate([photos.people[s.rows[s.mated :]] for s in searches])
    lead = np.concatenate([-s.score("nearest", GATES[1], threshold)[s.mated :] for s in searches])
    margin = metrics.margin_at_fpir(lead, who, fpir, rng)
    source = f"{len(people)} people, {len(impostors)} impostor pairs, {size or able // 2} enrolled"
    return Gate(threshold, margin, fmr, None, source)


def evaluate_open_set(
    photos: Photos, photos_each: int = 1, size: int | None = None, seed: int = 0, draws: int = DRAWS
) -> OpenSetResult:
    """Some people are enrolled with some photos each and searched with the rest; the others are strangers.

    A person whose photos to enrol all lack a face is not enrolled, and each search for them fails; so does every
    search where this leaves fewer than two people.

    Args:
        photos: of all people.
        photos_each: enrolled.
        size: people enrolled; None for half of those with more photos than that.
        seed: of the draws.
        draws: of people.

    Raises:
        DataError: too few people with enough photos, or no strangers.
    """
    everyone = sorted(photos.of_people(1))
    able = sorted(photos.of_people(photos_each + 1))
    if len(able) < 4:
        raise DataError(f"open-set search needs four people with more than {photos_each} photos", "add photos")
    most = len(able) // 2
    if size is not None and not 2 <= size <= most:
        raise DataError(f"of these people 2 to {most} can be enrolled, not {size}", "change --gallery-size")
    _, with_face = np.unique(photos.people[~photos.missing], return_counts=True)
    if len(with_face) < 2:
        raise DataError("open-set search needs faces of two people", "look at the photos without a face")
    apart = (int(with_face.sum()) ** 2 - int((with_face**2).sum())) // 2  # pairs of different people
    held_out = min(size or most, most // 2)
    gate = choose_gate(photos, everyone, photos_each, size, seed=seed)
    seeds = np.random.default_rng(seed).integers(2**32, size=draws)

    def draw(number: int) -> tuple[_Searches, tuple[Gate, _Searches] | None]:
        rng = np.random.default_rng(number)
        searches = _search(photos, everyone, photos_each, size or most, rng, KINDS)
        if held_out < 2:
            return searches, None
        # two halves of the people, alike in photos: the gate from one, the searches in the other
        halves: tuple[list[str], list[str]] = [], []
        for group in (able, [p for p in everyone if p not in set(able)]):
            mixed = rng.permutation(group).tolist()
            for half, part in zip(halves, np.array_split(mixed, 2), strict=True):
                half += part.tolist()
        try:
            chosen = choose_gate(photos, sorted(halves[0]), photos_each, held_out, seed=number)
        except DataError:  # faces of one person only in this half
            return searches, None
        return searches, (chosen, _search(photos, sorted(halves[1]), photos_each, held_out, rng, KINDS))

    results = _side_by_side(delayed(draw)(int(number)) for number in seeds)
    mine = [searches for searches, _ in results]
    fewest = min(len(s.rows) - s.mated for s in mine)
    rates: dict[str, dict[float, float | None]] = {}
    intervals: dict[str, dict[float, tuple[float, float]]] = {}
    curves = {}
    for kind in KINDS:
        for name in GATES:
            key = f"{kind}, {name}"
            scores = [s.score(kind, name, gate.threshold) for s in mine]
            rates[key], intervals[key] = {}, {}
            for rate in FPIRS:
                if not metrics.enough_for(rate, fewest):
                    rates[key][rate] = None
                    continue
                fnir = [
                    metrics.fnir_at_fpir(score[: s.mated], s.correct[kind], score[s.mated :], rate)[0]
                    for s, score in zip(mine, scores, strict=True)
                ]
                rates[key][rate] = float(np.mean(fnir))
                low, high = np.quantile(fnir, (0.025, 0.975))
                intervals[key][rate] = float(low), float(high)
            curves[key] = metrics.det_curve(
                scores[0][: mine[0].mated], mine[0].correct[kind], scores[0][mine[0].mated :]
            )
    stated = gate if metrics.enough_for(FMR, apart) and metrics.enough_for(FPIR, int(with_face.sum())) else None
    found = ~photos.missing
    each = metrics.fmr_of_each(photos.vectors[found], photos.people[found], stated.threshold) if stated else {}
    return OpenSetResult(
        size or most,
        photos_each,
        sum(s.mated for s in mine),
        sum(len(s.rows) - s.mated for s in mine),
        rates,
        intervals,
        curves,
        photos.names[photos.missing].tolist(),
        draws,
        stated,
        dict(sorted(each.items(), key=lambda of: (-of[1], of[0]))),
        held_out,
        _promises(photos, [pair for _, pair in results if pair], seed),
    )


def _promises(photos: Photos, draws: list[tuple[Gate, _Searches]], seed: int) -> dict[str, Promise]:
    """Rates of all draws pooled, with and without a gate."""
    promises: dict[str, Promise] = {}
    for kind in KINDS if draws else ():
        for name in ("alone", *GATES):
            people, named, missed, strangers = [], [], [], []
            for gate, s in draws:
                far = {"alone": 2.0}.get(name, gate.threshold)
                margin = gate.margin if name == GATES[1] and gate.margin else -np.inf
                passed = (s.distance[kind] <= far) & (s.lead[kind] >= margin)
                people.append(photos.people[s.rows])
                strangers.append(np.arange(len(s.rows)) >= s.mated)
                named.append(passed)
                missed.append(~(passed[: s.mated] & s.correct[kind]))
            who, stranger = np.concatenate(people), np.concatenate(strangers)
            rng = np.random.default_rng(seed)
            fpir = metrics.share_by_person(np.concatenate(named)[stranger], who[stranger], rng)
            fnir = metrics.share_by_person(np.concatenate(missed), who[~stranger], rng)
            promises[f"{kind}, {name}"] = Promise(*fpir, *fnir)
    return promises
