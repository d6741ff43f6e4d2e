"""Embedders, one file each: crops in, unit vectors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facerec.errors import UsageError

if TYPE_CHECKING:
    from facerec.types import Crop, Embedder

EMBEDDERS = ("facenet", "facenet-reference")
MODELS = ("facenet-128", "facenet-512")
CROPS = ("stretched", "square", "aligned")
DEFAULT_MARGIN = 0.075
"""Of the crop, on each side, as a share of the box. Chosen by measuring: see docs/choices.md."""


def load_embedder(
    name: str = "facenet",
    *,
    model: str = MODELS[0],
    crop: Crop,
    flip: bool = False,
    threads: int = 1,
) -> Embedder:
    """Loads an embedder.

    Args:
        name: one of `EMBEDDERS`: the engine.
        model: one of `MODELS`, or of those that ``facerec finetune`` made: the weights, and with them the
            normalisation.
        crop: how the crops that it will be given were cut out (part of the embedding space).
        flip: add the mirrored crop's vector; doubles the work.
        threads: inside one batch.

    Raises:
        UsageError: an unknown name.
        WeightsError: the weights cannot be had.
    """
    from facerec import catalogue

    if model not in (known := (*MODELS, *catalogue.tuned_names())):
        raise UsageError(f"there is no embedding model {model!r}", f"choose one of: {', '.join(known)}")
    if name == "facenet-reference" and model not in MODELS:
        raise UsageError(f"{model} was made for the default engine", "leave out --embedder")
    if name == "facenet":
        from facerec.embedders.facenet import FaceNet

        return FaceNet(model, crop, flip, threads)
    if name == "facenet-reference":
        from facerec.embedders.facenet_reference import FaceNetReference

        return FaceNetReference(model, crop, flip)
    raise UsageError(f"there is no embedder {name!r}", f"choose one of: {', '.join(EMBEDDERS)}")
