"""What the benchmarks share: where the data is, how time is taken, what a section of the results is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facerec import runtime
from facerec.report import made_with
from facerec.types import Face

ROOT = Path(__file__).parents[1]
PEERS = ("tensorflow", "keras", "torch", "torchvision", "facenet-pytorch")
PAUSE = 0.05  # seconds
FACEREC = [sys.executable, "-m", "facerec"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout, whatever is installed
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as installed ones are


class MissingDataError(Exception):
    """A section cannot be measured here; says why."""


def data(part: str) -> Path:
    """A part of the development data (``FACEREC_DATA``, else ../shared/data).

    Raises:
        MissingDataError: it is missing.
    """
    path = Path(os.environ.get("FACEREC_DATA", ROOT.parent / "shared" / "data")).resolve() / part
    if not path.exists():
        raise MissingDataError(f"no {part} (set FACEREC_DATA to a folder with it)")
    return path


def machine() -> dict[str, Any]:
    """Hardware, versions and date."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    peers = {name: importlib.metadata.version(name) for name in PEERS if installed(name)}
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    hardware = {
        "processor": runtime.processor(),
        "instructions": ", ".join([*simd["baseline"], *simd.get("found", [])]),  # X86_V3 has AVX2, X86_V4 AVX-512
        "cores": runtime.cpu_count(),
        "memory": f"{memory / 1e9:.0f} GB",
    }
    return {**hardware, **made_with(), **peers}


def installed(package: str) -> bool:
    """Whether a package of that name can be imported."""
    return importlib.util.find_spec(package.replace("-", "_")) is not None


@dataclass(frozen=True)
class Times:
    """Seconds of a call's repeats; formatted as milliseconds, minimum / median."""

    minimum: float
    median: float
    seconds: list[float]

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        return cls(min(seconds), statistics.median(seconds), seconds)

    def __format__(self, spec: str) -> str:
        return f"{self.minimum * 1000:{spec}} / {self.median * 1000:{spec}}"


def timed(repeats: int, *functions: Callable[[], Any]) -> list[Times]:
    """Times of `repeats` calls of each function, called in turn.

    In turn, so that a machine that is busy with something else for a while is so for all of them. Before each call that
    counts there is a pause and a call that does not: the threads of NumPy, TensorFlow and ONNX Runtime go on spinning
    for a while after theirs, and a cache holds what the last one left.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            time.sleep(PAUSE)
            function()
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [Times.of(taken) for taken in times]


@dataclass(frozen=True)
class Table:
    """Values in rows.

    Attributes:
        caption: one line.
        head: column → how its values are written, a format string; a tuple's values fill it in order.
        rows: a value a column; None where there is none.
    """

    caption: str
    head: dict[str, str]
    rows: list[list[Any]]

    def markdown(self) -> str:
        lines = [list(self.head), ["---"] * len(self.head)]
        lines += [[_cell(*pair) for pair in zip(self.head.values(), row, strict=True)] for row in self.rows]
        return "\n".join([f"{self.caption}:", "", *("| " + " | ".join(line) + " |" for line in lines)])

    def to_json(self) -> dict[str, Any]:
        return {"caption": self.caption, "head": list(self.head), "rows": self.rows}


def _cell(form: str, value: Any) -> str:
    if value is None:
        return ""
    return form.format(*value) if isinstance(value, tuple) else form.format(value)


@dataclass
class Section:
    """What one module found, printed as it comes.

    Attributes:
        name: the module's.
        parts: tables and notes in order.
        outcome: why it is not complete; empty if it is.
        crashed: by an error.
    """

    name: str
    parts: list[Table | str] = field(default_factory=list)
    outcome: str = ""
    crashed: bool = False

    @property
    def command(self) -> str:
        return f"python -m benchmarks {self.name}"

    def note(self, text: str) -> None:
        """Adds a paragraph."""
        self.parts.append(text)
        print(f"\n{text}", flush=True)

    def table(self, caption: str, head: dict[str, str], rows: list[list[Any]]) -> None:
        """Adds a table."""
        self.parts.append(Table(caption, head, rows))
        print(f"\n{self.parts[-1].markdown()}", flush=True)

    def end(self, outcome: str, crashed: bool = False) -> None:
        """Says why the section is not complete."""
        self.outcome, self.crashed = outcome, crashed
        print(f"\n{outcome}", flush=True)

    def markdown(self) -> str:
        parts = [part if isinstance(part, str) else part.markdown() for part in self.parts]
        title = f"## {self.name.capitalize()} (`{self.command}`)"
        return "\n\n".join([title, *parts, *([f"**{self.outcome}**"] if self.outcome else [])])

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "command": self.command, "outcome": self.outcome, "parts": self.parts}


def facerec(*words: str, cwd: Path) -> dict[str, Any]:
    """Runs a command with --json in a process of its own and returns its report, the last line it prints."""
    run = subprocess.run([*FACEREC, *words, "--json"], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if run.returncode not in (0, 3):
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Usage:
    """What a command took: seconds by the clock and of the processors, and its peak memory in MB."""

    seconds: float
    processor: float
    memory: float


def usage(*words: str, cwd: Path) -> Usage:
    """Runs a command in a process of its own and has the system account for it."""
    start = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*FACEREC, *words], cwd=cwd, env=ENVIRONMENT, stdout=quiet, stderr=quiet)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise RuntimeError(f"{words}: {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6)


def overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes."""
    w = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    h = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    shared = max(w, 0) * max(h, 0)
    area = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in (a, b)]
    return shared / (sum(area) - shared)
