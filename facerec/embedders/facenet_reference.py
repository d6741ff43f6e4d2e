"""keras-facenet's network on TensorFlow: slow, and what `facenet` is measured against."""

from __future__ import annotations

import numpy as np

from facerec import catalogue, reference, weights
from facerec.embedders.facenet import NORMALISE, SIZE
from facerec.embedders.onnx import OnnxEmbedder
from facerec.types import Crop, FloatArray, Space

NAME = "facenet-reference"


class FaceNetReference(OnnxEmbedder):
    """The same preprocessing in front of the Keras network; the arguments are those of `FaceNet`."""

    name = NAME
    input_size = SIZE

    def __init__(self, model: str, crop: Crop, flip: bool) -> None:
        ((_, path),) = weights.weights(model).items()
        (digest,) = catalogue.entry(model).files.values()
        self.space = Space(model, digest, crop, flip)
        self.dim = int(model.rsplit("-", 1)[1])
        self._normalise = NORMALISE[model]
        self._network = reference.facenet(path, self.dim)

    def _run(self, pixels: FloatArray) -> FloatArray:
        return np.asarray(self._network(pixels, training=False))
