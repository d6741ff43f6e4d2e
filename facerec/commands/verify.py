"""facerec verify"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from facerec import paths
from facerec.commands import common
from facerec.embedders import DEFAULT_MARGIN
from facerec.errors import ArtifactError, DataError, Exit, FacerecError, InputError

NEARLY = 0.5  # of the largest face's size, from which on another is told of
HELP = "two photos: is the largest face of each the same person, and how sure is that"
EXAMPLES = """\
facerec verify a.jpg b.jpg
facerec verify a.jpg b.jpg --exit-code         for scripts: 4 unless they are the same person
facerec verify a.jpg b.jpg --threshold 0.8 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("photos", nargs=2, type=Path, metavar="PHOTO")
    parser.add_argument(
        "--threshold",
        type=common.distance,
        metavar="D",
        help="distance (0..2) up to which they are one person (default: the gallery's if calibrated, or the model's)",
    )
    common.add_gallery_argument(parser)
    parser.add_argument("--exit-code", action="store_true", help="exit with 4 unless they are the same person")
    common.add_detector_arguments(parser, faces=None, choose=False)
    common.add_embedder_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Compares the two faces."""
    from facerec import catalogue, runtime
    from facerec.embedders import load_embedder
    from facerec.galleries import open_gallery
    from facerec.images import choose_faces, read_image
    from facerec.metrics import distance
    from facerec.quality import TO_NAME, assess
    from facerec.recognizer import embed_faces
    from facerec.types import Crop

    gate, crop, flip = catalogue.entry(args.model).gate, Crop(DEFAULT_MARGIN), False
    for photo in args.photos:
        common.require_photo(photo)
    there = open_gallery(args.gallery)
    if args.gallery != paths.GALLERY and not there.exists():
        raise ArtifactError(f"there is no gallery {args.gallery}", "leave out --gallery for the model's own threshold")
    if there.exists():
        gallery = there.about()
        if gallery.gate and gallery.space.model == args.model:
            gate, crop, flip = gallery.gate, gallery.space.crop, gallery.space.flip
            common.log.info("%s: %s", args.gallery, gate)
    if gate is None and args.threshold is None:
        raise DataError(f"no default threshold has been measured for {args.model}", "give one with --threshold")
    threshold = gate.threshold if args.threshold is None and gate else args.threshold
    threads = runtime.cpu_count()
    detector = common.make_detector(args, threads)
    embedder = load_embedder(args.embedder, model=args.model, crop=crop, flip=flip, threads=threads)
    if gate is not None and there.exists() and gate == gallery.gate:
        gallery.require_space(embedder.space, str(args.gallery))  # another network may be called the same
    found, poor = [], False
    for path in args.photos:
        try:
            image = read_image(path)
            every = detector.detect(image)
            faces = embed_faces(image, choose_faces(every, "largest", image.shape), embedder)
            if not faces.faces:
                raise InputError("no face found", "give a photo that shows the face larger or from the front")
        except InputError as error:
            raise FacerecError(f"{path}: {error.what}", error.cure) from None
        x, y, *_ = faces.faces[0].box
        if (large := sum(face.size > NEARLY * faces.faces[0].size for face in every)) > 1:
            common.say(f"{path}: {large} faces are about as large; the largest, at ({x:.0f}, {y:.0f}), is compared")
        if problems := assess(faces.faces[0], faces.crops[0]).problems(TO_NAME):
            print(f"facerec: {path}: {'; '.join(problems)}", file=sys.stderr)
            poor = True
        found.append(faces)
    first, second = found
    apart = float(distance(first.vectors[0], second.vectors[0]))
    same = None if poor else apart <= threshold  # of such faces strangers' are as close: `predict` names none
    calibrated = gate is not None and gate.fmr is not None and threshold == gate.threshold
    rate = (
        ("about", gate.fmr) if gate and gate.fmr and calibrated else catalogue.false_match_rate(args.model, threshold)
    )
    here = catalogue.false_match_rate(args.model, apart)
    if args.json:
        faces_json = [f.faces[0].to_json() for f in found]
        body = {"same": same, "distance": round(apart, 4), "threshold": threshold}
        for name, at in (("fmr", rate), ("fmr_at_distance", here)):
            body[name], body[f"{name}_is"] = (float(f"{at[1]:.3g}"), at[0]) if at else (None, None)
        common.print_json(body | {"space": str(embedder.space), "faces": faces_json})
    else:
        verdict = "cannot tell" if same is None else "the same person" if same else "different people"
        accepted = f" ({_one_in(rate)} pairs of different people is accepted)" if rate else ""
        print(f"{verdict}: distance {apart:.2f}, threshold {threshold:.2f}{accepted}")
        if same and here:
            print(
                f"  of pairs of different people, {_one_in(here)} is as close as this, among those it was measured on"
            )
    return Exit.DIFFERENT if args.exit_code and not same else Exit.OK


def _one_in(rate: tuple[str, float]) -> str:
    """As "about one in 1,000", to two digits."""
    return f"{rate[0]} one in {float(f'{1 / rate[1]:.2g}'):,.0f}"
