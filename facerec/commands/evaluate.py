"""facerec evaluate"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib import import_module
from itertools import combinations
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from facerec import paths
from facerec.commands import common
from facerec.detectors import DETECTORS
from facerec.embedders import CROPS, DEFAULT_MARGIN
from facerec.errors import Exit, UsageError

if TYPE_CHECKING:
    from facerec.protocols import Photos
    from facerec.stages.evaluate import Engine
    from facerec.types import Embedder, Failure

HELP = "error rates with intervals, on any folder of labelled faces"
EXAMPLES = """\
facerec evaluate pairs lfw/ --pairs pairs.txt   LFW's protocol
facerec evaluate pairs photos/                  the same on pairs drawn from the folder
facerec evaluate identify photos/               one photo enrolled, one searched, for growing galleries
facerec evaluate open-set photos/               how often strangers get a name
facerec evaluate compare photos/ margin=0.075 margin=0.1 margin=0.05,flip detector=haar
facerec evaluate classifier                     the trained classifier on your own test faces"""

_PROTOCOLS = {
    "pairs": "same person or not: accuracy, AUC, EER, TAR at FAR",
    "identify": "closed set: one photo enrolled and one searched a person",
    "open-set": "half of the people enrolled, the others strangers: FNIR at FPIR",
    "compare": "settings side by side on the same pairs, with a test whether they differ",
    "classifier": "your classifier on your test faces: accuracy, reliability, worst mistakes",
}


_SETTINGS = (
    "what differs from the options, as in margin=0.1,flip,crop=square: detector, model, margin, "
    f"crop ({', '.join(CROPS)}), faces, flip"
)


def margin(text: str) -> float:
    """An option's share of a box, 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    protocols = parser.add_subparsers(dest="protocol", metavar=" | ".join(_PROTOCOLS), required=True)
    for name, text in _PROTOCOLS.items():
        sub = protocols.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument(
            "--output", type=Path, default=Path("evaluation"), help="for the report (default: %(default)s)"
        )
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        if name == "classifier":
            sub.add_argument("--classifier", type=Path, help="default: the one that was trained last")
            sub.add_argument("--embeddings", type=Path, default=paths.EMBEDDINGS, help="default: %(default)s")
            sub.add_argument("--processed", type=Path, default=paths.PROCESSED, help="default: %(default)s")
            continue
        sub.add_argument("data", type=common.folder, help="a folder with a folder a person")
        sub.add_argument("--seed", type=common.whole(0), default=0, help="of every draw (default: %(default)s)")
        common.add_jobs_arguments(sub)
        if name == "compare":
            sub.add_argument("settings", nargs="+", metavar="SETTING", help=_SETTINGS)
        if name in ("pairs", "compare"):
            sub.add_argument("--pairs", type=Path, metavar="FILE", help="in the format of LFW's pairs.txt")
        if name == "open-set":
            sub.add_argument("--photos-each", type=common.positive, default=1, help="enrolled (default: %(default)s)")
            sub.add_argument("--gallery-size", type=common.positive, metavar="N", help="people (default: half)")
        common.add_detector_arguments(sub, "central", one=True)
        common.add_embedder_arguments(sub, described=True)
        sub.add_argument("--margin", type=margin, help=f"around the face (default: {DEFAULT_MARGIN}, or as described)")
        sub.add_argument("--crop", choices=CROPS, help=f"default: {CROPS[0]}, or as described")
        sub.add_argument("--flip", action="store_true", help="add the mirrored crop's vector")


