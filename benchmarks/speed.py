"""Detection and embedding against their peers: the same input, called in turn in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from benchmarks.common import Section, Times, data, installed, timed
from facerec import runtime
from facerec.detectors import load_detector
from facerec.embedders import DEFAULT_MARGIN, load_embedder
from facerec.embedders.facenet import standardised
from facerec.images import read_image
from facerec.types import Crop, Image

REPEATS = 20
MIN_FACE = 20
GFLOP_A_FACE = 2.834
FACENET_PYTORCH = "facenet-pytorch's MTCNN"

Detect = Callable[[Image], Any]
"""Image → faces."""


def facenet_pytorch() -> Detect:
    """Its MTCNN, weights in the package."""
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(runtime.cpu_count())
    mtcnn = MTCNN(keep_all=True, min_face_size=MIN_FACE, device="cpu")

    def detect(image: Image) -> Any:
        boxes, _ = mtcnn.detect(image)
        return [] if boxes is None else boxes

    return detect


def detection(section: Section, portrait: Image, stage: Image) -> None:
    """Every detector on pictures of three sizes."""
    threads = runtime.cpu_count()
    # before TensorFlow: after it, loading PyTorch's CUDA build crashes
    torch = {FACENET_PYTORCH: facenet_pytorch()} if installed("facenet-pytorch") else {}
    detectors: dict[str, Detect] = {
        "facerec": load_detector("mtcnn", min_face=MIN_FACE, threads=threads).detect,
        "mtcnn package": load_detector("mtcnn-reference", min_face=MIN_FACE).detect,
        **torch,
        "OpenCV's Haar": load_detector("haar", min_face=MIN_FACE).detect,
    }
    coarse = {"facerec, `--min-face 60`": load_detector("mtcnn", min_face=60, threads=threads).detect}
    rows: list[list[Any]] = []
    for image, chosen in (
        (portrait, detectors),
        (cv2.resize(stage, (1280, 720)), detectors | coarse),
        (cv2.resize(stage, (1920, 1080)), detectors),
    ):
        times = timed(REPEATS, *(partial(detect, image) for detect in chosen.values()))
        size = f"{image.shape[1]}×{image.shape[0]}"
        rows += [
            [size, name, len(detect(image)), taken, taken.minimum / times[0].minimum]
            for (name, detect), taken in zip(chosen.items(), times, strict=True)
        ]
    section.table(
        f"Detection, min face {MIN_FACE}, {REPEATS} repeats",
        {"picture": "{}", "detector": "{}", "faces": "{}", "ms": "{:.1f}", "facerec = 1": "{:.2f}"},
        rows,
    )
    if not torch:
        section.note(
            f"{FACENET_PYTORCH}: not installed, `pip install --no-deps facenet-pytorch` with torch and torchvision."
        )


def embedding(section: Section, portrait: Image, stage: Image) -> None:
    """The same crops through both engines."""
    ours, reference = (
        load_embedder(name, crop=Crop(DEFAULT_MARGIN), threads=runtime.cpu_count())
        for name in ("facenet", "facenet-reference")
    )
    rows: list[list[Any]] = []
    limits: list[list[Any]] = []
    square = np.random.default_rng(0).random((2048, 2048), np.float32)
    for n in (1, 32):
        crops = np.stack([cv2.resize(portrait[60:190, 60:190], (160, 160))] * n)
        keras = partial(reference._network.predict, batch_size=n, verbose=0)
        times = timed(
            REPEATS,
            lambda crops=crops: ours.embed(crops),
            lambda crops=crops, keras=keras: keras(standardised(crops)),
            lambda: square @ square,
        )
        rates = [n * GFLOP_A_FACE / times[0].minimum, 2 * len(square) ** 3 / 1e9 / times[2].minimum]
        limits.append([n, *rates, rates[0] / rates[1]])
        rows += [
            [n, name, Times.of([s / n for s in taken.seconds]), taken.minimum / times[0].minimum]
            for name, taken in zip(("facerec", "Keras `predict`"), times, strict=False)
        ]
    section.table(
        f"Embedding, normalisation included, {REPEATS} repeats",
        {"batch": "{}", "engine": "{}", "ms a face": "{:.1f}", "facerec = 1": "{:.2f}"},
        rows,
    )
    section.table(
        f"Embedding against the machine's own rate, NumPy's product of float32 matrices of 2048×2048 in the same run; "
        f"{GFLOP_A_FACE} GFLOP a face",
        {"batch": "{}", "GFLOP/s": "{:.0f}", "NumPy's": "{:.0f}", "ratio": "{:.2f}"},
        limits,
    )
    image = cv2.resize(stage, (1280, 720))
    coarse = load_detector("mtcnn", min_face=60, threads=runtime.cpu_count())
    faces = np.stack([cv2.resize(portrait[60:190, 60:190], (160, 160))] * 32)
    found, embedded = timed(REPEATS, partial(coarse.detect, image), partial(ours.embed, faces))
    a_face = Times.of([s / 32 for s in embedded.seconds])
    section.note(
        f"Detection at `--min-face 60` on 1280×720, in turn with embedding 32 faces: {found:.1f} ms, and {a_face:.1f} "
        f"ms a face; as long as {found.minimum / a_face.minimum:.2f} faces."
    )


def networks(section: Section, stage: Image) -> None:
    """Where a detection's time goes, on one thread: its three networks, and what is around them."""
    detector: Any = load_detector("mtcnn", min_face=MIN_FACE)
    spent: dict[str, float] = {}

    def clocked(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            start = time.perf_counter()
            result = run(*inputs)
            spent[name] = spent.get(name, 0) + time.perf_counter() - start
            return result

        return call

    detector._pnet = clocked("P-Net", detector._pnet)
    for name in ("rnet", "onet"):
        net = getattr(detector, f"_{name}")
        setattr(detector, f"_{name}", SimpleNamespace(run=clocked(f"{name[0].upper()}-Net", net.run)))
    rows = []
    for size in ((1280, 720), (1920, 1080)):
        image = cv2.resize(stage, size)
        runs = []
        for _ in range(REPEATS):
            spent.clear()
            start = time.perf_counter()
            detector.detect(image)
            runs.append((time.perf_counter() - start, dict(spent)))
        total, parts = min(runs, key=lambda run: run[0])
        around = total - sum(parts.values())
        shares = [parts[name] * 1000 for name in ("P-Net", "R-Net", "O-Net")]
        rows.append([f"{size[0]}×{size[1]}", total * 1000, *shares, around * 1000])
    section.table(
        f"Where a detection's time goes, one thread, fastest of {REPEATS}",
        {
            "picture": "{}",
            "ms": "{:.1f}",
            "P-Net": "{:.1f}",
            "R-Net": "{:.1f}",
            "O-Net": "{:.1f}",
            "the rest": "{:.1f}",
        },
        rows,
    )


def main(section: Section) -> None:
    """All tables."""
    portrait = read_image(data("lfw-dev") / "Alan_Greenspan" / "Alan_Greenspan_0003.jpg")
    stage = read_image(data("photos") / "multiface.jpg")
    section.note(
        "250×250 is a portrait of LFW, the others are one stage photo of six people, resized. Every engine may use all "
        "cores. The detectors' thresholds differ: the faces that each finds stand beside its times."
    )
    detection(section, portrait, stage)
    networks(section, stage)
    embedding(section, portrait, stage)
