"""MTCNN: the cascade around P-Net, R-Net and O-Net, in NumPy and OpenCV on ONNX Runtime.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
IEEE Signal Processing Letters 2016. Networks, thresholds and arithmetic are those of the mtcnn
package 1.0.0, so that both find the same boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from facerec import runtime, weights
from facerec.types import Face, FloatArray, Image

NAME = "mtcnn"

CELL, STRIDE = 12, 2  # P-Net looks at 12×12 pixels, every second pixel
SCALE_FACTOR = 0.709  # area halves from one pyramid level to the next
P_THRESHOLD, R_THRESHOLD, O_THRESHOLD = 0.6, 0.7, 0.8  # face scores to pass each network
LEVEL_IOU, NMS_IOU = 0.5, 0.7  # suppression inside a pyramid level; everywhere else
MIN_PATCHES, MAX_PATCHES = 16, 512  # of R-Net and O-Net in one call; OpenCV's remap makes at most 32767 rows
GREY = (127.5, 127.5, 127.5)  # zero after normalisation
OUTSIDE = -10.0  # far enough from the image not to be blended with its edge

T = TypeVar("T")
S = TypeVar("S")

Boxes = npt.NDArray[np.float64]
"""(n, 4) float64: x1, y1, x2, y2 in source pixels."""


class MTCNN:
    """The default detector.

    Args:
        min_face: side of the smallest face to look for, pixels.
        min_confidence: faces below are dropped; None for O-Net's threshold, 0.8.
        threads: inside one picture.
    """

    name = NAME
    thread_safe = True

    def __init__(self, min_face: int = 20, min_confidence: float | None = None, threads: int = 1) -> None:
        self.min_face = min_face
        self.threshold = O_THRESHOLD if min_confidence is None else min_confidence
        # Threads take whole pyramid levels and batches of patches: inside these small convolutions they
        # would spend their time waiting for one another.
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads
        nets = (runtime.session(weights.graph(NAME, f"{net}.onnx"), threads=1) for net in ("pnet", "rnet", "onet"))
        self._pnet, self._rnet, self._onet = nets

    def detect(self, image: Image) -> list[Face]:
        """Faces of an RGB image (h, w, 3) uint8, most confident first."""
        pixels = image.astype(np.float32)
        boxes = self._propose(pixels)
        boxes = self._refine(pixels, boxes)
        return self._output(pixels, boxes)

    def _map(self, function: Callable[[T], S], items: Iterable[T]) -> list[S]:
        return list(self._pool.map(function, items) if self._pool else map(function, items))

    def _propose(self, pixels: FloatArray) -> Boxes:
        """P-Net over the image pyramid → square candidates."""
        scales = pyramid(pixels.shape[0], pixels.shape[1], self.min_face)
        if not scales:
            return np.empty((0, 4))
        levels = self._map(lambda scale: self._level(pixels, scale), scales)
        boxes, scores = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        return squared(boxes[suppress(boxes, scores, NMS_IOU)])

    def _level(self, pixels: FloatArray, scale: float) -> tuple[Boxes, FloatArray]:
        """P-Net on one level of the pyramid → boxes and scores."""
        h, w = int(pixels.shape[0] * scale), int(pixels.shape[1] * scale)
        level = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA)
        offsets, probabilities = self._pnet.run(None, {"image": level[None]})
        score = probabilities[0, :, :, 1]
        y, x = np.nonzero(score > P_THRESHOLD)
        # The package counts a cell's pixels from 1 to 12, so it is 11 wide.
        cell = np.stack([x, y, x, y], axis=1) * STRIDE + np.array([1, 1, CELL, CELL])
        boxes = (cell + offsets[0, y, x] * (CELL - 1)) / scale
        keep = suppress(boxes, score[y, x], LEVEL_IOU)
        return boxes[keep], score[y, x][keep]

    def _refine(self, pixels: FloatArray, boxes: Boxes) -> Boxes:
        """R-Net → fewer, better square candidates."""
        if len(boxes) == 0:
            return boxes
        offsets, probabilities = self._run(self._rnet, pixels, boxes, 24)
        keep = probabilities[:, 1] > R_THRESHOLD
        boxes, score = adjusted(boxes[keep], offsets[keep]), probabilities[keep, 1]
        return squared(boxes[suppress(boxes, score, NMS_IOU)])

    def _output(self, pixels: FloatArray, boxes: Boxes) -> list[Face]:
        """O-Net → faces with keypoints."""
        if len(boxes) == 0:
            return []
        offsets, points, probabilities = self._run(self._onet, pixels, boxes, 48)
        keep = probabilities[:, 1] > self.threshold
        boxes, offsets, points, score = boxes[keep], offsets[keep], points[keep], probabilities[keep, 1]
        corner, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
        keypoints = points.reshape(-1, 2, 5).transpose(0, 2, 1) * size + corner - 1
        boxes = adjusted(boxes, offsets)
        limit = np.array([pixels.shape[1], pixels.shape[0]] * 2) - 1
        return [
            Face(tuple(np.clip(boxes[i], 0, limit).tolist()), float(score[i]), keypoints[i])
            for i in suppress(boxes, score, NMS_IOU, of_smaller=True)
        ]

    def _run(self, net: Any, pixels: FloatArray, boxes: Boxes, side: int) -> list[FloatArray]:
        """Cuts the boxes out and runs a network on them, in bounded batches."""
        size = min(max(-(-len(boxes) // self._threads), MIN_PATCHES), MAX_PATCHES)
        parts = self._map(
            lambda start: net.run(None, {"image": patches(pixels, boxes[start : start + size], side)}),
            range(0, len(boxes), size),
        )
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def pyramid(height: int, width: int, min_face: int) -> list[float]:
    """Scales at which a face of P-Net's size stands for faces of `min_face` pixels and above.

    The first scale maps `min_face` to 12 pixels; the last is the smallest that leaves P-Net an input.
    """
    first = CELL / min_face
    levels = math.floor(math.log(min(height, width) * first / CELL) / -math.log(SCALE_FACTOR) + 1e-9) + 1
    return [first * SCALE_FACTOR**i for i in range(max(levels, 0))]


def suppress(
    boxes: Boxes, scores: npt.NDArray[np.floating], threshold: float, of_smaller: bool = False
) -> npt.NDArray[np.intp]:
    """Non-maximum suppression: the rows to keep, best first.

    A box goes when it overlaps any better one, also one that goes itself: the mtcnn package's rule.

    Args:
        boxes: (n, 4).
        scores: (n,).
        threshold: overlap above which the worse box goes.
        of_smaller: overlap as a share of the smaller box instead of the union.
    """
    order = np.argsort(scores)[::-1]
    x1, y1, x2, y2 = boxes[order].T.astype(np.float32)
    area = (x2 - x1) * (y2 - y1)
    keep = np.ones(len(order), bool)
    for start in range(0, len(order), 1024):  # rows in blocks, to bound the matrix
        rows = slice(start, start + 1024)
        w = np.minimum(x2[rows, None], x2) - np.maximum(x1[rows, None], x1)
        h = np.minimum(y2[rows, None], y2) - np.maximum(y1[rows, None], y1)
        shared = np.maximum(w, 0) * np.maximum(h, 0)
        other = np.minimum(area[rows, None], area) if of_smaller else area[rows, None] + area - shared
        worse = np.triu(shared > threshold * other, k=start + 1)
        keep &= ~worse.any(axis=0)
    return order[keep]


def adjusted(boxes: Boxes, offsets: FloatArray) -> Boxes:
    """Boxes moved by a network's bounding-box regression; offsets in shares of the (inclusive) size."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.hstack([size, size])


