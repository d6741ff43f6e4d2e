"""OpenCV's Haar cascade (Viola & Jones 2001): light, frontal faces only, no keypoints."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facerec.errors import WeightsError
from facerec.runtime import Portable
from facerec.types import Face, Image

NAME = "haar"


class Haar(Portable):
    """The frontal-face cascade that ships with opencv-python 4.

    Args:
        min_face: side of the smallest face, pixels.
        min_confidence: faces below are dropped; None keeps all. The confidence is the cascade's last
            stage weight w, squashed to w / (w + 2): a rank, not a probability.
    """

    name = NAME
    thread_safe = False

    def __init__(self, min_face: int = 20, min_confidence: float | None = None) -> None:
        self.min_face = min_face
        self.threshold = 0.0 if min_confidence is None else min_confidence
        path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise WeightsError(f"{path} cannot be read", "pip install 'opencv-python<5'")

    def detect(self, image: Image) -> list[Face]:
        """Faces of an RGB image (h, w, 3) uint8, most confident first."""
        grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        boxes, _, levels = self._cascade.detectMultiScale3(
            grey,
            scaleFactor=1.1,
            minNeighbors=5,
            minSize=(self.min_face, self.min_face),
            outputRejectLevels=True,
        )
        weights = np.maximum(np.ravel(levels), 0)
        faces = [
            Face((float(x), float(y), float(x + w), float(y + h)), float(weight / (weight + 2)))
            for (x, y, w, h), weight in zip(boxes, weights, strict=True)
        ]
        return sorted((f for f in faces if f.confidence >= self.threshold), key=lambda f: -f.confidence)
