"""Detection and embedding against the reference packages: same input, same run, fastest of the repeats."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from benchmarks.common import data, fastest, machine, table
from facerec.detectors import load_detector
from facerec.embedders import DEFAULT_MARGIN, load_embedder
from facerec.embedders.facenet import standardised
from facerec.images import read_image
from facerec.types import Crop

REPEATS = 20


def main() -> None:
    """Prints both tables."""
    print(machine())
    portrait = read_image(data("lfw-dev") / "Alan_Greenspan" / "Alan_Greenspan_0003.jpg")
    stage = read_image(data("photos") / "multiface.jpg")
    ours, theirs = load_detector("mtcnn", threads=2), load_detector("mtcnn-reference")
    rows = []
    for image in (portrait, cv2.resize(stage, (1280, 720)), cv2.resize(stage, (1920, 1080))):
        a, b = fastest(REPEATS, lambda image=image: ours.detect(image), lambda image=image: theirs.detect(image))
        rows.append([f"{image.shape[1]}×{image.shape[0]}", f"{a:.1f}", f"{b:.1f}", f"{b / a:.1f}×"])
    table(["detection, min face 20", "ours, ms", "mtcnn package, ms", "faster by"], rows)

    crop = Crop(DEFAULT_MARGIN)
    facenet, reference = (load_embedder(n, crop=crop, threads=2) for n in ("facenet", "facenet-reference"))
    rows = []
    for n in (1, 32):
        crops = np.stack([cv2.resize(portrait[60:190, 60:190], (160, 160))] * n)
        keras = partial(reference._network.predict, batch_size=n, verbose=0)
        a, b = fastest(
            REPEATS,
            lambda crops=crops: facenet.embed(crops),
            lambda crops=crops, keras=keras: keras(standardised(crops)),
        )
        rows.append([n, f"{a / n:.1f}", f"{b / n:.1f}", f"{b / a:.1f}×"])
    table(["embedding, batch", "ours, ms a face", "keras predict, ms a face", "faster by"], rows)


if __name__ == "__main__":
    main()
