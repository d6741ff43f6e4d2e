"""What the pages share: networks and people, loaded once; a visitor's settings; uploads; work in the background."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from facerec import app, catalogue, paths, runtime
from facerec.artifacts import save_embeddings
from facerec.classify import Classifier
from facerec.detectors import DEFAULT_MIN_FACE, DETECTORS, load_detector
from facerec.embedders import DEFAULT_MARGIN, MODELS, load_embedder
from facerec.errors import FacerecError, InputError
from facerec.galleries import Gallery, Where, is_address, open_gallery, picture
from facerec.images import decode_image
from facerec.paths import CLASSIFIERS, GALLERY, PROCESSED
from facerec.recognizer import Recognizer
from facerec.stages.names import names_of
from facerec.types import Crop, Detector, Embedder, Embeddings, Face, Gate, Image, Space

MAX_BYTES = 25_000_000  # of a picture
MAX_VIDEO = 500_000_000
MAX_PIXELS = 50_000_000
MAX_FILES = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What a visitor has chosen.

    Attributes:
        detector: of the `DETECTORS`.
        min_face: smallest face, pixels.
        model: of the embeddings of a gallery that is made anew.
        strangers: in a thousand that may get a name; None for what the people were calibrated to.
    """

    detector: str = DETECTORS[0]
    min_face: int = DEFAULT_MIN_FACE
    model: str = MODELS[0]
    strangers: int | None = None


def settings() -> Settings:
    """This visitor's."""
    return st.session_state.setdefault("settings", Settings())


class OneAtATime:
    """A detector that is not made for several threads, made so."""

    thread_safe = True

    def __init__(self, detector: Detector) -> None:
        self.name = detector.name
        self._detector, self._lock = detector, threading.Lock()

    def detect(self, image: Image) -> list[Face]:
        """The detector's."""
        with self._lock:
            return self._detector.detect(image)


@st.cache_resource(show_spinner="Loading the face detector …")
def detector(name: str, min_face: int) -> Detector:
    """A detector, shared by all visitors."""
    loaded = load_detector(name, min_face=min_face, threads=runtime.cpu_count())
    return loaded if loaded.thread_safe else OneAtATime(loaded)


@st.cache_resource(show_spinner="Loading the face network …")
def embedder(model: str, crop: Crop, flip: bool) -> Embedder:
    """An embedder, shared by all visitors."""
    return load_embedder(model=model, crop=crop, flip=flip, threads=runtime.cpu_count())


def where() -> Where:
    """The gallery in use."""
    given = os.environ.get(app.GALLERY)
    return (given if is_address(given) else Path(given)) if given else GALLERY


@st.cache_resource(show_spinner=False)
def _opened(where: Where) -> Gallery:
    return open_gallery(where)


def gallery() -> Gallery:
    """The gallery in use, shared by all visitors."""
    return _opened(where())


@st.cache_resource(show_spinner=False, max_entries=2)
def _loaded(where: Where, state: object) -> Embeddings:
    return _opened(where).load()


def photos() -> Embeddings:
    """Of the gallery, read again when it has changed."""
    return _loaded(where(), gallery().state())


@st.cache_data(show_spinner=False, max_entries=2)
def _file(where: Where, state: object) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npz"
        save_embeddings(path, _loaded(where, state))
        return path.read_bytes()


def file() -> bytes:
    """The gallery as a file."""
    return _file(where(), gallery().state())


@st.cache_resource(show_spinner=False, max_entries=8)
def _names(where: Where, changed: object) -> Classifier:
    """Who is known, read again when they have changed."""
    if isinstance(where, Path) and where.parent == CLASSIFIERS:
        return Classifier.load(where)
    return names_of(_opened(where), nobody=True)


def names_path() -> Where | None:
    """The gallery that was asked for, or the newest of classifiers and gallery; None where nobody is known."""
    if app.GALLERY in os.environ:
        return where() if gallery().exists() else None
    return paths.names()


def _changed(path: Where | None) -> object:
    return None if path is None else _opened(path).state()


def known() -> tuple[object, ...]:
    """Changes when those who are known do."""
    path = names_path()
    return path, _changed(path)


def state() -> tuple[object, ...]:
    """Changes when those who are known, or this visitor's settings, do."""
    return *known(), settings()


def recognizer() -> Recognizer | None:
    """Names faces as this visitor's settings say; None where nobody is known."""
    path = names_path()
    if path is None:
        return None
    chosen = settings()
    known = _names(path, _changed(path))
    if not known.people:
        return None
    space = known.photos.space
    mine = copy(known)  # its search is shared
    mine.gate = gate_for(known.gate, space, chosen)
    return Recognizer(
        detector(chosen.detector, chosen.min_face), embedder(space.model, space.crop, space.flip), mine, "all"
    )


def gate_for(gate: Gate, space: Space, chosen: Settings) -> Gate:
    """The gate at which so many strangers in a thousand get a name; the people's own where nothing was chosen."""
    if chosen.strangers is None:
        return gate
    return catalogue.gate_at(space.model, chosen.strangers / 1000) or gate


