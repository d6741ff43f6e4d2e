"""transfer: a gallery in one place → a gallery in another, with its crops."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from facerec.galleries import Gallery
from facerec.stages.common import require_npz
from facerec.types import StageReport


@dataclass
class TransferReport(StageReport):
    """A `StageReport` with how many people and crops were copied."""

    people: int = 0
    crops: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "people": self.people, "crops": self.crops}


def transfer(source: Gallery, target: Gallery, title: str) -> TransferReport:
    """Copies everything; where there is a gallery already, what it does not hold yet is added to it.

    Args:
        source: is read.
        target: is written; where there was none, it is the same as the source afterwards.
        title: of the report.

    Raises:
        ArtifactError: there is no source, or one of the two is damaged or cannot be reached.
        SpaceError: they are of different spaces.
    """
    start = time.perf_counter()
    if not isinstance(target.where, str):
        require_npz(target.where, "embeddings")
    photos = source.load()
    found = set()

    def crop(name: str) -> bytes | None:
        if (data := source.crop(name)) is not None:
            found.add(name)
        return data

    added = target.add(photos, crop)
    report = TransferReport(title, target.where, added, len(photos) - added)
    report.people, report.crops = len(photos.people), len(found)
    report.seconds = time.perf_counter() - start
    return report
