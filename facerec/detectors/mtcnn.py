"""MTCNN: the cascade around P-Net, R-Net and O-Net, in NumPy and OpenCV.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
IEEE Signal Processing Letters 2016. Networks, thresholds and arithmetic are those of the mtcnn
package 1.0.0, so that both find the same boxes. P-Net, which sees the whole picture at every scale, runs
on ncnn, whose Winograd convolutions need half the time; R-Net and O-Net, which see batches of patches,
on ONNX Runtime.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
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
TILE = 48  # of P-Net's cells, in both directions: what a tile needs fits a processor's cache
SMALL = 576  # cells of a level that is too little to be handed over by itself
STRIPE, FINE_STRIPE = 64, 32  # rows of the picture that are averaged in one product: most of its weights are not zero
BAND = 256  # rows of the picture that are converted in one task
FINE = 1 / 8  # scale from which on a level is averaged in fine stripes
MIN_PATCHES, MAX_PATCHES = 2, 16  # of R-Net and O-Net in one call: their layers fit the cache too
BLOCK = 64  # boxes compared with all later ones at once: what a block needs fits a processor's cache
LATER = np.triu(np.ones((BLOCK, BLOCK), bool), k=1)
GREY = (127.5, 127.5, 127.5)  # zero after normalisation
OUTSIDE = -10.0  # far enough from the image not to be blended with its edge

T = TypeVar("T")
S = TypeVar("S")

Boxes = npt.NDArray[np.float64]
"""(n, 4) float64: x1, y1, x2, y2 in source pixels."""

Tile = tuple[int, tuple[int, int], tuple[int, int]]
"""Level; rows of cells, from and to; columns."""

Stripe = tuple[int, int, FloatArray, list[tuple[int, int, int, int]]]
"""Rows of the picture, from and to; their weights in each averaged row; where those belong: level, rows from and to,
and the first of them among all."""


class MTCNN(runtime.Portable):
    """The default detector.

    Args:
        min_face: side of the smallest face to look for, pixels.
        min_confidence: faces below are dropped; None for O-Net's threshold, 0.8.
        threads: inside one picture.
    """

    name = NAME

    def __init__(self, min_face: int = 20, min_confidence: float | None = None, threads: int = 1) -> None:
        self.min_face = min_face
        self.threshold = O_THRESHOLD if min_confidence is None else min_confidence
        # Threads take whole tiles and batches of patches: inside these small convolutions they would spend
        # their time waiting for one another.
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._threads = threads
        self._pnet = runtime.Net(weights.graph(NAME, "pnet.param"), weights.graph(NAME, "pnet.bin"))
        self._rnet, self._onet = (
            runtime.session(weights.graph(NAME, f"{net}.onnx"), threads=1) for net in ("rnet", "onet")
        )

    def detect(self, image: Image) -> list[Face]:
        """Faces of an RGB image (h, w, 3) uint8, most confident first.

        Raises:
            ValueError: another shape or dtype.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is (h, w, 3) uint8, not {image.shape} {image.dtype}")
        pixels = self._floats(image)
        with runtime.one_blas_thread():
            boxes = self._propose(pixels)
        boxes = self._refine(pixels, boxes)
        return self._output(pixels, boxes)

    def _map(self, function: Callable[[T], S], items: Iterable[T]) -> list[S]:
        """Results in order; this thread works too, since handing over costs as much as a small item."""
        todo = deque(enumerate(items))
        results: dict[int, S] = {}

        def work() -> None:
            while True:
                try:
                    i, item = todo.popleft()
                except IndexError:
                    return
                results[i] = function(item)

        helpers = [self._pool.submit(work) for _ in range(min(self._threads, len(todo)) - 1)] if self._pool else []
        work()
        for helper in helpers:
            helper.result()
        return [result for _, result in sorted(results.items())]

    def _floats(self, image: Image) -> FloatArray:
        """The picture as float32."""
        pixels = np.empty(image.shape, np.float32)

        def convert(part: tuple[int, int]) -> None:
            pixels[slice(*part)] = image[slice(*part)]

        self._map(convert, parts(len(image), BAND))
        return pixels

    def _propose(self, pixels: FloatArray) -> Boxes:
        """P-Net over the image pyramid → square candidates."""
        height, width = pixels.shape[:2]
        scales = pyramid(height, width, self.min_face)
        if not scales:
            return np.empty((0, 4))
        levels = self._levels(pixels, tuple((int(height * scale), int(width * scale)) for scale in scales))
        values = [np.empty((5, *map(cells, level.shape[:2])), np.float32) for level in levels]
        tiles = [
            [(k, rows, columns) for rows in parts(found.shape[1], TILE) for columns in parts(found.shape[2], TILE)]
            for k, found in enumerate(values)
        ]
        left = [iter(range(len(of_level) - 1, -1, -1)) for of_level in tiles]  # tiles of the level after each

        def search(task: list[Tile]) -> list[tuple[Boxes, FloatArray]]:
            """P-Net on tiles; after a level's last one, its boxes: the other threads are busy meanwhile."""
            complete = []
            for k, (top, bottom), (first, last) in task:
                level, found = levels[k], values[k]
                end_y = len(level) if bottom == found.shape[1] else STRIDE * (bottom - 1) + CELL
                end_x = level.shape[1] if last == found.shape[2] else STRIDE * (last - 1) + CELL
                tile = level[STRIDE * top : end_y, STRIDE * first : end_x]
                found[:, top:bottom, first:last] = self._pnet(tile.transpose(2, 0, 1))
                if next(left[k]) == 0:
                    complete.append(candidates(found, scales[k]))
            return complete

        large = [found[0].size > SMALL for found in values]
        together = [tile for of_level in tiles for tile in of_level if not large[tile[0]]]
        one_by_one = [[tile] for of_level in tiles for tile in of_level if large[tile[0]]]
        complete = itertools.chain(*self._map(search, [together, *one_by_one]))
        boxes, scores = map(np.concatenate, zip(*complete, strict=True))
        return squared(boxes[suppress(boxes, scores, NMS_IOU)])

    def _levels(self, pixels: FloatArray, sizes: tuple[tuple[int, int], ...]) -> list[FloatArray]:
        """The picture averaged by area to each (height, width), float32: rows first, then columns."""
        height, width = pixels.shape[:2]
        rows = pixels.reshape(height, -1)
        levels = [np.empty((*size, 3), np.float32) for size in sizes]

        def average(stripe: Stripe) -> None:
            low, high, share, targets = stripe
            averaged = (share @ rows[low:high]).reshape(-1, width, 3)
            for k, begin, end, first in targets:
                part, into = averaged[first : first + end - begin], levels[k][begin:end]
                cv2.resize(part, (into.shape[1], len(into)), dst=into, interpolation=cv2.INTER_AREA)

        self._map(average, stripes(height, tuple(h for h, _ in sizes)))
        return levels

    def _refine(self, pixels: FloatArray, boxes: Boxes) -> Boxes:
        """R-Net → fewer, better square candidates."""
        if len(boxes) == 0:
            return boxes
        values = self._run(self._rnet, pixels, boxes, 24)
        score = logistic(values[:, 0])
        keep = score > R_THRESHOLD
        boxes, score = adjusted(boxes[keep], values[keep, 1:]), score[keep]
        return squared(boxes[suppress(boxes, score, NMS_IOU)])

    def _output(self, pixels: FloatArray, boxes: Boxes) -> list[Face]:
        """O-Net → faces with keypoints."""
        if len(boxes) == 0:
            return []
        values = self._run(self._onet, pixels, boxes, 48)
        score = logistic(values[:, 0])
        keep = score > self.threshold
        boxes, offsets, points, score = boxes[keep], values[keep, 1:5], values[keep, 5:], score[keep]
        corner, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
        keypoints = points.reshape(-1, 2, 5).transpose(0, 2, 1) * size + corner - 1
        boxes = adjusted(boxes, offsets)
        limit = np.array([pixels.shape[1], pixels.shape[0]] * 2) - 1
        return [
            Face(tuple(np.clip(boxes[i], 0, limit).tolist()), float(score[i]), keypoints[i])
            for i in suppress(boxes, score, NMS_IOU, of_smaller=True)
        ]

    def _run(self, net: Any, pixels: FloatArray, boxes: Boxes, side: int) -> FloatArray:
        """Cuts the boxes out and runs a network on them, in bounded batches → its output, a row a box."""
        size = max(runtime.share(len(boxes), MAX_PATCHES, self._threads), MIN_PATCHES)
        return np.concatenate(
            self._map(
                lambda part: net.run(None, {"image": patches(pixels, boxes[slice(*part)], side)})[0],
                parts(len(boxes), size),
            )
        )


