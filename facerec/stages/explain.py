"""explain: the faces of a picture beside the closest photos of the people whom they are most like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from facerec.classify import NEAREST, Classifier
from facerec.draw import GREEN, ORANGE, RED, contact_sheet
from facerec.recognizer import Found
from facerec.types import Image, Prediction


def side_by_side(
    found: Found,
    predictions: Sequence[Prediction],
    classifier: Classifier,
    picture: Callable[[str], Image | None],
) -> tuple[Image, int]:
    """A row a face: the face, then the closest photo of each of the nearest people.

    Args:
        found: the faces.
        predictions: what was decided about them.
        classifier: by whom.
        picture: source → the crop of one of the people's faces; None where it is gone.

    Returns:
        The sheet, and how many crops are gone.
    """
    gate = classifier.gate
    blank = np.full((160, 160, 3), 255, np.uint8)
    lost = 0
    tiles = []
    for number, (crop, vector, p) in enumerate(zip(found.crops, found.vectors, predictions, strict=True), start=1):
        tiles.append((crop, f"{number}. {p.name or 'unknown'}", GREEN if p.name else ORANGE))
        for name, distance in p.nearest:
            mine = classifier.photos_of(name)
            # of a shared gallery others may have forgotten them just now
            shown = picture(str(mine.sources[(mine.vectors @ vector).argmax()])) if len(mine) else None
            lost += shown is None
            near = distance <= gate.threshold
            tiles.append((blank if shown is None else shown, f"{name} {distance:.2f}", GREEN if near else RED))
        tiles += [(blank, "", (255, 255, 255))] * (NEAREST - len(p.nearest))
    title = f"threshold {gate.threshold:.2f}, margin {gate.margin:.2f}"
    return contact_sheet(tiles, columns=NEAREST + 1, title=title), lost
