"""The only code that knows the format of .npz files, and how files are written: atomically, for their owner only.

Nothing here unpickles: arrays are read with ``allow_pickle=False``, after their headers were checked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from facerec import stores
from facerec.errors import ArtifactError, InputError
from facerec.images import encode_image
from facerec.paths import TEMPORARY
from facerec.types import Embeddings, Failure, Gate, Image, Space

FORMAT = 2
SYNCS = 8  # files that wait for the disk side by side
PIECE = 1024  # rows of a file that are read or written at a time


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with stores.opened(path) as file:
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


_later: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("later", default=None)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends well; on disk before that.

    Raises:
        ArtifactError: the disk is full, or the folder cannot be written.
    """
    try:
        if target.is_symlink():  # what it leads to is written, and the link stays
            link, target = target, Path(os.path.realpath(target))
            if not target.parent.is_dir():
                raise ArtifactError(
                    f"{link} leads to {target}, which is not there", "mount its disk, or remove the link"
                )
        if target.exists() and not target.is_file():
            raise ArtifactError(f"{target} is not a regular file", "choose another --output")
        make_folder(target.parent)
        with contextlib.suppress(FileNotFoundError):
            target.lstat()  # a name that is too long is said now: what is written together comes to it later
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY, suffix=target.suffix)
        os.close(handle)
    except OSError as error:
        raise cannot_write(target, error) from error
    temp = Path(name)
    later = None
    try:
        yield temp
        later = _later.get()
        if later is None:
            _sync(temp)
            temp.replace(target)
            _sync_folder(target.parent)
        else:
            later.append((temp, target))
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        if later is None:
            temp.unlink(missing_ok=True)


@contextlib.contextmanager
def written_together() -> Iterator[None]:
    """Has `atomic_path` put what is written inside into place at the end: one wait for the disk instead of many.

    After a power failure a file may be missing, never damaged: for what would then be made again.

    Raises:
        ArtifactError: the disk is full.
    """
    files: list[tuple[Path, Path]] = []
    before = _later.set(files)
    try:
        yield
        target = None
        try:
            with ThreadPoolExecutor(SYNCS) if len(files) > 1 else contextlib.nullcontext() as pool:
                sync = pool.map if pool else map  # the disk's journal takes several together
                list(sync(_sync, [temp for temp, _ in files]))
            for temp, target in files:
                temp.replace(target)
        except OSError as error:
            raise cannot_write(target or files[0][1], error) from error
    finally:
        _later.reset(before)
        for temp, _ in files:
            temp.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("r+b") as file:  # Windows wants the right to write
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Puts the names in a folder on disk, where the system can."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cannot_write(target: Path, error: OSError) -> ArtifactError | InputError:
    """What to raise where the disk refuses a file."""
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
    if stores.in_store(path):
        stores.write(path, data)
        return
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    with atomic_path(path) as temp:
        temp.write_text(text, encoding="utf-8", errors="surrogateescape")


def move(source: Path, target: Path) -> None:
    """Moves a finished file to its folder; a store gets a copy."""
    if stores.in_store(target):
        stores.write(target, source.read_bytes())
        return
    make_folder(target.parent)
    source.replace(target)


# --- .npz ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """An array that is written piece by piece: all of its rows are never in memory."""

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


def write_npz(path: Path, header: dict[str, Any], arrays: Mapping[str, np.ndarray | Column]) -> None:
    """Writes arrays and a JSON header as an uncompressed .npz, atomically. Same content, same bytes: `np.savez`'s."""
    text = json.dumps({**header, "format": FORMAT}, sort_keys=True)
    for unfinished in path.parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):  # another writer has finished
            if time.time() - unfinished.stat().st_mtime > 3600:  # of a process that was killed
                remove(unfinished)
    with atomic_path(path) as temp, zipfile.ZipFile(temp, "w") as archive:
        for name, array in {"header": np.frombuffer(text.encode(), np.uint8), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, np.ndarray):
                    np.lib.format.write_array(member, array, allow_pickle=False)
                    continue
                descr = np.lib.format.dtype_to_descr(array.dtype)
                about = {"descr": descr, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, about)
                for piece in array.pieces:
                    member.write(piece.astype(array.dtype, copy=False).tobytes())


