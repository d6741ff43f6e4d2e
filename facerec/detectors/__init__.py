"""Detectors, one file each: RGB image in, faces out, most confident first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from facerec.errors import UsageError

if TYPE_CHECKING:
    from facerec.types import Detector

log = logging.getLogger("facerec")

DETECTORS = ("mtcnn", "mtcnn-reference", "haar")
DEFAULT_MIN_FACE = 20


def load_detector(
    name: str = "mtcnn",
    *,
    min_face: int = DEFAULT_MIN_FACE,
    min_confidence: float | None = None,
    threads: int = 1,
) -> Detector:
    """Loads a detector.

    Args:
        name: one of `DETECTORS`.
        min_face: side of the smallest face to look for, pixels; the work grows as 1 / min_face².
        min_confidence: faces below are dropped, 0..1; None for the detector's own default.
        threads: inside one picture; 1 where several pictures are worked on side by side.

    Raises:
        UsageError: an unknown name, or a limit out of range.
        WeightsError: the weights cannot be had.
    """
    if min_face < 12:
        raise UsageError(f"--min-face {min_face} is below 12 pixels, the input of the first network", "use 12 or more")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence {min_confidence} is not between 0 and 1")
    least = "its own limit" if min_confidence is None else f"{min_confidence:g}"
    log.info("detector %s, faces from %d pixels, confidence from %s", name, min_face, least)
    if name == "mtcnn":
        from facerec.detectors.mtcnn import MTCNN

        return MTCNN(min_face, min_confidence, threads)
    if name == "mtcnn-reference":
        from facerec.detectors.mtcnn_reference import MTCNNReference

        return MTCNNReference(min_face, min_confidence)
    if name == "haar":
        from facerec.detectors.haar import Haar

        return Haar(min_face, min_confidence)
    raise UsageError(f"there is no detector {name!r}", f"choose one of: {', '.join(DETECTORS)}")
