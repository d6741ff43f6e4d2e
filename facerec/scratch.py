"""What a run must remember of each of its photos, on disk instead of in memory, which stays the same for millions.

Each is an SQLite database without a name: pages beyond its cache (2 MB) go to a file in the folder for temporary files
that only this process can open and that is gone when it ends. Text is packed, since names of files need not be Unicode.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

from facerec.errors import FacerecError

ROWS = 256  # that are read at a time


class Tables(sqlite3.Connection):
    """A database of this run, empty but for the tables of a schema. Several threads may use it: they take turns.

    Use as ``with contextlib.closing(Tables(schema))``.

    Raises:
        FacerecError: of any method: there is no room for it.
    """

    def __init__(self, schema: str) -> None:
        super().__init__("", isolation_level=None, check_same_thread=False)
        self._turn = threading.Lock()  # not every SQLite is built so that it has its own
        self.executescript(f"PRAGMA journal_mode = OFF; {schema}")

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Runs a statement with values for its question marks; its rows are for `rows` to read."""
        with self._one():
            return super().execute(statement, values)

    def pieces(self, statement: str, *values: Any, size: int = ROWS) -> Iterator[list[tuple[Any, ...]]]:
        """Rows, in lists of `size`."""
        cursor = self.execute(statement, *values)
        while True:
            with self._one():
                some = cursor.fetchmany(size)
            if not some:
                return
            yield some

    def rows(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Rows."""
        return itertools.chain.from_iterable(self.pieces(statement, *values))

    def value(self, statement: str, *values: Any) -> Any:
        """The first column of the first row; None where there is no row."""
        row = next(self.rows(statement, *values), None)
        return None if row is None else row[0]

    @contextlib.contextmanager
    def _one(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except sqlite3.OperationalError as error:
            cure = "make room in the folder for temporary files, or name another: SQLITE_TMPDIR=…"
            raise FacerecError(f"no room for what is to be remembered ({error})", cure) from error


class Names:
    """A set of strings."""

    def __init__(self) -> None:
        self._tables = Tables("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, name: str) -> bool:
        """Takes a name; whether it is new."""
        return self._tables.execute("INSERT OR IGNORE INTO names VALUES (?)", packed(name)).rowcount > 0

    def close(self) -> None:
        """Forgets them all."""
        self._tables.close()

    def __contains__(self, name: str) -> bool:
        return self._tables.value("SELECT 1 FROM names WHERE name = ?", packed(name)) is not None


def packed(text: str) -> bytes:
    """A string that may hold what is not Unicode; the bytes' order is the strings'."""
    return text.encode(errors="surrogatepass")


def unpacked(data: bytes) -> str:
    """The inverse of `packed`."""
    return data.decode(errors="surrogatepass")
