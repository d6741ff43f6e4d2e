"""The reference networks on TensorFlow, and their export for the engines that run them.

The only module that builds a Keras network. Exporting runs in a process of its own
(``python -m facerec.reference NAME FOLDER FILE…``), so that no other command ever imports TensorFlow.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from facerec import runtime

MTCNN_NETS = ("pnet", "rnet", "onet")
OPSET = 17
STEM = 5  # convolutions of FaceNet that ncnn runs in less than half the time; the sixth, with a stride, is no faster
BLOCK = 16  # channels that ONNX Runtime's convolutions take at once, with AVX-512
NCNN_BLOCK = 4  # the smallest that ncnn takes at once
NO_WINOGRAD = 64  # ncnn's bit for a layer

Array = npt.NDArray[np.float32]
Layer = tuple[str, list[Array], dict[str, Any]]
"""Kind, weights and settings."""


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
    """Writes pnet.param and pnet.bin (ncnn), rnet.onnx and onet.onnx; returns the largest difference from TensorFlow.

    All take raw RGB pixels, float32 in 0..255: the package's normalisation (x - 127.5) / 128 is folded into
    the first convolution, exactly, since that one does not pad. All give the heads side by side: the face
    logit (whose logistic function is the face's probability), four box offsets, and O-Net's ten keypoint
    coordinates.
    """
    pnet, rnet, onet = (stage.model for stage in mtcnn_stages(weights))
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> Array:
        return rng.integers(0, 256, (*shape, 3)).astype(np.float32)

    _write_ncnn(_layers(pnet, [pnet.conv4_2, pnet.conv4_1]), folder / "pnet.param", folder / "pnet.bin")
    run = runtime.Net(folder / "pnet.param", folder / "pnet.bin")
    worst = 0.0
    for shape in ((63, 97), (12, 12), (40, 121)):
        image = pixels(*shape)
        worst = max(worst, _difference(pnet, image[None], run(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]))
    for name, net, side, heads in (
        ("rnet", rnet, 24, [rnet.fc5_2, rnet.fc5_1]),
        ("onet", onet, 48, [onet.fc6_3, onet.fc6_1, onet.fc6_2]),
    ):
        path = folder / f"{name}.onnx"
        _write_onnx(_layers(net, heads), side, path)
        image = pixels(3, side, side)
        (found,) = runtime.session(path, threads=1).run(None, {"image": image})
        worst = max(worst, _difference(net, image, found))
    return worst


def _difference(network: Any, pixels: Array, found: Array) -> float:
    """Largest difference of an exported network's output (n, channels, …) from TensorFlow's."""
    offsets, *points, probabilities = (np.asarray(v) for v in network((pixels - 127.5) / 128))
    expected = np.concatenate([probabilities[..., 1:], offsets, *points], axis=-1)
    found = np.moveaxis(found, 1, -1).copy()
    found[..., 0] = 1 / (1 + np.exp(-found[..., 0]))
    return float(np.abs(found - expected).max())


def _layers(network: Any, heads: list[Any]) -> list[Layer]:
    """A stage as a chain of (kind, weights, settings): convolutions, PReLUs, pools and dense layers.

    Kernels are (out, in, h, w), dense weights (in, out); what follows the last pool is flattened channels
    first. The heads become one layer, the softmax of two classes one logit.
    """
    chain: list[Layer] = []
    for layer in network.layers:
        if layer in heads:
            continue
        values = layer.get_weights()
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = values
            if not chain:
                kernel, bias = kernel / 128, bias - 127.5 / 128 * kernel.sum((0, 1, 2))
            chain.append(("conv", [kernel.transpose(3, 2, 0, 1), bias], {}))
        elif isinstance(layer, keras.layers.PReLU):
            chain.append(("prelu", [values[0].reshape(-1)], {}))
        elif isinstance(layer, keras.layers.MaxPooling2D):
            chain.append(("pool", [], {"size": layer.pool_size[0], "same": layer.padding == "same"}))
        elif isinstance(layer, keras.layers.Dense):
            weights, bias = values
            channels = chain[-1][1][0].size  # of the PReLU before it
            side = round((len(weights) / channels) ** 0.5)
            rows = weights.reshape(side, side, channels, -1).transpose(2, 1, 0, 3)  # the package's permutes: w, h, c
            chain.append(("dense", [rows.reshape(weights.shape), bias], {}))
    faces, *others = (head.get_weights() for head in heads)
    logit = [v[..., 1:] - v[..., :1] for v in faces]
    kernel, bias = (np.concatenate(parts, axis=-1) for parts in zip(logit, *others, strict=True))
    kind, kernel = ("conv", kernel.transpose(3, 2, 0, 1)) if kernel.ndim == 4 else ("dense", kernel)
    return [*chain, (kind, [kernel, bias], {})]


def _write_ncnn(layers: list[Layer], param: Path, weights: Path) -> None:
    """A fully convolutional chain in ncnn's format: image → out.

    Channels between its layers are filled up with zeros to whole blocks. The first convolution is a direct one:
    Winograd's does not pay with three channels.
    """
    lines, data, blob, channels = ["Input image 0 1 image"], bytearray(), "image", 3
    for i, (kind, values, settings) in enumerate(layers):
        last = i == len(layers) - 1
        out = "out" if last else f"{kind}{i}"
        if kind == "conv":
            kernel, bias = values
            filled = len(kernel) if last else -(-len(kernel) // NCNN_BLOCK) * NCNN_BLOCK
            kernel, bias = _filled(_filled(kernel, 1, channels), 0, filled), _filled(bias, 0, filled)
            values, channels = [kernel, bias], filled
            how = f"3={settings.get('stride', 1)} 4={settings.get('pad', 0)} 9={settings.get('relu', 0)}"
            if i == 0:
                how += f" 31={NO_WINOGRAD}"
            lines.append(
                f"Convolution {out} 1 1 {blob} {out} 0={len(kernel)} 1={kernel.shape[-1]} 5=1 6={kernel.size} {how}"
            )
            data += np.uint32(0).tobytes()  # the weights are float32
        elif kind == "prelu":
            values = [_filled(values[0], 0, channels)]
            lines.append(f"PReLU {out} 1 1 {blob} {out} 0={channels}")
        else:
            lines.append(f"Pooling {out} 1 1 {blob} {out} 0=0 1={settings['size']} 2=2 5={int(not settings['same'])}")
        data += b"".join(np.ascontiguousarray(v, "<f4").tobytes() for v in values)
        blob = out
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""]))
    weights.write_bytes(data)


def _filled(value: Array, axis: int, size: int) -> Array:
    """Zeros behind, up to `size` along `axis`."""
    return np.pad(value, [(0, size - n if i == axis else 0) for i, n in enumerate(value.shape)])


def _write_onnx(layers: list[Layer], side: int, path: Path) -> None:
    """A chain on batches of squares in ONNX: image (n, side, side, 3) → out.

    Channels are filled up with zeros to whole blocks, and PReLU is written as x ± relu(∓(1 - α)x) with
    1×1 depthwise convolutions: both keep the runtime in its blocked layout from the first layer to the last.
    """
    import onnx
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def node(kind: str, inputs: list[str], **settings: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{kind.lower()}{len(nodes)}"], **settings))
        return nodes[-1].output[0]

    def constant(value: Array) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), f"weights{len(constants)}"))
        return constants[-1].name

    x, channels, size, flat = node("Transpose", ["image"], perm=[0, 3, 1, 2]), 3, side, False
    for kind, values, settings in layers:
        if kind == "conv":
            kernel, bias = values
            out = -(-len(kernel) // BLOCK) * BLOCK
            kernel = _filled(_filled(kernel, 1, channels), 0, out)
            x = node("Conv", [x, constant(kernel), constant(_filled(bias, 0, out))], kernel_shape=kernel.shape[2:])
            channels, size = out, size - kernel.shape[2] + 1
        elif kind == "prelu" and not flat:
            rest = 1 - _filled(values[0], 0, channels).reshape(-1, 1, 1, 1)
            same = {"group": channels, "kernel_shape": [1, 1]}
            below = node("Relu", [node("Conv", [x, constant(-np.abs(rest))], **same)])
            x = node("Add", [node("Conv", [below, constant(np.sign(rest))], **same), x])
        elif kind == "prelu":
            x = node("PRelu", [x, constant(values[0])])
        elif kind == "pool":
            pool = settings["size"]
            tail = (pool - size) % 2 if settings["same"] else 0
            x = node("MaxPool", [x], kernel_shape=[pool, pool], strides=[2, 2], pads=[0, 0, tail, tail])
            size = (size + tail - pool) // 2 + 1
        else:
            x = x if flat else node("Flatten", [x])
            x, flat = node("Gemm", [x, *map(constant, values)]), True
    nodes[-1].output[0] = "out"
    image, out = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", ["n", side, side, 3]), ("out", ["n", len(layers[-1][1][1])]))
    )
    graph = helper.make_graph(nodes, path.stem, [image], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def export_facenet(weights: Path, dim: int, path: Path) -> float:
    """Writes the embedder's graph; returns the largest difference from TensorFlow."""
    network = facenet(weights, dim)
    export_network(network, path)
    pixels = np.random.default_rng(0).standard_normal((4, 160, 160, 3)).astype(np.float32)
    (found,) = runtime.session(path, threads=1).run(None, {"image": pixels})
    return float(np.abs(found - np.asarray(network(pixels, training=False))).max())


def export_network(network: Any, path: Path) -> None:
    """Writes a network that takes (n, 160, 160, 3) float32; its stem for ncnn, in the graph's metadata."""
    import tf2onnx

    signature = [tf.TensorSpec((None, 160, 160, 3), tf.float32, name="image")]
    function = tf.function(lambda image: tf.identity(network(image, training=False)), input_signature=signature)
    model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    path.write_bytes(_stem_apart(model).SerializeToString())


def _stem_apart(model: Any) -> Any:
    """The graph behind the first `STEM` convolutions, which go into its metadata: see `facerec.runtime.Stemmed`."""
    from onnx import helper, numpy_helper, shape_inference, utils

    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    layers: list[Layer] = []
    for node in model.graph.node[1:]:  # the first puts channels first
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            if sum(kind == "conv" for kind, _, _ in layers) == STEM:
                break
            (stride,), (pad,) = {*settings["strides"]}, {*settings.get("pads", [0])}
            layers.append(("conv", [values[name] for name in node.input[1:]], {"stride": stride, "pad": pad}))
        elif node.op_type == "Relu":
            layers[-1][2]["relu"] = 1
        elif node.op_type == "MaxPool":
            layers.append(("pool", [], {"size": settings["kernel_shape"][0], "same": False}))
        else:
            raise ValueError(f"no stem: {node.op_type}")
        cut = node.output[0]
    with tempfile.TemporaryDirectory() as name:
        param, weights = Path(name, "stem.param"), Path(name, "stem.bin")
        _write_ncnn(layers, param, weights)
        about = {
            "facerec stem": param.read_text(),
            "facerec stem weights": base64.b64encode(weights.read_bytes()).decode(),
        }
    about["facerec stem input"] = json.dumps(
        [None, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    )
    rest = utils.Extractor(shape_inference.infer_shapes(model)).extract_model(
        [cut], [out.name for out in model.graph.output]
    )
    helper.set_model_props(rest, about)
    return rest


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
