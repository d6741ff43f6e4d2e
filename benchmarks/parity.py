"""Our engine against the reference networks: detections against mtcnn 1.x, vectors against keras-facenet."""

from __future__ import annotations

import numpy as np

from benchmarks.common import data, machine, overlap, table
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


def main() -> None:
    """Prints both tables."""
    print(machine())
    ours, theirs = load_detector("mtcnn", threads=2), load_detector("mtcnn-reference")
    counts: dict[str, list[int]] = {}
    distances, crops, found = [], [], []
    for part, image in pictures():
        a, b = ours.detect(image), theirs.detect(image)
        pairs = matches(a, b)
        found.append((image, a))
        total = counts.setdefault(part, [0, 0, 0, 0])
        for i, n in enumerate((1, len(a), len(b), len(pairs))):
            total[i] += n
        distances += [np.linalg.norm(x.keypoints - y.keypoints, axis=1).max() for x, y in pairs]
        crops += [crop_face(image, face, Crop(DEFAULT_MARGIN), 160) for face in b]
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [
        [part, n, ours_n, theirs_n, f"{m / ours_n:.4%}", f"{m / theirs_n:.4%}"]
        for part, (n, ours_n, theirs_n, m) in counts.items()
    ]
    table(["data", "pictures", "our boxes", "mtcnn boxes", "ours matched", "mtcnn's matched"], rows)
    print(
        f"keypoints of the matched, worst of five: median {np.median(distances):.4f} px, "
        f"99.9 % {np.quantile(distances, 0.999):.4f} px"
    )
    rows = []
    for size in (40, 80):
        coarse = load_detector("mtcnn", min_face=size, threads=2)
        wanted = hit = 0
        for image, faces in found:
            large = [face for face in faces if face.size >= size]
            wanted += len(large)
            if large:
                again = coarse.detect(image)
                hit += sum(any(overlap(face, other) >= SAME_FACE for other in again) for face in large)
        rows.append([size, wanted, hit, f"{hit / wanted:.2%}"])
    table(["--min-face", "faces of that size and above at 20", "found again", "share"], rows)
    batch = np.stack(crops)
    v, w = (
        load_embedder(name, crop=Crop(DEFAULT_MARGIN), threads=2).embed(batch)
        for name in ("facenet", "facenet-reference")
    )
    print(f"embeddings: {len(batch)} crops, smallest cosine {(v * w).sum(1).min():.8f}")


if __name__ == "__main__":
    main()
