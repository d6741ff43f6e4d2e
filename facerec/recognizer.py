"""detector + embedder + decision → named faces: the one path of predict and live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facerec.classify import Classifier
from facerec.images import choose_faces, crop_face, stack_crops
from facerec.quality import TO_NAME, assess
from facerec.types import Detector, Embedder, Face, FaceChoice, FloatArray, Image, Prediction


@dataclass(frozen=True)
class Found:
    """The faces of an image.

    Attributes:
        faces: n of them.
        crops: (n, s, s, 3) uint8 RGB, as the embedder got them.
        vectors: (n, d) float32 unit rows.
    """

    faces: list[Face]
    crops: npt.NDArray[np.uint8]
    vectors: FloatArray


def find_and_embed(image: Image, detector: Detector, embedder: Embedder, choice: FaceChoice) -> Found:
    """The chosen faces of an RGB image, most confident first, with their crops and vectors."""
    return embed_faces(image, choose_faces(detector.detect(image), choice, image.shape), embedder)


def embed_faces(image: Image, faces: list[Face], embedder: Embedder) -> Found:
    """Faces of an RGB image, with their crops and vectors."""
    size = embedder.input_size
    crops = stack_crops([crop_face(image, face, embedder.space.crop, size) for face in faces], size)
    return Found(faces, crops, embedder.embed(crops))


def from_the_left(found: Found) -> Found:
    """The same, the leftmost face first: as ``facerec enroll --face`` counts them."""
    order = sorted(range(len(found.faces)), key=lambda i: found.faces[i].box[0])
    return Found([found.faces[i] for i in order], found.crops[order], found.vectors[order])


@dataclass(frozen=True)
class Recognizer:
    """Names the faces of an image.

    Attributes:
        detector: finds them.
        embedder: in the space that the classifier was trained in.
        classifier: decides.
        faces: which of several faces to name.

    Raises:
        SpaceError: embedder and classifier live in different spaces.
    """

    detector: Detector
    embedder: Embedder
    classifier: Classifier
    faces: FaceChoice = "all"

    def __post_init__(self) -> None:
        self.classifier.photos.require_space(self.embedder.space, "the classifier")

    def recognize(self, image: Image) -> list[Prediction]:
        """Predictions for an RGB image (h, w, 3) uint8, most confident detection first."""
        return self.decide(find_and_embed(image, self.detector, self.embedder, self.faces))

    def decide(self, found: Found) -> list[Prediction]:
        """Predictions for faces that were found and embedded; none gets a name that is too small or blurred."""
        predictions = []
        decisions = self.classifier.decide(found.vectors)
        for face, crop, d in zip(found.faces, found.crops, decisions, strict=True):
            problems = assess(face, crop).problems(TO_NAME)
            name, reason = (None, problems[0]) if problems else (d.name, d.reason)
            predictions.append(Prediction(face, name, d.distance, d.probability, reason, d.candidate, d.nearest))
        return predictions
