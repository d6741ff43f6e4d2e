"""A gallery in PostgreSQL with pgvector, that several machines read and write. One gallery a database.

Nothing is locked for longer than a transaction takes: enrolling inserts rows, renaming and forgetting are a statement
or two. Whatever a caller is told is done, is on the server's disk.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, LiteralString, TypeVar

import numpy as np
import psycopg
from psycopg import errors as sql_errors
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from facerec import search
from facerec.artifacts import embeddings_from, embeddings_parts
from facerec.errors import ArtifactError, DatabaseError, SpaceError, UsageError
from facerec.galleries import Crops, no_crops
from facerec.galleries.migrations import MIGRATIONS
from facerec.galleries.people import renamed, swapped, without
from facerec.search import PROPOSED, Seen
from facerec.types import Embeddings, FloatArray

WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try after a connection was lost: a server that crashed is back by then."""
CONNECT = 10  # seconds that a server may take to answer
LOCK = 0x66616365726563  # of migrations
PGVECTOR = (0, 8)  # the first with iterative scans
BULK = 10_000  # photos at a time beyond which building the index anew beats adding one by one
LINKS, BUILT, SEARCHED = 16, 128, 400  # of HNSW: links a photo, breadth when built and when searched
MOST_MEMORY = 2 << 20  # kB, for building it
MOST_PROPOSED = 32 * 8**4
STRINGS = ("labels", "sources", "splits", "digests", "added")
COLUMNS = ("label", "source", "split", "digest", "added", "quality", "vector")

T = TypeVar("T")
Connection = psycopg.Connection[Any]
log = logging.getLogger("facerec")


class MissingError(ArtifactError):
    """There is no gallery in the database."""


class _Dump(Dumper):
    """float32 rows as pgvector takes them: dimensions, two bytes of nothing, big-endian numbers."""

    format = Format.BINARY

    def dump(self, obj: FloatArray) -> Buffer:
        return len(obj).to_bytes(2, "big") + b"\0\0" + obj.astype(">f4").tobytes()


class _Load(Loader):
    """Their numbers, to be put together by `_stacked`."""

    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)[4:]


def _stacked(vectors: list[bytes], dim: int) -> FloatArray:
    return np.frombuffer(b"".join(vectors), ">f4").astype(np.float32).reshape(-1, dim)


class Link:
    """A connection that is made when it is needed, and again after it was lost; for one thread at a time.

    Args:
        address: a postgresql:// URL.
        settings: of the session.
    """

    def __init__(self, address: str, *settings: LiteralString) -> None:
        try:
            given = conninfo_to_dict(address)
            if any(port and not port.isdecimal() for port in str(given.get("port", "")).split(",")):
                raise psycopg.ProgrammingError
        except psycopg.Error:  # its words, and the address, may hold what was meant to be secret
            raise UsageError("that is no address of a database", "postgresql://USER@HOST:PORT/DATABASE") from None
        options: dict[str, Any] = {"connect_timeout": CONNECT, "application_name": "facerec", **given}
        self._address, self._settings = address, settings
        self._conninfo = make_conninfo("", **options, client_encoding="UTF8")
        self._connection: Connection | None = None
        self._made = self._reached = False
        self._lock = threading.RLock()

    def run(self, work: Callable[[Connection], T], *, make: bool = False) -> T:
        """Does work on the connection; once more if that was lost meanwhile, so the work must bear being done twice.

        Args:
            work: outside a transaction, unless it begins one.
            make: the tables, where there are none.

        Raises:
            MissingError: there are no tables.
            DatabaseError: anything that the server or the way to it is at fault for.
        """
        with self._lock:
            for wait in (*WAITS, None):
                try:
                    connection = self._connect()
                    if not self._made:
                        self._made = self._prepare(connection, make)
                    if not self._made:
                        raise MissingError(f"there is no gallery in {self._address}", _ENROLL)
                    return work(connection)
                except (psycopg.Error, UnicodeEncodeError) as error:
                    if wait is None or not self._passes(error):
                        raise explained(error, self._address) from None
                    log.info("%s: %s; once more in %g s", self._address, _words(error), wait)
                    time.sleep(wait)
            raise AssertionError("the last try returns or raises")

    def _passes(self, error: Exception) -> bool:
        """Whether an error may be gone in a moment."""
        if isinstance(error, sql_errors.DeadlockDetected | sql_errors.SerializationFailure):
            return True
        if not isinstance(error, psycopg.OperationalError):
            return False
        connected = self._connection is not None and not self._connection.closed
        return not connected and (self._reached or "starting up" in str(error))

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection, self._made = None, False
            self._connection = psycopg.connect(self._conninfo, autocommit=True)
            self._reached = True
        return self._connection

    def _prepare(self, connection: Connection, make: bool) -> bool:
        """Brings the tables up to date, and the session; returns whether there are any."""
        version = migrate(connection, make, self._address)
        if version == 0:
            return False
        row = connection.execute(
            "SELECT extversion, nspname, typ.oid FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
            "JOIN pg_type typ ON typnamespace = n.oid AND typname = 'vector' WHERE extname = 'vector'"
        ).fetchone()
        if row is None:
            raise sql_errors.UndefinedObject("the extension vector is gone")
        extension, schema, oid = row
        if tuple(map(int, extension.split(".")[:2])) < PGVECTOR:
            raise DatabaseError(
                f"{self._address} has pgvector {extension}, at least {'.'.join(map(str, PGVECTOR))} is needed",
                "install a newer one on the server, then ALTER EXTENSION vector UPDATE",
            )
        connection.adapters.register_dumper(np.ndarray, type("Dump", (_Dump,), {"oid": oid}))
        connection.adapters.register_loader(oid, _Load)
        connection.execute(sql.SQL("SET search_path TO facerec, {}").format(sql.Identifier(schema)))
        # what is acknowledged must be on disk, whatever is usual on this server
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        for setting in self._settings:
            connection.execute(setting)
        return True


