"""live and capture: a camera or a film in real time, the window's keys, greetings, guided photos."""

import contextlib
import json
import os
import re
import time
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import COLOURS, STRANGER, FakeDetector, photo, until, video

from facerec import greet
from facerec.artifacts import load_embeddings
from facerec.desk import Desk, Known
from facerec.draw import GREEN
from facerec.errors import UsageError
from facerec.follower import Follower
from facerec.galleries.file import FileGallery, forget
from facerec.greet import Greeter
from facerec.images import read_image
from facerec.live import live
from facerec.quality import Quality
from facerec.stages import names as whom
from facerec.stages.capture import Guide, capture, view_of
from facerec.stages.learn import Learner
from facerec.stages.names import Watch
from facerec.tracking import moved
from facerec.types import Gate
from facerec.video import Camera, Frame, Video, VideoWriter, ahead, realtime
from facerec.window import Window


def film(path, n=6):
    return video(path, [photo(3, [COLOURS["ana"]])] * n, fps=10)


def test_live_counts_frames_faces_and_names_tells_events_and_writes_the_video(in_tmp, recognizer):
    events = []
    with Video(film(in_tmp / "a.mp4", 30)) as source:
        report = live(
            ahead(source.frames()),
            Follower(recognizer, step=2),
            writer=VideoWriter(in_tmp / "out.mp4", source.fps),
            event=events.append,
        )
    assert (report.frames, report.faces, report.tracks) == (30, 15, 1)
    assert [(e["event"], e["track"], e["name"]) for e in events] == [
        ("appeared", 1, None), ("named", 1, "ana"), ("left", 1, "ana"),
    ]  # fmt: skip
    summary = report.to_json()
    assert 0 < summary["names"]["ana"] < 30 and summary["tracks"] == 1 and summary["frames"] == 30
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    with Video(in_tmp / "out.mp4") as written:
        assert len(list(written.frames())) == 30


def test_live_interrupted_closes_its_video(in_tmp, recognizer):
    def stop(frames):
        for frame in frames:
            if frame.index == 3:
                raise KeyboardInterrupt
            yield frame

    with Video(film(in_tmp / "a.mp4")) as source:
        report = live(stop(source.frames()), Follower(recognizer), writer=VideoWriter(in_tmp / "out.mp4", 10))
    assert report.frames == 3 and report.interrupted
    with Video(in_tmp / "out.mp4") as written:
        assert len(list(written.frames())) == 3


class FakeWindow:
    """A window in which somebody presses these keys, one a frame."""

    def __init__(self, keys):
        self.keys, self.shown, self.is_open = list(keys), [], True

    def show(self, image):
        self.shown.append(image)

    def key(self, milliseconds):
        return self.keys.pop(0) if self.keys else None

    def close(self):
        self.is_open = False


def desk(keys, known=None, snapshots=None):
    return Desk(FakeWindow(keys), known, snapshots)


def known(follower, gallery, by="nearest"):
    learner = Learner(follower, FileGallery(gallery), by)
    return Known(learner.name, learner.save, learner.load)


def never(*args):
    pytest.fail("was called")


def scene(i):
    """A large face of a stranger."""
    rng = np.random.default_rng(i)
    image = np.repeat(rng.integers(90, 150, (200, 200, 1)).astype(np.uint8), 3, axis=2)
    image[50:140, 60:150] = np.clip(np.array(STRANGER) + rng.integers(-20, 21, (90, 90, 1)), 0, 255)
    return image


def strangers(n=40):
    return [Frame(i, i / 10, photo(7, [STRANGER])) for i in range(n)]


def test_a_name_typed_in_the_window_is_recognised_from_then_on(in_tmp, recognizer):
    told = []
    follower = Follower(recognizer, step=1)

    def name(typed, image, track):
        told.append((typed, image.shape, track.number))
        track.rename(typed)
        return "added"

    keys = [None, None, "n", "E", "x", "\x7f", "v", "a", "\r"]
    report = live(strangers(), follower, desk=desk(keys, Known(name, never, never)))
    assert told == [("Eva", (90, 90, 3), 1)]
    assert report.names == {"Eva": 37}  # from the frame after on


