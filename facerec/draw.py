"""Pictures for people: boxes and names on photographs, contact sheets."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import re
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


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
EAST_ASIAN = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
FONTS = (  # what systems call a font of theirs that has Chinese, Japanese and Korean; Pillow knows their folders
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "malgun.ttf",
)
log = logging.getLogger("facerec")


def font(size: int, text: str = "") -> Font:
    """DejaVu Sans, which matplotlib ships, has Latin, Greek, Cyrillic and Vietnamese; else what the system has."""
    return (EAST_ASIAN.search(text) and _east_asian(size)) or _usual(size)


@lru_cache(maxsize=8)
def _east_asian(size: int) -> Font | None:
    for name in FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    _say_once()
    return None


@lru_cache
def _say_once() -> None:
    log.warning(
        "no font here has Chinese, Japanese or Korean: such names are boxes in pictures (fonts-noto-cjk has them)"
    )


@lru_cache(maxsize=8)
def _usual(size: int) -> Font:
    spec = importlib.util.find_spec("matplotlib")  # finds the package without importing it
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


@lru_cache(maxsize=512)
def label(text: str, size: int, ground: Colour, pad: int) -> Image:
    """White text on a ground, with `pad` pixels around it: an RGB picture, kept, since a video repeats its captions."""
    text = "".join(c if c.isprintable() else "�" for c in text)  # one line, whatever a file is called
    left, top, right, bottom = ImageDraw.Draw(Pillow.new("RGB", (1, 1))).textbbox((0, 0), text, font=font(size, text))
    box = (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad)
    picture = Pillow.new("RGB", box, ground)
    ImageDraw.Draw(picture).text((pad - left, pad - top), text, fill=WHITE, font=font(size, text))
    return np.asarray(picture)


def _paste(picture: Image, patch: Image, x: float, y: float) -> None:
    """Lays a patch on a picture, cut off at its edges."""
    x, y = round(x), round(y)
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + patch.shape[0], picture.shape[0]), min(x + patch.shape[1], picture.shape[1])
    if top < bottom and left < right:
        picture[top:bottom, left:right] = patch[top - y : bottom - y, left - x : right - x]


def annotate(image: Image, marks: Sequence[tuple[Face, str, Colour]], keypoints: bool = False, note: str = "") -> Image:
    """A copy of an RGB image with a box and a caption a face (and its keypoints), and a line in the upper left."""
    picture = np.array(image)
    scale = max(min(image.shape[:2]) / 600, 0.5)
    width, size = max(round(2 * scale), 1), max(round(18 * scale), 11)
    for face, caption, colour in marks:
        x1, y1, x2, y2 = (round(v) for v in face.box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, width)
        if keypoints and face.keypoints is not None:
            for x, y in face.keypoints:
                cv2.circle(picture, (round(x), round(y)), max(width, 2), ORANGE, cv2.FILLED, cv2.LINE_AA)
        if caption:
            patch = label(caption, size, colour, width + 1)
            h, w = patch.shape[:2]
            x = min(max(x1, 0), max(image.shape[1] - w, 0))
            _paste(picture, patch, x, y1 - h if y1 >= h else min(y2, image.shape[0] - h))
    if note:
        sizes = range(max(round(16 * scale), 13), 7, -1)  # smaller where it would not fit
        patches = (label(note, size, (40, 40, 40), 6) for size in sizes)
        _paste(
            picture, next((p for p in patches if p.shape[1] <= image.shape[1]), label(note, 8, (40, 40, 40), 6)), 0, 0
        )
    return picture


def apart(prediction: Prediction) -> float:
    """The distance that tells why: from the person who is named, or from whoever is nearest."""
    return prediction.distance if prediction.name or not prediction.nearest else prediction.nearest[0][1]


def caption(prediction: Prediction) -> str:
    """ "Ana 0.62" or "unknown 1.21": the name, and the distance `apart`."""
    return f"{prediction.name or 'unknown'} {apart(prediction):.2f}"


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
    letters = font(16, title)
    wide = max(columns * (width + gap) + gap, math.ceil(letters.getlength(title)) + 2 * gap)
    sheet = Pillow.new("RGB", (wide, rows * (height + bar + gap) + gap + head), "white")
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, 8), title, fill="black", font=letters)
    for i, (image, text, colour) in enumerate(tiles):
        x = gap + i % columns * (width + gap)
        y = head + gap + i // columns * (height + bar + gap)
        small, _ = fitted(image, [], width, height)
        at = (x + (width - small.shape[1]) // 2, y + (height - small.shape[0]) // 2)
        sheet.paste(Pillow.fromarray(small), at)
        pen.rectangle((x, y + height, x + width, y + height + bar), fill=colour)
        letters = font(12, text)
        end = text[-8:]  # tells photos of one name apart
        while len(text) > len(end) + 2 and pen.textlength(text, font=letters) > width - 6:
            text = f"{text[: -len(end) - 2]}…{end}"
        pen.text((x + 3, y + height + 3), text, fill=WHITE, font=letters)
    return np.asarray(sheet)
