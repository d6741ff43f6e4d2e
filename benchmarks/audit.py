"""`facerec audit` on photographs with swapped labels: what it finds, and what it reports without a cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import Setting, load
from benchmarks.common import Section
from facerec import audit, metrics, protocols
from facerec.catalogue import gate
from facerec.classify import LOOKALIKE
from facerec.types import Crop, Embeddings, Space

SHARE = 0.05
SEEDS = range(5)
LIMITS = (0.0, 0.05, 0.1, 0.15, 0.2)
PAIRS = 30  # people who look most alike
EACH, DRAWS = (1, 2, 3, 4, 5), 20
MARGINS = (0.0, 0.1, 0.25, 0.35, 0.5)
RATE = "{:.1%} ({:.1%} – {:.1%})"
SWAPS = {
    "swaps found": "{:.1%}",
    "false alarms per 100 photos": "{:.2f}",
    "with the labels as they are": "{:.2f}",
}
NAMES = {
    "people under two names found": "{:.1%}",
    "such false alarms per 100 people": "{:.1f}",
    "names of two people found": "{:.1%}",
    "of these false alarms": "{:.1f}",
}

Labels = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class People:
    """Vectors (n, d) and their true people 0…, each with two photos or more."""

    vectors: npt.NDArray[np.float32]
    truth: Labels

    def some(self, people: Sequence[int]) -> People:
        rows = np.isin(self.truth, people)
        return People(self.vectors[rows], np.unique(self.truth[rows], return_inverse=True)[1])

    def labelled(self, labels: Labels) -> Embeddings:
        text = np.array([f"{label:05d}" for label in labels])
        return Embeddings(self.vectors, text, text, text, text, Space("facenet-128", "", Crop(0), False))


def halves() -> list[People]:
    """Two halves of the people: limits are chosen on the first, rates are the second's."""
    photos = load(Setting())
    rows = ~photos.missing
    everybody = People(photos.vectors[rows], np.unique(photos.people[rows], return_inverse=True)[1])
    people = np.random.default_rng(0).permutation(int(everybody.truth.max()) + 1).tolist()
    half = len(people) // 2
    return [everybody.some(people[:half]), everybody.some(people[half:])]


def swapped(people: People, seed: int) -> tuple[Labels, Bools]:
    """Labels of which a share is another person's, drawn at random, and which those are."""
    rng = np.random.default_rng(seed)
    n = int(people.truth.max()) + 1
    rows = rng.choice(len(people.truth), round(SHARE * len(people.truth)), replace=False)
    labels = people.truth.copy()
    labels[rows] = (labels[rows] + rng.integers(1, n, len(rows))) % n
    return labels, labels != people.truth


