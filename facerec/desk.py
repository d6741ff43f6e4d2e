"""The keys of live's window: pause, snapshot, record, and the people that are known: name, save, load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from facerec.artifacts import write_image
from facerec.draw import BLUE, Colour, annotate
from facerec.errors import FacerecError
from facerec.tracking import Track
from facerec.types import Face, Image
from facerec.video import VideoWriter
from facerec.window import Window

HELP = "q quit   p pause   space snapshot   r record   n name the largest unknown face   s save   l load   h this help"
ENTER, ESCAPE, BACKSPACE = "\r\n", "\x1b", "\b\x7f"
RECORDED = 15.0  # frames a second


@dataclass(frozen=True)
class Known:
    """What the window can do to the people that are known; each returns what to tell the user.

    Attributes:
        name: enrols a track's face (name, image, track).
        save: keeps everybody in a gallery of this name; an empty name is the present gallery's.
        load: knows the people of another gallery from now on.
    """

    name: Callable[[str, Image, Track], str]
    save: Callable[[str], str]
    load: Callable[[str], str]


class Desk:
    """Does what keys ask for. Close it when done.

    Args:
        window: whose keys.
        known: the people; None where they cannot be changed.
        snapshots: where pictures and recordings go.

    Attributes:
        text: to show instead of the frame rate; empty for nothing.
    """

    def __init__(self, window: Window, known: Known | None, snapshots: Path) -> None:
        self._window, self._known, self._snapshots = window, known, snapshots
        self._recording: VideoWriter | None = None
        self._shown: Image | None = None
        self.text = ""

    def show(self, picture: Image, seconds: float) -> None:
        """Shows an annotated frame, and records it."""
        if self._recording:
            try:
                self._recording.write(picture, seconds)
            except (FacerecError, OSError) as error:
                self._recording, self.text = None, str(error)
        self._window.show(picture)
        self._shown = picture

    def idle(self) -> bool:
        """Says in the window that no picture comes; False where the user does not want to wait."""
        if self._shown is not None:
            self._window.show(annotate(self._shown, [], note="waiting for the camera   q: quit"))
        return self._window.key(1) != "q" and self._window.is_open

    def key(self) -> str | None:
        """The key that was pressed, if one was."""
        return self._window.key(1)

    def press(self, key: str | None, image: Image, picture: Image, tracks: list[Track]) -> bool:
        """Does what a key asks for; False ends the run."""
        if not self._window.is_open or key == "q":
            return False
        if key == "h":
            self.text = "" if self.text == HELP else HELP
        elif key in (" ", "r"):
            try:
                self.text = self._snapshot(picture) if key == " " else self._record()
            except (FacerecError, OSError) as error:
                self.text = str(error)
        elif key == "p":
            while self._window.is_open and (key := self._window.key(50)) != "p":
                if key == "q":
                    return False
        elif key in ("n", "s", "l") and self._known is None:
            self.text = "the people cannot be changed here"
        elif key == "n":
            self._name(image, tracks)
        elif key == "s" and self._known and (name := self._ask("save the gallery as", image, empty=True)) is not None:
            self.text = self._known.save(name)
        elif key == "l" and self._known and (name := self._ask("load the gallery", image)) is not None:
            self.text = self._known.load(name)
        return self._window.is_open

    def close(self) -> None:
        """Ends a recording and closes the window."""
        try:
            if self._recording:
                self._record()
        finally:
            self._window.close()

    def _new_path(self, suffix: str) -> Path:
        return self._snapshots / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{time.time_ns() % 10**9:09d}{suffix}"

    def _snapshot(self, picture: Image) -> str:
        path = self._new_path(".jpg")
        write_image(path, picture)
        return f"{path} is written"

    def _record(self) -> str:
        if self._recording is None:
            self._recording = VideoWriter(self._new_path(".mp4"), RECORDED)
            return "recording: r ends it"
        writer, self._recording = self._recording, None
        writer.close()
        return f"{writer.path} is written"

    def _name(self, image: Image, tracks: list[Track]) -> None:
        """Asks for the name of the largest unknown face."""
        unknown = [track for track in tracks if track.name is None]
        if not unknown or self._known is None:
            self.text = "nobody unknown in view"
            return
        track = max(unknown, key=lambda track: track.face.size)
        if name := self._ask("name", image, [(track.face, "?", BLUE)]):
            # some of OpenCV's windows know no capitals
            self.text = self._known.name(name.title() if name.islower() else name, image, track)

    def _ask(
        self, question: str, image: Image, marks: Sequence[tuple[Face, str, Colour]] = (), *, empty: bool = False
    ) -> str | None:
        """What the user types, the picture standing still meanwhile; None where they change their mind."""
        self.text, typed = "", ""
        while self._window.is_open:
            self._window.show(annotate(image, marks, note=f"{question}: {typed}_   (Enter: do it, Esc: leave it)"))
            key = self._window.key(50)
            if key is None:
                continue
            if key in ENTER and (typed.strip() or empty):
                return typed.strip()
            if key == ESCAPE:
                return None
            if key in BACKSPACE:
                typed = typed[:-1]
            elif key.isprintable():
                typed += key
        return None
