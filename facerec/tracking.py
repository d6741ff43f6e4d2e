"""Tracks: which faces of one frame are those of the frames before, and what is known of each by now.

Detections are matched to where each face's motion takes it, by the overlap of boxes that are widened on every
side, so that small and fast faces still meet: Yang et al., "Hard to Track Objects with Irregular Motions and
Similar Appearances? Make It Easier by Buffering the Matching Space", WACV 2023. Faces that are hidden for a
moment keep their track.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from facerec.types import Face, Image, Prediction

BUFFER = 0.4  # of a box's sides, added on each
OVERLAP = 0.2  # of widened boxes (intersection over union), from which they may be one face
PATIENCE = 1.0  # seconds for which a face that is not found keeps its track; two detections at least
VISIBLE = 0.4  # seconds for which it is still shown, where its motion takes it; until the next detection at least
CONFIRMED = 2  # detections from which a track is shown: what is seen once may be no face
SMOOTH = 0.5  # share of the newest motion
EVIDENCE = 0.3  # weight of votes from which a name is given: one good view, or several poor ones
SHARE = 2 / 3  # of all votes, that a name needs
POOR = 0.1  # the least weight of a vote: with four such a name is given
FADE = 0.8  # of its weight that a vote keeps at the next one


@dataclass(eq=False)
class Track:
    """One face through time.

    Attributes:
        number: from 1, in order of appearance.
        face: where it is now: detected, or moved on from there.
        first: seconds, when it was first seen.
        last: seconds, when it was last detected.
        hits: detections.
        velocity: (4,) of the box, pixels a second.
        name: once given, it stays; None while there is too little evidence.
        told: a person gave the name: only another name ends it.
        prediction: the recognition that speaks best for what is shown.
        votes: name, or None for unknown → weight.
        said: the last recognition's answer.
        views: recognitions.
        best: quality of the best view that was recognised, 0..1.
        recognised: seconds, when it was last recognised.
        view: crop of the best view so far; None before one is looked at.
        shown: its quality, 0..1.
        seen: seconds, when that was.
    """

    number: int
    face: Face
    first: float
    last: float
    hits: int = 1
    velocity: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))
    name: str | None = None
    told: bool = False
    prediction: Prediction | None = None
    votes: Counter[str | None] = field(default_factory=Counter)
    said: str | None = None
    views: int = 0
    best: float = 0.0
    recognised: float = -np.inf
    view: Image | None = None
    shown: float = 0.0
    seen: float | None = None

    def __post_init__(self) -> None:
        self._detected = self.face

    @property
    def confirmed(self) -> bool:
        """Whether it was seen often enough to be shown."""
        return self.hits >= CONFIRMED

    def at(self, seconds: float) -> Face:
        """The face where its motion takes it."""
        return moved(self._detected, self.velocity * (seconds - self.last))

    def found(self, face: Face, seconds: float) -> None:
        """Takes a detection over."""
        passed = seconds - self.last
        if passed > 0:
            motion = (np.array(face.box) - np.array(self._detected.box)) / passed
            share = 1.0 if self.hits == 1 else SMOOTH
            self.velocity = share * motion + (1 - share) * self.velocity
        self.face = self._detected = face
        self.last = seconds
        self.hits += 1

    def vote(self, prediction: Prediction, quality: float, seconds: float) -> bool:
        """Takes a recognition over; a good view weighs more.

        Returns:
            False where the votes have come to give another name than the one that was given, or none: what is
            tracked is no longer the same person.
        """
        weight = max(quality, POOR) * prediction.face.confidence
        for name in self.votes:
            self.votes[name] *= FADE  # type: ignore[assignment]
        self.votes[prediction.name] += weight  # type: ignore[assignment]
        self.views, self.recognised, self.best = self.views + 1, seconds, max(self.best, quality)
        self.said = prediction.name
        leader, most = self.votes.most_common(1)[0]
        decided = most >= EVIDENCE and most >= SHARE * sum(self.votes.values())
        if self.name is None and decided:
            self.name = leader
        shown = self.prediction
        agrees = prediction.name == self.name
        if shown is None or (agrees and (shown.name != self.name or prediction.distance < shown.distance)):
            self.prediction = prediction
        return not decided or leader == self.name or (leader is None and self.told)

    def rename(self, name: str) -> None:
        """Takes a person's word for who it is."""
        self.name, self.said, self.told = name, name, True
        self.votes = Counter({name: 1.0})
        if self.prediction is not None:
            self.prediction = replace(self.prediction, name=name, distance=0.0, reason="", candidate=name)

    def forget(self) -> None:
        """Drops the name and all votes: the people that are known have changed."""
        self.name, self.told, self.prediction, self.votes = None, False, None, Counter()
        self.views, self.best, self.recognised = 0, 0.0, -np.inf


