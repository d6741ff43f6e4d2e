"""manifest.jsonl: what a stage did to each of its inputs, a line an input, on disk or in a store."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

from facerec import stores
from facerec.artifacts import atomic_path, cannot_write, make_folder, remove, sha256_of
from facerec.errors import ArtifactError, FacerecError
from facerec.images import natural_key
from facerec.paths import TEMPORARY
from facerec.scratch import Names, Tables, packed, unpacked
from facerec.types import Crop, Face

MANIFEST = "manifest.jsonl"
SAVE = 30.0  # seconds between the manifests that a stage writes into a store
REST = 10  # or this many times what writing one took, if that is longer: a long manifest costs a run a tenth at most


@dataclass
class Record:
    """What a stage did to one input.

    Attributes:
        input: path of the input, relative to the folder that the output folder stands in; a URL where it is in a
            store.
        sha256: of the input's content.
        options: everything else that the outputs depend on.
        outputs: what was made, each with its ``path`` relative to the output folder.
        error: why nothing was made; None where all went well.
        label: the person.
        split: "train", "test", "gap" (kept out, next to a test frame), or empty.
        host: host and process that did it, where a cluster did.
        stage: whose folder this is; empty in manifests from before this was noted.
    """

    input: str
    sha256: str
    options: dict[str, Any]
    outputs: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    label: str = ""
    split: str = ""
    host: str = ""
    stage: str = ""


class Records(MutableMapping[str, Record]):
    """Records by their input, each a line at the end of a file; where it stands is in a table on disk.

    A line that was cut off is passed over, an earlier one of the same input is not looked at again.

    Args:
        file: open for reading and appending, in bytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._tables = Tables("CREATE TABLE lines (input BLOB PRIMARY KEY, natural BLOB, start INTEGER) WITHOUT ROWID")
        file.seek(0)
        start, line = 0, b"\n"
        for line in file:
            if (record := _parse(line)) is not None:
                self._stands(record.input, start)
            start += len(line)
        self._cut_off = not line.endswith(b"\n")

    def _stands(self, key: str, start: int) -> None:
        self._tables.execute("REPLACE INTO lines VALUES (?, ?, ?)", packed(key), natural_key(key), start)

    def __getitem__(self, key: str) -> Record:
        start = self._tables.value("SELECT start FROM lines WHERE input = ?", packed(key))
        if start is None:
            raise KeyError(key)
        return Record(**json.loads(self._line(start).decode(errors="surrogateescape")))

    def __setitem__(self, key: str, record: Record) -> None:
        end = self._file.seek(0, os.SEEK_END) + self._cut_off
        self._file.write(b"\n" * self._cut_off + _line(record))
        self._file.flush()
        self._cut_off = False
        self._stands(key, end)

    def __delitem__(self, key: str) -> None:
        if not self._tables.execute("DELETE FROM lines WHERE input = ?", packed(key)).rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        """The inputs; they may be removed meanwhile."""
        last = b""
        while (key := self._tables.value("SELECT min(input) FROM lines WHERE input > ?", last)) is not None:
            yield unpacked(key)
            last = key

    def __len__(self) -> int:
        return int(self._tables.value("SELECT count(*) FROM lines"))

    def __bool__(self) -> bool:
        return self._tables.value("SELECT 1 FROM lines") is not None

    def close(self) -> None:
        """Forgets where the lines stand."""
        self._tables.close()

    def _line(self, start: int) -> bytes:
        self._file.seek(start)
        return self._file.readline()

    def lines(self) -> Iterator[bytes]:
        """One an input with its end, in the inputs' natural order."""
        for (start,) in self._tables.rows("SELECT start FROM lines ORDER BY natural, input"):
            yield self._line(start).rstrip(b"\n") + b"\n"  # the last one may lack it


