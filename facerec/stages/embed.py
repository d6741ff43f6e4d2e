"""embed: processed/{train,test}/NAME/*.png → embeddings/faces.npz, labelled unit vectors."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facerec import stores
from facerec.artifacts import PIECE, Column, embeddings_pieces, save_embeddings, sha256_of
from facerec.errors import ArtifactError, FacerecError, InputError, SpaceError, UsageError
from facerec.galleries.file import locked
from facerec.images import decode_image, read_bytes, stack_crops
from facerec.manifests import MANIFEST, Manifest, Record, append_records, read_manifest, write_records
from facerec.parallel import Crashed, chunked, spread, worker_name
from facerec.quality import assess
from facerec.scratch import Names, Tables, packed, unpacked
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
    require_unit,
)

BATCH = 32
CHECKPOINT_SECONDS = 30.0
TABLES = """
CREATE TABLE crops (path BLOB PRIMARY KEY, label BLOB, split BLOB, face TEXT, new INTEGER DEFAULT 1) WITHOUT ROWID;
CREATE TABLE known (digest BLOB PRIMARY KEY, vector BLOB, quality REAL, host TEXT, file INTEGER) WITHOUT ROWID;
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, path BLOB UNIQUE, digest BLOB, vector BLOB, quality REAL, host TEXT
);
"""
FROM_KNOWN = """
INSERT INTO rows (path, digest, vector, quality, host) SELECT ?1, digest, vector, quality, host FROM known
WHERE digest = ?2
"""


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
        UsageError: people were enrolled into the output, who would be lost.
    """
    start = time.perf_counter()
    require_folder(inputs, "make it with `facerec detect`")
    require_npz(output, "embeddings")
    stores.require_shared(cluster, inputs)
    crop, detector = crop_of(inputs)
    if crop != embedder.space.crop:
        raise ArtifactError(f"{inputs} holds {crop}, the embedder takes {embedder.space.crop}", "run `facerec detect`")
    report = StageReport("embed", output)
    hosts = output.with_suffix(f".{MANIFEST}")
    # to the end: who is forgotten meanwhile must not come back with rows that were read before
    with locked(output), contextlib.closing(Tables(TABLES)) as tables:
        failures = _note_crops(tables, inputs)
        unfinished = sorted(output.parent.glob(f".{glob.escape(output.stem)}.partial*.npz"))
        gate, lookalikes = _note_known(tables, [output, *unfinished], hosts, embedder.space)
        no_vectors, no_texts = np.empty((0, embedder.dim), np.float32), [np.empty(0, np.str_)] * 4
        about = {"space": embedder.space, "detector": detector, "gate": gate, "lookalikes": lookalikes}
        faces = Embeddings(no_vectors, *no_texts, **about)  # type: ignore[arg-type]

        def count(what: str) -> int:
            return int(tables.value(f"SELECT count(*) FROM {what}"))

        def key(path: str) -> str:
            return Manifest(output.parent).key(inputs / path)

        def take(made: Made) -> None:
            """Notes a crop's vector and quality, or why there is none."""
            host, path, digest, content = made
            if isinstance(content, str):
                if strict:
                    raise FacerecError(f"{path}: {content}")
                (known,) = tables.rows("SELECT label, split FROM crops WHERE path = ?", packed(path))
                report.failed.append(Failure(path, content, *map(unpacked, known)))
                return
            vector, quality = content
            values = packed(path), packed(digest), vector.tobytes(), float(quality), host if cluster else ""
            tables.execute("INSERT INTO rows (path, digest, vector, quality, host) VALUES (?, ?, ?, ?, ?)", *values)

        def checkpoint(last: int) -> int:
            """Saves what has come after a row; returns the last one now."""
            if (now := tables.value("SELECT max(number) FROM rows")) and now > last:
                names = (output.with_name(f".{output.stem}.partial{n}.npz") for n in itertools.count(len(unfinished)))
                unfinished.append(next(path for path in names if not path.exists()))
                append_records(hosts, _hosts(tables, key, last))
                save_embeddings(unfinished[-1], faces, _columns(tables, embedder.dim, last))
            return now or 0

        if not force and tables.value("SELECT 1 FROM known") is not None:
            for path, _ in progress(_new(tables), count("crops"), "embed: what is done"):
                with contextlib.suppress(OSError):  # whoever is to embed it says why
                    tables.execute(FROM_KNOWN, packed(path), packed(sha256_of(inputs / path)))
            tables.execute("UPDATE crops SET new = path NOT IN (SELECT path FROM rows)")
            report.skipped = count("rows")
        new = count("crops WHERE new")
        treated = spread(
            partial(vectors_of, inputs.absolute(), embedder, embedder.space),
            partial(chunked, _new(tables), new, least=max(min(BATCH, -(-new // jobs)), 1)),
            jobs=jobs,
            cluster=cluster,
        )
        last, saved = report.skipped, time.perf_counter()
        with contextlib.closing(treated):
            try:
                for made in progress(_each(treated), new, "embed"):
                    report.hosts.update([made[0]] if cluster and made[0] else [])
                    take(made)
                    if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                        last, saved = checkpoint(last), time.perf_counter()
            except KeyboardInterrupt:
                checkpoint(last)
                raise
        if not count("rows"):
            raise ArtifactError(f"no face in {inputs} can be read", "run `facerec detect --force`")
        report.done = count("rows") - report.skipped
        report.failed.sort(key=lambda failure: failure.source)
        faces = replace(faces, failures=(*failures, *report.failed))
        if force or report.done or not _same(output, faces, _columns(tables, embedder.dim)):
            write_records(hosts, _hosts(tables, key))
            save_embeddings(output, faces, _columns(tables, embedder.dim))
    for path in unfinished:
        path.unlink(missing_ok=True)
    report.seconds = time.perf_counter() - start
    return report


Made = tuple[str, str, str, tuple[FloatArray, float] | str]
"""Host and process, a crop's path, its digest, and its vector and quality; or why it has none."""


def vectors_of(inputs: Path, embedder: Embedder, space: Space, crops: Sequence[tuple[str, Face | None]]) -> list[Made]:
    """Embeds crops, wherever this runs.

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
    batches = (crops[i : i + BATCH] for i in range(0, len(crops), BATCH))
    return [made for batch in batches for made in _batch(inputs, embedder, batch)]


def _batch(inputs: Path, embedder: Embedder, crops: Sequence[tuple[str, Face | None]]) -> list[Made]:
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


# --- tables --------------------------------------------------------------------------------------


def _note_crops(tables: Tables, inputs: Path) -> tuple[Failure, ...]:
    """Notes the crops that are there; returns what detect made nothing of."""
    with contextlib.closing(Names()) as names:
        for name in stores.names(inputs) if stores.in_store(inputs) else ():
            names.add(name)
        missed: dict[str, Failure] = {}
        for record in read_manifest(inputs):
            missed.pop(record.input, None)
            if record.error is not None:
                missed[record.input] = Failure(record.input, record.error, record.label, record.split)
            for out in record.outputs:
                if out["path"] in names if stores.in_store(inputs) else (inputs / out["path"]).exists():
                    face = json.dumps(Face.from_json(out).to_json()) if "box" in out else None
                    values = packed(out["path"]), packed(record.label), packed(record.split), face
                    tables.execute("REPLACE INTO crops (path, label, split, face) VALUES (?, ?, ?, ?)", *values)
        return tuple(missed.values())


def _note_known(
    tables: Tables, files: Sequence[Path], hosts: Path, space: Space
) -> tuple[Gate | None, tuple[tuple[str, str], ...]]:
    """Notes what earlier runs embedded in the same space; returns the gate for it, and look-alikes."""
    gate, lookalikes = None, None
    for number, file in enumerate(files):
        try:
            for piece in embeddings_pieces(file):
                if (piece.added != "").any():
                    raise UsageError(f"people are enrolled in {file}, who would be lost", "choose another --output")
                lookalikes = piece.lookalikes if lookalikes is None else lookalikes  # of the people, in whatever space
                if piece.space == space:
                    gate = gate or piece.gate
                    for digest, vector, quality in zip(piece.digests, piece.vectors, piece.quality, strict=True):
                        values = packed(digest), vector.tobytes(), float(quality), number
                        tables.execute("REPLACE INTO known VALUES (?, ?, ?, '', ?)", *values)
        except ArtifactError:  # missing, damaged or foreign: it is made again
            tables.execute("DELETE FROM known WHERE file = ?", number)
    for record in read_manifest(hosts.parent, hosts.name):
        tables.execute("UPDATE known SET host = ? WHERE digest = ?", record.host, packed(record.sha256))
    return gate, lookalikes or ()


def _new(tables: Tables) -> Iterator[tuple[str, Face | None]]:
    for path, face in tables.rows("SELECT path, face FROM crops WHERE new ORDER BY path"):
        yield unpacked(path), Face.from_json(json.loads(face)) if face else None


def _rows(tables: Tables, what: str, after: int = 0) -> Iterator[list[tuple[Any, ...]]]:
    """Something of each row, `PIECE` at a time, in the order of the paths; or of those after a row, as they came."""
    order = "number" if after else "path"
    asked = f"SELECT {what} FROM rows JOIN crops USING (path) WHERE number > ? ORDER BY {order}"
    return tables.pieces(asked, after, size=PIECE)


def _columns(tables: Tables, dim: int, after: int = 0) -> dict[str, Column]:
    """The arrays of the rows."""
    n = int(tables.value("SELECT count(*) FROM rows WHERE number > ?", after))

    def vectors() -> Iterator[np.ndarray]:
        for some in _rows(tables, "vector", after):
            piece = np.frombuffer(b"".join(row[0] for row in some), np.float32).reshape(-1, dim)
            require_unit(piece)
            yield piece

    def text(name: str) -> Column:
        longest = f"SELECT max(length(CAST({name} AS TEXT))) FROM rows JOIN crops USING (path) WHERE number > ?"
        dtype = np.dtype(f"U{max(tables.value(longest, after), 1)}")
        pieces = (np.array([unpacked(row[0]) for row in some], dtype) for some in _rows(tables, name, after))
        return Column(dtype, (n,), pieces)

    def quality() -> Iterator[np.ndarray]:
        for some in _rows(tables, "quality", after):
            yield np.array([np.nan if row[0] is None else row[0] for row in some])  # SQLite has no NaN

    dates = (np.full(len(some), "", "U10") for some in _rows(tables, "1", after))
    return {
        "vectors": Column(np.dtype(np.float32), (n, dim), vectors()),
        "labels": text("label"),
        "sources": text("path"),
        "splits": text("split"),
        "digests": text("digest"),
        "quality": Column(np.dtype(np.float32), (n,), quality()),
        "added": Column(np.dtype("U10"), (n,), dates),
    }


def _hosts(tables: Tables, key: Callable[[str], str], after: int = 0) -> Iterator[Record]:
    """What a cluster made, as a manifest says it."""
    for some in _rows(tables, "path, digest, label, split, host", after):
        for path, digest, label, split, host in some:
            if host:
                made = unpacked(path), unpacked(digest), unpacked(label), unpacked(split)
                yield Record(key(made[0]), made[1], {}, label=made[2], split=made[3], host=host)


def _same(output: Path, faces: Embeddings, columns: dict[str, Column]) -> bool:
    """Whether the file already holds these very rows."""
    names = ("sources", "labels", "splits", "digests")
    ours = zip(*(columns[name].pieces for name in names), strict=True)
    try:
        for number, piece in enumerate(embeddings_pieces(output)):
            if number == 0 and (piece.space, piece.failures) != (faces.space, faces.failures):
                return False
            mine = next(ours, ())
            if not mine or not all(np.array_equal(getattr(piece, f), m) for f, m in zip(names, mine, strict=True)):
                return False
    except ArtifactError:
        return False
    return next(ours, None) is None
