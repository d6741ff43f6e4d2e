"""embed and train: vectors from crops, and a classifier with its honest score."""

import itertools
import json
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, CROP, SPACE, FakeDetector, FakeEmbedder, photo, photos, save, tree, vectors
from filelock import FileLock, Timeout

from facerec.artifacts import load_embeddings, save_embeddings
from facerec.classify import KINDS, Classifier
from facerec.errors import ArtifactError, DataError, FacerecError, UsageError
from facerec.manifests import read_manifest
from facerec.stages import embed as stage
from facerec.stages.detect import detect
from facerec.stages.train import train
from facerec.types import Crop, Failure, Gate, Space

PEOPLE = {"ana": 10, "ben": 8, "cleo": 6}


def detected(root, people=PEOPLE, **options):
    options = {"crop": CROP, "min_face": 20, "min_confidence": None, **options}
    photos(root / "raw", people)
    detect(root / "raw", root / "processed", detector=FakeDetector(), **options)
    return root / "processed"


def go(processed, embedder=None, **options):
    return stage.embed(
        processed,
        processed.parent / "embeddings" / "faces.npz",
        embedder=embedder or FakeEmbedder(),
        **options,
    )


@pytest.fixture
def processed(in_tmp):
    return detected(in_tmp)


def loaded(processed):
    return load_embeddings(processed.parent / "embeddings" / "faces.npz")


# --- embed ---------------------------------------------------------------------------------------


def test_each_crop_becomes_a_labelled_vector(processed):
    save(processed.parent / "raw" / "ana" / "wall.png", photo(1))
    detected(processed.parent)
    report = go(processed)
    e = loaded(processed)
    assert (report.done, report.skipped, report.failed) == (24, 0, [])
    assert len(e) == 24 and e.people == ["ana", "ben", "cleo"] and e.space == SPACE and e.detector == "fake"
    for source, label, split in zip(e.sources, e.labels, e.splits, strict=True):
        assert source.startswith(f"{split}/{label}/") and (processed / source).exists()
    assert [(f.source, f.label, f.reason) for f in e.failures] == [("raw/ana/wall.png", "ana", "no face found")]
    same_person = e.labels[:, None] == e.labels
    cosines = e.vectors @ e.vectors.T
    assert cosines[same_person].min() > 0.98 > 0.5 > cosines[~same_person].max()


def test_again_embeds_nothing_and_only_new_crops_are_embedded(processed):
    go(processed)
    before = tree(processed.parent / "embeddings")
    embedder = FakeEmbedder()
    report = go(processed, embedder)
    assert (report.done, report.skipped, embedder.embedded) == (0, 24, 0)
    assert tree(processed.parent / "embeddings") == before
    detected(processed.parent, {**PEOPLE, "dora": 4})
    embedder = FakeEmbedder()
    assert go(processed, embedder).done == embedder.embedded == 4
    assert len(loaded(processed)) == 28
    go(processed, embedder := FakeEmbedder(), force=True)
    assert embedder.embedded == 28


def test_a_photo_that_moved_to_the_other_side_keeps_its_vector_and_changes_its_split(processed):
    go(processed)
    detected(processed.parent, test_size=0.6)
    report = go(processed)
    assert report.done == 0 and (loaded(processed).splits == "test").sum() == 6 + 5 + 4


def test_crops_that_are_gone_have_no_vector(processed):
    go(processed)
    for i in range(5):
        (processed.parent / "raw" / "ana" / f"{i}.png").unlink()
    detect(
        processed.parent / "raw",
        processed,
        detector=FakeDetector(),
        crop=CROP,
        min_face=20,
        min_confidence=None,
    )
    go(processed)
    assert (loaded(processed).labels == "ana").sum() == 5


