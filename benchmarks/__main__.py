"""Runs all benchmarks and writes docs/benchmarks.md and .json; or one, and writes nothing."""

import argparse
import sys

from benchmarks.common import ROOT
from benchmarks.runner import run_all

NAMES = ("speed", "parity", "accuracy", "trust", "audit", "clustering", "pipeline", "scale")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="default: all")
    name = parser.parse_args().name
    if name:
        sys.exit(run_all([f"benchmarks.{name}"], None))
    sys.exit(run_all([f"benchmarks.{name}" for name in NAMES], ROOT / "docs"))
