"""Live on a crowd: frames a second and latency against recognising every frame, and what the tracks miss."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2

from benchmarks.common import Section, data, facerec, overlap
from facerec import runtime
from facerec.artifacts import load_embeddings
from facerec.classify import Classifier
from facerec.detectors import load_detector
from facerec.embedders import load_embedder
from facerec.follower import Follower
from facerec.recognizer import Recognizer
from facerec.stages.train import default_gate
from facerec.types import Image
from facerec.video import Video, ahead

PEOPLE = 100
LOOPS = 4  # forwards and backwards in turn: nobody jumps
MIN_FACE = 40  # live's default
PEER_FRAMES, OWN_FRAMES = 20, 105
BLACK, HIDDEN = 32, 0.95  # a black pixel after the video's compression; share of them in a hidden face
SAME = 0.3  # intersection over union of a track's box and a detection's


def film(temp: Path) -> Path:
    """The crowd at 1280×720."""
    with Video(data("live") / "people.mp4") as video:
        frames = [cv2.resize(f.image, (1280, 720), interpolation=cv2.INTER_AREA) for f in video.frames()]
        fps = video.fps
    path = temp / "crowd.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (1280, 720))
    for loop in range(LOOPS):
        for frame in frames if loop % 2 == 0 else reversed(frames):
            writer.write(frame[..., ::-1])
    writer.release()
    return path


def gallery(temp: Path) -> Path:
    """A photo each of a hundred people, none of them in the crowd."""
    for person in sorted(data("lfw-dev").iterdir())[:PEOPLE]:
        target = temp / "raw_images" / person.name
        target.mkdir(parents=True)
        shutil.copy(min(person.iterdir()), target)
    facerec("detect", "--test-size", "0", cwd=temp)
    facerec("embed", cwd=temp)
    return temp / "embeddings" / "faces.npz"


def recognizer(names: Path, engine: str = "") -> Recognizer:
    """Ours, or with "-reference" the mtcnn package and Keras."""
    people = load_embeddings(names)
    threads = runtime.cpu_count()
    return Recognizer(
        load_detector(f"mtcnn{engine}", min_face=MIN_FACE, threads=threads),
        load_embedder(f"facenet{engine}", crop=people.space.crop, threads=threads),
        Classifier.of_gallery("nearest", people, default_gate(people, None, None)),
    )


def rate(path: Path, recognize: Callable[[Image], Any], most: int) -> float:
    """Frames a second of a call on each frame, decoding included; the first is not counted."""
    with Video(path) as video, closing(ahead(video.frames())) as frames:
        recognize(next(frames).image)
        start = time.perf_counter()
        for n, frame in enumerate(frames, start=1):
            recognize(frame.image)
            if n == most:
                break
    return n / (time.perf_counter() - start)


def speed(section: Section, temp: Path, path: Path, names: Path) -> None:
    """Frames a second and latency."""
    options = ["--headless", "--gallery", str(names)]
    rows: list[list[Any]] = []
    for what, words in (
        ("`facerec live`", []),
        ("`facerec live`, drawn and written to a video", ["--output", str(temp / "named.mp4")]),
    ):
        summary = facerec("live", str(path), *options, *words, cwd=temp)
        latency = summary["latency_ms"]
        rows.append([what, summary["unique_fps"], latency["p50"], latency["p95"]])
    first = rows[0][1]
    ours = rate(path, recognizer(names).recognize, OWN_FRAMES)
    theirs = rate(path, recognizer(names, "-reference").recognize, PEER_FRAMES)
    rows.append(["our engine on every frame, no tracks, nothing drawn", ours, None, None])
    rows.append(["mtcnn package and Keras on every frame, nothing drawn", theirs, None, None])
    section.table(
        f"The crowd at 1280×720, 25 frames a second, {MIN_FACE} pixels and above, against a gallery of {PEOPLE}",
        {
            "what": "{}",
            "frames/s": "{:.1f}",
            "latency, ms, median": "{:.0f}",
            "95 %": "{:.0f}",
            "facerec live is faster by": "{:.1f}",
        },
        [[*row, first / row[1]] for row in rows],
    )


def tracks(section: Section, path: Path, names: Path) -> None:
    """What the tracks show, against detection on every frame."""
    own = recognizer(names)
    rows = []
    for step in (1, 2, 3, 5, None):
        follower = Follower(own, step)
        wanted = hit = changes = 0
        shown: dict[int, str] = {}
        numbers = set()
        with Video(path) as video:
            for frame in video.frames():
                visible = follower.follow(frame)
                faces = own.detector.detect(frame.image)
                wanted += len(faces)
                hit += sum(any(overlap(face, track.face) >= SAME for track in visible) for face in faces)
                for track in visible:
                    numbers.add(track.number)
                    if track.name is not None:
                        changes += shown.setdefault(track.number, track.name) != track.name
        rows.append([step or "as the machine can", wanted, hit / wanted, len(numbers), len(shown), changes])
    section.table(
        f"Tracks through the crowd against detections on every frame (boxes that overlap by {SAME})",
        {
            "frames from one detection to the next": "{}",
            "detections": "{}",
            "shown": "{:.1%}",
            "tracks": "{}",
            "of them named": "{}",
            "names that changed": "{}",
        },
        rows,
    )


def blurred(section: Section, temp: Path, path: Path) -> None:
    """Reference faces that `facerec blur` leaves visible."""
    facerec("blur", str(path), "--how", "solid", "--output", str(temp / "blurred"), cwd=temp)
    rows = []
    for name, step in (("mtcnn", 1), ("mtcnn-reference", 5)):
        detector = load_detector(name, threads=runtime.cpu_count())
        faces = visible = 0
        with Video(path) as before, Video(temp / "blurred" / path.name) as after:
            for frame, hidden in zip(before.frames(step), after.frames(step), strict=True):
                for face in detector.detect(frame.image):
                    x1, y1, x2, y2 = (round(v) for v in face.box)
                    faces += 1
                    visible += float((hidden.image[y1:y2, x1:x2].max(axis=2) < BLACK).mean()) < HIDDEN
        rows.append([name, step, faces, visible, visible / faces])
    section.table(
        f"`facerec blur` on the crowd, everybody, solid: faces of which less than {HIDDEN:.0%} is black",
        {"reference detector": "{}", "every … frames": "{}", "faces": "{}", "left visible": "{}", "share": "{:.2%}"},
        rows,
    )


def main(section: Section) -> None:
    """All tables."""
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        path, names = film(temp), gallery(temp)
        speed(section, temp, path, names)
        tracks(section, path, names)
        blurred(section, temp, path)