_ENROLL = "make it with `facerec enroll NAME photo.jpg --gallery …` or `facerec gallery import FILE --gallery …`"


def migrate(connection: Connection, make: bool, where: str) -> int:
    """Brings the tables to the newest version, one process at a time; returns that, 0 where there are none.

    Args:
        connection: to the database.
        make: the tables, where there are none.
        where: the database is, for errors.

    Raises:
        DatabaseError: they are of a newer facerec.
    """

    def version() -> int:
        if connection.execute("SELECT to_regclass('facerec.migration')").fetchone() == (None,):
            return 0
        return (connection.execute("SELECT max(version) FROM facerec.migration").fetchone() or (0,))[0] or 0

    there = version()
    if there > len(MIGRATIONS):
        raise DatabaseError(
            f"{where} is of a newer facerec (its tables are of version {there}, these are {len(MIGRATIONS)})",
            "install the newest facerec here",
        )
    if there == len(MIGRATIONS) or not (there or make):
        return there
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(
            "SELECT set_config('search_path', quote_ident(nspname), true) FROM pg_extension "
            "JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
        )
        connection.execute("CREATE SCHEMA IF NOT EXISTS facerec")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS facerec.migration "
            "(version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())"
        )
        for number, statements in enumerate(MIGRATIONS[version() :], start=version() + 1):
            connection.execute(statements)
            connection.execute("INSERT INTO facerec.migration (version) VALUES (%s)", [number])
            log.info("%s: tables of version %d", where, number)
    return len(MIGRATIONS)


