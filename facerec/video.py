"""The only code that decodes video: files through OpenCV's FFmpeg, upright, with time stamps."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from facerec.errors import ArtifactError, InputError
from facerec.paths import TEMPORARY
from facerec.types import Image

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts"}
)
CUT_OFF = 0.9
"""A video that yields less of the frames it claims is cut off (small differences are common)."""
FASTEST = 120.0  # frames a second of a copy: browsers' recordings claim 1000
LONGEST = 60.0  # seconds for which a frame is repeated: beyond, the clock has jumped
IDLE = 0.3  # seconds without a picture, after which whoever waits for one hears of it
PATIENCE, RETRY = 10.0, 0.5  # seconds until a camera that stopped is given up, and between attempts
SEEK_GAP = 300
"""Frames from which on a jump is cheaper than decoding what lies between (a seek costs about 8 frames,
but may land up to a key-frame interval, commonly 250 frames, before its aim)."""


log = logging.getLogger("facerec")


def is_video(path: Path) -> bool:
    """Whether the name is that of a video (hidden files are not)."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        index: its number.
        seconds: its time.
        image: RGB.
        arrived: when a camera delivered it (`time.perf_counter`); 0 for a file's.
    """

    index: int
    seconds: float
    image: Image
    arrived: float = 0.0


class Video:
    """A video file, read in order. Use as a context manager.

    Args:
        path: any container that OpenCV's FFmpeg reads. Phone videos come out upright.

    Raises:
        InputError: not a video; where it is read: none of its frames can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise InputError("a folder, not a video", "give a video in it")
        if not path.is_file():
            raise InputError("there is no such file", "check the path")
        try:
            name = str(path.absolute())  # FFmpeg takes what comes before a colon for a protocol
            name.encode()
        except UnicodeEncodeError:
            raise InputError("its name is not valid text", "rename it") from None
        self._capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError("not a video that can be read, or cut off", "copy or convert it again")
        self._next, self._searchable = 0, True
        self._last, self._shift = 0.0, 0.0  # time of the last frame; what is added to the file's own
        self.ended_at: int | None = None  # the first frame that was asked for and could not be decoded
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        claimed = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = claimed if claimed > 0 else self._count()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    @property
    def cut_off(self) -> str | None:
        """What to say where clearly fewer frames could be decoded than the file claims; None elsewhere."""
        if self.ended_at is None or self.ended_at >= CUT_OFF * self.count:
            return None
        if self._last >= CUT_OFF * self.count / self.fps:  # frames come as they like, and were counted by the clock
            return None
        return f"cut off: only {self.ended_at} of {self.count} frames could be read"

    def _count(self) -> int:
        """Counts the frames of a container that does not say, and goes back to the start."""
        n = 0
        while self._capture.grab():
            n += 1
        self._from_start()
        return n

    def _from_start(self) -> None:
        self._capture.release()
        self._capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
        self._next = 0

    def _jump(self, index: int) -> bool:
        """Goes to a frame, if the file has it and can be searched: OpenCV stops at the last one it finds."""
        there = self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        self._next = index
        return bool(there) and int(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) == index

    def frames(self, step: int = 1) -> Generator[Frame, None, None]:
        """Every `step`-th frame, from the first to the last that can be decoded."""
        index = 0
        while (frame := self.read(index)) is not None:
            yield frame
            index += step

    def at(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames with these numbers (ascending), as far as they can be decoded."""
        for index in indices:
            frame = self.read(index)
            if frame is None:
                return
            yield frame

    def read(self, index: int) -> Frame | None:
        """The frame with this number (not before the last one read); None after the end."""
        here = self._next
        if index - here > SEEK_GAP and self._searchable:
            if self._jump(index) and (frame := self._decoded()) is not None:
                return frame
            if not self._jump(here):
                self._searchable = False
                self._from_start()
        while self._next < index and self._capture.grab():  # one by one, to see where it ends
            self._next += 1
        if self._next < index or (frame := self._decoded()) is None:
            self.ended_at = self._next
            if self.ended_at == 0:
                raise InputError("none of its frames can be decoded", "copy or convert it again")
            return None
        return frame

    def _decoded(self) -> Frame | None:
        """The next frame, if there is one."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        ok, bgr = self._capture.read()
        if not ok:
            return None
        self._next += 1
        seconds = max(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0.0) or seconds
        if seconds + self._shift < self._last:  # recordings joined as they are: the clock starts anew with each
            self._shift = self._last + 1 / self.fps - seconds
        self._last = seconds + self._shift
        return Frame(self._next - 1, round(self._last, 3), np.ascontiguousarray(bgr[..., ::-1]))


def ahead(frames: Iterable[Frame]) -> Generator[Frame, None, None]:
    """Decodes each frame on another thread while the one before is worked on."""
    waiting = iter(frames)
    with ThreadPoolExecutor(1, "decoder") as decoder:
        following = decoder.submit(next, waiting, None)
        while (frame := following.result()) is not None:
            following = decoder.submit(next, waiting, None)
            yield frame


def realtime(frames: Iterable[Frame]) -> Generator[Frame, None, None]:
    """Frames no earlier than their time; none is left out where they cannot be kept up with."""
    start = time.perf_counter()
    for frame in frames:
        time.sleep(max(start + frame.seconds - time.perf_counter(), 0))
        yield frame


class Camera:
    """A camera, or a stream's address, of which only the newest frame is kept. Use as a context manager.

    One that stops is opened again, for `PATIENCE` seconds.

    Args:
        source: number of the camera, or an address that OpenCV opens.
        say: told what the user should know.

    Attributes:
        lost: whether it stopped and did not come back.

    Raises:
        InputError: there is no such camera, or another program holds it.
    """

    def __init__(self, source: int | str, say: Callable[[str], None] = lambda text: None) -> None:
        self.source = source
        self.lost = False
        self._say = say
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise InputError(
                "cannot be opened",
                "is it plugged in, free, and allowed? try --camera 1, or a video file",
            )
        self._news = threading.Condition()
        self._newest: Frame | None = None
        self._running = True
        self._thread = threading.Thread(target=self._capture_frames, name="camera", daemon=True)
        self._thread.start()

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self._thread.join(timeout=5)
        self._capture.release()

    def _capture_frames(self) -> None:
        start, index = time.monotonic(), 0
        while self._running:
            bgr = self._read()
            if bgr is None:
                bgr = self._reopen()
            with self._news:
                if bgr is None:
                    self._running = False
                else:
                    seconds = round(time.monotonic() - start, 3)
                    self._newest = Frame(index, seconds, np.ascontiguousarray(bgr[..., ::-1]), time.perf_counter())
                    index += 1
                self._news.notify_all()

    def _read(self) -> Any:
        """The next picture, BGR; None where there is none."""
        with contextlib.suppress(cv2.error):  # some drivers' way to say so
            ok, bgr = self._capture.read()
            return bgr if ok else None
        return None

    def _reopen(self) -> Any:
        """Tries to get a camera back that stopped, until it gives a picture; a file is at its end."""
        if isinstance(self.source, str) and Path(self.source).is_file():
            return None
        self._say(f"camera {self.source} gives no pictures any more: trying to open it again")
        deadline = time.monotonic() + PATIENCE
        while self._running and time.monotonic() < deadline:
            self._capture.release()
            self._capture = cv2.VideoCapture(self.source)
            bgr = self._read() if self._capture.isOpened() else None  # some open, and give nothing
            if bgr is not None:
                self._say(f"camera {self.source} is back")
                return bgr
            time.sleep(RETRY)
        self.lost = self._running
        return None

    def frames(self, idle: Callable[[], bool] = lambda: True) -> Generator[Frame, None, None]:
        """The newest frame each time one is asked for, never the same twice; ends when the camera does.

        Args:
            idle: called now and then while none comes; False ends it.
        """
        last = None
        while True:
            with self._news:
                if self._running and self._newest is last:
                    self._news.wait(IDLE)
                frame, running = self._newest, self._running
            if frame is not None and frame is not last:
                last = frame
                yield frame
            elif not running or not idle():
                return


class VideoWriter:
    """Writes RGB frames to an .mp4; the file appears under its name when it is complete.

    Use as a context manager, or close it when done.

    Args:
        path: ending in .mp4.
        fps: frames a second, at most `FASTEST`.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._temp = path.with_name(f"{TEMPORARY}{path.name}")
        self._fps = min(fps, FASTEST)
        self._frames = 0
        self._start: float | None = None
        self._writer: cv2.VideoWriter | None = None
        self._before: Image

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: Image, seconds: float | None = None) -> None:
        """Adds a frame.

        Args:
            image: RGB; of another size than the first, as of a camera that came back, it is stretched to that.
            seconds: its time, where frames come as they like: the one before is repeated, or this one left out, so
                that the video runs as fast as what it shows did, and in time with its sound.
        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(str(self._temp.absolute()), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, size)
            if not self._writer.isOpened():
                raise InputError(
                    f"{self.path} cannot be written", "choose an .mp4 file in a folder that you may write to"
                )
            self._before = image
        height, width = self._before.shape[:2]
        if image.shape[:2] != (height, width):  # OpenCV would drop it
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
        until = self._frames + 1
        if seconds is not None:
            self._start = seconds if self._start is None else self._start
            self._start = max(self._start, seconds - self._frames / self._fps - LONGEST)
            until = round((seconds - self._start) * self._fps) + 1
        while self._frames < until:
            self._writer.write((image if self._frames == until - 1 else self._before)[..., ::-1])
            self._frames += 1
        self._before = image

    def close(self, keep: bool = True) -> None:
        """Finishes the file.

        Raises:
            ArtifactError: not all frames could be written.
        """
        if self._writer is None:
            return
        self._writer.release()
        written = 0
        with contextlib.suppress(InputError), Video(self._temp) as video:
            written = video.count
        try:
            if keep and written >= self._frames:  # one more where Ctrl-C came before it was counted
                self._temp.replace(self.path)
                return
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be written ({error.strerror})", "choose another name") from error
        finally:
            self._temp.unlink(missing_ok=True)
        if keep:
            raise ArtifactError(
                f"{self.path}: {written} of {self._frames} frames could be written", "is the disk full?"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=kind is None)


def with_sound(silent: Path, original: Path, output: Path) -> None:
    """Copies a video and, with ffmpeg, the sound of the one that it was made from."""
    if program := shutil.which("ffmpeg"):
        with Video(silent) as video:
            seconds = video.count / video.fps
        inputs = ["-i", str(silent.absolute()), "-i", str(original.absolute())]
        for codec in ("copy", "aac"):  # an .mp4 does not take every sound
            streams = ["-map", "0:v", "-map", "1:a?", "-c:v", "copy", "-c:a", codec, "-t", f"{seconds:.3f}"]
            run = subprocess.run(
                [program, "-nostdin", "-v", "error", "-y", *inputs, *streams, str(output.absolute())],
                capture_output=True,
                text=True,
            )
            if run.returncode == 0:
                return
        log.warning("%s has no sound: ffmpeg says %s", output.name, (run.stderr.splitlines() or ["nothing"])[-1])
    shutil.copyfile(silent, output)
