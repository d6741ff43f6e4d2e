"""facerec show"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from facerec import paths
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
    parser.add_argument("--raw", type=Path, default=paths.RAW, help="default: %(default)s")
    parser.add_argument("--processed", type=Path, default=paths.PROCESSED, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("contact_sheets"), help="default: %(default)s")
    parser.add_argument(
        "--count",
        type=common.positive,
        default=20,
        help="raw images, and faces a person (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, help="draw the same ones again")
    parser.add_argument("--window", action="store_true", help="show the sheets in a window too")
    parser.add_argument("--json", action="store_true", help="print where the sheets are as JSON")
    common.add_detector_arguments(parser, "all")


def run(args: argparse.Namespace) -> Exit:
    """Writes the sheets of the folders that are there."""
    from facerec.artifacts import write_image

    draw, failed = random.Random(args.seed), dict[Path, str]()
    made = {"raw": _raw_sheet(args, draw, failed), "processed": _processed_sheet(args, draw, failed)}
    sheets = {name: sheet for name, sheet in made.items() if sheet is not None}
    for image, reason in failed.items():
        print(f"  failed: {image}: {reason}", file=sys.stderr)
    if not sheets:
        raise UsageError(
            f"no images in {args.raw} or {args.processed}",
            "facerec extract videos/, or put photos into raw_images/NAME/",
        )
    written = {name: args.output / f"{name}.png" for name in sheets}
    for name, path in written.items():
        write_image(path, sheets[name])
    if args.json:
        lost = [{"input": str(image), "reason": reason} for image, reason in failed.items()]
        common.print_json({"sheets": {name: str(path) for name, path in written.items()}, "failed": lost})
    else:
        print("\n".join(map(str, written.values())))
    if args.window:
        _window(sheets)
    return Exit.SOME_FAILED if failed else Exit.OK


def _drawn(
    paths: list[Path], args: argparse.Namespace, draw: random.Random, failed: dict[Path, str]
) -> Iterator[tuple[Path, Image]]:
    """Some of the pictures; those that cannot be read go to `failed`."""
    from facerec.errors import InputError
    from facerec.images import read_image

    for path in sorted(draw.sample(paths, min(args.count, len(paths)))):
        try:
            yield path, read_image(path)
        except InputError as error:
            failed[path] = str(error)


def _raw_sheet(args: argparse.Namespace, draw: random.Random, failed: dict[Path, str]) -> Image | None:
    from facerec import runtime
    from facerec.draw import BLUE, GREEN, RED, annotate, contact_sheet, fitted
    from facerec.images import choose_faces, find_images

    photos = find_images(args.raw) if args.raw.is_dir() else []
    if not photos:
        return None
    detector = common.make_detector(args, threads=runtime.cpu_count())
    tiles = []
    for path, image in _drawn(photos, args, draw, failed):
        faces = choose_faces(detector.detect(image), args.faces, image.shape)
        small, scaled = fitted(image, faces, *_TILE)
        marks = [(face, f"{face.confidence:.2f}", GREEN) for face in scaled]
        tiles.append((annotate(small, marks, keypoints=True), path.parent.name, BLUE if faces else RED))
    title = f"{args.raw}: {len(tiles)} of {len(photos)}, {detector.name}"
    return contact_sheet(tiles, 5, *_TILE, title) if tiles else None


def _processed_sheet(args: argparse.Namespace, draw: random.Random, failed: dict[Path, str]) -> Image | None:
    from facerec.draw import BLUE, ORANGE, contact_sheet
    from facerec.images import find_images

    crops = find_images(args.processed) if args.processed.is_dir() else []
    people: dict[str, list[Path]] = {}
    for path in crops:
        people.setdefault("/".join(path.relative_to(args.processed).parts[1:2]), []).append(path)
    tiles = [
        (image, name, BLUE if path.relative_to(args.processed).parts[0] == "train" else ORANGE)
        for name in sorted(people)
        for path, image in _drawn(people[name], args, draw, failed)
    ]
    title = f"{args.processed}: {len(people)} people, {len(tiles)} of {len(crops)} faces (blue: train, orange: test)"
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
