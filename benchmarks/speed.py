"""Detection and embedding against their peers: the same input, called in turn in one run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def embedding(section: Section, portrait: Image) -> None:
    """The same crops through both engines."""
    ours, reference = (
        load_embedder(name, crop=Crop(DEFAULT_MARGIN), threads=runtime.cpu_count())
        for name in ("facenet", "facenet-reference")
    )
    rows: list[list[Any]] = []
    for n in (1, 32):
        crops = np.stack([cv2.resize(portrait[60:190, 60:190], (160, 160))] * n)
        keras = partial(reference._network.predict, batch_size=n, verbose=0)
        times = timed(
            REPEATS,
            lambda crops=crops: ours.embed(crops),
            lambda crops=crops, keras=keras: keras(standardised(crops)),
        )
        rows += [
            [n, name, Times.of([s / n for s in taken.seconds]), taken.minimum / times[0].minimum]
            for name, taken in zip(("facerec", "Keras `predict`"), times, strict=True)
        ]
    section.table(
        f"Embedding, normalisation included, {REPEATS} repeats",
        {"batch": "{}", "engine": "{}", "ms a face": "{:.1f}", "facerec = 1": "{:.2f}"},
        rows,
    )


def main(section: Section) -> None:
    """Both tables."""
    portrait = read_image(data("lfw-dev") / "Alan_Greenspan" / "Alan_Greenspan_0003.jpg")
    stage = read_image(data("photos") / "multiface.jpg")
    section.note(
        "250×250 is a portrait of LFW, the others are one stage photo of six people, resized. Every engine may use all "
        "cores. The detectors' thresholds differ: the faces that each finds stand beside its times."
    )
    detection(section, portrait, stage)
    embedding(section, portrait)
