"""Our networks against those that they come from: the mtcnn package and keras-facenet on TensorFlow."""

import cv2
import numpy as np
import pytest
from conftest import CROP

from facerec.detectors import load_detector
from facerec.embedders import load_embedder
from facerec.images import crop_face, find_images, read_image
from facerec.types import Face

pytestmark = pytest.mark.real


def overlaps(a, b):
    """(n, m) intersection over union."""
    a, b = (np.array([f.box for f in faces]).reshape(-1, 4) for faces in (a, b))
    w = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    h = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    shared = np.maximum(w, 0) * np.maximum(h, 0)
    area_a, area_b = ((v[:, 2] - v[:, 0]) * (v[:, 3] - v[:, 1]) for v in (a, b))
    return shared / (area_a[:, None] + area_b - shared)


@pytest.fixture(scope="module")
def reference():
    return load_detector("mtcnn-reference")


@pytest.fixture(scope="module")
def pictures(samples):
    """Twelve sample photographs, of all five people, by name."""
    paths = find_images(samples)[::10]
    assert len(paths) == 12
    return {p.relative_to(samples).as_posix(): read_image(p) for p in paths}


def same_faces(ours, theirs):
    assert len(ours) == len(theirs) > 0
    matrix = overlaps(ours, theirs)
    assert matrix.max(axis=1).min() >= 0.9 and matrix.max(axis=0).min() >= 0.9
    for face, other in zip(ours, matrix.argmax(axis=1), strict=True):
        assert np.abs(face.keypoints - theirs[other].keypoints).max() <= 1
        assert abs(face.confidence - theirs[other].confidence) < 0.01


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.77, 1, 1.6])
def test_mtcnn_finds_the_packages_faces_at_every_scale(detector, reference, astronaut, scale):
    image = cv2.resize(astronaut, None, fx=scale, fy=scale * 0.93, interpolation=cv2.INTER_AREA)
    same_faces(detector.detect(image), reference.detect(image))


def test_the_comparison_notices_channels_the_wrong_way_round(detector, reference, astronaut):
    with pytest.raises(AssertionError):
        same_faces(detector.detect(np.ascontiguousarray(astronaut[..., ::-1])), reference.detect(astronaut))


def test_mtcnn_finds_the_packages_faces_in_photographs(detector, reference, pictures):
    for name, image in pictures.items():
        try:
            same_faces(detector.detect(image), reference.detect(image))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_facenet_gives_keras_facenets_vectors(detector, embedder, astronaut, pictures):
    images = [astronaut, *pictures.values()]
    crops = [crop_face(image, detector.detect(image)[0], CROP, 160) for image in images]
    crops += [crop_face(astronaut, Face((0, 0, 512, 512), 1), CROP, 160), np.zeros((160, 160, 3), np.uint8)]
    theirs = load_embedder("facenet-reference", crop=CROP).embed(np.stack(crops))
    cosines = (embedder.embed(np.stack(crops)) * theirs).sum(axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.parametrize("min_face", [40, 80])
def test_a_larger_min_face_loses_no_face_of_that_size(detector, samples, min_face):
    coarse = load_detector(min_face=min_face, threads=2)
    lost, total = [], 0
    for path in find_images(samples):
        image = read_image(path)
        large = [f for f in detector.detect(image) if f.size >= min_face]
        found = coarse.detect(image)
        total += len(large)
        hits = overlaps(large, found).max(axis=1, initial=0)
        lost += [(path.name, f.size, hit) for f, hit in zip(large, hits, strict=True) if hit < 0.6]
    assert total > 30 and not lost
