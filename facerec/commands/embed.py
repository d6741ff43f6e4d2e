"""facerec embed"""

from __future__ import annotations

import argparse
from pathlib import Path

from facerec import paths
from facerec.commands import common
from facerec.errors import Exit

HELP = "processed/ → embeddings/faces.npz: a unit vector a face"
EXAMPLES = """\
facerec embed                           processed/ → embeddings/faces.npz
facerec embed --model facenet-512       another model (needs the web once)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("inputs", nargs="?", type=common.folder, default=paths.PROCESSED, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=paths.EMBEDDINGS, help="default: %(default)s")
    common.add_embedder_arguments(parser)
    common.add_run_arguments(parser, jobs=True)


def run(args: argparse.Namespace) -> Exit:
    """Runs the stage."""
    from facerec import runtime
    from facerec.embedders import load_embedder
    from facerec.stages.common import require_folder
    from facerec.stages.embed import crop_of, embed

    require_folder(args.inputs, "make it with `facerec detect`")
    crop, _ = crop_of(args.inputs)
    embedder = load_embedder(args.embedder, model=args.model, crop=crop, threads=1)
    report = embed(
        args.inputs,
        args.output,
        embedder=embedder,
        jobs=args.jobs or runtime.cpu_count(),
        cluster=args.cluster,
        force=args.force,
        strict=args.strict,
        progress=common.bar,
    )
    return common.finish(report, args.json)