def test_a_face_named_in_the_window_is_in_the_gallery_and_recognised_at_once(in_tmp, recognizer):
    """Together with those whom the classifier knows: the gallery is the newest list of names from now on."""
    follower = Follower(recognizer, step=1)
    sharp = [Frame(i, i / 10, scene(i)) for i in range(30)]
    keys = [None, None, "n", *"eva lind", "\r"]
    report = live(sharp, follower, desk=desk(keys, known(follower, in_tmp / "gallery.npz")))
    gallery = load_embeddings(in_tmp / "gallery.npz")
    assert gallery.people == ["Eva Lind", "ana", "ben", "cleo"] and report.names == {"Eva Lind": 27}
    assert (in_tmp / gallery.sources[gallery.labels == "Eva Lind"][0]).is_file()
    again = Follower(follower.recognizer, step=1)
    live(sharp, again)
    assert again.recognizer.classifier.decide(gallery.vectors[-1:])[0].name == "Eva Lind"


def test_whom_others_forget_is_named_no_more_also_after_the_gallery_changed(in_tmp, recognizer, monkeypatch):
    monkeypatch.setattr(whom, "LOOK", 0.02)
    photos = replace(recognizer.classifier.photos, gate=Gate(0.4))
    for name in ("mine", "team"):
        FileGallery(in_tmp / f"{name}.npz").add(photos)
    mine, follower = FileGallery(in_tmp / "mine.npz"), Follower(recognizer, step=1)
    nobody = whom.of_nobody(recognizer.embedder, 0.4)

    def gone(learner):
        learner.refresh()
        return "ana" not in follower.recognizer.classifier.people

    learner = Learner(follower, mine, "nearest", Watch(FileGallery(mine.where), whom.names_of, mine.state(), nobody))
    with closing(learner):
        assert "3 people" in learner.load("team") and not gone(learner)
        forget(in_tmp / "team.npz", "ana")
        until(lambda: gone(learner))
        (in_tmp / "team.npz").unlink()
        until(lambda: gone(learner) and not follower.recognizer.classifier.people)
    follower.recognizer = recognizer  # by a classifier again, until somebody is named
    new = FileGallery(in_tmp / "new.npz")
    never_read = Watch(FileGallery(in_tmp / "none.npz"), whom.names_of, None, nobody)
    with closing(Learner(follower, new, "nearest", never_read)) as learner:
        for frame in (Frame(i, i / 10, scene(i)) for i in range(3)):
            (track, *_) = follower.follow(frame) or [None]
        assert "is added" in learner.name("eva", scene(3), track) and not gone(learner)
        forget(in_tmp / "new.npz", "ana")
        until(lambda: gone(learner))


def test_in_an_empty_folder_the_window_names_the_first_person(in_tmp, run, fakes, monkeypatch):
    video(in_tmp / "a.mp4", [scene(i) for i in range(12)])
    refused = run("live", "a.mp4", "--headless", "--threshold", "0.4")  # where nobody could be named
    assert refused.code == 1 and "facerec enroll" in refused.err
    keys = [None, None, "n", *"eva", "\r"]
    monkeypatch.setattr("facerec.window.Window", lambda title: FakeWindow(keys))
    answer = run("live", "a.mp4", "--threshold", "0.4", "--json")
    assert answer.code == 0 and "nobody is known yet" in answer.err
    assert "Eva" in json.loads(answer.out.splitlines()[-1])["names"]
    assert load_embeddings(in_tmp / "embeddings/gallery.npz").people == ["Eva"]


def test_a_face_is_enrolled_where_it_is_and_not_where_its_track_has_gone(in_tmp, recognizer):
    follower = Follower(recognizer, step=1)
    for frame in (Frame(i, i / 10, scene(i)) for i in range(3)):
        (track, *_) = follower.follow(frame) or [None]
    track.face = moved(track.face, np.array([30.0, 0, 30, 0]))
    assert "is added" in known(follower, in_tmp / "g.npz").name("eva", scene(3), track)
    (crop,) = [read_image(path) for path in (in_tmp / "g").rglob("*.png")]
    assert np.abs(crop[10:-10, 10:-10].mean((0, 1)) - STRANGER).max() < 15
    track.face = moved(track.face, np.array([300.0, 0, 300, 0]))
    assert "is not found" in known(follower, in_tmp / "g.npz").name("zoe", scene(3), track)


