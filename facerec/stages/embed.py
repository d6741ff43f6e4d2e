"""embed: processed/{train,test}/NAME/*.png → embeddings/faces.npz, labelled unit vectors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from facerec.artifacts import load_embeddings, read_manifest, save_embeddings
from facerec.errors import ArtifactError, FacerecError, InputError
from facerec.images import decode_image, read_bytes, stack_crops
from facerec.quality import assess
from facerec.stages.common import require_folder, require_npz
from facerec.types import Crop, Embedder, Embeddings, Face, Failure, Gate, Progress, StageReport, no_progress

BATCH = 32
CHECKPOINT_SECONDS = 30.0

T = TypeVar("T")
S = TypeVar("S")


def crop_of(processed: Path) -> tuple[Crop, str]:
    """How the faces in a folder were cut out, and by which detector.

    Raises:
        ArtifactError: no manifest, or crops of more than one kind.
    """
    kinds = {
        (Crop(**r.options["crop"]), r.options["detector"])
        for r in read_manifest(processed)
        if r.outputs and "crop" in r.options
    }
    if not kinds:
        raise ArtifactError(f"{processed} holds no faces that facerec cut out", "run `facerec detect` first")
    if len({crop for crop, _ in kinds}) > 1:
        raise ArtifactError(f"{processed} holds faces cut out in different ways", "run `facerec detect` to the end")
    return next(iter(kinds))[0], ", ".join(sorted({detector for _, detector in kinds}))


def embed(
    inputs: Path,
    output: Path,
    *,
    embedder: Embedder,
    force: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> StageReport:
    """Turns every face into a unit vector.

    Vectors that the output (or an unfinished run) already holds for the same crop are taken over.

    Args:
        inputs: usually processed/, as ``facerec detect`` wrote it.
        output: the .npz file to write.
        embedder: in the space of the crops.
        force: embed all again.
        strict: stop at the first crop that fails.
        progress: shows how far it is.

    Raises:
        ArtifactError: no crops, crops of another kind than the embedder takes, or a disk that is full.
    """
    start = time.perf_counter()
    require_folder(inputs, "make it with `facerec detect`")
    require_npz(output)
    crop, detector = crop_of(inputs)
    if crop != embedder.space.crop:
        raise ArtifactError(f"{inputs} holds {crop}, the embedder takes {embedder.space.crop}", "run `facerec detect`")
    report = StageReport("embed", output)
    partial = output.with_name(f".{output.stem}.partial.npz")
    known, gate, lookalikes = _known([output, partial], embedder)
    known = {} if force else known

    faces: dict[str, tuple[str, str]] = {}
    found: dict[str, Face] = {}
    missed: dict[str, Failure] = {}
    for record in read_manifest(inputs):
        missed.pop(record.input, None)
        if record.error is not None:
            missed[record.input] = Failure(record.input, record.error, record.label, record.split)
        for out in record.outputs:
            faces[out["path"]] = (record.label, record.split)
            if "box" in out:
                found[out["path"]] = Face.from_json(out)
    paths = sorted(p for p in faces if (inputs / p).exists())

    rows: list[tuple[str, str]] = []  # path, digest
    vectors = np.empty((len(paths), embedder.dim), np.float32)
    quality = np.empty(len(paths), np.float32)

    def result() -> Embeddings:
        n = len(rows)
        return Embeddings(
            vectors[:n],
            np.array([faces[p][0] for p, _ in rows], np.str_),
            np.array([p for p, _ in rows], np.str_),
            np.array([faces[p][1] for p, _ in rows], np.str_),
            np.array([d for _, d in rows], np.str_),
            embedder.space,
            detector,
            tuple(missed.values()),
            gate,
            quality[:n],
            lookalikes=lookalikes,
        )

    batches = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    saved = time.perf_counter()
    with ThreadPoolExecutor(1) as reader:
        reads = _read_ahead(reader, lambda batch: _read(inputs, batch, known, embedder.input_size), batches)
        for batch in progress(reads, len(batches), "embed"):
            new = [content for _, _, content in batch if isinstance(content, np.ndarray)]
            fresh = iter(embedder.embed(stack_crops(new, embedder.input_size)))
            for path, digest, content in batch:
                if isinstance(content, str):
                    if strict:
                        raise FacerecError(f"{path}: {content}")
                    missed[path] = Failure(path, content, *faces[path])
                    report.failed.append(missed[path])
                    continue
                if isinstance(content, tuple):
                    vectors[len(rows)], quality[len(rows)] = content
                else:
                    vectors[len(rows)] = next(fresh)
                    quality[len(rows)] = assess(found[path], content).score if path in found else np.nan
                rows.append((path, digest))
            report.done += len(new)
            if new and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                save_embeddings(partial, result())
                saved = time.perf_counter()
    if not rows:
        raise ArtifactError(f"no face in {inputs} can be read", "run `facerec detect --force`")
    report.skipped = len(rows) - report.done
    if force or report.done or not _same(output, result()):
        save_embeddings(output, result())
    partial.unlink(missing_ok=True)
    report.seconds = time.perf_counter() - start
    return report


def _read_ahead(reader: Executor, read: Callable[[T], S], inputs: Iterable[T]) -> Iterator[S]:
    """Reads in order, one ahead of what is being worked on, and no further: memory stays bounded."""
    ahead: Future[S] | None = None
    for item in inputs:
        following = reader.submit(read, item)
        if ahead is not None:
            yield ahead.result()
        ahead = following
    if ahead is not None:
        yield ahead.result()


def _read(inputs: Path, paths: Sequence[str], known: dict[str, Any], size: int) -> list[tuple[str, str, Any]]:
    """(path, digest, what there is) a crop: its known vector and quality, its pixels, or why it cannot be read."""
    batch: list[tuple[str, str, Any]] = []
    for path in paths:
        try:
            data = read_bytes(inputs / path)
            digest = hashlib.sha256(data).hexdigest()
            if digest in known:
                batch.append((path, digest, known[digest]))
                continue
            image = decode_image(data)
            if image.shape != (size, size, 3):
                raise InputError(f"{image.shape[1]}×{image.shape[0]} pixels instead of {size}×{size}")
            batch.append((path, digest, image))
        except InputError as error:
            batch.append((path, "", f"{error.what}: run `facerec detect --force`"))
    return batch


def _known(
    files: Sequence[Path], embedder: Embedder
) -> tuple[dict[str, Any], Gate | None, tuple[tuple[str, str], ...]]:
    """Digest → (vector, quality) of what earlier runs embedded in the same space, the gate for it, and look-alikes."""
    known: dict[str, Any] = {}
    gate, lookalikes = None, None
    for file in files:
        if not file.exists():
            continue
        try:
            earlier = load_embeddings(file)
        except ArtifactError:
            continue  # damaged or foreign: it is made again
        lookalikes = earlier.lookalikes if lookalikes is None else lookalikes  # of the people, in whatever space
        if earlier.space == embedder.space:
            known.update(zip(earlier.digests.tolist(), zip(earlier.vectors, earlier.quality, strict=True), strict=True))
            gate = gate or earlier.gate
    return known, gate, lookalikes or ()


def _same(output: Path, result: Embeddings) -> bool:
    """Whether the file already holds these very rows."""
    try:
        earlier = load_embeddings(output)
    except ArtifactError:
        return False
    return (
        earlier.space == result.space
        and earlier.failures == result.failures
        and all(
            np.array_equal(getattr(earlier, f), getattr(result, f)) for f in ("sources", "labels", "splits", "digests")
        )
    )
