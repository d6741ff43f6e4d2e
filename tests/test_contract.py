"""What every detector and every embedder must keep to, on the real networks."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import cv2
import numpy as np
import pytest
from conftest import CROP
from threadpoolctl import threadpool_info

from facerec import runtime
from facerec.detectors import DETECTORS, load_detector
from facerec.embedders import EMBEDDERS, MODELS, load_embedder
from facerec.errors import UsageError, WeightsError
from facerec.images import crop_face
from facerec.types import Face

pytestmark = pytest.mark.real

FACE = (170, 60, 275, 210)  # Eileen Collins's, roughly


@pytest.fixture(scope="module", params=DETECTORS)
def any_detector(request):
    return load_detector(request.param)


@pytest.fixture(scope="module", params=EMBEDDERS)
def any_embedder(request):
    return load_embedder(request.param, crop=CROP)


@pytest.fixture(scope="module")
def crops(astronaut):
    """Seven different crops."""
    boxes = [(170 + 5 * i, 60, 275 + 5 * i, 200 - 4 * i) for i in range(7)]
    return np.stack([crop_face(astronaut, Face(box, 1), CROP, 160) for box in boxes])


def overlap(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


# --- detectors -----------------------------------------------------------------------------------


def test_the_astronauts_face_is_found(any_detector, astronaut):
    best = any_detector.detect(astronaut)[0]
    assert overlap(best.box, FACE) > 0.4
    if best.keypoints is not None:
        points = np.asarray(best.keypoints)
        left_eye, right_eye, nose, mouth_left, mouth_right = points
        assert points.shape == (5, 2)
        assert left_eye[0] < nose[0] < right_eye[0] and mouth_left[0] < mouth_right[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


@pytest.mark.parametrize("view", ["whole", "cut off", "many", "grey"])
def test_boxes_lie_inside_the_image_and_come_most_confident_first(any_detector, astronaut, view):
    image = {
        "whole": astronaut,
        "cut off": astronaut[80:300, 195:420],
        "many": np.hstack([astronaut[:300], astronaut[:300, ::-1]]),
        "grey": np.dstack([astronaut.mean(axis=2).astype(np.uint8)] * 3),
    }[view]
    image = np.ascontiguousarray(image)
    before = image.copy()
    faces = any_detector.detect(image)
    assert (image == before).all()
    assert view == "cut off" or len(faces) >= (2 if view == "many" else 1)
    for face in faces:
        x1, y1, x2, y2 = face.box
        assert 0 <= x1 < x2 <= image.shape[1] and 0 <= y1 < y2 <= image.shape[0]
        assert 0 <= face.confidence <= 1
    confidences = [face.confidence for face in faces]
    assert confidences == sorted(confidences, reverse=True)


@pytest.mark.parametrize("shape", [(200, 300), (1, 1), (5, 400), (400, 13), (40, 40)], ids=str)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_of_any_size_holds_no_face(any_detector, shape, value):
    assert any_detector.detect(np.full((*shape, 3), value, np.uint8)) == []


def test_detection_is_deterministic(any_detector, astronaut):
    first, second = (any_detector.detect(astronaut) for _ in range(2))
    assert [f.to_json() for f in first] == [f.to_json() for f in second] != []


@pytest.mark.parametrize("name", DETECTORS)
def test_small_and_faint_faces_can_be_left_out(name, astronaut):
    assert load_detector(name, min_face=300).detect(astronaut) == []
    assert load_detector(name, min_confidence=1.0).detect(astronaut) == []
    assert load_detector(name, min_face=60).detect(astronaut)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "nonsense"},
        {"min_face": 11},
        {"name": "mtcnn-reference", "min_face": 19},
        {"min_confidence": 1.5},
        {"min_confidence": -0.1},
    ],
    ids=str,
)
def test_what_no_detector_takes_is_a_usage_error(options):
    with pytest.raises(UsageError):
        load_detector(**options)


# --- embedders -----------------------------------------------------------------------------------


def test_rows_are_unit_vectors(any_embedder, crops):
    vectors = any_embedder.embed(crops)
    assert vectors.shape == (7, any_embedder.dim) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.unique(vectors.round(3), axis=0).shape[0] == 7


def test_no_crops_give_no_vectors(any_embedder):
    size = any_embedder.input_size
    vectors = any_embedder.embed(np.empty((0, size, size, 3), np.uint8))
    assert vectors.shape == (0, any_embedder.dim) and vectors.dtype == np.float32


def test_a_batch_gives_what_its_crops_give_one_by_one(any_embedder, crops):
    many = np.concatenate([crops] * 5)  # more than one batch inside
    single = np.concatenate([any_embedder.embed(crops[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(any_embedder.embed(many), np.concatenate([single] * 5), atol=1e-5)


def test_threads_change_no_vector(embedder, crops):
    """A single crop's first layers are shared among threads, a batch's crops are dealt out to them."""
    shared = load_embedder(crop=CROP, threads=3)
    alone = embedder.embed(crops)
    np.testing.assert_allclose(shared.embed(crops), alone, atol=1e-5)
    for crop, vector in zip(crops, alone, strict=True):
        np.testing.assert_allclose(shared.embed(crop[None]), [vector], atol=1e-5)


def test_embedding_is_deterministic(any_embedder, crops):
    np.testing.assert_array_equal(any_embedder.embed(crops), any_embedder.embed(crops))


@pytest.mark.parametrize(
    "crops",
    [np.zeros((1, 96, 96, 3), np.uint8), np.zeros((160, 160, 3), np.uint8), np.zeros((1, 160, 160, 3))],
    ids=str,
)
def test_what_are_no_crops_is_refused(any_embedder, crops):
    with pytest.raises(ValueError, match="crops must be"):
        any_embedder.embed(crops)


def test_a_crop_of_one_colour_has_a_vector(any_embedder):
    assert np.isfinite(any_embedder.embed(np.full((1, 160, 160, 3), 90, np.uint8))).all()


def test_flip_makes_a_face_and_its_mirror_image_one(astronaut, crops):
    flipping = load_embedder(crop=CROP, flip=True)
    assert flipping.space.flip and flipping.space != load_embedder(crop=CROP).space
    mirrored = np.ascontiguousarray(crops[:, :, ::-1])
    np.testing.assert_allclose(flipping.embed(crops), flipping.embed(mirrored), atol=1e-4)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_all_engines_share_one_space(name, embedder):
    assert load_embedder(name, crop=CROP).space == embedder.space


@pytest.mark.parametrize("options", [{"name": "nonsense"}, {"model": "nonsense"}], ids=str)
def test_what_no_embedder_takes_is_a_usage_error(options):
    with pytest.raises(UsageError, match="choose one of"):
        load_embedder(crop=CROP, **options)


@pytest.mark.parametrize("model", MODELS[1:])
def test_other_models_embed_too(model, crops):
    try:
        other = load_embedder(model=model, crop=CROP)
    except WeightsError as error:
        pytest.skip(f"{model} cannot be had here: {error.what[:80]}")
    vectors = other.embed(crops)
    assert vectors.shape == (7, other.dim) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_threads_change_no_face(detector, astronaut):
    """Tiles and patches are dealt out differently; the faces are the same."""
    image = cv2.resize(astronaut, (900, 1000))
    alone, together = detector.detect(image), load_detector(threads=3).detect(image)
    assert len(alone) == len(together) > 0
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=1e-3)


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_products_are_kept_on_their_threads_only_while_somebody_detects():
    """The limit holds for the whole process, so it must go with the last who asked for it."""
    before = blas_threads()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(runtime.one_blas_thread())
        second.enter_context(runtime.one_blas_thread())
        assert set(blas_threads()) <= {1}
        first.close()
        assert set(blas_threads()) <= {1}
    assert blas_threads() == before


def test_threads_that_come_and_go_leave_the_limit_as_it_was():
    before = blas_threads()
    inside = set()

    def work(n):
        for _ in range(n):
            with runtime.one_blas_thread():
                inside.update(blas_threads())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [40] * 3))
    assert blas_threads() == before and inside <= {1}


def test_a_network_that_is_none_is_refused(tmp_path):
    (tmp_path / "net.param").write_text("not a network")
    (tmp_path / "net.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        runtime.Net(tmp_path / "net.param", tmp_path / "net.bin")
