"""detect: crops, the split, what is recorded, and what happens when it is run again or killed."""

import errno
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, CROP, FakeDetector, numbered, photo, photos, save, tree, video

from facerec.errors import ArtifactError, FacerecError, UsageError
from facerec.images import read_image
from facerec.manifests import MANIFEST, read_manifest
from facerec.stages.detect import assign_splits, detect
from facerec.stages.extract import extract
from facerec.stages.process import Item
from facerec.types import Crop

PEOPLE = {"ana": 10, "ben": 7, "cleo": 3}


@pytest.fixture
def raw(in_tmp):
    return photos(in_tmp / "raw", PEOPLE)


def go(raw, out=None, detector=None, **options):
    options = {"crop": CROP, "min_face": 20, "min_confidence": None, **options}
    return detect(raw, out or raw.parent / "processed", detector=detector or FakeDetector(), **options)


def sides(folder):
    """input → (label, split)"""
    return {r.input: (r.label, r.split) for r in read_manifest(folder)}


def crops(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))


# --- crops and records ---------------------------------------------------------------------------


def test_each_photo_becomes_a_crop_of_its_face(raw):
    report = go(raw)
    out = raw.parent / "processed"
    assert (report.done, report.skipped, report.failed) == (20, 0, [])
    for record in read_manifest(out):
        (made,) = record.outputs
        person = record.input.split("/")[1]
        assert made["path"].startswith(f"{record.split}/{person}/") and record.label == person
        crop = read_image(out / made["path"])
        assert crop.shape == (160, 160, 3)
        assert np.abs(crop[40:120, 40:120].mean((0, 1)) - COLOURS[person]).max() < 15
        x, y, w, h = made["box"]
        photo_ = read_image(raw.parent / record.input).astype(int)
        assert np.abs(photo_[round(y + h / 2), round(x + w / 2)] - COLOURS[person]).max() < 15
        assert set(made["keypoints"]) == {"left_eye", "right_eye", "nose", "mouth_left", "mouth_right"}
        assert 0 < made["confidence"] <= 1


@pytest.mark.parametrize(("choice", "expected"), [("largest", 1), ("central", 1), ("all", 3)])
def test_of_several_faces_those_asked_for_are_cut_out(in_tmp, choice, expected):
    save(in_tmp / "raw" / "trio" / "a.png", photo(0, [COLOURS["ana"], COLOURS["ben"], COLOURS["cleo"]]))
    go(in_tmp / "raw", faces=choice)
    made = crops(in_tmp / "processed")
    assert len(made) == expected and all(name.startswith("train/trio/a") for name in made)
    if expected == 1:
        colour = read_image(in_tmp / "processed" / made[0])[60:100, 60:100].mean((0, 1))
        assert np.abs(colour - COLOURS["cleo" if choice == "largest" else "ben"]).max() < 15


def test_a_photo_without_a_face_is_recorded_and_counted_each_time(raw):
    save(raw / "ana" / "wall.png", photo(1))
    (raw / "ben" / "text.jpg").write_text("no picture")
    for done, skipped in ((20, 0), (0, 20)):
        report = go(raw)
        assert (report.done, report.skipped) == (done, skipped)
        assert {f.source: f.reason.split(" — ")[0] for f in report.failed} == {
            "raw/ana/wall.png": "no face found",
            "raw/ben/text.jpg": "not a picture that can be read",
        }
        assert all(f.label in PEOPLE and f.split in ("train", "test") for f in report.failed)


def test_strict_stops_at_the_first_failure(raw):
    save(raw / "ana" / "0.png", photo(1))
    with pytest.raises(FacerecError, match=r"raw/ana/0\.png: no face found — leave out --strict"):
        go(raw, strict=True)


def test_a_persons_own_folder_and_a_whole_project_are_told_from_a_folder_of_people(raw):
    with pytest.raises(
        UsageError, match=r"no photo in .*raw/ana lies in a person's folder — give .*raw if ana is a person"
    ):
        go(raw / "ana", raw.parent / "processed")
    Path("raw").rename("raw_images")
    with pytest.raises(UsageError, match="is a whole project"):
        go(Path())