def test_a_blurred_face_or_a_name_that_is_none_is_not_added(in_tmp, recognizer):
    follower = Follower(recognizer, step=1)
    small = desk([None, None, "n", "e", "\r", "q"], known(follower, in_tmp / "gallery.npz"))
    live(strangers(), follower, desk=small)
    odd = desk([None, None, "n", *"a/b", "\r", "q"], known(follower, in_tmp / "gallery.npz"))
    live(strangers(), follower, desk=odd)
    assert "E is not added: too small" in small.text and "cannot be a person's name" in odd.text
    assert not (in_tmp / "gallery.npz").exists()


def test_escape_forgets_the_name_and_letters_do_nothing_else_meanwhile(in_tmp, recognizer):
    window = FakeWindow([None, None, "n", "q", "p", "\x1b", None, "q"])
    report = live(strangers(), Follower(recognizer, step=1), desk=Desk(window, Known(never, never, never), in_tmp))
    assert report.frames == 5 and not window.is_open


def test_the_space_bar_writes_a_snapshot_for_its_owner_only(in_tmp, recognizer):
    live(strangers(4), Follower(recognizer), desk=desk([None, " "], snapshots=in_tmp / "shots"))
    (shot,) = (in_tmp / "shots").iterdir()
    assert read_image(shot).shape == (90, 90, 3) and shot.stat().st_mode & 0o77 == 0


def test_pause_holds_the_picture_until_it_is_pressed_again(in_tmp, recognizer):
    window = FakeWindow([None, "p", None, None, "x", "p", None, "p", "q"])
    report = live(strangers(), Follower(recognizer), desk=Desk(window, None, in_tmp))
    assert report.frames == len(window.shown) == 4


@pytest.mark.parametrize("key", [" ", "r"])
def test_a_snapshot_that_cannot_be_written_ends_nothing(in_tmp, recognizer, key):
    (in_tmp / "shots").write_text("a file")
    shown = desk([None, key], snapshots=in_tmp / "shots")
    report = live(strangers(6), Follower(recognizer), desk=shown, writer=VideoWriter(in_tmp / "out.mp4", 10))
    assert report.frames == 6 and "shots" in shown.text and (in_tmp / "out.mp4").stat().st_size > 0


def test_closing_the_window_while_it_asks_ends_the_run(in_tmp, recognizer):
    class Closed(FakeWindow):
        def key(self, milliseconds):
            key = super().key(milliseconds)
            self.is_open = self.is_open and key != "closed"
            return key

    window = Closed([None, "s", "a", "closed", None, None])
    report = live(strangers(), Follower(recognizer), desk=Desk(window, Known(never, never, never), in_tmp))
    assert report.frames == 2


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (-1, None), (ord("q"), "q"), (0x100000 | ord("q"), "q"), (0xE9, "é"), (0xFFE1, None), (0xFFE9, None),
        (0xFF51, None), (0x250000, None), (0xF702, None), (13, "\r"), (0xFF0D, "\r"), (0xFF8D, "\r"), (0xFF1B, "\x1b"),
        (0xFF08, "\b"), (0xFFB7, "7"), (-0x24, "ü"),
    ],
)  # fmt: skip
def test_keys_that_write_nothing_are_none(monkeypatch, code, key):
    """As OpenCV's windows give them: Shift, Alt and arrows are not the letters that their last byte is."""
    monkeypatch.setattr("cv2.waitKeyEx", lambda milliseconds: code)
    assert Window.key(Window.__new__(Window)) == key


def test_a_camera_that_gives_nothing_is_said_in_the_window_and_can_be_left(recognizer):
    shown = desk([None, None, "q"])
    assert shown.idle()  # before the first picture there is nothing to write on
    live(strangers(1), Follower(recognizer), desk=shown)
    shown._window.is_open = True
    before = len(shown._window.shown)
    assert not shown.idle() and len(shown._window.shown) == before + 1
    assert (shown._window.shown[-1] != shown._window.shown[-2]).any()


def test_a_window_that_the_system_does_not_know_any_more_is_closed(monkeypatch):
    def gone(title, what):
        raise cv2.error("NULL guiReceiver")

    monkeypatch.setattr("cv2.getWindowProperty", gone)
    window = Window.__new__(Window)
    window.title = "gone"
    assert not window.is_open
    window.close()


