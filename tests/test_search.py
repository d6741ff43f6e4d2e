"""Searching a gallery: the exact search against brute force, and the index against the exact search."""

import importlib.util
import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import vectors

from facerec import search
from facerec.artifacts import read_npz, write_npz
from facerec.classify import Classifier, PerPerson, train_model
from facerec.errors import DataError, UsageError
from facerec.search import Index, Search
from facerec.types import Gate

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="the index needs FAISS: pip install 'facerec[index]'"
)


def unit(n, dim=16, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(people, each, seed=0):
    """Photos around a direction a person, in no order, and their names."""
    rows = np.repeat(unit(people, seed=seed), each, axis=0) + 0.1 * unit(people * each, seed=seed + 1)
    order = np.random.default_rng(seed).permutation(len(rows))
    names = np.repeat([f"p{i:05d}" for i in range(people)], each)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True))[order], names[order]


PROBES = unit(50, seed=9)
GALLERIES = {
    "one photo": (1, 1),
    "one person": (1, 20),
    "one photo each": (200, 1),
    "several": (40, 7),
    "many": (3000, 3),
}


@pytest.mark.parametrize("shape", GALLERIES)
@pytest.mark.parametrize("k", [1, 4, 1000])
def test_the_closest_people_are_those_of_brute_force(shape, k):
    gallery, names = clustered(*GALLERIES[shape])
    apart = PerPerson(gallery, names).distances(PROBES)
    for row, seen in zip(apart, Search(gallery, names).see(PROBES, k), strict=True):
        people, distances = seen.closest(k)
        assert people.tolist() == np.argsort(row, kind="stable")[:k].tolist()
        np.testing.assert_allclose(distances, row[people], atol=1e-5)
        assert distances.dtype == np.float32
        assert [seen.distance(p) for p in people] == distances.tolist()


@pytest.mark.parametrize("shape", GALLERIES)
@pytest.mark.parametrize("kind", ["knn", "nearest"])
def test_the_winner_is_that_of_the_model(shape, kind):
    gallery, names = clustered(*GALLERIES[shape])
    scores = train_model(kind, gallery, names).scores(PROBES)
    assert [seen.winner(kind) for seen in Search(gallery, names).see(PROBES, 4)] == scores.argmax(axis=1).tolist()


def test_equal_distances_come_in_the_order_of_names():
    same = np.repeat(unit(1), 40, axis=0)
    names = np.array([f"p{i:02d}" for i in range(40)])[::-1]
    (seen,) = Search(same, names).see(same[:1], 4)
    assert seen.closest(4)[0].tolist() == [0, 1, 2, 3]
    assert seen.winner("nearest") == 0


def test_somebody_with_most_of_the_photos_hides_nobody():
    gallery = np.concatenate([np.repeat(unit(1), 2000, axis=0), unit(30, seed=2)])
    names = np.array(["many"] * 2000 + [f"one{i:02d}" for i in range(30)])
    (seen,) = Search(gallery, names).see(unit(1), 4)
    people, distances = seen.closest(4)
    row = PerPerson(gallery, names).distances(unit(1))[0]
    assert people.tolist() == np.argsort(row)[:4].tolist()
    np.testing.assert_allclose(distances, np.sort(row)[:4], atol=1e-3)


def test_no_probes_no_answers():
    assert list(Search(*clustered(3, 2)).see(np.empty((0, 16), np.float32), 4)) == []


def test_batches_answer_like_single_probes_and_are_bounded(monkeypatch):
    gallery, names = clustered(100, 3)
    monkeypatch.setattr(search, "COSINES", 7 * len(gallery))
    in_batches = list(Search(gallery, names).see(PROBES, 4))
    assert max(len(seen.cosines.base) for seen in in_batches) == 7
    for probe, seen in zip(PROBES, in_batches, strict=True):
        (single,) = Search(gallery, names).see(probe[None], 4)
        np.testing.assert_array_equal(single.closest(4)[0], seen.closest(4)[0])


def test_a_gallery_is_searched_where_it_is():
    gallery, names = clustered(100, 3)
    assert Search(gallery, names)._vectors is gallery


@pytest.mark.parametrize("kind", ["knn", "nearest"])
def test_a_gallery_decides_as_a_classifier_of_the_same_photos(kind):
    people = {"ana": 6, "ben": 1, "cleo": 5}
    photos, gate = vectors(people), Gate(0.9, 0.05)
    gallery, trained = Classifier.of_gallery(kind, photos, gate), Classifier.train(kind, photos, gate)
    for ours, theirs in zip(gallery.decide(PROBES), trained.decide(PROBES), strict=True):
        assert ours.probability is None
        assert replace(theirs, probability=None) == ours
    with pytest.raises(DataError, match="nobody is enrolled"):
        Classifier.of_gallery(kind, photos[np.zeros(len(photos), bool)], gate)


# --- the index -----------------------------------------------------------------------------------


@pytest.fixture
def indexed(tmp_path):
    gallery, names = clustered(1000, 5)
    return gallery, names, tmp_path / "index.npz"


def answers(gallery, names, probes, index=None):
    return [seen.closest(3) for seen in Search(gallery, names, index).see(probes, 3)]


