"""A gallery in PostgreSQL: HNSW against the exact search, several clients and writers, a server that is killed."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Section, Times
from benchmarks.scale import EACH, PROBES, People, _unit
from benchmarks.server import Server
from facerec.artifacts import save_embeddings
from facerec.galleries import open_gallery, postgres
from facerec.galleries.postgres import BUILT, LINKS, SEARCHED, DatabaseSearch, PostgresGallery
from facerec.search import Search
from facerec.types import Crop, Embeddings, Failure, FloatArray, Space

SIZE = 200_000
CLIENTS, TIMED = 8, 60  # processes that search at once; searches of each
WRITERS, ENROLMENTS = 4, 250
CROP = 40_000  # bytes of a crop's PNG, about
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
SPACE = Space("facenet-128", "0" * 64, Crop(0.075), False)
CONTEXT = multiprocessing.get_context("spawn")


def rows_of(vectors: FloatArray, names: Sequence[str], first: int = 0) -> Embeddings:
    """As `facerec enroll` makes them."""
    digests = [f"{i:064x}" for i in range(first, first + len(vectors))]
    sources = [f"gallery/{name}/photo-{digest[-8:]}.png" for name, digest in zip(names, digests, strict=True)]
    split, n = np.full(len(vectors), "train"), len(vectors)
    added, quality = np.full(n, "2026-01-01"), np.full(n, 0.8, np.float32)
    return Embeddings(
        vectors, np.array(names), np.array(sources), split, np.array(digests), SPACE, "mtcnn", (), None, quality, added
    )


def timing(function: Callable[..., None], seconds: list[float]) -> Callable[..., None]:
    """The function, which notes how long it took."""

    def call(*arguments: Any) -> None:
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)

    return call


def search(address: str, probes: FloatArray, begin: Barrier, taken: Any) -> None:
    """A client's process: seconds of each search."""
    searching = DatabaseSearch(address)
    list(searching.see(probes[:5], 4))
    begin.wait()
    seconds = []
    for probe in probes:
        start = time.perf_counter()
        next(iter(searching.see(probe[None], 4))).closest(4)
        seconds.append(time.perf_counter() - start)
    taken.put(seconds)


def at_once(address: str, probes: FloatArray, clients: int) -> tuple[Times, float]:
    """Seconds of a search, and searches a second of all, with so many clients."""
    begin, taken = CONTEXT.Barrier(clients + 1), CONTEXT.Queue()
    parts = np.array_split(probes[: clients * TIMED], clients)
    processes = [CONTEXT.Process(target=search, args=(address, part, begin, taken)) for part in parts]
    for process in processes:
        process.start()
    begin.wait(120)
    start = time.perf_counter()
    seconds = [s for _ in processes for s in taken.get(timeout=300)]
    rate = len(seconds) / (time.perf_counter() - start)
    for process in processes:
        process.join()
    return Times.of(seconds), rate


