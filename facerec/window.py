"""A window on the screen, through OpenCV."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

import cv2

from facerec.errors import UsageError
from facerec.types import Image

# X11's codes of keys that are no letters (keysymdef.h); Shift, arrows … have others from 0xFF00 on, and write nothing
KEYS = {0xFF08: "\b", 0xFF0D: "\r", 0xFF1B: "\x1b", 0xFF8D: "\r", **{0xFFB0 + i: str(i) for i in range(10)}}


class Window:
    """Shows RGB images and hands over keys. Close it when done.

    Args:
        title: of the window.

    Raises:
        UsageError: there is no screen (without one, the window library would end the process).
    """

    def __init__(self, title: str) -> None:
        if sys.platform.startswith("linux") and not _has_screen():
            raise UsageError("there is no screen to open a window on", "go without a window, or set DISPLAY")
        self.title = title
        # Qt's tool bar would take its height from the picture
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._sized = False

    def show(self, image: Image) -> None:
        """Shows an image."""
        if not self._sized:
            cv2.resizeWindow(self.title, image.shape[1], image.shape[0])
            self._sized = True
        cv2.imshow(self.title, image[..., ::-1])

    def key(self, milliseconds: int = 1) -> str | None:
        """The key that was pressed, waiting this long for one; None where none was, or one that writes nothing."""
        code = cv2.waitKeyEx(milliseconds)
        if code == -1:
            return None
        if code < 0:  # Qt's code of the key with ü on it is that of Ü, as a signed byte
            return chr(code & 0xFF).lower()
        code &= 0xFFFF  # above are GTK's modifiers
        return KEYS.get(code, chr(code) if 0 < code < 0x100 else None)

    @property
    def is_open(self) -> bool:
        """False once somebody has closed it."""
        with contextlib.suppress(cv2.error):  # Qt's, where it was the last one
            return cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) > 0
        return False

    def close(self) -> None:
        """Closes it, if it is still open."""
        if self.is_open:
            cv2.destroyWindow(self.title)


def _has_screen() -> bool:
    """Whether a Wayland or X server answers (of a remote X server, whether one is named)."""
    display = os.environ.get("DISPLAY", "")
    if os.environ.get("WAYLAND_DISPLAY") or not display.startswith(":"):
        return bool(os.environ.get("WAYLAND_DISPLAY") or display)
    path = f"/tmp/.X11-unix/X{display[1:].split('.')[0]}"
    for address in (path, f"\0{path}"):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(address)
            return True
    return False
