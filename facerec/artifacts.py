"""The only code that knows the formats on disk: manifests and .npz files. Writes are atomic and private.

Nothing here unpickles: arrays are read with ``allow_pickle=False``, after their headers were checked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from facerec.errors import ArtifactError, InputError
from facerec.images import encode_image, natural_key
from facerec.types import Embeddings, Failure, Gate, Image, Space

MANIFEST = "manifest.jsonl"
TEMPORARY = ".tmp-"  # how the names of unfinished files begin
FORMAT = 2


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Creates a folder, with its parents, for its owner only."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            folder.mkdir(exist_ok=True, mode=0o700)


def remove(path: Path) -> None:
    """Deletes a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends well; on disk before that.

    Raises:
        ArtifactError: the disk is full, or the folder cannot be written.
    """
    try:
        if target.exists() and not target.is_file():
            raise ArtifactError(f"{target} is not a regular file", "choose another --output")
        make_folder(target.parent)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY, suffix=target.suffix)
        os.close(handle)
    except OSError as error:
        raise _cannot_write(target, error) from error
    temp = Path(name)
    try:
        yield temp
        with temp.open("rb") as file:
            os.fsync(file.fileno())
        temp.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        temp.unlink(missing_ok=True)


def _cannot_write(target: Path, error: OSError) -> ArtifactError | InputError:
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"the name {target.name} is too long for the disk", "shorten the input's name")
    return ArtifactError(
        f"{target} cannot be written ({error.strerror or error})",
        "make room or choose another --output; then run again",
    )


def write_image(path: Path, image: Image) -> None:
    """Writes an RGB picture atomically; PNG or JPEG by the suffix."""
    write_bytes(path, encode_image(image, path.suffix))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes atomically."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    with atomic_path(path) as temp:
        temp.write_text(text, encoding="utf-8", errors="surrogateescape")


# --- manifests -----------------------------------------------------------------------------------


@dataclass
class Record:
    """What a stage did to one input.

    Attributes:
        input: path of the input, relative to the folder that the output folder stands in.
        sha256: of the input's content.
        options: everything else that the outputs depend on.
        outputs: what was made, each with its ``path`` relative to the output folder.
        error: why nothing was made; None where all went well.
        label: the person.
        split: "train", "test", "gap" (kept out, next to a test frame), or empty.
        host: host and process that did it, where a cluster did.
    """

    input: str
    sha256: str
    options: dict[str, Any]
    outputs: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    label: str = ""
    split: str = ""
    host: str = ""


class Manifest:
    """``manifest.jsonl`` of an output folder: one line an input. Survives being killed at any point.

    Lines are appended as inputs are finished; closing sorts them and leaves one an input. A line that
    was cut off by a crash is passed over, and its input is done again. Use as a context manager: it
    locks the folder.

    Raises:
        ArtifactError: another process works on the folder, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / MANIFEST
        self.records: dict[str, Record] = {}

    def __enter__(self) -> Manifest:
        try:
            make_folder(self.folder)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise ArtifactError(f"another facerec is working on {self.folder}", "wait until it has finished") from None
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        self.sweep()
        self._load()
        cut_off = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = open(handle, "a", encoding="utf-8", errors="surrogateescape")  # noqa: PTH123
        self._file.write("\n" if cut_off else "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with contextlib.suppress(OSError):  # a full disk: what is on it stays valid
                self._file.close()
            lines = sorted(self.records.values(), key=lambda r: natural_key(r.input))
            text = "".join(json.dumps(vars(r), ensure_ascii=False) + "\n" for r in lines)
            if kind is None or not issubclass(kind, ArtifactError):
                write_text(self.path, text)
        finally:
            (self.folder / ".lock").unlink(missing_ok=True)  # before the release: nobody gets a lock on nothing
            self._lock.release()

    def sweep(self) -> None:
        """Removes what processes that were killed left unfinished."""
        for unfinished in list(self.folder.rglob(f"{TEMPORARY}*")):
            remove(unfinished)

    def _load(self) -> None:
        self.records = {record.input: record for record in read_manifest(self.folder)}

    def key(self, path: Path) -> str:
        """How this manifest names an input: relative to the folder that the output folder stands in."""
        try:
            return Path(os.path.relpath(path, self.folder.parent)).as_posix()
        except ValueError:  # another drive
            return path.resolve().as_posix()

    def is_done(self, key: str, path: Path, options: dict[str, Any]) -> bool:
        """Whether this very content was treated with these very options, and its outputs are still there.

        Raises:
            OSError: the input cannot be read.
        """
        record = self.records.get(key)
        return (
            record is not None
            and record.options == json.loads(json.dumps(options))
            and all((self.folder / o["path"]).is_file() for o in record.outputs)
            and record.sha256 == sha256_of(path)
        )

    def write(self, record: Record) -> None:
        """Notes that an input is finished; removes what an earlier run made of it and this one did not."""
        kept = {o["path"] for o in record.outputs}
        if old := self.records.get(record.input):
            self._unlink([o for o in old.outputs if o["path"] not in kept])
        self.records[record.input] = record
        try:
            self._file.write(json.dumps(vars(record), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def forget(self, keys: list[str]) -> None:
        """Removes inputs that are gone, with all that was made of them."""
        for key in keys:
            self._unlink(self.records.pop(key).outputs)

    def _unlink(self, outputs: list[dict[str, Any]]) -> None:
        for output in outputs:
            path = self.folder / output["path"]
            path.unlink(missing_ok=True)
            parent = path.parent
            while parent != self.folder and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent


def read_manifest(folder: Path) -> Iterator[Record]:
    """The lines of a folder's manifest, one at a time; none where there is no manifest.

    After a crash an input may come twice: the later line holds.
    """
    path = folder / MANIFEST
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if (record := _parse(line)) is not None:
                yield record


_TYPES = {"input": str, "sha256": str, "options": dict, "outputs": list, "label": str, "split": str, "host": str}


def _parse(line: str) -> Record | None:
    """A manifest's line; None where it was cut off by a crash, or points outside its folder."""
    try:
        record = Record(**json.loads(line))
        paths = [Path(output["path"]) for output in record.outputs]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    typed = all(isinstance(getattr(record, name), kind) for name, kind in _TYPES.items())
    inside = all(not p.is_absolute() and p.parts and ".." not in p.parts for p in paths)
    return record if typed and inside and isinstance(record.error, str | None) else None


# --- .npz ----------------------------------------------------------------------------------------


def write_npz(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays and a JSON header as an uncompressed .npz, atomically. Same content, same bytes."""
    text = json.dumps({**header, "format": FORMAT}, sort_keys=True)
    for unfinished in path.parent.glob(f"{TEMPORARY}*"):
        if time.time() - unfinished.stat().st_mtime > 3600:  # of a process that was killed
            remove(unfinished)
    with atomic_path(path) as temp, temp.open("wb") as file:
        np.savez(file, header=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def read_npz(
    path: Path, kind: str, expected: dict[str, tuple[str, int]], cure: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads a file of `write_npz`, its headers first.

    Args:
        path: the file.
        kind: what its header must say it is.
        expected: array name → (dtype kind, number of dimensions).
        cure: the command that makes such a file.

    Raises:
        ArtifactError: missing, damaged, of another kind, or with arrays that it should not have.
    """
    if not path.exists():
        raise ArtifactError(f"{path} is missing", cure)
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in {**expected, "header": ("u", 1)}:
                    raise ArtifactError(f"{path} is not a facerec {kind} file (it holds {name!r})", cure)
                if info.file_size > size:
                    raise ArtifactError(f"{path} claims more data than it holds", cure)
                with archive.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(member)
                want = expected.get(name, ("u", 1))
                if dtype.kind != want[0] or len(shape) != want[1]:
                    raise ArtifactError(f"{path}: {name} is {dtype} {shape}, which no {kind} file has", cure)
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(data["header"].tobytes().decode())
            if not isinstance(header, dict) or header.get("kind") != kind or header.get("format") != FORMAT:
                raise ArtifactError(f"{path} holds something else, not {kind}", cure)
            return header, {name: data[name] for name in expected}
    except ArtifactError:
        raise
    except Exception as error:  # the zip and array readers raise anything at all on damaged files
        raise ArtifactError(f"{path} is damaged or not a facerec file ({error})", cure) from None


def npz_kind(path: Path) -> str:
    """What a facerec .npz file says it is: "embeddings", "classifier"; empty for any other file."""
    try:
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(data["header"].tobytes().decode())
        return str(header["kind"]) if header.get("format") == FORMAT else ""
    except Exception:  # the zip and array readers raise anything at all on damaged files
        return ""


EMBEDDINGS = {
    "vectors": ("f", 2),
    "labels": ("U", 1),
    "sources": ("U", 1),
    "splits": ("U", 1),
    "digests": ("U", 1),
    "quality": ("f", 1),
    "added": ("U", 1),
}


def embeddings_parts(embeddings: Embeddings) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header fields and arrays of labelled vectors, as files of embeddings and of classifiers hold them."""
    header = {
        "space": embeddings.space.to_json(),
        "detector": embeddings.detector,
        "failures": [asdict(f) for f in embeddings.failures],
        "gate": embeddings.gate and embeddings.gate.to_json(),
        "lookalikes": embeddings.lookalikes,
    }
    return header, {name: getattr(embeddings, name) for name in EMBEDDINGS}


def embeddings_from(path: Path | str, header: dict[str, Any], arrays: dict[str, np.ndarray], cure: str) -> Embeddings:
    """The inverse of `embeddings_parts`; raises `ArtifactError` where they do not fit together."""
    try:
        return Embeddings(
            **{name: arrays[name] for name in EMBEDDINGS},
            space=Space.from_json(header["space"]),
            detector=header["detector"],
            failures=tuple(Failure(**f) for f in header["failures"]),
            gate=header["gate"] and Gate.from_json(header["gate"]),
            lookalikes=tuple((str(a), str(b)) for a, b in header.get("lookalikes", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged ({error})", cure) from None


def save_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Writes labelled vectors; the format is in docs/formats.md."""
    header, arrays = embeddings_parts(embeddings)
    write_npz(path, {"kind": "embeddings", **header}, arrays)


def load_embeddings(path: Path) -> Embeddings:
    """Reads labelled vectors.

    Raises:
        ArtifactError: missing, damaged or foreign; the message says which command makes the file.
    """
    cure = "make it with `facerec embed`, or `facerec enroll`"
    header, arrays = read_npz(path, "embeddings", EMBEDDINGS, cure)
    return embeddings_from(path, header, arrays, cure)
