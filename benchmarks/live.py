"""Live on a crowd: frames a second and latency against recognising every frame, what the tracks miss, memory."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.common import ENVIRONMENT, FACEREC, ROOT, Section, data, facerec, overlap
from facerec import runtime
from facerec.artifacts import load_embeddings, write_image
from facerec.classify import Classifier
from facerec.detectors import load_detector
from facerec.draw import BLUE, annotate, contact_sheet
from facerec.embedders import load_embedder
from facerec.follower import Follower, mark
from facerec.live import live
from facerec.recognizer import Recognizer
from facerec.stages.train import default_gate
from facerec.tracking import Track
from facerec.types import Embeddings, Image
from facerec.video import Frame, Video, VideoWriter, ahead

PEOPLE = 100
LOOPS = 4  # forwards and backwards in turn: nobody jumps
MIN_FACE = 40  # live's default
PEER_FRAMES, OWN_FRAMES = 20, 105
BLACK, HIDDEN = 32, 0.95  # a black pixel after the video's compression; share of them in a hidden face
SAME = 0.3  # intersection over union of a track's box and a detection's
SOAK = 600  # seconds
GOOD = 0.1  # quality of a view, to enrol somebody of the crowd with it
VIEWS = 12  # of each track, on the sheet for counting by hand
SHEET = ROOT / "predictions" / "tracks.png"  # not committed: other people's faces


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


@contextlib.contextmanager
def screen() -> Iterator[dict[str, str] | None]:
    """The environment with a screen on it that nobody sees (Xvfb); None where it is not installed."""
    if not (server := shutil.which("Xvfb")):
        yield None
        return
    read, write = os.pipe()
    arguments = [server, "-displayfd", str(write), "-screen", "0", "1600x1000x24"]
    process = subprocess.Popen(arguments, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as answer:
            yield {**ENVIRONMENT, "DISPLAY": f":{answer.readline().strip()}"}
    finally:
        process.terminate()
        process.wait()


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
    with screen() as environment:
        if environment:
            words = [*FACEREC, "live", str(path), "--gallery", str(names), "--json"]
            run = subprocess.run(words, cwd=temp, env=environment, capture_output=True, text=True, check=True)
            summary = json.loads(run.stdout.splitlines()[-1])
            latency = summary["latency_ms"]
            what = "`facerec live`, drawn and shown in a window (Xvfb, on the same cores)"
            rows.insert(1, [what, summary["unique_fps"], latency["p50"], latency["p95"]])
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


def with_crowd(own: Recognizer, path: Path) -> Recognizer:
    """Knows those in the crowd, too: the best view of each track, once a person."""
    follower, tracks = Follower(own, 1), []
    with Video(path) as video:
        for frame in video.frames():
            follower.follow(frame)
            tracks += follower.events.left
    views = [track.view for track in tracks + follower.finish() if track.view is not None and track.shown > GOOD]
    vectors = own.embedder.embed(np.stack(views))
    kept: list[int] = []
    for i, vector in enumerate(vectors):
        if all(np.linalg.norm(vector - vectors[j]) > own.classifier.gate.threshold for j in kept):
            kept.append(i)
    labels = np.array([f"crowd {i}" for i in kept])
    everybody = own.classifier.photos + Embeddings(
        vectors[kept], labels, labels, np.full(len(kept), "train"), labels, own.embedder.space
    )
    return replace(own, classifier=Classifier.of_gallery("nearest", everybody, own.classifier.gate))


def tracks(section: Section, path: Path, names: Path) -> None:
    """What the tracks show, against detection on every frame."""
    own = with_crowd(recognizer(names), path)
    known = len(own.classifier.people) - PEOPLE
    rows = []
    for step in (1, 2, 3, 5, None):
        follower = Follower(own, step)
        frames = wanted = hit = steps = 0
        split: list[Track] = []
        shown: dict[int, str] = {}
        numbers = set()
        with Video(path) as video:
            for frame in video.frames():
                visible = follower.follow(frame)
                # a track that was ended while its face is in view: its votes had come to say another name
                split += [t for t in follower.events.left if t.last == frame.seconds]
                start = time.perf_counter()
                annotate(frame.image, [mark(track) for track in visible])
                follower.worked(time.perf_counter() - start)
                frames, steps = frames + 1, steps + follower.step
                faces = own.detector.detect(frame.image)
                wanted += len(faces)
                hit += sum(any(overlap(face, track.face) >= SAME for track in visible) for face in faces)
                for track in visible:
                    numbers.add(track.number)
                    if track.name is not None:
                        shown[track.number] = track.name
        what = step or f"as the machine can: {steps / frames:.1f}"
        rows.append([what, wanted, hit / wanted, len(numbers), len(shown), len(split)])
    section.table(
        f"Tracks through the crowd against detections on every frame (boxes that overlap by {SAME}); {known} of the "
        f"crowd are enrolled, beside {PEOPLE} others",
        {
            "frames from one detection to the next": "{}",
            "detections": "{}",
            "shown": "{:.1%}",
            "tracks": "{}",
            "of them named": "{}",
            "split, since another name won": "{}",
        },
        rows,
    )


def sheet(section: Section, names: Path) -> None:
    """A row of views a track through the film itself, for a person to count switches of identity on."""
    tiles = []
    for step in (2, 3):
        follower = Follower(recognizer(names), step)
        views = defaultdict(list)
        with Video(data("live") / "people.mp4") as video:
            for frame in video.frames():
                image = cv2.resize(frame.image, (1280, 720), interpolation=cv2.INTER_AREA)
                for track in follower.follow(replace(frame, image=image)):
                    x1, y1, x2, y2 = (max(round(v), 0) for v in track.face.box)
                    if x1 < min(x2, 1280) and y1 < min(y2, 720):
                        views[track.number].append((image[y1:y2, x1:x2], frame.index))
        for number, seen in sorted(views.items()):
            chosen = [seen[i] for i in np.linspace(0, len(seen) - 1, VIEWS).astype(int)]
            tiles += [(view, f"step {step} #{number}: {index}", BLUE) for view, index in chosen]
    write_image(SHEET, contact_sheet(tiles, columns=VIEWS, width=96, height=96))
    section.note(f"Views of every track, for counting switches of identity by hand: {SHEET.relative_to(ROOT)}.")


def again_and_again(path: Path, names: Path, output: Path) -> None:
    """Follows the film for ever, as a stream gives it, and writes the annotated video."""

    def frames() -> Iterator[Frame]:
        for loop in itertools.count():
            with Video(path) as video:
                for frame in video.frames():
                    yield replace(frame, seconds=loop * video.count / video.fps + frame.seconds)

    live(ahead(frames()), Follower(recognizer(names)), writer=VideoWriter(output, 25))


def soak(section: Section, temp: Path, path: Path, names: Path) -> None:
    """Memory of a process that follows the crowd for ten minutes."""
    arguments = (path, names, temp / "soak.mp4")
    process = multiprocessing.get_context("spawn").Process(target=again_and_again, args=arguments, daemon=True)
    process.start()
    memory = []
    for _ in range(SOAK):
        time.sleep(1)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    process.terminate()
    process.join()
    minutes = [float(np.mean(memory[end - 20 : end])) for end in range(60, SOAK + 1, 60)]
    section.table(
        "Memory of the live loop on the crowd, an annotated video written; mean of each minute's last 20 seconds, MB",
        {**{f"{i + 1} min": "{:.0f}" for i in range(len(minutes))}, "last / first": "{:.3f}"},
        [[*minutes, minutes[-1] / minutes[0]]],
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
        sheet(section, names)
        blurred(section, temp, path)
        soak(section, temp, path, names)
