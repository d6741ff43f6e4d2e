"""predict on a video: who appears from when to when, by the same tracks and votes as live."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facerec.artifacts import write_image
from facerec.draw import GREEN, ORANGE, annotate, contact_sheet
from facerec.errors import UsageError
from facerec.follower import Follower, mark
from facerec.recognizer import Recognizer
from facerec.stages.common import copy_of
from facerec.tracking import Track
from facerec.types import Image, Progress, no_progress
from facerec.video import Frame, Video, ahead

STEP = 2  # frames from one detection to the next


@dataclass(frozen=True)
class Appearance:
    """One face from when it came to when it went.

    Attributes:
        track: its number in the video.
        name: the person, or None for unknown.
        start: seconds, when it was first detected.
        end: seconds, when it was last detected.
        best: seconds of its best view; None where nobody looked (too small, too short).
        distance: of the recognition that speaks best for the answer; None likewise.
        probability: likewise, where the classifier has one.
        reason: why the face is unknown; empty otherwise.
    """

    track: int
    name: str | None
    start: float
    end: float
    best: float | None
    distance: float | None
    probability: float | None
    reason: str

    @classmethod
    def of(cls, track: Track) -> Appearance:
        shown = track.prediction
        reason = "" if track.name else "not seen well enough" if shown is None or shown.name else shown.reason
        return cls(
            track.number,
            track.name,
            round(track.first, 3),
            round(track.last, 3),
            None if track.seen is None else round(track.seen, 3),
            None if shown is None else round(shown.distance, 4),
            None if shown is None or shown.probability is None else round(shown.probability, 4),
            reason,
        )

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "reason": self.reason or None}


def appearances(
    path: Path, copy: Path | None, *, recognizer: Recognizer, progress: Progress = no_progress
) -> tuple[list[Appearance], str | None]:
    """Follows the faces of a video.

    Args:
        path: the video.
        copy: the .mp4 to write, with boxes and names (and the sound, where ffmpeg is installed), and beside it
            ``NAME.faces.png`` with each track's best view; or None.
        recognizer: names faces.
        progress: shows how far it is.

    Returns:
        Appearances by start, and what to say where the video is cut off.

    Raises:
        InputError: the video cannot be read.
        UsageError: the annotated copy would overwrite it.
        ArtifactError: the output cannot be written.
    """
    if copy is not None and copy.resolve() == path.resolve():
        raise UsageError(f"{copy} is the video itself", "choose another --output")
    follower = Follower(recognizer, STEP)
    tracks: list[Track] = []
    with ExitStack() as stack:
        video = stack.enter_context(Video(path))
        frames: Iterable[Frame] = stack.enter_context(closing(ahead(video.frames())))
        writer = None if copy is None else stack.enter_context(copy_of(path, copy, video.fps))
        for frame in progress(frames, video.count, path.name):
            shown = follower.follow(frame)
            tracks += follower.events.left
            if writer is not None:
                writer.write(annotate(frame.image, [mark(track) for track in shown]), frame.seconds)
        tracks += follower.finish()
    if copy is not None:
        write_image(copy.with_suffix(".faces.png"), _best_views(tracks))
    return sorted(map(Appearance.of, tracks), key=lambda a: (a.start, a.track)), video.cut_off


def _best_views(tracks: list[Track]) -> Image:
    """A contact sheet of each track's best view, in order of appearance."""
    tiles = [
        (
            track.view,
            f"{track.name or 'unknown'} {track.first:.1f} – {track.last:.1f} s",
            GREEN if track.name else ORANGE,
        )
        for track in sorted(tracks, key=lambda track: track.first)
        if track.view is not None
    ]
    return contact_sheet(tiles, title="best view of each face")
