"""Follows the faces of a video: detection now and then, tracks in between, recognition once a view is worth it.

The one path of live and of predict on videos.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from facerec.draw import BLUE, GREEN, ORANGE, Colour, caption
from facerec.images import crop_face, stack_crops
from facerec.quality import TO_NAME, assess
from facerec.recognizer import Found, Recognizer
from facerec.tracking import Track, Tracker
from facerec.types import Face, Image
from facerec.video import Frame

MAX_STEP = 6  # frames from one detection to the next, at most: beyond, fast faces get lost
AT_ONCE = 2  # faces that are recognised in one frame: the others' turn comes in the next
AGAIN = 0.25  # seconds until a face is looked at again, as long as nothing is settled
TRIES = 12  # recognitions from which a face that stays unknown is settled
CHECK = 1.0  # seconds until a settled face is looked at again: named, and the last look said the same, or unknown
# Two frames, AT_A_CUT seconds apart at most, are of two scenes where both are exceeded: the mean difference of pixels
# (grey levels), which a moving camera reaches too, and the share of pixels of another colour, which it does not.
CHANGED, RECOLOURED, AT_A_CUT = 20.0, 0.2, 0.25
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
        check: seconds until a settled face is looked at again: it may have become another's.

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
        self._scene: Image | None = None  # miniature of the frame before
        self._seconds = 0.0  # its time
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
        cut = self._is_cut(frame)
        ended = self.tracker.clear() if cut else []  # whoever stands in another's place now is somebody else
        due = cut or self._since == 0
        if due:
            faces = self.recognizer.detector.detect(frame.image)
            self.detections += len(faces)
            found, gone = self.tracker.update(faces, frame.seconds)
            ended += gone
            self.events.appeared += [track for track in waiting if track.confirmed]
            self._recognize(frame.image, found, frame.seconds)
        else:
            ended += self.tracker.advance(frame.seconds)
        self.events.left += [track for track in ended if track.confirmed]
        taken = time.perf_counter() - start
        if due:
            self._detecting = taken if self._detecting == 0 else 0.8 * self._detecting + 0.2 * taken
        since = 0 if due else self._since
        self._since = 0 if since + 1 >= self.step else since + 1
        return self.tracker.visible(frame.seconds)

    def worked(self, seconds: float) -> None:
        """Says what a frame takes beside detection, drawing for one, so that the step fits the machine."""
        self._between = seconds if self._between == 0 else 0.9 * self._between + 0.1 * seconds

    def finish(self) -> list[Track]:
        """Ends the tracks that still go on, at the end of a video."""
        return [track for track in self.tracker.clear() if track.confirmed]

    def _is_cut(self, frame: Frame) -> bool:
        """Whether another scene begins."""
        scene, before = cv2.resize(frame.image, (64, 64), interpolation=cv2.INTER_NEAREST).astype(np.uint8), self._scene
        passed, self._seconds, self._scene = frame.seconds - self._seconds, frame.seconds, scene
        if before is None or passed > AT_A_CUT:
            return False
        one, two = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (scene, before))
        if cv2.absdiff(one, two).mean() <= CHANGED:
            return False
        counts = [cv2.calcHist([image], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3) for image in (scene, before)]
        return float(np.abs(counts[0] - counts[1]).sum()) / 2 > RECOLOURED * scene[..., 0].size

    def _recognize(self, image: Image, found: Sequence[Track], seconds: float) -> None:
        """Looks at the faces of this frame that promise most."""
        views = []
        embedder = self.recognizer.embedder
        for track in found:
            if not track.confirmed or (track.face.size < TO_NAME.size and track.views):
                continue
            crop = crop_face(image, track.face, embedder.space.crop, embedder.input_size)
            quality = assess(track.face, crop)
            score = quality.score
            settled = track.said == track.name and (track.name is not None or track.views >= TRIES)
            asked = seconds - track.recognised >= (self._check if settled else AGAIN)
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
    text = caption(replace(track.prediction, name=track.name))
    return track.face, text, GREEN if track.name else ORANGE
