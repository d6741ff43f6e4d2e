"""Distances, thresholds and folds, against hand-made and brute-force answers."""

import numpy as np
import pytest

from facerec.errors import InputError
from facerec.metrics import (
    Pair,
    best_threshold,
    distance,
    distances,
    fold_accuracies,
    read_pairs,
    right_by_fold,
    threshold_at_fmr,
)

PAIRS = "2\t1\nAna\t1\t2\nAna\t1\tBen Li\t12\nCleo\t3\t4\nCleo\t3\tDora\t1\n"


def test_pairs_are_read_with_their_folds(tmp_path):
    (tmp_path / "p.txt").write_text(PAIRS)
    assert read_pairs(tmp_path / "p.txt") == [
        Pair("Ana/Ana_0001.jpg", "Ana/Ana_0002.jpg", True, 0),
        Pair("Ana/Ana_0001.jpg", "Ben Li/Ben Li_0012.jpg", False, 0),
        Pair("Cleo/Cleo_0003.jpg", "Cleo/Cleo_0004.jpg", True, 1),
        Pair("Cleo/Cleo_0003.jpg", "Dora/Dora_0001.jpg", False, 1),
    ]


@pytest.mark.parametrize(
    "text", ["", "hello\n", "2\t2\n" + PAIRS[4:], PAIRS.replace("12", "x"), PAIRS.replace("\t", " ")]
)
def test_what_are_no_pairs_is_an_input_error(tmp_path, text):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(InputError, match=r"p\.txt is not in the format"):
        read_pairs(tmp_path / "p.txt")


def test_distances_are_those_between_the_points():
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 6, 8)))
    expected = np.linalg.norm(a[:, None] - b[None], axis=2)
    np.testing.assert_allclose(distances(a, b), expected, atol=1e-12)
    np.testing.assert_allclose(distance(a, b), np.diag(expected), atol=1e-12)
    assert distances(a.astype(np.float32), a.astype(np.float32)).diagonal().max() < 1e-3  # and no NaN
    assert distance(a[0], -a[0]) == pytest.approx(2)


def errors(threshold, dist, same):
    return int(((dist <= threshold) != same).sum())


@pytest.mark.parametrize(
    ("dist", "same", "low", "high"),
    [
        ([0.2, 0.4, 0.8, 1.0], [1, 1, 0, 0], 0.4, 0.8),
        ([0.2, 0.4, 0.8], [1, 1, 1], 0.8, 9),
        ([0.2, 0.4, 0.8], [0, 0, 0], -9, 0.2),
        ([1.0, 0.2, 0.5, 0.6, 0.7], [0, 1, 0, 1, 1], 0.7, 1.0),
    ],
)
def test_best_threshold_by_hand(dist, same, low, high):
    assert low <= best_threshold(np.array(dist), np.array(same, bool)) < high


def test_best_threshold_parts_neighbouring_floats():
    """Half way between two of them, float32 rounds to either."""
    below = np.random.default_rng(0).uniform(0, 2, 100).astype(np.float32)
    for one, next_one in zip(below, np.nextafter(below, np.float32(3)), strict=True):
        dist = np.array([one, next_one])
        assert (dist <= best_threshold(dist, np.array([True, False]))).tolist() == [True, False]


@pytest.mark.parametrize("levels", [10_000, 12], ids=["distinct", "ties"])
def test_best_threshold_makes_as_few_errors_as_any(levels):
    rng = np.random.default_rng(levels)
    for _ in range(50):
        n = rng.integers(2, 40)
        dist = rng.integers(0, levels, n) / levels
        same = rng.random(n) < 1 - dist
        fewest = min(errors(t, dist, same) for t in [-1, *dist])
        assert errors(best_threshold(dist, same), dist, same) == fewest


def test_fold_accuracies_count_a_missing_face_as_an_error():
    # The other fold's best threshold lies between 0.3 and 0.9 in both cases.
    dist = np.array([0.2, 0.9, np.nan, 0.95, 0.3, 0.9, 0.25, 0.2])
    same = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(fold_accuracies(dist, same, fold), [3 / 4, 3 / 4])
    dist[3] = np.nan  # of two different people: no decision is no merit
    np.testing.assert_allclose(fold_accuracies(dist, same, fold), [2 / 4, 3 / 4])


def test_a_fold_does_not_choose_its_own_threshold():
    dist, same = np.array([0.1, 0.2, 0.8, 0.9]), np.array([1, 0, 1, 0], bool)
    assert fold_accuracies(dist, same, np.array([0, 0, 1, 1])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("fmr", [0, 0.01, 0.1, 0.25, 0.5, 1])
@pytest.mark.parametrize("levels", [10_000, 8], ids=["distinct", "ties"])
def test_threshold_at_fmr_is_the_largest_that_keeps_the_rate(fmr, levels):
    impostors = np.random.default_rng(1).integers(1, levels, 40) / levels
    threshold = threshold_at_fmr(impostors, fmr)
    assert (impostors <= threshold).mean() <= fmr
    higher = [d for d in impostors if d > threshold]
    assert not higher or (impostors <= min(higher)).mean() > fmr


def test_pairs_without_a_face_leave_no_threshold_and_are_errors():
    dist = np.array([np.nan, np.nan, 0.5, 1.2])
    same, fold = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    assert right_by_fold(dist, same, fold).sum() <= 2 and not right_by_fold(dist, same, fold)[:2].any()


def test_a_file_of_pairs_that_is_no_text_is_an_input_error(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"1\t1\nJos\xe9\t1\t2\nA\t1\tB\t1\n")
    with pytest.raises(InputError, match="format of LFW"):
        read_pairs(tmp_path / "pairs.txt")
