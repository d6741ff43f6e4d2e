"""Videos: order, time stamps, jumps, damage, phones held upright; cameras; writing."""

import os
import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import number_of, numbered, until, video

from facerec.errors import ArtifactError, InputError
from facerec.video import SEEK_GAP, Camera, Video, VideoWriter, is_video, with_sound

LONG = SEEK_GAP + 60


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    return video(tmp_path_factory.mktemp("v") / "long.mp4", map(numbered, range(LONG)), fps=25)


def test_frames_come_in_order_with_their_times(long_video):
    with Video(long_video) as film:
        frames = list(film.frames())
        assert film.count == LONG and film.fps == pytest.approx(25) and film.ended_at == LONG
    assert [f.index for f in frames] == [number_of(f.image) for f in frames] == list(range(LONG))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(LONG) / 25, atol=0.002)


@pytest.mark.parametrize("indices", [[0, 1, 5], [3, SEEK_GAP + 40], [SEEK_GAP + 7, SEEK_GAP + 8], [LONG - 1]])
def test_a_jump_gives_the_frame_and_time_of_sequential_reading(long_video, indices):
    with Video(long_video) as film:
        frames = list(film.at(indices))
    assert [number_of(f.image) for f in frames] == [f.index for f in frames] == indices
    np.testing.assert_allclose([f.seconds for f in frames], np.array(indices) / 25, atol=0.002)


def test_time_goes_on_where_recordings_were_joined_as_they_are(tmp_path):
    """As `cat a.ts b.ts` does: the file's own clock starts anew in the middle."""
    part = tmp_path / "part.ts"
    writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25, (96, 64))
    for _ in range(20):
        writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    with Video(joined) as film:
        seconds = [frame.seconds for frame in film.frames()]
    assert len(seconds) == 40 and seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(39 / 25, abs=0.05)


