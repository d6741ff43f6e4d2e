"""The arithmetic between MTCNN's three networks."""

import itertools

import cv2
import numpy as np
import pytest

from facerec.detectors.mtcnn import (
    CELL,
    MTCNN,
    SCALE_FACTOR,
    adjusted,
    cells,
    parts,
    patches,
    pyramid,
    squared,
    suppress,
)


@pytest.mark.parametrize("min_face", [12, 20, 40, 80, 333])
@pytest.mark.parametrize("shape", [(250, 250), (720, 1280), (61, 1000)])
def test_the_pyramid_runs_from_min_face_to_the_smallest_input_of_the_network(shape, min_face):
    scales = pyramid(*shape, min_face)
    if min(shape) < min_face:
        assert scales == []
        return
    assert scales[0] == CELL / min_face
    np.testing.assert_allclose(np.divide(scales[1:], scales[:-1]), SCALE_FACTOR)
    assert int(min(shape) * scales[-1] + 1e-6) >= CELL > min(shape) * scales[-1] * SCALE_FACTOR


@pytest.mark.parametrize("side", [1, 5, 11])
def test_a_tiny_picture_has_no_pyramid(side):
    assert pyramid(side, 400, 20) == []


def kept_by_hand(boxes, scores, threshold, of_smaller):
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    area = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
    keep = []
    for rank, i in enumerate(order):
        for j in order[:rank]:
            w = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            h = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            shared = max(w, 0) * max(h, 0)
            if shared > threshold * (min(area[i], area[j]) if of_smaller else area[i] + area[j] - shared):
                break
        else:
            keep.append(i)
    return keep


@pytest.mark.parametrize("of_smaller", [False, True])
@pytest.mark.parametrize("n", [0, 1, 60])
def test_suppression_keeps_boxes_that_overlap_no_better_one(n, of_smaller):
    rng = np.random.default_rng(n)
    corner = rng.integers(0, 60, (n, 2)).astype(float)
    boxes, scores = np.hstack([corner, corner + rng.integers(10, 40, (n, 2))]), rng.random(n)
    assert suppress(boxes, scores, 0.5, of_smaller).tolist() == kept_by_hand(boxes, scores, 0.5, of_smaller)


def test_suppression_of_thousands_works_across_its_blocks():
    n = 2500
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (n, 1)) + 100 * (np.arange(n) % 700)[:, None]
    keep = suppress(boxes, np.linspace(1, 0.5, n), 0.5)
    assert keep.tolist() == list(range(700))


def test_boxes_are_squared_around_their_centres_and_moved_by_shares_of_their_size():
    boxes = np.array([[10.0, 20, 30, 80], [0, 0, 50, 50]])
    np.testing.assert_allclose(squared(boxes), [[-10, 20, 50, 80], [0, 0, 50, 50]])
    moved = adjusted(np.array([[0.0, 0, 9, 19]]), np.array([[0.1, 0.1, -0.2, 0]], np.float32))
    np.testing.assert_allclose(moved, [[1, 2, 7, 19]], atol=1e-5)
    assert squared(np.empty((0, 4))).shape == (0, 4)


def test_patches_are_grey_outside_the_picture_and_exact_inside():
    y, x = np.mgrid[0:50, 0:80].astype(np.float32)
    pixels = np.dstack([x, y, x + y])
    inside, outside, half = patches(pixels, np.array([[10.0, 10, 33, 33], [90, 90, 113, 113], [-12, 5, 11, 28]]), 24)
    assert inside.dtype == np.float32
    np.testing.assert_allclose(inside[0, :, 0], np.linspace(10, 33, 24) * 79 / 80, atol=0.05)
    np.testing.assert_allclose(inside[:, 0, 1], np.linspace(10, 33, 24) * 49 / 50, atol=0.05)
    assert (outside == 127.5).all()
    assert (half[:, :10] == 127.5).all() and half[0, -1, 0] == pytest.approx(11 * 79 / 80, abs=0.05)


@pytest.mark.parametrize(("n", "most"), [(1, 48), (48, 48), (49, 48), (379, 48), (7, 3)])
def test_parts_cover_all_once_and_differ_by_one_at_most(n, most):
    cuts = parts(n, most)
    sizes = [last - first for first, last in cuts]
    assert cuts[0][0] == 0 and cuts[-1][1] == n and all(a[1] == b[0] for a, b in itertools.pairwise(cuts))
    assert len(cuts) == -(-n // most) and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("side", range(12, 60))
def test_cells_are_those_of_the_network(side):
    pooled = -(-(side - 2) // 2)  # 3×3, then 2×2 with what is left over at the end
    assert cells(side) == pooled - 4  # two 3×3


@pytest.mark.parametrize("min_face", [12, 20, 60])
@pytest.mark.parametrize("shape", [(250, 250), (61, 487), (333, 60)])
def test_levels_are_area_averages_of_the_picture(shape, min_face):
    """OpenCV's INTER_AREA is what the mtcnn package uses."""
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    sizes = tuple((int(height * scale), int(width * scale)) for scale in pyramid(height, width, min_face))
    for level, (h, w) in zip(MTCNN()._levels(image, sizes), sizes, strict=True):
        expected = cv2.resize(image.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(level, expected, atol=1e-3)
