"""Options, progress bars and summaries that the subcommands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from facerec import paths, stores
from facerec.detectors import DEFAULT_MIN_FACE, DETECTORS
from facerec.embedders import EMBEDDERS, MODELS, models
from facerec.errors import Exit, FacerecError, UsageError
from facerec.paths import CLASSIFIERS, GALLERY

if TYPE_CHECKING:
    from facerec.classify import Classifier
    from facerec.galleries import Gallery
    from facerec.recognizer import Recognizer
    from facerec.stages.project import Project
    from facerec.types import Detector, FaceChoice, StageReport
    from facerec.video import Camera

T = TypeVar("T")
log = logging.getLogger("facerec")


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """The type of an option with a whole number from `least` on, or up to `most`."""

    def number(text: str) -> int:
        if not least <= (value := int(text)) <= most:
            limits = f"{least} or more" if most == math.inf else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {limits}")
        return value

    return number


positive = whole(1)


def distance(text: str) -> float:
    """An option's distance of unit vectors, 0 to 2."""
    if not 0 <= (value := float(text)) <= 2:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2")
    return value


def rate(text: str) -> float:
    """An option's rate, between 0 and 1."""
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def require_photo(path: Path) -> None:
    """Raises `UsageError` where a photo that was named is not there, or is a video."""
    from facerec.video import is_video

    try:
        there = path.exists()
    except PermissionError:
        raise
    except OSError:  # a name that is too long for the disk
        there = False
    if not there:
        raise UsageError(f"there is no {path}", "give a photo")
    if is_video(path):
        raise UsageError(f"{path} is a video", f"make photos of it with `facerec extract {path}`")


def folder(text: str) -> Path:
    """An option's folder or file, on disk or, by its URL, in a store."""
    try:
        return stores.folder(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def print_json(data: object) -> None:
    """A line of JSON, valid in whatever encoding stdout has."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(data, ensure_ascii=not utf8), flush=True)


def add_run_arguments(parser: argparse.ArgumentParser, *, jobs: bool = False) -> None:
    """--force, --strict, --json and, where inputs are treated side by side, --jobs and --cluster."""
    parser.add_argument("--force", action="store_true", help="do all again, also what is done")
    parser.add_argument("--strict", action="store_true", help="stop at the first input that fails")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    if jobs:
        add_jobs_arguments(parser)


def add_jobs_arguments(parser: argparse.ArgumentParser) -> None:
    """--jobs, --cluster."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=positive, metavar="N", help="inputs treated side by side (default: the cores)")
    where.add_argument(
        "--cluster", metavar="URL", help="treat them there instead: dask://HOST:PORT or ray://HOST:PORT (docs/scale.md)"
    )


def add_detector_arguments(
    parser: argparse.ArgumentParser, faces: str | None, *, choose: bool = True, one: bool = False
) -> None:
    """--detector and what it looks for; --faces, where faces are chosen so; where `one` is, not all of them."""
    parser.add_argument("--detector", choices=DETECTORS, default=DETECTORS[0], help="default: %(default)s")
    parser.add_argument(
        "--min-face", type=int, default=DEFAULT_MIN_FACE, metavar="PX",
        help="smallest face, pixels (default: %(default)s; larger is faster)",
    )  # fmt: skip
    parser.add_argument("--min-confidence", type=float, metavar="C", help="drop fainter detections, 0..1")
    if not choose:
        return
    parser.add_argument(
        "--faces",
        choices=("largest", "central") if one else ("largest", "central", "all"),
        default=faces,
        help=f"which of several (default: {faces or 'largest; all for image files'})",
    )


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """--threshold, --gate-margin."""
    parser.add_argument(
        "--threshold",
        type=distance,
        metavar="D",
        help="distance (0..2) beyond which a face is unknown (default: calibrated, or the model's own)",
    )
    parser.add_argument(
        "--gate-margin",
        type=distance,
        metavar="M",
        help="by which everybody else must be further away than the named person; 0 turns it off",
    )


def model(text: str) -> str:
    """An option's embedding model: a name in the catalogue, or the JSON file that describes another one."""
    known = models()
    if text not in known and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"{text} is neither of {', '.join(known)} nor a model's .json description")
    return text


