"""names: a gallery, wherever it is → whom faces are compared with, and the gate before their names."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from facerec.classify import Classifier
from facerec.errors import FacerecError, UsageError
from facerec.galleries import Gallery
from facerec.galleries.file import index_path
from facerec.galleries.people import empty
from facerec.stages.train import default_gate
from facerec.types import Embedder, Gate

LOOK = 1.0  # seconds from one look for changes to the next

log = logging.getLogger("facerec")


def names_of(
    gallery: Gallery,
    by: str = "nearest",
    threshold: float | None = None,
    margin: float | None = None,
    *,
    gate: Gate | None = None,
    index: bool = False,
    nobody: bool = False,
) -> Classifier:
    """Compares with the people of a gallery: loaded, or where they are if they are very many.

    Args:
        gallery: of whom.
        by: "nearest" or "knn".
        threshold: instead of the gallery's or its model's own.
        margin: likewise.
        gate: instead of all of these.
        index: of FAISS, beside a file.
        nobody: take a gallery without anybody, in which every face is unknown.

    Raises:
        ArtifactError: there is none, or it cannot be read.
        DataError: nobody is enrolled, or no threshold is known for the model.
        UsageError: an index of FAISS for a database, or FAISS is not installed.
    """
    where = gallery.where
    if index and not isinstance(where, Path):
        raise UsageError(f"{gallery} has an index of its own", "leave out --index")
    if search := gallery.search():
        about = gallery.about()
        own = gate or default_gate(about, threshold, margin, len(search.people))
        return Classifier.of_search(by, about, own, search, gallery.of)
    photos = gallery.load()
    own = gate or default_gate(photos, threshold, margin)
    if nobody and not len(photos):
        return Classifier(by, None, None, photos, own)
    return Classifier.of_gallery(by, photos, own, index_path(where) if index and isinstance(where, Path) else None)


def of_nobody(embedder: Embedder, threshold: float | None = None, margin: float | None = None) -> Classifier:
    """Knows nobody yet, in an embedder's space: every face is unknown."""
    photos = empty(embedder.space, embedder.dim)
    return Classifier("nearest", None, None, photos, default_gate(photos, threshold, margin))


class Watch:
    """Looks once in a while, beside what else goes on, whether others have changed a gallery. Close it when done.

    Args:
        gallery: of its own: its connection is used by another thread.
        read: whom it knows now.
        state: of the gallery when it was read last.
        nobody: what is known when it is gone.
    """

    def __init__(
        self, gallery: Gallery, read: Callable[[Gallery], Classifier], state: object, nobody: Classifier
    ) -> None:
        self._gallery, self._read, self._state, self._nobody = gallery, read, state, nobody
        self._news: Classifier | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="gallery", daemon=True)
        self._thread.start()

    def news(self) -> Classifier | None:
        """Whom the gallery knows now, once after each change; else None."""
        news, self._news = self._news, None
        return news

    def close(self) -> None:
        """Looks no more."""
        self._ended.set()

    def _look(self) -> None:
        reached = True
        while not self._ended.wait(LOOK):
            try:
                if (state := self._gallery.state()) != self._state:
                    news = self._read(self._gallery) if self._gallery.exists() else self._nobody
                    self._state, self._news = state, news
                reached = True
            except (FacerecError, OSError) as error:  # a disk on the network that is away, say
                if reached:
                    log.warning("what others change is not seen meanwhile: %s", error)
                reached = False
