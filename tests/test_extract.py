"""extract: which frames are taken, under which names, and what is done again."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import number_of, numbered, photo, tree, video

from facerec.artifacts import remove
from facerec.errors import FacerecError, UsageError
from facerec.images import read_image
from facerec.manifests import read_manifest
from facerec.stages.extract import extract

rng = np.random.default_rng(0)
SCENES = [rng.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(4)]


def moving(n, start=0):
    """Distinct frames that say their number."""
    return [numbered(i + start) for i in range(n)]


def taken(folder):
    return {r.input: [o["frame"] for o in r.outputs] for r in read_manifest(folder)}


def test_label_comes_from_the_folder_or_else_from_the_file(in_tmp):
    video(in_tmp / "v" / "Ana.mp4", moving(8))
    video(in_tmp / "v" / "Ünal 李" / "holiday" / "one.mp4", moving(8))
    report = extract([in_tmp / "v"], in_tmp / "raw", count=4)
    assert report.done == 2 and not report.failed
    assert sorted(p.name for p in (in_tmp / "raw").iterdir() if p.is_dir()) == ["Ana", "Ünal 李"]
    assert {r.label for r in read_manifest(in_tmp / "raw")} == {"Ana", "Ünal 李"}
    extract([in_tmp / "v" / "Ana.mp4"], in_tmp / "one")
    assert (in_tmp / "one" / "Ana").is_dir()


def test_frames_are_spread_over_the_whole_video_with_their_times(in_tmp):
    video(in_tmp / "Ana.mp4", moving(100), fps=20)
    extract([in_tmp / "Ana.mp4"], in_tmp / "raw", count=10)
    (record,) = read_manifest(in_tmp / "raw")
    frames = [o["frame"] for o in record.outputs]
    assert [f // 10 for f in frames] == list(range(10))
    for out in record.outputs:
        assert out["seconds"] == pytest.approx(out["frame"] / 20, abs=0.002)
        assert number_of(read_image(in_tmp / "raw" / out["path"])) == out["frame"]
        assert out["path"] == f"Ana/Ana_{out['frame']:06d}.jpg"


@pytest.mark.parametrize(("every", "expected"), [(1, 25), (10, 3), (24, 2), (99, 1)])
def test_every_nth_frame(in_tmp, every, expected):
    video(in_tmp / "Ana.mp4", moving(25))
    extract([in_tmp / "Ana.mp4"], in_tmp / "raw", every=every)
    assert taken(in_tmp / "raw") == {"Ana.mp4": [every * i for i in range(expected)]}


@pytest.mark.parametrize(("count", "shares"), [(7, [4, 3]), (4, [2, 2]), (2, [1, 1])])
def test_a_persons_videos_share_the_count(in_tmp, count, shares):
    for i in range(2):
        video(in_tmp / "v" / "Ana" / f"{i}.mp4", moving(40, 100 * i))
    extract([in_tmp / "v"], in_tmp / "raw", count=count)
    assert [len(frames) for frames in taken(in_tmp / "raw").values()] == shares


def test_a_video_that_gets_no_share_of_the_count_is_no_damaged_video(in_tmp):
    for i in range(3):
        video(in_tmp / "v" / "Ana" / f"{i}.mp4", moving(40, 100 * i))
    report = extract([in_tmp / "v"], in_tmp / "raw", count=2)
    assert sum(map(len, taken(in_tmp / "raw").values())) == 2
    assert not report.failed


def test_a_video_shorter_than_the_count_gives_what_it_has(in_tmp):
    video(in_tmp / "Ana.mp4", moving(5))
    extract([in_tmp / "Ana.mp4"], in_tmp / "raw", count=50)
    assert taken(in_tmp / "raw") == {"Ana.mp4": [0, 1, 2, 3, 4]}


def test_the_same_picture_is_not_taken_twice(in_tmp):
    video(in_tmp / "Ana.mp4", [photo(1)] * 30)
    video(in_tmp / "Ben.mp4", [SCENES[i // 15] for i in range(60)])
    extract([in_tmp], in_tmp / "raw", count=12)
    frames = taken(in_tmp / "raw")
    assert len(frames["Ana.mp4"]) == 1
    assert [f // 15 for f in frames["Ben.mp4"]] == [0, 1, 2, 3]


def test_blurred_frames_are_avoided(in_tmp):
    def frame(i):
        shifted = np.roll(SCENES[0], 3 * i, axis=1)
        return shifted if i % 5 == 2 else cv2.GaussianBlur(shifted, (7, 7), 3)

    video(in_tmp / "Ana.mp4", [frame(i) for i in range(40)])
    extract([in_tmp / "Ana.mp4"], in_tmp / "raw", count=8)
    assert taken(in_tmp / "raw") == {"Ana.mp4": [5 * i + 2 for i in range(8)]}


@pytest.mark.parametrize("options", [{"count": 10}, {"every": 2}])
def test_a_truncated_video_keeps_what_there_was_and_is_reported_each_time(in_tmp, options):
    path = video(in_tmp / "Ana.avi", moving(40), codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    written = set()
    for _ in range(2):
        report = extract([path], in_tmp / "raw", **options)
        written.add(frozenset((p, p.stat().st_mtime_ns) for p in (in_tmp / "raw" / "Ana").iterdir()))
        assert "cut off: only" in report.failed[0].reason and len(report.failed) == 1
    assert len(list((in_tmp / "raw" / "Ana").iterdir())) == len(taken(in_tmp / "raw")["Ana.avi"]) > 3
    assert len(written) == 1  # not decoded again


@pytest.mark.parametrize("options", [{"count": 10}, {"every": 2}])
@pytest.mark.parametrize("keep", [b"text", 0, 6000], ids=["text", "empty", "head only"])
def test_a_bad_video_does_not_stop_the_others(in_tmp, options, keep):
    video(in_tmp / "v" / "Ana.mp4", moving(20))
    bad = video(in_tmp / "v" / "Ben.avi", moving(40), codec="MJPG")
    bad.write_bytes(keep if isinstance(keep, bytes) else bad.read_bytes()[:keep])
    report = extract([in_tmp / "v"], in_tmp / "raw", **options)
    assert [f.source for f in report.failed] == ["v/Ben.avi"]
    assert taken(in_tmp / "raw")["v/Ana.mp4"]
    with pytest.raises(FacerecError, match=r"Ben\.avi.*--strict"):
        extract([in_tmp / "v"], in_tmp / "strict", strict=True, **options)


def test_again_does_nothing_and_only_a_new_video_is_decoded(in_tmp, caplog):
    video(in_tmp / "v" / "Ana.mp4", moving(20))
    extract([in_tmp / "v"], in_tmp / "raw", count=5)
    before = tree(in_tmp / "raw")
    again = extract([in_tmp / "v"], in_tmp / "raw", count=5)
    assert (again.done, again.skipped) == (0, 1) and tree(in_tmp / "raw") == before
    video(in_tmp / "v" / "Ben.mp4", moving(20, 50))
    report = extract([in_tmp / "v"], in_tmp / "raw", count=5)
    assert (report.done, report.skipped) == (1, 1)
    fewer = extract([in_tmp / "v"], in_tmp / "raw", count=3)
    assert fewer.done == 2 and len(list((in_tmp / "raw").rglob("*.jpg"))) == 6
    (in_tmp / "v" / "Ben.mp4").unlink()
    for _ in range(2):
        gone = extract([in_tmp / "v"], in_tmp / "raw", count=3)
        assert gone.removed == 0 and "v/Ben.mp4 is gone; its 3 pictures in" in caplog.text
        assert len(list((in_tmp / "raw" / "Ben").iterdir())) == 3
        caplog.clear()
    remove(in_tmp / "raw" / "Ben")
    assert extract([in_tmp / "v"], in_tmp / "raw", count=3).removed == 1 and not caplog.text


def test_a_video_that_is_called_otherwise_takes_its_frames_along(in_tmp, caplog):
    video(in_tmp / "v" / "Ana.mp4", moving(20))
    extract([in_tmp / "v"], in_tmp / "raw", count=3)
    (in_tmp / "v" / "Ana.mp4").rename(in_tmp / "v" / "Anna.mp4")
    report = extract([in_tmp / "v"], in_tmp / "raw", count=3)
    assert (report.removed, report.done) == (1, 1) and not caplog.text
    assert [p.name for p in (in_tmp / "raw").iterdir() if p.is_dir()] == ["Anna"]


def test_a_video_that_is_given_by_itself_keeps_its_folders_name(in_tmp):
    path = video(in_tmp / "v" / "Cat" / "a.mp4", moving(20))
    extract([in_tmp / "v"], in_tmp / "raw", count=3)
    assert extract([path], in_tmp / "raw", count=3).skipped == 1
    assert [p.name for p in (in_tmp / "raw").iterdir() if p.is_dir()] == ["Cat"]


def test_videos_of_one_stem_do_not_overwrite_each_other(in_tmp):
    video(in_tmp / "v" / "Ana" / "1.mp4", moving(20))
    video(in_tmp / "v" / "Ana" / "1.avi", moving(20, 50), codec="MJPG")
    video(in_tmp / "v" / "Ana" / "old" / "1.mp4", moving(20, 90))
    extract([in_tmp / "v"], in_tmp / "raw", count=9)
    assert len(list((in_tmp / "raw" / "Ana").iterdir())) == 9


@pytest.mark.parametrize("every", [None, 5])
def test_a_video_that_sorts_before_another_takes_none_of_its_frames(in_tmp, every):
    for name in ("b", "c"):
        video(in_tmp / "v" / "Ana" / name / "1.mp4", moving(20, ord(name)))
    extract([in_tmp / "v"], in_tmp / "raw", count=6, every=every)
    video(in_tmp / "v" / "Ana" / "a" / "1.mp4", moving(20))
    extract([in_tmp / "v"], in_tmp / "raw", count=6, every=every)
    outputs = [o["path"] for r in read_manifest(in_tmp / "raw") for o in r.outputs]
    assert len(outputs) == len(set(outputs)) == (12 if every else 6)
    assert all((in_tmp / "raw" / path).is_file() for path in outputs)


def test_a_video_given_twice_is_taken_once(in_tmp):
    path = video(in_tmp / "v" / "Ana.mp4", moving(20))
    report = extract([in_tmp / "v", path], in_tmp / "raw", count=5)
    assert report.done == 1 and not report.failed and len(list((in_tmp / "raw" / "Ana").iterdir())) == 5


def test_what_lies_outside_the_folder_asked_for_stays(in_tmp, monkeypatch):
    video(in_tmp / "else" / "Ben.mp4", moving(20))
    video(in_tmp / "here" / "Ana.mp4", moving(20))
    monkeypatch.chdir(in_tmp / "here")
    extract([Path("../else/Ben.mp4")], Path("raw"), count=5)
    report = extract([Path()], Path("raw"), count=5)
    assert report.removed == 0 and len(list(Path("raw/Ben").iterdir())) == 5


def test_videos_of_one_name_in_separate_runs_do_not_overwrite_each_other(in_tmp):
    """The second gets names of its own or is reported; it takes nobody's place."""
    video(in_tmp / "a" / "Ana.mp4", moving(20))
    video(in_tmp / "b" / "Ana.mp4", moving(20, 50))
    extract([in_tmp / "a"], in_tmp / "raw", every=5)
    report = extract([in_tmp / "b"], in_tmp / "raw", every=5)
    outputs = [o["path"] for r in read_manifest(in_tmp / "raw") for o in r.outputs]
    assert len(outputs) == len(set(outputs)) == (4 if report.failed else 8)
    numbers = {number_of(read_image(in_tmp / "raw" / path)) for path in outputs}
    assert {0, 5, 10, 15} <= numbers