def add_embedder_arguments(
    parser: argparse.ArgumentParser, described: bool = False, default: str | None = MODELS[0]
) -> None:
    """--embedder, --model; without a default it is that of what is there."""
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    names = f"{', '.join(MODELS)}, or one of `facerec finetune`"
    if described:
        names += ", or FILE.json that describes another ONNX model (docs/formats.md)"
    kind = model if described else str  # of a name that is none the embedder says what there is
    said = default or f"the gallery's, {MODELS[0]} for a new one"
    parser.add_argument("--model", type=kind, default=default, help=f"{names} (default: {said})")


def make_detector(args: argparse.Namespace, threads: int) -> Detector:
    """The detector that the options ask for."""
    from facerec.detectors import load_detector

    return load_detector(args.detector, min_face=args.min_face, min_confidence=args.min_confidence, threads=threads)


def gallery(text: str) -> Path | str:
    """An option's gallery: a file, or a database's address, which is no path."""
    from facerec.galleries import is_address  # not at start-up

    return text if is_address(text) else Path(text)


def add_gallery_argument(parser: argparse.ArgumentParser) -> None:
    """--gallery, of the commands that work on one."""
    parser.add_argument(
        "--gallery", type=gallery, default=GALLERY, metavar="FILE", help="or postgresql://… (default: %(default)s)"
    )


def add_names_arguments(parser: argparse.ArgumentParser) -> None:
    """--classifier or --gallery and how to compare with it, and the gate."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--classifier", type=Path, metavar="FILE", help="of `facerec train`")
    source.add_argument(
        "--gallery",
        type=gallery,
        metavar="FILE",
        help="of `facerec enroll` or `facerec embed`, or postgresql://… "
        "(default: the newest classifier or embeddings/gallery.npz)",
    )
    parser.add_argument(
        "--by", choices=("nearest", "knn"), default="nearest",
        help="with a gallery: the closest person, or a vote of the closest photos (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--metric", choices=("euclidean", "cosine"), default="euclidean",
        help="of --threshold and of the distances beside names; reasons give Euclidean ones (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--index", action="store_true", help="with a gallery of more than 100,000 photos: an index (needs FAISS)"
    )
    add_gate_arguments(parser)


def open_gallery(where: Path | str) -> Gallery:
    """A gallery that is there, or an error that says how to make one."""
    from facerec import galleries
    from facerec.errors import ArtifactError

    found = galleries.open_gallery(where)
    if not found.exists():
        raise ArtifactError(f"there is no gallery {found}", "make it with `facerec enroll NAME photo.jpg`")
    return found


def euclidean(args: argparse.Namespace) -> float | None:
    """The threshold of `add_names_arguments` as a Euclidean distance; None where none is asked for."""
    if args.metric == "cosine" and args.threshold is not None:
        return (2 * args.threshold) ** 0.5  # of unit vectors: a squared distance is twice the cosine distance
    return args.threshold


def load_names(args: argparse.Namespace) -> Classifier:
    """The classifier or gallery that the options of `add_names_arguments` ask for, with its gate."""
    from facerec.classify import Classifier
    from facerec.stages.names import names_of

    threshold = euclidean(args)
    path = args.classifier or args.gallery or newest_names()
    if path in (args.gallery, GALLERY):
        classifier = names_of(open_gallery(path), args.by, threshold, args.gate_margin, index=args.index)
    else:
        if args.index:
            raise UsageError(f"{path} is a classifier, which needs no index", "give a gallery with --gallery")
        if args.by == "knn":
            raise UsageError(f"{path} is a classifier: --by is for galleries", "give a gallery with --gallery")
        classifier = Classifier.load(path)
        classifier.gate = classifier.gate.changed(threshold, args.gate_margin)
        _say_if_older(path, classifier)
    log.info("%s: %s, %d people, %s", path, classifier.kind, len(classifier.people), classifier.gate)
    return classifier


def _say_if_older(path: Path, classifier: Classifier) -> None:
    """Where the project's embeddings were made after a classifier of its own, from other photos."""
    from facerec.artifacts import training_photos
    from facerec.errors import ArtifactError

    embeddings = paths.EMBEDDINGS
    if path.parent != CLASSIFIERS or not embeddings.is_file() or embeddings.stat().st_mtime < path.stat().st_mtime:
        return
    with contextlib.suppress(ArtifactError):
        space, now = training_photos(embeddings)
        trained = {*classifier.photos.digests.tolist()}
        if space == classifier.photos.space and now & trained and now != trained:  # else it is of other embeddings
            say(f"{embeddings} has changed since {path} was trained: `facerec train` takes that over")