@pytest.mark.parametrize("after", [0, 3, 15, 23])
@pytest.mark.parametrize("seconds", [-1, 30])
def test_interrupted_and_run_again_equals_undisturbed(processed, monkeypatch, after, seconds):
    go(processed)
    whole = tree(processed.parent / "embeddings")
    (processed.parent / "embeddings" / "faces.npz").unlink()
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(stage, "BATCH", 3)
    with pytest.raises(KeyboardInterrupt):
        go(processed, FakeEmbedder(interrupt_after=after))
    embedder = FakeEmbedder()
    report = go(processed, embedder)
    assert report.skipped == after // 3 * 3 and embedder.embedded == report.done == 24 - report.skipped
    assert tree(processed.parent / "embeddings") == whole


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_earlier_file_is_made_again(processed, damage):
    go(processed)
    path = processed.parent / "embeddings" / "faces.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50] if damage is None else damage)
    assert go(processed).done == 24 and path.read_bytes() == whole


def test_vectors_of_another_space_are_not_taken_over(processed):
    go(processed)
    other = Space("facenet-512", "else", CROP, False)
    assert go(processed, FakeEmbedder(other)).done == 24 and loaded(processed).space == other


def test_people_enrolled_into_the_output_are_not_lost(processed):
    go(processed)
    output, rows = processed.parent / "embeddings" / "faces.npz", loaded(processed)
    save_embeddings(output, replace(rows, added=np.where(rows.labels == "ana", "2026-01-01", "")))
    before = output.read_bytes()
    with pytest.raises(UsageError, match="would be lost"):
        go(processed, force=True)
    assert output.read_bytes() == before


def test_who_is_forgotten_meanwhile_does_not_come_back(processed):
    """Whoever changes the output waits until what was read of it before is written."""

    class Curious(FakeEmbedder):
        def embed(self, crops):
            with pytest.raises(Timeout):
                FileLock(processed.parent / "embeddings" / ".faces.npz.lock", timeout=0).acquire()
            return super().embed(crops)

    assert go(processed, Curious()).done == 24


def test_who_is_forgotten_while_training_does_not_come_back(processed, run, monkeypatch):
    """forget waits for train, and then finds the classifier that it made."""
    go(processed)
    trained, forgetting = threading.Event(), threading.Event()
    save_classifier = Classifier.save

    def slowly(classifier, path):
        if not trained.is_set():
            trained.set()
            forgetting.wait(5)
            time.sleep(0.5)
        save_classifier(classifier, path)

    monkeypatch.setattr(Classifier, "save", slowly)
    training = threading.Thread(target=fit, args=(processed,))
    training.start()
    trained.wait(5)
    forgetting.set()
    assert run("forget", "ana", "--yes").code == 3  # the photos are in a folder of the user's
    training.join()
    assert loaded(processed).people == ["ben", "cleo"]
    assert Classifier.load(processed.parent / "classifiers" / "nearest.npz").people == ["ben", "cleo"]


@pytest.mark.parametrize(
    ("words", "file"),
    [(("train", "--nearest"), "embeddings/faces.npz"), (("embed",), "classifiers/nearest.npz")],
)
def test_a_file_of_another_kind_is_not_replaced(processed, run, fakes, words, file):
    go(processed)
    fit(processed)
    before = (processed.parent / file).read_bytes()
    refused = run(*words, "--output", file)
    assert refused.code == 2 and "would be lost" in refused.err
    assert (processed.parent / file).read_bytes() == before


def test_crops_cut_out_otherwise_than_the_embedder_takes_are_refused(processed):
    with pytest.raises(ArtifactError, match=r"margin=0\.075.*margin=0\.3.* — run `facerec detect`"):
        go(processed, FakeEmbedder(replace(SPACE, crop=Crop(0.3))))


def test_crops_cut_out_in_two_ways_are_refused(processed):
    photos(processed.parent / "more", {"dora": 2})
    detect(
        processed.parent / "more", processed,
        detector=FakeDetector(), crop=Crop(0.3), min_face=20, min_confidence=None,
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="different ways — run `facerec detect"):
        go(processed)


