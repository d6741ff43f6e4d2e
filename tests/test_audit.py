"""The audit: each finding on made-up vectors, declared look-alikes, the command, and swapped real photographs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import CROP, FakeDetector, FakeEmbedder, photos, vectors

from facerec.artifacts import load_embeddings, save_embeddings
from facerec.audit import DUPLICATE, GOOD, audit, duplicates
from facerec.catalogue import gate
from facerec.classify import KINDS, LOOKALIKE, Classifier
from facerec.errors import DataError
from facerec.galleries.file import FileGallery, forget
from facerec.galleries.people import tell_apart
from facerec.stages import embed as stage
from facerec.stages.detect import detect
from facerec.stages.people import rename
from facerec.stages.project import Project
from facerec.types import Gate

THRESHOLD = 0.9
PEOPLE = {"ana": 6, "ben": 5, "cleo": 4, "dora": 2}
NOISE = 0.4  # photos of one person about 0.5 apart


def made(people=PEOPLE, **fields):
    return vectors(people, dim=64, noise=NOISE, **fields)


def called(rows, **names):
    """The rows with other labels: ``called(rows, ana=[(0, "ben")])`` calls Ana's first photo Ben."""
    labels = rows.labels.astype(object)
    for name, changes in names.items():
        mine = np.flatnonzero(rows.labels == name)
        for i, other in changes:
            labels[mine[i]] = other
    return replace(rows, labels=labels.astype(np.str_))


def found(rows, kind, photos=3):
    return [f for f in audit(rows, THRESHOLD, photos) if f.kind == kind]


def flat(*angles):
    """Vectors of ana, ben, ana, ben … at these angles in a plane."""
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    rows = vectors({"ana": len(angles)}, dim=2)
    return replace(rows, vectors=x, labels=np.array([("ana", "ben")[i % 2] for i in range(len(angles))]))


# --- findings ------------------------------------------------------------------------------------


def test_right_labels_are_not_doubted():
    assert [f.kind for f in audit(made(), THRESHOLD, 3)] == ["needs photos"]  # dora's two
    assert audit(made({}), THRESHOLD, 3) == []


def test_two_names_of_one_person_are_found_closest_first():
    rows = made({**PEOPLE, "naa": 3, "enb": 1})  # the same letters: the same person
    first, second = found(rows, "same person?")
    assert {first.people, second.people} == {("ana", "naa"), ("ben", "enb")}
    assert first.distance <= second.distance < THRESHOLD
    assert {rows.labels[i] for i in first.photos[0]} == {first.people[0]}
    assert not found(rows, "mislabelled?"), "whose a photo is cannot be told between the two"


def test_a_name_of_two_people_is_found_and_split():
    rows = made({**PEOPLE, "eve": 3})
    rows = replace(rows, labels=np.where(rows.labels == "eve", "ana", rows.labels))
    (finding,) = found(rows, "two people?")
    assert finding.people == ("ana",) and finding.distance > THRESHOLD
    large, small = finding.photos
    assert (len(large), {rows.sources[i] for i in small}) == (6, {f"train/eve/{i}.png" for i in (17, 18, 19)})


@pytest.mark.parametrize("name", PEOPLE)
def test_a_photo_under_another_name_is_found(name):
    rows = called(made(), **{name: [(0, "cleo" if name == "ben" else "ben")]})
    (finding,) = found(rows, "mislabelled?")
    (row,) = finding.photos[0]
    assert rows.sources[row].startswith(f"train/{name}/")
    assert finding.people == (rows.labels[row], name)
    assert finding.distance < THRESHOLD and f"looks like {name}" in finding.text
    assert [{rows.labels[i] for i in group} for group in finding.photos[1:]] == [{rows.labels[row]}, {name}]


def test_photos_swapped_between_people_of_two_and_many():
    rows = called(made(), ana=[(0, "dora"), (1, "ben")], ben=[(0, "ana")], dora=[(0, "cleo")])
    wrong = {rows.sources[f.photos[0][0]].split("/")[1] + "→" + f.people[0] for f in found(rows, "mislabelled?")}
    assert wrong == {"ana→dora", "ana→ben", "ben→ana", "dora→cleo"}


def test_the_frames_of_a_pan_are_not_one_picture():
    angles = np.arange(0, 1, 0.1)  # each next to the one before; the first and the last far apart
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    keeper = duplicates(x, np.full(10, np.nan, np.float32))
    assert keeper.tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    best = np.linspace(0, 1, 10).astype(np.float32)
    assert duplicates(x, best)[-1] == 9 and duplicates(x, best)[-2] == 9, "the best photo stands for the others"
    for d, alone in ((DUPLICATE - 0.01, False), (DUPLICATE + 0.01, True)):
        pair = flat(0, 2 * np.arcsin(d / 2)).vectors
        assert bool(duplicates(pair, np.zeros(2, np.float32))[1] == 1) is alone


