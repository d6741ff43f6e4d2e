"""The decision: who it is, or nobody; and classifiers on disk."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import vectors

from facerec.artifacts import load_embeddings, save_embeddings
from facerec.classify import KINDS, Classifier
from facerec.errors import ArtifactError, DataError
from facerec.types import Gate

THRESHOLD = 0.6
FIVE = {"ana": 6, "ben": 7, "cleo": 5, "dora": 8, "Ünal 李": 6}
KNOWN = vectors(FIVE)
STRANGERS = vectors({"strange": 5, "stranger": 5}).vectors


def trained(kind, people=FIVE, threshold=THRESHOLD):
    return Classifier.train(kind, vectors(people), Gate(threshold))


@pytest.mark.parametrize("kind", KINDS)
def test_known_people_are_named_and_strangers_are_not(kind):
    classifier = trained(kind)
    probes = vectors(FIVE, noise=0.25)
    assert [d.name for d in classifier.decide(probes.vectors)] == probes.labels.tolist()
    for decision in classifier.decide(STRANGERS):
        assert decision.name is None and decision.candidate in FIVE
        closest, distance = decision.nearest[0]
        assert decision.reason == f"too far from everyone: {distance:.2f} from {closest}, threshold 0.60"


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_is_that_to_the_candidates_closest_photo(kind):
    probes = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    apart = np.linalg.norm(probes[:, None] - KNOWN.vectors, axis=2)
    decisions = trained(kind).decide(probes)
    own = [row[KNOWN.labels == d.candidate].min() for row, d in zip(apart, decisions, strict=True)]
    np.testing.assert_allclose([d.distance for d in decisions], own, atol=1e-4)
    assert kind == "knn" or (own > apart.min(axis=1) + 0.01).any()  # not always the closest photo of all


@pytest.mark.parametrize("kind", KINDS)
def test_a_face_just_inside_the_threshold_is_named(kind):
    (probe,) = trained(kind).decide(STRANGERS[:1])
    for shift, named in ((1e-5, True), (-1e-5, False)):
        classifier = trained(kind, threshold=probe.distance + shift)
        assert (classifier.decide(STRANGERS[:1])[0].name is not None) is named


@pytest.mark.parametrize("kind", KINDS)
def test_a_face_between_two_people_is_not_named(kind):
    photos = vectors({"ana": 1, "ben": 1, "cleo": 1}, dim=2)
    angles = np.array([0, 0.5, 3.0])
    photos = replace(photos, vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    near_ana, between = (np.array([[np.cos(a), np.sin(a)]], np.float32) for a in (0.05, 0.2))
    gated = Classifier.train(kind, photos, Gate(0.6, 0.2))
    (decision,) = gated.decide(near_ana)
    assert decision.name == "ana" and not decision.reason
    assert [name for name, _ in decision.nearest] == ["ana", "ben", "cleo"]
    (decision,) = gated.decide(between)
    assert decision.name is None and decision.candidate == "ana"
    assert decision.reason == "between ana (0.20) and ben (0.30): they must be 0.20 apart"
    assert Classifier.train(kind, photos, Gate(0.6)).decide(between)[0].name == "ana"


ENROLLED = {
    "five people": FIVE,
    "two people": {"ana": 5, "ben": 4},
    "two photos each": {"ana": 2, "ben": 2, "cleo": 2},
    "singletons among others": {"ana": 4, "ben": 1, "cleo": 3, "dora": 1},
    "one photo each": {"ana": 1, "ben": 1, "cleo": 1},
    "one person": {"ana": 4},
    "one photo": {"ana": 1},
}
CASES = [(k, p) for k in KINDS for p in ENROLLED if not (k == "svm" and p in ("one person", "one photo"))]


@pytest.mark.parametrize(("kind", "people"), CASES)
def test_every_enrolment_works_and_reads_back_with_identical_decisions(tmp_path, kind, people):
    enrolled = ENROLLED[people]
    classifier = trained(kind, enrolled)
    probes = np.concatenate([vectors(enrolled, noise=0.25).vectors, STRANGERS])
    decisions = classifier.decide(probes)
    assert [d.name for d in decisions[: -len(STRANGERS)]] == vectors(enrolled).labels.tolist()
    assert {d.name for d in decisions[-len(STRANGERS) :]} == {None}
    classifier.save(tmp_path / "c.npz")
    loaded = Classifier.load(tmp_path / "c.npz")
    assert loaded.decide(probes) == decisions
    assert (loaded.kind, loaded.gate, loaded.platt) == (kind, Gate(THRESHOLD), classifier.platt)


@pytest.mark.parametrize(("kind", "people"), CASES)
def test_probabilities_lie_between_0_and_1_where_there_are_photos_to_calibrate_them(kind, people):
    enrolled = ENROLLED[people]
    probabilities = [d.probability for d in trained(kind, enrolled).decide(np.concatenate([KNOWN.vectors, STRANGERS]))]
    if sum(n > 1 for n in enrolled.values()) < 2:
        assert set(probabilities) == {None}
    else:
        assert all(0 <= p <= 1 for p in probabilities)


def test_people_who_cannot_be_told_apart_have_no_probabilities():
    """Scores that are higher for the wrong one of two would make the other's name the more probable."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(10):
        rows = vectors({"ana": 6, "ben": 6})
        same = rng.normal(size=rows.vectors.shape).astype(np.float32)
        rows = replace(rows, vectors=same / np.linalg.norm(same, axis=1, keepdims=True))
        found.append(Classifier.train("svm", rows, Gate(2.0)).platt)
    assert None in found and all(platt is None or platt[0] > 0 for platt in found)


