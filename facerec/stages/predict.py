"""predict: images → named faces, printed as they are found and drawn on copies of the images."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from facerec.artifacts import write_image
from facerec.draw import annotate_predictions
from facerec.errors import FacerecError, InputError, UsageError
from facerec.images import find_files, is_image, read_image
from facerec.recognizer import Recognizer
from facerec.stages.common import copies_of
from facerec.types import Failure, Prediction, Progress, StageReport, no_progress
from facerec.video import is_video

Emit = Callable[[str, list[Prediction], str | None], None]
"""Called for each image with its name, its predictions, and the error if it could not be read."""

COLUMNS = ("image", "x", "y", "w", "h", "confidence", "name", "candidate", "probability", "distance", "reason", "error")
"""Of `lines`."""


def result(image: str, predictions: Sequence[Prediction], error: str | None) -> dict[str, Any]:
    """An image's result for programs."""
    return {"image": image, "error": error, "faces": [p.to_json() for p in predictions]}


def lines(image: str, predictions: Sequence[Prediction], error: str | None) -> Iterator[list[Any]]:
    """An image's result as lines of a table, one a face, or one without a face."""
    faces: list[dict[str, Any]] = [p.to_json() for p in predictions]
    for face in faces or [{}]:
        flat = {**face, **dict(zip("xywh", face.get("box", ()), strict=False)), "image": image, "error": error}
        yield [flat.get(column) for column in COLUMNS]


def expand(inputs: Sequence[str], videos: bool = False) -> Iterator[Path]:
    """Files, the images (and videos) in folders, and what patterns match.

    Args:
        inputs: paths and patterns.
        videos: take video files too.

    Raises:
        UsageError: nothing there, or a video that is not wanted.
    """
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            yield from find_files(path, lambda p: is_image(p) or (videos and is_video(p)))
        elif path.exists():
            if is_video(path) and not videos:
                raise UsageError(f"{path} is a video", f"make photos of it with `facerec extract {path}`")
            yield path
        elif matches := sorted(glob.glob(text, recursive=True)):  # noqa: PTH207 - may be absolute
            yield from (p for p in map(Path, matches) if (is_image(p) or (videos and is_video(p))) and p.is_file())
        else:
            raise UsageError(f"there is no {text}", "give images, folders or a pattern in quotes")


def predict(
    inputs: Sequence[Path],
    output: Path | None,
    *,
    recognizer: Recognizer,
    emit: Emit,
    strict: bool = False,
    progress: Progress = no_progress,
) -> StageReport:
    """Names the faces of images.

    Args:
        inputs: images.
        output: folder for annotated copies, under the images' paths below their common folder; or None.
        recognizer: names faces.
        emit: receives each image's result at once.
        strict: stop at the first image that cannot be read.
        progress: shows how far it is.

    Raises:
        UsageError: the output is among the images.
        ArtifactError: the output cannot be written.
    """
    start = time.perf_counter()
    report = StageReport("predict", output or Path())
    copies = [None] * len(inputs) if output is None else copies_of(inputs, output, lambda _: ".jpg")
    for path, copy in progress(list(zip(inputs, copies, strict=True)), len(inputs), "predict"):
        try:
            image = read_image(path)
        except InputError as error:
            if strict:
                raise FacerecError(f"{path}: {error.what}", error.cure) from None
            report.failed.append(Failure(str(path), str(error)))
            emit(str(path), [], str(error))
            continue
        predictions = recognizer.recognize(image)
        if copy is not None:
            write_image(copy, annotate_predictions(image, predictions))
        report.done += 1
        emit(str(path), predictions, None)
    report.seconds = time.perf_counter() - start
    return report
