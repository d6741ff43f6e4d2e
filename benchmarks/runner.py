"""Runs sections, each in a process of its own, and writes what they found."""

from __future__ import annotations

import dataclasses
import importlib
import json
import multiprocessing
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from benchmarks.common import MissingDataError, Section, machine

HEAD = """\
# Benchmarks

Written by `make bench`; the same for programs: [benchmarks.json](benchmarks.json). What follows from the figures:
[choices.md](choices.md). Times are minimum / median of the repeats, the sides called in turn in one run; ratios are of
the minima.
"""


def run(module: str) -> Section:
    """One section; what it measured before an error is kept."""
    section = Section(module.rpartition(".")[2])
    print(f"\n## {section.name}", flush=True)
    try:
        importlib.import_module(module).main(section)
    except MissingDataError as reason:
        section.end(f"skipped: {reason}")
    except Exception as error:
        traceback.print_exc()
        section.end(f"crashed: {type(error).__name__}: {error}", crashed=True)
    return section


def run_apart(module: str) -> Section:
    """One section in a process of its own: a fresh interpreter, so that sections leave nothing to one another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(run, module).result()
        except BrokenProcessPool:
            section = Section(module.rpartition(".")[2])
            section.end("crashed: the process died", crashed=True)
            return section


def write(sections: Sequence[Section], folder: Path) -> None:
    """Writes benchmarks.md and benchmarks.json; sections measured earlier stay, each with its processor."""
    made_on = machine()
    made, processor = made_on.pop("made"), made_on["processor"]
    path = folder / "benchmarks.json"
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else {"machines": {}, "sections": []}
    found = {section["name"]: section for section in earlier["sections"]}
    for section in sections:
        found[section.name] = {
            **section.to_json(),
            "made": made,
            "processor": processor,
            "markdown": section.markdown(),
        }
    machines = {**earlier["machines"], processor: made_on}
    machines = {name: machines[name] for name in sorted({section["processor"] for section in found.values()})}
    keys = list(dict.fromkeys(key for about in machines.values() for key in about))
    lines = [[key, *(str(about.get(key, "")) for about in machines.values())] for key in keys]
    rows = [
        "|" + " |" * len(lines[0]),
        "| --- " * len(lines[0]) + "|",
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
    parts = [
        f"{section['markdown']}\n\n*Measured {section['made']} on {section['processor']}.*"
        for section in found.values()
    ]
    text = "\n\n".join([HEAD + "\n" + "\n".join(rows), *parts])
    (folder / "benchmarks.md").write_text(text + "\n", encoding="utf-8")
    results = {"machines": machines, "sections": list(found.values())}
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Tables, times and NumPy's numbers for JSON."""
    if hasattr(value, "to_json"):
        return value.to_json()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value.item()


def run_all(modules: Sequence[str], folder: Path) -> int:
    """Runs the modules and writes what each found as soon as it is there; 1 if one crashed."""
    crashed = False
    for module in modules:
        section = run_apart(module)
        write([section], folder)
        crashed |= section.crashed
    return int(crashed)