@pytest.mark.parametrize("kind", KINDS)
def test_own_faces_are_more_probable_than_strangers(kind):
    classifier = trained(kind)
    own = [d.probability for d in classifier.decide(vectors(FIVE, noise=0.25).vectors)]
    others = [d.probability for d in classifier.decide(STRANGERS)]
    assert np.mean(own) > 0.75 and np.mean(own) > np.mean(others)


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_file(tmp_path, kind):
    for name in "ab":
        trained(kind).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_no_faces_no_decisions(kind):
    assert trained(kind).decide(np.empty((0, 16), np.float32)) == []


@pytest.mark.parametrize(("angle", "winner"), [(0.05, "ana"), (0.28, "ben"), (0.6, "ben")])
def test_the_five_closest_photos_vote_by_how_much_closer_than_the_last_they_are(angle, winner):
    angles = np.array([0, 0.6, 0.65, 0.7, 0.75, 3, 3, 3, 3, 3])
    photos = vectors({"ana": 1, "ben": 4, "cleo": 5}, dim=2)
    photos = replace(photos, vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    probe = np.array([[np.cos(angle), np.sin(angle)]], np.float32)
    (decision,) = Classifier.train("knn", photos, Gate(2.0)).decide(probe)
    assert decision.name == winner


def test_a_reason_tells_its_numbers_apart():
    far = np.array([[np.cos(0.5), np.sin(0.5)]], np.float32)
    photos = replace(vectors({"ana": 1}, dim=2), vectors=np.array([[1, 0]], np.float32))
    (decision,) = Classifier.train("nearest", photos, Gate(0.493)).decide(far)
    assert decision.reason == "too far from everyone: 0.495 from ana, threshold 0.493"


def test_one_photo_is_not_outvoted_by_strangers_who_have_many():
    photos = vectors({"ana": 1, "ben": 12, "cleo": 12, "dora": 12}, dim=32)
    mine = vectors({"ana": 9}, dim=32, noise=0.6)
    assert [d.name for d in Classifier.train("knn", photos, Gate(1.0)).decide(mine.vectors)] == ["ana"] * 9


@pytest.mark.parametrize(
    ("kind", "people", "message"),
    [
        ("svm", {}, "no training photos"),
        ("nearest", {}, "no training photos"),
        ("svm", {"ana": 3}, "only 'ana'.*--nearest"),
    ],
)
def test_too_little_to_train_on_is_a_data_error(kind, people, message):
    with pytest.raises(DataError, match=message):
        trained(kind, people)


def rewrite(path, arrays=None, **header):
    with np.load(path) as data:
        parts = dict(data)
    parts["header"] = np.frombuffer(json.dumps(json.loads(bytes(parts["header"])) | header).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, **{**parts, **(arrays or {})})


DAMAGES = {
    "missing": lambda p: p.unlink(),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-99]),
    "embeddings": lambda p: save_embeddings(p, KNOWN),
    "method": lambda p: rewrite(p, method="oracle"),
    "method-list": lambda p: rewrite(p, method=["svm"]),
    "gate": lambda p: rewrite(p, gate=None),
    "a gate out of range": lambda p: rewrite(p, gate=Gate(1.0).to_json() | {"margin": 3}),
    "an interval of one number": lambda p: rewrite(p, gate=Gate(1.0).to_json() | {"fmr_interval": [0.1]}),
    "a rate out of range": lambda p: rewrite(p, gate=Gate(1.0).to_json() | {"fmr": 0}),
    "short-platt": lambda p: rewrite(p, platt=[1]),
    "text-platt": lambda p: rewrite(p, platt=["steep", "high"]),
    "coef": lambda p: rewrite(p, {"coef": np.ones((5, 3))}),
    "intercept": lambda p: rewrite(p, {"intercept": np.ones(4)}),
    "one-person": lambda p: rewrite(p, {"labels": np.array(["ana"] * 32)}),
    "objects": lambda p: rewrite(p, {"coef": np.array([[{}]])}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_is_not_right_is_an_artifact_error(tmp_path, damage):
    path = tmp_path / "svm.npz"
    trained("svm").save(path)
    damage(path)
    with pytest.raises(ArtifactError, match=r"svm\.npz.*facerec train"):
        Classifier.load(path)


def test_a_classifier_is_not_taken_for_embeddings(tmp_path):
    trained("nearest").save(tmp_path / "nearest.npz")
    with pytest.raises(ArtifactError, match="facerec embed"):
        load_embeddings(tmp_path / "nearest.npz")
