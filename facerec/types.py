"""The types that every room shares. Arrays are NumPy; images are RGB unless a name says BGR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from facerec.errors import SpaceError

Image = npt.NDArray[np.uint8]
"""(h, w, 3) uint8, RGB."""

FloatArray = npt.NDArray[np.float32]
StrArray = npt.NDArray[np.str_]

KEYPOINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""Order of `Face.keypoints`; left as the viewer sees it."""

FaceChoice = Literal["largest", "central", "all"]

T = TypeVar("T")
Progress = Callable[[Iterable[T], int, str], Iterable[T]]
"""Wraps an iterable of known length with a title; the command line passes a progress bar."""


def no_progress(iterable: Iterable[T], total: int, title: str) -> Iterable[T]:
    """A `Progress` that shows nothing."""
    return iterable


@dataclass(frozen=True)
class Face:
    """A detected face.

    Attributes:
        box: (x1, y1, x2, y2) in source pixels, inside the image.
        confidence: the detector's score in 0..1.
        keypoints: (5, 2) float, x and y in source pixels in the order of `KEYPOINTS`;
            None where the detector has none.
    """

    box: tuple[float, float, float, float]
    confidence: float
    keypoints: npt.NDArray[np.floating] | None = None

    @property
    def size(self) -> float:
        """The shorter side of the box, pixels."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    def to_json(self) -> dict[str, Any]:
        """``{"box": [x, y, w, h], "confidence": c, "keypoints": {"left_eye": [x, y], …} | null}``."""
        x1, y1, x2, y2 = self.box
        points = None
        if self.keypoints is not None:
            points = {
                name: [round(float(x), 2), round(float(y), 2)]
                for name, (x, y) in zip(KEYPOINTS, self.keypoints, strict=True)
            }
        return {
            "box": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "confidence": round(float(self.confidence), 4),
            "keypoints": points,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Face:
        x, y, w, h = map(float, data["box"])
        points = data["keypoints"]
        keypoints = None if points is None else np.array([points[name] for name in KEYPOINTS])
        return cls((x, y, x + w, y + h), float(data["confidence"]), keypoints)


@dataclass(frozen=True)
class Crop:
    """How a face is cut out of its photograph; part of the embedding space.

    Attributes:
        margin: added on each side, as a share of the box's width and height.
        square: widen the shorter side first, so that the face keeps its proportions, but where the picture ends
            before that; otherwise the box is stretched to the network's input.
        aligned: warp by a similarity transform of the five keypoints instead of cutting a box.
    """

    margin: float
    square: bool = False
    aligned: bool = False


@dataclass(frozen=True)
class Space:
    """Everything that changes a vector. Vectors of two spaces are never compared.

    Attributes:
        model: name in the model catalogue; it fixes network, normalisation and input size.
        weights: sha256 of the weights file.
        crop: how faces were cut out.
        flip: whether the mirrored crop's vector was added before normalising.
    """

    model: str
    weights: str
    crop: Crop
    flip: bool

    def __str__(self) -> str:
        shape = "aligned" if self.crop.aligned else "square" if self.crop.square else "stretched"
        flip = ", flip" if self.flip else ""
        return f"{self.model}@{self.weights[:8]} ({shape} crop, margin {self.crop.margin:g}{flip})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Space:
        return cls(**{**data, "crop": Crop(**data["crop"])})


ASKED = "as asked for"  # the source of a gate whose numbers were given


@dataclass(frozen=True)
class Gate:
    """When a face may be given a name: close enough, and clearly closer than to anybody else.

    Attributes:
        threshold: largest Euclidean distance of unit vectors (0..2) to the person's closest photo.
        margin: by how much the closest photo of everybody else must be further away; 0 for no matter.
        fmr: false-match rate of a pair at the threshold; None where it is not known.
        fmr_interval: its 95 % interval.
        source: what the two were chosen on.

    Raises:
        ValueError: a number out of range.
    """

    threshold: float
    margin: float = 0.0
    fmr: float | None = None
    fmr_interval: tuple[float, float] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 2 and 0 <= self.margin <= 2):
            raise ValueError(f"threshold and margin lie between 0 and 2, not {self.threshold} and {self.margin}")
        low, high = self.fmr_interval or (0.0, 1.0)
        if not (0 <= low <= high <= 1 and (self.fmr is None or 0 < self.fmr <= 1)):
            raise ValueError(f"a false-match rate lies between 0 and 1, not {self.fmr}, {self.fmr_interval}")

    def changed(self, threshold: float | None, margin: float | None) -> Gate:
        """With other numbers, where they are given; what was measured for the old ones is dropped."""
        if threshold is None and margin is None:
            return self
        gate = self if threshold is None else Gate(threshold, self.margin)
        return replace(gate, margin=gate.margin if margin is None else margin, source=ASKED)

    def __str__(self) -> str:
        """For people."""
        rate = "" if self.fmr is None else f" (one false match in {1 / self.fmr:,.0f} pairs)"
        margin = f", everybody else {self.margin:.2f} further away" if self.margin else ""
        return f"distance up to {self.threshold:.2f}{rate}{margin}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Gate:
        interval = data["fmr_interval"]
        return cls(**{**data, "fmr_interval": None if interval is None else tuple(map(float, interval))})


@dataclass(frozen=True)
class Failure:
    """An input that came to nothing, and why. It stays in the denominators."""

    source: str
    reason: str
    label: str = ""
    split: str = ""


def require_unit(vectors: FloatArray) -> None:
    """Raises `ValueError` where a row of an (n, d) array is not of length 1."""
    squares = np.einsum("ij,ij->i", vectors, vectors)  # without a copy of the vectors
    if not np.allclose(squares, 1, atol=2e-3):
        raise ValueError("vectors must have length 1")


ROWS = ("labels", "sources", "splits", "digests", "quality", "added")
"""The arrays of `Embeddings` beside the vectors."""


@dataclass(frozen=True)
class Embeddings:
    """Labelled unit vectors, as a struct of arrays. Validates itself; ``e[mask]`` selects rows.

    Attributes:
        vectors: (n, d) float32, rows of length 1.
        labels: (n,) names.
        sources: (n,) paths of the crops.
        splits: (n,) "train" or "test".
        digests: (n,) sha256 of the crops' bytes.
        quality: (n,) float32 of each face, 0..1 (`facerec.quality`); None for NaN everywhere.
        added: (n,) date on which a photo was enrolled, YYYY-MM-DD; empty from ``facerec embed``; None for
            empty everywhere.
        space: what the vectors mean.
        detector: the detector that found the faces.
        failures: photos of these people in which no face was found.
        gate: what was calibrated for them; None for the model's own.
        lookalikes: pairs of names, each in order, that were declared to be two people.

    Raises:
        ValueError: lengths differ, a vector is not of length 1, or a type is wrong.
    """

    vectors: FloatArray
    labels: StrArray
    sources: StrArray
    splits: StrArray
    digests: StrArray
    space: Space
    detector: str = ""
    failures: tuple[Failure, ...] = field(default=())
    gate: Gate | None = None
    quality: FloatArray = None  # type: ignore[assignment]
    added: StrArray = None  # type: ignore[assignment]
    lookalikes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.vectors)
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise ValueError(f"vectors must be (n, d) float32, not {self.vectors.shape} {self.vectors.dtype}")
        if self.quality is None:
            object.__setattr__(self, "quality", np.full(n, np.nan, np.float32))
        if self.added is None:
            object.__setattr__(self, "added", np.full(n, "", "U10"))
        for name in ROWS:
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must have one entry for each of {n} vectors")
        require_unit(self.vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: npt.NDArray[Any]) -> Embeddings:
        return replace(self, **{name: getattr(self, name)[rows] for name in ("vectors", *ROWS)})

    def __add__(self, other: Embeddings) -> Embeddings:
        """The rows of both; everything else is the first one's, but for the failures and look-alikes, those of both.

        Raises:
            SpaceError: they live in different spaces.
        """
        other.require_space(self.space, "the other file")
        own, theirs = self.vectors.shape[1], other.vectors.shape[1]
        if own != theirs:
            raise SpaceError(f"vectors of {own} numbers are here, of {theirs} in the other file", "embed it again")
        rows: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("vectors", *ROWS)
        }
        lookalikes = tuple(sorted({*self.lookalikes, *other.lookalikes}))
        failures = tuple(dict.fromkeys(self.failures + other.failures))
        return replace(self, **rows, failures=failures, lookalikes=lookalikes)

    @property
    def people(self) -> list[str]:
        """The distinct labels, sorted."""
        return sorted(set(self.labels.tolist()))

    def require_space(self, space: Space, what: str) -> None:
        """Raises `SpaceError` where these vectors do not live in `space`."""
        if self.space != space:
            raise SpaceError(
                f"{what} holds vectors of {self.space}, but {space} is in use",
                f"embed again, all in one way: `facerec detect --force && facerec embed --model {space.model}`; "
                "and train or enrol again",
            )


@dataclass(frozen=True)
class Prediction:
    """A face and the decision about it.

    Attributes:
        face: where it is.
        name: the person, or None for unknown.
        distance: Euclidean distance (0..2) of its unit vector to the candidate's closest photo.
        probability: of the candidate among the enrolled people; None where there were too few
            photos to calibrate one.
        reason: why the face is unknown; empty otherwise.
        candidate: whom the classifier has chosen, also where the answer is unknown; empty where nobody is known.
        nearest: the closest people and their distances, up to three, closest first.
    """

    face: Face
    name: str | None
    distance: float
    probability: float | None
    reason: str
    candidate: str
    nearest: tuple[tuple[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **self.face.to_json(),
            "name": self.name,
            "candidate": self.candidate,
            "probability": None if self.probability is None else round(self.probability, 4),
            "distance": round(self.distance, 4),
            "cosine_distance": round(self.distance**2 / 2, 4),
            "reason": self.reason or None,
            "nearest": [{"name": name, "distance": round(distance, 4)} for name, distance in self.nearest],
        }


@dataclass
class StageReport:
    """What a stage did; feeds the summary, ``--json`` and the exit code.

    Attributes:
        hosts: how many inputs each host and process treated, where a cluster did.
    """

    stage: str
    output: Path | str
    done: int = 0
    skipped: int = 0
    removed: int = 0
    failed: list[Failure] = field(default_factory=list)
    hosts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "output": str(self.output),
            "done": self.done,
            "skipped": self.skipped,
            "removed": self.removed,
            "failed": [{"input": f.source, "reason": f.reason} for f in self.failed],
            "hosts": dict(self.hosts),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class TrainingSettings:
    """What changes the result of `facerec.training.train`.

    Attributes:
        mining: rule, see `facerec.training.triplet_loss`.
        margin: α.
        people: P of a batch.
        photos: K of a batch.
        rate: Adam's learning rate.
        epochs: at most; in each everybody comes once.
        patience: epochs without a better true accept rate, after which it stops.
        seed: of batches and augmentation.
    """

    mining: str = "semi-hard"
    margin: float = 0.2
    people: int = 32
    photos: int = 4
    rate: float = 1e-3
    epochs: int = 60
    patience: int = 10
    seed: int = 0


@dataclass
class TrainingHistory:
    """A line an epoch; epoch 0 is before any training.

    Attributes:
        loss: mean of the batches.
        active: share of the triplets that broke the margin.
        tar: true accept rate on people kept apart.
        best: epoch that the result is taken from.
    """

    loss: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    tar: list[float] = field(default_factory=list)
    best: int = 0


class Detector(Protocol):
    """Finds faces. One file a detector, in `facerec.detectors`."""

    name: str
    thread_safe: bool

    def detect(self, image: Image) -> list[Face]:
        """Faces of an RGB image, most confident first; boxes inside the image; ``[]`` where none is."""
        ...


class Embedder(Protocol):
    """Turns crops into unit vectors. One file an embedder, in `facerec.embedders`."""

    name: str
    space: Space
    dim: int
    input_size: int

    def embed(self, crops: npt.NDArray[np.uint8]) -> FloatArray:
        """(n, s, s, 3) uint8 RGB crops → (n, dim) float32 rows of length 1; n = 0 is allowed."""
        ...
