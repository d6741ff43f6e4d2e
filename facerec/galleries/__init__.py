"""Galleries, one file a kind of place: labelled unit vectors that people are added to and removed from.

A gallery is a file, or a database that several machines share.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from facerec.errors import InputError, UsageError
from facerec.images import decode_image, read_below
from facerec.search import Searchable
from facerec.types import Embeddings, Image

Where = Path | str
"""Where a gallery is: a file, or the postgresql:// address of a database."""

Crops = Callable[[str], bytes | None]
"""Source → the crop as a PNG; None where there is none."""

SECRETS = {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}


def no_crops(source: str) -> bytes | None:
    """`Crops` of rows that have none."""
    return None


class Gallery(Protocol):
    """People's photos as vectors, with the crops that they were made of.

    Writers never wait for more than one another, and a crash leaves all of a change or nothing of it. Every method
    raises `ArtifactError` where the place is damaged or cannot be reached, and all but `exists`, `state`, `crop` and
    `add` where there is no gallery.

    """

    @property
    def where(self) -> Where:
        """The place; ``str(gallery)`` is the same for people."""
        ...

    @property
    def folder(self) -> str:
        """First part of the `sources` of what is enrolled here."""
        ...

    def exists(self) -> bool:
        """Whether it was made, by adding to it."""
        ...

    def state(self) -> object:
        """Changes when the content does, and is cheap; None where there is no gallery."""
        ...

    def about(self) -> Embeddings:
        """What stands beside the rows (space, gate, failures, look-alikes …), without the rows."""
        ...

    def load(self) -> Embeddings:
        """Everything, in the order in which it was added."""
        ...

    def of(self, name: str) -> Embeddings:
        """A person's rows; none where nobody is called that."""
        ...

    def search(self) -> Searchable | None:
        """Searches it where it is; None where it is small enough to be loaded and searched exactly."""
        ...

    def crop(self, source: str) -> bytes | None:
        """The picture of an enrolled face, as a file's bytes; None where it is gone."""
        ...

    def add(self, rows: Embeddings, crops: Crops = no_crops) -> int:
        """Adds rows and their crops, making the gallery where there is none; it is on disk when this returns.

        Photos that it holds under that name stay single; failures and look-alikes are added to those there are.

        Returns:
            How many were new.

        Raises:
            SpaceError: it holds vectors of another space.
        """
        ...

    def edit(self, change: Callable[[Embeddings], Embeddings]) -> None:
        """Changes gate, failures or look-alikes while other writers wait; rows stay as they are."""
        ...


class Database(Gallery, Protocol):
    """A gallery that is no file of a project: `facerec.stages.people` changes names in it directly."""

    def forget(self, name: str) -> str:
        """Removes a person; returns what could not be done about their remains on disk, or nothing."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Gives a person another name; where somebody is called that, photos of both stay single."""
        ...


def is_address(text: str) -> bool:
    """Whether this is a database's address, and no path."""
    return re.match(r"postgres(ql)?://", text) is not None


def open_gallery(where: Where) -> Gallery:
    """A gallery; nothing is read or connected to yet.

    Raises:
        UsageError: an address with a password in it, or one that is none; or the driver is not installed.
    """
    if isinstance(where, Path):
        from facerec.galleries.file import FileGallery

        return FileGallery(where)
    return open_database(where)


def open_database(address: str) -> Database:
    """A gallery in a database; raises as `open_gallery`."""
    require_no_password(address)
    try:
        from facerec.galleries.postgres import PostgresGallery
    except ImportError:
        raise UsageError(
            "a gallery in PostgreSQL needs psycopg, which is not installed", "pip install 'facerec[postgres]'"
        ) from None
    return PostgresGallery(address)


def require_no_password(address: str) -> None:
    """Raises `UsageError` for an address with a secret in it: other users of a machine see what is on command lines."""
    before, at, _ = address.partition("://")[2].rpartition("@")  # also where a / or ? of the password is not escaped
    try:
        given = {key.lower() for key, value in parse_qsl(urlsplit(address).query) if value}
    except ValueError as error:
        raise UsageError(f"that is no address ({error})", "as in postgresql://faces@db/faces") from None
    if (at and before.partition(":")[2]) or given & SECRETS:
        raise UsageError(
            "the address of the database holds a password, which others can see on the command line",
            "leave it out, and put it into ~/.pgpass, a service file, or the variable PGPASSWORD",
        )


def picture(source: str, gallery: Gallery, processed: Path) -> Image | None:
    """The crop of a row, from the gallery or else from `facerec detect`'s folder; None where none can be read."""
    data = gallery.crop(source)
    if data is None:
        return read_below(source, [processed])
    with contextlib.suppress(InputError):
        return decode_image(data)
    return None
