"""capture: a camera → raw_images/NAME/*.jpg, varied views of one person, asked for one after the other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facerec.artifacts import write_image
from facerec.draw import GREEN, ORANGE, annotate
from facerec.embedders import DEFAULT_MARGIN
from facerec.images import crop_face
from facerec.quality import TO_ENROLL, Quality, assess
from facerec.stages.common import free, require_name
from facerec.stages.detect import SIZE
from facerec.types import Crop, Detector, Face, Image
from facerec.video import Frame
from facerec.window import Window

# The limits of a view leave a face well within what may be enrolled (`facerec.quality`).
TURNED = 0.15  # of the nose from the middle of the eyes, in distances of the eyes
UP, DOWN = 0.46, 0.62  # place of the nose between eyes and mouth; about 0.54 is frontal
NEARER = 1.3  # times the size of the face when it first looked into the camera
PATIENCE = 8.0  # seconds until another view is asked for
PAUSE = 0.4  # seconds from one photo to the next, so that they differ
CROP = Crop(DEFAULT_MARGIN)  # for the sharpness
REQUESTS = {
    "front": "look into the camera",
    "left": "turn your head a little to your left",
    "right": "turn your head a little to your right",
    "up": "look up a little",
    "down": "look down a little",
    "near": "come nearer",
}


def view_of(quality: Quality, usual: float | None) -> str | None:
    """Which of the `REQUESTS` a face answers; None for one between two.

    Args:
        quality: of the face; without keypoints every face counts as "front".
        usual: size of the face in the first photo, pixels.
    """
    yaw, pitch = quality.yaw, quality.pitch
    if yaw is None or pitch is None:
        return "front"
    if abs(yaw) >= TURNED:
        return "left" if yaw > 0 else "right"  # the person's own: the nose goes to the viewer's right
    if pitch <= UP or pitch >= DOWN:
        return "up" if pitch <= UP else "down"
    if abs(yaw) > TURNED / 2:
        return None
    return "near" if usual is not None and quality.size >= NEARER * usual else "front"


class Guide:
    """Asks for the view of which there are fewest, until there are enough photos.

    Args:
        count: photos.

    Attributes:
        taken: view → photos.
        wanted: the view that is asked for.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: Counter[str] = Counter()
        self.wanted = "front"
        self._usual: float | None = None
        self._asked: float | None = None
        self._last = -np.inf
        self._passed: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether there are enough."""
        return self.taken.total() >= self.count

    def take(self, quality: Quality, seconds: float) -> bool:
        """Whether to take this view: it is the wanted one, or no other has come for long."""
        if quality.yaw is None:  # from this detector no view can be told from another
            self._passed, self.wanted = set(REQUESTS) - {"front"}, "front"
        view = view_of(quality, self._usual)
        if view != self.wanted or seconds - self._last < PAUSE:
            return False
        if self._usual is None:
            self._usual = quality.size
        self.taken[view] += 1
        self._last = seconds
        self._ask(seconds)
        return True

    def wait(self, seconds: float) -> None:
        """Asks for another view where the wanted one does not come."""
        if self._asked is None:
            self._asked = seconds
        if seconds - self._asked >= PATIENCE:
            self._passed.add(self.wanted)
            self._ask(seconds)

    def _ask(self, seconds: float) -> None:
        self._asked = seconds
        left = [view for view in REQUESTS if view not in self._passed]
        if not left:  # everything was tried: once more from the start
            self._passed, left = set(), list(REQUESTS)
        self.wanted = min(left, key=lambda view: self.taken[view])


@dataclass
class CaptureReport:
    """What was taken.

    Attributes:
        name: whose.
        photos: files, in order.
        views: view → how many of them.
        seconds: it took.
        frames: that were looked at.
    """

    name: str
    photos: list[Path] = field(default_factory=list)
    views: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    frames: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "photos": [str(path) for path in self.photos]}


def capture(
    name: str,
    frames: Iterable[Frame],
    output: Path,
    *,
    detector: Detector,
    count: int,
    window: Window | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> CaptureReport:
    """Takes photos of one person, sharp ones with exactly one face, in views that it asks for.

    Args:
        name: the person.
        frames: of a camera.
        output: usually raw_images/; photos are added to its folder NAME, none is overwritten.
        detector: finds the face.
        count: photos.
        window: shows the mirrored picture, the request and the count; q ends it early.
        say: told each request, and what is in the way, when it changes.

    Raises:
        UsageError: a name that cannot be one.
        ArtifactError: a photo cannot be written.
    """
    name = require_name(name)
    report = CaptureReport(name)
    guide = Guide(count)
    begun = time.strftime("%Y-%m-%d_%H-%M-%S")
    start, said = time.perf_counter(), ""
    for frame in frames:
        report.frames += 1
        faces = detector.detect(frame.image)
        problem, quality = _look(frame.image, faces)
        taken = quality is not None and guide.take(quality, frame.seconds)
        if taken:
            path = free(output / name / f"camera_{begun}_{len(report.photos) + 1:03d}.jpg")
            write_image(path, frame.image)
            report.photos.append(path)
        guide.wait(frame.seconds)
        request = problem or REQUESTS[guide.wanted]
        if request != said or taken:
            said = request
            say(f"{guide.taken.total()} of {count}   {'' if guide.done else request}".strip())
        if window:
            window.show(_mirror(frame.image, faces, taken, f"{guide.taken.total()} of {count}   {request}"))
            if window.key(1) == "q" or not window.is_open:
                break
        if guide.done:
            break
    report.views, report.seconds = dict(guide.taken), time.perf_counter() - start
    return report


def _look(image: Image, faces: list[Face]) -> tuple[str, Quality | None]:
    """What is in the way of a photo, or else the quality of its one face."""
    if len(faces) != 1:
        return ("nobody is in view" if not faces else f"{len(faces)} faces: only one person, please"), None
    quality = assess(faces[0], crop_face(image, faces[0], CROP, SIZE))
    problems = quality.problems(TO_ENROLL)
    if not problems:
        return "", quality
    return {"too s": "come nearer", "blurr": "hold still, or more light"}.get(problems[0][:5], problems[0]), None


def _mirror(image: Image, faces: list[Face], taken: bool, note: str) -> Image:
    """The picture as a mirror shows it."""
    width = image.shape[1]
    boxes = [Face((width - f.box[2], f.box[1], width - f.box[0], f.box[3]), f.confidence) for f in faces]
    marks = [(box, "", GREEN if taken else ORANGE) for box in boxes]
    return annotate(np.ascontiguousarray(image[:, ::-1]), marks, note=note)
