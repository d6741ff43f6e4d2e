"""The shared types: validation, selection, JSON; errors and their exit codes."""

import json

import numpy as np
import pytest
from conftest import SPACE, vectors

from facerec.errors import Exit, FacerecError, InputError, SpaceError
from facerec.types import Crop, Embeddings, Face, Failure, Prediction, Space, StageReport


def fields(n=2, **changed):
    texts = np.array(["x"] * n, np.str_)
    rows = {name: texts for name in ("labels", "sources", "splits", "digests")}
    return {"vectors": np.eye(n, 4, dtype=np.float32), **rows, "space": SPACE, **changed}


@pytest.mark.parametrize(
    "changed",
    [
        {"vectors": np.ones(4, np.float32)},
        {"vectors": np.eye(2, 4)},
        {"vectors": 1.1 * np.eye(2, 4, dtype=np.float32)},
        {"vectors": np.full((2, 4), np.nan, np.float32)},
        {"labels": np.array(["only one"])},
        {"digests": np.array([["a"], ["b"]])},
    ],
    ids=["flat", "float64", "too long", "nan", "a label missing", "digests two-dimensional"],
)
def test_embeddings_that_do_not_fit_together_are_refused(changed):
    Embeddings(**fields())
    with pytest.raises(ValueError, match="must"):
        Embeddings(**fields(**changed))


def test_embeddings_select_rows_by_mask_and_by_number():
    e = vectors({"ana": 3, "ben": 2}, failures=(Failure("x.jpg", "no face"),))
    chosen = e[e.labels == "ben"]
    assert len(chosen) == 2 and chosen.people == ["ben"]
    assert chosen.space == e.space and chosen.failures == e.failures
    assert e[np.array([4, 0])].labels.tolist() == ["ben", "ana"]
    assert len(e[e.labels == "nobody"]) == 0
    assert e.people == ["ana", "ben"]


def test_vectors_of_another_space_are_refused_and_both_spaces_named():
    other = Space("facenet-512", "beef" * 16, Crop(0.2), True)
    with pytest.raises(SpaceError, match=r"facenet-128@.*facenet-512@beefbeef .*margin 0\.2, flip"):
        vectors({"ana": 1}).require_space(other, "faces.npz")


@pytest.mark.parametrize("crop", [Crop(0.1), Crop(0, square=True), Crop(0.5, aligned=True)])
def test_a_space_survives_json(crop):
    space = Space("facenet-128", "ab12", crop, True)
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_a_face_tells_box_as_x_y_width_height():
    points = np.arange(10, dtype=np.float32).reshape(5, 2)
    data = json.loads(json.dumps(Face((1, 2, 11, 32), 0.98765, points).to_json()))
    assert data["box"] == [1, 2, 10, 30] and data["confidence"] == 0.9877
    assert data["keypoints"]["left_eye"] == [0, 1] and data["keypoints"]["mouth_right"] == [8, 9]
    assert Face((1, 2, 11, 32), 1).to_json()["keypoints"] is None
    assert Face((1, 2, 11, 32), 1).size == 10


def test_a_prediction_tells_unknown_with_its_reason():
    face = Face((0, 0, 5, 5), 1)
    known = Prediction(face, "ana", 0.51239, 0.9, "", "ana").to_json()
    unknown = Prediction(face, None, 1.3, None, "too far", "ana").to_json()
    assert (known["name"], known["distance"], known["reason"]) == ("ana", 0.5124, None)
    assert (unknown["name"], unknown["probability"], unknown["reason"]) == (None, None, "too far")
    json.dumps([known, unknown])


def test_a_report_tells_its_failures(tmp_path):
    report = StageReport("detect", tmp_path, done=2, failed=[Failure("a.jpg", "no face found")])
    data = json.loads(json.dumps(report.to_json()))
    assert data["failed"] == [{"input": "a.jpg", "reason": "no face found"}] and data["done"] == 2


def test_errors_read_what_then_cure():
    assert str(FacerecError("it broke", "mend it")) == "it broke — mend it"
    assert str(FacerecError("it broke")) == "it broke"
    assert InputError("cut off").outputs == []
    assert [int(e) for e in Exit] == [0, 1, 2, 3, 4, 130, 141]
