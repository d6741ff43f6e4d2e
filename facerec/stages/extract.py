"""extract: videos → raw_images/NAME/*.jpg, sharp frames spread over the whole video."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facerec import stores
from facerec.artifacts import move, remove, write_image, written_together
from facerec.errors import InputError, UsageError
from facerec.images import natural_key, sharpness, thumbnail, walk_files
from facerec.manifests import manifest_of, read_manifest
from facerec.paths import TEMPORARY
from facerec.scratch import Tables, packed, unpacked
from facerec.stages.common import canonical
from facerec.stages.process import Item, process, require_some
from facerec.types import Progress, StageReport, no_progress
from facerec.video import Frame, Video, is_video

CANDIDATES = 5  # frames looked at for each one taken
NEAR_DUPLICATE = 1.0  # mean difference in grey levels (of 255) of two 32×32 miniatures
IDENTICAL = 0.05
TABLES = "CREATE TABLE videos (label BLOB, top INTEGER, natural BLOB, path BLOB, key BLOB UNIQUE)"


def extract(
    inputs: Sequence[Path],
    output: Path,
    *,
    count: int = 50,
    every: int | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    force: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> StageReport:
    """Takes frames out of videos. The frames of a video that is gone stay: it may have been deleted to make room.

    Args:
        inputs: videos, or folders with ``NAME.mp4`` or ``NAME/*.mp4``; NAME becomes the label. They may be in
            a store, as the output may.
        output: usually raw_images/; frames go to ``NAME/STEM_FRAME.jpg``, time stamps to the manifest.
        count: frames a person, shared among the person's videos that are given.
        every: take every N-th frame instead.
        jobs: videos decoded side by side.
        cluster: where else they are decoded, see `facerec.parallel.spread`.
        force: treat all again.
        strict: stop at the first video that fails.
        progress: shows how far it is.

    Raises:
        UsageError: nothing to do, or a number out of range.
        ArtifactError: the output cannot be written.
    """
    if count < 1 or (every is not None and every < 1):
        raise UsageError("--count and --every take a number of 1 or more")
    known = manifest_of(output).key
    files = {known(top) for top in inputs if is_video(top)}
    before = {r.input: r.label for r in read_manifest(output) if r.input in files} if files else {}
    found = (
        item for videos in videos_by_person(inputs, known, before) for item in shared_out(videos, count, every, known)
    )
    items = require_some(
        found,
        f"no videos in {', '.join(map(str, inputs))}",
        "name them NAME.mp4, or put them into folders: NAME/anything.mp4",
    )

    work = partial(take_frames, output.absolute())
    options: dict[str, Any] = {}
    return process(
        "extract", items, inputs, output, options, work,
        jobs=jobs, cluster=cluster, together=1, keep=True, force=force, strict=strict, progress=progress,
    )  # fmt: skip


def take_frames(output: Path, item: Item) -> list[dict[str, Any]]:
    """Writes a video's frames to ``LABEL/NAME_FRAME.jpg``; returns the manifest's outputs.

    Raises:
        InputError: the video is damaged; what there was of it is kept.
    """
    if item.options.get("count") == 0:
        return []  # fewer frames are wanted than there are videos
    with Video(item.path) as video, _staging(output, item.path) as staging:
        every = item.options.get("every")
        frames = video.at(range(0, video.count, every)) if every else sharp_frames(video, item.options["count"])
        outputs = []
        with written_together():
            for frame in frames:
                relative = f"{item.label}/{item.name}_{frame.index:06d}.jpg"
                write_image(staging / Path(relative).name, frame.image)
                outputs.append({"path": relative, "frame": frame.index, "seconds": frame.seconds})
        for made in outputs:
            target = output / str(made["path"])
            move(staging / target.name, target)
        if not outputs:
            raise InputError("no frame could be decoded", "the file is damaged: copy or convert it again")
        if video.cut_off:
            raise InputError(video.cut_off, "what there was is kept; copy the video again", outputs)
    return outputs


@contextlib.contextmanager
def _staging(output: Path, video: Path) -> Iterator[Path]:
    """Where frames wait for the last one: leftovers of a run that was killed would become somebody's photos."""
    if stores.in_store(output):
        with tempfile.TemporaryDirectory(prefix="facerec-") as name:
            yield Path(name)
        return
    staging = output / f"{TEMPORARY}{hashlib.sha256(str(video).encode()).hexdigest()[:16]}"
    try:
        yield staging
    finally:
        remove(staging)


def shared_out(
    videos: Sequence[tuple[Path, str]], count: int, every: int | None, key: Callable[[Path], str]
) -> Iterator[Item]:
    """A person's videos, each with its share of the person's frames; of one stem, told apart by a digest of their key.

    A name depends on no other video: what an earlier run wrote would become another's.
    """
    stems = Counter(path.stem for path, _ in videos)
    for rank, (path, label) in enumerate(videos):
        share = count // len(videos) + (rank < count % len(videos))
        digest = hashlib.sha256(packed(key(path))).hexdigest()[:8]
        name = path.stem if stems[path.stem] == 1 else f"{path.stem}_{path.suffix[1:].lower()}_{digest}"
        yield Item(path, label, name=name, options={"every": every} if every else {"count": share})


def videos_by_person(
    inputs: Sequence[Path], key: Callable[[Path], str], before: Mapping[str, str]
) -> Iterator[list[tuple[Path, str]]]:
    """(video, label) of a person at a time, each once, in the order of the inputs and, in each, in natural order.

    A video that is given by itself keeps the label that it got `before`, from its folder: key → label.
    """
    with contextlib.closing(Tables(TABLES)) as tables:
        for path, label, top in labelled_videos(inputs):
            label = before.get(key(path), label) if path == inputs[top] else label
            values = packed(label), top, natural_key(path), packed(str(path)), packed(key(path))
            tables.execute("INSERT OR IGNORE INTO videos VALUES (?, ?, ?, ?, ?)", *values)
        rows = tables.rows("SELECT label, path FROM videos ORDER BY label, top, natural, path")
        for label, videos in itertools.groupby(rows, lambda row: row[0]):
            yield [(stores.folder(unpacked(path)), unpacked(label)) for _, path in videos]


def labelled_videos(inputs: Sequence[Path]) -> Iterator[tuple[Path, str, int]]:
    """(video, label, number of its input); the label: the first folder below an input folder, else the file's stem."""
    for number, top in enumerate(inputs):
        if stores.is_file(top):
            if not is_video(top):
                raise UsageError(f"{top} is not a video by its name", "rename it, for example to NAME.mp4")
            yield top, canonical(top.stem), number
        elif stores.is_folder(top):
            for path in walk_files(top, is_video):
                parts = path.relative_to(top).parts
                yield path, canonical(parts[0] if len(parts) > 1 else path.stem), number
        else:
            raise stores.absent(top, f"there is no {top}", "give a video or a folder of videos")


def sharp_frames(video: Video, count: int) -> Iterator[Frame]:
    """One frame from each of `count` equal stretches of the video, in order.

    Of each stretch the sharpest of a few frames that differs from the one taken before; where all are
    near-duplicates, the sharpest of them, unless the picture has not changed at all.
    """
    edges = np.linspace(0, video.count, min(count, max(video.count, 1)) + 1).astype(int)
    last = None
    for start, end in itertools.pairwise(edges.tolist()):
        stretch = np.unique(np.linspace(start, end - 1, min(CANDIDATES, end - start)).astype(int)).tolist()
        scored = [(f, thumbnail(f.image), sharpness(f.image)) for f in video.at(stretch)]
        if last is not None:
            change = [float(np.abs(t - last).mean()) for _, t, _ in scored]
            different = [s for s, c in zip(scored, change, strict=True) if c >= NEAR_DUPLICATE]
            scored = different or [s for s, c in zip(scored, change, strict=True) if c > IDENTICAL]
        if scored:
            frame, last, _ = max(scored, key=lambda s: s[2])
            yield frame
