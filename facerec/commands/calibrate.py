"""facerec calibrate"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import Exit

MANY = 0.3  # of the own people's photos without a name, from which on it is said
HELP = "choose the gate for a stated rate of false matches, from your gallery and strangers' photos"
EXAMPLES = """\
facerec calibrate --strangers photos_of_others/             the newest classifier or gallery
facerec calibrate --gallery embeddings/gallery.npz --fmr 0.0001 --strangers lfw/
facerec calibrate --classifier classifiers/svm.npz --fpir 0.05 --strangers lfw/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--gallery", type=common.gallery, metavar="FILE",
        help="or postgresql://… (default: the newest classifier or gallery)",
    )  # fmt: skip
    source.add_argument("--classifier", type=Path, metavar="FILE")
    parser.add_argument(
        "--strangers",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="photos of people who are not enrolled; a folder a person in it tells them apart",
    )
    parser.add_argument(
        "--fmr", type=common.rate, default=1e-3, help="pairs of different people taken for one (default: %(default)s)"
    )
    parser.add_argument(
        "--fpir", type=common.rate, default=1e-2, help="strangers who get a name (default: %(default)s)"
    )
    common.add_detector_arguments(parser, faces=None, choose=False)
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Calibrates the file and says what it means."""
    from facerec import runtime
    from facerec.classify import Classifier
    from facerec.embedders import load_embedder
    from facerec.metrics import enough_for, uneven
    from facerec.stages.calibrate import calibrate_file, opened

    path = args.gallery or args.classifier or common.newest_names()
    if args.gallery:
        common.open_gallery(path)
    known = opened(path)
    space = known.photos.space if isinstance(known, Classifier) else known.about().space
    threads = runtime.cpu_count()
    result, plot, failed, no_strangers, alike = calibrate_file(
        path,
        args.strangers,
        detector=common.make_detector(args, threads),
        embedder=load_embedder(args.embedder, model=space.model, crop=space.crop, flip=space.flip, threads=threads),
        fmr=args.fmr,
        fpir=args.fpir,
        progress=common.bar,
    )
    left_out = [*failed, *no_strangers]
    for failure in left_out[:10]:
        print(f"  left out: {failure.source}: {failure.reason}", file=sys.stderr)
    if len(left_out) > 10:
        print(f"  … and {len(left_out) - 10} more", file=sys.stderr)
    for failure in alike[:5]:
        print(f"  look: {failure.source} {failure.reason}: if it is the same person, take it away", file=sys.stderr)
    if len(alike) > 5:
        print(f"  … and {len(alike) - 5} more", file=sys.stderr)
    done = Exit.SOME_FAILED if failed else Exit.OK
    gate = result.gate
    assert gate.fmr_interval
    if args.json:
        body = {"file": str(path), "gate": gate.to_json(), "comparisons": result.comparisons}
        body |= {
            "fnmr": result.fnmr,
            "fnir": result.fnir,
            "searches": result.searches,
            "strangers": result.strangers,
            "fpir": result.fpir,
            "fpir_interval": result.fpir_interval,
            "fmr_of_each": result.fmr_of_each,
        }
        suspects = [{"input": f.source, "reason": f.reason} for f in alike]
        common.print_json(body | {"plot": str(plot), "left_out": len(left_out), "alike": suspects})
        return done
    low, high = gate.fmr_interval
    print(f"calibrate: {path}: {gate}")
    print(f"  from {gate.source}")
    print(f"  false-match rate {gate.fmr:g} (95 %: {low:.2g} – {high:.2g}) over {result.comparisons:,} comparisons")
    if result.fpir is not None and result.fpir_interval is not None:
        low, high = result.fpir_interval
        print(f"  of {result.searches} photos of {result.strangers} strangers {result.fpir:.2%} get a name ", end="")
        print(f"(95 %: {low:.2%} – {high:.2%}),\n  each half of the people by a gate that the other half chose")
    if not enough_for(args.fpir, result.strangers):
        print(f"facerec: for a rate of {args.fpir:g} {3 / args.fpir:,.0f} strangers would be enough", file=sys.stderr)
    print(f"  {uneven(result.fmr_of_each)}")
    if result.fnmr is not None and result.fnir is not None:
        print(f"  of {len(result.genuine):,} pairs of one person's photos {result.fnmr:.2%} lie beyond the threshold;")
        print(f"  of these photos, each searched among the others, {result.fnir:.2%} get no name, or another's")
        if result.fnir > MANY:
            common.say("that gate refuses many of its own people: are there some among the strangers?")
    print(f"  {plot}")
    return done
