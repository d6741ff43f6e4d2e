"""The folders and files of a project, relative to where a command is started."""

from pathlib import Path

RAW, PROCESSED = Path("raw_images"), Path("processed")
EMBEDDINGS, CLASSIFIERS = Path("embeddings/faces.npz"), Path("classifiers")
GALLERY = Path("embeddings/gallery.npz")
CLUSTERED, NOISE, SHEET = "clusters.json", "noise", "contact_sheet.png"  # in a folder of `facerec cluster`
FINETUNED, SNAPSHOTS = Path("finetuned"), Path("snapshots")

TEMPORARY = ".facerec-tmp-"
"""How the names of unfinished files begin: what a killed process left of them is removed, and nobody else's."""


def classifiers() -> list[Path]:
    """Those that there are, in the order in which they were trained."""
    found = (p for p in CLASSIFIERS.glob("[!.]*.npz") if p.is_file())
    return sorted(found, key=lambda p: p.stat().st_mtime_ns)


def names() -> Path | None:
    """The classifier that was trained last, or the gallery if somebody was enrolled after that; None without either."""
    found = [*classifiers(), *([GALLERY] if GALLERY.is_file() else [])]
    return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)
