"""facerec extract"""

from __future__ import annotations

import argparse

from facerec import paths
from facerec.commands import common
from facerec.errors import Exit

HELP = "videos → raw_images/NAME/: sharp frames, spread over the whole video"
EXAMPLES = """\
facerec extract videos/                 videos/NAME.mp4 or videos/NAME/*.mp4: NAME becomes the person
facerec extract videos/ --count 100     more frames a person
facerec extract Ana.mp4 --every 10      every 10th frame instead"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("videos", nargs="+", type=common.folder, help="videos, or folders of videos; also URLs")
    parser.add_argument("--output", type=common.folder, default=paths.RAW, help="default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--count",
        type=common.positive,
        default=50,
        help="frames a person, shared among the videos given (default: %(default)s)",
    )
    which.add_argument("--every", type=common.positive, metavar="N", help="take every N-th frame instead")
    common.add_run_arguments(parser, jobs=True)


def run(args: argparse.Namespace) -> Exit:
    """Runs the stage."""
    from facerec import runtime
    from facerec.stages.extract import extract

    report = extract(
        args.videos,
        args.output,
        count=args.count,
        every=args.every,
        jobs=args.jobs or runtime.cpu_count(),
        cluster=args.cluster,
        force=args.force,
        strict=args.strict,
        progress=common.bar,
    )
    return common.finish(report, args.json)
