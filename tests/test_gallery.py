"""Galleries: enrolling, listing; writers at once."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, SPACE, FakeDetector, FakeEmbedder, face, photo, save, tree, vectors

from facerec.artifacts import load_embeddings
from facerec.errors import SpaceError
from facerec.galleries.file import FileGallery
from facerec.galleries.people import people as listed
from facerec.images import find_images
from facerec.paths import GALLERY
from facerec.stages.enroll import enroll
from facerec.types import Crop, Failure, Gate

pytestmark = pytest.mark.usefixtures("in_tmp")


def enrolled(name, *files, gate=None, **options):
    return enroll(
        name, files, FileGallery(GALLERY), detector=FakeDetector(), embedder=FakeEmbedder(), gate=gate, **options
    )


# --- enrolling -----------------------------------------------------------------------------------


def test_one_photo_is_enough_and_nothing_else_is_touched(run, fakes):
    for name in COLOURS:
        assert run("enroll", name, face(name)).code == 0
    before = tree(Path("embeddings"))
    answer = run("predict", face("cleo", 5), "--json")
    assert "the newest" not in answer.err  # there is nothing else to choose from
    assert [f["name"] for f in json.loads(answer.out)["faces"]] == ["cleo"]
    assert tree(Path("embeddings")) == before and not Path("classifiers").exists()
    listed = json.loads(run("people", "--json").out)
    assert [(p["name"], p["photos"]) for p in listed] == [(name, 1) for name in sorted(COLOURS)]
    assert all(p["added"].startswith("20") and 0 < p["quality"] <= 1 for p in listed)
    assert "4 people, 4 photos" in run("people").out


def test_cosine_and_euclidean_distances_name_the_same_faces(run, fakes):
    for name in COLOURS:
        run("enroll", name, face(name))
    found = json.loads(run("predict", face("cleo", 5), "--json").out)["faces"][0]
    d = found["distance"]
    assert found["cosine_distance"] == pytest.approx(d * d / 2, abs=1e-3)
    for by in ("nearest", "knn"):
        for metric, threshold in (("euclidean", d), ("cosine", d * d / 2)):
            for shift, named in ((0.01, "cleo"), (-0.01, None)):
                words = ["--by", by, "--metric", metric, "--threshold", max(threshold + shift, 0)]
                assert json.loads(run("predict", face("cleo", 5), *words, "--json").out)["faces"][0]["name"] == named
    assert "cosine distance 0.0" in run("predict", face("cleo", 5), "--metric", "cosine").out


def test_the_same_photo_twice_counts_once_and_a_crop_is_kept():
    assert enrolled("ana", face("ana")).photos == 1
    report = enrolled("ana", face("ana"), face("ana", 1))
    twice = enrolled("ben", face("ben"), face("ben"))
    assert (twice.photos, twice.done, twice.skipped) == (1, 1, 1)
    again = enrolled("ana", face("ana"), face("ana", 1))
    assert (again.photos, again.done, again.skipped) == (2, 0, 2)
    assert report.photos == 2 and len(find_images(Path("embeddings/gallery/ana"))) == 2
    rows = load_embeddings(GALLERY)
    assert all((GALLERY.parent / source).is_file() for source in rows.sources)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (photo(1), "no face found"),
        (photo(1, [COLOURS["ana"]]), "too small: 31 pixels, at least 40 are needed"),
        (np.kron(photo(3, [COLOURS["ana"], COLOURS["ben"]]), np.ones((2, 2, 1), np.uint8)), "2 clear faces — choose"),
    ],
    ids=["none", "small", "two"],
)
def test_what_cannot_be_enrolled_is_refused_with_the_reason(image, reason):
    report = enrolled("ana", save(Path("in/x.png"), image))
    assert report.done == 0 and reason in report.failed[0].reason and not GALLERY.exists()


def test_force_and_a_choice_overrule_the_refusal(run, fakes):
    small = save(Path("in/small.png"), photo(1, [COLOURS["ana"]]))
    two = save(Path("in/two.png"), np.kron(photo(3, [COLOURS["ana"], COLOURS["ben"]]), np.ones((2, 2, 1), np.uint8)))
    assert run("enroll", "ana", small).code == 1
    assert run("enroll", "ana", small, "--force").code == 0
    assert run("enroll", "ben", two, "--face", "2").code == 0
    assert run("enroll", "ben", two, "--face", "3").code == 1
    answer = run("predict", face("ben", 7), "--json", "--threshold", "0.3")
    assert json.loads(answer.out)["faces"][0]["name"] == "ben"


def test_explain_counts_faces_as_enroll_does_and_what_is_taken_is_said(run, fakes):
    two = np.kron(photo(3, [COLOURS["ana"], COLOURS["ben"]]), np.ones((2, 2, 1), np.uint8))
    save(Path("two.png"), two)
    answer = run("enroll", "second", "two.png", "--face", "2")
    assert answer.code == 0 and "look: of two.png face 2 of 2 from the left, at (" in answer.err
    assert run("enroll", "cleo", face("cleo")).code == 0
    for picture in (two, np.ascontiguousarray(two[:, ::-1])):
        save(Path("two.png"), picture)
        left, right = json.loads(run("explain", "two.png", "--json").out)["faces"]
        assert left["box"][0] < right["box"][0] and {left["name"], right["name"]} == {"second", None}
    assert left["name"] == "second", "mirrored"
    assert "2 faces are about as large; the largest, at" in run("verify", "two.png", face("cleo")).err


def test_a_bad_photo_among_good_ones_is_reported_and_the_others_go_in(run, fakes):
    Path("in").mkdir()
    Path("in/text.jpg").write_text("no picture")
    answer = run("enroll", "ana", face("ana"), "in/text.jpg", "--json")
    report = json.loads(answer.out)
    assert answer.code == 3 and report["photos"] == 1 and len(report["failed"]) == 1


def test_another_model_than_the_gallerys_is_refused(run, fakes):
    assert run("enroll", "ana", face("ana"), "--model", "facenet-128").code == 0
    refused = run("enroll", "ben", face("ben"), "--model", "facenet-512")
    assert refused.code == 2 and "holds vectors of facenet-128" in refused.err
    assert run("enroll", "ben", face("ben")).code == 0


@pytest.mark.parametrize(
    "name", ["", " ", "../x", "a/b", ".hidden", "unknown", "train", "a\nb", "\u200b", "\u3164", "a\u202eb"]
)
def test_what_cannot_be_a_name_is_a_usage_error(run, fakes, name):
    assert run("enroll", name, face("ana")).code == 2 and not GALLERY.exists()


def test_a_face_that_stands_under_another_name_is_reported():
    enrolled("ana", face("ana"), gate=Gate(0.3))
    report = enrolled("Anna", face("ana", 1), gate=Gate(0.3))
    assert report.done == 1 and "looks like ana, who is enrolled already" in report.warnings[0]
    (warning,) = enrolled("eva", face("ana", 2), face("ana", 3), gate=Gate(0.3)).warnings
    assert "(of 2 that do) looks like" in warning
    report = enrolled("ana", face("ben"), gate=Gate(0.3))
    assert "does not look like ana's other photos" in report.warnings[0]
    report = enrolled("Ana", face("cleo"), gate=Gate(0.3))
    assert "there is ana too" in report.warnings[0] and "facerec rename ana Ana --merge" in report.warnings[0]


def test_vectors_of_another_space_do_not_mix():
    enrolled("ana", face("ana"))
    other = FakeEmbedder(replace(SPACE, crop=Crop(0.3)))
    with pytest.raises(SpaceError):
        enroll("ben", [face("ben")], FileGallery(GALLERY), detector=FakeDetector(), embedder=other, gate=None)


def _add_many(start):
    for i in range(10):
        FileGallery(GALLERY).add(vectors({f"p{start}-{i}": 1}))


def test_what_is_added_again_changes_nothing_and_other_dimensions_are_refused(tmp_path):
    gallery = FileGallery(tmp_path / "g.npz")
    rows = replace(vectors({"ana": 2}), failures=(Failure("x.png", "no face found", "ana"),))
    assert [gallery.add(rows) for _ in range(3)] == [2, 0, 0]
    assert len(gallery.load()) == 2 and gallery.load().failures == rows.failures
    with pytest.raises(SpaceError, match="vectors of 16 numbers"):
        gallery.add(vectors({"ben": 1}, dim=8))


def test_writers_at_once_lose_nothing():
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        pool.map(_add_many, range(3))
    assert len(load_embeddings(GALLERY).people) == 30


def test_a_crash_while_writing_leaves_the_old_file(monkeypatch):
    FileGallery(GALLERY).add(vectors({"ana": 2}))
    before = GALLERY.read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        FileGallery(GALLERY).add(vectors({"ben": 2}))
    assert GALLERY.read_bytes() == before


def test_the_spread_of_a_person_is_the_mean_distance_of_their_photos():
    rows = vectors({"ana": 4})
    (person,) = listed(rows)
    apart = np.linalg.norm(rows.vectors[:, None] - rows.vectors, axis=2)[np.triu_indices(4, 1)]
    assert person.spread == pytest.approx(np.sqrt((apart**2).mean()), abs=1e-5)


def test_a_gallery_that_was_read_sees_what_others_write(tmp_path):
    mine, theirs = FileGallery(tmp_path / "g.npz"), FileGallery(tmp_path / "g.npz")
    theirs.add(vectors({"ana": 2}))
    assert mine.load().people == theirs.load().people == ["ana"]
    theirs.add(vectors({"ben": 1}))
    mine.add(vectors({"cleo": 1}))
    assert mine.load().people == theirs.load().people == ["ana", "ben", "cleo"]
    theirs.edit(lambda about: replace(about, gate=Gate(0.5)))
    assert mine.load().gate == Gate(0.5)
