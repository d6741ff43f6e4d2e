"""The decision: which enrolled person is this face, or none of them.

Classifiers are scikit-learn estimators with string labels. A distance gate stands behind each of them,
so that a stranger is not given the name of whoever happens to win. On disk: arrays and JSON, from
which the estimator is rebuilt; nothing is unpickled.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from facerec import metrics
from facerec.artifacts import embeddings_from, embeddings_parts, read_npz, write_npz
from facerec.errors import ArtifactError, DataError
from facerec.types import Embeddings, FloatArray

KINDS = ("svm", "knn", "nearest")
FOLDS = 5
NEIGHBOURS = 5

Scores = npt.NDArray[np.floating]
"""(n, people): one column a person, higher = more alike."""


class Prototypes(ClassifierMixin, BaseEstimator):
    """Each person is the mean of their unit vectors, scaled to length 1; the closest one wins."""

    def fit(self, X: FloatArray, y: npt.NDArray[np.str_]) -> Prototypes:
        """Learns the prototypes from unit rows (n, d) and names (n,)."""
        self.classes_ = np.unique(y)
        means = np.stack([X[y == name].mean(axis=0) for name in self.classes_])
        self.prototypes_ = means / np.linalg.norm(means, axis=1, keepdims=True)
        return self

    def decision_function(self, X: FloatArray) -> Scores:
        """Cosine of each row with each prototype, (n, people)."""
        return X @ self.prototypes_.T

    def predict(self, X: FloatArray) -> npt.NDArray[np.str_]:
        """The closest person's name, (n,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]


def make_estimator(kind: str, photos: int) -> Any:
    """An unfitted estimator; `photos` bounds the neighbours that can be asked."""
    if kind == "svm":
        return LinearSVC(C=1.0, random_state=0)
    if kind == "knn":
        return KNeighborsClassifier(n_neighbors=min(NEIGHBOURS, photos), weights="distance")
    return Prototypes()


def scores_of(estimator: Any, vectors: FloatArray) -> Scores:
    """(n, people) scores of a fitted estimator, in the order of its ``classes_``."""
    if not hasattr(estimator, "decision_function"):
        return estimator.predict_proba(vectors)
    scores = np.asarray(estimator.decision_function(vectors))
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


@dataclass(frozen=True)
class Decision:
    """One vector's answer; the fields are those of `facerec.types.Prediction`."""

    name: str | None
    candidate: str
    distance: float
    probability: float | None
    reason: str


