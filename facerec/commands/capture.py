"""facerec capture"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from facerec import paths
from facerec.commands import common
from facerec.errors import Exit, FacerecError

HELP = "a camera → raw_images/NAME/: photos of one person, in the views that it asks for"
EXAMPLES = """\
facerec capture Ana --camera 0                 20 photos: from the front, turned, looking up and down, near
facerec capture Ana --camera 0 --count 40      more of them; what is there already stays
facerec capture Ana --camera 0 --headless      the requests on the terminal, no window"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("name", help="the person")
    parser.add_argument("--camera", metavar="N", default="0", help="number, or a stream's address (default: 0)")
    parser.add_argument("--count", type=common.positive, default=20, help="photos (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=paths.RAW, help="default: %(default)s")
    parser.add_argument("--headless", action="store_true", help="no window")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    common.add_detector_arguments(parser, None, choose=False)
    parser.set_defaults(min_face=40)


def run(args: argparse.Namespace) -> Exit:
    """Opens the camera and asks for views until there are enough photos."""
    from facerec import runtime
    from facerec.stages.capture import capture
    from facerec.stages.common import require_name
    from facerec.window import Window

    args.name = require_name(args.name)
    window = None if args.headless else Window(f"facerec capture {args.name}")
    detector = common.make_detector(args, runtime.cpu_count())
    source = common.open_camera(args.camera)
    with contextlib.ExitStack() as stack:
        stack.enter_context(source)
        if window:
            stack.callback(window.close)
        frames = stack.enter_context(contextlib.closing(source.frames()))
        report = capture(
            args.name, frames, args.output, detector=detector, count=args.count, window=window, say=common.say
        )
    if args.json:
        common.print_json(report.to_json())
    else:
        views = ", ".join(f"{n} {view}" for view, n in report.views.items())
        where = f" → {args.output / args.name}" if report.photos else ""
        print(
            f"capture: {len(report.photos)} photos of {args.name} ({views or 'none'}){where} ({report.seconds:.0f} s)"
        )
    if source.lost:
        raise FacerecError(
            f"camera {args.camera} stopped",
            f"plug it in again; what was taken stays: --count {max(args.count - len(report.photos), 1)} takes the rest",
        )
    if not report.photos:
        raise FacerecError("no photo was taken", "one person in view, sharp and well lit, is needed")
    if len(report.photos) < args.count:
        print(f"facerec: {args.count - len(report.photos)} photos fewer than asked", file=sys.stderr)
        return Exit.SOME_FAILED
    return Exit.OK
