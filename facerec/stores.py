"""Folders in object stores (s3://, gs://, memory://: whatever fsspec knows), through universal_pathlib.

A path in a store is a `UPath`, which does what a `Path` does, and is annotated as one; paths on disk stay pathlib's.
Credentials come by the store's usual means: its environment variables and files. Two runs that write into one folder
of a store at once are not noticed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from facerec.errors import FacerecError, UsageError

CURE = "check the URL, the credentials and the connection"


def folder(word: str) -> Path:
    """A path, or a `UPath` where the word is a URL.

    Raises:
        UsageError: a protocol that fsspec does not know, or whose package is not installed; or a URL with a password.
    """
    if "://" not in word:
        return Path(word)
    try:
        import fsspec
        from upath import UPath
    except ImportError:
        raise UsageError(f"{word} needs universal_pathlib", "pip install 'facerec[remote]'") from None
    if urlsplit(word).password:
        raise UsageError("a URL with a password would be written down", "give it by the store's own means")
    protocol = word.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol.rpartition("::")[2])
        path: Any = UPath(word.rstrip("/") if word.partition("://")[2].strip("/") else word)
    except ImportError as error:
        raise UsageError(f"{word} needs a package: {error}", "pip install it") from None
    except ValueError as error:
        raise UsageError(f"{word} is no URL that fsspec knows ({error})", "as in s3://bucket/raw_images") from None
    return Path(path.path) if protocol in ("file", "local") else cast(Path, path)


def in_store(path: Path) -> bool:
    """Whether a path is a URL's."""
    return not isinstance(path, Path)


def in_memory(path: Path) -> bool:
    """Whether only this process sees a path."""
    return in_store(path) and path.protocol == "memory"  # type: ignore[attr-defined]


def require_shared(cluster: str | None, *paths: Path) -> None:
    """Raises where a cluster would not see what is in this process only."""
    if cluster and any(map(in_memory, paths)):
        raise UsageError("memory:// is in this process only", "leave out --cluster, or take another store")


def absent(path: Path, what: str, cure: str) -> FacerecError:
    """The error for an input that is not there; a store does not always say why."""
    return FacerecError(what, f"{CURE}, or {cure}") if in_store(path) else UsageError(what, cure)


@contextlib.contextmanager
def _store(path: Path) -> Iterator[tuple[Any, str]]:
    """A path's file system and what that calls it. A file that is missing or forbidden is an `OSError`; whatever else
    the store's package raises becomes a `FacerecError`: each has errors of its own, also for missing credentials."""
    try:
        yield path.fs, path.path  # type: ignore[attr-defined]
    except (FacerecError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise FacerecError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}", CURE) from error


def exists(path: Path) -> bool:
    """Whether there is a file or folder.

    Raises:
        FacerecError: the store does not answer, or forbids it.
    """
    return path.exists() if not in_store(path) else _info(path) is not None


def is_file(path: Path) -> bool:
    """Whether there is a file.

    Raises:
        FacerecError: the store does not answer, or forbids it.
    """
    if not in_store(path):
        return path.is_file()
    info = _info(path)
    return info is not None and info["type"] == "file"


def is_folder(path: Path) -> bool:
    """Whether there is a folder; in a store: whether anything is below it.

    Raises:
        FacerecError: the store does not answer, or forbids it.
    """
    if not in_store(path):
        return path.is_dir()
    info = _info(path)
    return info is not None and info["type"] == "directory"


def _info(path: Path) -> dict[str, Any] | None:
    with _store(path) as (fs, name):
        fs.invalidate_cache()  # others write too
        try:
            return cast(dict[str, Any], fs.info(name))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise FacerecError(f"{path}: {error}", CURE) from None


def names(top: Path) -> Iterator[str]:
    """Files below a folder of a store, relative to it, in no order; none where there is no folder. Hidden ones are left
    out. In memory is one folder at a time: each is a request of its own.

    Raises:
        FacerecError: the store does not answer, or forbids it.
    """
    with _store(top) as (fs, name):
        first = name.rstrip("/")
        waiting = [first]
        while waiting:
            here = waiting.pop()
            fs.invalidate_cache()  # others write too, and it would grow
            try:
                listing = fs.ls(here, detail=True)
            except FileNotFoundError:
                continue
            except PermissionError as error:
                raise FacerecError(f"{top}: {error}", CURE) from None
            for entry in listing:
                each = entry["name"].rstrip("/")
                if each == here or each.rpartition("/")[2].startswith("."):
                    continue
                if entry["type"] == "directory":
                    waiting.append(each)
                else:
                    yield each.removeprefix(f"{first}/")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file, on disk or in a store, to be read piece by piece.

    Raises:
        OSError: missing or forbidden.
        FacerecError: the store does not answer.
    """
    with contextlib.nullcontext() if not in_store(path) else _store(path), path.open("rb") as file:
        yield file


def read(path: Path) -> bytes:
    """A file's bytes, in one request.

    Raises:
        OSError: missing or forbidden.
        FacerecError: the store does not answer.
    """
    with _store(path) as (fs, name):
        return cast(bytes, fs.cat_file(name))


def write(path: Path, data: bytes) -> None:
    """Writes a file whole: it is there with all its bytes, or not at all.

    Raises:
        FacerecError: the store does not answer, has no such bucket, or forbids it.
    """
    with _store(path) as (fs, name):
        try:
            fs.pipe_file(name, data)
        except (FileNotFoundError, PermissionError) as error:
            raise FacerecError(f"{path} cannot be written ({error})", CURE) from None


def put(path: Path, file: Path) -> None:
    """Writes what a file on disk holds, as `write` does.

    Raises:
        FacerecError: the store does not answer, has no such bucket, or forbids it.
    """
    with _store(path) as (fs, name):
        try:
            fs.put_file(str(file), name)
        except (FileNotFoundError, PermissionError) as error:
            raise FacerecError(f"{path} cannot be written ({error})", CURE) from None


def remove(path: Path) -> None:
    """Deletes a file, if it is there.

    Raises:
        FacerecError: the store does not answer, or forbids it.
    """
    with _store(path) as (fs, name), contextlib.suppress(FileNotFoundError):
        try:
            fs.rm_file(name)
        except PermissionError as error:
            raise FacerecError(f"{path} cannot be removed ({error})", CURE) from None


@contextlib.contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A path as a file on disk: itself, or a copy for the owner only, gone after the block.

    Raises:
        OSError: missing or forbidden in the store.
        FacerecError: the store does not answer.
    """
    if not in_store(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="facerec-") as place:
        copy = Path(place, f"input{path.suffix}")
        with _store(path) as (fs, name):
            fs.get_file(name, str(copy))
        yield copy
