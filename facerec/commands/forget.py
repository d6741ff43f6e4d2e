"""facerec forget"""

from __future__ import annotations

import argparse
import sys

from facerec.commands import common
from facerec.errors import Exit, UsageError

HELP = "erase a person: gallery, classifiers, crops, raw images, their videos, manifests, reports"
EXAMPLES = """\
facerec forget Ana           lists what will be erased, and asks
facerec forget Ana --yes     doesn't ask"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    common.add_gallery_argument(parser)
    parser.add_argument("--json", action="store_true", help="print what was erased as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Asks, erases, and looks for what is left."""
    from facerec.stages.people import beyond, erase, forget

    project = common.project(args.gallery)
    plan = forget(project, args.name, really=False)
    print(f"forget {args.name}: this will be erased or changed", file=sys.stderr)
    for line in plan:
        print(f"  {line}", file=sys.stderr)
    if not args.yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to ask", "erase without asking with --yes")
        print("erase? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was erased", file=sys.stderr)
            return Exit.ERROR
    erased, left = erase(project, args.name)
    for line in beyond(args.name):
        common.say(line)
    if args.json:
        common.print_json({"name": args.name, "erased": erased, "left": left})
    else:
        print(f"forget: {args.name} is erased from {len(plan)} places")
        for line in (line for line in erased if line not in plan):
            print(f"  {line}", file=sys.stderr)
        for line in left:
            print(f"  still {args.name}'s, or names them: {line}", file=sys.stderr)
    return Exit.SOME_FAILED if left else Exit.OK
