"""facerec show"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

from facerec.commands import common
from facerec.errors import Exit, UsageError

if TYPE_CHECKING:
    from facerec.types import Image

HELP = "contact sheets: raw images with boxes and keypoints, and the processed faces by person"
EXAMPLES = """\
facerec show                            → contact_sheets/raw.png and contact_sheets/processed.png
facerec show --count 40 --window        more, and in a window"""


_TILE = (320, 240)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--raw", type=Path, default=common.RAW, help="default: %(default)s")
    parser.add_argument("--processed", type=Path, default=common.PROCESSED, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("contact_sheets"), help="default: %(default)s")
    parser.add_argument(
        "--count", type=int, default=20, help="raw images, and faces a person (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="draw the same ones again")
    parser.add_argument("--window", action="store_true", help="show the sheets in a window too")
    common.add_detector_arguments(parser, "all")


def run(args: argparse.Namespace) -> Exit:
    """Writes the sheets of the folders that are there."""
    from facerec.artifacts import write_image

    if args.count < 1:
        raise UsageError("--count takes a number of 1 or more")
    draw = random.Random(args.seed)
    made = {"raw": _raw_sheet(args, draw), "processed": _processed_sheet(args, draw)}
    sheets = {name: sheet for name, sheet in made.items() if sheet is not None}
    if not sheets:
        raise UsageError(
            f"no images in {args.raw} or {args.processed}",
            "facerec extract videos/, or put photos into raw_images/NAME/",
        )
    for name, sheet in sheets.items():
        path = args.output / f"{name}.png"
        write_image(path, sheet)
        print(path)
    if args.window:
        _window(sheets)
    return Exit.OK


def _raw_sheet(args: argparse.Namespace, draw: random.Random) -> Image | None:
    from facerec import runtime
    from facerec.draw import BLUE, GREEN, RED, annotate, contact_sheet, fitted
    from facerec.errors import InputError
    from facerec.images import choose_faces, find_images, read_image

    photos = find_images(args.raw) if args.raw.is_dir() else []
    if not photos:
        return None
    detector = common.make_detector(args, threads=runtime.cpu_count())
    tiles = []
    for path in sorted(draw.sample(photos, min(args.count, len(photos)))):
        try:
            image = read_image(path)
        except InputError as error:
            common.log.warning("%s", error)
            continue
        faces = choose_faces(detector.detect(image), args.faces, image.shape)
        image, faces = fitted(image, faces, *_TILE)
        marks = [(face, f"{face.confidence:.2f}", GREEN) for face in faces]
        tiles.append((annotate(image, marks, keypoints=True), path.parent.name, BLUE if faces else RED))
    return (
        contact_sheet(tiles, 5, *_TILE, f"{args.raw}: {len(tiles)} of {len(photos)}, {detector.name}")
        if tiles
        else None
    )


def _processed_sheet(args: argparse.Namespace, draw: random.Random) -> Image | None:
    from facerec.draw import BLUE, ORANGE, contact_sheet
    from facerec.images import find_images, read_image

    if not args.processed.is_dir():
        return None
    people: dict[str, list[Path]] = {}
    for path in find_images(args.processed):
        people.setdefault("/".join(path.relative_to(args.processed).parts[1:2]), []).append(path)
    tiles = []
    for name in sorted(people):
        for path in sorted(draw.sample(people[name], min(args.count, len(people[name])))):
            split = path.relative_to(args.processed).parts[0]
            tiles.append((read_image(path), name, BLUE if split == "train" else ORANGE))
    total = sum(map(len, people.values()))
    title = (
        f"{args.processed}: {len(people)} people, {len(tiles)} of {total} faces (blue: train, orange: test)"
    )
    return contact_sheet(tiles, min(args.count, 20), 110, 110, title) if tiles else None


def _window(sheets: dict[str, Image]) -> None:
    """Shows the sheets until a key is pressed or the windows are closed."""
    from facerec.window import Window

    windows = [Window(f"facerec: {name}") for name in sheets]
    for window, sheet in zip(windows, sheets.values(), strict=True):
        window.show(sheet)
    while all(window.is_open for window in windows) and windows[0].key(100) is None:
        pass
    for window in windows:
        window.close()