def test_a_crop_that_cannot_be_read_is_reported_and_stays_in_the_denominator(processed):
    victim = next((processed / "test" / "ana").iterdir())
    victim.write_bytes(victim.read_bytes()[:200])
    save(next((processed / "train" / "ben").iterdir()), photo(1))
    for _ in range(2):
        report = go(processed)
        assert sorted(f.label for f in report.failed) == ["ana", "ben"]
    e = loaded(processed)
    assert len(e) == 22 and {(f.label, f.split) for f in e.failures} == {("ana", "test"), ("ben", "train")}
    with pytest.raises(FacerecError, match=r"(ana|ben)/\d\.png: "):
        go(processed, strict=True)


def test_nothing_to_embed_says_what_to_run(in_tmp):
    with pytest.raises(UsageError, match="facerec detect"):
        go(in_tmp / "processed")
    (in_tmp / "processed").mkdir()
    with pytest.raises(ArtifactError, match=r"no faces.*facerec detect"):
        go(in_tmp / "processed")
    processed = detected(in_tmp / "a", {"ana": 1})
    next(processed.rglob("*.png")).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"no face in .* can be read"):
        go(processed)


def test_no_room_for_notes_is_said_wherever_it_ends_and_changes_nothing(processed, monkeypatch):
    go(processed)
    before = tree(processed.parent / "embeddings")
    schema, ended = stage.TABLES, []
    for pages in range(6, 200, 2):
        monkeypatch.setattr(stage, "TABLES", f"PRAGMA page_size = 512; PRAGMA max_page_count = {pages}; {schema}")
        try:
            assert go(processed).skipped == 24
            break
        except FacerecError as error:
            assert "no room" in str(error)
            ended.append(pages)
        except sqlite3.OperationalError:  # not even for the tables
            assert not ended
        assert tree(processed.parent / "embeddings") == before
    assert len(ended) > 10 and pages < 198


# --- which host made what ------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch):
    """Work that is asked of a cluster is done here, each time by another host."""
    made = itertools.count()
    real = stage.spread

    def spread(work, chunks, *, jobs, cluster):
        monkeypatch.setattr(stage, "worker_name", lambda: f"host{next(made) // 4}/1")
        return real(work, chunks, jobs=jobs)

    monkeypatch.setattr(stage, "spread", spread)
    monkeypatch.setattr(stage, "BATCH", 3)
    return "dask://there:8786"


def hosts(processed):
    """Crop → host, as the manifest beside the vectors says."""
    folder = processed.parent / "embeddings"
    return {r.input.removeprefix("processed/"): r.host for r in read_manifest(folder, "faces.manifest.jsonl")}


def test_a_manifest_beside_the_vectors_says_which_host_made_each(processed, cluster):
    go(processed)
    here = (processed.parent / "embeddings" / "faces.npz").read_bytes()
    assert not (processed.parent / "embeddings" / "faces.manifest.jsonl").exists()
    report = go(processed, cluster=cluster, force=True)
    told = hosts(processed)
    assert (processed.parent / "embeddings" / "faces.npz").read_bytes() == here
    assert list(told) == loaded(processed).sources.tolist() and Counter(told.values()) == report.hosts
    assert len(set(told.values())) == 2
    detected(processed.parent, {**PEOPLE, "dora": 4}, test_size=0.6)  # some move to the other side
    assert go(processed).done == 4
    assert set(hosts(processed)) == {s for s in loaded(processed).sources.tolist() if "dora" not in s}
    go(processed, force=True)
    assert not (processed.parent / "embeddings" / "faces.manifest.jsonl").exists()


def test_hosts_of_a_run_that_was_interrupted_are_kept(processed, cluster, monkeypatch):
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", -1)
    with pytest.raises(KeyboardInterrupt):
        go(processed, FakeEmbedder(interrupt_after=15), cluster=cluster)
    assert go(processed).done == 9
    told = hosts(processed)
    assert len(told) == 15 and set(told) < set(loaded(processed).sources.tolist())