def searches(section: Section, server: Server, people: People) -> str:
    """Recall, time and size; returns the address of a gallery."""
    rows, costs, address = [], [], ""
    for name, make in (("mixed", people.mixed), ("normal", people.normal)):
        rng = np.random.default_rng(2)
        photos = make(rng, SIZE // EACH, EACH + 1)
        vectors = np.ascontiguousarray(photos[:, :-1]).reshape(SIZE, -1)
        own = photos[-PROBES:, -1].copy()
        enrolled, held_out = people.split()
        vectors[: len(enrolled)] = enrolled
        probes = [own, make(rng, PROBES, 1)[:, 0], held_out]
        labels = [f"person {i:06d}" for i in range(SIZE // EACH) for _ in range(EACH)]
        address = server.new_database()
        seconds: list[float] = []
        start = time.perf_counter()
        with unittest.mock.patch.object(postgres, "_build", timing(postgres._build, seconds)):
            PostgresGallery(address).add(rows_of(vectors, labels))
        both, (built,) = time.perf_counter() - start, seconds
        statement = "SELECT pg_relation_size('facerec.photo_vector'), pg_table_size('facerec.photo'), "
        ((index, table, others),) = server.execute(
            f"{statement} pg_indexes_size('facerec.photo') - pg_relation_size('facerec.photo_vector')", address
        )
        ours, exact = DatabaseSearch(address), Search(vectors, np.array(labels))
        same = []
        for some in probes:
            pairs = zip(exact.see(some, 4), ours.see(some, 4), strict=True)
            found = [(a.closest(1), b.closest(1)) for a, b in pairs]
            same.append(float(np.mean([a[0][0] == b[0][0] for a, b in found])))
        one, _ = at_once(address, np.concatenate(probes), 1)
        several, rate = at_once(address, np.concatenate(probes[:2]), CLIENTS)
        rows.append([name, built, index / 1e6, *same, one, several, rate])
        costs.append([name, SIZE / (both - built), table / SIZE, index / SIZE, others / SIZE])
    section.table(
        f"{SIZE:,} vectors of 128 numbers, HNSW with {LINKS} links, built with {BUILT} and searched with {SEARCHED}; "
        f"recall@1 against the exact search, of {PROBES} photos of enrolled people, {PROBES} of strangers, and of "
        f"lfw-dev's people; a face, at 1 client and at {CLIENTS} at once, client and server on this machine",
        {
            "set": "{}", "build, s": "{:.0f}", "index, MB": "{:.0f}", "enrolled": "{:.4f}", "strangers": "{:.4f}",
            "lfw-dev": "{:.4f}", "ms, 1 client": "{:.1f}", f"ms, {CLIENTS} clients": "{:.1f}", "a second": "{:.0f}",
        },
        rows,
    )  # fmt: skip
    section.table(
        "What a photo costs, without its crop: rows that were inserted a second, before the index is built; bytes",
        {"set": "{}", "rows/s": "{:,.0f}", "table": "{:.0f}", "HNSW": "{:.0f}", "other indexes": "{:.0f}"},
        costs,
    )
    return address


def insertions(section: Section, address: str, people: People) -> None:
    """One photo after the other, each in a transaction of its own, into the large gallery."""
    vectors = people.normal(np.random.default_rng(5), 200, 1)[:, 0]
    gallery, crop = PostgresGallery(address), np.random.default_rng(0).bytes(CROP)
    seconds = []
    for i in range(len(vectors)):
        rows = rows_of(vectors[i : i + 1], [f"new {i}"], SIZE + i)
        start = time.perf_counter()
        gallery.add(rows, lambda source: crop)
        seconds.append(time.perf_counter() - start)
    taken = Times.of(seconds)
    section.note(
        f"One photo with its crop ({CROP // 1000} kB) into the gallery of {SIZE:,}, index and commit included: "
        f"{taken:.1f} ms, {1 / np.mean(seconds):.0f} a second by one writer; a million at this rate: "
        f"{1e6 * np.mean(seconds) / 3600:.1f} hours, against `facerec gallery import`, which builds the index after."
    )


def enrol(address: str, writer: int, acknowledged: Any, begin: Barrier) -> None:
    """A writer's process: each enrolment is noted once it is acknowledged."""
    gallery = open_gallery(address)
    vectors = _unit(np.random.default_rng(writer).standard_normal((ENROLMENTS, 128)))
    begin.wait()
    for i in range(ENROLMENTS):
        number = writer * ENROLMENTS + i
        gallery.add(rows_of(vectors[i : i + 1], [f"person {number}"], number), lambda source: source.encode())
        acknowledged.put(f"person {number}")


def killed(section: Section, server: Server) -> None:
    """Writers at once; the server is killed in the middle and started again."""
    address, acknowledged, begin = server.new_database(), CONTEXT.Queue(), CONTEXT.Barrier(WRITERS + 1)
    processes = [CONTEXT.Process(target=enrol, args=(address, w, acknowledged, begin)) for w in range(WRITERS)]
    for process in processes:
        process.start()
    begin.wait(120)
    start = time.perf_counter()
    found = [acknowledged.get(timeout=120) for _ in range(WRITERS * ENROLMENTS // 2)]
    rate = len(found) / (time.perf_counter() - start)
    server.kill()
    writing = sum(process.is_alive() for process in processes)
    start = time.perf_counter()
    server.start()
    away = time.perf_counter() - start
    while any(process.is_alive() for process in processes) or not acknowledged.empty():
        try:
            found.append(acknowledged.get(timeout=0.1))
        except queue.Empty:
            continue
    present = Counter(open_gallery(address).load().labels.tolist())
    section.table(
        f"{WRITERS} writers with {ENROLMENTS} enrolments each at once; the server is killed (SIGKILL) after half of "
        f"them, with {writing} writers at work, and is back {away:.1f} s later",
        {
            "acknowledged": "{}",
            "of them there": "{}",
            "twice": "{}",
            "writers that gave up": "{}",
            "a second": "{:.0f}",
        },
        [
            [
                len(found),
                sum(name in present for name in found),
                sum(n > 1 for n in present.values()),
                sum(p.exitcode != 0 for p in processes),
                rate,
            ]
        ],
    )


def forgotten(section: Section, server: Server, people: People) -> None:
    """What is left of somebody in rows, in the index's and the tables' files, and in an export."""
    address = server.new_database()
    gallery = PostgresGallery(address)
    vectors = people.normal(np.random.default_rng(7), 2000, EACH).reshape(-1, 128)
    labels = [f"person {i:04d}" for i in range(2000) for _ in range(EACH)]
    labels[:EACH] = ["Ottoline"] * EACH
    rows = replace(rows_of(vectors, labels), failures=(Failure("raw/Ottoline/x.jpg", "no face", "Ottoline"),))
    rng = np.random.default_rng(8)
    crops = {source: rng.bytes(CROP) for source in rows.sources[:EACH].tolist()}
    gallery.add(rows, crops.get)
    server.execute("VACUUM ANALYZE", address)
    ((oid,),) = server.execute("SELECT oid FROM pg_database WHERE datname = current_database()", address)
    forms = [b"Ottoline", *(v[8:24].tobytes() for v in vectors[:EACH])]
    forms += [crop[i : i + 400] for crop in crops.values() for i in range(0, CROP - 400, 1000)]

    def left(what: str) -> list[Any]:
        server.execute("CHECKPOINT", address)
        ((index,),) = server.execute("SELECT pg_relation_filenode('facerec.photo_vector')", address)
        files = {p.name: p.read_bytes() for p in (server.folder / "base" / str(oid)).iterdir() if p.is_file()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gallery.npz"
            save_embeddings(path, gallery.load())
            export = path.read_bytes().replace(b"\0", b"")
        ((count,),) = server.execute("SELECT count(*) FROM facerec.photo WHERE label = 'Ottoline'", address)
        in_index = sum(f in files[str(index)] for f in forms[1 : EACH + 1])
        in_files = sum(any(f in data for data in files.values()) for f in forms)
        return [what, count, in_index, in_files, export.count(b"Ottoline")]

    before = left("before")
    start = time.perf_counter()
    remark = gallery.forget("Ottoline")
    seconds = time.perf_counter() - start
    section.table(
        f"`forget` of one of 2,000 people, {seconds:.1f} s with the tables written anew: rows, vectors in the "
        f"index's file, pieces of name, vectors and crops in the database's files (of {len(forms)} that "
        "are looked for), names in an export",
        {"": "{}", "rows": "{}", "in the index": "{}", "in the files": "{}", "in an export": "{}"},
        [before, left("after")],
    )
    if remark:
        section.note(remark)


def main(section: Section) -> None:
    """All tables."""
    people, server = People(), Server(**SETTINGS)
    try:
        ((version,),) = server.execute("SELECT split_part(version(), ' on ', 1)")
        settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
        section.note(f"{version} with pgvector, reached by a socket, {settings}; fsync and synchronous_commit on.")
        killed(section, server)
        forgotten(section, server, people)
        address = searches(section, server, people)
        insertions(section, address, people)
    finally:
        server.stop()
