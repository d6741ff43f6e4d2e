"""Draws the pictures of the README again: scikit-image's astronaut, a public-domain NASA portrait."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from skimage.data import astronaut

from facerec.artifacts import write_image
from facerec.cli import main
from facerec.draw import GREEN, annotate, contact_sheet
from facerec.images import read_image

DOCS = Path(__file__).parents[1] / "docs"


def facerec(*words: str) -> None:
    """Runs a command; a failure ends the script."""
    if code := main(words):
        sys.exit(code)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    photo = astronaut()
    write_image(Path("raw_images/Eileen Collins/portrait.png"), photo)
    facerec("detect")
    facerec("embed")
    facerec("train", "--nearest")
    dim = (photo[:, ::-1] * 0.55 + 20).astype(np.uint8)[::2, ::2]  # mirrored, darker, half the size
    write_image(Path("photos/dim.png"), dim)
    facerec("predict", "photos/dim.png", "--output", "named")
    from facerec.detectors import load_detector

    face = load_detector().detect(photo)[0]
    write_image(
        DOCS / "astronaut.jpg",
        contact_sheet(
            [
                (
                    annotate(photo, [(face, f"{face.confidence:.2f}", GREEN)], keypoints=True),
                    "detect: box and keypoints",
                    GREEN,
                ),
                (read_image(next(Path("processed").rglob("*.png"))), "the crop that is embedded", GREEN),
                (read_image(Path("named/dim.jpg")), "predict: another photo", GREEN),
            ],
            width=280,
            height=280,
        ),
    )
