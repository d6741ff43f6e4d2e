"""live: a camera or a video file, faces named as it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from facerec.draw import annotate_predictions, note
from facerec.recognizer import Recognizer
from facerec.types import Prediction
from facerec.video import Frame, VideoWriter
from facerec.window import Window


@dataclass
class LiveReport:
    """What was seen.

    Attributes:
        frames: distinct frames that were recognised.
        seconds: they took.
        faces: over all frames.
        names: frames in which each person was named.
        interrupted: whether Ctrl-C ended it.
    """

    frames: int
    seconds: float
    faces: int
    names: dict[str, int]
    interrupted: bool = False


def live(
    frames: Iterable[Frame],
    recognizer: Recognizer,
    *,
    fps: float,
    window: Window | None = None,
    output: Path | None = None,
    seen: Callable[[Frame, list[Prediction]], None] = lambda frame, predictions: None,
) -> LiveReport:
    """Names faces frame by frame until the frames end, the window is closed, or q is pressed.

    Args:
        frames: of a camera or a file.
        recognizer: names faces.
        fps: of the output.
        window: shows them; q quits.
        output: an .mp4 of the annotated frames.
        seen: called for each frame.
    """
    report = LiveReport(0, 0.0, 0, {})
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(output, fps)) if output else None
        if window:
            stack.callback(window.close)
        try:
            for frame in frames:
                predictions = recognizer.recognize(frame.image)
                report.frames += 1
                report.seconds = time.perf_counter() - start
                report.faces += len(predictions)
                for name in {p.name for p in predictions if p.name}:
                    report.names[name] = report.names.get(name, 0) + 1
                seen(frame, predictions)
                if not (window or writer):
                    continue
                picture = annotate_predictions(frame.image, predictions)
                picture = note(picture, f"{report.frames / report.seconds:.1f} frames/s   q: quit")
                if writer:
                    writer.write(picture)
                if window:
                    window.show(picture)
                    if window.key(1) == "q" or not window.is_open:
                        break
        except KeyboardInterrupt:  # ends it as q does: files are closed properly
            report.interrupted = True
    return report