def gallery_embedder(model: str) -> Embedder:
    """Of the gallery's space, or of this model where there is no gallery."""
    if gallery().exists():
        space = gallery().about().space
        return embedder(space.model, space.crop, space.flip)
    return embedder(model, Crop(DEFAULT_MARGIN), False)


def nobody_yet() -> None:
    """Says what to do first."""
    st.info("Nobody is known yet: add the first person on the **People** page, or **Train** on videos or photos.")


# --- uploads -------------------------------------------------------------------------------------


def pictures(files: Sequence[UploadedFile]) -> Iterator[tuple[str, Image]]:
    """(name, RGB picture) of what was uploaded; what cannot be taken is said on the page, with the reason."""
    for file in within_bounds(files, MAX_BYTES):
        try:
            yield file.name, decode_image(file.getvalue(), MAX_PIXELS)
        except InputError as error:
            refuse(file.name, str(error))


def within_bounds(files: Sequence[UploadedFile], most: int) -> Iterator[UploadedFile]:
    """The uploads that are not too many nor too large; the others are said on the page."""
    for file in files[:MAX_FILES]:
        if file.size > most:
            refuse(file.name, f"{file.size / 1e6:.0f} MB, at most {most / 1e6:.0f} are taken")
        elif file.size == 0:
            refuse(file.name, "it is empty")
        else:
            yield file
    if len(files) > MAX_FILES:
        st.warning(f"{len(files) - MAX_FILES} files were left out: at most {MAX_FILES} at a time.")


def refuse(name: str, reason: str) -> None:
    """Says that an upload is not taken."""
    st.warning(f"**{plain(name)}** is refused: {plain(reason)}")


def plain(text: str) -> str:
    """Text that Markdown takes as it is, in one line."""
    line = "".join(c if c.isprintable() else "�" for c in text)
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+!|$~:" else c for c in line)


def crop_of(source: str) -> Image | None:
    """An enrolled face's crop; None where it is gone."""
    return picture(source, gallery(), PROCESSED)


def initial(name: str) -> Image:
    """A tile for a person without a picture."""
    from facerec.draw import BLUE, label

    tile = np.full((160, 160, 3), BLUE, np.uint8)
    letter = label(name[:1].upper(), 72, BLUE, 4)
    h, w = (min(side, 160) for side in letter.shape[:2])
    tile[(160 - h) // 2 :][:h, (160 - w) // 2 :][:, :w] = letter[:h, :w]
    return tile


# --- work in the background ----------------------------------------------------------------------


@dataclass
class Job:
    """Work that goes on while the visitor looks at other pages.

    Attributes:
        title: for people.
        share: done, 0..1.
        step: what it is at.
        result: once it has ended well.
        error: once it has not.
        known: who was, when it ended.
    """

    title: str
    share: float = 0.0
    step: str = ""
    result: Any = None
    error: str = ""
    known: object = None
    thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def progress(self, iterable: Iterable[T], total: int, title: str) -> Iterable[T]:
        """A `facerec.types.Progress` that the page shows."""
        self.step, self.share = title, 0.0
        for done, item in enumerate(iterable, start=1):
            yield item
            self.share = done / max(total, 1)


def start(title: str, work: Callable[[Job], Any]) -> Job:
    """Starts work on a thread of its own; it ends with this process."""
    job = Job(title)

    def run() -> None:
        try:
            job.result = work(job)
        except (FacerecError, InputError, OSError) as error:
            job.error = str(error)
        except Exception as error:
            job.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            with contextlib.suppress(FacerecError):  # a database may be out of reach
                job.known = known()

    job.thread = threading.Thread(target=run, name=title, daemon=True)
    job.thread.start()
    return job


@st.cache_resource(show_spinner=False)
def _jobs() -> dict[str, Job]:
    return {}


def start_shared(key: str, title: str, work: Callable[[Job], Any]) -> None:
    """Starts work on the project itself: whoever visits sees how far it is and what came of it, also after a reload."""
    _jobs()[key] = start(title, work)


def shared(key: str) -> Job | None:
    """The work that `start_shared` has started; None without, or where others are known by now than at its end."""
    job = _jobs().get(key)
    return None if job is None or (not job.running and job.known != known()) else job


def watch(job: Job | None) -> Job | None:
    """Shows how far a job is; returns it once it has ended, None before or without one."""
    if job is None:
        return None
    if not job.running:
        if job.error:
            st.error(plain(job.error))
        return job

    @st.fragment(run_every=0.5)
    def bar() -> None:
        st.progress(min(job.share, 1.0), f"{job.title}: {job.step} …")
        if not job.running:
            st.rerun()

    bar()
    return None


def with_settings(**changes: Any) -> None:
    """Changes this visitor's settings."""
    st.session_state["settings"] = replace(settings(), **changes)