def squared(boxes: Boxes) -> Boxes:
    """Boxes widened to squares around their centres."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.hstack([centre - half, centre + half])


def patches(pixels: FloatArray, boxes: Boxes, side: int) -> FloatArray:
    """Boxes cut out and resized bilinearly; mid-grey outside the image.

    The sampling grid is that of tf.image.crop_and_resize on boxes given as shares of the image, which
    the mtcnn package uses: corners land on x · (w - 1) / w.

    Returns:
        (n, side, side, 3) float32.
    """
    h, w = pixels.shape[:2]
    shrink = np.array([(w - 1) / w, (h - 1) / h] * 2)
    x1, y1, x2, y2 = (boxes * shrink).T[:, :, None]
    steps = np.arange(side) / (side - 1)
    xs, ys = x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps  # (n, side)
    xs[(xs < 0) | (xs > w - 1)] = OUTSIDE
    ys[(ys < 0) | (ys > h - 1)] = OUTSIDE
    grid = (len(boxes), side, side)
    map_x = np.broadcast_to(xs[:, None, :], grid).astype(np.float32).reshape(-1, side)
    map_y = np.broadcast_to(ys[:, :, None], grid).astype(np.float32).reshape(-1, side)
    cut = cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
    return cut.reshape(*grid, 3).astype(np.float32, copy=False)
