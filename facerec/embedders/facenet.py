"""FaceNet (Inception-ResNet-v1) on ONNX Runtime.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015. Network
and weights are keras-facenet's; the normalisation belongs to the weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facerec import runtime, weights
from facerec.types import Crop, FloatArray, Space

NAME = "facenet"
SIZE = 160
BATCH = 32

Crops = npt.NDArray[np.uint8]


def standardised(crops: Crops) -> FloatArray:
    """(x - mean) / std over each whole crop, as TensorFlow's per_image_standardization: facenet-128."""
    pixels = crops.astype(np.float32)
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    std = pixels.std(axis=(1, 2, 3), keepdims=True)
    return (pixels - mean) / np.maximum(std, pixels[0].size ** -0.5 if len(pixels) else 1)


def centred(crops: Crops) -> FloatArray:
    """(x - 127.5) / 127.5: facenet-512, as keras-facenet has it."""
    return (crops.astype(np.float32) - 127.5) / 127.5


NORMALISE = {"facenet-128": standardised, "facenet-512": centred}


def unit(vectors: FloatArray) -> FloatArray:
    """Rows scaled to length 1, float32."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


class FaceNet:
    """The default embedder.

    Args:
        model: "facenet-128" or "facenet-512".
        crop: how the crops were cut out.
        flip: add the mirrored crop's vector before normalising to length 1.
        threads: inside one batch.
    """

    name = NAME
    input_size = SIZE

    def __init__(self, model: str, crop: Crop, flip: bool, threads: int = 1) -> None:
        entry = weights.entry(model)
        (digest,) = entry.files.values()
        self.space = Space(model, digest, crop, flip)
        self.dim = int(model.rsplit("-", 1)[1])
        self._normalise = NORMALISE[model]
        self._load(model, threads)

    def _load(self, model: str, threads: int) -> None:
        self._session = runtime.session(weights.graph(model, f"{model}.onnx"), threads)

    def _run(self, pixels: FloatArray) -> FloatArray:
        return self._session.run(None, {"image": pixels})[0]

    def embed(self, crops: Crops) -> FloatArray:
        """(n, 160, 160, 3) uint8 RGB → (n, dim) float32 unit rows, in batches of 32."""
        if crops.shape[1:] != (SIZE, SIZE, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, {SIZE}, {SIZE}, 3) uint8, not {crops.shape} {crops.dtype}")
        batches = [self._embed(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate(batches) if batches else np.empty((0, self.dim), np.float32)

    def _embed(self, crops: Crops) -> FloatArray:
        vectors = self._run(self._normalise(crops))
        if self.space.flip:
            vectors = vectors + self._run(self._normalise(crops[:, :, ::-1]))
        return unit(vectors)
