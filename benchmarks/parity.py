"""Our engine against the reference networks: detections against mtcnn 1.x, vectors against keras-facenet."""

from __future__ import annotations

import numpy as np

from benchmarks.common import Section, data, overlap
from facerec import runtime
from facerec.detectors import load_detector
from facerec.embedders import DEFAULT_MARGIN, load_embedder
from facerec.images import crop_face, find_images, read_image
from facerec.types import Crop, Face, Image
from facerec.video import Video

MATCH = 0.9  # intersection over union of the same box
SAME_FACE = 0.5  # of two boxes around one face


def pictures() -> list[tuple[str, Image]]:
    """All of lfw-dev, the stage photo, every 5th frame of the videos."""
    found = [("lfw-dev", read_image(path)) for path in find_images(data("lfw-dev"))]
    found += [("photos", read_image(path)) for path in find_images(data("photos"))]
    for path in sorted(data("videos").glob("*.mp4")):
        with Video(path) as video:
            found += [("videos", frame.image) for frame in video.frames(step=5)]
    return found


def matches(found: list[Face], wanted: list[Face]) -> list[tuple[Face, Face]]:
    """Pairs of boxes that overlap by `MATCH`, each box once."""
    pairs, free = [], list(wanted)
    for face in found:
        best = max(free, key=lambda other: overlap(face, other), default=None)
        if best is not None and overlap(face, best) >= MATCH:
            pairs.append((face, best))
            free = [other for other in free if other is not best]
    return pairs


def detections(section: Section) -> list[tuple[Image, list[Face], list[Face]]]:
    """Boxes and keypoints; returns the pictures with both detectors' faces."""
    ours, theirs = load_detector("mtcnn", threads=runtime.cpu_count()), load_detector("mtcnn-reference")
    counts: dict[str, list[int]] = {}
    apart, found = [], []
    for part, image in pictures():
        a, b = ours.detect(image), theirs.detect(image)
        pairs = matches(a, b)
        found.append((image, a, b))
        total = counts.setdefault(part, [0, 0, 0, 0])
        for i, n in enumerate((1, len(a), len(b), len(pairs))):
            total[i] += n
        apart += [np.linalg.norm(x.keypoints - y.keypoints, axis=1).max() for x, y in pairs]
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    section.table(
        f"Boxes that overlap by {MATCH} (intersection over union) with one of the mtcnn package's",
        {
            "data": "{}", "pictures": "{}", "our boxes": "{}", "mtcnn's boxes": "{}", "matched": "{}",
            "of ours": "{:.2%}", "of mtcnn's": "{:.2%}",
        },
        [[part, n, a, b, both, both / a, both / b] for part, (n, a, b, both) in counts.items()],
    )  # fmt: skip
    section.table(
        "Keypoints of the matched, the worst of five, pixels",
        {"median": "{:.3f}", "99.9 %": "{:.3f}"},
        [[np.median(apart), np.quantile(apart, 0.999)]],
    )
    return found


def larger(section: Section, found: list[tuple[Image, list[Face]]]) -> None:
    """What --min-face costs in faces."""
    rows = []
    for size in (40, 80):
        coarse = load_detector("mtcnn", min_face=size, threads=runtime.cpu_count())
        wanted = hit = 0
        for image, faces in found:
            large = [face for face in faces if face.size >= size]
            wanted += len(large)
            if large:
                again = coarse.detect(image)
                hit += sum(any(overlap(face, other) >= SAME_FACE for other in again) for face in large)
        rows.append([size, wanted, hit, hit / wanted])
    section.table(
        "With `--min-face`: the faces of that size and above that are found at 20",
        {"--min-face": "{}", "faces": "{}", "found again": "{}", "share": "{:.2%}"},
        rows,
    )


def main(section: Section) -> None:
    """Boxes, keypoints, vectors."""
    found = detections(section)
    larger(section, [(image, ours) for image, ours, _ in found])
    crop = Crop(DEFAULT_MARGIN)
    crops = np.stack([crop_face(image, face, crop, 160) for image, _, theirs in found for face in theirs])
    ours, theirs = (
        load_embedder(name, crop=crop, threads=runtime.cpu_count()).embed(crops)
        for name in ("facenet", "facenet-reference")
    )
    section.table(
        "Vectors against keras-facenet's network, of the same crops",
        {"crops": "{}", "smallest cosine": "{:.8f}"},
        [[len(crops), (ours * theirs).sum(axis=1).min()]],
    )
