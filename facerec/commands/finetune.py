"""facerec finetune"""

from __future__ import annotations

import argparse
from pathlib import Path

from facerec import paths
from facerec.commands import common
from facerec.errors import Exit

MINING = ("semi-hard", "batch-hard", "batch-all")
HELP = "FaceNet's triplet loss on your own people → a new embedding model, and whether it is better"
EXAMPLES = """\
facerec finetune --name mine                     a projection behind the network: minutes
facerec finetune --name mine --layers 2          the last two blocks, on augmented crops: hours with many photos
facerec finetune --name mine --report            before and after again, on people whom training has not seen
facerec finetune --name mine --general photos/   is anything forgotten? on a folder of other people

then: facerec embed --model mine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--name", required=True, help="of the new model")
    parser.add_argument("--processed", type=Path, default=paths.PROCESSED, help="crops (default: %(default)s)")
    parser.add_argument("--embeddings", type=Path, default=paths.EMBEDDINGS, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=paths.FINETUNED, help="checkpoint, report (default: %(default)s)"
    )
    parser.add_argument("--layers", default="head", help="head, a number of blocks, or all (default: %(default)s)")
    parser.add_argument("--mining", choices=MINING, default=MINING[0], help="default: %(default)s")
    parser.add_argument("--alpha", type=common.distance, default=0.2, help="margin of the loss (default: %(default)s)")
    several = common.whole(2)  # a triplet takes two photos of one person and one of another
    parser.add_argument("--people", type=several, metavar="P", help="of a batch (default: 32; blocks: 16)")
    parser.add_argument("--photos", type=several, default=4, metavar="K", help="of each (default: %(default)s)")
    parser.add_argument("--rate", type=common.rate, help="of learning (default: 0.001; blocks: 0.0001)")
    parser.add_argument("--epochs", type=common.positive, help="at most (default: 60; blocks: 20)")
    parser.add_argument(
        "--patience", type=common.positive, default=10, help="epochs without gain (default: %(default)s)"
    )
    parser.add_argument("--seed", type=common.whole(0), default=0, help="default: %(default)s")
    parser.add_argument("--general", type=Path, metavar="FOLDER", help="photos of other people: is anything forgotten?")
    parser.add_argument("--report", action="store_true", help="compare again, do not train")
    common.add_detector_arguments(parser, None, choose=False)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> Exit:
    """Trains, exports, compares."""
    from facerec import runtime
    from facerec.stages.common import require_folder
    from facerec.stages.finetune import finetune, judge
    from facerec.types import TrainingSettings

    if args.general:
        require_folder(args.general, "give photos of other people, a folder a person")  # now, not after the training
    cores = runtime.cpu_count()
    if not args.report:
        head = args.layers == "head"
        settings = TrainingSettings(
            mining=args.mining,
            margin=args.alpha,
            people=args.people or (32 if head else 16),
            photos=args.photos,
            rate=args.rate or (1e-3 if head else 1e-4),
            epochs=args.epochs or (60 if head else 20),
            patience=args.patience,
            seed=args.seed,
        )
        finetune(
            args.processed,
            args.embeddings,
            args.name,
            layers=args.layers,
            settings=settings,
            folder=args.output,
            threads=cores,
            say=common.say,
            progress=common.bar if not head else lambda items, total, title: items,
        )
    report = judge(
        args.processed,
        args.embeddings,
        args.name,
        general=args.general,
        folder=args.output,
        detector=common.make_detector(args, threads=1),
        threads=cores,
        progress=common.bar,
    )
    if args.json:
        common.print_json(report.result)
    else:
        print(report.text())
        print(f"\n  {args.output / args.name / 'report.html'}")
    return Exit.OK
