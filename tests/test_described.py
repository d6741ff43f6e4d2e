"""Embedders that are described by a file beside their graph."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facerec import weights
from facerec.embedders import load_embedder
from facerec.embedders.onnx import Description
from facerec.errors import ArtifactError, WeightsError
from facerec.types import Crop

ARCFACE = {"onnx": "net.onnx", "size": 8, "normalise": [127.5, 127.5], "colour": "bgr", "crop": "aligned"}


def write(folder, shape=("n", 3, 8, 8), **changes):
    """A graph that averages each channel of what it is given, and its description."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph(nodes, "net", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    path = folder / "arcface.json"
    path.write_text(json.dumps({k: v for k, v in (ARCFACE | changes).items() if v is not None}))
    return path


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_pixels_arrive_as_described(tmp_path, colour, batch):
    description = Description.read(write(tmp_path, (batch, 3, 8, 8), colour=colour))
    assert description.crop == Crop(0.0, aligned=True)
    embedder = description.load(description.crop, flip=False, threads=1)
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    means = ((crops.astype(float) - 127.5) / 127.5).mean(axis=(1, 2))
    expected = means if colour == "rgb" else means[:, ::-1]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(crops), expected, atol=1e-5)
    assert (embedder.dim, embedder.input_size, embedder.space.model) == (3, 8, "arcface")
    assert embedder.embed(crops[:0]).shape == (0, 3)


def test_whatever_changes_a_vector_changes_the_space(tmp_path):
    spaces = set()
    for changes in ({}, {"colour": "rgb"}, {"normalise": "standardise"}, {"normalise": [0, 255]}):
        description = Description.read(write(tmp_path, **changes))
        spaces.add(description.load(description.crop, False, 1).space)
    assert len(spaces) == 4


@pytest.mark.parametrize(
    "changes",
    [{"size": None}, {"normalise": [1]}, {"normalise": "?"}, {"colour": "hsv"}, {"crop": "round"}, {"typo": 1}],
    ids=str,
)
def test_what_is_no_description_is_refused_with_its_form(tmp_path, changes):
    with pytest.raises(ArtifactError, match=r"does not describe a model.*it holds"):
        Description.read(write(tmp_path, **changes))


def test_a_graph_that_is_missing_or_takes_something_else_is_refused(tmp_path):
    description = Description.read(write(tmp_path, size=9))
    with pytest.raises(WeightsError, match="not pictures of 9×9"):
        description.load(description.crop, False, 1)
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(ArtifactError, match="put the graph beside"):
        description.load(description.crop, False, 1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        Description.read(tmp_path / "none.json")


@pytest.mark.real
def test_facenet_described_by_its_file_is_facenet(tmp_path, astronaut, monkeypatch, capsys):
    from facerec.cli import main

    graph = weights.graph("facenet-128", "facenet-128.onnx")
    path = tmp_path / "facenet.json"
    path.write_text(json.dumps({"onnx": str(graph), "size": 160, "normalise": "standardise", "crop": "stretched"}))
    crop = Crop(0.0)
    crops = np.stack([astronaut[:160, 100:260], astronaut[20:180, 140:300]])
    described = Description.read(path).load(crop, True, 1)
    np.testing.assert_array_equal(described.embed(crops), load_embedder(crop=crop, flip=True).embed(crops))

    monkeypatch.chdir(tmp_path)
    settings = ["margin=0", f"model={path}", f"model={path},margin=0.2,crop=aligned"]
    assert main(["evaluate", "compare", str(weights.samples() / "val"), *settings, "--json"]) == 0
    catalogued, same, aligned = json.loads(capsys.readouterr().out)["variants"].values()
    assert catalogued == same != aligned
    assert main(["evaluate", "compare", str(weights.samples() / "val"), "model=none.txt"]) == 2
