"""detector + embedder + decision → named faces: the one path of predict and live."""

from __future__ import annotations

from dataclasses import dataclass

from facerec.classify import Classifier
from facerec.images import choose_faces, crop_face, stack_crops
from facerec.types import Detector, Embedder, Face, FaceChoice, FloatArray, Image, Prediction


def find_and_embed(
    image: Image, detector: Detector, embedder: Embedder, choice: FaceChoice
) -> tuple[list[Face], FloatArray]:
    """The chosen faces of an RGB image and their unit vectors (n, d)."""
    faces = choose_faces(detector.detect(image), choice, image.shape)
    size = embedder.input_size
    crops = stack_crops([crop_face(image, face, embedder.space.crop, size) for face in faces], size)
    return faces, embedder.embed(crops)


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
        faces, vectors = find_and_embed(image, self.detector, self.embedder, self.faces)
        decisions = self.classifier.decide(vectors)
        return [
            Prediction(face, d.name, d.distance, d.probability, d.reason, d.candidate, d.nearest)
            for face, d in zip(faces, decisions, strict=True)
        ]
