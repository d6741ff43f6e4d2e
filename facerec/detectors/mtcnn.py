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
ROWS, COLUMNS = 16, 20  # of the picture, of a level, that are averaged in one product: most of its weights are not zero
MIN_PATCHES, MAX_PATCHES = 2, 32  # of R-Net and O-Net in one call: their layers fit the cache too
GREY = (127.5, 127.5, 127.5)  # zero after normalisation
OUTSIDE = -10.0  # far enough from the image not to be blended with its edge

T = TypeVar("T")
S = TypeVar("S")

Boxes = npt.NDArray[np.float64]
"""(n, 4) float64: x1, y1, x2, y2 in source pixels."""


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
        """Faces of an RGB image (h, w, 3) uint8, most confident first."""
        with runtime.one_blas_thread():
            boxes = self._propose(image)
        pixels = image.astype(np.float32)
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

    def _propose(self, image: Image) -> Boxes:
        """P-Net over the image pyramid → square candidates."""
        height, width = image.shape[:2]
        scales = pyramid(height, width, self.min_face)
        if not scales:
            return np.empty((0, 4))
        sizes = [(int(height * scale), int(width * scale)) for scale in scales]
        rows = np.stack(cv2.split(image), axis=1).reshape(height, -1)
        bands = [(k, *band) for k, (h, _) in enumerate(sizes) for band in parts(cells(h), TILE)]
        found = self._map(lambda band: self._band(rows, sizes[band[0]], *band[1:]), bands)

        def merged(k: int) -> tuple[Boxes, FloatArray]:
            """Boxes and scores of a level."""
            own = [cells for cells, (level, *_) in zip(found, bands, strict=True) if level == k]
            y, x, values = (np.concatenate(v) for v in zip(*own, strict=True))
            # The package counts a cell's pixels from 1 to 12, so it is 11 wide.
            cell = np.stack([x, y, x, y], axis=1) * STRIDE + np.array([1, 1, CELL, CELL])
            boxes, scores = (cell + values[:, 1:] * (CELL - 1)) / scales[k], logistic(values[:, 0])
            keep = suppress(boxes, scores, LEVEL_IOU)
            return boxes[keep], scores[keep]

        boxes, scores = map(np.concatenate, zip(*map(merged, range(len(scales))), strict=True))
        return squared(boxes[suppress(boxes, scores, NMS_IOU)])

    def _band(
        self, rows: npt.NDArray[Any], size: tuple[int, int], first: int, last: int
    ) -> tuple[Any, Any, FloatArray]:
        """P-Net on rows of a level's cells, tile by tile → y, x and values (n, 5) of those that look like a face.

        Args:
            rows: the picture, (h, 3 · w) uint8: red, green and blue of a row side by side.
            size: height and width of the level.
            first: row of cells.
            last: the one after the last.
        """
        height, width = size
        bottom = height if last == cells(height) else STRIDE * (last - 1) + CELL
        pixels = average_columns(average_rows(rows, height, STRIDE * first, bottom), width)
        tiles = []
        for left, right in parts(cells(width), TILE):
            end = width if right == cells(width) else STRIDE * (right - 1) + CELL
            tiles.append(self._pnet(pixels[:, :, STRIDE * left : end].transpose(1, 0, 2)))
        values = np.concatenate(tiles, axis=2)
        y, x = np.nonzero(values[0] > math.log(P_THRESHOLD / (1 - P_THRESHOLD)))
        return y + first, x, values[:, y, x].T

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
        size = min(max(-(-len(boxes) // self._threads), MIN_PATCHES), MAX_PATCHES)
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


@lru_cache(1024)
def shares(source: int, target: int, first: int, last: int, step: int) -> list[tuple[int, int, int, int, FloatArray]]:
    """How pixels `first` to `last` of a side of `target` pixels average one of `source` pixels, by area.

    Returns:
        For each `step` of them: the first, the one after the last, the same of the source pixels that they
        touch, and the weights (target pixels, source pixels).
    """
    ratio, found = source / target, []
    for begin in range(first, last, step):
        end = min(begin + step, last)
        edges = np.arange(begin, end + 1) * ratio
        low, high = int(edges[0]), min(math.ceil(edges[-1] - 1e-6), source)
        pixel = np.arange(low, high)
        covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        found.append((begin, end, low, high, (np.maximum(covered, 0) / ratio).astype(np.float32)))
    return found


def average_rows(rows: npt.NDArray[Any], height: int, first: int, last: int) -> FloatArray:
    """(source, n) uint8 → rows `first` to `last` of the `height` that it is averaged to by area, (last - first, n)."""
    step = max(round(ROWS * height / len(rows)), 1)
    result = np.empty((last - first, rows.shape[1]), np.float32)
    for begin, end, low, high, share in shares(len(rows), height, first, last, step):
        np.matmul(share, rows[low:high].astype(np.float32), out=result[begin - first : end - first])
    return result


def average_columns(rows: FloatArray, width: int) -> FloatArray:
    """(n, 3 · source) → (n, 3, width), averaged by area."""
    flat = rows.reshape(3 * len(rows), -1)
    result = np.empty((len(flat), width), np.float32)
    for begin, end, low, high, share in shares(flat.shape[1], width, 0, width, COLUMNS):
        np.matmul(flat[:, low:high], share.T, out=result[:, begin:end])
    return result.reshape(-1, 3, width)


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
    x1, y1, x2, y2 = boxes[order].T.astype(np.float32)
    area = (x2 - x1) * (y2 - y1)
    keep = np.ones(len(order), bool)
    for start in range(0, len(order), 64):  # rows in blocks: what a block needs fits a processor's cache
        rows, after = slice(start, start + 64), slice(start, None)
        w = np.minimum(x2[rows, None], x2[after]) - np.maximum(x1[rows, None], x1[after])
        h = np.minimum(y2[rows, None], y2[after]) - np.maximum(y1[rows, None], y1[after])
        shared = np.maximum(w, 0) * np.maximum(h, 0)
        other = np.minimum(area[rows, None], area[after]) if of_smaller else area[rows, None] + area[after] - shared
        keep[after] &= ~np.triu(shared > threshold * other, k=1).any(axis=0)
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
