"""enroll: photos of one person → rows of a gallery, without training anything again."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facerec.classify import Classifier
from facerec.errors import InputError
from facerec.galleries import Gallery
from facerec.images import crop_face, encode_image, read_image
from facerec.quality import TO_ENROLL, Quality, assess
from facerec.stages.common import folded, require_name, require_npz
from facerec.stages.names import names_of
from facerec.types import Detector, Embedder, Embeddings, Face, Failure, Gate, Image, StageReport


@dataclass
class EnrollReport(StageReport):
    """A `StageReport` with who is enrolled now and what is odd about it.

    Attributes:
        name: the person.
        photos: they have in the gallery now.
        people: in the gallery now.
        warnings: a face that looks like somebody else, or not like the person's other photos.
    """

    name: str = ""
    photos: int = 0
    people: int = 0
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        more = {k: getattr(self, k) for k in ("name", "photos", "people", "warnings")}
        return {**super().to_json(), **more}


def enroll(
    name: str,
    photos: Sequence[Path],
    gallery: Gallery,
    *,
    detector: Detector,
    embedder: Embedder,
    gate: Gate | None,
    face: int | None = None,
    force: bool = False,
) -> EnrollReport:
    """Adds a person's photos, with their crops, to a gallery.

    Args:
        name: the person.
        photos: each with one clear face of theirs.
        gallery: to be made where there is none.
        detector: finds the faces.
        embedder: in the space of the gallery.
        gate: tells whether a face looks like somebody who is enrolled already; None where it is not known.
        face: which face of each photo, 1 is the leftmost; None where there is one clear one.
        force: take faces that are not good enough, and the largest of several.

    Raises:
        UsageError: a name that cannot be one.
        ArtifactError: the gallery is damaged, or cannot be written or reached.
        SpaceError: it holds vectors of another space.
    """
    start = time.perf_counter()
    if isinstance(gallery.where, Path):
        require_npz(gallery.where, "embeddings")
    name = require_name(name)
    report = EnrollReport("enroll", gallery.where, name=name)
    if gallery.exists():
        gallery.about().require_space(embedder.space, str(gallery))
    taken: list[tuple[str, Image, Quality]] = []
    chosen: list[str] = []
    for photo in photos:
        try:
            crop, quality, which = _pick(read_image(photo), detector, embedder, face, force)
            taken.append((photo.stem, crop, quality))
            chosen += [f"of {photo.name} {which} was taken"] if which else []
        except InputError as error:
            report.failed.append(Failure(str(photo), str(error), name))
    if taken:
        rows, crops = gallery_rows(name, taken, gallery.folder, embedder, detector.name)
        _, first = np.unique(rows.digests, return_index=True)
        rows = rows[np.sort(first)]  # a photo that was given twice is one
        report.done = gallery.add(rows, crops.get)
        report.skipped = len(taken) - report.done
    if gallery.exists():
        now = names_of(gallery, gate=gate or Gate(0.0))
        report.photos, report.people = len(now.photos_of(name)), len(now.people)
        report.warnings = chosen + [
            f"there is {other} too, who is called the same but for upper and lower case: {_together(other, name)}"
            for other in now.people
            if other != name and folded(other) == folded(name)
        ]
        report.warnings += _odd(rows, now, gate) if gate and taken else []
    report.seconds = time.perf_counter() - start
    return report


def gallery_rows(
    name: str, faces: Sequence[tuple[str, Image, Quality]], folder: str, embedder: Embedder, detector: str
) -> tuple[Embeddings, dict[str, bytes]]:
    """A person's faces as rows for a gallery, and their crops, by source.

    Args:
        name: the person.
        faces: (what the picture is called, crop, quality) each.
        folder: of the gallery's crops.
        embedder: in its space.
        detector: name of the one that found them.
    """
    sources, digests, crops = [], [], {}
    for called, crop, _ in faces:
        data = encode_image(crop, ".png")
        digests.append(hashlib.sha256(data).hexdigest())
        sources.append(f"{folder}/{name}/{called}-{digests[-1][:8]}.png")
        crops[sources[-1]] = data
    n = len(faces)
    rows = Embeddings(
        embedder.embed(np.stack([crop for _, crop, _ in faces])),
        np.full(n, name),
        np.array(sources),
        np.full(n, "train"),
        np.array(digests),
        embedder.space,
        detector,
        quality=np.array([quality.score for *_, quality in faces], np.float32),
        added=np.full(n, time.strftime("%Y-%m-%d")),
    )
    return rows, crops


def _pick(
    image: Image, detector: Detector, embedder: Embedder, number: int | None, force: bool
) -> tuple[Image, Quality, str]:
    """The crop of the face to enrol, and, of several, which it is; raises `InputError` where there is no such face."""
    faces = sorted(detector.detect(image), key=lambda f: f.box[0])
    if not faces:
        raise InputError("no face found", "give a photo that shows the face larger or from the front")
    crops = [crop_face(image, f, embedder.space.crop, embedder.input_size) for f in faces]
    qualities = [assess(f, crop) for f, crop in zip(faces, crops, strict=True)]
    clear = [i for i, q in enumerate(qualities) if not q.problems(TO_ENROLL)]
    largest = max(range(len(faces)), key=lambda i: faces[i].size)
    if number is not None:
        if not 1 <= number <= len(faces):
            raise InputError(f"there is no face {number}", _listed(faces))
        chosen = number - 1
    elif len(clear) > 1 and not force:
        raise InputError(f"{len(clear)} clear faces", f"choose with --face: {_listed(faces)}")
    else:
        chosen = clear[0] if len(clear) == 1 else largest
    if not force and (problems := qualities[chosen].problems(TO_ENROLL)):
        raise InputError("; ".join(problems), "give a better photo, or take it all the same with --force")
    which = f"face {chosen + 1} of {len(faces)} from the left, {_placed(faces[chosen])}," if len(faces) > 1 else ""
    return crops[chosen], qualities[chosen], which


def _listed(faces: list[Face]) -> str:
    return f"face {', '.join(f'{i} {_placed(f)}' for i, f in enumerate(faces, start=1))}"


def _placed(face: Face) -> str:
    return f"at ({face.box[0]:.0f}, {face.box[1]:.0f}), {face.size:.0f} px"


def _together(who: str, name: str) -> str:
    return f"if they are one person, facerec rename {shlex.quote(who)} {shlex.quote(name)} --merge"


def _odd(rows: Embeddings, now: Classifier, gate: Gate) -> list[str]:
    """What a person should look at: new photos that look like somebody else, or unlike the person's others."""
    name = str(rows.labels[0])
    alike: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for source, decision in zip(rows.sources.tolist(), now.decide(rows.vectors), strict=True):
        who, apart = next(((who, apart) for who, apart in decision.nearest if who != name), ("", np.inf))
        if apart <= gate.threshold:
            alike[who].append((apart, Path(source).name))
    found = []
    for who, photos in alike.items():
        apart, closest = min(photos)
        more = f" (of {len(photos)} that do)" if len(photos) > 1 else ""
        found.append(f"{closest}{more} looks like {who}, who is enrolled already ({apart:.2f}): {_together(who, name)}")
    mine = now.photos_of(name)
    for source, digest, vector in zip(rows.sources, rows.digests, rows.vectors, strict=True):
        rest = mine.vectors[mine.digests != digest]
        if len(rest) and (nearest := float(np.linalg.norm(rest - vector, axis=1).min())) > gate.threshold:
            found.append(f"{Path(str(source)).name} does not look like {name}'s other photos ({nearest:.2f})")
    return found