def test_a_photo_without_a_person_is_reported(raw):
    save(raw / "stray.png", photo(1, [COLOURS["ana"]]))
    report = go(raw)
    assert [(f.source, f.reason.split(" — ")[0]) for f in report.failed] == [("raw/stray.png", "no person")]


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "1.jpg"],
        ["a/1.png", "b/1.png", "1.png"],
        ["1.png", "1.PNG"],
        ["1.png", "1.jpg", "1_png.png"],
        ["two.png", "two_1.png"],
        ["two.png", "two~1.png"],
        ["a.b.png", "a.png"],
    ],
    ids=["suffix", "folders", "case", "suffix and underscore", "several faces", "called like a face", "dots"],
)
def test_photos_never_share_a_crop(in_tmp, names):
    for i, name in enumerate(names):
        save(in_tmp / "raw" / "ana" / name, photo(i, [COLOURS["ana"]] * (2 if name == "two.png" else 1)))
    go(in_tmp / "raw", faces="all", test_size=0)
    paths = [o["path"] for r in read_manifest(in_tmp / "processed") for o in r.outputs]
    assert len(paths) == len(set(paths)) == len(crops(in_tmp / "processed"))
    assert len(paths) == len(names) + ("two.png" in names)


def test_two_input_folders_never_share_a_crop(in_tmp):
    """The second photo of a name gets a crop of its own or is reported; it takes nobody's place."""
    go(photos(in_tmp / "a", {"ana": 3}), in_tmp / "processed")
    before = tree(in_tmp / "processed")
    report = go(photos(in_tmp / "b", {"ana": 4}), in_tmp / "processed")
    assert {k: v for k, v in tree(in_tmp / "processed").items() if k in before and k != MANIFEST} == {
        k: v for k, v in before.items() if k != MANIFEST
    }
    paths = [o["path"] for r in read_manifest(in_tmp / "processed") for o in r.outputs]
    assert len(paths) == len(set(paths)) == len(crops(in_tmp / "processed")) == 7 - len(report.failed)


def test_a_photo_that_could_not_have_its_place_takes_it_when_the_other_has_gone(in_tmp):
    out = in_tmp / "processed"
    for folder in "ab":
        photos(in_tmp / folder, {"ana": 2})
    go(in_tmp / "a", out, test_size=0)
    assert len(go(in_tmp / "b", out, test_size=0).failed) == 2
    assert go(in_tmp / "a", out, test_size=0, crop=Crop(0.1)).failed == []  # who came first keeps it
    (in_tmp / "a" / "ana" / "0.png").unlink()
    go(in_tmp / "a", out, test_size=0, crop=Crop(0.1))
    report = go(in_tmp / "b", out, test_size=0)
    assert (report.done, len(report.failed), len(crops(out))) == (1, 1, 2)


def test_a_folder_that_was_moved_is_detected_again(raw):
    go(raw)
    before = crops(raw.parent / "processed")
    report = go(raw.rename(raw.with_name("photos")), raw.parent / "processed")
    assert report.failed == [] and crops(raw.parent / "processed") == before


def test_a_name_that_changes_hands_costs_nobody_a_crop(in_tmp):
    """A new photo gets the name that another's crop had: what that one leaves behind is not the new one's."""
    for i, name in enumerate(("train/ana/1.png", "val/ana/x.png", "val/ana/x.bmp")):
        save(in_tmp / "raw" / name, photo(i, [COLOURS["ana"]]))
    go(in_tmp / "raw")
    save(in_tmp / "raw" / "test" / "ana" / "x.png", photo(9, [COLOURS["ana"]]))
    go(in_tmp / "raw")
    recorded = [o["path"] for r in read_manifest(in_tmp / "processed") for o in r.outputs]
    assert len(recorded) == 4 and sorted(recorded) == crops(in_tmp / "processed")


def test_a_folder_on_a_disk_that_is_away_is_not_gone(raw):
    go(raw)
    (raw / "ana").rename(raw.parent / "away")
    (raw / "ana").symlink_to(raw.parent / "disk")
    with pytest.raises(FacerecError, match="leads nowhere"):
        go(raw)
    assert len(crops(raw.parent / "processed")) == 20