def test_copies_are_found_within_a_person_and_across_names():
    rows = made()
    copy = rows[np.array([0])]
    within, across = found(rows + copy, "near-duplicate"), replace(copy, labels=np.array(["ben"]))
    assert [f.people for f in within] == [("ana",)] and within[0].photos == ((0,), (17,))
    both = found(rows + copy + across, "near-duplicate")
    assert [f.people for f in both] == [("ana", "ben")] and "3 photos of ana and ben" in both[0].text
    test = replace(copy, splits=np.array(["test"]))
    assert "flatter" in found(rows + test, "near-duplicate")[0].advice


def test_who_needs_photos_counts_what_is_good_different_and_theirs():
    rows = made()
    assert [f.people for f in found(rows, "needs photos")] == [("dora",)]
    assert [f.people[0] for f in found(rows, "needs photos", photos=6)] == ["dora", "cleo", "ben"]
    bad = np.where(rows.labels == "ana", GOOD / 2, GOOD).astype(np.float32)
    bad[0] = GOOD
    first, second = found(replace(rows, quality=bad), "needs photos")
    assert (first.text, second.text) == ("ana has 1 good photo of 6", "dora has 2 good photos of 2")
    copies = rows + rows[rows.labels == "dora"]
    assert "2 good photos of 4" in found(copies, "needs photos")[0].text


# --- look-alikes ---------------------------------------------------------------------------------


def test_declared_lookalikes_are_not_one_person():
    rows = made({**PEOPLE, "naa": 3})
    assert found(rows, "same person?")
    declared = replace(rows, lookalikes=(("ana", "naa"),))
    assert not found(declared, "same person?") and not found(declared, "mislabelled?")


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gate_is_tightened_for_the_pair_alone(kind, margin, tmp_path):
    photos = replace(flat(0, 0.6, 3.0), labels=np.array(["ana", "ben", "cleo"]))
    probe = flat(0.3 - (margin + LOOKALIKE / 2) / 2).vectors  # closer to ana by the margin and half of what is added
    alone = Classifier.train(kind, photos, Gate(0.9, margin))
    assert alone.decide(probe)[0].name == "ana"
    Classifier.train(kind, replace(photos, lookalikes=(("ana", "ben"), ("ana", "gone"))), Gate(0.9, margin)).save(
        tmp_path / "c.npz"
    )
    tight = Classifier.load(tmp_path / "c.npz")
    (decision,) = tight.decide(probe)
    assert decision.name is None and f"they must be {margin + LOOKALIKE:.2f} apart" in decision.reason
    assert tight.decide(flat(0.02).vectors)[0].name == "ana"
    other = Classifier.train(kind, replace(photos, lookalikes=(("ben", "cleo"),)), Gate(0.9, margin))
    assert other.decide(probe)[0].name == "ana"


def test_a_pair_lives_in_the_file_through_renaming_and_forgetting(tmp_path):
    path = tmp_path / "g.npz"
    save_embeddings(path, made())
    tell_apart(FileGallery(path), "ben", "ana")
    tell_apart(FileGallery(path), "dora", "ana")
    pairs = (("ana", "ben"), ("ana", "dora"))
    assert load_embeddings(path).lookalikes == pairs
    rows = load_embeddings(path)
    assert rows[rows.labels == "ana"].lookalikes == pairs and (made() + rows).lookalikes == pairs
    rename(Project(tmp_path, path), "ana", "zoe")
    assert load_embeddings(path).lookalikes == (("ben", "zoe"), ("dora", "zoe"))
    rename(Project(tmp_path, path), "ben", "zoe", merge=True)
    assert load_embeddings(path).lookalikes == (("dora", "zoe"),), "one person is no pair"
    forget(path, "dora")
    assert load_embeddings(path).lookalikes == ()
    for words in (("zoe", "nobody"), ("zoe", "zoe")):
        with pytest.raises(DataError):
            tell_apart(FileGallery(path), *words)
    tell_apart(FileGallery(path), "zoe", "cleo")
    tell_apart(FileGallery(path), "zoe", "cleo", withdraw=True)
    assert load_embeddings(path).lookalikes == ()
    with pytest.raises(DataError, match="not declared"):
        tell_apart(FileGallery(path), "zoe", "cleo", withdraw=True)


