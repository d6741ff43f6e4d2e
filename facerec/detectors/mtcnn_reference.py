"""The mtcnn package itself, on TensorFlow: slow, and what `mtcnn` is measured against."""

from __future__ import annotations

import numpy as np
from mtcnn import MTCNN

from facerec import reference, weights
from facerec.errors import UsageError
from facerec.runtime import Portable
from facerec.types import KEYPOINTS, Face, Image

NAME = "mtcnn-reference"
SEARCHED = 20  # the only `min_face` that the package gets right


class MTCNNReference(Portable):
    """The mtcnn package 1.x.

    Its pyramid is wrong for `min_face` other than 20: levels become too small for P-Net and it answers
    "no faces". Such an answer is not passed on: the pictures are searched at 20 and filtered by size.

    Raises:
        UsageError: a `min_face` below 20.
    """

    name = NAME
    thread_safe = False

    def __init__(self, min_face: int = 20, min_confidence: float | None = None) -> None:
        if min_face < SEARCHED:
            raise UsageError(f"{NAME} finds faces from {SEARCHED} pixels on", "use --detector mtcnn for smaller ones")
        self.min_face = min_face
        self.threshold = 0.8 if min_confidence is None else min_confidence
        self._mtcnn = MTCNN(stages=reference.mtcnn_stages(weights.weights("mtcnn")))

    def detect(self, image: Image) -> list[Face]:
        """Faces of an RGB image (h, w, 3) uint8, most confident first."""
        rows = self._mtcnn.detect_faces(
            image,
            box_format="xyxy",
            output_type="numpy",
            threshold_onet=self.threshold,
            min_face_size=SEARCHED,
        )
        faces = [
            Face(tuple(row[1:5].tolist()), float(row[5]), np.stack([row[6:11], row[11:16]], axis=1)) for row in rows
        ]
        assert all(len(f.keypoints) == len(KEYPOINTS) for f in faces if f.keypoints is not None)
        return [f for f in faces if self.min_face == SEARCHED or f.size >= self.min_face * 0.8]