def _words(error: Exception) -> str:
    """What the driver or the server says, in a line."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) and error.diag.message_primary else str(error)
    return " ".join(said.split())


def explained(error: Exception, where: str) -> DatabaseError:
    """An error of the driver or the server, with its cure."""
    said = _words(error)
    about = f"{where}: {said}"
    if isinstance(error, UnicodeEncodeError | psycopg.DataError):
        return DatabaseError(
            f"{where} cannot hold this: {said}", "names must be text: rename the person, or the photo's file"
        )
    if isinstance(error, sql_errors.UndefinedFile | sql_errors.FeatureNotSupported) and "extension" in said:
        return DatabaseError(about, "install pgvector on the server: its package is postgresql-NN-pgvector")
    if isinstance(error, sql_errors.InsufficientPrivilege) and "extension" in said:
        return DatabaseError(about, "have an administrator run CREATE EXTENSION vector in this database, once")
    if isinstance(error, sql_errors.InsufficientPrivilege):
        return DatabaseError(about, "have the owner of the gallery grant the rights; docs/formats.md lists them")
    if isinstance(error, sql_errors.UndefinedTable | sql_errors.UndefinedObject | sql_errors.UndefinedColumn):
        return DatabaseError(about, "its tables were changed from outside: restore them from a backup")
    if isinstance(error, sql_errors.DiskFull | sql_errors.OutOfMemory):
        return DatabaseError(about, "make room on the server (an index is built in /dev/shm), then run again")
    if not isinstance(error, psycopg.OperationalError):
        return DatabaseError(about, "see the server's log")
    if "password" in said:
        return DatabaseError(about, "put the password into ~/.pgpass, a service file, or the variable PGPASSWORD")
    if "does not exist" in said:
        return DatabaseError(about, "check the address; createdb makes a database")
    return DatabaseError(about, "check the address, the network and whether the server runs; then run again")


class PostgresGallery:
    """A `facerec.galleries.Database`."""

    folder = "gallery"

    def __init__(self, address: str) -> None:
        self.where = address
        self._link = Link(address)

    def __str__(self) -> str:
        return str(self.where)

    def exists(self) -> bool:
        return self.state() is not None

    def state(self) -> object:
        def work(c: Connection) -> object:
            row = c.execute("SELECT version FROM gallery").fetchone()
            return row and row[0]

        try:
            return self._link.run(work)
        except MissingError:
            return None

    def about(self) -> Embeddings:
        return self._link.run(self._about)

    def load(self) -> Embeddings:
        return self._rows(sql.SQL(""), [])

    def of(self, name: str) -> Embeddings:
        return self._rows(sql.SQL("WHERE label = %s"), [name])

    def crop(self, source: str) -> bytes | None:
        select = "SELECT crop FROM photo WHERE source = %s AND crop IS NOT NULL LIMIT 1"
        row = self._link.run(lambda c: c.execute(select, [source], binary=True).fetchone())
        return row and row[0]

    def search(self) -> DatabaseSearch | None:
        def work(c: Connection) -> tuple[bool, bool]:
            many = c.execute("SELECT count(*) FROM (SELECT FROM photo LIMIT %s)", [search.ENOUGH + 1]).fetchone()
            index = c.execute("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('photo_vector') AND indisvalid")
            return many is not None and many[0] > search.ENOUGH, index.fetchone() is not None

        many, indexed = self._link.run(work)
        if not many:
            log.info("%s: up to %d photos: loaded, and searched exactly", self, search.ENOUGH)
            return None
        if not indexed:
            raise DatabaseError(
                f"{self} holds more than {search.ENOUGH} photos, and their index is gone",
                f"make it: {_index(self.about().vectors.shape[1])}",
            )
        log.info("%s: more than %d photos: searched by its HNSW index, ranked exactly", self, search.ENOUGH)
        return DatabaseSearch(str(self))

    def add(self, rows: Embeddings, crops: Crops = no_crops) -> int:
        header, _ = embeddings_parts(rows)
        widths = {name: getattr(rows, name).dtype.itemsize // 4 for name in STRINGS}
        dim = rows.vectors.shape[1]

        def work(c: Connection) -> int:
            with c.transaction():
                made = c.execute(
                    "INSERT INTO gallery (dim, about, widths) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [dim, Jsonb(header), Jsonb(widths)],
                )
                first = made.rowcount == 1
                about = self._about(c)
                about.require_space(rows.space, str(self))
                if dim != about.vectors.shape[1]:
                    raise SpaceError(
                        f"{self} holds vectors of {about.vectors.shape[1]} numbers, these have {dim}",
                        "use another database",
                    )
                anew = first or (len(rows) > BULK and len(rows) > _count(c))
                if anew:
                    c.execute("DROP INDEX IF EXISTS photo_vector")
                insert = c.cursor()
                insert.executemany(_INSERT, _records(rows, crops))
                added = insert.rowcount
                if anew:
                    _build(c, dim)
                if not first:
                    self._change(c, lambda about: about + rows[np.zeros(len(rows), bool)], widths)
                return added

        return self._link.run(work, make=True)

    def edit(self, change: Callable[[Embeddings], Embeddings]) -> None:
        def work(c: Connection) -> None:
            with c.transaction():
                self._change(c, change)

        self._link.run(work)

    def rename(self, old: str, new: str) -> None:
        def work(c: Connection) -> None:
            with c.transaction():
                c.execute(
                    "DELETE FROM photo o USING photo n WHERE o.label = %s AND n.label = %s "
                    "AND n.digest = o.digest AND n.copy = o.copy",
                    [old, new],
                )
                taken = {source for (source,) in c.execute("SELECT source FROM photo WHERE label = %s", [new])}
                moved = []
                for number, source in c.execute("SELECT id, source FROM photo WHERE label = %s", [old]).fetchall():
                    path = PurePosixPath(swapped(source, old, new))
                    free = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(2))
                    target = next(p for p in itertools.chain([path], free) if str(p) not in taken)
                    taken.add(str(target))
                    moved.append((new, str(target), number))
                c.cursor().executemany("UPDATE photo SET label = %s, source = %s WHERE id = %s", moved)
                self._change(c, lambda about: renamed(about, old, new), dict.fromkeys(("labels", "sources"), 0))

        self._link.run(work)

    def forget(self, name: str) -> str:
        def work(c: Connection) -> None:
            with c.transaction():
                c.execute("DELETE FROM photo WHERE label = %s", [name])
                shortest = dict.fromkeys(("labels", "sources", "splits"), 0)  # not even a length is left
                self._change(c, lambda about: without(about, name), shortest)

        self._link.run(work)
        try:
            return self._link.run(self._vacuum)
        except DatabaseError as error:  # a full disk, say
            return f"{self}: deleted, but bytes may stay in the server's files ({error.what}): have its owner VACUUM it"

    def _vacuum(self, c: Connection) -> str:
        """Takes deleted rows from the server's files; returns what is left to do, or nothing."""
        said: list[str] = []

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                said.append(diagnostic.message_primary or "")

        photos = _count(c)
        few = photos <= search.ENOUGH
        c.add_notice_handler(note)
        try:
            _lend(c, photos, self._about(c).vectors.shape[1], for_transaction=False)
            # FULL writes the tables anew, so that no bytes stay in gaps; while it does, others wait
            for table in ("gallery", "photo"):
                c.execute(sql.SQL("VACUUM (FULL {}) {}").format(sql.SQL(str(few)), sql.Identifier(table)))
        finally:
            c.remove_notice_handler(note)
        c.execute("RESET maintenance_work_mem")
        if said:
            return f"{self}: deleted, but bytes may stay in the server's files ({said[0]}): have its owner VACUUM it"
        if not few:
            return (
                f"{self}: deleted, but bytes may stay in the server's files until they are written over, or until "
                "VACUUM FULL facerec.photo, which takes long with so many photos and lets nobody in meanwhile"
            )
        return ""

    def _about(self, c: Connection) -> Embeddings:
        row = c.execute("SELECT dim, about FROM gallery").fetchone()
        if row is None:
            raise MissingError(f"there is no gallery in {self}", _ENROLL)
        return self._header(*row)

    def _header(self, dim: int, about: dict[str, Any]) -> Embeddings:
        none: dict[str, np.ndarray] = {name: np.empty(0, "U1") for name in STRINGS}
        none |= {"vectors": np.empty((0, dim), np.float32), "quality": np.empty(0, np.float32)}
        return embeddings_from(self.where, about, none, _RESTORE)

    def _change(
        self, c: Connection, change: Callable[[Embeddings], Embeddings], widths: dict[str, int] | None = None
    ) -> None:
        """The last statements of every change: what stands beside the rows, and that it is another version."""
        row = c.execute("SELECT dim, about, widths FROM gallery FOR UPDATE").fetchone()
        if row is None:
            raise MissingError(f"there is no gallery in {self}", _ENROLL)
        dim, about, known = row
        header, _ = embeddings_parts(change(self._header(dim, about)))
        for name, width in (widths or {}).items():
            known[name] = max(known[name], width) if width else 0
        c.execute("UPDATE gallery SET version = version + 1, about = %s, widths = %s", [Jsonb(header), Jsonb(known)])

    def _rows(self, where: sql.SQL, params: list[object]) -> Embeddings:
        """Rows in the order in which they came, with what stands beside them, of one moment."""
        select = sql.SQL("SELECT {} FROM photo {} ORDER BY id").format(
            sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), where
        )

        def work(c: Connection) -> Embeddings:
            with c.transaction():
                c.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                row = c.execute("SELECT dim, about, widths FROM gallery").fetchone()
                if row is None:
                    raise MissingError(f"there is no gallery in {self}", _ENROLL)
                dim, about, widths = row
                rows = c.execute(select, params, binary=True).fetchall()
            columns = dict(zip(COLUMNS, zip(*rows, strict=True) if rows else [()] * len(COLUMNS), strict=True))
            texts = (columns[name] for name in ("label", "source", "split", "digest", "added"))
            arrays: dict[str, np.ndarray] = {
                name: _strings(list(text), widths[name]) for name, text in zip(STRINGS, texts, strict=True)
            }
            quality = [np.nan if q is None else q for q in columns["quality"]]
            arrays |= {"vectors": _stacked(list(columns["vector"]), dim), "quality": np.array(quality, np.float32)}
            return embeddings_from(self.where, about, arrays, _RESTORE)

        return self._link.run(work)