def test_hidden_folders_are_passed_over(in_tmp):
    video(in_tmp / "v" / "Ana.mp4", moving(20))
    video(in_tmp / "v" / ".trash" / "Ben.mp4", moving(20))
    assert extract([in_tmp / "v"], in_tmp / "raw", count=4).done == 1


def test_jobs_do_not_change_the_result(in_tmp):
    for name in ("Ana", "Ben", "Cleo"):
        video(in_tmp / "v" / f"{name}.mp4", moving(30, len(name)))
    for jobs in (1, 3):
        extract([in_tmp / "v"], in_tmp / str(jobs), count=5, jobs=jobs)
    assert tree(in_tmp / "1") == tree(in_tmp / "3")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["v"], {"count": 0}, "1 or more"),
        (["v"], {"every": 0}, "1 or more"),
        (["gone"], {}, "there is no gone"),
        (["empty"], {}, "no videos in empty"),
        (["a.txt"], {}, "not a video by its name"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(in_tmp, inputs, options, message):
    video(in_tmp / "v" / "Ana.mp4", moving(4))
    (in_tmp / "empty").mkdir()
    (in_tmp / "a.txt").write_text("")
    with pytest.raises(UsageError, match=message):
        extract([Path(p) for p in inputs], in_tmp / "raw", **options)
