"""facerec enroll"""

from __future__ import annotations

import argparse
import sys

from facerec.commands import common
from facerec.embedders import DEFAULT_MARGIN, MODELS
from facerec.errors import Exit, UsageError

HELP = "one photo or more of a person → a gallery; nothing is trained again"
EXAMPLES = """\
facerec enroll Ana ana.jpg                   then: facerec predict img.jpg
facerec enroll "Ünal 李" photos/*.jpg        more photos make it surer
facerec enroll Ben party.jpg --face 2        the second face from the left
facerec enroll Ben blurred.jpg --force       take it all the same
facerec enroll Ana ana.jpg --gallery postgresql://faces@db/faces"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("name", metavar="NAME", help="who it is")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photos, folders, or patterns in quotes")
    common.add_gallery_argument(parser)
    parser.add_argument("--face", type=common.positive, metavar="N", help="which face, 1 is the leftmost")
    parser.add_argument("--force", action="store_true", help="also faces that are small, blurred, turned or several")
    common.add_detector_arguments(parser, faces=None, choose=False)
    common.add_embedder_arguments(parser, default=None)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Adds the photos to the gallery."""
    from facerec import catalogue, runtime
    from facerec.embedders import load_embedder
    from facerec.galleries import open_gallery
    from facerec.stages.enroll import enroll
    from facerec.stages.predict import expand
    from facerec.types import Crop

    photos = list(expand(args.photos))
    if not photos:
        raise UsageError(f"no photos in {', '.join(args.photos)}", "give photos, folders or a pattern in quotes")
    threads = runtime.cpu_count()
    crop, flip, model = Crop(DEFAULT_MARGIN), False, args.model or MODELS[0]
    gate = catalogue.gate(model)
    gallery = open_gallery(args.gallery)
    if gallery.exists():
        there = gallery.about()
        crop, flip, model = there.space.crop, there.space.flip, there.space.model
        if args.model not in (None, model):
            raise UsageError(f"{gallery} holds vectors of {model}", "leave out --model, or take another --gallery")
        gate = there.gate or catalogue.gate(model)
    embedder = load_embedder(args.embedder, model=model, crop=crop, flip=flip, threads=threads)
    before = common.classifier_before(args.gallery)
    report = enroll(
        args.name,
        photos,
        gallery,
        detector=common.make_detector(args, threads),
        embedder=embedder,
        gate=gate,
        face=args.face,
        force=args.force,
    )
    for warning in report.warnings:
        print(f"  look: {warning}", file=sys.stderr)
    held = report.done + report.skipped > 0
    if before and held:
        common.say(f"names come from {args.gallery} from now on, not from {before}: choose with --classifier {before}")
    plural = "" if report.photos == 1 else "s"
    lines = [f"  {args.name}: {report.photos} photo{plural}; {report.people} people in {gallery}"]
    code = common.finish(report, args.json, lines if held else [])
    return code if held else Exit.ERROR