def test_recording_starts_and_ends_with_r_and_runs_at_true_speed(in_tmp, recognizer):
    shown = desk([None, "r", *[None] * 10, "r"], snapshots=in_tmp / "shots")
    live(strangers(20), Follower(recognizer), desk=shown)
    (film,) = (in_tmp / "shots").iterdir()
    with Video(film) as recorded:  # 11 frames in 1.0 s, written at 15 a second
        assert len(list(recorded.frames())) == 16 and recorded.fps == 15
    assert shown.text == f"{film} is written"


def test_a_recording_that_goes_on_is_finished_when_the_film_ends(in_tmp, recognizer):
    live(strangers(9), Follower(recognizer), desk=desk([None, None, "r"], snapshots=in_tmp / "shots"))
    assert [p.suffix for p in (in_tmp / "shots").iterdir()] == [".mp4"]


def test_a_gallery_is_saved_and_another_one_loaded_and_those_in_view_are_looked_at_anew(in_tmp, recognizer):
    follower = Follower(recognizer, step=1)
    sharp = [Frame(i, i / 10, scene(i)) for i in range(60)]
    people = known(follower, in_tmp / "gallery.npz", "knn")
    keys = [None, None, "n", *"eva", "\r", "s", *"all", "\r", *[None] * 3]
    saved = desk(keys, people)
    live(sharp[:20], follower, desk=saved)
    assert load_embeddings(in_tmp / "all.npz").people == ["Eva", "ana", "ben", "cleo"]
    assert "all.npz is written: 4 people" in saved.text and follower.recognizer.classifier.kind == "knn"
    again = desk(["s", *"all", "\r", "q"], people)
    live(sharp, follower, desk=again)
    assert "there is a" in again.text and "all.npz already" in again.text

    other = Follower(recognizer, step=1)
    loaded = desk([*[None] * 5, "l", *"all", "\r"], known(other, in_tmp / "gallery.npz"))
    report = live(sharp, other, desk=loaded)
    assert "all.npz: 4 people" in loaded.text and 50 < report.names["Eva"] < 56


def test_who_was_forgotten_meanwhile_stays_forgotten(in_tmp, recognizer):
    follower = Follower(recognizer, step=1)
    sharp = [Frame(i, i / 10, scene(i)) for i in range(30)]
    path = in_tmp / "gallery.npz"
    people = known(follower, path)
    live(sharp, follower, desk=desk([None, None, "n", *"eva", "\r", "q"], people))
    forget(path, "ana")
    live(sharp, follower, desk=desk(["s", "\r", "q"], people))
    assert load_embeddings(path).people == ["Eva", "ben", "cleo"]
    other = Follower(follower.recognizer, step=1)
    for frame in sharp[:3]:
        (track, *_) = other.follow(frame) or [None]
    assert "is added" in known(other, path).name("dora", sharp[2].image, track)
    assert load_embeddings(path).people == ["Eva", "ben", "cleo", "dora"]


@pytest.mark.parametrize("typed", ["nobody", "../all", "a/b"])
def test_a_gallery_that_is_not_there_is_said_and_nothing_changes(in_tmp, recognizer, typed):
    follower = Follower(recognizer, step=1)
    missing = desk(["l", *typed, "\r", "q"], known(follower, in_tmp / "gallery.npz"))
    live(strangers(), follower, desk=missing)
    assert missing.text.startswith("not loaded: ") and follower.recognizer is recognizer


# --- cameras -------------------------------------------------------------------------------------


class FakeCapture:
    """OpenCV's capture device: `frames` pictures, then it is unplugged; opened again it works if it is `back`."""

    opened = 0

    def __init__(self, frames, back, picture=None):
        self.frames, self.back = frames, back
        self.picture = photo(1, [COLOURS["ana"]]) if picture is None else picture

    def __call__(self, source):
        type(self).opened += 1
        self.left = self.frames if self.opened == 1 or self.back else 0
        self.works = self.opened == 1 or self.back
        return self

    def isOpened(self):  # noqa: N802
        return self.works

    def read(self):
        time.sleep(0.005)
        self.left -= 1
        return (self.left >= 0, self.picture[..., ::-1])

    def release(self):
        pass


