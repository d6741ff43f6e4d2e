"""facerec models"""

from __future__ import annotations

import argparse
import contextlib
import sys

from facerec.commands import common
from facerec.errors import Exit, UsageError

HELP = "the networks: list, fetch, verify"
EXAMPLES = """\
facerec models list
facerec models pull                     fetch what the default pipeline needs; afterwards all works offline
facerec models pull samples             photographs of five people, to try the pipeline on
facerec models verify                   compare every file with its sha256
facerec models remove mine              a model that `facerec finetune` made"""

_DEFAULT = ("mtcnn", "facenet-128")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    actions = parser.add_subparsers(dest="action", metavar="list | pull | verify | remove", required=True)
    listing = actions.add_parser("list", help="what there is, and what is here")
    listing.add_argument("--json", action="store_true", help="print as JSON")
    pull = actions.add_parser("pull", help="fetch, verify, export to ONNX, check against TensorFlow")
    pull.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(_DEFAULT)}")
    pull.add_argument("--force", action="store_true", help="fetch and export again")
    verify = actions.add_parser("verify", help="compare every file with its sha256")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all that are here, and the default ones")
    away = actions.add_parser("remove", help="take a model away that `facerec finetune` made")
    away.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> Exit:
    """Runs the action."""
    from facerec import catalogue, weights

    if args.action == "pull":
        for name in args.names or _DEFAULT:
            weights.pull(name, force=args.force)
            print(f"{name}: {weights.status(name)}")
        return Exit.OK
    if args.action == "remove":
        catalogue.remove_tuned(args.name)
        print(f"{args.name} is removed")
        return Exit.OK
    everything = [*catalogue.CATALOGUE, *catalogue.tuned_names()]
    if args.action == "verify":
        states = {name: weights.status(name) for name in args.names or everything}
        if not args.names:
            states = {
                name: state
                for name, state in states.items()
                if state != "missing" or name in (*_DEFAULT, *catalogue.tuned_names())
            }
        for name, state in states.items():
            again = "pull {} --force" if name in catalogue.CATALOGUE else "remove {}"
            cure = f" — facerec models {again.format(name)}" if state in ("damaged", "missing") else ""
            print(f"{name}: {state}{cure}")
        return Exit.ERROR if {"damaged", "missing"} & set(states.values()) else Exit.OK
    rows = []
    for name in everything:
        row = {"name": name, "status": weights.status(name), "licence": "", "what": "its record cannot be read"}
        with contextlib.suppress(UsageError):
            e = catalogue.entry(name)
            row |= {"licence": e.licence, "what": e.what}
        rows.append(row)
    if args.json:
        common.print_json({"cache": str(catalogue.home()), "models": rows})
    else:
        for row in rows:
            print(f"{row['name']:12} {row['status']:8} {row['licence']:4} {row['what']}")
        print(f"cache: {catalogue.home()}", file=sys.stderr)
    return Exit.OK