@pytest.mark.parametrize("force", [False, True])
def test_a_pair_survives_embedding_again(in_tmp, force):
    def go():
        detect(photos(in_tmp / "raw", people), in_tmp / "processed", detector=FakeDetector(), **options)
        stage.embed(in_tmp / "processed", path, embedder=FakeEmbedder(), force=force)

    options = {"crop": CROP, "min_face": 20, "min_confidence": None}
    people, path = {"ana": 4, "ben": 4}, in_tmp / "faces.npz"
    go()
    tell_apart(FileGallery(path), "ana", "ben")
    people["cleo"] = 4
    go()
    assert load_embeddings(path).people == ["ana", "ben", "cleo"]
    assert load_embeddings(path).lookalikes == (("ana", "ben"),)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def project(in_tmp, fakes, run):
    """A folder with the faces of three people, one of whom goes by two names."""
    photos(in_tmp / "raw_images", {"ana": 4, "ben": 4, "cleo": 4})
    shutil.copytree(in_tmp / "raw_images" / "cleo", in_tmp / "raw_images" / "clio")
    for words in (["detect"], ["embed"]):
        assert run(*words).code == 0
    return in_tmp


def test_the_command_prints_findings_and_draws_them(project, run):
    result = run("audit")
    assert result.code == 0 and "same person? (1)\n  1. cleo and clio look like one person" in result.out
    assert "raw_images/cleo/0.png" in result.out and "processed" not in result.out and "train/" not in result.out
    assert "who are two: facerec audit embeddings/faces.npz --lookalikes A B" in result.out
    assert "16 photos of 4 people (embeddings/faces.npz)" in result.out and "missing" not in result.out
    assert (project / "audit" / "contact_sheet.png").stat().st_mode & 0o77 == 0
    report = json.loads(run("audit", "--json").out)
    assert report["sheet"] == "audit/contact_sheet.png" and report["missing_pictures"] == []
    same = report["findings"][0]
    assert (same["kind"], same["people"], [len(g) for g in same["photos"]]) == (
        "same person?",
        ["cleo", "clio"],
        [4, 4],
    )


def test_the_gallery_comes_first_and_missing_pictures_are_said(project, run):
    shutil.copy("embeddings/faces.npz", "embeddings/gallery.npz")
    shutil.rmtree("processed")
    result = run("audit")
    assert result.code == 0 and "(embeddings/gallery.npz)" in result.out and "pictures are missing" in result.out
    assert (project / "audit" / "contact_sheet.png").exists()


def test_lookalikes_are_declared_listed_and_withdrawn(project, run):
    result = run("audit", "--lookalikes", "clio", "cleo")
    assert result.code == 0 and "declared: cleo and clio" in result.out
    result = run("audit")
    assert "same person?" not in result.out and "declared look-alikes: cleo and clio" in result.out
    assert run("audit", "--not-lookalikes", "cleo", "clio", "--json").out.endswith('"lookalikes": []}\n')
    assert "same person? (1)" in run("audit").out
    assert run("audit", "--lookalikes", "cleo", "nobody").code == 1
    assert run("audit", "nowhere.npz").code == 1 and run("audit", "--output", "sheet.txt").code == 2


# --- real photographs ----------------------------------------------------------------------------


@pytest.mark.real
def test_swapped_photographs_are_found(samples, in_tmp, detector, embedder):
    for person in (samples / "train").iterdir():
        shutil.copytree(person, in_tmp / "raw" / person.name)
    first, second, *_ = sorted(p.name for p in (in_tmp / "raw").iterdir())
    for a, b in ((first, second), (second, first)):
        stray = sorted((in_tmp / "raw" / a).iterdir())[0]
        stray.rename(in_tmp / "raw" / b / f"stray{stray.suffix}")
    detect(in_tmp / "raw", in_tmp / "processed", detector=detector, crop=CROP, min_face=20, min_confidence=None)
    stage.embed(in_tmp / "processed", in_tmp / "faces.npz", embedder=embedder)
    rows = load_embeddings(in_tmp / "faces.npz")
    findings = audit(rows, gate("facenet-128").threshold, 3)
    moved = [rows.sources[f.photos[0][0]] for f in findings if f.kind == "mislabelled?"]
    assert moved and all("stray" in source for source in moved)
    apart = [rows.sources[i] for f in findings if f.kind == "two people?" for i in f.photos[1]]
    assert {s.split("/")[1] for s in [*moved, *apart] if "stray" in s} == {first, second}
