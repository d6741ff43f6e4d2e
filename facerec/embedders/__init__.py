"""Embedders, one file each: crops in, unit vectors out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from facerec.errors import UsageError

if TYPE_CHECKING:
    from facerec.types import Crop, Embedder

log = logging.getLogger("facerec")

EMBEDDERS = ("facenet", "facenet-reference")
MODELS = ("facenet-128", "facenet-512")
CROPS = ("stretched", "square", "aligned")
DEFAULT_MARGIN = 0.075
"""Of the crop, on each side, as a share of the box. Chosen by measuring: see docs/choices.md."""


def models() -> list[str]:
    """The weights that there are: `MODELS`, and those that ``facerec finetune`` made."""
    from facerec import catalogue

    return [*MODELS, *catalogue.tuned_names()]


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
        model: one of `models`: the weights, and with them the normalisation.
        crop: how the crops that it will be given were cut out (part of the embedding space).
        flip: add the mirrored crop's vector; doubles the work.
        threads: inside one batch.

    Raises:
        UsageError: an unknown name.
        WeightsError: the weights cannot be had.
    """
    if model not in (known := models()):
        raise UsageError(
            f"there is no embedding model {model!r}",
            f"choose one of: {', '.join(known)}; what was made with one that was removed: embed and train again",
        )
    if name == "facenet-reference" and model not in MODELS:
        raise UsageError(f"{model} was made for the default engine", "leave out --embedder")
    if name == "facenet":
        from facerec import runtime
        from facerec.embedders.facenet import FaceNet

        made: Embedder = FaceNet(model, crop, flip, threads)
        log.info("embedder %s, %s, %s", name, made.space, runtime.describe())
        return made
    if name == "facenet-reference":
        from facerec.embedders.facenet_reference import FaceNetReference

        made = FaceNetReference(model, crop, flip)
        log.info("embedder %s, %s, TensorFlow", name, made.space)
        return made
    raise UsageError(f"there is no embedder {name!r}", f"choose one of: {', '.join(EMBEDDERS)}")
