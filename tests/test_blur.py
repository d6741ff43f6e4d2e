"""blur: whose faces are hidden, for how long, and that nothing of them is left."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from conftest import COLOURS, STRANGER, FakeDetector, photo, save, video

from facerec.errors import UsageError
from facerec.images import read_image
from facerec.stages.blur import BLOCKS, How, blur_image, blur_video, filled, hide
from facerec.video import Video


class Forgetful(FakeDetector):
    """Overlooks faces in two frames of three."""

    def detect(self, image):
        faces = super().detect(image)
        return faces if self.calls % 3 == 1 else []


GROUP = photo(5, [COLOURS["ben"], STRANGER, COLOURS["ana"]])


def coloured(image, colour, slack=60):
    """Pixels of about that colour."""
    return int((np.abs(image.astype(int) - np.array(colour)).max(axis=2) < slack).sum())


@pytest.mark.parametrize("how", get_args(How))
def test_nothing_but_a_few_mean_colours_is_left_of_a_hidden_face(astronaut, how):
    box = np.array([170.0, 60, 275, 210])
    hidden = hide(astronaut, [box], how)
    assert hidden.shape == astronaut.shape and (astronaut[300:] == hidden[300:]).all()
    inside = (slice(60, 210), slice(170, 275))
    if how != "blur":
        assert len(np.unique(hidden[inside].reshape(-1, 3), axis=0)) <= (1 if how == "solid" else BLOCKS**2)
    else:
        detail, left = (
            cv2.Laplacian(cv2.cvtColor(image[inside], cv2.COLOR_RGB2GRAY), cv2.CV_32F).var()
            for image in (astronaut, hidden)
        )
        assert left < detail / 50


def test_faces_at_the_edge_and_outside_are_no_trouble():
    image = photo(1)
    boxes = [np.array([-20.0, -20, 10, 10]), np.array([85.0, 85, 130, 140]), np.array([200.0, 200, 220, 230])]
    for how in get_args(How):
        assert hide(image, boxes, how).shape == image.shape


@pytest.mark.parametrize(
    ("wanted", "hidden"),
    [
        (lambda name: True, {"ana", "ben", None}),
        (lambda name: name != "ana", {"ben", None}),
        (lambda name: name == "ana", {"ana"}),
    ],
    ids=["all", "except", "only"],
)
def test_the_right_faces_of_a_picture_are_hidden(in_tmp, recognizer, wanted, hidden):
    save(in_tmp / "group.png", GROUP)
    found = blur_image(
        in_tmp / "group.png", in_tmp / "out.png", detector=recognizer.detector, recognizer=recognizer,
        wanted=wanted, how="solid",
    )  # fmt: skip
    assert (found.faces, found.hidden) == (3, len(hidden))
    copy = read_image(in_tmp / "out.png")
    for name, colour in (("ana", COLOURS["ana"]), ("ben", COLOURS["ben"]), (None, STRANGER)):
        assert (coloured(copy, colour) < 20) == (name in hidden)


def walking(n=60):
    """Ana walks to the right; a stranger comes for a while."""
    frames = []
    for i in range(n):
        image = np.repeat(np.random.default_rng(i).integers(90, 150, (160, 400, 1)).astype(np.uint8), 3, axis=2)
        image[20:70, 20 + 4 * i : 70 + 4 * i] = COLOURS["ana"]
        if 20 <= i < 45:
            image[95:145, 330 - 3 * i : 380 - 3 * i] = STRANGER
        frames.append(image)
    return frames


def test_a_face_stays_hidden_between_its_detections_and_around_them(in_tmp):
    path = video(in_tmp / "walk.mp4", walking(), fps=20)
    found, cut_off = blur_video(
        path, in_tmp / "out" / "walk.mp4", detector=Forgetful(), recognizer=None, wanted=lambda name: True, how="solid"
    )
    assert cut_off is None and (found.faces, found.hidden) == (2, 2)
    with Video(in_tmp / "out" / "walk.mp4") as copy:
        frames = [frame.image for frame in copy.frames()]
    assert len(frames) == 60
    assert max(coloured(f, COLOURS["ana"]) for f in frames) < 30 and max(coloured(f, STRANGER) for f in frames) < 30


def test_who_is_named_late_in_a_video_is_shown_or_hidden_from_its_beginning(in_tmp, recognizer):
    path = video(in_tmp / "walk.mp4", walking(), fps=20)
    blur_video(
        path, in_tmp / "out.mp4", detector=recognizer.detector, recognizer=recognizer,
        wanted=lambda name: name != "ana", how="solid",
    )  # fmt: skip
    with Video(in_tmp / "out.mp4") as copy:
        for frame in copy.frames():
            assert coloured(frame.image, COLOURS["ana"]) > 1500 and coloured(frame.image, STRANGER) < 30


@pytest.mark.parametrize("other", [STRANGER, COLOURS["ben"]], ids=["stranger", "enrolled"])
@pytest.mark.parametrize("first", ["ana", "other"])
def test_whoever_takes_a_persons_place_is_hidden_from_the_first_frame(in_tmp, recognizer, first, other):
    ana, another = photo(3, [COLOURS["ana"]]), photo(3, [other])
    frames = [ana] * 50 + [another] * 80 + [ana] * 50
    path = video(in_tmp / "cut.mp4", frames if first == "ana" else frames[60:], fps=25)
    blur_video(
        path, in_tmp / "out.mp4", detector=recognizer.detector, recognizer=recognizer,
        wanted=lambda name: name != "ana", how="solid",
    )  # fmt: skip
    with Video(in_tmp / "out.mp4") as copy:
        shown = [frame.image for frame in copy.frames()]
    assert max(coloured(image, other) for image in shown) < 30
    assert first != "ana" or coloured(shown[0], COLOURS["ana"]) > 300


def test_half_a_second_around_a_face_is_of_the_videos_own_time(in_tmp, monkeypatch):
    """Where frames come as they like: the average rate says nothing of those around a face."""
    nobody = photo(1)
    path = video(in_tmp / "a.mp4", [nobody] * 20 + [photo(3, [COLOURS["ana"]])] * 20, fps=10)
    real = Video.frames
    monkeypatch.setattr(  # the same frames, four times as close to one another
        Video, "frames", lambda film: (replace(frame, seconds=frame.seconds / 4) for frame in real(film))
    )
    masked = []
    monkeypatch.setattr("facerec.stages.blur.hide", lambda image, boxes, how: masked.append(len(boxes)) or image)
    blur_video(
        path, in_tmp / "out.mp4", detector=FakeDetector(), recognizer=None, wanted=lambda name: True, how="solid"
    )
    assert masked == [1] * 40


def test_a_track_is_filled_in_between_and_around():
    places = [(5, np.array([0.0, 0, 10, 10])), (9, np.array([8.0, 4, 18, 14]))]
    masks = dict(filled(places, 0, 16))
    assert sorted(masks) == list(range(0, 16))
    np.testing.assert_allclose(masks[7], [4, 2, 14, 12])
    np.testing.assert_allclose(masks[0], masks[5])
    np.testing.assert_allclose(masks[15], masks[9])


def test_the_copy_never_overwrites_the_video(in_tmp):
    path = video(in_tmp / "a.mp4", walking(3))
    with pytest.raises(UsageError, match="the video itself"):
        blur_video(path, path, detector=FakeDetector(), recognizer=None, wanted=lambda name: True, how="blur")


def test_the_videos_of_a_folder_are_hidden_too(in_tmp, run, fakes):
    save(in_tmp / "in" / "x.png", GROUP)
    video(in_tmp / "in" / "v.mp4", [GROUP] * 3)
    assert run("blur", "in", "--output", "out").code == 0
    assert {p.name for p in (in_tmp / "out").iterdir()} == {"x.jpg", "v.mp4"}


@pytest.mark.usefixtures("fakes")
def test_the_command_takes_pictures_and_videos_and_reports_what_it_hid(in_tmp, run):
    save(in_tmp / "album" / "group.png", GROUP)
    (in_tmp / "album" / "bad.jpg").write_text("no picture")
    video(in_tmp / "walk.mp4", walking(10))
    result = run("blur", "album", "walk.mp4", "--json", "--how", "solid")
    rows = {Path(line["input"]).name: line for line in map(json.loads, result.out.splitlines())}
    assert result.code == 3 and "not a picture" in rows["bad.jpg"]["error"]
    assert (rows["group.png"]["faces"], rows["group.png"]["hidden"]) == (3, 3)
    assert coloured(read_image(Path(rows["group.png"]["output"])), COLOURS["ana"]) < 20
    assert Path(rows["walk.mp4"]["output"]).stat().st_mode & 0o77 == 0
    assert run("blur", "album", "--except", "nobody").code in (1, 2)