def moved(face: Face, by: npt.NDArray[np.float64]) -> Face:
    """A face whose box is moved by (4,) pixels, its keypoints with its middle."""
    box = np.array(face.box) + by
    box[2:] = np.maximum(box[2:], box[:2] + 1)
    points = None if face.keypoints is None else face.keypoints + (by[:2] + by[2:]) / 2
    return replace(face, box=tuple(box.tolist()), keypoints=points)


def overlaps(a: Sequence[Face], b: Sequence[Face]) -> npt.NDArray[np.float64]:
    """(len(a), len(b)) intersection over union of the widened boxes."""

    def wide(faces: Sequence[Face]) -> npt.NDArray[np.float64]:
        boxes = np.array([face.box for face in faces], float).reshape(-1, 4)
        side = (boxes[:, 2:] - boxes[:, :2]) * BUFFER
        return np.hstack([boxes[:, :2] - side, boxes[:, 2:] + side])

    x, y = wide(a)[:, None], wide(b)[None]
    sides = np.clip(np.minimum(x[..., 2:], y[..., 2:]) - np.maximum(x[..., :2], y[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    area_x, area_y = ((v[..., 2:] - v[..., :2]).prod(axis=-1) for v in (x, y))
    return shared / (area_x + area_y - shared)


class Tracker:
    """Keeps the tracks of all faces in view.

    Attributes:
        tracks: those that go on, in order of appearance.
    """

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self._count = 0
        self._detected: float | None = None  # when faces were last looked for
        self._gap: float | None = None  # seconds from one detection to the next; None before the second

    def advance(self, seconds: float) -> list[Track]:
        """Moves every face on, to a frame without detections; returns the tracks that have ended."""
        for track in self.tracks:
            track.face = track.at(seconds)
        patience = np.inf if self._gap is None else max(PATIENCE, 2 * self._gap)
        ended = [track for track in self.tracks if seconds - track.last > patience]
        self.tracks = [track for track in self.tracks if track not in ended]
        return ended

    def clear(self) -> list[Track]:
        """Ends all tracks, and returns them."""
        ended, self.tracks = self.tracks, []
        return ended

    def update(self, faces: Sequence[Face], seconds: float) -> tuple[list[Track], list[Track]]:
        """Matches a frame's detections.

        Returns:
            The tracks that were found in this frame, new ones among them, and those that have ended.
        """
        newest = max((track.last for track in self.tracks), default=seconds)
        gap = None if self._detected is None else seconds - self._detected
        if gap is not None:  # of a camera that was away it says nothing
            self._gap = gap if self._gap is None else min(gap, self._gap)
        ended = self.advance(seconds)
        self._detected, self._gap = seconds, gap
        found: list[Track] = []
        free = set(range(len(faces)))
        # those that were found last time choose first: whoever is hidden must not take the face in front
        for tracks in ([t for t in self.tracks if t.last == newest], [t for t in self.tracks if t.last != newest]):
            matrix = overlaps([track.face for track in tracks], faces)
            for place in np.argsort(matrix, axis=None)[::-1]:
                i, j = divmod(int(place), matrix.shape[1])
                if matrix[i, j] < OVERLAP:
                    break
                if j in free and tracks[i] not in found:
                    tracks[i].found(faces[j], seconds)
                    found.append(tracks[i])
                    free.discard(j)
        found += [self.begin(faces[j], seconds) for j in sorted(free)]
        return found, ended

    def begin(self, face: Face, seconds: float) -> Track:
        """Starts a track."""
        self._count += 1
        self.tracks.append(Track(self._count, face, seconds, seconds))
        return self.tracks[-1]

    def end(self, track: Track) -> None:
        """Gives a track up."""
        self.tracks.remove(track)

    def visible(self, seconds: float) -> list[Track]:
        """The confirmed tracks whose face was found at the last detection, or a moment ago."""
        visible = max(VISIBLE, self._gap or 0.0)
        return [
            track
            for track in self.tracks
            if track.confirmed and (track.last == self._detected or seconds - track.last <= visible)
        ]
