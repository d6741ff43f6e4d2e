"""detect: raw_images/NAME/* → processed/{train,test}/NAME/*.png, faces of 160×160."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from facerec import stores
from facerec.artifacts import write_image
from facerec.errors import InputError, UsageError
from facerec.images import choose_faces, crop_face, is_image, natural_key, read_image, walk_files
from facerec.manifests import read_manifest
from facerec.paths import CLUSTERED, NOISE, RAW, SHEET
from facerec.scratch import Tables, packed, unpacked
from facerec.stages.common import canonical, output_names, require_apart, require_folder, require_name
from facerec.stages.process import Item, process, require_some
from facerec.types import Crop, Detector, FaceChoice, Progress, StageReport, no_progress

SIZE = 160
NO_FACE_FOUND = "no face found"
Split = Literal["auto", "blocks", "random"]
GAP = "gap"
BLOCKS, MIN_BLOCK = 3, 4  # test blocks in a video, and their smallest size in frames
_GIVEN_SPLITS = {"train": "train", "test": "test", "val": "test"}
TABLES = """
CREATE TABLE photos (name BLOB, natural BLOB, top BLOB, given TEXT, second BLOB);
CREATE TABLE frames (name BLOB PRIMARY KEY, video BLOB, seconds REAL) WITHOUT ROWID;
"""
Times = dict[Path, tuple[str, float]]
"""Photo → (its video, its second), for the frames that ``facerec extract`` wrote."""


def detect(
    inputs: Path,
    output: Path,
    *,
    detector: Detector,
    crop: Crop,
    size: int = SIZE,
    faces: FaceChoice = "largest",
    min_face: int,
    min_confidence: float | None,
    test_size: float = 0.3,
    split: Split = "auto",
    jobs: int = 1,
    cluster: str | None = None,
    force: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> StageReport:
    """Finds the face in each photo, cuts it out, and puts it on one side of the split.

    Args:
        inputs: usually raw_images/: a folder a person, or train/ and test/ (or val/) with a folder a person. It may
            be in a store, as the output may.
        output: usually processed/.
        detector: finds the faces.
        crop: how they are cut out.
        size: side of the crops, pixels.
        faces: which of several faces.
        min_face: as the detector was loaded with; recorded, since it changes the result.
        min_confidence: likewise.
        test_size: share of each person's photos for testing, 0..1 (exclusive of 1).
        split: "blocks" keeps neighbouring frames of a video on one side, "random" shuffles; "auto" takes
            blocks for frames that ``facerec extract`` made and random for other photos.
        jobs: photos treated side by side.
        cluster: where else they are treated, see `facerec.parallel.spread`.
        force: treat all again.
        strict: stop at the first photo that fails.
        progress: shows how far it is.

    Raises:
        UsageError: no folder, no photos, a number out of range.
        ArtifactError: the output cannot be written.
    """
    require_folder(inputs, "make it with `facerec extract videos/`, or put photos into raw_images/NAME/")
    if stores.is_folder(inputs / RAW):
        raise UsageError(f"{inputs} is a whole project", f"give its photos: {inputs / RAW}")
    require_apart(inputs, output)
    if not 0 <= test_size < 1:
        raise UsageError(f"--test-size {test_size} is not between 0 and 1")
    people = labelled_photos(inputs)
    first = next(people, ([], {}))
    second = next(people, None)
    if first[0] and not first[0][0].label and second is None:
        raise UsageError(
            f"no photo in {inputs} lies in a person's folder",
            f"give {inputs.parent} if {inputs.name} is a person, put them into {inputs}/NAME/, or, of people unknown: "
            f"facerec cluster {inputs}",
        )
    people = itertools.chain([first], [second] if second else [], people)
    found = (item for person in people for item in assign_splits(*person, test_size, split))
    items = require_some(found, f"no photos in {inputs}", f"put them into {inputs}/NAME/, a folder a person")
    options = {
        "detector": detector.name,
        "min_face": min_face,
        "min_confidence": min_confidence,
        "faces": faces,
        "crop": asdict(crop),
        "size": size,
    }

    return process(
        "detect",
        items,
        [inputs],
        output,
        options,
        partial(_faces, inputs, output.absolute(), detector, crop, size, faces),
        jobs=jobs if detector.thread_safe else 1,
        cluster=cluster,
        force=force,
        strict=strict,
        progress=progress,
    )


def _faces(
    inputs: Path, output: Path, detector: Detector, crop: Crop, size: int, choice: FaceChoice, item: Item
) -> list[dict[str, Any]]:
    """`cut_faces` of a photo that has a person and is not kept out."""
    if not item.label:
        raise InputError("no person", f"move it into {inputs}/NAME/")
    if item.label not in _GIVEN_SPLITS:  # beside other people's folders these are people's too
        try:
            require_name(item.label)
        except UsageError as error:
            raise InputError(error.what, "rename the folder") from None
    return [] if item.split == GAP else cut_faces(output, detector, crop, size, choice, item)


def cut_faces(
    output: Path, detector: Detector, crop: Crop, size: int, choice: FaceChoice, item: Item
) -> list[dict[str, Any]]:
    """Finds a photo's faces and writes their crops to ``SPLIT/LABEL/NAME.png``; returns the manifest's outputs.

    Raises:
        InputError: the photo cannot be read, or shows no face.
    """
    image = read_image(item.path)
    chosen = choose_faces(detector.detect(image), choice, image.shape)
    if not chosen:
        raise InputError(NO_FACE_FOUND)
    outputs = []
    for i, face in enumerate(chosen):
        # a photo that is called like another's face gets a number too
        number = f"~{i + 1}" if len(chosen) > 1 or re.search(r"~\d+$", item.name) else ""
        relative = Path(item.split, item.label, f"{item.name}{number}.png").as_posix()
        write_image(output / relative, crop_face(image, face, crop, size))
        outputs.append({"path": relative, **face.to_json()})
    return outputs


def labelled_photos(inputs: Path) -> Iterator[tuple[list[Item], Times]]:
    """A person's photos at a time, in natural order; with their split where the folders say it, and frames' times."""
    with contextlib.closing(Tables(TABLES)) as tables:
        tops: set[str] = set()
        deepest = 0
        clustered = stores.is_file(inputs / CLUSTERED)  # whose noise is nobody, and whose sheet is no photo
        for path in walk_files(inputs, is_image):
            *folders, _ = parts = path.relative_to(inputs).parts
            if clustered and parts[0] in (NOISE, SHEET):
                continue
            top, second = map(canonical, [*folders, "", ""][:2])
            if tops <= _GIVEN_SPLITS.keys():  # otherwise it doesn't matter
                tops.update(folders[:1])
            deepest = max(deepest, len(parts))
            name = Path(*parts).as_posix()
            given = _GIVEN_SPLITS.get(top, "")
            tables.execute(
                "INSERT INTO photos VALUES (?, ?, ?, ?, ?)",
                *(packed(name), natural_key(name), packed(top), given, packed(second)),
            )
        for record in read_manifest(inputs):
            for out in record.outputs:
                if "seconds" in out:
                    values = packed(out["path"]), packed(record.input), out["seconds"]
                    tables.execute("REPLACE INTO frames VALUES (?, ?, ?)", *values)
        presplit = tops <= _GIVEN_SPLITS.keys() and deepest > 2
        person = "given, second" if presplit else "'', top"
        rows = tables.rows(
            f"SELECT {person}, name, video, seconds FROM photos LEFT JOIN frames USING (name) ORDER BY 1, 2, natural, 3"
        )
        for (given, label), photos in itertools.groupby(rows, lambda row: row[:2]):
            names, items, times = [], [], {}
            for _, _, name, video, seconds in photos:
                names.append(unpacked(name))
                if video is not None:
                    times[inputs / names[-1]] = unpacked(video), seconds
            above = bool(given) + bool(label)
            relative = [Path(*Path(name).parts[above:]) for name in names]
            for name, output in zip(names, output_names(relative), strict=True):
                items.append(Item(inputs / name, unpacked(label), given, output))
            yield items, times


def assign_splits(items: Sequence[Item], times: Times, test_size: float, split: Split) -> list[Item]:
    """Puts every photo into "train" or "test", person by person; those the folders decide are left alone.

    Frames of a video are split into stretches, with a block of test frames in the middle of each, and the
    frame on either side of a block is kept out ("gap"): no training frame stands next to a test frame, and
    both sides see the whole video. Photos are drawn by a hash of their name. Neither depends on the order,
    on other people or on what the person is called, and everybody keeps at least one training photo.
    """
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.label and not item.split:
            video, _ = times.get(item.path, ("", 0.0))
            groups[item.label, video or (str(item.path.parent) if split == "blocks" else "")].append(item)
    assigned: dict[Path, str] = {}
    for (_, source), group in groups.items():
        n = len(group)
        tests = min(round(test_size * n), n - 1)
        if tests < 1:
            assigned.update({item.path: "train" for item in group})
        elif split == "blocks" or (split == "auto" and source):
            group.sort(key=lambda item: (times.get(item.path, ("", 0.0))[1], natural_key(item.path)))
            sides = block_sides(n, tests)
            assigned.update({item.path: side for item, side in zip(group, sides, strict=True)})
        else:
            drawn = sorted(group, key=lambda item: _draw(f"{item.name}{item.path.suffix}"))
            assigned.update({item.path: "test" if i < tests else "train" for i, item in enumerate(drawn)})
    return [replace(item, split=assigned.get(item.path, item.split)) for item in items]


def block_sides(n: int, tests: int) -> list[str]:
    """Sides of n frames in a row, about `tests` of them "test", in blocks of at least `MIN_BLOCK`."""
    blocks = max(min(BLOCKS, tests // MIN_BLOCK), 1)
    sides = ["train"] * n
    for k in range(blocks):
        size = tests // blocks + (k < tests % blocks)
        start = round((k + 0.5) * n / blocks - size / 2)
        sides[start : start + size] = ["test"] * size
        for beside in (start - 1, start + size):
            if 0 <= beside < n:
                sides[beside] = GAP
    return sides if "train" in sides else ["train"] * n  # too few to spare the gaps


def _draw(text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(packed(text)).digest()[:6], "big") / 2**48
