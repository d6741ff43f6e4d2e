"""The decision: which enrolled person is this face, or none of them.

scikit-learn trains; what it learned is kept as arrays and applied with NumPy, so that naming a face does
not wait for scikit-learn to be imported, and a file of a classifier holds nothing to unpickle. A distance
gate stands behind each kind, so that a stranger is not given the name of whoever happens to win.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facerec import metrics
from facerec.artifacts import EMBEDDINGS, embeddings_from, embeddings_parts, read_npz, write_npz
from facerec.errors import ArtifactError, DataError
from facerec.search import ENOUGH, VOTERS, Index, Search, Searchable, votes
from facerec.types import Embeddings, FloatArray, Gate

KINDS = ("svm", "knn", "nearest")
FEWEST = {"svm": 2, "knn": 1, "nearest": 1}  # people
FOLDS = 5
NEAREST = 3  # people that a decision names as the closest ones
LOOKALIKE = 0.1  # added to the gate's margin between declared look-alikes

log = logging.getLogger("facerec")

Distances = npt.NDArray[np.floating]
Scores = npt.NDArray[np.floating]
"""(n, people): one column a person in the order of their sorted names, higher = more alike."""


@dataclass(frozen=True)
class LinearSVM:
    """scikit-learn's LinearSVC, one-vs-rest, balanced by photos a person, as it was fitted.

    Attributes:
        coef: (people, d), or (1, d) for two people.
        intercept: (people,), or (1,).
    """

    coef: npt.NDArray[np.float64]
    intercept: npt.NDArray[np.float64]

    @classmethod
    def train(cls, vectors: FloatArray, labels: npt.NDArray[np.str_]) -> LinearSVM:
        """Fits it to unit rows (n, d) and names (n,)."""
        from sklearn.svm import LinearSVC

        # one photo each is meant; for good, since `catch_warnings` is not for threads
        warnings.filterwarnings("ignore", "The number of unique classes")
        fitted = LinearSVC(C=1.0, dual=True, random_state=0, class_weight="balanced").fit(vectors, labels)
        return cls(fitted.coef_, fitted.intercept_)

    def scores(self, vectors: FloatArray) -> Scores:
        """Signed distances to each person's separating plane."""
        margins = vectors @ self.coef.T + self.intercept
        return np.hstack([-margins, margins]) if len(self.coef) == 1 else margins


@dataclass(frozen=True)
class Neighbours:
    """The k closest photos vote, by `facerec.search.votes`."""

    photos: FloatArray
    owner: npt.NDArray[np.intp]
    people: int

    @classmethod
    def train(cls, vectors: FloatArray, labels: npt.NDArray[np.str_]) -> Neighbours:
        """Keeps unit rows (n, d) and whose they are."""
        names, owner = np.unique(labels, return_inverse=True)
        return cls(vectors, owner, len(names))

    def scores(self, vectors: FloatArray) -> Scores:
        """Shares of the votes."""
        apart = metrics.distances(vectors, self.photos)
        k = min(VOTERS, len(self.photos))
        closest = np.argpartition(apart, k - 1, axis=1)[:, :k]
        shares = np.zeros((len(vectors), self.people))
        weights = votes(np.take_along_axis(apart, closest, axis=1))
        np.add.at(shares, (np.arange(len(vectors))[:, None], self.owner[closest]), weights)
        return shares / shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Prototypes:
    """Each person is the mean of their unit vectors, scaled to length 1; the closest one wins."""

    prototypes: FloatArray

    @classmethod
    def train(cls, vectors: FloatArray, labels: npt.NDArray[np.str_]) -> Prototypes:
        """Averages unit rows (n, d) by name."""
        names, owner = np.unique(labels, return_inverse=True)
        means = np.zeros((len(names), vectors.shape[1]), vectors.dtype)
        np.add.at(means, owner, vectors)  # scaling to length 1 makes means of sums
        return cls(means / np.linalg.norm(means, axis=1, keepdims=True))

    def scores(self, vectors: FloatArray) -> Scores:
        """Cosines."""
        return vectors @ self.prototypes.T


class PerPerson:
    """Distances to people: each person is as far away as the closest of their photos.

    Args:
        vectors: (m, d) unit rows.
        labels: (m,) whose they are.
    """

    def __init__(self, vectors: FloatArray, labels: npt.NDArray[np.str_]) -> None:
        order = np.argsort(labels, kind="stable")
        self.people, self._starts = np.unique(labels[order], return_index=True)
        self._vectors = vectors[order]

    def distances(self, vectors: FloatArray) -> Distances:
        """Unit rows (n, d) → (n, people), in the order of their sorted names."""
        return np.minimum.reduceat(metrics.distances(vectors, self._vectors), self._starts, axis=1)


Model = LinearSVM | Neighbours | Prototypes
_MODELS: dict[str, type[LinearSVM] | type[Neighbours] | type[Prototypes]] = {
    "svm": LinearSVM,
    "knn": Neighbours,
    "nearest": Prototypes,
}


