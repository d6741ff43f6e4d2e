"""blur: pictures and videos with faces hidden, everybody's, or all but some people's, or some people's only."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from facerec.artifacts import write_image
from facerec.errors import UsageError
from facerec.follower import Follower
from facerec.images import read_image
from facerec.recognizer import Recognizer
from facerec.stages.common import copy_of
from facerec.tracking import Track, Tracker
from facerec.types import Detector, Face, Image, Progress, no_progress
from facerec.video import Video, ahead

How = Literal["blur", "pixelate", "solid"]

MARGIN = 0.25  # around a box, share of its sides: hair and chin tell a person too
BLOCKS = 6  # in which a hidden face is left: too few to know anybody by
BEFORE = 0.5  # seconds for which a face is hidden before it is first found, and after it is last found

CHECK = 0.25  # seconds from one look at a face that stays visible to the next

Box = npt.NDArray[np.float64]


@dataclass
class Hidden:
    """What was hidden.

    Attributes:
        faces: in a picture, or tracks in a video.
        hidden: of them.
    """

    faces: int = 0
    hidden: int = 0


def hide(image: Image, boxes: Sequence[Box], how: How) -> Image:
    """A copy of an RGB image on which what lies in the boxes (x1, y1, x2, y2), with a margin, cannot be made out.

    Blur and pixelate both keep `BLOCKS` × `BLOCKS` mean colours of a face and no more, so that neither can be undone.
    """
    result = image.copy()
    height, width = image.shape[:2]
    for box in boxes:
        side = (box[2:] - box[:2]) * MARGIN
        x1, y1 = np.maximum(np.floor(box[:2] - side), 0).astype(int)
        x2, y2 = np.minimum(np.ceil(box[2:] + side), (width, height)).astype(int)
        if x2 <= x1 or y2 <= y1:
            continue
        part = result[y1:y2, x1:x2]
        if how == "solid":
            part[:] = 0
            continue
        small = cv2.resize(part, (min(BLOCKS, x2 - x1), min(BLOCKS, y2 - y1)), interpolation=cv2.INTER_AREA)
        method = cv2.INTER_NEAREST if how == "pixelate" else cv2.INTER_CUBIC
        part[:] = cv2.resize(small, (x2 - x1, y2 - y1), interpolation=method)
    return result


def blur_image(
    path: Path,
    output: Path,
    *,
    detector: Detector,
    recognizer: Recognizer | None,
    wanted: Callable[[str | None], bool],
    how: How,
) -> Hidden:
    """Hides faces of a picture.

    Args:
        path: the picture.
        output: the copy to write.
        detector: finds the faces.
        recognizer: names them; None where names do not matter.
        wanted: whether to hide the face of that person (None for unknown).
        how: to hide them.

    Raises:
        InputError: the picture cannot be read.
        ArtifactError: the copy cannot be written.
    """
    image = read_image(path)
    found: list[tuple[Face, str | None]]
    if recognizer is None:
        found = [(face, None) for face in detector.detect(image)]
    else:
        found = [(p.face, p.name) for p in recognizer.recognize(image)]
    boxes = [np.array(face.box) for face, name in found if wanted(name)]
    write_image(output, hide(image, boxes, how))
    return Hidden(len(found), len(boxes))


def blur_video(
    path: Path,
    output: Path,
    *,
    detector: Detector,
    recognizer: Recognizer | None,
    wanted: Callable[[str | None], bool],
    how: How,
    progress: Progress = no_progress,
) -> tuple[Hidden, str | None]:
    """Hides faces of a video: once to find everybody, once to write.

    A face stays hidden between its detections, and for half a second before the first and after the last. Whose it is
    is known when the video has been seen to its end, and holds for the whole track; but where the last look at it
    before a frame, or the next one after, gave another answer that is to be hidden, it is hidden too.

    Args:
        path: the video.
        output: the .mp4 to write, with the sound where ffmpeg is installed.
        detector: looks at every frame.
        recognizer: names tracks; None where names do not matter.
        wanted: whether to hide the face of that person (None for unknown).
        how: to hide them.
        progress: shows how far it is.

    Returns:
        What was hidden, and what to say where the video is cut off.

    Raises:
        InputError: the video cannot be read.
        UsageError: the copy would overwrite it.
        ArtifactError: the copy cannot be written.
    """
    if output.resolve() == path.resolve():
        raise UsageError(f"{output} is the video itself", "choose another --output")
    follower = None if recognizer is None else Follower(recognizer, step=1, check=CHECK)
    tracker = Tracker() if follower is None else follower.tracker
    times: list[float] = []
    seen: dict[Track, list[tuple[int, Box]]] = defaultdict(list)
    looks: dict[Track, list[tuple[int, bool]]] = defaultdict(list)  # frames, and whether the answer is to be hidden
    with ExitStack() as stack:
        video = stack.enter_context(Video(path))
        frames = stack.enter_context(closing(ahead(video.frames())))
        for frame in progress(frames, video.count, f"{path.name}: looking"):
            times.append(frame.seconds)
            if follower is None:
                tracker.update(detector.detect(frame.image), frame.seconds)
            else:
                follower.follow(frame)
            for track in (*tracker.tracks, *(follower.events.left if follower else ())):
                if track.recognised == frame.seconds:
                    looks[track].append((frame.index, wanted(track.said)))
                if track.last == frame.seconds:
                    seen[track].append((frame.index, np.array(track.face.box)))
        cut_off, fps = video.cut_off, video.fps
    masks: dict[int, list[Box]] = defaultdict(list)
    hidden = 0
    for track, places in seen.items():
        start = bisect_left(times, times[places[0][0]] - BEFORE)
        end = bisect_right(times, times[places[-1][0]] + BEFORE)
        every = filled(places, start, end)
        if not wanted(track.name):
            every = [(index, box) for index, box in every if in_doubt(index, looks[track])]
        hidden += bool(every)
        for index, box in every:
            masks[index].append(box)
    with copy_of(path, output, fps) as writer, Video(path) as video, closing(ahead(video.frames())) as again:
        for frame in progress(again, video.count, f"{path.name}: writing"):
            writer.write(hide(frame.image, masks[frame.index], how), frame.seconds)
    return Hidden(len(seen), hidden), cut_off


def in_doubt(index: int, looks: Sequence[tuple[int, bool]]) -> bool:
    """Whether the last look at a track up to a frame, or the first from it on, gave an answer that is to be hidden."""
    later = bisect_left(looks, (index, False))
    return any(wanted for _, wanted in looks[max(later - 1, 0) : later + 1])


def filled(places: Sequence[tuple[int, Box]], start: int, end: int) -> list[tuple[int, Box]]:
    """A track's (frame, box) of every frame from `start` to before `end`: between, before and after those it has."""
    indices, boxes = [index for index, _ in places], np.array([box for _, box in places])
    every = np.arange(start, end)
    sides = [np.interp(every, indices, boxes[:, k]) for k in range(4)]
    return list(zip(every.tolist(), np.stack(sides, axis=1), strict=True))
