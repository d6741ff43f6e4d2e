"""live: a camera or a video file, its faces tracked and named as it runs, new people learned on the spot."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facerec.desk import Desk
from facerec.draw import annotate
from facerec.follower import Follower, mark
from facerec.greet import Greeter
from facerec.tracking import Track
from facerec.video import Frame, VideoWriter

MANY = 100_000  # frames whose latencies are remembered: the newest


@dataclass
class LiveReport:
    """What was seen.

    Attributes:
        frames: distinct frames that were followed.
        seconds: they took.
        faces: detections in all of them.
        tracks: faces that were followed.
        names: frames in which each person was named.
        latencies: seconds from a frame's arrival until it was shown; of the newest `MANY` frames.
        interrupted: whether Ctrl-C ended it.
    """

    frames: int = 0
    seconds: float = 0.0
    faces: int = 0
    tracks: int = 0
    names: dict[str, int] = field(default_factory=dict)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=MANY))
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        p50, p95 = np.percentile(list(self.latencies) or [0.0], [50, 95]) * 1000
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
    desk: Desk | None = None,
    writer: VideoWriter | None = None,
    greeter: Greeter | None = None,
    event: Callable[[dict[str, Any]], None] = lambda event: None,
    refresh: Callable[[], None] = lambda: None,
) -> LiveReport:
    """Follows faces until the frames end, the window is closed, or q is pressed.

    Args:
        frames: of a camera or a file.
        follower: tracks and names faces.
        desk: shows them and does what its keys ask for.
        writer: of the annotated frames.
        greeter: told who is in view.
        event: told when a face appeared, was named, or left.
        refresh: called before each frame: whoever is known may have changed.
    """
    report = LiveReport()
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if writer:
            stack.enter_context(writer)
        if desk:
            stack.callback(desk.close)
        last = latency = 0.0
        try:
            for frame in frames:
                begun = time.perf_counter()
                arrived = frame.arrived or begun
                refresh()
                tracks = follower.follow(frame)
                followed = time.perf_counter()
                last = frame.seconds
                report.frames += 1
                _tell(event, follower, frame.seconds)
                report.tracks += len(follower.events.appeared)
                named = {track.name for track in tracks if track.name}
                for person in named:
                    report.names[person] = report.names.get(person, 0) + 1
                if greeter:
                    greeter.see(named, frame.seconds)
                if desk or writer:
                    rate = report.frames / max(time.perf_counter() - start, 1e-9)
                    status = f"{rate:.1f} frames/s   {latency * 1000:.0f} ms   h: help"
                    note = desk.text or status if desk else ""
                    picture = annotate(frame.image, [mark(track) for track in tracks], note=note)
                    if writer:
                        writer.write(picture, frame.seconds)
                    if desk:
                        desk.show(picture, frame.seconds)
                latency = time.perf_counter() - arrived
                report.latencies.append(latency)
                key = desk.key() if desk else None
                follower.worked(time.perf_counter() - followed)  # what the user asks for may take minutes
                report.seconds = time.perf_counter() - start
                if desk and not desk.press(key, frame.image, picture, tracks):
                    break
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
