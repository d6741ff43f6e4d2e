"""keras-facenet's network on TensorFlow: slow, and what `facenet` is measured against."""

from __future__ import annotations

import numpy as np

from facerec import reference, weights
from facerec.embedders.facenet import FaceNet
from facerec.types import FloatArray

NAME = "facenet-reference"


class FaceNetReference(FaceNet):
    """The same preprocessing in front of the Keras network."""

    name = NAME

    def _load(self, model: str, threads: int) -> None:
        (path,) = weights.weights(model).values()
        self._network = reference.facenet(path, self.dim)

    def _run(self, pixels: FloatArray) -> FloatArray:
        return np.asarray(self._network(pixels, training=False))