def run(args: argparse.Namespace) -> Exit:
    """Runs a protocol, prints its tables, and writes the report."""
    from facerec import runtime
    from facerec.stages import evaluate

    failed: set[Failure] = set()  # their errors are in the report
    if args.protocol == "classifier":
        report = evaluate.classifier(args.classifier or common.newest_classifier(), args.embeddings, args.processed)
    else:
        listed = getattr(args, "pairs", None)
        if listed and not listed.is_file():
            raise UsageError(f"there is no {listed}", "leave out --pairs to draw pairs from the folder")
        jobs = args.jobs or runtime.cpu_count()

        def load(options: argparse.Namespace) -> tuple[Engine, Photos]:
            engine = _engine(options)
            cache = args.output / "cache"
            photos = evaluate.load_photos(
                args.data, cache, engine, jobs=jobs, cluster=args.cluster, progress=common.bar
            )
            failed.update(photos.failed)
            return engine, photos

        if args.protocol == "compare":
            options = [_with(args, setting) for setting in args.settings]
            if len(options) < 2 or any(one == other for one, other in combinations(options, 2)):
                raise UsageError("nothing to compare", "give two settings that differ, as in margin=0.075 margin=0.1")
            loaded = {setting: load(each) for setting, each in zip(args.settings, options, strict=True)}
            variants = {setting: photos for setting, (_, photos) in loaded.items()}
            drawn = args.output / "compare_drawn.json"
            listed = listed or evaluate.draw_pairs(next(iter(variants.values())), drawn, args.seed)
            settings = {setting: engine.settings(args.data) for setting, (engine, _) in loaded.items()}
            report = evaluate.compare(variants, {"variants": settings, "seed": args.seed}, listed, args.seed)
        else:
            ahead = Thread(target=import_module, args=("sklearn.svm",), daemon=True)
            if args.protocol != "pairs":  # the others train SVMs: imported while networks and files load
                ahead.start()
            engine, photos = load(args)
            settings = {**engine.settings(args.data), "seed": args.seed}
            if args.protocol == "pairs":
                report = evaluate.pairs(photos, settings, args.output, listed, args.seed)
            elif args.protocol == "identify":
                ahead.join()  # nothing beside what is timed
                seconds = evaluate.seconds_a_photo(args.data, photos, engine, args.seed)
                report = evaluate.identify(photos, settings, seconds, args.seed)
            else:
                report = evaluate.open_set(photos, settings, args.photos_each, args.gallery_size, args.seed)
    paths = report.write(args.output)
    if args.json:
        common.print_json(report.result)
    else:
        print(report.text())
        print("\n" + "\n".join(f"  {path}" for path in paths))
    return Exit.SOME_FAILED if failed else Exit.OK


def _with(args: argparse.Namespace, setting: str) -> argparse.Namespace:
    """The options with what a setting like ``margin=0.1,flip`` says differently."""
    choices = {"detector": DETECTORS, "crop": CROPS, "faces": ("largest", "central")}
    options = argparse.Namespace(**vars(args))
    for part in setting.split(","):
        name, _, value = part.partition("=")
        if name == "flip" and not value:
            options.flip = True
        elif value in choices.get(name, ()):
            setattr(options, name, value)
        elif name in ("margin", "model"):
            try:
                setattr(options, name, margin(value) if name == "margin" else common.model(value))
            except ValueError:
                raise UsageError(f"{part!r} is not a margin", "as in margin=0.1") from None
            except argparse.ArgumentTypeError as error:
                raise UsageError(str(error), "as in margin=0.1,flip") from None
        else:
            raise UsageError(f"{part!r} is not a setting", _SETTINGS)
    return options


def _engine(args: argparse.Namespace) -> Engine:
    from facerec import runtime
    from facerec.embedders import load_embedder
    from facerec.embedders.onnx import Description
    from facerec.stages.evaluate import Engine
    from facerec.types import Crop

    description = Description.read(Path(args.model)) if args.model.endswith(".json") else None
    crop = description.crop if description else Crop(DEFAULT_MARGIN)
    if args.margin is not None:
        crop = replace(crop, margin=args.margin)
    if args.crop:
        crop = replace(crop, square=args.crop == "square", aligned=args.crop == "aligned")
    # one photo after the other, as `identify` times them, needs all cores for each; many share them better
    threads = runtime.cpu_count() if args.protocol == "identify" and not args.cluster else 1
    if description:
        embedder: Embedder = description.load(crop, args.flip, threads)
    else:
        embedder = load_embedder(args.embedder, model=args.model, crop=crop, flip=args.flip, threads=threads)
    return Engine(
        common.make_detector(args, threads=1), embedder, args.faces, args.min_face, args.min_confidence, threads
    )