@pytest.fixture
def camera(monkeypatch):
    def make(frames, back):
        monkeypatch.setattr(FakeCapture, "opened", 0)
        monkeypatch.setattr("cv2.VideoCapture", FakeCapture(frames, back))
        monkeypatch.setattr("facerec.video.PATIENCE", 0.3)
        monkeypatch.setattr("facerec.video.RETRY", 0.05)
        said = []
        return Camera(0, said.append), said

    return make


def test_detections_are_never_further_apart_than_the_widest_step(recognizer, monkeypatch):
    follower, at = Follower(recognizer), []
    monkeypatch.setattr(Follower, "step", property(lambda self: 6 if self.frame < 5 else 5))
    for follower.frame, frame in enumerate(strangers(20)):
        before = follower._since
        follower.follow(frame)
        at += [follower.frame] if before == 0 else []
    assert at == [0, 6, 11, 16]


def test_a_camera_that_is_unplugged_is_said_to_be_lost(camera, recognizer):
    source, said = camera(6, back=False)
    with source:
        report = live(source.frames(), Follower(recognizer))
    assert 0 < report.frames <= 6 and source.lost and "trying to open it again" in said[0]


def test_a_camera_that_opens_but_gives_nothing_is_given_up(camera, monkeypatch):
    source, said = camera(6, back=False)
    monkeypatch.setattr(FakeCapture, "isOpened", lambda self: True)
    with source:
        assert len(list(source.frames())) <= 6
    assert source.lost and len(said) == 1


def test_a_camera_whose_driver_raises_is_lost_and_not_waited_for(camera, monkeypatch):
    source, _ = camera(6, back=False)

    def broken(self):
        raise cv2.error("cannot read")

    monkeypatch.setattr(FakeCapture, "read", broken)
    with source:
        list(source.frames())
    assert source.lost


def test_a_camera_that_gives_a_picture_a_connection_gives_each(camera):
    """As a page does that shows the last one."""
    source, _ = camera(1, back=True)
    with source, contextlib.closing(source.frames()) as frames:
        indices = [next(frames).index for _ in range(5)]
    assert len(set(indices)) == 5
    assert not source.lost


def test_a_camera_that_comes_back_goes_on(camera):
    source, said = camera(6, back=True)
    with source, contextlib.closing(source.frames()) as frames:
        for _ in range(10):
            assert next(frames).arrived > 0
    assert not source.lost and "is back" in said[1]


def test_realtime_plays_at_the_films_own_speed():
    start = time.perf_counter()
    assert len(list(realtime(Frame(i, i / 20, photo(1)) for i in range(5)))) == 5
    assert time.perf_counter() - start >= 0.2


def test_a_window_needs_a_screen(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match=r"no screen .* — "):
        Window("facerec")


# --- greeting ------------------------------------------------------------------------------------


def test_everybody_is_greeted_once_a_visit_and_the_loop_does_not_wait(in_tmp, monkeypatch):
    """Through a program as espeak is, that speaks slowly."""
    voice = in_tmp / "espeak"
    voice.write_text(f'#!/bin/sh\nsleep 0.3\necho "$@" >> {in_tmp}/said\n')
    voice.chmod(0o700)
    monkeypatch.setenv("PATH", f"{in_tmp}{os.pathsep}/usr/bin:/bin")
    monkeypatch.setattr(greet, "VOICES", [v for v in greet.VOICES if v[0] == "espeak"])
    greeter = Greeter()
    start = time.perf_counter()
    for seconds, names in ((0, {"--ana; rm"}), (1, {"--ana; rm", "ben"}), (20, {"ben"}), (49, {"ben"}), (80, {"ben"})):
        greeter.see(names, seconds)
    assert time.perf_counter() - start < 0.3 and greeter.voice == "espeak"
    deadline = time.monotonic() + 10
    while not ((in_tmp / "said").exists() and len((in_tmp / "said").read_text().splitlines()) == 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (in_tmp / "said").read_text().splitlines() == ["-- Hello --ana; rm", "-- Hello ben", "-- Hello ben"]


def test_without_a_voice_the_bell_rings(monkeypatch, capsys):
    monkeypatch.setattr(greet, "VOICES", ())
    greeter = Greeter()
    greeter.see({"ana"}, 0.0)
    deadline = time.monotonic() + 10
    while capsys.readouterr().err != "\aHello ana\n":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert greeter.voice == "the terminal's bell"


# --- capture -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaw", "pitch", "size", "view"),
    [
        (0.0, 0.54, 100, "front"), (0.3, 0.54, 100, "left"), (-0.3, 0.54, 100, "right"), (0.0, 0.4, 100, "up"),
        (0.0, 0.7, 100, "down"), (0.0, 0.54, 140, "near"), (0.1, 0.54, 100, None), (None, None, 100, "front"),
    ],
)  # fmt: skip
def test_views_are_told_from_the_keypoints(yaw, pitch, size, view):
    assert view_of(Quality(size, 50, 1, yaw, pitch, 0), usual=100) == view