def test_a_folder_that_cannot_be_read_is_not_gone(raw, monkeypatch):
    go(raw)
    scandir = os.scandir

    def forbidden(path):
        if Path(path).name == "ana":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch, pytest.raises(FacerecError, match=r"ana cannot be read \(Permission denied"):
        patch.setattr(os, "scandir", forbidden)
        go(raw)
    assert len(crops(raw.parent / "processed")) == 20


def test_a_folder_whose_name_breaks_a_line_is_nobodys(in_tmp):
    save(in_tmp / "raw" / "a\nb" / "0.png", photo(0, [COLOURS["ana"]]))
    (failed,) = go(in_tmp / "raw").failed
    assert "cannot be a person's name" in failed.reason


def test_an_aligned_crop_is_possible(raw):
    assert go(raw, crop=Crop(0.1, aligned=True)).failed == []


# --- the split -----------------------------------------------------------------------------------


def test_photos_are_split_person_by_person(raw):
    go(raw, test_size=0.3)
    assert Counter(sides(raw.parent / "processed").values()) == {
        ("ana", "train"): 7, ("ana", "test"): 3, ("ben", "train"): 5, ("ben", "test"): 2,
        ("cleo", "train"): 2, ("cleo", "test"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("n", "test_size", "tests"), [(1, 0.3, 0), (2, 0.9, 1), (10, 0, 0), (10, 0.99, 9), (3, 0.1, 0)]
)
def test_everybody_keeps_a_training_photo(in_tmp, n, test_size, tests):
    go(photos(in_tmp / "raw", {"ana": n}), test_size=test_size)
    assert sum(split == "test" for _, split in sides(in_tmp / "processed").values()) == tests


def test_a_persons_split_does_not_depend_on_other_people(raw):
    go(raw)
    go(photos(raw.parent / "more" / "raw", {**PEOPLE, "dora": 9}), raw.parent / "more" / "processed")
    alone = sides(raw.parent / "processed")
    assert alone.items() <= sides(raw.parent / "more" / "processed").items()


def test_a_split_does_not_depend_on_what_somebody_is_called(raw):
    go(raw)
    before = {path: side for path, (_, side) in sides(raw.parent / "processed").items()}
    (raw / "ana").rename(raw / "zoe")
    go(raw, raw.parent / "again")
    again = {path.replace("zoe", "ana"): side for path, (_, side) in sides(raw.parent / "again").items()}
    assert again == before


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("train", "test", "val")])
def test_folders_that_are_split_already_are_kept(in_tmp, names):
    for name in names:
        photos(in_tmp / "raw" / name, {"ana": 2, "ben": 3})
    go(in_tmp / "raw")
    assert len(crops(in_tmp / "processed")) == 5 * len(names)
    for path, (label, split) in sides(in_tmp / "processed").items():
        _, folder, person, _ = path.split("/")
        assert (label, split) == (person, "train" if folder == "train" else "test")


def test_train_and_test_can_be_peoples_names(in_tmp):
    for name in ("train", "test", "ana"):
        save(in_tmp / "raw" / name / "0.png", photo(0, [COLOURS["ana"]]))
    assert go(in_tmp / "raw").failed == []
    assert {label for label, _ in sides(in_tmp / "processed").values()} == {"train", "test", "ana"}


@pytest.mark.parametrize("gone", ["train", "test"])
def test_one_half_of_a_split_is_still_one(in_tmp, gone):
    for name in ("train", "test"):
        photos(in_tmp / "raw" / name, {"ana": 2, "ben": 3})
    go(in_tmp / "raw")
    shutil.rmtree(in_tmp / "raw" / gone)
    go(in_tmp / "raw")
    left = {"train": "test", "test": "train"}[gone]
    assert set(sides(in_tmp / "processed").values()) == {("ana", left), ("ben", left)}