class Manifest:
    """``manifest.jsonl`` of an output folder: one line an input. Survives being killed at any point.

    Lines are appended as inputs are finished; closing sorts them and leaves one an input. A line that
    was cut off by a crash is passed over, and its input is done again. Use as a context manager: it
    locks the folder. That of a file stands beside it: ``NAME.manifest.jsonl``.

    Raises:
        ArtifactError: another process works on the folder, or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = MANIFEST) -> None:
        self.folder = folder
        self.path = folder / name

    def __enter__(self) -> Manifest:
        self._acquire()
        if self.path.name == MANIFEST:  # a file's folder is others' too
            self.sweep()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._file: IO[bytes] = open(handle, "a+b")  # noqa: PTH123
        self.records = Records(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, ArtifactError):
                with atomic_path(self.path) as temp:
                    with temp.open("wb") as file:
                        file.writelines(self.records.lines())
                    self._file.close()  # some systems replace no open file
        finally:
            self.records.close()
            with contextlib.suppress(OSError):  # a full disk: what is on it stays valid
                self._file.close()
            self._release()

    def require_free(self) -> None:
        """Raises `ArtifactError` where another process works on the folder."""
        if os.access(self.folder, os.W_OK):  # else nobody can
            self._acquire()
            self._release()

    def _acquire(self) -> None:
        try:
            make_folder(self.folder)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise ArtifactError(f"another facerec is working on {self.folder}", "wait until it has finished") from None
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _release(self) -> None:
        with contextlib.suppress(PermissionError):  # Windows keeps what is open
            (self.folder / ".lock").unlink(missing_ok=True)  # before the release: nobody gets a lock on nothing
        self._lock.release()

    def sweep(self) -> None:
        """Removes what processes that were killed left unfinished."""
        for unfinished in list(self.folder.rglob(f"{TEMPORARY}*")):
            remove(unfinished)

    def key(self, path: Path) -> str:
        """How this manifest names an input: relative to the folder that the output folder stands in, or by its URL."""
        if stores.in_store(path):
            return str(path).rstrip("/")
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
            and all(self.has(o["path"]) for o in record.outputs)
            and record.sha256 == sha256_of(path)
        )

    def has_input(self, key: str) -> bool:
        """Whether an input is still there."""
        return stores.exists(stores.folder(key) if "://" in key else self.folder.parent / key)

    def has(self, name: str) -> bool:
        """Whether an output is still there."""
        return (self.folder / name).is_file()

    def write(self, record: Record) -> None:
        """Notes that an input is finished; removes what an earlier run made of it and this one did not."""
        kept = {o["path"] for o in record.outputs}
        if old := self.records.get(record.input):
            self._unlink([o for o in old.outputs if o["path"] not in kept])
        try:
            self.records[record.input] = record
        except OSError as error:
            raise cannot_write(self.path, error) from error

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


class StoreManifest(Manifest):
    """The manifest of a folder in a store, where nothing is locked or appended to.

    It is written whole every `SAVE` seconds, or `REST` times as long as that takes, and at the end: a run that is
    killed repeats at most that much. Two runs into one folder at once are not noticed; the later end wins.

    Raises:
        FacerecError: the store does not answer, has no such bucket, or forbids it.
    """

    def __enter__(self) -> StoreManifest:
        self._file = tempfile.TemporaryFile()  # nobody else can open it
        with contextlib.suppress(FileNotFoundError), stores.opened(self.path) as file:
            shutil.copyfileobj(file, self._file)
        self.records = Records(self._file)
        self._there = Names()
        for name in stores.names(self.folder):
            self._there.add(name)
        self._save()  # who may not write hears it now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with (
            self._file,
            contextlib.closing(self.records),
            contextlib.closing(self._there),
            contextlib.nullcontext() if kind is None else contextlib.suppress(FacerecError),
        ):
            self._save()  # the first error counts

    def _save(self) -> None:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="facerec-") as place:
            file = Path(place, MANIFEST)
            with file.open("wb") as lines:
                lines.writelines(self.records.lines())
            stores.put(self.path, file)
        now = time.monotonic()
        self._next = now + max(SAVE, REST * (now - start))

    def sweep(self) -> None:
        """Nothing: what a store holds is whole."""

    def key(self, path: Path) -> str:
        """How this manifest names an input: by its URL, or its full path on disk."""
        return super().key(path) if stores.in_store(path) else path.resolve().as_posix()

    def has_input(self, key: str) -> bool:
        """Whether an input is still there."""
        return stores.exists(stores.folder(key))

    def has(self, name: str) -> bool:
        """Whether an output is still there."""
        return name in self._there

    def write(self, record: Record) -> None:
        """Notes that an input is finished; removes what an earlier run made of it and this one did not."""
        super().write(record)
        if time.monotonic() >= self._next:
            self._save()

    def _unlink(self, outputs: list[dict[str, Any]]) -> None:
        for output in outputs:
            stores.remove(self.folder / output["path"])


def manifest_of(folder: Path) -> Manifest:
    """The manifest of an output folder, on disk or in a store."""
    return StoreManifest(folder) if stores.in_store(folder) else Manifest(folder)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes a manifest of a file on disk, a line a record; no file where there is none."""
    with atomic_path(path) as temp:
        with temp.open("wb") as file:
            file.writelines(map(_line, records))
        empty = not temp.stat().st_size
    if empty:
        path.unlink()


def append_records(path: Path, records: Iterator[Record]) -> None:
    """Adds to a manifest of a file on disk; safe with one that was cut off."""
    first = next(records, None)
    if first is None:
        return
    try:
        make_folder(path.parent)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:  # noqa: PTH123
            file.writelines(itertools.chain([b"\n", _line(first)], map(_line, records)))
    except OSError as error:
        raise cannot_write(path, error) from error


def read_manifest(folder: Path, name: str = MANIFEST) -> Iterator[Record]:
    """The lines of a folder's manifest, one at a time; none where there is no manifest.

    After a crash an input may come twice: the later line holds.
    """
    path = folder / name
    if not stores.exists(path):
        return
    with stores.opened(path) as file:
        for line in file:
            if (record := _parse(line)) is not None:
                yield record


def _line(record: Record) -> bytes:
    return json.dumps(vars(record), ensure_ascii=False).encode(errors="surrogateescape") + b"\n"


_TYPES = dict.fromkeys(("input", "sha256", "label", "split", "host", "stage"), str) | {"options": dict, "outputs": list}


def _parse(line: bytes) -> Record | None:
    """A manifest's line; None where it was cut off by a crash, is not one of ours, or points outside its folder."""
    try:
        record = Record(**json.loads(line.decode(errors="surrogateescape")))
        paths = [Path(output["path"]) for output in record.outputs]
        for output in record.outputs:
            if "box" in output:
                Face.from_json(output)
        if "crop" in record.options:
            Crop(**record.options["crop"])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    named = not any("\0" in str(path) for path in (record.input, *paths))
    typed = all(isinstance(getattr(record, name), kind) for name, kind in _TYPES.items())
    inside = all(not p.is_absolute() and p.parts and ".." not in p.parts for p in paths)
    return record if named and typed and inside and isinstance(record.error, str | None) else None