@dataclass(frozen=True)
class _Member:
    """An array in a file, open behind its header."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, rows: int) -> np.ndarray:
        """The next rows; fewer, or none, at the end."""
        data = self.file.read(rows * math.prod(self.shape[1:]) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])


@contextlib.contextmanager
def _opened_npz(
    path: Path, kind: str, expected: dict[str, tuple[str, int]], cure: str
) -> Iterator[tuple[dict[str, Any], dict[str, _Member]]]:
    """The JSON header and the arrays, unread, of a file of `write_npz`; raises as `read_npz`."""
    if not path.exists():
        raise ArtifactError(f"{path} is missing", cure)
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder", f"give a file in it that holds {kind}, or {cure}")
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            members = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in {**expected, "header": ("u", 1)}:
                    raise ArtifactError(f"{path} is not a facerec {kind} file (it holds {name!r})", cure)
                if info.file_size > size:
                    raise ArtifactError(f"{path} claims more data than it holds", cure)
                member = stack.enter_context(archive.open(info))
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
                want = expected.get(name, ("u", 1))
                if dtype.kind != want[0] or len(shape) != want[1]:
                    raise ArtifactError(f"{path}: {name} is {dtype} {shape}, which no {kind} file has", cure)
                members[name] = _Member(member, shape, dtype)
            header = json.loads(members.pop("header").file.read())
            if not isinstance(header, dict) or header.get("kind") != kind or header.get("format") != FORMAT:
                holds = header.get("kind") if isinstance(header, dict) and header.get("format") == FORMAT else None
                raise ArtifactError(f"{path} holds {holds or 'something else'}, not {kind}", cure)
            if missing := expected.keys() - members.keys():
                raise ArtifactError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}", cure)
            yield header, members
    except ArtifactError:
        raise
    except PermissionError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", "see who owns it: `ls -l`") from None
    except Exception as error:  # the zip and array readers raise anything at all on damaged files
        raise ArtifactError(f"{path} is damaged or not a facerec file ({error})", cure) from None


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
    with _opened_npz(path, kind, expected, cure) as (header, _), np.load(path, allow_pickle=False) as data:
        return header, {name: data[name] for name in expected}


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


def save_embeddings(path: Path, embeddings: Embeddings, columns: Mapping[str, Column] | None = None) -> None:
    """Writes labelled vectors; the format is in docs/formats.md.

    Args:
        path: the file.
        embeddings: the vectors, or only what is said of all of them.
        columns: each of `EMBEDDINGS`, instead of the vectors' own.
    """
    header, arrays = embeddings_parts(embeddings)
    write_npz(path, {"kind": "embeddings", **header}, columns or arrays)


def embeddings_pieces(path: Path) -> Iterator[Embeddings]:
    """`load_embeddings`, `PIECE` rows at a time; a first piece always, if only for what is said of all."""
    cure = "make it with `facerec embed`, or `facerec enroll`"
    with _opened_npz(path, "embeddings", EMBEDDINGS, cure) as (header, members):
        n = members["vectors"].shape[0]
        all_of: Embeddings | None = None
        for _ in range(0, max(n, 1), PIECE):
            arrays: dict[str, Any] = {name: member.read(PIECE) for name, member in members.items()}
            all_of = replace(all_of, **arrays) if all_of else embeddings_from(path, header, arrays, cure)
            yield all_of


def training_photos(path: Path) -> tuple[Space, set[str]]:
    """The space of labelled vectors, and the digests of those to train on, without the vectors; raises likewise."""
    cure = "make it with `facerec embed`"
    with _opened_npz(path, "embeddings", EMBEDDINGS, cure) as (header, members):
        digests, splits = (members[name].read(members[name].shape[0]) for name in ("digests", "splits"))
        return Space.from_json(header["space"]), set(digests[splits == "train"].tolist())


def load_embeddings(path: Path) -> Embeddings:
    """Reads labelled vectors.

    Raises:
        ArtifactError: missing, damaged or foreign; the message says which command makes the file.
    """
    cure = "make it with `facerec embed`, or `facerec enroll`"
    header, arrays = read_npz(path, "embeddings", EMBEDDINGS, cure)
    return embeddings_from(path, header, arrays, cure)
