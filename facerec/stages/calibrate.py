"""calibrate: a gallery or classifier, and photos of strangers → its gate, and a plot of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facerec import gallery as galleries
from facerec import plots
from facerec.artifacts import npz_kind, write_bytes
from facerec.calibrate import Calibration, calibrate
from facerec.classify import Classifier
from facerec.errors import DataError, InputError, UsageError
from facerec.images import find_images, read_image
from facerec.recognizer import find_and_embed
from facerec.stages.common import require_folder
from facerec.types import Detector, Embedder, Embeddings, Failure, FloatArray, Progress, StrArray, no_progress


def photos_of(path: Path) -> Embeddings:
    """The labelled vectors of a gallery or of a classifier."""
    if npz_kind(path) == "classifier":
        return Classifier.load(path).photos
    return galleries.load_embeddings(path)


def calibrate_file(
    path: Path,
    strangers: Path,
    *,
    detector: Detector,
    embedder: Embedder,
    fmr: float,
    fpir: float,
    progress: Progress = no_progress,
) -> tuple[Calibration, Path, list[Failure]]:
    """Chooses a file's gate and stores it in the file.

    Args:
        path: a gallery or a classifier.
        strangers: a folder of photos of people who are not in it; a folder a person in it tells them apart.
        detector: finds their faces.
        embedder: in the space of the file.
        fmr: share of pairs of different people that may be taken for one.
        fpir: share of strangers' searches that may return a name.
        progress: shows how far it is.

    Returns:
        What was measured, the plot, and the photos that could not be used.

    Raises:
        UsageError: no such folder.
        DataError: the photos cannot carry the rates.
    """
    require_folder(strangers, "give a folder of photos of people who are not in the gallery")
    photos = photos_of(path)
    photos.require_space(embedder.space, str(path))
    vectors, who, failed = _strangers(strangers, set(photos.people), detector, embedder, progress)
    result = calibrate(photos.vectors, photos.labels, vectors, who, fmr=fmr, fpir=fpir)
    gate = replace(result.gate, source=f"{time.strftime('%Y-%m-%d')}: {result.gate.source}")
    if npz_kind(path) == "classifier":
        classifier = Classifier.load(path)
        classifier.gate = gate
        classifier.save(path)
    else:
        with galleries.edited(path) as edit:
            edit.rows = replace(edit.rows, gate=gate)
    plot = path.with_suffix(".calibration.png")
    write_bytes(plot, plots.distances(result.genuine, result.impostor, gate.threshold))
    return replace(result, gate=gate), plot, failed


def _strangers(
    folder: Path, enrolled: set[str], detector: Detector, embedder: Embedder, progress: Progress
) -> tuple[FloatArray, StrArray, list[Failure]]:
    """Vectors (m, d), whose they are (m,), and what could not be used, of the photos in a folder."""
    vectors: list[FloatArray] = []
    who: list[str] = []
    failed: list[Failure] = []
    paths: Sequence[Path] = find_images(folder)
    if not paths:
        raise UsageError(f"no photos in {folder}", "give a folder of photos of strangers")
    for path in progress(paths, len(paths), "strangers"):
        name = path.relative_to(folder).as_posix()
        person = path.parent.name if path.parent != folder else name
        if person in enrolled:
            failed.append(Failure(name, f"{person} is in the gallery: no stranger"))
            continue
        try:
            found = find_and_embed(read_image(path), detector, embedder, "largest")
        except InputError as error:
            failed.append(Failure(name, str(error)))
            continue
        if not len(found.vectors):
            failed.append(Failure(name, "no face found"))
            continue
        vectors.append(found.vectors[0])
        who.append(person)
    if not vectors:
        raise DataError(f"not one stranger's face in {folder}", "give photos of people who are not in the gallery")
    return np.stack(vectors), np.array(who), failed