def split(people: People, seed: int) -> Labels:
    """Half of the people, drawn at random, have half of their photos under a second name."""
    rng = np.random.default_rng(seed)
    n = int(people.truth.max()) + 1
    labels = people.truth.copy()
    for p in rng.choice(n, n // 2, replace=False):
        rows = rng.permutation(np.flatnonzero(people.truth == p))
        labels[rows[: len(rows) // 2]] = n + p
    return labels


def joined(people: People, seed: int) -> Labels:
    """Half of the people, drawn at random, share a name with another of them."""
    order = np.random.default_rng(seed).permutation(int(people.truth.max()) + 1)
    order = order[: len(order) // 4 * 2]
    names = np.arange(len(order) * 4)
    names[order[::2]] = order[1::2]
    return names[people.truth]


CHANGES: dict[str, Callable[[People, int], Labels]] = {"same person?": split, "two people?": joined}


def of_kind(findings: list[audit.Finding], kind: str) -> list[audit.Finding]:
    return [f for f in findings if f.kind == kind]


def chosen(section: Section, part: People, threshold: float) -> None:
    """All findings by the limit that they share."""
    rows, default = [], audit.CLEARLY
    for limit in LIMITS:
        audit.CLEARLY = limit
        swaps = of_swaps(part, threshold)
        names = [value for kind in CHANGES for value in of_names(part, threshold, kind)]
        rows.append([limit, swaps.found, swaps.alarms, swaps.clean, *names])
    audit.CLEARLY = default
    section.table(
        "By how far from the threshold a distance must be before a label is doubted; the half of the people that "
        "this limit is chosen on",
        {"limit": "{:.2f}", **SWAPS, **NAMES},
        rows,
    )


def kept(section: Section, part: People, threshold: float) -> None:
    """The findings on people that nothing was chosen on."""
    swaps = of_swaps(part, threshold)
    names = [value for kind in CHANGES for value in of_names(part, threshold, kind)]
    section.table(
        f"At {audit.CLEARLY}, the other half of the people; in brackets 95 %, people drawn again",
        {"limit": "{:.2f}", **SWAPS, "swaps found": RATE, "by any finding": "{:.1%}", **NAMES},
        [[audit.CLEARLY, (swaps.found, *swaps.interval), swaps.alarms, swaps.clean, swaps.by_any, *names]],
    )


@dataclass(frozen=True)
class Swaps:
    """Rates of `mislabelled?`.

    Attributes:
        found: share of the swaps.
        interval: its 95 %.
        alarms: photos with their right label that are doubted, per 100.
        clean: the same where no label is swapped.
        by_any: share of the swaps that this or another finding points at.
    """

    found: float
    interval: tuple[float, float]
    alarms: float
    clean: float
    by_any: float


def of_swaps(part: People, threshold: float) -> Swaps:
    """What is said of swapped labels."""
    hit, who, touched, right = [], [], [], []
    for seed in SEEDS:
        labels, wrong = swapped(part, seed)
        findings = audit.audit(part.labelled(labels), threshold, 1)
        doubted = _doubted(of_kind(findings, "mislabelled?"), len(labels))
        # "two people?" points at the smaller group; "same person?" at a name whose only photo is another's
        pointed = _doubted(of_kind(findings, "two people?"), len(labels), 1)
        for finding in of_kind(findings, "same person?"):
            for group in finding.photos:
                pointed[list(group)] |= len(group) == 1
        hit.append(doubted[wrong])
        who.append(part.truth[wrong])
        touched.append((doubted | pointed)[wrong])
        right.append(doubted[~wrong])
    share, interval = metrics.share_by_person(np.concatenate(hit), np.concatenate(who), np.random.default_rng(0))
    clean = _doubted(of_kind(audit.audit(part.labelled(part.truth), threshold, 1), "mislabelled?"), len(part.truth))
    alarms = 100 * float(np.concatenate(right).mean())
    return Swaps(share, interval, alarms, 100 * float(clean.mean()), float(np.concatenate(touched).mean()))


def of_names(part: People, threshold: float, kind: str) -> tuple[float, float]:
    """Share of people under two names (or of names that hold two) that is found, and false alarms per 100 people."""
    people = int(part.truth.max()) + 1
    found = cases = 0
    for seed in SEEDS:
        labels = CHANGES[kind](part, seed)
        used = np.unique(labels)
        if kind == "same person?":
            wanted = {(f"{a - people:05d}", f"{a:05d}") for a in used.tolist() if a >= people}
        else:
            wanted = {(f"{a:05d}",) for a in used.tolist() if len(np.unique(part.truth[labels == a])) > 1}
        cases += len(wanted)
        found += len({f.people for f in of_kind(audit.audit(part.labelled(labels), threshold, 1), kind)} & wanted)
    clean = of_kind(audit.audit(part.labelled(part.truth), threshold, 1), kind)
    return found / cases, 100 * len(clean) / people


def _doubted(findings: list[audit.Finding], n: int, group: int = 0) -> Bools:
    """(n,) which photos are in a group of the findings."""
    rows = np.zeros(n, bool)
    rows[[i for f in findings for i in f.photos[group]]] = True
    return rows


def lookalikes(section: Section, part: People, threshold: float) -> None:
    """The most alike pairs: each photo is searched among the other photos of the two."""
    apart = audit.between_people(part.vectors, part.truth)
    upper = np.triu_indices(len(apart), 1)
    lead, near = [], []
    for k in np.argsort(apart[upper], kind="stable")[:PAIRS]:
        for own, other in ((upper[0][k], upper[1][k]), (upper[1][k], upper[0][k])):
            mine, theirs = part.vectors[part.truth == own], part.vectors[part.truth == other]
            among = metrics.distances(mine, mine)
            np.fill_diagonal(among, np.inf)
            a, b = among.min(axis=1), metrics.distances(mine, theirs).min(axis=1)
            lead += (b - a).tolist()
            near += np.minimum(a, b).tolist()
    ahead, inside = np.array(lead), np.array(near) <= threshold
    section.table(
        f"The {PAIRS} pairs of people who look most alike ({len(ahead)} searches): what a margin between the two does",
        {"margin": "{:.2f}", "right name": "{:.1%}", "the other's name": "{:.1%}"},
        [
            [
                m,
                float((inside & (ahead > 0) & (ahead >= m)).mean()),
                float((inside & (ahead < 0) & (-ahead >= m)).mean()),
            ]
            for m in MARGINS
        ],
    )


def duplicates(section: Section, parts: list[People]) -> None:
    """The closest photos of one person and of two."""
    vectors = np.concatenate([part.vectors for part in parts])
    truth = np.concatenate([parts[0].truth, parts[1].truth + len(parts[0].truth)])
    upper = np.triu_indices(len(vectors), 1)
    apart, same = metrics.distances(vectors, vectors)[upper], (truth[:, None] == truth)[upper]
    section.table(
        f"The closest pairs of photos; up to {audit.DUPLICATE} they are called one picture",
        {"photos of": "{}", **{f"{k}.": "{:.3f}" for k in range(1, 9)}},
        [["one person", *np.sort(apart[same])[:8].tolist()], ["two people", *np.sort(apart[~same])[:8].tolist()]],
    )


def needed(section: Section) -> None:
    """How many photos a person needs."""
    photos = load(Setting())
    rows = np.isin(photos.people, list(photos.of_people(max(EACH) + 1)))
    photos = protocols.Photos(photos.names[rows], photos.people[rows], photos.vectors[rows])
    refused = []
    for each in EACH:
        gates = protocols.evaluate_open_set(photos, each, draws=DRAWS).to_json()["gates"]
        refused.append(
            [each, *(gates["nearest, distance and margin"]["fnir_at_fpir"][rate] for rate in ("0.1", "0.01"))]
        )
    section.table(
        f"Enrolled people who get no name or another's where one stranger in ten, or in a hundred, gets one; half of "
        f"{len(set(photos.people))} people enrolled, {DRAWS} draws",
        {"photos each": "{}", "FNIR at FPIR 0.1": "{:.1%}", "FNIR at FPIR 0.01": "{:.1%}"},
        refused,
    )


def main(section: Section) -> None:
    """All tables."""
    parts = halves()
    default = gate("facenet-128")
    assert default is not None
    counts = " and ".join(f"{len(p.truth)} photos of {int(p.truth.max()) + 1}" for p in parts)
    section.note(
        f"Two halves of the people of Labeled Faces in the Wild: {counts} people. The threshold is the catalogue's, "
        f"{default.threshold}. LFW's own label errors count as false alarms. A declared look-alike must be further "
        f"away by the gate's margin, {default.margin}, and {LOOKALIKE}. {SHARE:.0%} of the labels are swapped for a "
        f"random other person's; half of the people get two names, or two one; {len(SEEDS)} draws each."
    )
    chosen(section, parts[0], default.threshold)
    kept(section, parts[1], default.threshold)
    lookalikes(section, parts[1], default.threshold)
    duplicates(section, parts)
    needed(section)
