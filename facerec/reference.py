"""The reference networks on TensorFlow, and their export to ONNX.

The only module that builds a Keras network. Exporting runs in a process of its own
(``python -m facerec.reference NAME FOLDER FILE…``), so that no other command ever imports TensorFlow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

MTCNN_NETS = ("pnet", "rnet", "onet")
OPSET = 17


def mtcnn_stages(weights: dict[str, Path]) -> list[Any]:
    """The mtcnn package's three stages.

    Args:
        weights: absolute path of ``pnet.lz4``, ``rnet.lz4``, ``onet.lz4``, already verified: the package
            unpickles them, and without a path it would look into the current folder first.
    """
    from mtcnn.stages import StageONet, StagePNet, StageRNet

    stages = (StagePNet, StageRNet, StageONet)
    return [stage(weights=str(weights[f"{net}.lz4"].resolve())) for net, stage in zip(MTCNN_NETS, stages, strict=True)]


def facenet(weights: Path, dim: int) -> Any:
    """keras-facenet's Inception-ResNet-v1: (n, 160, 160, 3) float32 normalised → (n, dim) unit vectors."""
    from keras_facenet.inception_resnet_v1 import InceptionResNetV1

    network = InceptionResNetV1(input_shape=(160, 160, 3), classes=dim, weights_path=None)
    network.load_weights(weights)
    return network


def export_mtcnn(weights: dict[str, Path], folder: Path) -> float:
    """Writes pnet.onnx, rnet.onnx and onet.onnx; returns the largest difference from TensorFlow.

    The graphs take raw RGB pixels (n, h, w, 3) float32 in 0..255: the package's normalisation
    (x - 127.5) / 128 is folded into the first convolution, exactly, since that one does not pad.
    """
    worst = 0.0
    rng = np.random.default_rng(0)
    for name, side, stage in zip(MTCNN_NETS, (None, 24, 48), mtcnn_stages(weights), strict=True):
        pixels = rng.integers(0, 256, (3, side or 63, side or 97, 3)).astype(np.float32)
        expected = [np.asarray(v) for v in stage.model((pixels - 127.5) / 128)]
        for layer in stage.model.layers:
            if isinstance(layer, keras.layers.PReLU):
                layer.call = partial(_prelu, layer.get_weights()[0])
        first = stage.model.conv1
        kernel, bias = first.get_weights()
        first.set_weights([kernel / 128, bias - 127.5 / 128 * kernel.sum((0, 1, 2))])
        worst = max(worst, _export(stage.model, (None, side, side, 3), folder / f"{name}.onnx", pixels, expected))
    return worst


def _prelu(alpha: np.ndarray, x: Any) -> Any:
    """PReLU in the fewest passes over memory: the exported form of Keras' own takes five."""
    if alpha.max() <= 1:
        return tf.maximum(x, alpha * x)
    return alpha * x + (1 - alpha) * tf.nn.relu(x)


def export_facenet(weights: Path, dim: int, path: Path) -> float:
    """Writes the embedder's graph; returns the largest difference from TensorFlow."""
    network = facenet(weights, dim)
    pixels = np.random.default_rng(0).standard_normal((4, 160, 160, 3)).astype(np.float32)
    expected = [np.asarray(network(pixels, training=False))]
    return _export(lambda x: [network(x, training=False)], (None, 160, 160, 3), path, pixels, expected)


def _export(
    network: Callable[[Any], Any],
    shape: tuple[int | None, ...],
    path: Path,
    pixels: np.ndarray,
    expected: list[np.ndarray],
) -> float:
    """Converts a network and compares the runtime's output on `pixels` with `expected`."""
    import onnxruntime as ort
    import tf2onnx

    signature = [tf.TensorSpec(shape, tf.float32, name="image")]
    function = tf.function(lambda image: [tf.identity(v) for v in network(image)], input_signature=signature)
    model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    path.write_bytes(model.SerializeToString())
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: pixels})
    if len(found) != len(expected):
        raise SystemExit(f"{path.name}: {len(found)} outputs instead of {len(expected)}")
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))


def main(name: str, folder: Path, files: list[Path]) -> None:
    """Exports a model of the catalogue into `folder` and prints the largest difference from TensorFlow."""
    keras.backend.clear_session()
    if name == "mtcnn":
        print(export_mtcnn({f.name: f for f in files}, folder))
    else:
        dim = int(name.rsplit("-", 1)[1])
        print(export_facenet(files[0], dim, folder / f"{name}.onnx"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(f) for f in sys.argv[3:]])
