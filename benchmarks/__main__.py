"""Runs benchmarks and writes their sections of docs/benchmarks.md and .json; the others stay."""

import argparse
import sys

from benchmarks.common import ROOT
from benchmarks.runner import run_all

NAMES = (
    "speed",
    "parity",
    "accuracy",
    "trust",
    "audit",
    "clustering",
    "pipeline",
    "throughput",
    "live",
    "app",
    "finetune",
    "scale",
    "database",
    "cluster",
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no {unknown.pop()}")
    sys.exit(run_all([f"benchmarks.{name}" for name in names], ROOT / "docs"))
