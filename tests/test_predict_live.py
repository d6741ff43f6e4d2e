"""predict and live: who is in images and videos; the recognizer that both use; pictures for people."""

import contextlib
import time
from functools import partial

import numpy as np
import pytest
from conftest import COLOURS, CROP, SPACE, STRANGER, FakeDetector, FakeEmbedder, photo, save, video

from facerec.artifacts import load_embeddings
from facerec.classify import Classifier
from facerec.commands.live import enroll_track
from facerec.draw import annotate_predictions, contact_sheet
from facerec.errors import FacerecError, SpaceError, UsageError
from facerec.follower import Follower
from facerec.images import read_image
from facerec.live import live
from facerec.recognizer import Recognizer
from facerec.stages.appearances import appearances
from facerec.stages.predict import expand, predict
from facerec.types import Embeddings, Face, Gate, Prediction, Space
from facerec.video import Camera, Frame, Video, ahead, realtime
from facerec.window import Window


def colours(space=SPACE):
    """Three enrolled people, one photo each."""
    x = np.array([COLOURS[name] for name in ("ana", "ben", "cleo")], np.float32) - 127.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = np.array(["ana", "ben", "cleo"])
    return Embeddings(x, names, names, np.array(["train"] * 3), names, space)


GROUP = photo(5, [COLOURS["ben"], STRANGER, COLOURS["ana"]])


def names(predictions):
    return {p.name for p in predictions}


# --- recognizer ----------------------------------------------------------------------------------


