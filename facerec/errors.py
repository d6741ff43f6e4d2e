"""Every error that a user may see, and the exit codes of the command line."""

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of the ``facerec`` command."""

    OK = 0
    ERROR = 1
    USAGE = 2
    SOME_FAILED = 3  # finished, but some inputs failed
    DIFFERENT = 4  # verify --exit-code
    INTERRUPTED = 130
    UNREAD = 141  # nobody reads the output any more: stopped before the end


class FacerecError(Exception):
    """An error with its cure.

    Args:
        what: what went wrong, in the user's terms.
        cure: what to do about it.
    """

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what} — {cure}" if cure else what)
        self.what = what
        self.cure = cure


class UsageError(FacerecError):
    """The command line asks for something that does not go together."""


class InputError(FacerecError):
    """One input (photo, video, file) cannot be used; the others can.

    Attributes:
        outputs: what could be made of it all the same, as a manifest lists it.
    """

    def __init__(self, what: str, cure: str = "", outputs: list[dict[str, Any]] | None = None) -> None:
        super().__init__(what, cure)
        self.outputs = outputs or []


class ArtifactError(FacerecError):
    """A file that a stage wrote (or should have written) is missing, foreign or damaged."""


class SpaceError(ArtifactError):
    """Vectors of two embedding spaces were about to be mixed."""


class DatabaseError(ArtifactError):
    """A gallery's database cannot be reached, or does not do what it is asked."""


class WeightsError(FacerecError):
    """Model weights cannot be fetched, or are not what they should be."""


class DataError(FacerecError):
    """There is not enough data, or not of the right kind, for what was asked."""