def test_the_guide_asks_for_every_view_and_passes_over_what_does_not_come():
    faces = {"front": (0, 0.54, 100), "left": (0.3, 0.54, 100), "right": (-0.3, 0.54, 100), "up": (0, 0.4, 100)}
    guide, seconds, asked = Guide(8), 0.0, []
    while not guide.done:  # somebody who does what is asked for, but never looks down or comes nearer
        asked.append(guide.wanted)
        yaw, pitch, size = faces.get(guide.wanted, faces["front"])
        guide.take(Quality(size, 50, 1, yaw, pitch, 0), seconds)
        guide.wait(seconds)
        seconds += 0.5
        assert seconds < 60
    assert guide.taken == {"front": 2, "left": 2, "right": 2, "up": 2} and {"down", "near"} <= set(asked)


def test_without_keypoints_only_frontal_views_are_asked_for():
    guide = Guide(3)
    times = [t for t in np.arange(0, 3, 0.1) if not guide.done and guide.take(Quality(100, 50, 1), t)]
    assert np.diff(times) == pytest.approx([0.4, 0.4]) and guide.taken == {"front": 3}


def test_capture_takes_sharp_photos_of_one_face_and_says_what_is_in_the_way(in_tmp):
    frames = [
        Frame(0, 0.0, photo(7)),
        Frame(1, 0.1, photo(7, [STRANGER, COLOURS["ana"]])),
        Frame(2, 0.2, photo(7, [STRANGER])),
    ]
    frames += [Frame(i, i * 1.0, scene(i)) for i in range(3, 150)]  # one who only ever looks into the camera
    said, window = [], FakeWindow([])
    report = capture("Ana", frames, in_tmp, detector=FakeDetector(), count=3, window=window, say=said.append)
    assert said[:3] == [
        "0 of 3   nobody is in view",
        "0 of 3   2 faces: only one person, please",
        "0 of 3   come nearer",
    ]
    assert "1 of 3   turn your head a little to your left" in said and said[-1] == "3 of 3"
    assert len(report.photos) == 3 and report.views == {"front": 3}
    assert sorted((in_tmp / "Ana").iterdir()) == report.photos
    assert all(p.stat().st_mode & 0o77 == 0 and read_image(p).shape == (200, 200, 3) for p in report.photos)
    left = np.flatnonzero((window.shown[-1] == GREEN).all(axis=2).any(axis=0)).min()
    assert left == pytest.approx(50, abs=3)  # the face stands at 60 to 150 of 200, and in a mirror at 50 to 140


def test_capture_overwrites_nothing(in_tmp, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "now")
    frames = [Frame(i, i / 10, scene(i)) for i in range(40)]
    first, second = (capture("Ana", frames, in_tmp, detector=FakeDetector(), count=1) for _ in range(2))
    assert first.photos != second.photos and len(list((in_tmp / "Ana").iterdir())) == 2


def test_capture_from_the_command_line(in_tmp, run, fakes, monkeypatch):
    monkeypatch.setattr("cv2.VideoCapture", FakeCapture(40, back=False, picture=scene(0)))
    monkeypatch.setattr(FakeCapture, "opened", 0)
    result = run("capture", "Ana", "--headless", "--count", "1")
    assert result.code == 0 and re.search(r"capture: 1 photos of Ana \(1 front\) → raw_images/Ana", result.out)
    assert run("capture", "a/b", "--headless").code == 2
