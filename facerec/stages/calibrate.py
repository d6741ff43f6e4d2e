"""calibrate: a gallery or classifier, and photos of strangers → its gate, and a plot of it."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facerec import catalogue, plots
from facerec.artifacts import npz_kind, write_bytes
from facerec.calibrate import Calibration, calibrate
from facerec.classify import Classifier, PerPerson
from facerec.errors import DataError, InputError, UsageError
from facerec.galleries import Gallery, Where, open_gallery
from facerec.galleries.file import dated, locked
from facerec.images import find_images, read_image
from facerec.paths import GALLERY
from facerec.recognizer import find_and_embed
from facerec.stages.common import require_folder
from facerec.types import Detector, Embedder, Embeddings, Failure, FloatArray, Progress, StrArray, no_progress

DATABASE_PLOT = "database.calibration.png"
HARDLY, ANY = 1e-4, 0.5
"""Share of pairs of people, and how many of all pairs here, that are expected to be as close as those whom the user is
told of: perhaps they are one person."""


def opened(where: Where) -> Gallery | Classifier:
    """A gallery, or the classifier in a file."""
    if isinstance(where, Path) and npz_kind(where) == "classifier":
        return Classifier.load(where)
    return open_gallery(where)


def photos_of(known: Gallery | Classifier) -> Embeddings:
    """The labelled vectors of a gallery or of a classifier."""
    return known.photos if isinstance(known, Classifier) else known.load()


def calibrate_file(
    where: Where,
    strangers: Path,
    *,
    detector: Detector,
    embedder: Embedder,
    fmr: float,
    fpir: float,
    progress: Progress = no_progress,
) -> tuple[Calibration, Path, list[Failure], list[Failure], list[Failure]]:
    """Chooses the gate of a gallery or classifier and stores it there.

    Photos in a folder that is called like somebody enrolled, whatever the case, accents and punctuation, are left out.

    Args:
        where: a gallery, or a classifier's file.
        strangers: a folder of photos of people who are not in it; a folder a person in it tells them apart.
        detector: finds their faces.
        embedder: in its space.
        fmr: share of pairs of different people that may be taken for one.
        fpir: share of strangers' searches that may return a name.
        progress: shows how far it is.

    Returns:
        What was measured, the plot, the photos that could not be used, those of people who are no strangers, and
        those that look so much like somebody enrolled that they may be no strangers either; these were used.

    Raises:
        UsageError: no such folder.
        DataError: the photos cannot carry the rates.
    """
    require_folder(strangers, "give a folder of photos of people who are not in the gallery")
    known = opened(where)
    photos = photos_of(known)
    photos.require_space(embedder.space, str(where))
    enrolled = {_bare(name) for name in photos.people}
    names, vectors, who, failed, no_strangers = _strangers(strangers, enrolled, detector, embedder, progress)
    alike = _alike(names, vectors, who, photos)
    try:
        result = calibrate(photos.vectors, photos.labels, vectors, who, fmr=fmr, fpir=fpir)
    except DataError as error:
        suspect = f"; {alike[0].source} {alike[0].reason}: if it is the same person, take it away" if alike else ""
        raise DataError(error.what, error.cure + suspect) from None
    gate = replace(result.gate, source=f"{time.strftime('%Y-%m-%d')}: {result.gate.source}")
    if isinstance(where, Path) and isinstance(known, Classifier):
        with locked(where), dated(where):
            classifier = Classifier.load(where)  # as it is by now
            classifier.gate = gate
            classifier.save(where)
    elif not isinstance(known, Classifier):
        known.edit(lambda about: replace(about, gate=gate))
    plot = where.with_suffix(".calibration.png") if isinstance(where, Path) else GALLERY.parent / DATABASE_PLOT
    write_bytes(plot, plots.distances(result.genuine, result.impostor, gate.threshold))
    return replace(result, gate=gate), plot, failed, no_strangers, alike


def _bare(name: str) -> str:
    """A name without case, Latin accents and punctuation."""
    text = (c for c in unicodedata.normalize("NFKD", name).casefold() if not "\u0300" <= c <= "\u036f")
    words = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()
    return " ".join(words) or name


def _alike(names: list[str], vectors: FloatArray, who: StrArray, photos: Embeddings) -> list[Failure]:
    """Strangers who are closer to somebody enrolled than of so many pairs of people any are likely to be."""
    if not len(photos):
        return []
    pairs = len(photos.people) * len(np.unique(who))
    apart = PerPerson(photos.vectors, photos.labels).distances(vectors)
    found = []
    for row in np.argsort(apart.min(axis=1)).tolist():
        person = int(apart[row].argmin())
        rate = catalogue.false_match_rate(photos.space.model, float(apart[row, person]))
        if rate is None or rate[1] > min(HARDLY, ANY / pairs):
            break
        found.append(Failure(names[row], f"looks like {photos.people[person]} ({apart[row, person]:.2f})"))
    return found


def _strangers(
    folder: Path, enrolled: set[str], detector: Detector, embedder: Embedder, progress: Progress
) -> tuple[list[str], FloatArray, StrArray, list[Failure], list[Failure]]:
    """Names (m,), vectors (m, d), whose they are (m,), what could not be used, and who is enrolled, of a folder's
    photos."""
    names: list[str] = []
    vectors: list[FloatArray] = []
    who: list[str] = []
    failed: list[Failure] = []
    known: list[Failure] = []
    paths: Sequence[Path] = find_images(folder)
    if not paths:
        raise UsageError(f"no photos in {folder}", "give a folder of photos of strangers")
    for path in progress(paths, len(paths), "strangers"):
        name = path.relative_to(folder).as_posix()
        person = name.split("/")[0]
        if _bare(person) in enrolled:
            known.append(Failure(name, f"{person} is in the gallery: no stranger"))
            continue
        try:
            found = find_and_embed(read_image(path), detector, embedder, "largest")
        except InputError as error:
            failed.append(Failure(name, str(error)))
            continue
        if not len(found.vectors):
            failed.append(Failure(name, "no face found"))
            continue
        names.append(name)
        vectors.append(found.vectors[0])
        who.append(person)
    if not vectors:
        raise DataError(f"not one stranger's face in {folder}", "give photos of people who are not in the gallery")
    return names, np.stack(vectors), np.array(who), failed, known
