"""What stages share: names of people and of outputs, and what stands in a stage's way."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from facerec import stores
from facerec.artifacts import atomic_path, npz_kind
from facerec.errors import UsageError
from facerec.video import VideoWriter, with_sound

LONGEST = 200  # bytes of a name: disks take 255, and files' names are longer
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # what turns the rest of a line around


def require_folder(folder: Path, cure: str) -> None:
    """Raises where a stage's input folder is missing."""
    if not stores.is_folder(folder):
        raise stores.absent(folder, f"there is no folder {folder}", cure)


def require_npz(output: Path, kind: str) -> None:
    """Raises where a file of arrays would get another suffix, or take the place of one of another kind."""
    if output.suffix != ".npz":
        raise UsageError(f"{output} does not end in .npz", "choose another file")
    if (there := npz_kind(output)) not in ("", kind):
        raise UsageError(f"{output} holds {there}, which would be lost", "choose another file")


def require_apart(inputs: Path, output: Path) -> None:
    """Raises where a stage would read what it writes."""
    a, b = inputs.resolve(), output.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UsageError(f"{inputs} and {output} lie in one another", "choose another --output")


def free(path: Path) -> Path:
    """A path that is not taken: this one, or the first with -2, -3 … behind its name."""
    numbered = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


@contextlib.contextmanager
def copy_of(original: Path, output: Path, fps: float) -> Iterator[VideoWriter]:
    """Writes a copy of a video's frames; it gets the sound and its name when all are written."""
    with tempfile.TemporaryDirectory() as folder:
        silent = Path(folder) / output.name
        with VideoWriter(silent, fps) as writer:
            yield writer
        with atomic_path(output) as whole:
            with_sound(silent, original, whole)


def canonical(name: str) -> str:
    """A person's name as facerec writes it: ë is one character (NFC), though macOS makes it two in folders' names."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """The same for names that some disks take for one: ä is one character, or two."""
    return canonical(name).casefold()


def require_name(name: str) -> str:
    """The `canonical` name; raises `UsageError` for what cannot be a person's name and a folder's."""
    name = canonical(name)
    if (
        not name.strip()
        or name != name.strip()
        or name.startswith(".")
        or any(c in "/\\" or unicodedata.category(c) == "Cc" or unicodedata.bidirectional(c) in BIDI for c in name)
        or not any(c.isprintable() and c not in " \u3164" for c in name)  # U+3164: a letter that is not seen
    ):
        raise UsageError(f"{name!r} cannot be a person's name", "use letters, digits, spaces, hyphens")
    if len(name.encode(errors="replace")) > LONGEST:
        raise UsageError(f"{name[:20]}… is too long for the name of a folder", "use a shorter one")
    if name in ("unknown", "no face"):
        raise UsageError(f"{name!r} is an answer, not a name", "choose another")
    if name in ("train", "test", "val"):
        raise UsageError(f"{name!r} is a folder of many people's photos, not a name", "choose another")
    return name


def output_names(files: Sequence[Path]) -> list[str]:
    """Where the outputs of files go, from their relative paths: without suffix, never shared.

    ``a/1.jpg`` and ``a/1.png`` become ``a/1_jpg`` and ``a/1_png``. Upper and lower case count as the same,
    as some disks have it.
    """
    stems = [file.with_suffix("").as_posix() for file in files]
    count = Counter(stem.casefold() for stem in stems)
    used: set[str] = set()
    names = []
    for stem, file in zip(stems, files, strict=True):
        name = stem if count[stem.casefold()] == 1 else f"{stem}_{file.suffix[1:]}"
        while name.casefold() in used:
            name += "_"
        used.add(name.casefold())
        names.append(name)
    return names


def copies_of(inputs: Sequence[Path], output: Path, suffix: Callable[[Path], str]) -> list[Path]:
    """Where copies of files go: below the output as the files lie below their common folder.

    Args:
        inputs: the files.
        output: the folder.
        suffix: of the copy of a file.

    Raises:
        UsageError: a copy would go where files of the user's are.
    """
    full = [Path(os.path.abspath(p)) for p in inputs]  # noqa: PTH100 - without "..", links kept
    base = Path(os.path.commonpath([p.parent for p in full])) if full else Path()
    names = output_names([p.relative_to(base) for p in full])
    copies = [output / f"{name}{suffix(p)}" for p, name in zip(inputs, names, strict=True)]
    theirs = {*(p.parent.resolve() for p in full), *(p.resolve() for p in full)}
    if clash := [copy for copy in copies if {copy.parent.resolve(), copy.resolve()} & theirs]:
        raise UsageError(f"{clash[0]} would lie among the inputs", "choose another --output")
    return copies
