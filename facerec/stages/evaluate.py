"""evaluate: a folder of labelled photographs → error rates, as a `Report` to read and as JSON."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facerec import plots, protocols
from facerec.artifacts import load_embeddings, write_text
from facerec.classify import Classifier
from facerec.draw import GREEN, ORANGE, RED, contact_sheet
from facerec.errors import DataError, InputError, SpaceError, UsageError
from facerec.images import encode_image, find_images, natural_key, read_below, read_image
from facerec.manifests import Manifest, read_manifest
from facerec.metrics import distances, mcnemar, read_pairs, share_by_person, uneven, write_pairs
from facerec.paths import GALLERY
from facerec.protocols import PairsResult, Photos
from facerec.recognizer import find_and_embed
from facerec.report import Report
from facerec.stages.common import require_folder
from facerec.stages.detect import NO_FACE_FOUND, detect
from facerec.stages.embed import embed
from facerec.stages.train import NO_FACE, UNKNOWN
from facerec.types import Detector, Embedder, Embeddings, FaceChoice, Failure, Image, Progress, no_progress

TIMED = 15  # photos on which the seconds a sample are measured
MOST_NAMED = 20  # photos that a summary names
WORST = 24  # mistakes on the contact sheet
BLANK = np.full((160, 160, 3), 255, np.uint8)


@dataclass(frozen=True)
class Engine:
    """What turns photographs into vectors, with every setting that changes them.

    Attributes:
        threads: of the embedder, inside one batch; where there are several, it gets one batch at a time.
    """

    detector: Detector
    embedder: Embedder
    faces: FaceChoice
    min_face: int
    min_confidence: float | None
    threads: int = 1

    def settings(self, data: Path) -> dict[str, Any]:
        """For the report, and to tell caches apart."""
        return {
            "data": str(data.absolute()),
            "detector": self.detector.name,
            "min_face": self.min_face,
            "min_confidence": self.min_confidence,
            "faces": self.faces,
            "embedder": self.embedder.name,
            "space": self.embedder.space.to_json(),
        }


def load_photos(
    data: Path,
    cache: Path,
    engine: Engine,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    progress: Progress = no_progress,
) -> Photos:
    """Vectors of all photos of a folder of people. What is in the cache already, by content, is taken over.

    Args:
        data: ``NAME/*.jpg``, on disk or in a store.
        cache: a folder; each engine and each data folder has one of its own in it.
        engine: detector and embedder.
        jobs: photos treated side by side.
        cluster: where else they are treated, see `facerec.parallel.spread`.
        progress: shows how far it is.

    Raises:
        UsageError: no such folder, or no photos.
        DataError: not one face.
    """
    require_folder(data, "give a folder with a folder a person")
    photos = find_images(data)
    if all(path.parent == data for path in photos):
        raise UsageError(f"no photos in folders of {data}", f"put them into {data}/NAME/, a folder a person")
    key = hashlib.sha256(json.dumps(engine.settings(data), sort_keys=True).encode()).hexdigest()[:12]
    faces, vectors = cache / key / "faces", cache / key / "faces.npz"
    detect(
        data,
        faces,
        detector=engine.detector,
        crop=engine.embedder.space.crop,
        size=engine.embedder.input_size,
        faces=engine.faces,
        min_face=engine.min_face,
        min_confidence=engine.min_confidence,
        test_size=0.0,
        jobs=jobs,
        cluster=cluster,
        progress=progress,
    )
    records = {record.input: record for record in read_manifest(faces)}
    if not any(record.outputs for record in records.values()):
        raise DataError(f"not one face in the {len(photos)} photos of {data}", "give photos that show people's faces")
    batches = jobs if engine.threads == 1 else 1
    embed(faces, vectors, embedder=engine.embedder, jobs=batches, cluster=cluster, progress=progress)
    embeddings = load_embeddings(vectors)
    row_of = {str(source): i for i, source in enumerate(embeddings.sources)}
    input_of = Manifest(faces).key
    reasons = {failure.source: failure.reason for failure in embeddings.failures}
    names, people, rows, failed = [], [], [], []
    for path in photos:
        record = records.get(input_of(path))
        if record and record.label:  # else it is in no person's folder
            names.append(path.relative_to(data).as_posix())
            people.append(record.label)
            made = record.outputs[0]["path"] if record.outputs else ""
            rows.append(row_of.get(made, -1))
            if rows[-1] < 0 and (reason := record.error or reasons.get(made, "")) != NO_FACE_FOUND:
                failed.append(Failure(names[-1], reason, record.label))
    found = np.array(rows)
    filled = np.full((len(rows), embeddings.vectors.shape[1]), np.nan, np.float32)
    filled[found >= 0] = embeddings.vectors[found[found >= 0]]
    return Photos(np.array(names), np.array(people), filled, tuple(failed))


def pairs(photos: Photos, settings: dict[str, Any], output: Path, listed: Path | None, seed: int) -> Report:
    """Verification: LFW's View 2 on listed pairs, or on pairs drawn from the folder and saved."""
    if listed is None:
        listed = draw_pairs(photos, output / "pairs_drawn.json", seed)
        chosen = read_pairs(listed)
        origin = f"{len(chosen)} pairs drawn from the folder with seed {seed}, saved in {listed}"
    else:
        chosen = read_pairs(listed)
        origin = f"the {len(chosen)} pairs of {listed}"
    result = protocols.evaluate_pairs(photos, chosen, seed)
    rows = [
        [
            "accuracy, mean of the folds",
            f"{result.accuracy:.4f} ± {result.standard_error:.4f}",
            _range(result.interval),
        ],
        ["accuracy without pairs that lack a face", f"{result.accuracy_without_failures:.4f}", ""],
        ["area under the curve", f"{result.auc:.5f}", _range(result.auc_interval)],
        ["equal error rate", f"{result.eer:.4f}", _range(result.eer_interval)],
    ]
    for far, value in result.tar_at_far.items():
        texts = ["not enough data", ""] if value is None else [f"{value[0]:.4f}", _range(value[1])]
        rows.append([f"TAR at FAR {far:g}", *texts])
    same, finite = result.same, np.isfinite(result.distances)
    summary = [
        f"Same person or not, on {origin}: {int(same.sum())} genuine, {int((~same).sum())} impostor.",
        "Each fold is judged at the threshold that is best on the others; ± is the standard error of the mean.",
        "Intervals: 95 %, people drawn again with replacement.",
        f"{len(result.failures)} pairs have a photo without a face: errors in the accuracy; in the other rates they "
        "match nobody.",
    ]
    summary += [f"no face: {p.first} or {p.second}" for p in result.failures[:MOST_NAMED]]
    summary += _unread(photos.failed)
    return Report(
        "pairs",
        "Verification of pairs",
        summary,
        result.to_json(),
        {**settings, "pairs": str(listed)},
        [("Results", ["measure", "value", "95 %"], rows)],
        [
            ("ROC", _roc({"ROC": result})),
            ("Distances", plots.distances(result.distances[same & finite], result.distances[~same & finite])),
        ],
    )


def _roc(results: dict[str, PairsResult]) -> bytes:
    lines = {}
    for name, result in results.items():
        floor = 0.5 / (~result.same).sum()  # stands for none at all, which a logarithmic axis cannot show
        lines[name] = np.maximum(result.rates.fmr[1:], floor), 1 - result.rates.fnmr[1:]
    return plots.curves(lines, "ROC", "false accept rate", "true accept rate", log="x")


def draw_pairs(photos: Photos, path: Path, seed: int) -> Path:
    """Draws pairs from a folder and saves them."""
    write_text(path, write_pairs(protocols.make_pairs(photos, seed=seed)))
    return path


def _unread(failed: Iterable[Failure]) -> list[str]:
    """What there is to say of photos that could not be read."""
    lines = sorted({f"cannot be read, and so has no face: {f.source}: {f.reason}" for f in failed}, key=natural_key)
    return lines if len(lines) <= MOST_NAMED else [*lines[:MOST_NAMED], f"… and {len(lines) - MOST_NAMED} more"]


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} – {interval[1]:.4f}"


def compare(variants: dict[str, Photos], settings: dict[str, Any], listed: Path, seed: int) -> Report:
    """The same pairs under several settings; each against the first, by McNemar's test on the pairs' answers."""
    chosen = read_pairs(listed)
    results = {name: protocols.evaluate_pairs(photos, chosen, seed) for name, photos in variants.items()}
    first, *_ = results.values()
    rows, figures = [], {}
    for name, result in results.items():
        p = mcnemar(first.right, result.right)
        gain = result.resampled - first.resampled
        low, high = (float(v) for v in np.quantile(gain, (0.025, 0.975)))
        verdict = "" if result is first else f"p = {p:.3f}" + (", more than chance" if p < 0.05 else "")
        difference = "" if result is first else f"{low:+.4f} – {high:+.4f}"
        accuracy = f"{result.accuracy:.4f} ± {result.standard_error:.4f}"
        failures = str(len(result.failures))
        rows.append([name, accuracy, _range(result.interval), f"{result.eer:.4f}", failures, difference, verdict])
        figures[name] = {**result.to_json(), "p_against_first": p, "difference_interval": [low, high]}
    head = ["setting", "accuracy", "95 %", "EER", "no face", "gain on the first, 95 %", "McNemar"]
    return Report(
        "compare",
        "Settings compared on the same pairs",
        [
            f"{len(chosen)} pairs of {listed}; each fold is judged at the threshold that is best on the others.",
            "Against the first: the interval of the gain, people drawn again with replacement, and McNemar's exact "
            "test on the pairs that only one of the two gets right. Of many settings some look better by chance: "
            "choose on one set of people, report on another.",
            *_unread({failure for photos in variants.values() for failure in photos.failed}),
        ],
        {"variants": figures},
        {**settings, "pairs": str(listed)},
        [("Settings", head, rows)],
        [("ROC", _roc(results))],
    )


def identify(photos: Photos, settings: dict[str, Any], seconds: float, seed: int) -> Report:
    """Closed set: one photo enrolled and one searched a person, for growing galleries."""
    result = protocols.evaluate_identify(photos, seconds, seed)
    rows = []
    for at_n in zip(*result.points.values(), strict=True):
        accuracies = [f"{p.accuracy:.4f} ± {p.standard_error:.4f} ({_range(p.interval)})" for p in at_n]
        rows.append([str(at_n[0].n), *accuracies, f"{max(p.seconds_per_sample for p in at_n):.4f}"])
    ranks = list(range(1, len(result.cmc) + 1))
    lines = {kind: ([p.n for p in points], [p.accuracy for p in points]) for kind, points in result.points.items()}
    return Report(
        "identify",
        "Closed-set identification",
        [
            f"N people, one photo enrolled and another searched; mean of {result.draws} draws ± its standard error, "
            "which tells how much depends on what is drawn; in brackets 95 %, people drawn again with replacement.",
            f"Seconds a sample: detection and embedding {seconds:.4f} (mean of {TIMED} photos) and the search.",
            f"{len(result.failures)} photos have no face; a search that needs one fails.",
            *_unread(photos.failed),
        ],
        result.to_json(),
        {**settings, "draws": result.draws},
        [
            ("Accuracy", ["N", *result.points, "seconds a sample"], rows),
            (f"Rank at N = {rows[-1][0]}", [f"{k}" for k in ranks], [[f"{v:.4f}" for v in result.cmc]]),
        ],
        [
            ("Accuracy over the gallery", plots.curves(lines, "one photo enrolled", "people", "accuracy", points=True)),
            ("Cumulative match", plots.curves({"CMC": (ranks, result.cmc)}, "CMC", "rank", "share found", points=True)),
        ],
    )


def open_set(photos: Photos, settings: dict[str, Any], photos_each: int, size: int | None, seed: int) -> Report:
    """Some people enrolled, the others strangers."""
    result = protocols.evaluate_open_set(photos, photos_each, size, seed)
    rows = []
    for name, rates in result.fnir_at_fpir.items():
        cells = [
            "not enough data" if value is None else f"{value:.4f} ({_range(result.intervals[name][rate])})"
            for rate, value in rates.items()
        ]
        rows.append([name, *cells])
    head = ["candidate by, gate", *(f"FNIR at FPIR {rate:g}" for rate in protocols.FPIRS)]
    promises = [
        [name, f"{p.fpir:.4f} ({_range(p.fpir_interval)})", f"{p.fnir:.4f} ({_range(p.fnir_interval)})"]
        for name, p in result.promises.items()
    ]
    # half an error stands for none at all, which a logarithmic axis cannot show
    least = [0.5 * result.draws / searches for searches in (result.impostors, result.probes)]
    det = {
        k: tuple(np.maximum(rates, floor) for rates, floor in zip(curve, least, strict=True))
        for k, curve in result.curves.items()
        if "svm" not in k
    }
    photos_text = f"{photos_each} photo{'s' if photos_each > 1 else ''} each"
    gate = result.gate
    return Report(
        "open-set",
        "Open-set search",
        [
            f"A gallery of {result.gallery} people with {photos_text}; {result.probes} searches for them and "
            f"{result.impostors} by strangers, over {result.draws} draws of people.",
            "FPIR: share of strangers who get a name. FNIR: share of enrolled people who get none, or another's.",
            "Gates: the distance to the candidate's closest photo; or, within the threshold, the margin by which "
            "everybody else is further away.",
            "First table: the cut is taken on the same searches (NIST FRTE 1:N); in brackets the middle 95 % of the "
            "draws. Second table: gate and searches share no person; in brackets 95 %, people drawn again.",
            f"The gate chosen on everybody, for one false match in {1 / protocols.FMR:g} pairs and one named stranger "
            f"in {1 / protocols.FPIR:g}: "
            + (f"threshold {gate.threshold:.3f}, margin {gate.margin:.3f}." if gate else "not enough data."),
            *([uneven(result.fmr_of_each)] if result.fmr_of_each else []),
            f"{len(result.failures)} photos have no face; they stay in the denominators, enrolled or searched.",
            *_unread(photos.failed),
        ],
        result.to_json(),
        {**settings, "draws": result.draws, "photos_each": photos_each},
        [
            ("False negatives at stated false positives", head, rows),
            (
                f"Gate chosen on one half of the people, measured on the other (gallery of {result.promised_gallery})",
                ["candidate by, gate", "FPIR", "FNIR"],
                promises,
            ),
        ],
        [("Detection error trade-off, first draw", plots.curves(det, "DET", "FPIR", "FNIR", log="xy"))],
    )


def seconds_a_photo(data: Path, photos: Photos, engine: Engine, seed: int) -> float:
    """Mean seconds of reading nothing but finding and embedding the face of some photos, one at a time."""
    drawn = np.random.default_rng(seed).choice(photos.names, min(TIMED, len(photos.names)), replace=False)
    images = []
    for name in drawn:
        try:
            images.append(read_image(data / str(name)))
        except InputError:
            continue
    if not images:
        raise DataError(f"no photo in {data} can be read", "check the folder")
    find_and_embed(images[0], engine.detector, engine.embedder, engine.faces)
    start = time.perf_counter()
    for image in images:
        find_and_embed(image, engine.detector, engine.embedder, engine.faces)
    return (time.perf_counter() - start) / len(images)


def classifier(path: Path, embeddings_path: Path, processed: Path) -> Report:
    """A trained classifier on the test faces of the user's own folder."""
    from sklearn.metrics import classification_report

    trained, embeddings = Classifier.load(path), load_embeddings(embeddings_path)
    if trained.photos.space != embeddings.space:
        raise SpaceError(
            f"{path} is of {trained.photos.space}, {embeddings_path} of {embeddings.space}",
            "`facerec train` makes a classifier of these embeddings",
        )
    test = embeddings[embeddings.splits == "test"]
    lost = [f for f in embeddings.failures if f.split == "test"]
    if len(test) + len(lost) == 0:
        raise DataError(f"{embeddings_path} holds no test faces", "run `facerec detect` and `facerec embed` first")
    seen = np.isin(test.digests, trained.photos.digests)
    photos = len(test) + len(lost)
    test = test[~seen & np.isin(test.labels, trained.people)]
    lost = [f for f in lost if f.label in trained.people]
    if len(test) + len(lost) == 0:
        raise DataError(
            f"{path} was trained on all {photos} test photos, or does not know their people",
            "give the classifier that was trained on these embeddings",
        )
    left_out = [
        f"{n} more photo{' is' if n == 1 else 's are'} left out: {why}."
        for n, why in (
            (int(seen.sum()), "the classifier was trained on them"),
            (photos - len(test) - len(lost) - int(seen.sum()), "it does not know their people"),
        )
        if n
    ]
    decisions = trained.decide_photos(test)
    truth = [*test.labels.tolist(), *(f.label for f in lost)]
    answers = [*(d.name or UNKNOWN for d in decisions), *([NO_FACE] * len(lost))]
    refused, missed = answers.count(UNKNOWN), answers.count(NO_FACE)
    hit = np.array(truth) == np.array(answers)
    accuracy, interval = share_by_person(hit, np.array(truth), np.random.default_rng(0))
    people = sorted(set(truth))
    detail = classification_report(truth, answers, labels=people, output_dict=True, zero_division=0.0)
    rows = [
        [p, f"{detail[p]['precision']:.3f}", f"{detail[p]['recall']:.3f}", f"{detail[p]['support']:.0f}"]
        for p in people
    ]

    pictures = [("Confusion matrix", plots.confusion_matrix(truth, answers, f"{path.stem}: {accuracy:.3f}"))]
    bins: list[dict[str, float]] = []
    if trained.platt is not None:
        won = [d.candidate == label for d, label in zip(decisions, test.labels.tolist(), strict=True)]
        bins = reliability([d.probability or 0.0 for d in decisions], won)
        line = {"measured": ([b["probability"] for b in bins], [b["accuracy"] for b in bins])}
        plot = plots.curves(line, "reliability", "probability", "share right", points=True, diagonal=True)
        pictures.append(("Reliability of the probabilities", plot))
    if worst := _worst(trained, test, answers, processed):
        pictures.append(("The worst mistakes: probe, nearest wrong, nearest right", worst))
    wrong = len(truth) - int(hit.sum()) - refused - missed
    return Report(
        "classifier",
        f"The classifier {path.name} on {len(truth)} test photos of {len(people)} people",
        [
            f"Accuracy {accuracy:.4f} (95 %, people drawn again: {_range(interval)}): {hit.sum()} right, "
            f"{wrong} wrong, {refused} refused a name, {missed} without a face.",
            "Only enrolled people are in this test; for strangers see facerec evaluate open-set.",
            *left_out,
        ],
        {
            "accuracy": accuracy,
            "interval": interval,
            "photos": len(truth),
            "trained_on": int(seen.sum()),
            "wrong": wrong,
            "unknown": refused,
            "no_face": missed,
            "people": {p: {m: detail[p][m] for m in ("precision", "recall", "support")} for p in people},
            "reliability": bins,
        },
        {
            "classifier": str(path),
            "kind": trained.kind,
            "gate": trained.gate.to_json(),
            "space": embeddings.space.to_json(),
        },
        [("People", ["person", "precision", "recall", "photos"], rows)],
        pictures,
    )


def reliability(probability: list[float], right: list[bool], bins: int = 10) -> list[dict[str, float]]:
    """Mean probability and share right in bins of equal width; empty bins are left out.

    DeGroot & Fienberg, "The comparison and evaluation of forecasters", 1983.
    """
    p, r = np.array(probability), np.array(right)
    place = np.minimum((p * bins).astype(int), bins - 1)
    return [
        {"probability": float(p[at].mean()), "accuracy": float(r[at].mean()), "photos": int(at.sum())}
        for at in (place == b for b in np.unique(place))
    ]


def _worst(trained: Classifier, test: Embeddings, answers: list[str], processed: Path) -> bytes | None:
    """Contact sheet of the test faces that got no or a wrong name, furthest from their own person first."""
    apart = distances(test.vectors, trained.photos.vectors)
    own = test.labels[:, None] == trained.photos.labels[None]
    mistakes = [i for i, label in enumerate(test.labels) if answers[i] != label]
    tiles = []
    for i in sorted(mistakes, key=lambda i: -np.where(own[i], apart[i], 2.0).min())[:WORST]:
        tiles.append((_crop(processed, test.sources[i]), f"{test.labels[i]} → {answers[i]}", RED))
        for group, colour in ((~own[i], ORANGE), (own[i], GREEN)):
            if not group.any():
                tiles.append((BLANK, "nobody", colour))
                continue
            k = int(np.where(group, apart[i], np.inf).argmin())
            picture = _crop(processed, trained.photos.sources[k])
            tiles.append((picture, f"{trained.photos.labels[k]} {apart[i, k]:.2f}", colour))
    return encode_image(contact_sheet(tiles, columns=6), ".png") if tiles else None


def _crop(processed: Path, source: str) -> Image:
    """A face's picture; white where it is gone."""
    picture = read_below(str(source), [processed, GALLERY.parent])
    return BLANK if picture is None else picture
