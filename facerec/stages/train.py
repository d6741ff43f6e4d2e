"""train: embeddings/faces.npz → classifiers/KIND.npz, with a report and a confusion matrix beside it."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facerec import catalogue, metrics
from facerec.artifacts import write_bytes, write_text
from facerec.classify import Classifier
from facerec.errors import ArtifactError, DataError
from facerec.galleries.file import held, locked
from facerec.manifests import read_manifest
from facerec.stages.common import require_npz
from facerec.types import ASKED, Embeddings, Gate, StageReport

UNKNOWN, NO_FACE = "unknown", "no face"
FEW = 5
"""People up to whom the default threshold alone keeps strangers out: see docs/choices.md."""
PAIRS, SAMPLED = 1000, 2000
"""Pairs from which their share within the threshold is told, and photos that are looked at for it."""


@dataclass(frozen=True)
class Score:
    """Answers of one split. Photos without a face are in `total`, as errors.

    Attributes:
        total: photos.
        right: answered with the right name.
        unknown: refused a name, though enrolled.
        wrong: given another's name.
        no_face: no face was found.
    """

    total: int
    right: int
    unknown: int
    wrong: int
    no_face: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None without photos."""
        return self.right / self.total if self.total else None

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            **{k: getattr(self, k) for k in ("total", "right", "unknown", "wrong", "no_face")},
        }

    def __str__(self) -> str:
        if not self.total:
            return "no photos"
        parts = [
            f"{n} {what}"
            for n, what in ((self.wrong, "wrong"), (self.unknown, "unknown"), (self.no_face, "no face"))
            if n
        ]
        return f"{self.right}/{self.total} = {self.right / self.total:.3f}" + (
            f" ({', '.join(parts)})" if parts else ""
        )


@dataclass
class TrainReport(StageReport):
    """A `StageReport` with the accuracies and what was written.

    Attributes:
        people: who are known.
        alike: share of their pairs of different people that lie within the threshold; None for too few pairs.
        calibrated: with probabilities.
        gate: of the classifier.
        train: accuracy on the photos it was trained on.
        test: on the others.
        copies: of training photos among the others; left out of `test`.
        changed: crops in `processed` that were not embedded, and such as are gone since; they do not count.
        dropped: the gate of the earlier classifier of that name, where `facerec calibrate` had measured it.
        files: what was written.
    """

    people: int = 0
    alike: float | None = None
    calibrated: bool = False
    gate: Gate = field(default_factory=lambda: Gate(0.0))
    train: Score = field(default_factory=lambda: Score(0, 0, 0, 0, 0))
    test: Score = field(default_factory=lambda: Score(0, 0, 0, 0, 0))
    copies: int = 0
    changed: tuple[int, int] = (0, 0)
    dropped: Gate | None = None
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            **super().to_json(),
            "people": self.people,
            "alike": self.alike,
            "calibrated": self.calibrated,
            "gate": self.gate.to_json(),
            "train": self.train.to_json(),
            "test": self.test.to_json(),
            "copies": self.copies,
            "changed": self.changed,
            "dropped": self.dropped and self.dropped.to_json(),
            "files": [str(f) for f in self.files],
        }


def train(
    inputs: Path,
    output: Path,
    *,
    kind: str,
    threshold: float | None = None,
    margin: float | None = None,
    processed: Path | None = None,
) -> TrainReport:
    """Trains a classifier on the training photos and scores it on both splits.

    Args:
        inputs: usually embeddings/faces.npz.
        output: the classifier to write; its report and confusion matrix go beside it.
        kind: "svm", "knn" or "nearest".
        threshold: distance up to which a face may be given a name; None for the one that the embeddings
            were calibrated to, or else the model's own.
        margin: by which everybody else must be further away; None likewise.
        processed: the crops that were embedded, to see whether they are others now; None not to look.

    Raises:
        ArtifactError: no embeddings.
        DataError: too few people or photos, or a model whose threshold is not known.
    """
    start = time.perf_counter()
    require_npz(output, "classifier")
    with held(inputs) as embeddings:
        report, answers = _train(embeddings, output, kind, threshold, margin)
        if processed is not None:
            report.changed = not_embedded(embeddings, processed)
    report.files = [output, *_write_reports(output, report, answers)]
    report.seconds = time.perf_counter() - start
    return report