class Classifier:
    """An estimator, its calibration, and the photos that it was trained on.

    Attributes:
        kind: "svm", "knn" or "nearest".
        threshold: distance up to which a face may be given a name.
        platt: slope and intercept that turn a score into a probability; None where there were too few
            photos. One pair for all people: Platt, "Probabilistic outputs for support vector machines",
            1999, on scores of held-out photos, pooled.
        photos: the training vectors.
    """

    def __init__(
        self,
        kind: str,
        estimator: Any,
        platt: tuple[float, float] | None,
        photos: Embeddings,
        threshold: float,
    ) -> None:
        self.kind = kind
        self.estimator = estimator
        self.platt = platt
        self.photos = photos
        self.threshold = threshold

    @classmethod
    def train(cls, kind: str, photos: Embeddings, threshold: float) -> Classifier:
        """Fits an estimator to labelled vectors.

        Raises:
            DataError: no photos, or fewer people than this kind can tell apart.
        """
        if len(photos) == 0:
            raise DataError("there are no training photos", "run `facerec detect` and `facerec embed` first")
        if kind == "svm" and len(photos.people) < 2:
            raise DataError(
                f"an SVM tells people apart, and there is only {photos.people[0]!r}",
                "add a second person, or use --nearest, which goes by distance alone",
            )
        estimator = make_estimator(kind, len(photos)).fit(photos.vectors, photos.labels)
        return cls(kind, estimator, _calibrate(kind, photos), photos, threshold)

    def decide(self, vectors: FloatArray) -> list[Decision]:
        """Unit rows (n, d) → n answers.

        The estimator picks the candidate; the name is given if the closest of the candidate's photos is
        no further than the threshold.
        """
        if len(vectors) == 0:
            return []
        classes = self.estimator.classes_
        scores = scores_of(self.estimator, vectors)
        best = scores.argmax(axis=1)
        apart = metrics.distances(vectors, self.photos.vectors)
        decisions = []
        for i, k in enumerate(best):
            candidate = str(classes[k])
            distance = float(apart[i, self.photos.labels == candidate].min())
            far = distance > self.threshold
            decisions.append(
                Decision(
                    None if far else candidate,
                    candidate,
                    distance,
                    self._probability(scores[i], k),
                    f"too far from everyone: {distance:.2f} from {candidate}, threshold {self.threshold:.2f}"
                    if far
                    else "",
                )
            )
        return decisions

    def _probability(self, scores: Scores, k: int) -> float | None:
        if self.platt is None:
            return None
        slope, intercept = self.platt
        each = 1 / (1 + np.exp(-(slope * scores + intercept)))
        return float(each[k] / each.sum())

    def save(self, path: Path) -> None:
        """Writes arrays and JSON; the format is in docs/formats.md."""
        header, arrays = embeddings_parts(self.photos)
        header |= {
            "kind": "classifier",
            "method": self.kind,
            "threshold": self.threshold,
            "platt": self.platt,
        }
        empty = np.empty((0, 0))
        arrays |= {
            "coef": self.estimator.coef_ if self.kind == "svm" else empty,
            "intercept": self.estimator.intercept_ if self.kind == "svm" else empty[0:0, 0:0].ravel(),
        }
        write_npz(path, header, arrays)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Rebuilds a classifier.

        Raises:
            ArtifactError: missing, damaged or foreign.
        """
        cure = "make it with `facerec train`"
        expected = {
            **{name: ("U", 1) for name in ("labels", "sources", "splits", "digests")},
            **{"vectors": ("f", 2), "coef": ("f", 2), "intercept": ("f", 1)},
        }
        header, arrays = read_npz(path, "classifier", expected, cure)
        photos = embeddings_from(path, header, arrays, cure)
        try:
            kind, platt, threshold = header["method"], header["platt"], float(header["threshold"])
            if kind not in KINDS:
                raise ValueError(f"unknown method {kind!r}")
            estimator = make_estimator(kind, len(photos))
            if kind == "svm":
                estimator.classes_ = np.array(photos.people)
                estimator.coef_, estimator.intercept_ = arrays["coef"], arrays["intercept"]
                rows = 1 if len(photos.people) == 2 else len(photos.people)
                if (
                    estimator.coef_.shape != (rows, photos.vectors.shape[1])
                    or len(estimator.intercept_) != rows
                ):
                    raise ValueError("the SVM does not fit the people")
            else:
                estimator.fit(photos.vectors, photos.labels)
            return cls(kind, estimator, None if platt is None else (platt[0], platt[1]), photos, threshold)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{path} is damaged ({error})", cure) from None


def _calibrate(kind: str, photos: Embeddings) -> tuple[float, float] | None:
    """Platt's slope and intercept from held-out scores; None unless two people have two photos each.

    People with one photo stay on the training side of every fold.
    """
    counts = Counter(photos.labels.tolist())
    several = np.array([counts[name] > 1 for name in photos.labels])
    if len(set(photos.labels[several].tolist())) < 2:
        return None
    folds = min(FOLDS, min(counts[name] for name in photos.labels[several].tolist()))
    rows = np.flatnonzero(several)
    held_out, own = [], []
    for _, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(rows, photos.labels[rows]):
        train = np.setdiff1d(np.arange(len(photos)), rows[test])
        estimator = clone(make_estimator(kind, len(train))).fit(photos.vectors[train], photos.labels[train])
        held_out.append(scores_of(estimator, photos.vectors[rows[test]]))
        own.append(estimator.classes_[None] == photos.labels[rows[test]][:, None])
    logistic = LogisticRegression(C=100.0).fit(
        np.concatenate(held_out).reshape(-1, 1), np.concatenate(own).ravel()
    )
    return float(logistic.coef_[0, 0]), float(logistic.intercept_[0])
