"""Which crop? LFW's protocol on lfw-dev for each margin and shape; and the default distance threshold."""

from __future__ import annotations

import numpy as np

from benchmarks.common import data, machine, table
from facerec import metrics
from facerec.detectors import load_detector
from facerec.embedders import DEFAULT_MARGIN, load_embedder
from facerec.images import choose_faces, crop_face, find_images, read_image
from facerec.types import Crop

FMR = 1e-3
CROPS = [
    *(Crop(m) for m in (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)),
    *(Crop(m, square=True) for m in (0.0, 0.05, 0.1)),
    *(Crop(m, aligned=True) for m in (0.0, 0.1, 0.2, 0.3)),
]


def main() -> None:
    """Prints the table of crops and the threshold of the default one."""
    print(machine())
    folder, pairs = data("lfw-dev"), metrics.read_pairs(data("lfw-dev-pairs.txt"))
    same = np.array([p.same for p in pairs])
    fold = np.array([p.fold for p in pairs])
    detector = load_detector(threads=2)
    photos = [(p.relative_to(folder).as_posix(), read_image(p)) for p in find_images(folder)]
    found = {name: detector.detect(image) for name, image in photos}
    print(f"{len(photos)} photos, {sum(not f for f in found.values())} without a face")

    def evaluate(crop: Crop, choice: str) -> dict[bool, dict[str, np.ndarray]]:
        faces = {name: choose_faces(found[name], choice, image.shape) for name, image in photos}
        crops = {name: crop_face(image, faces[name][0], crop, 160) for name, image in photos if faces[name]}
        batch = np.stack(list(crops.values()))
        straight, mirrored = (
            load_embedder(crop=crop, threads=2).embed(c) for c in (batch, np.ascontiguousarray(batch[:, :, ::-1]))
        )
        both = (straight + mirrored) / np.linalg.norm(straight + mirrored, axis=1, keepdims=True)
        return {flip: dict(zip(crops, v, strict=True)) for flip, v in ((False, straight), (True, both))}

    def accuracy(vectors: dict[str, np.ndarray]) -> str:
        missing = np.full(128, np.nan)
        a, b = (np.array([vectors.get(getattr(p, side), missing) for p in pairs]) for side in ("first", "second"))
        folds = metrics.fold_accuracies(metrics.distance(a, b), same, fold)
        return f"{folds.mean():.4f} ± {folds.std(ddof=1) / np.sqrt(len(folds)):.4f}"

    rows = []
    for crop in CROPS:
        shape = "aligned" if crop.aligned else "square" if crop.square else "stretched"
        row = [shape, f"{crop.margin:.1%}"]
        for choice in ("largest", "central"):
            vectors = evaluate(crop, choice)
            row += [accuracy(vectors[False]), accuracy(vectors[True])]
            if crop == Crop(DEFAULT_MARGIN) and choice == "central":
                default = vectors
        rows.append(row)
        print(" ".join(row), flush=True)
    table(["crop", "margin", "largest", "largest, flip", "central", "central, flip"], rows)

    for flip, vectors in default.items():
        people = np.array([name.split("/")[0] for name in vectors])
        v = np.stack(list(vectors.values()))
        upper = np.triu_indices(len(v), 1)
        impostor = people[upper[0]] != people[upper[1]]
        dist = metrics.distances(v, v)[upper]
        threshold = metrics.threshold_at_fmr(dist[impostor], FMR)
        print(
            f"default crop, flip={flip}: threshold {threshold:.3f} at FMR {FMR:g} over "
            f"{impostor.sum()} impostor pairs; "
            f"FNMR {(dist[~impostor] > threshold).mean():.4f} over {(~impostor).sum()} genuine pairs"
        )


if __name__ == "__main__":
    main()
