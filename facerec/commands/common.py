"""Options, progress bars and summaries that the subcommands share."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from facerec.detectors import DEFAULT_MIN_FACE, DETECTORS
from facerec.embedders import EMBEDDERS, MODELS
from facerec.errors import Exit

if TYPE_CHECKING:
    from facerec.recognizer import Recognizer
    from facerec.types import Detector, FaceChoice, StageReport

T = TypeVar("T")
log = logging.getLogger("facerec")

RAW, PROCESSED = Path("raw_images"), Path("processed")
EMBEDDINGS, CLASSIFIERS = Path("embeddings/faces.npz"), Path("classifiers")
GALLERY = Path("embeddings/gallery.npz")


def positive(text: str) -> int:
    """An option's whole number of 1 or more."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def distance(text: str) -> float:
    """An option's distance of unit vectors, 0 to 2."""
    if not 0 <= (value := float(text)) <= 2:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2")
    return value


def print_json(data: object) -> None:
    """A line of JSON, valid in whatever encoding stdout has."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(data, ensure_ascii=not utf8), flush=True)


def add_run_arguments(parser: argparse.ArgumentParser, *, jobs: bool = False) -> None:
    """--force, --strict, --json and, where inputs are treated side by side, --jobs."""
    parser.add_argument("--force", action="store_true", help="do all again, also what is done")
    parser.add_argument("--strict", action="store_true", help="stop at the first input that fails")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    if jobs:
        parser.add_argument(
            "--jobs", type=positive, metavar="N", help="inputs treated side by side (default: the cores)"
        )


def add_detector_arguments(parser: argparse.ArgumentParser, faces: str | None) -> None:
    """--detector and what it looks for."""
    parser.add_argument("--detector", choices=DETECTORS, default=DETECTORS[0], help="default: %(default)s")
    parser.add_argument(
        "--min-face", type=int, default=DEFAULT_MIN_FACE, metavar="PX",
        help="smallest face, pixels (default: %(default)s; larger is faster)",
    )  # fmt: skip
    parser.add_argument("--min-confidence", type=float, metavar="C", help="drop fainter detections, 0..1")
    parser.add_argument(
        "--faces",
        choices=("largest", "central", "all"),
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
    if text not in MODELS and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"{text} is neither of {', '.join(MODELS)} nor a model's .json description")
    return text


def add_embedder_arguments(parser: argparse.ArgumentParser, described: bool = False) -> None:
    """--embedder, --model."""
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    if described:
        names = f"{', '.join(MODELS)}, or FILE.json that describes another ONNX model (docs/formats.md)"
        parser.add_argument("--model", type=model, default=MODELS[0], help=f"{names} (default: %(default)s)")
    else:
        parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="weights (default: %(default)s)")


def make_detector(args: argparse.Namespace, threads: int) -> Detector:
    """The detector that the options ask for."""
    from facerec.detectors import load_detector

    return load_detector(args.detector, min_face=args.min_face, min_confidence=args.min_confidence, threads=threads)


def make_recognizer(args: argparse.Namespace, faces: FaceChoice) -> Recognizer:
    """Detector and classifier as the options say, and the embedder that the classifier was trained with."""
    from facerec import runtime
    from facerec.classify import Classifier
    from facerec.embedders import load_embedder
    from facerec.recognizer import Recognizer

    path = args.classifier or newest_classifier()
    classifier = Classifier.load(path)
    classifier.gate = classifier.gate.changed(args.threshold, args.gate_margin)
    space = classifier.photos.space
    threads = runtime.cpu_count()
    embedder = load_embedder(args.embedder, model=space.model, crop=space.crop, flip=space.flip, threads=threads)
    people = len(classifier.photos.people)
    log.info("%s: %s, %d people, %s", path, classifier.kind, people, classifier.gate)
    log.info("detector %s, embedder %s, %s, %s", args.detector, args.embedder, space, runtime.describe())
    return Recognizer(make_detector(args, threads), embedder, classifier, faces)


def newest_classifier() -> Path:
    """The classifier that was trained last."""
    from facerec.errors import ArtifactError

    found = sorted(
        (p for p in CLASSIFIERS.glob("*.npz") if not p.name.startswith(".")), key=lambda p: p.stat().st_mtime
    )
    if not found:
        raise ArtifactError(f"there is no classifier in {CLASSIFIERS}/", "make one with `facerec train --svm`")
    return found[-1]


def bar(iterable: Iterable[T], total: int, title: str) -> Iterable[T]:
    """A progress bar on the terminal; nothing where stderr is not one."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=title, file=sys.stderr, disable=None, dynamic_ncols=True)


def finish(report: StageReport, as_json: bool, extra: Iterable[str] = ()) -> Exit:
    """Prints what a stage did: failures to stderr, the summary (or JSON) to stdout; returns the exit code."""
    for failure in report.failed[:20]:
        print(f"  failed: {failure.source}: {failure.reason}", file=sys.stderr)
    if len(report.failed) > 20:
        print(f"  … and {len(report.failed) - 20} more; see {report.output}/manifest.jsonl", file=sys.stderr)
    if as_json:
        print_json(report.to_json())
    else:
        counts = [(report.done, "done"), (report.skipped, "already done"), (report.removed, "removed")]
        parts = [f"{n} {what}" for n, what in counts if n or what == "done"]
        parts += [f"{len(report.failed)} failed"] if report.failed else []
        print(f"{report.stage}: {', '.join(parts)} → {report.output} ({report.seconds:.1f} s)")
        for line in extra:
            print(line)
    return Exit.SOME_FAILED if report.failed else Exit.OK