def test_every_face_is_named_in_the_order_of_the_detections(recognizer):
    predictions = recognizer.recognize(GROUP)
    assert sorted((p.face.box[0] // 90, p.name) for p in predictions) == [(0, "ben"), (1, None), (2, "ana")]
    assert [p.face.confidence for p in predictions] == sorted((p.face.confidence for p in predictions), reverse=True)
    (stranger,) = (p for p in predictions if p.name is None)
    assert stranger.distance > 0.4 and "threshold 0.40" in stranger.reason and stranger.candidate in COLOURS


def test_an_image_without_faces_has_no_predictions(recognizer):
    assert recognizer.recognize(photo(1)) == []


def test_only_the_chosen_faces_are_named(recognizer):
    chosen = Recognizer(recognizer.detector, recognizer.embedder, recognizer.classifier, "largest")
    assert names(chosen.recognize(GROUP)) == {"ana"}


@pytest.mark.parametrize(
    "space",
    [
        Space("facenet-512", "fake", CROP, False),
        Space("facenet-128", "other", CROP, False),
        Space("facenet-128", "fake", CROP, True),
    ],
)
def test_a_classifier_of_another_space_is_refused(space):
    with pytest.raises(SpaceError, match="the classifier holds vectors of"):
        Recognizer(FakeDetector(), FakeEmbedder(), Classifier.train("nearest", colours(space), Gate(0.4)))


# --- predict -------------------------------------------------------------------------------------


@pytest.fixture
def album(in_tmp):
    save(in_tmp / "album" / "a" / "1.png", photo(1, [COLOURS["ana"]]))
    save(in_tmp / "album" / "b" / "1.png", photo(2, [COLOURS["ben"]]))
    save(in_tmp / "album" / "b" / "10.png", GROUP)
    (in_tmp / "album" / "notes.txt").write_text("no picture")
    video(in_tmp / "party.mp4", [photo(1)] * 3)
    return in_tmp


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["album"], ["album/a/1.png", "album/b/1.png", "album/b/10.png"]),
        (["album/b/10.png"], ["album/b/10.png"]),
        (["album/*/1.png"], ["album/a/1.png", "album/b/1.png"]),
        (["album/**/1*"], ["album/a/1.png", "album/b/1.png", "album/b/10.png"]),
        (["album/a", "album/b/10.png"], ["album/a/1.png", "album/b/10.png"]),
        (["album/notes.txt"], ["album/notes.txt"]),
        (["album/n*.txt"], []),
    ],
)
def test_files_folders_and_patterns_are_expanded(album, inputs, expected):
    assert [p.as_posix() for p in expand(inputs)] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.jpg", r"no gone\.jpg"), ("gone/*.jpg", "no gone"), ("party.mp4", "facerec extract party")],
)
def test_what_is_not_there_or_a_video_is_a_usage_error(album, name, message):
    with pytest.raises(UsageError, match=message):
        list(expand([name]))


def test_a_file_name_with_brackets_is_no_pattern(album):
    save(album / "a[1].png", GROUP)
    assert [p.name for p in expand(["a[1].png"])] == ["a[1].png"]


def answers(inputs, recognizer, output=None, **options):
    seen = {}
    report = predict(
        list(expand(inputs)),
        output,
        recognizer=recognizer,
        emit=lambda name, p, e: seen.update({name: (p, e)}),
        **options,
    )
    return report, seen


def test_every_image_gets_its_answer_and_an_annotated_copy(album, recognizer):
    report, seen = answers(["album"], recognizer, album / "named")
    assert report.done == 3 and {name: names(p) for name, (p, _) in seen.items()} == {
        "album/a/1.png": {"ana"}, "album/b/1.png": {"ben"}, "album/b/10.png": {"ana", "ben", None},
    }  # fmt: skip
    copies = sorted(p.relative_to(album / "named").as_posix() for p in (album / "named").rglob("*.*"))
    assert copies == ["a/1.jpg", "b/1.jpg", "b/10.jpg"]
    assert read_image(album / "named" / "b" / "10.jpg").shape == GROUP.shape


def test_an_image_that_cannot_be_read_is_reported_and_the_others_go_on(album, recognizer):
    (album / "album" / "a" / "0.png").write_text("no picture")
    report, seen = answers(["album"], recognizer)
    assert report.done == 3 and [f.source for f in report.failed] == ["album/a/0.png"]
    assert seen["album/a/0.png"][0] == [] and "not a picture" in seen["album/a/0.png"][1]
    with pytest.raises(FacerecError, match=r"0\.png: not a picture"):
        answers(["album"], recognizer, strict=True)


@pytest.mark.parametrize(
    "inputs", [["../other/1.png", "b/1.png"], ["b/../../other/1.png", "b/1.png"]], ids=["beside", "through"]
)
def test_annotated_copies_stay_inside_the_output_folder(album, recognizer, monkeypatch, inputs):
    save(album / "other" / "1.png", GROUP)
    monkeypatch.chdir(album / "album")
    before = {p for p in album.rglob("*") if p.is_file()}
    answers(inputs, recognizer, album / "album" / "named")
    new = {p for p in album.rglob("*") if p.is_file()} - before
    assert len(new) == 2 and all((album / "album" / "named").resolve() in p.resolve().parents for p in new)


def test_an_annotated_copy_never_overwrites_its_original(album, recognizer):
    path = save(album / "album" / "c.jpg", GROUP)
    before = path.read_bytes()
    with contextlib.suppress(FacerecError):  # refusing is as right as another name
        answers(["album"], recognizer, album / "album")
    assert path.read_bytes() == before


# --- predict on videos ---------------------------------------------------------------------------


def test_appearances_are_who_was_there_from_when_to_when(in_tmp, recognizer):
    """Ana for four seconds, then nobody, then a stranger and ben."""
    ana, pair = photo(3, [COLOURS["ana"], (120, 120, 120)]), photo(3, [STRANGER, COLOURS["ben"]])
    path = video(in_tmp / "party.mp4", [ana] * 40 + [photo(3, [(120, 120, 120)] * 2)] * 20 + [pair] * 40, fps=10)
    before = path.read_bytes()
    found, cut_off = appearances(path, in_tmp / "named", recognizer=recognizer)
    assert cut_off is None and [a.name for a in found if a.name] == ["ana", "ben"]
    who = {a.name: a for a in found}
    assert (who["ana"].start, who["ben"].start, who[None].start) == pytest.approx((0, 6, 6), abs=0.11)
    assert (who["ana"].end, who["ben"].end, who[None].end) == pytest.approx((3.8, 9.8, 9.8), abs=0.21)
    assert (
        0 <= who["ana"].best <= 3.9 and "threshold 0.40" in who[None].reason and who["ana"].to_json()["reason"] is None
    )
    with Video(in_tmp / "named" / "party.mp4") as copy:
        assert copy.count == 100
    assert read_image(in_tmp / "named" / "party.faces.png").shape[1] > 3 * 160
    assert path.read_bytes() == before and {p.name for p in (in_tmp / "named").iterdir()} == {
        "party.mp4", "party.faces.png",
    }  # fmt: skip


def test_the_annotated_copy_never_overwrites_the_video(in_tmp, recognizer):
    path = film(in_tmp / "party.mp4")
    with pytest.raises(UsageError, match="the video itself"):
        appearances(path, in_tmp, recognizer=recognizer)


# --- live ----------------------------------------------------------------------------------------


def film(path, n=6):
    return video(path, [photo(3, [COLOURS["ana"]])] * n, fps=10)


def test_live_counts_frames_faces_and_names_tells_events_and_writes_the_video(in_tmp, recognizer):
    events = []
    with Video(film(in_tmp / "a.mp4", 30)) as source:
        report = live(
            ahead(source.frames()),
            Follower(recognizer, step=2),
            fps=source.fps,
            output=in_tmp / "out.mp4",
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
        report = live(stop(source.frames()), Follower(recognizer), fps=10, output=in_tmp / "out.mp4")
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
    report = live(strangers(), follower, fps=10, window=FakeWindow(keys), name=name)
    assert told == [("Eva", (90, 90, 3), 1)]
    assert report.names == {"Eva": 37}  # from the frame after on


def test_a_face_named_in_the_window_is_in_the_gallery_and_recognised_at_once(in_tmp, recognizer):
    """Together with those whom the classifier knows: the gallery is the newest list of names from now on."""
    follower = Follower(recognizer, step=1)
    sharp = [Frame(i, i / 10, scene(i)) for i in range(30)]
    keys = [None, None, "n", *"eva lind", "\r"]
    report = live(
        sharp, follower, fps=10, window=FakeWindow(keys), name=partial(enroll_track, follower, in_tmp / "gallery.npz")
    )
    gallery = load_embeddings(in_tmp / "gallery.npz")
    assert gallery.people == ["Eva Lind", "ana", "ben", "cleo"] and report.names == {"Eva Lind": 27}
    assert (in_tmp / gallery.sources[gallery.labels == "Eva Lind"][0]).is_file()
    again = Follower(follower.recognizer, step=1)
    live(sharp, again, fps=10)
    assert again.recognizer.classifier.decide(gallery.vectors[-1:])[0].name == "Eva Lind"


def test_a_blurred_face_or_a_name_that_is_none_is_not_added(in_tmp, recognizer):
    follower = Follower(recognizer, step=1)
    told = []

    def name(typed, image, track):
        told.append(enroll_track(follower, in_tmp / "gallery.npz", typed, image, track))
        return told[-1]

    window = FakeWindow([None, None, "n", "e", "\r", "n", *"a/b", "\r"])
    live(strangers(), follower, fps=10, window=window, name=name)
    assert "E is not added: too small" in told[0] and "cannot be a person's name" in told[1]
    assert not (in_tmp / "gallery.npz").exists()


def test_escape_forgets_the_name_and_letters_do_nothing_else_meanwhile(in_tmp, recognizer):
    window = FakeWindow([None, None, "n", "q", "p", "\x1b", None, "q"])
    report = live(
        strangers(), Follower(recognizer, step=1), fps=10, window=window, name=lambda *a: pytest.fail("named")
    )
    assert report.frames == 5 and not window.is_open


def test_the_space_bar_writes_a_snapshot_for_its_owner_only(in_tmp, recognizer):
    live(strangers(4), Follower(recognizer), fps=10, window=FakeWindow([None, " "]), snapshots=in_tmp / "shots")
    (shot,) = (in_tmp / "shots").iterdir()
    assert read_image(shot).shape == (90, 90, 3) and shot.stat().st_mode & 0o77 == 0


def test_pause_holds_the_picture_until_it_is_pressed_again(in_tmp, recognizer):
    window = FakeWindow([None, "p", None, None, "x", "p", None, "p", "q"])
    report = live(strangers(), Follower(recognizer), fps=10, window=window)
    assert report.frames == len(window.shown) == 4


# --- cameras -------------------------------------------------------------------------------------


class FakeCapture:
    """OpenCV's capture device: `frames` pictures, then it is unplugged; opened again it works if it is `back`."""

    opened = 0

    def __init__(self, frames, back):
        self.frames, self.back = frames, back

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
        return (self.left >= 0, photo(1, [COLOURS["ana"]])[..., ::-1])

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


def test_a_camera_that_is_unplugged_is_said_to_be_lost(camera, recognizer):
    source, said = camera(6, back=False)
    with source:
        report = live(source.frames(), Follower(recognizer), fps=10)
    assert 0 < report.frames <= 6 and source.lost and "trying to open it again" in said[0]


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


# --- pictures for people -------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(10, 10, 40, 40), (0, 0, 5, 5), (60, 60, 90, 90), (-5, -5, 200, 200)])
def test_annotations_are_drawn_on_a_copy_of_the_same_size(box):
    image = photo(1)
    before = image.copy()
    marked = annotate_predictions(image, [Prediction(Face(box, 1), "Ünal", 0.5, None, "", "Ünal")])
    assert marked.shape == image.shape and (image == before).all() and (marked != before).any()


@pytest.mark.parametrize(("n", "columns"), [(1, 8), (5, 3), (0, 3)])
def test_contact_sheets_hold_any_number_of_pictures(n, columns):
    tiles = [(np.full((40 + i, 300, 3), 200, np.uint8), "a very long name " * 4, (255, 0, 0)) for i in range(n)]
    sheet = contact_sheet(tiles, columns=columns, width=120, height=100, title="people")
    rows = -(-n // columns)
    assert sheet.shape[0] >= rows * 100 and sheet.shape[1] >= min(n, columns) * 120