@needs_faiss
def test_the_index_finds_what_the_exact_search_finds(indexed):
    gallery, names, path = indexed
    probes = clustered(1000, 1)[0][:300]
    exact, fast = answers(gallery, names, probes), answers(gallery, names, probes, Index(gallery, path))
    same = [a[0] == b[0] for (a, _), (b, _) in zip(exact, fast, strict=True)]
    assert np.mean(same) >= 0.99
    for (a, x), (b, y) in zip(exact, fast, strict=True):
        if a[0] == b[0]:
            assert abs(x[0] - y[0]) < 1e-5, "distances are those of the vectors, not of their 8 bits"


@needs_faiss
@pytest.mark.parametrize("kind", ["knn", "nearest"])
def test_winners_among_the_proposed_are_those_among_all(indexed, kind):
    gallery, names, path = indexed
    probes = clustered(1000, 1)[0][:300]
    exact, fast = (
        [seen.winner(kind) for seen in Search(gallery, names, index).see(probes, 4)]
        for index in (None, Index(gallery, path))
    )
    assert np.mean(np.equal(exact, fast)) >= 0.99


@needs_faiss
def test_where_one_person_is_all_that_is_proposed_everybody_is_looked_at(tmp_path):
    gallery = np.concatenate([np.repeat(unit(1), 500, axis=0), unit(30, seed=2)])
    names = np.array(["many"] * 500 + [f"one{i:02d}" for i in range(30)])
    (fast,) = answers(gallery, names, unit(1), Index(gallery, tmp_path / "index.npz"))
    assert fast[0].tolist() == answers(gallery, names, unit(1))[0][0].tolist()


@needs_faiss
def test_the_index_is_kept_and_grows_with_the_gallery(indexed, caplog):
    gallery, _, path = indexed
    with caplog.at_level(logging.INFO, "facerec"):
        Index(gallery, path)
        assert "is made" in caplog.text and path.stat().st_mode & 0o077 == 0
        written = path.read_bytes()
        caplog.clear()
        Index(gallery, path)
        assert path.read_bytes() == written
        more = np.concatenate([gallery, unit(3, seed=5)])
        index = Index(more, path)
        assert "is made" not in caplog.text, "nothing is learnt again"
    _, arrays = read_npz(path, "index", {"centres": ("f", 2), "lists": ("u", 1)}, "")
    assert len(arrays["lists"]) == len(more)
    assert all(row in found for row, found in enumerate(index.propose(more[-3:]), start=5000))


def other_vectors(header, arrays):
    header["of"] = "0" * 64


def list_out_of_range(_, arrays):
    arrays["lists"][7] = 60_000


def not_finite(_, arrays):
    arrays["centres"][3, 3] = np.nan


def other_dimension(_, arrays):
    arrays["centres"] = arrays["centres"][:, :5]


def other_precision(_, arrays):
    arrays["centres"] = arrays["centres"].astype(np.float64)


def no_centres(_, arrays):
    arrays["centres"] = arrays["centres"][:0]


def no_lists(_, arrays):
    arrays["lists"] = arrays["lists"][:0]


@needs_faiss
@pytest.mark.parametrize(
    "forge",
    [other_vectors, list_out_of_range, not_finite, other_dimension, other_precision, no_centres, no_lists],
)
def test_a_foreign_or_damaged_index_is_made_again(indexed, caplog, forge):
    gallery, _, path = indexed
    Index(gallery, path)
    header, arrays = read_npz(path, "index", {"centres": ("f", 2), "lists": ("u", 1)}, "")
    arrays = {name: array.copy() for name, array in arrays.items()}
    forge(header, arrays)
    write_npz(path, header, arrays)
    with caplog.at_level(logging.INFO, "facerec"):
        index = Index(gallery, path)
    assert "is made" in caplog.text
    assert all(row in found for row, found in enumerate(index.propose(gallery[:5])))


@needs_faiss
@pytest.mark.parametrize("content", [b"", b"IxSQ\0\0\0\0", json.dumps({"kind": "index"}).encode()])
def test_what_is_no_file_of_ours_is_not_read(indexed, content):
    gallery, _, path = indexed
    path.write_bytes(content)
    assert len(Index(gallery, path).propose(gallery[:5])) == 5


@needs_faiss
def test_a_forged_index_with_plausible_numbers_can_only_hide(indexed):
    gallery, names, path = indexed
    Index(gallery, path)
    header, arrays = read_npz(path, "index", {"centres": ("f", 2), "lists": ("u", 1)}, "")
    write_npz(path, header, {"centres": np.full_like(arrays["centres"], 3e38), "lists": arrays["lists"] * 0})
    for people, distances in answers(gallery, names, PROBES, Index(gallery, path)):
        assert len(people) == 3 and np.isfinite(distances).all()


def test_an_index_is_used_for_large_galleries_only_and_that_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "facerec"):
        Classifier.of_gallery("knn", vectors({"ana": 3}), Gate(0.9), tmp_path / "index.npz")
    assert "searched exactly" in caplog.text and not list(tmp_path.iterdir())


def test_an_index_without_its_library_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"facerec\[index\]"):
        Index(unit(10), tmp_path / "index.npz")
