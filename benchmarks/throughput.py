"""Folders and cold starts: what a command takes beside what its networks need, and from 100 to 10,000 photos."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ENVIRONMENT, ROOT, Section, Usage, data, facerec, timed, usage
from facerec import plots, runtime, weights
from facerec.detectors import load_detector
from facerec.embedders import DEFAULT_MARGIN, load_embedder
from facerec.images import find_images, read_image
from facerec.types import Crop

STARTS = 5
SAMPLE = 200  # photos, for what the networks need by themselves
GROWTH = (100, 1_000, 10_000)
PLOT = ROOT / "docs" / "growth.png"

STEPS = """
import json, sys, time
begun, marks = float(sys.argv[2]), []
def mark(step): marks.append((step, time.time()))
mark("Python starts")
import cv2, numpy, ncnn, onnxruntime, PIL.Image
mark("imports: NumPy, OpenCV, Pillow, the engines")
from pathlib import Path
from facerec import runtime
from facerec.classify import Classifier
from facerec.commands import common, predict
from facerec.detectors import load_detector
from facerec.embedders import load_embedder
from facerec.images import read_image
from facerec.recognizer import Recognizer, find_and_embed
from facerec.stages.predict import expand
mark("imports: facerec")
classifier = Classifier.load(common.newest_names())
mark("the classifier")
space, threads = classifier.photos.space, runtime.cpu_count()
embedder = load_embedder(model=space.model, crop=space.crop, flip=space.flip, threads=threads)
mark("FaceNet: hash, graph as arranged for this processor")
detector = load_detector(threads=threads)
mark("MTCNN: hashes, graphs")
image = read_image(Path(sys.argv[1]))
mark("the picture")
faces = detector.detect(image)
mark("detection")
Recognizer(detector, embedder, classifier).decide(find_and_embed(image, detector, embedder, "all"))
mark("detection once more, embedding, decision")
times = [begun, *(t for _, t in marks)]
print(json.dumps([[step, b - a] for (step, _), a, b in zip(marks, times, times[1:])]))
"""


def cold(section: Section, temp: Path) -> None:
    """Cold processes, weights cached, and where a cold predict's time goes."""
    image = str(next(iter(find_images(data("lfw-dev")))))
    folder = temp / "photos"
    shutil.copytree(weights.samples(), folder / "raw_images")
    for words in (["detect"], ["embed"], ["train", "--svm"]):
        facerec(*words, cwd=folder)
    commands = (["--help"], ["predict", image])
    times = timed(STARTS, *(partial(usage, *words, cwd=folder) for words in commands))
    section.table(
        f"Cold processes, {STARTS} repeats",
        {"command": "`facerec {}`", "ms": "{:.0f}"},
        [[words[0], taken] for words, taken in zip(commands, times, strict=True)],
    )

    def steps() -> list[tuple[str, float]]:
        command = [sys.executable, "-c", STEPS, image, str(time.time())]
        run = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    fastest = min((steps() for _ in range(STARTS)), key=lambda taken: sum(seconds for _, seconds in taken))
    section.table(
        "Where the time of a cold `facerec predict` goes, the same steps one by one",
        {"step": "{}", "ms": "{:.0f}"},
        [[step, seconds * 1000] for step, seconds in fastest],
    )
    code = "import sys; from facerec.cli import main; main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, "predict", image], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    imported = {"True": "imported", "False": "not imported"}[run.stdout.split()[-1]]
    section.note(f"TensorFlow is {imported} by `predict`.")


def networks(core: int) -> tuple[float, float]:
    """Seconds a photo inside MTCNN's networks, and a face inside FaceNet, on one core; the others do the same."""
    detector: Any = load_detector()
    spent: Counter[str] = Counter()

    def clocked(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            start = time.perf_counter()
            result = run(*inputs)
            spent["seconds"] += time.perf_counter() - start
            return result

        return call

    class Clocked:
        def __init__(self, net: Any) -> None:
            self.run = clocked(net.run)

    detector._pnet = clocked(detector._pnet)
    detector._rnet, detector._onet = Clocked(detector._rnet), Clocked(detector._onet)
    photos = find_images(data("lfw-dev"))[core::8][:SAMPLE]
    for path in photos:
        detector.detect(read_image(path))
    embedder: Any = load_embedder(crop=Crop(DEFAULT_MARGIN))
    pixels = np.random.default_rng(0).standard_normal((32, 160, 160, 3)).astype(np.float32)
    (batch,) = timed(10, lambda: embedder._run(pixels))
    return spent["seconds"] / len(photos), batch.median / len(pixels)


def folder(section: Section, temp: Path) -> None:
    """lfw-dev through detect and embed, against what its networks need by themselves."""
    n, cores = len(find_images(data("lfw-dev"))), runtime.cpu_count()
    # processes apart: what they hold would count as their children's memory
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as processes:
        needed = [n * sum(seconds) / cores**2 for seconds in zip(*processes.map(networks, range(cores)), strict=True)]
    taken = [usage("detect", str(data("lfw-dev")), cwd=temp), usage("embed", cwd=temp)]
    taken.append(Usage(*(sum(getattr(u, f) for u in taken) for f in ("seconds", "processor", "memory"))))
    rows = [
        [name, used.seconds, alone, used.seconds / alone, used.processor / used.seconds / cores]
        for name, used, alone in zip(
            ("`facerec detect`", "`facerec embed`", "both"), taken, [*needed, sum(needed)], strict=True
        )
    ]
    section.table(
        f"{n:,} photos of 250×250 through detect and embed, cold processes; the networks alone, on {cores} cores at "
        "once, each on its own",
        {"command": "{}", "s": "{:.1f}", "networks, s": "{:.1f}", "ratio": "{:.2f}", "cores busy": "{:.0%}"},
        rows,
    )


def growth(section: Section, temp: Path) -> None:
    """Time a photo and peak memory from 100 to 10,000 photos (lfw-dev's, copied, each made different)."""
    photos = find_images(data("lfw-dev"))
    rows, curves = [], {}
    for n in GROWTH:
        folder = temp / str(n)
        for i in range(n):
            person = folder / "raw_images" / f"{i // 10:04d}"
            person.mkdir(parents=True, exist_ok=True)
            # bytes after the end of a JPEG are ignored: another content, the same picture
            (person / f"{i}.jpg").write_bytes(photos[i % len(photos)].read_bytes() + str(i).encode())
        taken = [usage(command, cwd=folder) for command in ("detect", "embed")]
        rows.append([n, *(value for used in taken for value in (used.seconds / n * 1000, used.memory))])
        shutil.rmtree(folder)
    section.table(
        "Time a photo and peak memory of the largest process (of three, for detect from 200 photos on) over the number "
        "of photos, start-up included",
        {
            "photos": "{:,}",
            "detect, ms a photo": "{:.1f}",
            "MB": "{:.0f}",
            "embed, ms a photo": "{:.1f}",
            "MB ": "{:.0f}",
        },
        rows,
    )
    numbers, *columns = zip(*rows, strict=True)
    names = ("detect, ms a photo", "detect, MB / 100", "embed, ms a photo", "embed, MB / 100")
    for name, values in zip(names, columns, strict=True):
        curves[name] = (numbers, np.array(values) / (100 if "MB" in name else 1))
    PLOT.write_bytes(plots.curves(curves, "time and memory", "photos", "ms, 100 MB", log="x", points=True))
    section.note(f"![Time a photo and memory over the number of photos]({PLOT.name})")


def main(section: Section) -> None:
    """All tables."""
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        cold(section, temp)
        folder(section, temp)
        growth(section, temp)
