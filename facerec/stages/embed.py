"""embed: processed/{train,test}/NAME/*.png → embeddings/faces.npz, labelled unit vectors."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facerec import stores
from facerec.artifacts import load_embeddings, save_embeddings, sha256_of
from facerec.errors import ArtifactError, FacerecError, InputError, SpaceError
from facerec.images import decode_image, read_bytes, stack_crops
from facerec.manifests import read_manifest
from facerec.parallel import Crashed, spread, worker_name
from facerec.quality import assess
from facerec.stages.common import require_folder, require_npz
from facerec.types import (
    Crop,
    Embedder,
    Embeddings,
    Face,
    Failure,
    FloatArray,
    Gate,
    Image,
    Progress,
    Space,
    StageReport,
    no_progress,
)

BATCH = 32
CHECKPOINT_SECONDS = 30.0


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
    jobs: int = 1,
    cluster: str | None = None,
    force: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> StageReport:
    """Turns every face into a unit vector.

    Vectors that the output (or an unfinished run) already holds for the same crop are taken over.

    Args:
        inputs: usually processed/, as ``facerec detect`` wrote it, on disk or in a store.
        output: the .npz file to write.
        embedder: in the space of the crops.
        jobs: batches treated side by side.
        cluster: where else they are treated, see `facerec.parallel.spread`.
        force: embed all again.
        strict: stop at the first crop that fails.
        progress: shows how far it is.

    Raises:
        ArtifactError: no crops, crops of another kind than the embedder takes, or a disk that is full.
    """
    start = time.perf_counter()
    require_folder(inputs, "make it with `facerec detect`")
    require_npz(output)
    stores.require_shared(cluster, inputs)
    crop, detector = crop_of(inputs)
    if crop != embedder.space.crop:
        raise ArtifactError(f"{inputs} holds {crop}, the embedder takes {embedder.space.crop}", "run `facerec detect`")
    report = StageReport("embed", output)
    unfinished = output.with_name(f".{output.stem}.partial.npz")
    known, gate, lookalikes = _known([output, unfinished], embedder)
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
    if stores.in_store(inputs):
        paths = sorted(faces.keys() & set(stores.names(inputs)))
    else:
        paths = sorted(p for p in faces if (inputs / p).exists())

    rows: list[tuple[str, str]] = []  # path, digest
    vectors = np.empty((len(paths), embedder.dim), np.float32)
    quality = np.empty(len(paths), np.float32)

    def result() -> Embeddings:
        order = sorted(range(len(rows)), key=rows.__getitem__)  # not as they came
        sorted_rows = [rows[i] for i in order]
        return Embeddings(
            vectors[order],
            np.array([faces[p][0] for p, _ in sorted_rows], np.str_),
            np.array([p for p, _ in sorted_rows], np.str_),
            np.array([faces[p][1] for p, _ in sorted_rows], np.str_),
            np.array([d for _, d in sorted_rows], np.str_),
            embedder.space,
            detector,
            tuple(missed.values()),
            gate,
            quality[order],
            lookalikes=lookalikes,
        )

    def take(path: str, digest: str, content: tuple[FloatArray, float] | str) -> None:
        """Notes a crop's vector and quality, or why there is none."""
        if isinstance(content, str):
            if strict:
                raise FacerecError(f"{path}: {content}")
            missed[path] = Failure(path, content, *faces[path])
            report.failed.append(missed[path])
            return
        vectors[len(rows)], quality[len(rows)] = content
        rows.append((path, digest))

    new = paths
    if known:
        new = []
        for path in progress(paths, len(paths), "embed: what is done"):
            try:
                digest = sha256_of(inputs / path)
            except OSError:
                digest = ""  # whoever is to embed it says why
            if digest in known:
                take(path, digest, known[digest])
            else:
                new.append(path)
        report.skipped = len(rows)
    side = max(min(BATCH, -(-len(new) // jobs)), 1)
    treated = spread(
        partial(vectors_of, inputs.absolute(), embedder, embedder.space),
        ([(path, found.get(path)) for path in new[i : i + side]] for i in range(0, len(new), side)),
        jobs=jobs,
        cluster=cluster,
    )
    saved = time.perf_counter()
    with contextlib.closing(treated):
        try:
            for host, path, digest, content in progress(_each(treated), len(new), "embed"):
                report.hosts.update([host] if cluster and host else [])
                take(path, digest, content)
                if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                    save_embeddings(unfinished, result())
                    saved = time.perf_counter()
        except KeyboardInterrupt:
            if rows:
                save_embeddings(unfinished, result())
            raise
    if not rows:
        raise ArtifactError(f"no face in {inputs} can be read", "run `facerec detect --force`")
    report.done = len(rows) - report.skipped
    report.failed.sort(key=lambda failure: failure.source)
    if force or report.done or not _same(output, result()):
        save_embeddings(output, result())
    unfinished.unlink(missing_ok=True)
    report.seconds = time.perf_counter() - start
    return report


Made = tuple[str, str, str, tuple[FloatArray, float] | str]
"""Host and process, a crop's path, its digest, and its vector and quality; or why it has none."""


def vectors_of(inputs: Path, embedder: Embedder, space: Space, crops: Sequence[tuple[str, Face | None]]) -> list[Made]:
    """Embeds a batch, wherever this runs.

    Args:
        inputs: what the paths are below.
        embedder: of this process.
        space: the one that is wanted.
        crops: (path, its face) each; None where it is not known.

    Raises:
        SpaceError: this process's embedder makes other vectors.
    """
    if embedder.space != space:
        raise SpaceError(f"{worker_name()} makes vectors of {embedder.space}, not of {space}", "use the same models")
    host, size = worker_name(), embedder.input_size
    made: list[Made] = []
    images: list[Image] = []
    for path, face in crops:
        try:
            data = read_bytes(inputs / path)
            image = decode_image(data)
            if image.shape != (size, size, 3):
                raise InputError(f"{image.shape[1]}×{image.shape[0]} pixels instead of {size}×{size}")
            score = assess(face, image).score if face else np.nan
            made.append((host, path, hashlib.sha256(data).hexdigest(), (np.empty(0, np.float32), score)))
            images.append(image)
        except InputError as error:
            made.append((host, path, "", f"{error.what}: run `facerec detect --force`"))
    vectors = iter(embedder.embed(stack_crops(images, size)))
    return [(h, p, d, what if isinstance(what, str) else (next(vectors), what[1])) for h, p, d, what in made]


def _each(treated: Iterator[list[Made] | Crashed[tuple[str, Face | None]]]) -> Iterator[Made]:
    for some in treated:
        if isinstance(some, Crashed):
            path, _ = some.item
            yield "", path, "", "its worker died on it, each time: look at it, or leave its photo out"
        else:
            yield from some


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
