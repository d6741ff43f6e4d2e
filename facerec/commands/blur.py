"""facerec blur"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import Exit, FacerecError, InputError, UsageError

HELP = "images and videos → copies with faces hidden"
EXAMPLES = """\
facerec blur party.mp4                        everybody's face → blurred/party.mp4
facerec blur photos/ --except Ana --except Ben    all but theirs (they must be enrolled)
facerec blur party.mp4 --only Ana --how solid     nobody's but hers"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("inputs", nargs="+", help="images, videos, folders, or patterns in quotes")
    parser.add_argument("--output", type=Path, default=Path("blurred"), metavar="FOLDER", help="default: %(default)s")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--except", dest="keep", action="append", metavar="NAME", help="leave this person's face visible")
    who.add_argument("--only", action="append", metavar="NAME", help="hide this person's face only")
    parser.add_argument("--how", choices=("blur", "pixelate", "solid"), default="blur", help="default: %(default)s")
    common.add_names_arguments(parser)
    common.add_detector_arguments(parser, None, choose=False)
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="stop at the first input that cannot be read")
    parser.add_argument("--json", action="store_true", help="a line of JSON an input")


def run(args: argparse.Namespace) -> Exit:
    """Hides faces."""
    from facerec import runtime
    from facerec.stages.blur import Hidden, blur_image, blur_video
    from facerec.stages.common import canonical, copies_of
    from facerec.stages.predict import expand
    from facerec.video import is_video

    paths = list(expand(args.inputs, videos=True))
    if not paths:
        raise UsageError(f"nothing in {', '.join(args.inputs)}", "give images, videos, folders or a pattern in quotes")
    named = {canonical(name) for name in args.keep or args.only or ()}
    recognizer = common.make_recognizer(args, "all") if named else None
    if recognizer is not None:
        known = {canonical(name) for name in recognizer.classifier.people}
        if strangers := sorted(named - known):
            raise UsageError(f"{strangers[0]} is not enrolled", f"known are: {', '.join(sorted(known)[:10])}")
    detector = recognizer.detector if recognizer else common.make_detector(args, runtime.cpu_count())

    def wanted(name: str | None) -> bool:
        return (name is not None and canonical(name) in named) == bool(args.only)

    copies = copies_of(paths, args.output, lambda p: ".mp4" if is_video(p) else ".jpg")
    result = Exit.OK
    for path, copy in zip(paths, copies, strict=True):
        error: str | None = None
        hidden: Hidden | None = None
        options = {"detector": detector, "recognizer": recognizer, "wanted": wanted, "how": args.how}
        try:
            if is_video(path):
                hidden, error = blur_video(path, copy, progress=common.bar, **options)
            else:
                hidden = blur_image(path, copy, **options)
        except InputError as failure:
            if args.strict:
                raise FacerecError(f"{path}: {failure.what}", failure.cure) from None
            error = str(failure)
        if error:
            result = Exit.SOME_FAILED
            print(f"  failed: {path}: {error}", file=sys.stderr)
        if args.json:
            written = None if hidden is None else str(copy)
            common.print_json({"input": str(path), "output": written, "error": error, **vars(hidden or Hidden())})
        elif hidden is not None:  # also of a video that is cut off
            print(f"{path}: {hidden.hidden} of {hidden.faces} faces hidden → {copy}")
    return result
