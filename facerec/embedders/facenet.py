"""FaceNet (Inception-ResNet-v1) on ONNX Runtime.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015. Network
and weights are keras-facenet's; the normalisation belongs to the weights.
"""

from __future__ import annotations

import numpy as np

from facerec import catalogue, weights
from facerec.embedders.onnx import Crops, OnnxEmbedder, standardised
from facerec.types import Crop, FloatArray, Space

NAME = "facenet"
SIZE = 160


def centred(crops: Crops) -> FloatArray:
    """(x - 127.5) / 127.5: facenet-512, as keras-facenet has it."""
    return (crops.astype(np.float32) - 127.5) / 127.5


NORMALISE = {"facenet-128": standardised, "facenet-512": centred}


class FaceNet(OnnxEmbedder):
    """The default embedder.

    Args:
        model: "facenet-128", "facenet-512", or one that ``facerec finetune`` made of them.
        crop: how the crops were cut out.
        flip: add the mirrored crop's vector before normalising to length 1.
        threads: inside one batch.
    """

    name = NAME

    def __init__(self, model: str, crop: Crop, flip: bool, threads: int = 1) -> None:
        item = catalogue.entry(model)
        (digest,) = item.files.values()
        graph = weights.laid_out(model, f"{model}.onnx")
        base = item.source.base if isinstance(item.source, catalogue.Made) else model
        super().__init__(graph, Space(model, digest, crop, flip), SIZE, NORMALISE[base], threads)
