"""facerec train"""

from __future__ import annotations

import argparse
from pathlib import Path

from facerec import paths
from facerec.commands import common
from facerec.errors import Exit

HELP = "embeddings/faces.npz → classifiers/: who is who"
MANY = 10  # times the false-match rate that is promised
EXAMPLES = """\
facerec train --svm                     the default: a linear support vector machine
facerec train --nearest                 one photo a person is enough
facerec train --knn --threshold 0.9     stricter about strangers"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("inputs", nargs="?", type=Path, default=paths.EMBEDDINGS, help="default: %(default)s")
    kinds = parser.add_mutually_exclusive_group()
    for kind, text in (
        ("svm", "linear support vector machine (default)"),
        ("knn", "the five closest photos vote"),
        ("nearest", "closest person: the mean of their photos"),
    ):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    parser.add_argument("--output", type=Path, help="default: classifiers/KIND.npz")
    common.add_gate_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(kind="svm")


def run(args: argparse.Namespace) -> Exit:
    """Runs the stage."""
    from facerec.stages.train import train

    output = args.output or paths.CLASSIFIERS / f"{args.kind}.npz"
    report = train(
        args.inputs,
        output,
        kind=args.kind,
        threshold=args.threshold,
        margin=args.gate_margin,
        processed=paths.PROCESSED if args.inputs == paths.EMBEDDINGS and paths.PROCESSED.is_dir() else None,
    )
    new, gone = report.changed
    if new or gone:
        common.say(
            f"{paths.PROCESSED}/ has changed since {args.inputs} was made ({new} new faces, {gone} gone): "
            "run `facerec embed`, and train again"
        )
    lines = [
        f"  {report.people} people, {args.kind}; named at a {report.gate}",
        f"  train accuracy {report.train}",
        f"  test accuracy  {report.test}",
    ]
    if not report.calibrated:
        lines.append("  no probabilities: they need two people, told apart, with two photos each")
    if report.dropped:
        lines.append(
            f"  the gate that the earlier {output} was calibrated to ({report.dropped}) is not kept:\n"
            f"  `facerec calibrate --classifier {output} --strangers FOLDER` measures one for the people of now"
        )
    if report.copies:
        lines.append(
            f"  {report.copies} test photo{' is a copy' if report.copies == 1 else 's are copies'} of training photos "
            f"and left out: see `facerec audit {args.inputs}`"
        )
    if report.alike is not None and report.gate.fmr and report.alike > MANY * report.gate.fmr:
        lines.append(
            f"  of the pairs of different people here {report.alike:.1%} are that close: they look more alike than\n"
            f"  the people it was measured on; see `facerec audit {args.inputs}`, and measure with people like yours:\n"
            "  `facerec calibrate --strangers FOLDER`"
        )
    lines += [f"  {path}" for path in report.files]
    return common.finish(report, args.json, lines)
