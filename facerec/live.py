"""live: a camera or a video file, its faces tracked and named as it runs, new people learned on the spot."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facerec.artifacts import write_image
from facerec.draw import BLUE, annotate
from facerec.follower import Follower, mark
from facerec.tracking import Track
from facerec.types import Image
from facerec.video import Frame, VideoWriter
from facerec.window import Window

HELP = "q quit   p pause   space snapshot   n name the largest unknown face   h this help"
ENTER, ESCAPE, BACKSPACE = "\r\n", "\x1b", "\b\x7f"

Name = Callable[[str, Image, Track], str]
"""Enrols a track's face under a name; returns what to tell the user."""


@dataclass
class LiveReport:
    """What was seen.

    Attributes:
        frames: distinct frames that were followed.
        seconds: they took.
        faces: detections in all of them.
        tracks: faces that were followed.
        names: frames in which each person was named.
        latencies: seconds from a frame's arrival until it was shown.
        interrupted: whether Ctrl-C ended it.
    """

    frames: int = 0
    seconds: float = 0.0
    faces: int = 0
    tracks: int = 0
    names: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        p50, p95 = np.percentile(self.latencies or [0.0], [50, 95]) * 1000
        return {
            "event": "summary",
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "unique_fps": round(self.frames / max(self.seconds, 1e-9), 2),
            "latency_ms": {"p50": round(float(p50), 1), "p95": round(float(p95), 1)},
            "faces": self.faces,
            "tracks": self.tracks,
            "names": self.names,
        }


def live(
    frames: Iterable[Frame],
    follower: Follower,
    *,
    fps: float,
    window: Window | None = None,
    output: Path | None = None,
    event: Callable[[dict[str, Any]], None] = lambda event: None,
    name: Name | None = None,
    snapshots: Path = Path("snapshots"),
) -> LiveReport:
    """Follows faces until the frames end, the window is closed, or q is pressed.

    Args:
        frames: of a camera or a file.
        follower: tracks and names faces.
        fps: of the output.
        window: shows them and takes keys (see `HELP`).
        output: an .mp4 of the annotated frames.
        event: told when a face appeared, was named, or left.
        name: enrols a face that the user has typed a name for; None where that cannot be.
        snapshots: where the space bar puts pictures.
    """
    report = LiveReport()
    start = time.perf_counter()
    desk = Desk(name, snapshots)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(output, fps)) if output else None
        if window:
            stack.callback(window.close)
        last = 0.0
        try:
            for frame in frames:
                begun = time.perf_counter()
                arrived = frame.arrived or begun
                tracks = follower.follow(frame)
                followed = time.perf_counter()
                last = frame.seconds
                report.frames += 1
                _tell(event, follower, frame.seconds)
                report.tracks += len(follower.events.appeared)
                for person in {track.name for track in tracks if track.name}:
                    report.names[person] = report.names.get(person, 0) + 1
                if window or writer:
                    rate = report.frames / max(time.perf_counter() - start, 1e-9)
                    status = f"{rate:.1f} frames/s   {(followed - begun) * 1000:.0f} ms   h: help"
                    picture = annotate(frame.image, [mark(track) for track in tracks], note=desk.text or status)
                    if writer:
                        writer.write(picture)
                    if window:
                        window.show(picture)
                report.latencies.append(time.perf_counter() - arrived)
                if window and not desk.keys(window, frame.image, picture, tracks):
                    break
                follower.worked(time.perf_counter() - followed)
                report.seconds = time.perf_counter() - start
        except KeyboardInterrupt:  # ends it as q does: files are closed properly
            report.interrupted = True
        report.faces = follower.detections
        for track in follower.finish():
            event(told("left", track, last))
    return report


def _tell(event: Callable[[dict[str, Any]], None], follower: Follower, seconds: float) -> None:
    happened = follower.events
    for kind, tracks in (("appeared", happened.appeared), ("named", happened.named), ("left", happened.left)):
        for track in tracks:
            event(told(kind, track, seconds))


def told(kind: str, track: Track, seconds: float) -> dict[str, Any]:
    """An event as a line of JSON."""
    x1, y1, x2, y2 = track.face.box
    shown = track.prediction
    return {
        "event": kind,
        "time": round(seconds, 3),
        "track": track.number,
        "name": track.name,
        "distance": None if shown is None else round(shown.distance, 4),
        "probability": None if shown is None or shown.probability is None else round(shown.probability, 4),
        "box": [round(v, 1) for v in (x1, y1, x2 - x1, y2 - y1)],
        "since": round(track.first, 3),
    }


class Desk:
    """The keys of the window.

    Attributes:
        text: to show instead of the frame rate; empty for nothing.
    """

    def __init__(self, name: Name | None, snapshots: Path) -> None:
        self._name, self._snapshots = name, snapshots
        self.text = ""

    def keys(self, window: Window, image: Image, picture: Image, tracks: list[Track]) -> bool:
        """Does what the key that was pressed asks for; False ends the run."""
        key = window.key(1)
        if not window.is_open or key == "q":
            return False
        if key == "h":
            self.text = "" if self.text == HELP else HELP
        elif key == " ":
            path = self._snapshots / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{time.time_ns() % 10**9:09d}.jpg"
            write_image(path, picture)
            self.text = f"{path} is written"
        elif key == "n":
            self._add(window, image, tracks)
        elif key == "p":
            while window.is_open and (key := window.key(50)) != "p":
                if key == "q":
                    return False
        return True

    def _add(self, window: Window, image: Image, tracks: list[Track]) -> None:
        """Asks for the name of the largest unknown face; the picture stands still meanwhile."""
        unknown = [track for track in tracks if track.name is None]
        if self._name is None or not unknown:
            self.text = "nobody unknown in view" if self._name else "names cannot be added here"
            return
        track = max(unknown, key=lambda track: track.face.size)
        typed: str | None = ""
        while window.is_open and typed is not None:
            question = f"name: {typed}_   (Enter: add, Esc: forget)"
            window.show(annotate(image, [(track.face, typed or "?", BLUE)], note=question))
            key = window.key(50)
            if key is None:
                continue
            if key in ENTER and typed.strip():
                self.text, typed = self._name(typed.strip(), image, track), None
            elif key == ESCAPE:
                self.text, typed = "", None
            elif key in BACKSPACE:
                typed = typed[:-1]
            elif key.isprintable():
                typed += key