def frames(in_tmp, people, n=60):
    """Frames of a video a person, as extract takes them."""
    for k, name in enumerate(people):
        pictures = (np.maximum(photo(i, [COLOURS[name]], 64), numbered(i)[:, :90] // 9) for i in range(n))
        video(in_tmp / "videos" / f"{name}.mp4", pictures, fps=10 + k)
    extract([in_tmp / "videos"], in_tmp / "raw", every=2)
    return in_tmp / "raw"


def blocks(order, side):
    return [s for s, _ in itertools.groupby(order) if s == side]


@pytest.mark.parametrize("split", ["auto", "blocks"])
@pytest.mark.parametrize("test_size", [0.1, 0.3, 0.6])
def test_no_training_frame_stands_next_to_a_test_frame(in_tmp, split, test_size):
    go(frames(in_tmp, ["ana", "ben"]), split=split, test_size=test_size)
    for name in ("ana", "ben"):
        order = [s for _, (label, s) in sides(in_tmp / "processed").items() if label == name]
        assert order.count("test") == round(30 * test_size) and "train" in order
        assert {"train", "test"} not in map(set, itertools.pairwise(order))
        assert order.count("gap") <= 2 * len(blocks(order, "test")) <= 6


@pytest.mark.parametrize("n", range(1, 41))
def test_blocks_of_any_size_keep_training_photos_and_their_distance(n):
    items = [Item(Path(f"raw/ana/{i}.png"), "ana", "", str(i)) for i in range(n)]
    for percent in range(0, 100, 3):
        order = [item.split for item in assign_splits(items, {}, percent / 100, "blocks")]
        assert set(order) <= {"train", "test", "gap"} and "train" in order
        assert {"train", "test"} not in map(set, itertools.pairwise(order))
        assert order.count("test") <= round(n * percent / 100)
        if 0.1 * n >= 3 and 10 <= percent <= 50:
            assert order.count("test") == round(n * percent / 100)


def test_frames_kept_out_have_no_crops_and_are_no_failures(in_tmp, run, fakes):
    raw = frames(in_tmp, ["ana"])
    assert "kept out" in run("detect", raw, "--output", "said").out
    report = go(raw)
    gaps = [r for r in read_manifest(in_tmp / "processed") if r.split == "gap"]
    assert gaps and not any(r.outputs for r in gaps) and not any(f.split == "gap" for f in report.failed)


def test_frames_can_be_split_at_random_and_photos_in_blocks(in_tmp):
    raw = frames(in_tmp, ["ana"])
    go(raw, split="random")
    order = [s for _, s in sides(in_tmp / "processed").values()]
    assert "gap" not in order and len(list(itertools.groupby(order))) > 3
    go(photos(in_tmp / "other" / "raw", {"ben": 12}), split="blocks")
    order = [s for _, s in sides(in_tmp / "other" / "processed").values()]
    assert order.count("test") == 4 and len(blocks(order, "test")) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_frames_to_spare_any_are_all_for_training(in_tmp, n):
    go(photos(in_tmp / "raw", {"ana": n}), split="blocks", test_size=0.5)
    splits = Counter(s for _, s in sides(in_tmp / "processed").values())
    assert splits["train"] >= 1
    assert splits["train"] == n or splits["test"] == 1


# --- run again -----------------------------------------------------------------------------------


def test_again_does_nothing(raw):
    go(raw)
    before = tree(raw.parent / "processed")
    detector = FakeDetector()
    report = go(raw, detector=detector)
    assert (report.done, report.skipped, detector.calls) == (0, 20, 0)
    assert tree(raw.parent / "processed") == before


@pytest.mark.parametrize(
    "options",
    [{"min_face": 40}, {"min_confidence": 0.5}, {"faces": "all"}, {"crop": Crop(0.3)}, {"force": True}],
    ids=lambda options: next(iter(options)),
)
def test_changed_options_or_force_do_all_again(raw, options):
    go(raw)
    report = go(raw, **options)
    assert (report.done, report.skipped) == (20, 0)
    go(raw, raw.parent / "fresh", **{k: v for k, v in options.items() if k != "force"})
    assert crops(raw.parent / "processed") == crops(raw.parent / "fresh")


def test_another_detector_does_all_again(raw):
    go(raw)
    other = FakeDetector()
    other.name = "other"
    assert go(raw, detector=other).done == 20


def test_only_new_changed_and_moved_photos_are_done_and_gone_ones_removed(raw):
    out = raw.parent / "processed"
    go(raw, test_size=0)
    save(raw / "ana" / "new.png", photo(77, [COLOURS["ana"]]))
    save(raw / "ben" / "0.png", photo(78, [COLOURS["ben"]]))
    (raw / "cleo" / "1.png").unlink()
    (raw / "ana" / "1.png").rename(raw / "ben" / "was_ana.png")
    report = go(raw, test_size=0)
    assert (report.done, report.skipped, report.removed) == (3, 17, 2)
    assert {"train/ana/new.png", "train/ben/was_ana.png"} <= set(crops(out))
    assert {"train/cleo/1.png", "train/ana/1.png"}.isdisjoint(crops(out))
    go(raw, raw.parent / "fresh", test_size=0)
    assert tree(out) == tree(raw.parent / "fresh")


def test_a_photo_that_loses_its_face_loses_its_crop(raw):
    go(raw, test_size=0)
    save(raw / "ana" / "0.png", photo(1))
    assert len(go(raw, test_size=0).failed) == 1
    assert "train/ana/0.png" not in crops(raw.parent / "processed")


def test_a_crop_that_was_deleted_is_made_again(raw):
    go(raw)
    before = tree(raw.parent / "processed")
    (raw.parent / "processed" / crops(raw.parent / "processed")[3]).unlink()
    assert go(raw).done == 1 and tree(raw.parent / "processed") == before


def test_a_photo_that_changes_sides_leaves_no_crop_behind(raw):
    go(raw, test_size=0.3)
    go(raw, test_size=0.7)
    assert len(crops(raw.parent / "processed")) == 20
    recorded = [o["path"] for r in read_manifest(raw.parent / "processed") for o in r.outputs]
    assert sorted(recorded) == crops(raw.parent / "processed")


def test_detecting_one_folder_does_not_remove_what_came_of_another(in_tmp):
    go(photos(in_tmp / "a", {"ana": 3}), in_tmp / "processed")
    assert go(photos(in_tmp / "b", {"ben": 2}), in_tmp / "processed").removed == 0
    assert len(crops(in_tmp / "processed")) == 5


# --- killed, full, side by side ------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 9, 19])
@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_and_run_again_equals_undisturbed(raw, after, jobs):
    save(raw / "ana" / "wall.png", photo(1))
    with pytest.raises(KeyboardInterrupt):
        go(raw, detector=FakeDetector(interrupt_after=after), jobs=jobs)
    out = raw.parent / "processed"
    kept = [p for p in out.rglob("*.png") if not p.name.startswith(".facerec-tmp-")] if out.exists() else []
    assert len(kept) <= after
    report = go(raw, jobs=jobs)
    assert report.done + report.skipped + len(report.failed) == 21 and report.skipped <= after
    go(raw, raw.parent / "fresh")
    assert tree(out) == tree(raw.parent / "fresh")


def test_interrupted_work_is_not_done_twice(raw):
    with pytest.raises(KeyboardInterrupt):
        go(raw, detector=FakeDetector(interrupt_after=12))
    detector = FakeDetector()
    assert go(raw, detector=detector).skipped == 12 and detector.calls == 8


def test_what_workers_have_not_finished_goes_when_a_run_is_interrupted(raw, monkeypatch):
    def interrupted(*_, **__):
        save(raw.parent / "processed/train/ana/.facerec-tmp-x.png", photo(1))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("facerec.stages.process.PROCESSES", 1)
    monkeypatch.setattr("facerec.stages.process.spread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(raw, jobs=2)
    assert not [path for path in (raw.parent / "processed").rglob("*") if path.name.startswith(".facerec-tmp-")]


def test_a_copy_of_the_folder_is_told_and_counted_nowhere_when_it_is_gone(raw):
    first = go(raw)
    copy = raw.with_name("copy")
    shutil.copytree(raw, copy)
    again = go(copy)
    assert len(again.failed) == sum(PEOPLE.values()) and "already makes" in again.failed[0].reason
    assert {r.input.split("/")[0] for r in read_manifest(raw.parent / "processed")} == {raw.name}
    shutil.rmtree(copy)
    assert go(raw).failed == first.failed == []


def test_a_full_disk_is_an_artifact_error_and_the_next_run_goes_on(raw, monkeypatch):
    fsync, left = os.fsync, [8]

    def filling(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", filling)
    with pytest.raises(ArtifactError, match="No space left"):
        go(raw)
    monkeypatch.undo()
    os.chdir(raw.parent)
    report = go(raw)
    assert report.skipped == 8 and report.done == 12
    go(raw, raw.parent / "fresh")
    assert tree(raw.parent / "processed") == tree(raw.parent / "fresh")


def test_jobs_do_not_change_the_result(raw):
    save(raw / "ana" / "wall.png", photo(1))
    for jobs in (1, 2, 4):
        go(raw, raw.parent / f"out{jobs}", jobs=jobs)
    assert tree(raw.parent / "out1") == tree(raw.parent / "out2") == tree(raw.parent / "out4")


@pytest.mark.parametrize(
    ("key", "value"), [("box", [1, 2]), ("keypoints", {}), ("crop", 5), ("path", "a\0b"), ("confidence", "much")]
)
def test_a_line_of_another_program_is_no_record(raw, key, value):
    """It counts as one that was cut off: its photo is done again."""
    go(raw)
    path = raw.parent / "processed" / MANIFEST
    before = path.read_bytes()
    first, *rest = before.decode().splitlines(keepends=True)
    record = json.loads(first)
    (record["options"] if key == "crop" else record["outputs"][0])[key] = value
    path.write_text("".join([json.dumps(record) + "\n", *rest]))
    report = go(raw)
    assert (report.done, report.skipped) == (1, 19) and path.read_bytes() == before


def test_a_last_line_without_its_end_is_a_line(raw):
    go(raw)
    path = raw.parent / "processed" / MANIFEST
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*rest, first.rstrip()]))
    assert go(raw).skipped == 20 and len(path.read_bytes().splitlines()) == 20


def test_a_damaged_manifest_costs_its_lines_only(raw):
    go(raw)
    before = tree(raw.parent / "processed")
    path = raw.parent / "processed" / MANIFEST
    path.write_text(path.read_text()[:-100])
    assert go(raw).done == 1 and tree(raw.parent / "processed") == before


@pytest.mark.parametrize("test_size", [1.0, -0.1, 30, float("nan")])
def test_an_impossible_test_size_is_a_usage_error(raw, test_size):
    with pytest.raises(UsageError, match="--test-size"):
        go(raw, test_size=test_size)


def test_nothing_to_do_is_a_usage_error(in_tmp):
    with pytest.raises(UsageError, match="there is no folder"):
        go(in_tmp / "raw")
    (in_tmp / "raw").mkdir()
    with pytest.raises(UsageError, match=r"no photos in .*NAME/"):
        go(in_tmp / "raw")


def test_names_of_any_alphabet_are_kept(in_tmp):
    save(in_tmp / "raw" / "Ünal 李" / "Weiß 1.png", photo(0, [COLOURS["ana"]]))
    go(in_tmp / "raw")
    assert crops(in_tmp / "processed") == ["train/Ünal 李/Weiß 1.png"]
    assert json.loads((in_tmp / "processed" / MANIFEST).read_text())["label"] == "Ünal 李"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not Unicode")
def test_a_photo_whose_name_is_not_unicode_is_treated_as_any(in_tmp):
    photos(in_tmp / "raw", {"ana": 3})
    (in_tmp / "raw" / "ana" / "0.png").rename(in_tmp / "raw" / "ana" / "bad\udcff name.png")
    assert go(in_tmp / "raw").done == 3 and go(in_tmp / "raw").skipped == 3
    assert "raw/ana/bad\udcff name.png" in sides(in_tmp / "processed")
