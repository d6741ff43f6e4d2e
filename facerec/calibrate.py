"""The gate of a gallery, from its own photos and those of strangers: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facerec import metrics
from facerec.classify import PerPerson
from facerec.errors import DataError
from facerec.types import FloatArray, Gate, StrArray

MAX_ROWS = 4000  # of the gallery; more are drawn


@dataclass(frozen=True)
class Calibration:
    """A gate and what was measured with it.

    Attributes:
        gate: threshold and margin.
        comparisons: of photos of different people.
        genuine: (g,) distances of photos of one person in the gallery.
        impostor: (i,) distances of photos of different people.
        fnmr: share of the genuine comparisons beyond the threshold; None where everybody has one photo.
        fnir: share of the gallery's photos that get no name, or another's, when they are searched among the others;
            None likewise.
        searches: of strangers against the gallery.
        strangers: people among them.
        fpir: share of the searches that get a name, each half of the strangers by a gate that the other half chose;
            None for one stranger.
        fpir_interval: its 95 % interval by identity bootstrap.
        fmr_of_each: person of the gallery → false-match rate with all others, worst first.
    """

    gate: Gate
    comparisons: int
    genuine: npt.NDArray[np.floating]
    impostor: npt.NDArray[np.floating]
    fnmr: float | None
    fnir: float | None
    searches: int
    strangers: int
    fpir: float | None
    fpir_interval: tuple[float, float] | None
    fmr_of_each: dict[str, float]


def calibrate(
    vectors: FloatArray,
    people: StrArray,
    strangers: FloatArray,
    who: StrArray,
    *,
    fmr: float,
    fpir: float,
    seed: int = 0,
) -> Calibration:
    """Chooses the threshold for a false-match rate of pairs, and the margin for a false-positive rate of searches.

    Impostor comparisons are those of the gallery with the strangers, and those of different people in it. Each
    pair of people counts once in the false-match rate, however many photos they have: otherwise one person
    who stands under two names would decide alone.

    Args:
        vectors: (n, d) unit rows, the gallery.
        people: (n,) whose they are.
        strangers: (m, d) unit rows.
        who: (m,) whose they are; nobody of the gallery.
        fmr: share of pairs of different people that may be taken for one.
        fpir: share of strangers' searches that may return a name.
        seed: of the draws.

    Raises:
        DataError: the data cannot carry one of the rates.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(vectors))
    if len(rows) > MAX_ROWS:
        rows = np.sort(rng.choice(rows, MAX_ROWS, replace=False))
    mine, labels = vectors[rows], people[rows]
    _, owner = np.unique(labels, return_inverse=True)
    _, stranger = np.unique(who, return_inverse=True)
    outside = metrics.distances(mine, strangers)
    inside = metrics.distances(mine, mine)
    upper = np.triu(np.ones_like(inside, bool), 1)
    other = owner[:, None] != owner
    impostor = np.concatenate([outside.ravel(), inside[upper & other]])
    genuine = inside[upper & ~other]
    if not metrics.enough_for(fmr, len(impostor)):
        raise DataError(
            f"not enough data for a false-match rate of {fmr:g}: {len(impostor):,} comparisons of different people",
            f"at least {3 / fmr:,.0f} are needed: add strangers with --strangers FOLDER, or ask for a larger --fmr",
        )
    if not metrics.enough_for(fpir, len(strangers)):
        raise DataError(
            f"not enough data for a false-positive rate of {fpir:g}: {len(strangers):,} photos of strangers",
            f"at least {3 / fpir:,.0f} are needed: add some with --strangers FOLDER, or ask for a larger --fpir",
        )
    # people of both sides are numbered in one row: those of the gallery meet one another and the strangers
    n, total = int(owner.max()) + 1, int(owner.max()) + 1 + int(stranger.max()) + 1
    pairs = [
        (np.repeat(owner, len(strangers)), n + np.tile(stranger, len(rows))),
        tuple(owner[side] for side in np.nonzero(upper & other)),
    ]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))

    def threshold_by(chosen: metrics.Bools) -> float:
        """Of the gallery and these of the strangers, (people,)."""
        at = np.concatenate([np.ones(n, bool), chosen])[second]
        return metrics.threshold_by_people(impostor[at], first[at], second[at], fmr)

    everybody = np.ones(total - n, bool)
    threshold = threshold_by(everybody)
    _, interval = metrics.fmr_by_people(impostor, first, second, threshold, rng)
    if interval[0] == 0:
        raise DataError(
            f"not enough people for a false-match rate of {fmr:g}: of {n} in the gallery and {total - n} strangers, "
            f"too few look alike (95 % interval 0 to {interval[1]:.2g})",
            "add strangers with --strangers FOLDER, or ask for a larger --fmr",
        )

    apart = np.sort(PerPerson(vectors, people).distances(strangers), axis=1)
    lead = apart[:, 1] - apart[:, 0] if apart.shape[1] > 1 else np.full(len(apart), np.inf)

    def margin_by(chosen: metrics.Bools, threshold: float) -> float:
        """Of the gallery and these of the strangers, (people,)."""
        if apart.shape[1] == 1:
            return 0.0
        at = chosen[stranger]
        return metrics.margin_at_fpir(np.where(apart[at, 0] <= threshold, lead[at], -np.inf), who[at], fpir, rng)

    margin = margin_by(everybody, threshold)
    share, interval_of_share = None, None
    if total - n > 1:
        passed = np.empty(len(strangers), bool)
        drawn = rng.permutation(total - n) % 2 == 0
        for half in (drawn, ~drawn):
            cut = threshold_by(~half)
            at = half[stranger]
            passed[at] = (apart[at, 0] <= cut) & (lead[at] >= margin_by(~half, cut))
        share, interval_of_share = metrics.share_by_person(passed, who, rng)
    # numbers, since a stranger may be called like somebody in the gallery
    each = metrics.fmr_of_each(np.concatenate([mine, strangers]), np.concatenate([owner, n + stranger]), threshold)
    names = np.unique(labels).tolist()
    worst = sorted(((each[str(i)], name) for i, name in enumerate(names)), key=lambda of: (-of[0], of[1]))
    fnmr = fnir = None
    if len(genuine):
        np.fill_diagonal(inside, np.inf)
        own, others = (np.where(chosen, inside, np.inf).min(axis=1) for chosen in (~other, other))
        named = (own <= threshold) & (others >= own + margin)
        fnmr, fnir = float((genuine > threshold).mean()), float((~named[np.isfinite(own)]).mean())
    source = f"{len(vectors)} photos of {n} people, {len(strangers)} of {total - n} strangers"
    return Calibration(
        Gate(threshold, margin, fmr, interval, source),
        len(impostor),
        genuine,
        impostor,
        fnmr,
        fnir,
        len(strangers),
        total - n,
        share,
        interval_of_share,
        {name: rate for rate, name in worst},
    )
