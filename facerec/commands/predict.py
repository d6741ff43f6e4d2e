"""facerec predict"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facerec import paths
from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import DataError, Exit, FacerecError, UsageError

if TYPE_CHECKING:
    from facerec.stages.appearances import Appearance
    from facerec.types import Prediction

HELP = "images and videos → names, or unknown"
EXAMPLES = """\
facerec predict img.jpg
facerec predict photos/ --output named/   annotated copies of a whole folder
facerec predict 'party/*.jpg' --json      a line an image, for programs
facerec predict party.mp4 --output named/  who appears from when to when, an annotated copy, the best views
facerec predict --sample                  one random test face, with the truth
facerec predict --batch 32                a random batch of the test set, with its accuracy"""

_APPEARANCE = ("track", "name", "start", "end", "best", "distance", "probability", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("images", nargs="*", help="images, folders, or patterns in quotes")
    common.add_names_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write annotated copies there")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a line of JSON an image")
    form.add_argument("--csv", action="store_true", help="a line of CSV a face")
    common.add_detector_arguments(parser, "all")
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    test = parser.add_argument_group("from the test set")
    test.add_argument("--sample", action="store_true", help="one random test face")
    test.add_argument("--batch", type=common.positive, metavar="N", help="N random test faces")
    test.add_argument("--seed", type=int, help="draw the same ones again")
    test.add_argument("--embeddings", type=Path, default=paths.EMBEDDINGS, help="default: %(default)s")
    test.add_argument("--processed", type=Path, default=paths.PROCESSED, help="default: %(default)s")


def run(args: argparse.Namespace) -> Exit:
    """Names faces in images, or in crops of the test set."""
    if args.sample or args.batch is not None:
        if args.csv:
            raise UsageError("--csv is for images", "use --json with --sample and --batch")
        if args.images:
            raise UsageError("--sample and --batch take their faces from the test set", "leave out the images")
        return _predict_test_set(args)
    if not args.images:
        raise UsageError("no images", "facerec predict img.jpg, or --sample for a face of the test set")

    from facerec.stages.common import copies_of
    from facerec.stages.predict import expand
    from facerec.video import is_video

    images = list(expand(args.images, videos=True))
    if not images:
        raise UsageError(f"no images in {', '.join(args.images)}", "give images, folders or a pattern in quotes")
    if films := [path for path in images if is_video(path)]:
        if args.csv and len(films) < len(images):
            raise UsageError(f"{films[0]} is a video: its columns are others", "give --csv only images, or only videos")
        if args.faces != "all":
            raise UsageError("--faces is for images", "in videos all faces are followed")
    pictures = [path for path in images if not is_video(path)]
    copies = copies_of(films, args.output, lambda _: ".mp4") if args.output else [None] * len(films)
    results = [_predict_images(args, pictures)] if pictures else []
    results += [_predict_videos(args, films, copies)] if films else []
    return max(results)


def _predict_images(args: argparse.Namespace, images: list[Path]) -> Exit:
    from facerec.stages.predict import COLUMNS, lines, predict, result
    from facerec.types import no_progress

    writer = csv.writer(sys.stdout)
    if args.csv:
        writer.writerow(COLUMNS)

    def emit(name: str, predictions: list[Prediction], error: str | None) -> None:
        if args.json:
            common.print_json(result(name, predictions, error))
        elif args.csv:
            writer.writerows(lines(name, predictions, error))
        elif error:
            print(f"{name}: {error}")
        else:
            print(f"{name}: {len(predictions)} face{'' if len(predictions) == 1 else 's'}")
            for prediction in predictions:
                print(f"  {_line(prediction, args.metric == 'cosine')}")

    report = predict(
        images,
        args.output,
        recognizer=common.make_recognizer(args, args.faces),
        emit=emit,
        strict=args.strict,
        progress=common.bar if len(images) > 1 and (args.json or args.csv or args.output) else no_progress,
    )
    if args.output:
        print(f"predict: {report.done} annotated → {args.output} ({report.seconds:.1f} s)", file=sys.stderr)
    return Exit.SOME_FAILED if report.failed else Exit.OK


def _line(prediction: Prediction, cosine: bool) -> str:
    x, y, _, _ = prediction.face.box
    where = f"{prediction.face.size:.0f} px at ({x:.0f}, {y:.0f})"
    if prediction.name is None:
        return f"unknown, {where}: {prediction.reason}"
    distance = _distance(prediction.distance, cosine)
    probability = "" if prediction.probability is None else f"probability {prediction.probability:.2f}, "
    return f"{prediction.name}, {probability}{distance}, {where}"


def _distance(d: float, cosine: bool) -> str:
    return f"cosine distance {d * d / 2:.2f}" if cosine else f"distance {d:.2f}"


def _predict_videos(args: argparse.Namespace, films: list[Path], copies: Sequence[Path | None]) -> Exit:
    """Who appears in videos, from when to when."""
    from facerec.errors import InputError
    from facerec.stages.appearances import appearances

    recognizer = common.make_recognizer(args, "all")
    writer = csv.writer(sys.stdout)
    if args.csv:
        writer.writerow(("video", *_APPEARANCE, "error"))
    result, written = Exit.OK, 0
    for film, copy in zip(films, copies, strict=True):
        found: list[Appearance] = []
        error: str | None = None
        try:
            found, error = appearances(film, copy, recognizer=recognizer, progress=common.bar)
            written += 1
        except InputError as failure:
            if args.strict:
                raise FacerecError(f"{film}: {failure.what}", failure.cure) from None
            error = str(failure)
        if error:
            result = Exit.SOME_FAILED
            print(f"  failed: {film}: {error}", file=sys.stderr)
        rows = [appearance.to_json() for appearance in found]
        if args.json:
            common.print_json({"video": str(film), "error": error, "appearances": rows})
        elif args.csv:
            for row in rows or [{}]:
                writer.writerow((film, *(row.get(column) for column in _APPEARANCE), error))
        elif error and not found:
            print(f"{film}: {error}")
        else:
            print(f"{film}: {len(found)} appearance{'' if len(found) == 1 else 's'}")
            for a in found:
                named = a.name and a.distance is not None
                what = _distance(a.distance or 0, args.metric == "cosine") if named else a.reason
                print(f"  {a.start:7.2f} – {a.end:7.2f} s  {a.name or 'unknown'}: {what}")
    if args.output:
        print(f"predict: {written} annotated → {args.output}", file=sys.stderr)
    return result


def _predict_test_set(args: argparse.Namespace) -> Exit:
    import numpy as np

    from facerec.artifacts import load_embeddings, write_image
    from facerec.draw import GREEN, RED, contact_sheet
    from facerec.images import read_image

    embeddings, classifier = load_embeddings(args.embeddings), common.load_names(args)
    classifier.photos.require_space(embeddings.space, "the classifier")
    known = np.isin(embeddings.digests, classifier.photos.digests)
    ours = np.isin(embeddings.labels, classifier.people)
    of_test = embeddings.splits == "test"
    test = np.flatnonzero(of_test & ~known & ours)
    for n, why in (
        (int((of_test & known).sum()), "the names come from them"),
        (int((of_test & ~known & ~ours).sum()), "their people are not among the names"),
    ):
        if n and not len(test):
            raise DataError(f"all {n} test faces are left out: {why}", "give another classifier with --classifier")
        if n:
            common.say(f"{n} test face{' is' if n == 1 else 's are'} left out: {why}")
    lost = [f for f in embeddings.failures if f.split == "test" and f.label in classifier.people]
    if len(test) == 0:
        raise DataError(
            f"{args.embeddings} holds no test faces",
            "of two photos a person or more `facerec detect --test-size 0.3` and `facerec embed` keep some for testing",
        )
    total = len(test) + len(lost)
    drawn = random.Random(args.seed).sample([*test.tolist(), *range(-len(lost), 0)], min(args.batch or 1, total))
    lost = [lost[i] for i in drawn if i < 0]  # no face: an error
    rows = embeddings[np.array([i for i in drawn if i >= 0], np.intp)]
    decisions = classifier.decide_photos(rows)
    right = [d.name == label for d, label in zip(decisions, rows.labels.tolist(), strict=True)]
    for source, label, decision, ok in zip(rows.sources, rows.labels, decisions, right, strict=True):
        if args.json:
            probability = None if decision.probability is None else round(decision.probability, 4)
            row = {"image": str(source), "truth": str(label), "name": decision.name, "right": ok}
            row |= {"candidate": decision.candidate, "probability": probability}
            common.print_json(row | {"distance": round(decision.distance, 4)})
        else:
            verdict, answer = "right" if ok else "WRONG", decision.name or "unknown"
            apart = _distance(decision.distance, args.metric == "cosine")
            print(f"{verdict}: {answer} (truth {label}), {apart}, {source}")
    for failure in lost:
        if args.json:
            row = {"image": failure.source, "truth": failure.label, "name": None, "right": False}
            common.print_json(row | dict.fromkeys(("candidate", "probability", "distance")))
        else:
            print(f"WRONG: no face (truth {failure.label}), {failure.source}")
    print(
        f"{sum(right)} of {len(drawn)} right = {sum(right) / len(drawn):.3f}",
        file=sys.stderr if args.json else sys.stdout,
    )
    if args.output:
        if gone := [str(s) for s in rows.sources if not (args.processed / s).exists()]:
            raise DataError(f"{args.processed / gone[0]} is gone since it was embedded", "run `facerec embed` again")
        tiles = [
            (
                read_image(args.processed / source),
                f"{decision.name or 'unknown'} ({label})",
                GREEN if ok else RED,
            )
            for source, label, decision, ok in zip(rows.sources, rows.labels, decisions, right, strict=True)
        ]
        tiles += [(np.full((160, 160, 3), 255, np.uint8), f"no face ({failure.label})", RED) for failure in lost]
        path = args.output / "test_faces.png"
        write_image(path, contact_sheet(tiles, title="answer (truth)"))
        print(path, file=sys.stderr if args.json else sys.stdout)
    return Exit.OK
