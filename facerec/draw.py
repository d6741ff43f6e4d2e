"""Pictures for people: boxes and names on photographs, contact sheets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from facerec.types import Face, Image, Prediction

GREEN, ORANGE, RED, BLUE, WHITE = (0, 200, 80), (255, 150, 0), (230, 40, 40), (60, 140, 255), (255, 255, 255)
Colour = tuple[int, int, int]


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib ships: Latin, Greek, Cyrillic and Vietnamese names come out right."""
    spec = importlib.util.find_spec("matplotlib")  # finds the package without importing it
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def annotate(image: Image, marks: Sequence[tuple[Face, str, Colour]], keypoints: bool = False, note: str = "") -> Image:
    """A copy of an RGB image with a box and a caption a face (and its keypoints), and a line in the upper left."""
    picture = Pillow.fromarray(image)
    pen = ImageDraw.Draw(picture)
    scale = max(min(image.shape[:2]) / 600, 0.5)
    width, text = max(round(2 * scale), 1), font(max(round(18 * scale), 11))
    for face, caption, colour in marks:
        pen.rectangle(face.box, outline=colour, width=width)
        if keypoints and face.keypoints is not None:
            r = max(width, 2)
            for x, y in face.keypoints:
                pen.ellipse((x - r, y - r, x + r, y + r), fill=ORANGE)
        if caption:
            left, top, right, bottom = pen.textbbox((0, 0), caption, font=text)
            w, h = right - left + 2 * width + 2, bottom - top + 2 * width + 2
            x = min(max(face.box[0], 0), max(image.shape[1] - w, 0))
            y = face.box[1] - h if face.box[1] >= h else min(face.box[3], image.shape[0] - h)
            pen.rectangle((x, y, x + w, y + h), fill=colour)
            pen.text((x + width + 1 - left, y + width + 1 - top), caption, fill=WHITE, font=text)
    if note:
        pen.rectangle((0, 0, pen.textlength(note, font=font(14)) + 12, 24), fill=(40, 40, 40))
        pen.text((6, 4), note, fill=WHITE, font=font(14))
    return np.asarray(picture)


def caption(prediction: Prediction) -> str:
    """ "Ana 0.62" (name and distance) or "unknown 1.21"."""
    return f"{prediction.name or 'unknown'} {prediction.distance:.2f}"


def annotate_predictions(image: Image, predictions: Sequence[Prediction]) -> Image:
    """A copy of an RGB image with a box and a name a face: green where known, orange where not."""
    return annotate(image, [(p.face, caption(p), GREEN if p.name else ORANGE) for p in predictions])


def fitted(image: Image, faces: Sequence[Face], width: int, height: int) -> tuple[Image, list[Face]]:
    """An image scaled to fit into width × height pixels, and its faces with it."""
    scale = min(width / image.shape[1], height / image.shape[0])
    shape = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, shape, interpolation=method).astype(np.uint8)
    return small, [
        replace(
            face,
            box=tuple(v * scale for v in face.box),
            keypoints=None if face.keypoints is None else face.keypoints * scale,
        )
        for face in faces
    ]


def contact_sheet(
    tiles: Sequence[tuple[Image, str, Colour]],
    columns: int = 8,
    width: int = 160,
    height: int = 160,
    title: str = "",
) -> Image:
    """Pictures in a grid, each fitted into a tile, with a caption below on a coloured bar.

    Args:
        tiles: (RGB picture, caption, colour of the bar).
        columns: at most.
        width: of a tile, pixels.
        height: of a tile, pixels.
        title: above the grid.
    """
    columns = max(min(columns, len(tiles)), 1)
    rows = -(-len(tiles) // columns)
    bar, gap, head = 22, 6, 36 if title else 0
    sheet = Pillow.new("RGB", (columns * (width + gap) + gap, rows * (height + bar + gap) + gap + head), "white")
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, 8), title, fill="black", font=font(16))
    for i, (image, text, colour) in enumerate(tiles):
        x = gap + i % columns * (width + gap)
        y = head + gap + i // columns * (height + bar + gap)
        small, _ = fitted(image, [], width, height)
        at = (x + (width - small.shape[1]) // 2, y + (height - small.shape[0]) // 2)
        sheet.paste(Pillow.fromarray(small), at)
        pen.rectangle((x, y + height, x + width, y + height + bar), fill=colour)
        while text and pen.textlength(text, font=font(12)) > width - 6:
            text = text[:-2] + "…"
        pen.text((x + 3, y + height + 3), text, fill=WHITE, font=font(12))
    return np.asarray(sheet)
