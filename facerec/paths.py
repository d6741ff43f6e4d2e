"""The folders and files of a project, relative to where a command is started."""

from pathlib import Path

RAW, PROCESSED = Path("raw_images"), Path("processed")
EMBEDDINGS, CLASSIFIERS = Path("embeddings/faces.npz"), Path("classifiers")
GALLERY = Path("embeddings/gallery.npz")
FINETUNED = Path("finetuned")

TEMPORARY = ".facerec-tmp-"
"""How the names of unfinished files begin: what a killed process left of them is removed, and nobody else's."""
