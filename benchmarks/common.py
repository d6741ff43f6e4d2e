"""What the benchmarks share: where the data is, how time is taken, what machine this is."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facerec import runtime
from facerec.types import Face


def data(part: str) -> Path:
    """A part of the development data (``FACEREC_DATA``, else ../shared/data); exits where it is missing."""
    path = Path(os.environ.get("FACEREC_DATA", Path(__file__).parents[2] / "shared" / "data")) / part
    if not path.exists():
        sys.exit(f"skipped: {path} is not there (set FACEREC_DATA to a folder with {part})")
    return path


def machine() -> str:
    """Processor, cores and engine, for the head of a table."""
    return (
        f"{runtime.processor()}, {runtime.cpu_count()} cores, {runtime.describe()}, Python {platform.python_version()}"
    )


def fastest(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Milliseconds of the fastest of `repeats` calls of each function, called in turn; the first round is not counted.

    In turn, so that a machine that is busy with something else for a while is so for all of them.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [min(taken[1:]) * 1000 for taken in times]


def overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes."""
    w = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    h = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    shared = max(w, 0) * max(h, 0)
    area = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in (a, b)]
    return shared / (sum(area) - shared)


def table(head: list[str], rows: list[list[Any]]) -> None:
    """Prints a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    for line in lines:
        print("| " + " | ".join(str(cell) for cell in line) + " |")
