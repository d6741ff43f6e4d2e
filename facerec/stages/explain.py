"""explain: the faces of a picture beside the closest photos of the people whom they are most like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facerec.classify import NEAREST, Classifier
from facerec.draw import GREEN, ORANGE, RED, contact_sheet
from facerec.images import read_below
from facerec.recognizer import Found
from facerec.types import Image, Prediction


def side_by_side(
    found: Found, predictions: Sequence[Prediction], classifier: Classifier, roots: Sequence[Path]
) -> tuple[Image, int]:
    """A row a face: the face, then the closest photo of each of the nearest people.

    Args:
        found: the faces.
        predictions: what was decided about them.
        classifier: by whom.
        roots: folders that hold the people's crops.

    Returns:
        The sheet, and how many crops are in none of the folders.
    """
    photos, gate = classifier.photos, classifier.gate
    blank = np.full((160, 160, 3), 255, np.uint8)
    lost = 0
    tiles = []
    for crop, vector, p in zip(found.crops, found.vectors, predictions, strict=True):
        tiles.append((crop, p.name or "unknown", GREEN if p.name else ORANGE))
        for name, distance in p.nearest:
            mine = np.flatnonzero(photos.labels == name)
            closest = str(photos.sources[mine[(photos.vectors[mine] @ vector).argmax()]])
            picture = read_below(closest, roots)
            lost += picture is None
            near = distance <= gate.threshold
            tiles.append((blank if picture is None else picture, f"{name} {distance:.2f}", GREEN if near else RED))
        tiles += [(blank, "", (255, 255, 255))] * (NEAREST - len(p.nearest))
    title = f"threshold {gate.threshold:.2f}, margin {gate.margin:.2f}"
    return contact_sheet(tiles, columns=NEAREST + 1, title=title), lost