def _train(
    embeddings: Embeddings, output: Path, kind: str, threshold: float | None, margin: float | None
) -> tuple[TrainReport, dict[str, list[tuple[str, str]]]]:
    """The classifier, written; what there is to say of it, and its answers."""
    if reserved := {UNKNOWN, NO_FACE} & set(embeddings.people):
        raise DataError(
            f"a person is called {reserved.pop()!r}, which is an answer", "rename the folder in raw_images/"
        )
    gate = default_gate(embeddings, threshold, margin)
    classifier = Classifier.train(kind, embeddings[embeddings.splits == "train"], gate)
    report = TrainReport("train", output, done=len(classifier.photos), people=len(classifier.photos.people))
    with locked(output):
        with contextlib.suppress(ArtifactError):
            before = Classifier.load(output).gate
            measured = before.fmr_interval is not None and before.source != ASKED
            report.dropped = before if measured and gate.fmr_interval is None else None
        classifier.save(output)

    report.calibrated = classifier.platt is not None
    report.gate = gate
    report.alike = within(classifier.photos, gate.threshold)
    copies = (embeddings.splits == "test") & np.isin(embeddings.digests, classifier.photos.digests)
    report.copies = int(copies.sum())
    answers = {split: _answers(classifier, embeddings[~copies], split) for split in ("train", "test")}
    report.train, report.test = (_score(answers[split]) for split in ("train", "test"))
    return report, answers


def not_embedded(embeddings: Embeddings, processed: Path) -> tuple[int, int]:
    """How many crops in a folder the embeddings lack, and how many they have that are no more there.

    Both 0 where nothing of the folder was embedded: they are of another one.
    """
    there = {str(o["path"]) for record in read_manifest(processed) for o in record.outputs}
    known, sources = {f.source for f in embeddings.failures}, {*embeddings.sources.tolist()}
    if not there & sources:
        return 0, 0
    new = sum((processed / path).is_file() for path in there - known - sources)
    return new, len(sources - there)


def within(photos: Embeddings, threshold: float) -> float | None:
    """Share of the pairs of different people's photos that are no further apart, of `SAMPLED` photos at most.

    None where there are fewer than `PAIRS`.
    """
    rows = np.random.default_rng(0).permutation(len(photos))[:SAMPLED]
    labels, vectors = photos.labels[rows], photos.vectors[rows]
    different = labels[:, None] != labels
    if different.sum() < 2 * PAIRS:
        return None
    return float((metrics.distances(vectors, vectors)[different] <= threshold).mean())


def default_gate(
    embeddings: Embeddings, threshold: float | None = None, margin: float | None = None, people: int | None = None
) -> Gate:
    """The gate that vectors were calibrated to, or else their model's; with other numbers where they are given.

    Args:
        embeddings: the vectors.
        threshold: of the gate.
        margin: of the gate.
        people: there are; None for those of the embeddings.

    Raises:
        DataError: no threshold is known for the model.
    """
    model, weights = embeddings.space.model, embeddings.space.weights
    gate = embeddings.gate or catalogue.gate(model, weights)
    if gate and not embeddings.gate and (len(embeddings.people) if people is None else people) <= FEW:
        gate = replace(gate, margin=0.0)
    if gate is None:
        if threshold is None and model not in catalogue.CATALOGUE and model not in catalogue.tuned_names():
            raise DataError(
                f"the model {model} is not here any more", "`facerec embed` with one that is, or --threshold D"
            )
        if threshold is None:
            raise DataError(
                f"no default distance threshold has been measured for {model}@{weights[:8]}",
                "measure one with `facerec calibrate --gallery FILE.npz --strangers FOLDER`, or give one with "
                "--threshold D, from 0 to 2",
            )
        gate = Gate(threshold)
    return gate.changed(threshold, margin)


def _answers(classifier: Classifier, embeddings: Embeddings, split: str) -> list[tuple[str, str]]:
    """(truth, answer) of every photo of a split, also of those without a face."""
    rows = embeddings[embeddings.splits == split]
    answers = [
        (str(label), decision.name or UNKNOWN)
        for label, decision in zip(rows.labels, classifier.decide_photos(rows), strict=True)
    ]
    return answers + [(f.label, NO_FACE) for f in embeddings.failures if f.split == split]


def _score(answers: list[tuple[str, str]]) -> Score:
    right = sum(truth == answer for truth, answer in answers)
    unknown = sum(answer == UNKNOWN for _, answer in answers)
    no_face = sum(answer == NO_FACE for _, answer in answers)
    return Score(len(answers), right, unknown, len(answers) - right - unknown - no_face, no_face)


def _write_reports(output: Path, report: TrainReport, answers: dict[str, list[tuple[str, str]]]) -> list[Path]:
    from sklearn.metrics import classification_report

    from facerec.plots import confusion_matrix

    split = "test" if answers["test"] else "train"
    truth, found = zip(*answers[split], strict=True)
    labels = sorted(set(truth))
    text, data = (
        classification_report(truth, found, labels=labels, output_dict=as_dict, zero_division=0.0, digits=3)
        for as_dict in (False, True)
    )
    paths = [output.with_suffix(s) for s in (".report.txt", ".report.json", ".confusion.png")]
    title = f"{output.stem}, {split} photos: {report.test if split == 'test' else report.train}"
    write_text(paths[0], f"{title}\n\n{text}")
    body = {"split": split, "train": report.train.to_json(), "test": report.test.to_json(), "people": data}
    write_text(paths[1], json.dumps(body, indent=1, ensure_ascii=False))
    write_bytes(paths[2], confusion_matrix(truth, found, title))
    return paths