def project(where: Path | str) -> Project:
    """The folder that this command was started in, and a gallery."""
    from facerec.stages.project import Project

    return Project.of(Path(), where)


def make_recognizer(args: argparse.Namespace, faces: FaceChoice) -> Recognizer:
    """Detector and names as the options say, and the embedder that belongs to the names."""
    from facerec import runtime
    from facerec.embedders import load_embedder
    from facerec.recognizer import Recognizer

    classifier = load_names(args)
    space = classifier.photos.space
    threads = runtime.cpu_count()
    embedder = load_embedder(args.embedder, model=space.model, crop=space.crop, flip=space.flip, threads=threads)
    return Recognizer(make_detector(args, threads), embedder, classifier, faces)


def say(text: str) -> None:
    """Tells the user something while a command runs, on stderr."""
    print(f"facerec: {text}", file=sys.stderr, flush=True)


def open_camera(source: str) -> Camera:
    """A camera by its number, or a stream by its address.

    Raises:
        FacerecError: it cannot be opened.
    """
    from facerec.errors import InputError
    from facerec.video import Camera

    try:
        return Camera(int(source) if source.isdecimal() else source, say)
    except InputError as error:
        raise FacerecError(f"camera {source}: {error.what}", error.cure) from None


def newest_names() -> Path:
    """The classifier that was trained last, or the gallery if somebody was enrolled after that."""
    from facerec.errors import ArtifactError

    if (newest := paths.names()) is None:
        raise ArtifactError(
            f"there is no classifier in {CLASSIFIERS}/ and no gallery in {Path.cwd()}",
            "make one with `facerec train --svm` or `facerec enroll NAME photo.jpg`, or give --classifier or --gallery",
        )
    if GALLERY.is_file() and paths.classifiers():
        other = "a classifier's with --classifier" if newest == GALLERY else f"the gallery's with --gallery {GALLERY}"
        print(f"facerec: names from {newest}, the newest; {other}", file=sys.stderr)
    return newest


def classifier_before(gallery: Path | str) -> Path | None:
    """The classifier that names people until somebody is enrolled into this gallery; None where none does."""
    if gallery != GALLERY or not (found := paths.classifiers()):
        return None
    return found[-1] if not GALLERY.exists() or found[-1].stat().st_mtime > GALLERY.stat().st_mtime else None


def newest_classifier() -> Path:
    """The classifier that was trained last."""
    from facerec.errors import ArtifactError

    if not (found := paths.classifiers()):
        raise ArtifactError(f"there is no classifier in {CLASSIFIERS}/", "make one with `facerec train --svm`")
    return found[-1]


def bar(iterable: Iterable[T], total: int, title: str) -> Iterable[T]:
    """A progress bar on the terminal; nothing where stderr is not one."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=title, file=sys.stderr, disable=None, dynamic_ncols=True)


def finish(report: StageReport, as_json: bool, extra: Iterable[str] = ()) -> Exit:
    """Prints what a stage did: failures to stderr, the summary (or JSON) to stdout; returns the exit code."""
    with contextlib.suppress(BrokenPipeError):  # the work is done, whether or not anybody reads of it
        _summarise(report, as_json, extra)
    return Exit.SOME_FAILED if report.failed else Exit.OK


def _summarise(report: StageReport, as_json: bool, extra: Iterable[str]) -> None:
    for failure in report.failed[:20]:
        print(f"  failed: {failure.source}: {failure.reason}", file=sys.stderr)
    if len(report.failed) > 20:
        print(f"  … and {len(report.failed) - 20} more: --json lists them all", file=sys.stderr)
    if as_json:
        print_json(report.to_json())
    else:
        counts = [(report.done, "done"), (report.skipped, "already done"), (report.removed, "removed")]
        parts = [f"{n} {what}" for n, what in counts if n or what == "done"]
        parts += [f"{len(report.failed)} failed"] if report.failed else []
        parts += [f"by {len(report.hosts)} worker{'s' * (len(report.hosts) > 1)}"] if report.hosts else []
        print(f"{report.stage}: {', '.join(parts)} → {report.output} ({report.seconds:.1f} s)")
        for line in extra:
            print(line)