@pytest.mark.parametrize("name", ["ana", "zoe"])
def test_forget_and_rename_change_that_manifest_too(processed, cluster, run, name):
    go(processed, cluster=cluster)
    answer = run(*(["forget", "ana", "--yes"] if name == "ana" else ["rename", "ana", name]))
    assert answer.code == (3 if name == "ana" else 0)  # photos stay that are not in raw_images/
    told = hosts(processed)
    assert set(told) == set(loaded(processed).sources.tolist()) and len(told) == (14 if name == "ana" else 24)
    assert not any("ana" in crop for crop in told)
    assert {r.label for r in read_manifest(processed.parent / "embeddings", "faces.manifest.jsonl")} == (
        {"ben", "cleo"} | ({name} - {"ana"})
    )


# --- train ---------------------------------------------------------------------------------------


def fit(processed, kind="nearest", threshold=0.5):
    root = processed.parent
    return train(
        root / "embeddings" / "faces.npz",
        root / "classifiers" / f"{kind}.npz",
        kind=kind,
        threshold=threshold,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_writes_a_classifier_and_its_reports(processed, kind):
    go(processed)
    report = fit(processed, kind)
    assert (report.people, report.done, report.calibrated) == (3, 17, True)
    assert (report.train.total, report.train.accuracy) == (17, 1) and (
        report.test.total,
        report.test.accuracy,
    ) == (7, 1)
    folder = processed.parent / "classifiers"
    assert sorted(p.name for p in folder.glob("[!.]*")) == [
        f"{kind}{s}" for s in (".confusion.png", ".npz", ".report.json", ".report.txt")
    ]
    assert set(report.files) == set(folder.glob("[!.]*"))
    data = json.loads((folder / f"{kind}.report.json").read_text())
    assert data["split"] == "test" and data["test"]["accuracy"] == 1 and data["people"]["ana"]["support"] == 3
    assert "7/7 = 1.000" in (folder / f"{kind}.report.txt").read_text()
    classifier = Classifier.load(folder / f"{kind}.npz")
    assert len(classifier.photos) == 17 and set(classifier.photos.splits) == {"train"}
    json.dumps(report.to_json())


def test_photos_without_a_face_count_as_errors(processed):
    (wall := processed.parent / "raw" / "ana" / "wall.png").parent.mkdir(exist_ok=True)
    for i in range(6):
        save(wall.with_name(f"wall{i}.png"), photo(i))
    detected(processed.parent)
    go(processed)
    report = fit(processed)
    missed = [f.split for f in loaded(processed).failures]
    assert report.train.no_face == missed.count("train") and report.test.no_face == missed.count("test")
    assert min(report.train.no_face, report.test.no_face) > 0 and len(missed) == 6
    for score in (report.train, report.test):
        assert score.right == score.total - score.no_face and score.accuracy == score.right / score.total < 1
    assert "no face" in (processed.parent / "classifiers" / "nearest.report.txt").read_text()


def test_a_score_tells_wrong_unknown_and_missed_apart(in_tmp):
    angles = {"ana": [0, 0.1, 0.05, 0.95, 2.5], "ben": [1, 1.1, 1.05]}
    labels = [name for name, values in angles.items() for _ in values]
    flat = np.array([a for values in angles.values() for a in values])
    splits = np.array(["train", "train", "test", "test", "test", "train", "train", "test"])
    faces = vectors({"ana": 5, "ben": 3}, dim=2, splits=splits, failures=(Failure("x", "no face", "ben", "test"),))
    faces.vectors[:] = np.stack([np.cos(flat), np.sin(flat)], axis=1)
    assert faces.labels.tolist() == labels
    save_embeddings(in_tmp / "e.npz", faces)
    score = train(in_tmp / "e.npz", in_tmp / "c.npz", kind="nearest", threshold=0.3).test
    assert (score.total, score.right, score.wrong, score.unknown, score.no_face) == (5, 2, 1, 1, 1)
    assert str(score) == "2/5 = 0.400 (1 wrong, 1 unknown, 1 no face)"


def test_a_face_that_predict_would_refuse_is_unknown_in_every_accuracy(in_tmp, run):
    quality = np.array([0.5, 0.5, np.nan, 0, 0.5, 0.5, 0.5, 0], np.float32)
    rows = vectors({"ana": 4, "ben": 4}, splits=np.array(["train", "train", "test", "test"] * 2), quality=quality)
    save_embeddings(Path("embeddings/faces.npz"), rows)
    trained = json.loads(run("train", "--nearest", "--threshold", "1", "--json").out)
    assert (trained["test"]["right"], trained["test"]["unknown"]) == (2, 2)
    assert json.loads(run("evaluate", "classifier", "--json").out)["unknown"] == 2
    assert "2 of 4 right" in run("predict", "--batch", "4").out
    decisions = Classifier.load(Path("classifiers/nearest.npz")).decide_photos(rows)
    assert {d.reason for d, q in zip(decisions, quality, strict=True) if q == 0} == {"too small or blurred"}


def test_test_faces_are_not_looked_up_among_themselves(in_tmp, run):
    """A gallery may be that of `facerec embed`, which holds them too."""
    rows = vectors({"ana": 4, "ben": 4}, splits=np.array(["train", "train", "train", "test"] * 2))
    save_embeddings(Path("embeddings/faces.npz"), rows)
    asked = ["predict", "--batch", "9", "--threshold", "1", "--gallery"]
    refused = run(*asked, "embeddings/faces.npz")
    assert refused.code == 1 and "the names come from" in refused.err
    save_embeddings(Path("half.npz"), rows[np.arange(8) != 7])
    answer = run(*asked, "half.npz")
    assert "1 of 1 right" in answer.out and "1 test face is left out" in answer.err


def test_test_faces_of_people_whom_the_names_do_not_know_are_left_out(in_tmp, run):
    rows = vectors({"ana": 4, "ben": 4}, splits=np.array(["train", "train", "train", "test"] * 2))
    save_embeddings(Path("embeddings/faces.npz"), rows)
    save_embeddings(Path("ana.npz"), rows[:3])
    save_embeddings(Path("eva.npz"), vectors({"eva": 2}))
    asked = ["predict", "--batch", "9", "--threshold", "1", "--gallery"]
    answer = run(*asked, "ana.npz")
    assert "1 of 1 right" in answer.out and "1 test face is left out: their people are not among" in answer.err
    refused = run(*asked, "eva.npz")
    assert refused.code == 1 and "all 2 test faces are left out" in refused.err


def test_training_says_what_it_does_not_take_over(processed, fakes, run):
    go(processed)
    assert run("train", "--nearest", "--threshold", "0.5").err == ""
    path = Path("classifiers/nearest.npz")
    made = Classifier.load(path)
    made.gate = Gate(0.6, 0.1, 0.01, (0.005, 0.02), "of `facerec calibrate`")
    made.save(path)
    answer = run("train", "--nearest", "--threshold", "0.5")
    assert "was calibrated to (distance up to 0.60" in answer.out and "is not kept" in answer.out
    next(Path("processed/train/ana").iterdir()).unlink()
    save(Path("raw/dora/0.png"), photo(1, [COLOURS["dora"]]))
    assert run("detect", "raw").code == 0
    assert "processed/ has changed since" in run("train", "--nearest", "--threshold", "0.5").err
    assert "has changed since" not in run("predict", "raw/ana/0.png").err
    go(Path("processed"))
    assert "faces.npz has changed since classifiers/nearest.npz was trained" in run("predict", "raw/ana/0.png").err
    assert run("train", "--nearest", "--threshold", "0.5").err == ""
    assert "changed" not in run("predict", "raw/ana/0.png").err
    assert run("train", "--nearest", "--gate-margin", "0.1").code == 0
    assert "is not kept" not in run("train", "--nearest").out
    Path("processed").rename("elsewhere")
    save(Path("raw2/zoe/0.png"), photo(1, [COLOURS["ana"]]))
    assert run("detect", "raw2").code == 0
    assert "has changed" not in run("train", "--nearest", "--threshold", "0.5").err


@pytest.mark.parametrize("name", ["unknown", "no face"])
def test_a_person_called_like_an_answer_is_refused(in_tmp, name):
    save_embeddings(in_tmp / "e.npz", vectors({"ana": 4, name: 4}))
    with pytest.raises(DataError, match=f"{name}.* — rename"):
        train(in_tmp / "e.npz", in_tmp / "c.npz", kind="nearest", threshold=1.0)


def test_without_test_photos_the_reports_are_of_the_training_photos(in_tmp):
    processed = detected(in_tmp, test_size=0)
    go(processed)
    report = fit(processed)
    assert report.test.total == 0 and report.test.accuracy is None and str(report.test) == "no photos"
    assert json.loads((in_tmp / "classifiers" / "nearest.report.json").read_text())["split"] == "train"


def test_a_person_seen_only_in_the_test_set_counts_as_an_error(in_tmp):
    photos(in_tmp / "raw" / "train", {"ana": 3, "ben": 3})
    photos(in_tmp / "raw" / "test", {"cleo": 2})
    for i in (7, 8):
        save(in_tmp / "raw" / "test" / "ana" / f"{i}.png", photo(i, [COLOURS["ana"]]))
    detect(
        in_tmp / "raw",
        in_tmp / "processed",
        detector=FakeDetector(),
        crop=CROP,
        min_face=20,
        min_confidence=None,
    )
    go(in_tmp / "processed")
    score = fit(in_tmp / "processed").test
    assert (score.total, score.right, score.unknown) == (4, 2, 2)


def test_a_name_may_hold_any_sign(in_tmp, run):
    save_embeddings(in_tmp / "faces.npz", vectors({"A$^$ap": 3, "B_$x$": 3}))
    assert run("train", "faces.npz", "--svm", "--threshold", "1").code == 0


@pytest.mark.parametrize(("threshold", "said"), [(0.3, False), (1.9, True)])
def test_people_who_look_more_alike_than_promised_are_pointed_out(in_tmp, run, threshold, said):
    rows = vectors({"ana": 30, "ben": 30, "cleo": 30})
    save_embeddings(in_tmp / "faces.npz", replace(rows, gate=Gate(threshold, fmr=1e-3)))
    answer = run("train", "faces.npz", "--nearest")
    assert ("pairs of different people here" in answer.out) == said
    alike = json.loads(run("train", "faces.npz", "--nearest", "--json").out)["alike"]
    assert (alike > 0.5) == said
    save_embeddings(in_tmp / "few.npz", vectors({"ana": 3, "ben": 3}))
    assert json.loads(run("train", "few.npz", "--nearest", "--threshold", "1", "--json").out)["alike"] is None


def test_copies_of_training_photos_in_the_test_set_are_left_out_and_pointed_out(in_tmp, run):
    rows = vectors({"ana": 4, "ben": 4})
    rows = replace(rows, splits=np.array(["train", "train", "train", "test"] * 2))
    rows = replace(rows, digests=np.array(["a", "b", "c", "a", "d", "e", "f", "g"]))
    save_embeddings(in_tmp / "faces.npz", rows)
    words = ["train", "faces.npz", "--nearest", "--threshold", "1"]
    assert "1 test photo is a copy" in run(*words).out
    report = json.loads(run(*words, "--json").out)
    assert report["copies"] == 1 and report["test"]["total"] == 1


def test_the_default_threshold_is_the_models_own_and_one_that_is_not_known_must_be_given(processed):
    from facerec.catalogue import CATALOGUE

    go(processed)
    assert fit(processed, threshold=None).gate == replace(CATALOGUE["facenet-128"].gate, margin=0.0)  # few people
    go(processed, FakeEmbedder(Space("facenet-512", "fake", CROP, False)))
    if CATALOGUE["facenet-512"].gate is None:
        with pytest.raises(DataError, match="--threshold"):
            fit(processed, threshold=None)
    assert fit(processed, threshold=0.7).gate.threshold == 0.7


def test_training_without_embeddings_says_what_to_run(in_tmp):
    with pytest.raises(ArtifactError, match="is missing — make it with `facerec embed`"):
        fit(in_tmp / "processed")
