"""A window on the screen, through OpenCV."""

from __future__ import annotations

import os
import sys

import cv2

from facerec.errors import UsageError
from facerec.types import Image


class Window:
    """Shows RGB images and hands over keys. Close it when done.

    Args:
        title: of the window.

    Raises:
        UsageError: there is no screen (without one, the window library would end the process).
    """

    def __init__(self, title: str) -> None:
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise UsageError(
                "there is no screen to open a window on", "use --headless or --output, or set DISPLAY"
            )
        self.title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        self._sized = False

    def show(self, image: Image) -> None:
        """Shows an image."""
        if not self._sized:
            cv2.resizeWindow(self.title, image.shape[1], image.shape[0])
            self._sized = True
        cv2.imshow(self.title, image[..., ::-1])

    def key(self, milliseconds: int = 1) -> str | None:
        """The key that was pressed, waiting this long for one; None where none was."""
        code = cv2.waitKey(milliseconds)
        return None if code < 0 else chr(code & 0xFF)

    @property
    def is_open(self) -> bool:
        """False once somebody has closed it."""
        return cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) > 0

    def close(self) -> None:
        """Closes it, if it is still open."""
        if self.is_open:
            cv2.destroyWindow(self.title)