_RESTORE = "restore the database from a backup"
_INSERT = (
    "INSERT INTO photo (label, digest, copy, source, split, quality, added, vector, crop) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (label, digest, copy) DO NOTHING"
)


def _records(rows: Embeddings, crops: Crops) -> Iterator[tuple[object, ...]]:
    """What `_INSERT` takes, a row at a time: many crops need not be held at once."""
    copies: Counter[tuple[str, str]] = Counter()
    names = (getattr(rows, name).tolist() for name in ("labels", "digests", "sources", "splits", "quality", "added"))
    for label, digest, source, split, quality, added, vector in zip(*names, rows.vectors, strict=True):
        copy = copies[label, digest]
        copies[label, digest] += 1
        known = None if np.isnan(quality) else quality
        yield label, digest, copy, source, split, known, added, vector, crops(source)


def _strings(texts: list[str], width: int) -> np.ndarray:
    """As a file holds them: of this width, if none is longer."""
    array = np.array(texts, np.str_)
    return array.astype(f"U{max(width, array.dtype.itemsize // 4)}")


def _count(c: Connection) -> int:
    row = c.execute("SELECT count(*) FROM photo").fetchone()
    return row[0] if row else 0


# --- the index -----------------------------------------------------------------------------------


def _index(dim: int) -> str:
    """The statements that make it. Of unit vectors the largest product is the smallest distance.

    Without statistics: ANALYZE would keep vectors there, of people who are forgotten, too.
    """
    return (
        f"CREATE INDEX photo_vector ON facerec.photo USING hnsw ((vector::vector({dim})) vector_ip_ops) "
        f"WITH (m = {LINKS}, ef_construction = {BUILT}); "
        "ALTER INDEX facerec.photo_vector ALTER COLUMN 1 SET STATISTICS 0"
    )


