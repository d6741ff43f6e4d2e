"""The whole pipeline on photographs of five people, in demo/: what ``make run`` shows."""

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np

from facerec import weights
from facerec.cli import main
from facerec.images import find_images, read_image
from facerec.video import VideoWriter

FILMED, SIDE, FPS = 8, 480, 10  # photos of the person who gets a video; its size and rate


def film(photos: list[Path], video: Path) -> None:
    """A video that shows each photo for a second."""
    with VideoWriter(video, FPS) as writer:
        for photo in photos:
            image = read_image(photo)
            scale = SIDE / max(image.shape[:2])
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            frame = np.full((SIDE, SIDE, 3), 128, np.uint8)
            frame[: image.shape[0], : image.shape[1]] = image
            for _ in range(FPS):
                writer.write(frame)


def facerec(*words: str) -> None:
    """Runs a command as a user would, and shows it."""
    print(f"\n$ facerec {' '.join(words)}", flush=True)
    code = main(words)
    if code not in (0, 3):  # 3: some photos failed, as the summary says
        sys.exit(code)


folder = Path(__file__).parents[1] / "demo"
facerec("models", "pull", "mtcnn", "facenet-128", "samples")
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(mode=0o700)
os.chdir(folder)
shutil.copytree(weights.samples(), "raw_images")
filmed = find_images(Path("raw_images/train/madonna"))[:FILMED]
film(filmed, Path("videos/madonna.mp4"))
for photo in filmed:
    photo.unlink()

facerec("extract", "videos", "--output", "raw_images/train", "--count", str(FILMED))
facerec("detect")
facerec("show", "--seed", "1")
facerec("embed")
facerec("train", "--svm")
facerec(
    "predict",
    "raw_images/test" if Path("raw_images/test").exists() else "raw_images/val",
    "--output",
    "named",
)
facerec("predict", "--batch", "25", "--seed", "1", "--output", "named")
print(f"\nLook at: {folder / 'named'}/ (names drawn on photographs), {folder / 'named' / 'test_faces.png'},")
print(f"{folder / 'contact_sheets'}/, {folder / 'classifiers' / 'svm.confusion.png'}")