def pyramid(height: int, width: int, min_face: int) -> list[float]:
    """Scales at which a face of P-Net's size stands for faces of `min_face` pixels and above.

    The first scale maps `min_face` to 12 pixels; the last is the smallest that leaves P-Net an input.
    """
    first = CELL / min_face
    levels = math.floor(math.log(min(height, width) * first / CELL) / -math.log(SCALE_FACTOR) + 1e-9) + 1
    return [first * SCALE_FACTOR**i for i in range(max(levels, 0))]


def cells(side: int) -> int:
    """Cells of P-Net along a side of so many pixels."""
    return (side - 1) // STRIDE - 4


def parts(n: int, most: int) -> list[tuple[int, int]]:
    """0 to n in the fewest parts of at most `most`, all about as long."""
    count = -(-n // most)
    edges = [n * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


@lru_cache(32)
def stripes(source: int, heights: tuple[int, ...]) -> list[Stripe]:
    """How the rows of a picture of height `source` are averaged by area to levels of these heights.

    A stripe of the picture gives the rows that begin in it, of all levels in one product.
    """
    found: list[Stripe] = []
    for fine, step in ((True, FINE_STRIPE), (False, STRIPE)):
        starts = range(0, source + step, step)
        edges = {k: np.arange(h + 1) * (source / h) for k, h in enumerate(heights) if (h >= FINE * source) == fine}
        first = {k: np.searchsorted(edge[:-1], starts).tolist() for k, edge in edges.items()}
        for i, start in enumerate(starts[:-1]):
            targets, n = [], 0
            for k in edges:
                begin, end = first[k][i : i + 2]
                if begin < end:
                    targets.append((k, begin, end, n))
                    n += end - begin
            if targets:
                low, high = (
                    np.concatenate([edges[k][begin + after : end + after] for k, begin, end, _ in targets])[:, None]
                    for after in (0, 1)
                )
                stop = min(math.ceil(high.max() - 1e-6), source)
                pixel = np.arange(start, stop)
                covered = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
                found.append((start, stop, (np.maximum(covered, 0) / (high - low)).astype(np.float32), targets))
    return found


def candidates(values: FloatArray, scale: float) -> tuple[Boxes, FloatArray]:
    """P-Net's output on a level (5, h, w) → its boxes in source pixels, and their scores, best first."""
    y, x = np.nonzero(values[0] > math.log(P_THRESHOLD / (1 - P_THRESHOLD)))
    found = values[:, y, x].T
    # The package counts a cell's pixels from 1 to 12, so it is 11 wide.
    cell = np.stack([x, y, x, y], axis=1) * STRIDE + np.array([1, 1, CELL, CELL])
    boxes, scores = (cell + found[:, 1:] * (CELL - 1)) / scale, logistic(found[:, 0])
    keep = suppress(boxes, scores, LEVEL_IOU)
    return boxes[keep], scores[keep]


def logistic(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x))."""
    return np.divide(1, 1 + np.exp(-values), dtype=np.float32)


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
    if len(order) < 2:
        return order
    x1, y1, x2, y2 = boxes[order].T
    area = ((x2 - x1) * (y2 - y1)).astype(np.float32)
    # shared > threshold · (a + b - shared) is factor · shared > a + b, and the factor can be put into the widths
    factor = 1 / threshold if of_smaller else (1 + threshold) / threshold
    x1, y1, x2, y2 = (v.astype(np.float32) for v in (x1 * factor, y1, x2 * factor, y2))
    both = np.minimum if of_smaller else np.add
    keep = np.ones(len(order), bool)
    for start in range(0, len(order), BLOCK):
        rows, after = slice(start, start + BLOCK), slice(start, None)
        shared = np.minimum(x2[rows, None], x2[after])
        shared -= np.maximum(x1[rows, None], x1[after])
        h = np.minimum(y2[rows, None], y2[after])
        h -= np.maximum(y1[rows, None], y1[after])
        np.maximum(shared, 0, out=shared)  # where h is below 0, it stays below every area
        shared *= h
        over = shared > both(area[rows, None], area[after])
        over[:, :BLOCK] &= LATER[: len(over), : over.shape[1]]
        keep[after] &= ~over.any(axis=0)
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
    map_x, map_y = (np.empty((len(boxes), side, side), np.float32) for _ in range(2))
    map_x[:], map_y[:] = xs[:, None, :], ys[:, :, None]
    maps = map_x.reshape(-1, side), map_y.reshape(-1, side)
    cut = cv2.remap(pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
    return cut.reshape(-1, side, side, 3).astype(np.float32, copy=False)
