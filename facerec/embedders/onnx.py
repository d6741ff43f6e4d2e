"""Any face embedder in an ONNX file: batches, mirrored copies, unit vectors.

A model that is not in the catalogue is described by a JSON file beside its graph, ArcFace for one::

    {"onnx": "w600k_r50.onnx", "size": 112, "normalise": [127.5, 127.5], "colour": "rgb",
     "crop": "aligned", "margin": 0}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facerec import runtime
from facerec.artifacts import sha256_of
from facerec.embedders import CROPS
from facerec.errors import ArtifactError, WeightsError
from facerec.types import Crop, FloatArray, Space

BATCH = 32

Crops = npt.NDArray[np.uint8]
Normalise = Callable[[Crops], FloatArray]


def standardised(crops: Crops) -> FloatArray:
    """(x - mean) / std over each whole crop, as TensorFlow's per_image_standardization."""
    pixels = crops.astype(np.float32)
    for crop, result in zip(crops, pixels, strict=True):
        mean, std = (value.item() for value in cv2.meanStdDev(crop.reshape(1, -1)))
        result -= mean
        result /= max(std, crop.size**-0.5)
    return pixels


def unit(vectors: FloatArray) -> FloatArray:
    """Rows scaled to length 1, float32."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


class OnnxEmbedder(runtime.Portable):
    """A graph that takes (n, s, s, 3) or (n, 3, s, s) float32 and gives (n, dim).

    Args:
        graph: the file.
        space: what its vectors mean.
        size: s.
        normalise: RGB crops (n, s, s, 3) uint8 → what the network was trained on, channels last.
        threads: inside one batch.

    Raises:
        WeightsError: the graph cannot be loaded, or takes something else.
    """

    name = "onnx"

    def __init__(self, graph: Path, space: Space, size: int, normalise: Normalise, threads: int) -> None:
        self.space = space
        self.input_size = size
        self._normalise = normalise
        self._session = runtime.session(graph, threads)
        inputs = self._session.get_inputs()
        shape = [d if isinstance(d, int) else None for d in inputs[0].shape]
        self._input = inputs[0].name
        self._channels_first = len(shape) == 4 and shape[1] == 3
        sides = {None, size}
        if len(inputs) != 1 or len(shape) != 4 or not {*(shape[2:] if self._channels_first else shape[1:3])} <= sides:
            raise WeightsError(
                f"{graph} takes {[i.shape for i in inputs]}, not pictures of {size}×{size}", "check its description"
            )
        self._one_by_one = shape[0] == 1
        *_, dim = self._session.get_outputs()[0].shape
        self.dim = dim if isinstance(dim, int) else self._run(np.zeros((1, size, size, 3), np.float32)).shape[1]

    def _run(self, pixels: FloatArray) -> FloatArray:
        if self._channels_first:
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        batches = np.split(pixels, len(pixels)) if self._one_by_one else [pixels]
        return np.concatenate([self._session.run(None, {self._input: batch})[0] for batch in batches])

    def embed(self, crops: Crops) -> FloatArray:
        """(n, s, s, 3) uint8 RGB → (n, dim) float32 unit rows, in batches of 32."""
        size = self.input_size
        if crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, {size}, {size}, 3) uint8, not {crops.shape} {crops.dtype}")
        batches = [self._embed(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate(batches) if batches else np.empty((0, self.dim), np.float32)

    def _embed(self, crops: Crops) -> FloatArray:
        vectors = self._run(self._normalise(crops))
        if self.space.flip:
            vectors = vectors + self._run(self._normalise(crops[:, :, ::-1]))
        return unit(vectors)


@dataclass(frozen=True)
class Description:
    """What a described model takes.

    Attributes:
        path: of the description.
        onnx: the graph, beside it.
        size: side of the input, pixels.
        normalise: (mean, std) that pixels 0..255 are shifted and divided by; None for each crop's own.
        colour: "rgb" or "bgr".
        crop: how faces are cut out.
    """

    path: Path
    onnx: Path
    size: int
    normalise: tuple[float, float] | None
    colour: str
    crop: Crop

    @classmethod
    def read(cls, path: Path) -> Description:
        """Reads a description.

        Raises:
            ArtifactError: missing, or not a description.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text("utf-8"))
            normalise = data.pop("normalise")
            if normalise != "standardise":
                mean, std = (float(v) for v in normalise)
                normalise = mean, std or 1.0
            colour, crop = data.pop("colour", "rgb"), data.pop("crop")
            if colour not in ("rgb", "bgr") or crop not in CROPS:
                raise ValueError(f"colour {colour!r}, crop {crop!r}")
            description = cls(
                path,
                path.parent / data.pop("onnx"),
                int(data.pop("size")),
                None if normalise == "standardise" else normalise,
                colour,
                Crop(float(data.pop("margin", 0.0)), square=crop == "square", aligned=crop == "aligned"),
            )
            if data:
                raise ValueError(f"unknown: {', '.join(data)}")
            return description
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error.strerror})", "check the path") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(
                f"{path} does not describe a model ({error})",
                'it holds {"onnx": FILE, "size": PIXELS, "normalise": [MEAN, STD] or "standardise", '
                f'"colour": "rgb" or "bgr", "crop": {" or ".join(CROPS)}, "margin": SHARE}}',
            ) from None

    def load(self, crop: Crop, flip: bool, threads: int) -> OnnxEmbedder:
        """The model, for crops that may differ from its own."""
        if not self.onnx.is_file():
            raise ArtifactError(f"there is no {self.onnx}", f"put the graph beside {self.path}")
        digest = hashlib.sha256(f"{sha256_of(self.onnx)} {self.normalise} {self.colour}".encode()).hexdigest()

        return OnnxEmbedder(self.onnx, Space(self.path.stem, digest, crop, flip), self.size, self.normalised, threads)

    def normalised(self, crops: Crops) -> FloatArray:
        """RGB crops (n, s, s, 3) uint8 → what the network was trained on, float32."""
        pixels = crops if self.colour == "rgb" else crops[..., ::-1]
        if self.normalise is None:
            return standardised(pixels)
        mean, std = self.normalise
        return (pixels.astype(np.float32) - np.float32(mean)) / np.float32(std)