def encoded(path, frames, codec="mpeg4", **options):
    """A film of FFmpeg's, whose container takes options."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = numbered(0).shape[:2]
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(numbered(i)), "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_jump_behind_the_last_frame_that_is_there_ends_the_video(tmp_path):
    """OpenCV stops at that frame, and would give it as the one that was asked for."""
    path = encoded(
        tmp_path / "cut.mp4", 3 * SEEK_GAP, "libx264", movflags="faststart"
    )  # its index comes first, and is whole
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with Video(path) as film:
        there = [(f.index, number_of(f.image)) for f in film.frames(step=SEEK_GAP + 9)]
        assert there == [(0, 0), (SEEK_GAP + 9, SEEK_GAP + 9)]
        assert film.ended_at < 3 * SEEK_GAP * 0.8 and "cut off" in film.cut_off


def test_a_video_without_one_whole_frame_is_an_input_error(tmp_path):
    path = encoded(tmp_path / "head.mp4", 30, movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    with Video(path) as film, pytest.raises(InputError, match="none of its frames"):
        list(film.frames())


def test_every_nth_frame(long_video):
    with Video(long_video) as film:
        assert [number_of(f.image) for f in film.frames(step=100)] == list(range(0, LONG, 100))


def test_reading_ends_where_the_video_ends(long_video):
    with Video(long_video) as film:
        assert [f.index for f in film.at([LONG - 1, LONG, LONG + 1])] == [LONG - 1]
        assert film.ended_at == LONG


def test_colours_come_as_rgb(tmp_path):
    red = np.full((64, 96, 3), (220, 30, 30), np.uint8)
    with Video(video(tmp_path / "red.mp4", [red] * 3)) as film:
        assert np.abs(film.read(0).image.astype(int) - red).max() < 20


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "Ünal 李.mp4"])
def test_other_containers_and_names(tmp_path, name):
    codec = "MJPG" if name.endswith("avi") else "mp4v"
    with Video(video(tmp_path / name, map(numbered, range(12)), codec=codec)) as film:
        assert [number_of(f.image) for f in film.frames()] == list(range(12))


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))],
    ids=["90", "180", "270"],
)
def test_a_phone_video_comes_upright(tmp_path, matrix, corner):
    frame = np.full((64, 96, 3), 60, np.uint8)
    frame[:24, :24] = 250  # upper left as stored; the rotation in the header moves it
    path = video(tmp_path / "phone.mp4", [frame] * 5)
    data = bytearray(path.read_bytes())
    a, b, c, d = (v * 0x10000 for v in matrix)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    with Video(path) as film:
        image = film.read(0).image
    assert image.shape == ((64, 96, 3) if matrix[0] else (96, 64, 3))
    bright = {(y, x) for y in (0, -1) for x in (0, -1) if image[y, x].mean() > 180}
    assert bright == {corner}


def test_a_truncated_video_gives_what_it_holds(tmp_path):
    path = video(tmp_path / "cut.avi", map(numbered, range(40)), codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Video(path) as film:
        seen = [number_of(f.image) for f in film.frames()]
        assert film.ended_at == len(seen)
    assert seen == list(range(len(seen))) and 10 < len(seen) < 30


def test_a_long_truncated_video_is_seen_to_be_cut_off_where_it_is_jumped_through(tmp_path):
    path = video(tmp_path / "cut.avi", (numbered(i % 100) for i in range(4000)), codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Video(path) as film:
        seen = [f.index for start in range(0, film.count, 1000) for f in film.at([start, start + 600])]
        assert film.count == 4000 and film.cut_off
        assert max(seen) < film.ended_at < 2200


@pytest.mark.parametrize("content", [b"", b"a text by the name of a video", None], ids=["empty", "text", "missing"])
def test_what_is_no_video_is_an_input_error(tmp_path, content):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="not a video" if path.exists() else "no such file"):
        Video(path)


def test_an_mp4_cut_off_before_its_index_is_an_input_error(tmp_path):
    path = video(tmp_path / "bad.mp4", map(numbered, range(40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cut off"):
        Video(path)


@pytest.mark.parametrize(("name", "expected"), [("a.MP4", True), ("a.mov", True), (".a.mp4", False), ("a.jpg", False)])
def test_is_video_goes_by_the_name(tmp_path, name, expected):
    assert is_video(tmp_path / name) is expected


def test_a_camera_gives_each_frame_once_and_ends_with_its_source(long_video):
    with Camera(str(long_video)) as camera:
        seen = [f.index for f in camera.frames()]
    assert seen == sorted(set(seen)) and 0 < len(seen) <= LONG and seen[-1] < LONG


def test_a_missing_camera_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot be opened — .*plugged in"):
        Camera(str(tmp_path / "no-such-stream"))


def test_whoever_waits_for_a_camera_hears_that_nothing_comes_and_may_stop_waiting(monkeypatch):
    over = threading.Event()

    class Stalled:
        def __init__(self, source):
            self.left = 3

        def isOpened(self):  # noqa: N802
            return True

        def read(self):
            self.left -= 1
            if self.left < 0:
                over.wait()
            return True, np.zeros((8, 8, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Stalled)
    heard = []

    def idle():
        heard.append(1)
        return len(heard) < 3

    with Camera(0) as camera:
        assert 1 <= len(list(camera.frames(idle))) <= 3 and len(heard) == 3
        over.set()


def test_a_written_video_reads_back(tmp_path):
    with VideoWriter(tmp_path / "new" / "out.mp4", 12) as writer:
        for i in range(6):
            writer.write(numbered(i))
        assert not writer.path.exists()
    with Video(writer.path) as film:
        assert film.fps == pytest.approx(12) and [number_of(f.image) for f in film.frames()] == list(range(6))
    assert [p.name for p in writer.path.parent.iterdir()] == ["out.mp4"]


def test_a_frame_of_another_size_is_no_reason_to_lose_the_others(tmp_path):
    """A camera that was unplugged may come back with another resolution."""
    with VideoWriter(tmp_path / "out.mp4", 12) as writer:
        for i in range(6):
            frame = numbered(i)
            writer.write(cv2.resize(frame, (frame.shape[1] * 2, frame.shape[0] * 2)) if i > 2 else frame)
    with Video(writer.path) as film:
        assert [number_of(f.image) for f in film.frames()] == list(range(6))


@pytest.mark.parametrize(("source", "opened"), [("/dev/video0", 2), (0, 2), ("film", 1)])
def test_a_camera_that_stops_is_opened_again_whatever_it_is_called(tmp_path, monkeypatch, source, opened):
    calls = []

    class Capture:
        def __init__(self, source):
            calls.append(source)
            self.left = 3

        def isOpened(self):  # noqa: N802
            return True

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((8, 8, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    if source == "film":
        source = str(tmp_path / "film.mp4")
        Path(source).touch()
    with Camera(source) as camera:
        until(lambda: len(calls) >= opened and (opened > 1 or not camera._running))
    assert opened > 1 or len(calls) == 1


@pytest.mark.parametrize(("fails", "said"), [(1, ""), (2, "has no sound: ffmpeg says")])
def test_a_sound_that_an_mp4_does_not_take_is_converted_or_its_loss_is_said(tmp_path, monkeypatch, caplog, fails, said):
    """ffmpeg is not everywhere: one that refuses to copy stands in for it."""
    tool = tmp_path / "ffmpeg"
    tool.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/calls\n"
        f'[ "$(wc -l < {tmp_path}/calls)" -gt {fails} ] || {{ echo no >&2; exit 1; }}\n'
        'for last; do :; done\nprintf "%s " "$@" > "$last"\n'
    )
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    silent = video(tmp_path / "a.mp4", [numbered(1)])
    with_sound(silent, silent, tmp_path / "out.mp4")
    assert said in caplog.text and bool(said) == bool(caplog.text)
    if said:
        assert (tmp_path / "out.mp4").read_bytes() == silent.read_bytes()
    else:
        assert "-c:a aac" in (tmp_path / "out.mp4").read_text()


def test_a_video_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), VideoWriter(path, 12) as writer:
        writer.write(numbered(0))
        raise RuntimeError
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_frame_that_ctrl_c_left_uncounted_is_no_full_disk(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4", 12)
    for i in range(6):
        writer.write(numbered(i))
    writer._frames -= 1
    writer.close()
    with Video(writer.path) as film:
        assert film.count == 6


def test_a_folder_is_no_place_for_a_video_and_nothing_is_left(tmp_path):
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(ArtifactError, match="cannot be written"), VideoWriter(tmp_path / "out.mp4", 12) as writer:
        writer.write(numbered(0))
    assert [p.name for p in tmp_path.rglob("*")] == ["out.mp4"]


def test_a_colon_in_a_name_is_no_protocol(in_tmp):
    with VideoWriter(Path("12:30.mp4"), 12) as writer:
        writer.write(numbered(3))
    with Video(Path("12:30.mp4")) as film:
        assert [number_of(f.image) for f in film.frames()] == [3]


def test_frames_that_come_as_they_like_are_not_cut_off(tmp_path):
    """Matroska does not say how many there are: OpenCV multiplies."""
    times = [*np.arange(30) / 30, *(1 + np.arange(20) / 4)]
    path = irregular(tmp_path / "screen.mkv", times)
    with Video(path) as film:
        assert len(list(film.frames())) == 50 and film.count > 100 and film.cut_off is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Video(path) as film:
        assert len(list(film.frames())) < 45 and "cut off" in film.cut_off


def test_writing_nothing_writes_no_file(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 12):
        pass
    assert not list(tmp_path.iterdir())


def irregular(path, times):
    """A video whose frames come at these seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width = numbered(0).shape[:2]
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for i, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(numbered(i)), "rgb24")
            frame.pts, frame.time_base = round(seconds * 600), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_copy_of_a_video_whose_frames_come_as_they_like_shows_each_when_it_came(tmp_path):
    times = [*np.arange(30) / 30, *(1 + np.arange(20) / 10), 4.0, 4.1]  # a second of 30, two of 10, nothing, two more
    path = irregular(tmp_path / "phone.mp4", times)
    with Video(path) as film, VideoWriter(tmp_path / "copy.mp4", film.fps) as writer:
        for frame in film.frames():
            assert frame.seconds == pytest.approx(times[frame.index], abs=2e-3)
            writer.write(frame.image, frame.seconds)
    with Video(writer.path) as copy:
        for frame in copy.frames():
            shown, half = number_of(frame.image), 0.5 / copy.fps + 0.002
            assert times[shown] <= frame.seconds + half and frame.seconds - half < [*times, np.inf][shown + 1]


def test_a_recording_that_claims_a_thousand_frames_a_second_is_copied_at_its_own_pace(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 1000) as writer:
        for i in range(11):
            writer.write(numbered(i), i / 30)
    with Video(writer.path) as film:
        assert film.fps == pytest.approx(120) and film.count == 41


def test_a_clock_that_jumps_by_hours_makes_no_hours_of_video(tmp_path, monkeypatch):
    monkeypatch.setattr("facerec.video.LONGEST", 2.0)
    with VideoWriter(tmp_path / "out.mp4", 10) as writer:
        for i, seconds in enumerate([0.0, 0.1, 0.2, 9000.0, 9000.1, 9000.2]):
            writer.write(numbered(i), seconds)
    with Video(writer.path) as film:
        assert [number_of(f.image) for f in film.frames()] == [0, 1, *[2] * 21, 3, 4, 5]
