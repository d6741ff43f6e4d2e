"""Follows the faces of a video: detection now and then, tracks in between, recognition once a view is worth it.

The one path of live and of predict on videos.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from facerec.draw import BLUE, GREEN, ORANGE, Colour
from facerec.images import crop_face, stack_crops
from facerec.quality import TO_NAME, assess
from facerec.recognizer import Found, Recognizer
from facerec.tracking import Track, Tracker
from facerec.types import Face, Image
from facerec.video import Frame

MAX_STEP = 6  # frames from one detection to the next, at most: beyond, fast faces get lost
AT_ONCE = 2  # faces that are recognised in one frame: the others' turn comes in the next
AGAIN = 0.25  # seconds until an unnamed face is looked at again
TRIES = 12  # recognitions of a face that stays unknown, before it is let be until a better view comes
CHECK = 1.0  # seconds until a named face is looked at again, as long as the last look said the same
BETTER = 1.3  # times the best view's quality that makes a view worth another look


@dataclass
class Events:
    """What happened in a frame: tracks that were shown for the first time, named, and gone."""

    appeared: list[Track] = field(default_factory=list)
    named: list[Track] = field(default_factory=list)
    left: list[Track] = field(default_factory=list)


class Follower:
    """Tracks and names faces, frame by frame.

    Args:
        recognizer: detects and names.
        step: frames from one detection to the next; None lets it find out what the machine can do.
        rate: frames a second that are to be kept up with, where `step` is None.
        check: seconds until a named face is looked at again: it may have become another's.

    Attributes:
        detections: faces that were detected in all frames so far.
        events: of the last frame.
    """

    def __init__(
        self, recognizer: Recognizer, step: int | None = None, rate: float = 25.0, check: float = CHECK
    ) -> None:
        self.recognizer = recognizer
        self.tracker = Tracker()
        self.detections = 0
        self.events = Events()
        self._fixed, self._rate, self._check = step, rate, check
        self._since = 0  # frames since the last detection
        self._detecting = self._between = 0.0  # seconds of a frame with and one without detection

    @property
    def step(self) -> int:
        """Frames from one detection to the next."""
        if self._fixed is not None:
            return self._fixed
        spare = 1 / self._rate - self._between
        if spare <= 0:
            return MAX_STEP
        return min(max(math.ceil((self._detecting - self._between) / spare), 1), MAX_STEP)

    def follow(self, frame: Frame) -> list[Track]:
        """The tracks to show on this frame."""
        start = time.perf_counter()
        self.events = Events()
        waiting = [track for track in self.tracker.tracks if not track.confirmed]
        due = self._since == 0
        if due:
            faces = self.recognizer.detector.detect(frame.image)
            self.detections += len(faces)
            found, ended = self.tracker.update(faces, frame.seconds)
            self.events.appeared += [track for track in waiting if track.confirmed]
            self._recognize(frame.image, found, frame.seconds)
        else:
            ended = self.tracker.advance(frame.seconds)
        self.events.left += [track for track in ended if track.confirmed]
        taken = time.perf_counter() - start
        if due:
            self._detecting = taken if self._detecting == 0 else 0.8 * self._detecting + 0.2 * taken
        self._since = 0 if self._since + 1 >= self.step else self._since + 1
        return self.tracker.visible(frame.seconds)

    def worked(self, seconds: float) -> None:
        """Says what a frame takes beside detection, drawing for one, so that the step fits the machine."""
        self._between = seconds if self._between == 0 else 0.9 * self._between + 0.1 * seconds

    def finish(self) -> list[Track]:
        """Ends the tracks that still go on, at the end of a video."""
        tracks, self.tracker.tracks = self.tracker.tracks, []
        return [track for track in tracks if track.confirmed]

    def _recognize(self, image: Image, found: Sequence[Track], seconds: float) -> None:
        """Looks at the faces of this frame that promise most."""
        views = []
        embedder = self.recognizer.embedder
        for track in found:
            waited = seconds - track.recognised
            if track.name:
                asked = waited >= (self._check if track.said == track.name else AGAIN)
            else:
                asked = track.views < TRIES and waited >= AGAIN
            if not track.confirmed or (track.face.size < TO_NAME.size and track.views):
                continue
            crop = crop_face(image, track.face, embedder.space.crop, embedder.input_size)
            quality = assess(track.face, crop)
            score = quality.score
            if track.views == 0 or (not quality.problems(TO_NAME) and (asked or score > BETTER * track.best)):
                views.append((track.views > 0, track.name is not None, -score, track, crop))
            if track.view is None or score > track.shown:
                track.view, track.shown, track.seen = crop, score, seconds
        chosen = sorted(views, key=lambda view: view[:3])[:AT_ONCE]
        if not chosen:
            return
        crops = stack_crops([crop for *_, crop in chosen], embedder.input_size)
        faces = [track.face for *_, track, _ in chosen]
        predictions = self.recognizer.decide(Found(faces, crops, embedder.embed(crops)))
        for (*_, score, track, _), prediction in zip(chosen, predictions, strict=True):
            before = track.name
            if not track.vote(prediction, -score, seconds):
                self.tracker.end(track)
                self.events.left.append(track)
                track = self.tracker.begin(track.face, seconds)
                track.hits = 2
                track.vote(prediction, -score, seconds)
                self.events.appeared.append(track)
            if track.name != before and track.name is not None:
                self.events.named.append(track)


def mark(track: Track) -> tuple[Face, str, Colour]:
    """How a track is drawn: green with its name, orange where unknown, blue while nobody has looked yet."""
    if track.prediction is None:
        return track.face, "", BLUE
    caption = f"{track.name or 'unknown'} {track.prediction.distance:.2f}"
    return track.face, caption, GREEN if track.name else ORANGE
