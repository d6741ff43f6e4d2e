"""facerec people"""

from __future__ import annotations

import argparse

from facerec.commands import common
from facerec.errors import Exit

HELP = "who is in a gallery: photos, date, quality"
EXAMPLES = """\
facerec people
facerec people --gallery embeddings/faces.npz --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    common.add_gallery_argument(parser)
    parser.add_argument("--json", action="store_true", help="print a list as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Prints the list."""
    from facerec.galleries.people import people

    gallery = common.open_gallery(args.gallery).load()
    found = people(gallery)
    if args.json:
        common.print_json([vars(person) for person in found])
        return Exit.OK
    width = max([len(person.name) for person in found], default=4)
    print(f"{'name'.ljust(width)}  photos  enrolled    best quality")
    for person in found:
        quality = "–" if person.quality is None else f"{person.quality:.2f}"
        print(f"{person.name.ljust(width)}  {person.photos:6}  {person.added or '–':10}  {quality}")
    gate = f"; calibrated: {gallery.gate}" if gallery.gate else ""
    print(f"{len(found)} people, {len(gallery)} photos in {args.gallery}, {gallery.space}{gate}")
    return Exit.OK
