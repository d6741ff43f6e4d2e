"""facerec rename"""

from __future__ import annotations

import argparse

from facerec.commands import common
from facerec.errors import Exit

HELP = "give a person another name, in the gallery, classifiers, photos and crops"
EXAMPLES = """\
facerec rename ana "Ana Müller"
facerec rename person_003 Ben --merge      Ben is there already: they are one person"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--merge", action="store_true", help="NEW exists: put the two together")
    common.add_gallery_argument(parser)
    parser.add_argument("--json", action="store_true", help="print what was changed as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Renames in everything that knows the person."""
    from facerec.stages.people import rename

    changed = rename(common.project(args.gallery), args.old, args.new, merge=args.merge)
    if args.json:
        common.print_json({"old": args.old, "new": args.new, "changed": changed})
    else:
        print("\n".join(f"  {line}" for line in changed))
        print(f"rename: {args.old} is {args.new} now")
    return Exit.OK
