"""Draws the pictures of the README again: scikit-image's astronaut, a public-domain NASA portrait. Needs Chromium."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
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

    # The page in Chromium: on the left a picture that was dropped in, on the right who is enrolled.
    facerec("enroll", "Eileen Collins", "raw_images/Eileen Collins/portrait.png")
    command = [sys.executable, "-m", "facerec", "app", "--no-browser", "--port", "8617"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shots = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for where, colours in (("", "light"), ("people", "dark")):
            page = browser.new_page(viewport={"width": 820, "height": 900}, color_scheme=colours)
            for _ in range(100):
                with contextlib.suppress(Exception):
                    page.goto(f"http://127.0.0.1:8617/{where}")
                    break
                time.sleep(0.2)
            page.wait_for_selector("h1")
            if not where:
                page.locator("input[type=file]").set_input_files("photos/dim.png")
                page.wait_for_selector("text=Annotated picture")
            page.wait_for_timeout(1500)
            shots.append(np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")))
        browser.close()
    server.terminate()
    write_image(DOCS / "app.jpg", np.concatenate(shots, axis=1))