def train_model(kind: str, vectors: FloatArray, labels: npt.NDArray[np.str_]) -> Model:
    """A model of one of the `KINDS`, from unit rows (n, d) and names (n,)."""
    return _MODELS[kind].train(vectors, labels)


@dataclass(frozen=True)
class Decision:
    """One vector's answer; the fields are those of `facerec.types.Prediction`."""

    name: str | None
    candidate: str
    distance: float
    probability: float | None
    reason: str
    nearest: tuple[tuple[str, float], ...]


class Classifier:
    """A trained model, its calibration, and the photos that it was trained on.

    Attributes:
        kind: "svm", "knn" or "nearest".
        model: scores vectors against people; None where they are compared with a gallery directly.
        gate: when the winner's name is given.
        platt: slope and intercept that turn a score into a probability; None where there were too few
            photos. One pair for all people: Platt, "Probabilistic outputs for support vector machines",
            1999, on scores of held-out photos, pooled.
        photos: the training vectors; none where a gallery is searched where it is.
    """

    def __init__(
        self,
        kind: str,
        model: Model | None,
        platt: tuple[float, float] | None,
        photos: Embeddings,
        gate: Gate,
        search: Searchable | None = None,
        of: Callable[[str], Embeddings] | None = None,
    ) -> None:
        self.kind = kind
        self.model = model
        self.platt = platt
        self.photos = photos
        self.gate = gate
        self._of = of
        self._search = search or Search(photos.vectors, photos.labels)
        self.people = self._search.people
        self._lookalikes: dict[int, list[int]] = defaultdict(list)
        number = {name: k for k, name in enumerate(self.people)} if photos.lookalikes else {}
        for a, b in photos.lookalikes:
            if {a, b} <= number.keys():
                self._lookalikes[number[a]].append(number[b])
                self._lookalikes[number[b]].append(number[a])

    @classmethod
    def train(cls, kind: str, photos: Embeddings, gate: Gate) -> Classifier:
        """Trains a classifier on labelled vectors.

        Raises:
            DataError: no photos, or fewer people than this kind can tell apart.
        """
        if len(photos) == 0:
            raise DataError("there are no training photos", "run `facerec detect` and `facerec embed` first")
        if len(photos.people) < FEWEST[kind]:
            raise DataError(
                f"an SVM tells people apart, and there is only {photos.people[0]!r}",
                "add a second person, or use --nearest, which goes by distance alone",
            )
        model = train_model(kind, photos.vectors, photos.labels)
        return cls(kind, model, _calibrate(kind, photos), photos, gate)

    @classmethod
    def of_gallery(cls, kind: str, gallery: Embeddings, gate: Gate, index: Path | None = None) -> Classifier:
        """Compares with a gallery directly, without probabilities: "knn" or "nearest", one photo is enough.

        Args:
            kind: of the two.
            gallery: its vectors are searched where they are.
            gate: when the winner's name is given.
            index: file of a `facerec.search.Index`, made where it is missing or of other vectors; None for an
                exact search. A gallery of up to `facerec.search.ENOUGH` vectors is searched exactly all the same.

        Raises:
            DataError: an empty gallery.
            UsageError: an index is asked for, and FAISS is not installed.
        """
        if len(gallery) == 0:
            raise DataError("nobody is enrolled in the gallery", "add people with `facerec enroll NAME photo.jpg`")
        search = None
        if index and len(gallery) > ENOUGH:
            search = Search(gallery.vectors, gallery.labels, Index(gallery.vectors, index))
        elif index:
            log.info("%d vectors are searched exactly: up to %d no index is needed", len(gallery), ENOUGH)
        return cls(kind, None, None, gallery, gate, search)

    @classmethod
    def of_search(
        cls, kind: str, about: Embeddings, gate: Gate, search: Searchable, of: Callable[[str], Embeddings]
    ) -> Classifier:
        """Compares with a gallery that is not loaded: "knn" or "nearest".

        Args:
            kind: of the two.
            about: what stands beside the gallery's rows.
            gate: when the winner's name is given.
            search: searches them.
            of: a person's rows.
        """
        return cls(kind, None, None, about, gate, search, of)

    def photos_of(self, name: str) -> Embeddings:
        """A person's photos."""
        return self._of(name) if self._of else self.photos[self.photos.labels == name]

    def decide(self, vectors: FloatArray) -> list[Decision]:
        """Unit rows (n, d) → n answers.

        The model picks the candidate; the name is given if the gate lets it pass: the closest of the
        candidate's photos is near enough, and everybody else's are further away by the margin (declared look-alikes'
        by `LOOKALIKE` more: true twins, closer than that to one another, are hardly ever named).
        """
        if len(vectors) == 0 or not self.people:
            return [Decision(None, "", 2.0, None, "nobody is enrolled", ()) for _ in vectors]
        scores = [None] * len(vectors) if self.model is None else self.model.scores(vectors)
        decisions = []
        for seen, each in zip(self._search.see(vectors, NEAREST + 1), scores, strict=True):
            k = seen.winner(self.kind) if each is None else int(each.argmax())
            closest, distances = seen.closest(NEAREST + 1)
            order = closest.tolist()
            apart = {**dict(zip(order, distances, strict=True)), k: seen.distance(k)}
            # whom an index did not propose is far away
            apart |= {i: seen.distance(i) for i in self._lookalikes.get(k, ()) if i in seen.people}
            reason = self._reason(apart, k, order)
            candidate = self.people[k]
            nearest = tuple((self.people[i], float(apart[i])) for i in order[:NEAREST])
            probability = None if each is None else self._probability(each, k)
            name = None if reason else candidate
            decisions.append(Decision(name, candidate, float(apart[k]), probability, reason, nearest))
        return decisions

    def decide_photos(self, photos: Embeddings) -> list[Decision]:
        """`decide` for photos of known quality: as of any face, one that is too small or blurred gets no name."""
        poor = photos.quality == 0
        return [
            replace(decision, name=None, reason="too small or blurred") if bad else decision
            for decision, bad in zip(self.decide(photos.vectors), poor, strict=True)
        ]

    def _reason(self, apart: dict[int, np.float32], k: int, order: list[int]) -> str:
        """Why person k's name is not given; empty where it is."""
        candidate, gate, first = self.people[k], self.gate, order[0]
        if apart[first] > gate.threshold:
            far, limit = _told_apart(float(apart[first]), gate.threshold)
            return f"too far from everyone: {far} from {self.people[first]}, threshold {limit}"
        rivals = [(i, gate.margin) for i in order if i != k and (gate.margin or apart[k] > gate.threshold)][:1]
        rivals += [(i, gate.margin + LOOKALIKE) for i in self._lookalikes.get(k, ()) if i in apart]
        for other, margin in rivals:
            between = f"between {candidate} ({apart[k]:.2f}) and {self.people[other]} ({apart[other]:.2f})"
            if apart[k] > gate.threshold:
                far, limit = _told_apart(float(apart[k]), gate.threshold)
                return f"{between}: the {self.kind} says {candidate}, at {far} too far, threshold {limit}"
            if apart[other] - apart[k] < margin:
                return f"{between}: they must be {margin:.2f} apart"
        return ""

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
            "gate": self.gate.to_json(),
            "platt": self.platt,
        }
        svm = self.model if isinstance(self.model, LinearSVM) else LinearSVM(np.empty((0, 0)), np.empty(0))
        arrays |= {"coef": svm.coef, "intercept": svm.intercept}
        write_npz(path, header, arrays)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Rebuilds a classifier.

        Raises:
            ArtifactError: missing, damaged or foreign.
        """
        cure = "make it with `facerec train`"
        expected = {**EMBEDDINGS, "coef": ("f", 2), "intercept": ("f", 1)}
        header, arrays = read_npz(path, "classifier", expected, cure)
        photos = embeddings_from(path, header, arrays, cure)
        try:
            kind, platt, gate = header["method"], header["platt"], Gate.from_json(header["gate"])
            if kind not in KINDS:
                raise ValueError(f"unknown method {kind!r}")
            model: Model
            if kind == "svm":
                rows = 1 if len(photos.people) == 2 else len(photos.people)
                model = svm = LinearSVM(arrays["coef"], arrays["intercept"])
                finite = np.isfinite(svm.coef).all() and np.isfinite(svm.intercept).all()
                if svm.coef.shape != (rows, photos.vectors.shape[1]) or len(svm.intercept) != rows or not finite:
                    raise ValueError("the SVM does not fit the people")
            else:
                model = train_model(kind, photos.vectors, photos.labels)
            return cls(kind, model, None if platt is None else (float(platt[0]), float(platt[1])), photos, gate)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{path} is damaged ({error})", cure) from None


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Two distances with as many digits as tell them apart, two to four."""
    return next(pair for n in (2, 3, 4) if (pair := (f"{a:.{n}f}", f"{b:.{n}f}"))[0] != pair[1] or n == 4)


def _calibrate(kind: str, photos: Embeddings) -> tuple[float, float] | None:
    """Platt's slope and intercept from held-out scores; None unless two people, who can be told apart, have two
    photos each.

    People with one photo stay on the training side of every fold.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    counts = Counter(photos.labels.tolist())
    several = np.array([counts[name] > 1 for name in photos.labels])
    if len(set(photos.labels[several].tolist())) < 2:
        return None
    folds = min(FOLDS, min(counts[name] for name in photos.labels[several].tolist()))
    rows = np.flatnonzero(several)
    held_out, own = [], []
    for _, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(rows, photos.labels[rows]):
        train = np.setdiff1d(np.arange(len(photos)), rows[test])
        model = train_model(kind, photos.vectors[train], photos.labels[train])
        held_out.append(model.scores(photos.vectors[rows[test]]))
        own.append(np.array(photos.people) == photos.labels[rows[test]][:, None])
    logistic = LogisticRegression(C=100.0).fit(np.concatenate(held_out).reshape(-1, 1), np.concatenate(own).ravel())
    slope, intercept = float(logistic.coef_[0, 0]), float(logistic.intercept_[0])
    return (slope, intercept) if slope > 0 else None  # else the scores tell nobody apart
