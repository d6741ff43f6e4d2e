"""facerec explain"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from facerec import paths
from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import Exit, FacerecError, InputError

if TYPE_CHECKING:
    from facerec.quality import Quality

HELP = "why faces, from the left, have these names, or none: quality, and the three nearest people side by side"
EXAMPLES = """\
facerec explain img.jpg                     → explained/img.png
facerec explain img.jpg --gallery embeddings/gallery.npz --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("image", type=Path)
    common.add_names_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("explained"), help="folder (default: %(default)s)")
    parser.add_argument("--processed", type=Path, default=paths.PROCESSED, help="default: %(default)s")
    common.add_detector_arguments(parser, "all")
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Explains every face of an image, in words and in a picture."""
    from facerec.artifacts import write_image
    from facerec.galleries import open_gallery
    from facerec.galleries import picture as crop_of
    from facerec.images import read_image
    from facerec.quality import assess
    from facerec.recognizer import find_and_embed, from_the_left
    from facerec.stages.common import copies_of
    from facerec.stages.explain import side_by_side

    common.require_photo(args.image)
    (picture,) = copies_of([args.image], args.output, lambda _: ".png")
    try:
        image = read_image(args.image)
    except InputError as error:
        raise FacerecError(f"{args.image}: {error.what}", error.cure) from None
    recognizer = common.make_recognizer(args, args.faces)
    classifier = recognizer.classifier
    found = from_the_left(find_and_embed(image, recognizer.detector, recognizer.embedder, args.faces))
    predictions = recognizer.decide(found)
    qualities = [assess(face, crop) for face, crop in zip(found.faces, found.crops, strict=True)]
    if predictions:
        gallery = open_gallery(args.gallery or paths.GALLERY)
        sheet, lost = side_by_side(
            found, predictions, classifier, lambda source: crop_of(source, gallery, args.processed)
        )
        write_image(picture, sheet)
        if lost:
            places = [args.processed, gallery.where.parent if isinstance(gallery.where, Path) else gallery]
            common.say(
                f"{lost} of the people's pictures are not in {', '.join(map(str, places))}: they left blank tiles; "
                "`facerec train` takes the photos of now"
            )
    if args.json:
        faces = [
            {**p.to_json(), "quality": {**vars(q), "score": round(q.score, 3)}}
            for p, q in zip(predictions, qualities, strict=True)
        ]
        body = {"image": str(args.image), "gate": classifier.gate.to_json(), "faces": faces}
        common.print_json(body | {"picture": str(picture) if predictions else None})
        return Exit.OK
    print(f"{args.image}: {len(predictions)} face{'' if len(predictions) == 1 else 's'}")
    print(f"  named at a {classifier.gate}")
    for number, (p, q) in enumerate(zip(predictions, qualities, strict=True), start=1):
        x, y, _, _ = p.face.box
        print(f"  face {number} at ({x:.0f}, {y:.0f}): {p.name or 'unknown'}{': ' + p.reason if p.reason else ''}")
        print(f"    quality {q.score:.2f}: {_described(q)}")
        print(f"    nearest {', '.join(f'{name} {distance:.2f}' for name, distance in p.nearest)}")
    if predictions:
        print(f"  {picture}")
    return Exit.OK


def _described(quality: Quality) -> str:
    parts = [f"{quality.size:.0f} px", f"sharpness {quality.sharpness:.0f}", f"confidence {quality.confidence:.3f}"]
    if quality.yaw is not None and quality.pitch is not None and quality.roll is not None:
        parts.append(f"yaw {quality.yaw:+.2f}, pitch {quality.pitch:.2f}, roll {quality.roll:+.0f}°")
    return ", ".join(parts)
