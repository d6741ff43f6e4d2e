"""facerec gallery"""

from __future__ import annotations

import argparse
from pathlib import Path

from facerec.commands import common
from facerec.errors import Exit, UsageError

HELP = "copy a gallery from a file into a database, or back, with its crops"
EXAMPLES = """\
facerec gallery import embeddings/gallery.npz --gallery postgresql://faces@db/faces
facerec gallery export backup/gallery.npz --gallery postgresql://faces@db/faces"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("way", choices=("import", "export"), help="from FILE into the database, or back")
    parser.add_argument("file", type=Path, metavar="FILE", help="a gallery; its crops are in folders beside it")
    parser.add_argument("--gallery", type=common.gallery, required=True, metavar="URL", help="postgresql://…")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Copies."""
    from facerec.galleries import open_gallery
    from facerec.stages.transfer import transfer

    if isinstance(args.gallery, Path):
        raise UsageError(f"{args.gallery} is no database", "give --gallery postgresql://…; files can just be copied")
    file, database = open_gallery(args.file), open_gallery(args.gallery)
    source, target = (file, database) if args.way == "import" else (database, file)
    if args.way == "export" and target.exists():
        raise UsageError(f"there is a {target} already", "choose another file")
    report = transfer(source, target, args.way)
    return common.finish(report, args.json, [f"  {report.people} people; {report.crops} crops"])