def _build(c: Connection, dim: int) -> None:
    """Builds it in one go, in memory, within a transaction."""
    photos = _count(c)
    start = time.perf_counter()
    _lend(c, photos, dim, for_transaction=True)
    c.execute(_index(dim))
    if photos > BULK:
        log.info("an HNSW index of %d vectors is built: %.1f s", photos, time.perf_counter() - start)


def _lend(c: Connection, photos: int, dim: int, *, for_transaction: bool) -> None:
    """Memory for building the index: the vectors and about a kB of links each; never less than is usual here."""
    needed = min(photos * (4 * dim + 1024) // 1024 + 16_384, MOST_MEMORY)
    c.execute(
        "SELECT set_config(name, greatest(setting::bigint, %s) || 'kB', %s) FROM pg_settings "
        "WHERE name = 'maintenance_work_mem'",
        [needed, for_transaction],
    )


class DatabaseSearch:
    """A `facerec.search.Searchable` where the vectors are: HNSW proposes photos; all photos of their people are ranked.

    Args:
        address: of the database.

    Attributes:
        people: who was there when it was made; whoever came later is not seen.
    """

    def __init__(self, address: str) -> None:
        self._link = Link(
            address,
            f"SET hnsw.ef_search = {SEARCHED}",
            "SET hnsw.iterative_scan = relaxed_order",  # where somebody with many photos hides the others
            "SET enable_seqscan = off",  # without statistics the planner would not know that the index is better
            "SET jit = off",
        )
        self.people = sorted(name for (name,) in self._link.run(lambda c: c.execute(_PEOPLE).fetchall()))
        self._number = {name: i for i, name in enumerate(self.people)}

    def see(self, probes: FloatArray, people: int) -> Iterator[Seen]:
        wanted = min(people, len(self.people))
        for probe in probes:
            photos = PROPOSED
            while len((seen := self._ranked(probe, photos)).people) < wanted and photos < MOST_PROPOSED:
                photos *= 8
            yield seen

    def _ranked(self, probe: FloatArray, photos: int) -> Seen:
        """All photos of the people of the closest photos."""
        near = _NEAR.format(dim=len(probe))
        rows = self._link.run(lambda c: c.execute(near, [probe, photos], binary=True).fetchall())
        rows = [row for row in rows if row[0] in self._number]
        numbers = np.array([self._number[label] for label, _ in rows], np.int32)
        order = np.argsort(numbers, kind="stable")
        vectors = _stacked([vector for _, vector in rows], len(probe))[order]
        found, starts, owner = np.unique(numbers[order], return_index=True, return_inverse=True)
        sums = np.add.reduceat(vectors, starts) if len(rows) else vectors
        return Seen(vectors @ probe, owner, found, np.linalg.norm(sums, axis=1))


_PEOPLE = "SELECT DISTINCT label FROM photo"
_NEAR = """
    WITH near AS MATERIALIZED (SELECT label FROM photo ORDER BY (vector::vector({dim})) <#> %s LIMIT %s)
    SELECT label, vector FROM photo WHERE label IN (SELECT label FROM near) ORDER BY label, id
"""
