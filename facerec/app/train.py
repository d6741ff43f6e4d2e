"""Train: videos or photos of people → extract, detect, embed, train; the confusion matrix and the worst mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from facerec import runtime
from facerec.app import toolkit
from facerec.artifacts import write_bytes
from facerec.classify import KINDS
from facerec.embedders import DEFAULT_MARGIN
from facerec.errors import FacerecError
from facerec.images import encode_image, walk_files
from facerec.paths import CLASSIFIERS, EMBEDDINGS, GALLERY, PROCESSED, RAW
from facerec.report import Report
from facerec.stages.common import free, require_name
from facerec.stages.detect import detect
from facerec.stages.embed import embed
from facerec.stages.evaluate import classifier as judge
from facerec.stages.extract import extract
from facerec.stages.train import TrainReport, train
from facerec.types import Crop
from facerec.video import is_video

VIDEOS = Path("videos")
WORDS = {"svm": "support vector machine", "knn": "the five closest photos vote", "nearest": "the closest person"}


def page() -> None:
    """Draws the page."""
    st.title("Train")
    upload()
    people = {p.name for top in (RAW, VIDEOS) if top.is_dir() for p in top.iterdir() if p.is_dir()}
    if not people and not EMBEDDINGS.exists():
        st.info("Nothing to train on yet: add photos or a video of each person above. Two people are needed.")
        return
    if people:
        st.caption(f"On this machine: {toolkit.plain(', '.join(sorted(people)))}")
    kind = st.selectbox("Decide by", KINDS, format_func=lambda kind: WORDS[kind])
    running = (job := toolkit.shared("training")) is not None and job.running
    if st.button("Train", type="primary", disabled=running):
        chosen = toolkit.settings()
        model = chosen.model
        toolkit.start_shared(
            "training", "training", lambda job: everything(job, kind, chosen.detector, chosen.min_face, model)
        )
    if (job := toolkit.watch(toolkit.shared("training"))) and not job.error:
        outcome(*job.result)


def upload() -> None:
    """A form for a person's photos and videos."""
    with st.container(border=True):
        st.subheader("Photos or videos of a person")
        name = st.text_input("Name", key="train name").strip()
        files = st.file_uploader("Photos, or videos", accept_multiple_files=True, key="train files")
        kept: set[str] = st.session_state.setdefault("kept", set())
        files = [file for file in files if file.file_id not in kept]
        if not st.button("Keep", disabled=not (name and files)):
            return
        try:
            name = require_name(name)
        except FacerecError as error:
            st.error(toolkit.plain(str(error)))
            return
        number = 0
        for n, image in toolkit.pictures([f for f in files if not is_video(Path(f.name))]):
            write_bytes(place(RAW / name, n, ".jpg"), encode_image(image, ".jpg"))
            number += 1
        for file in toolkit.within_bounds([f for f in files if is_video(Path(f.name))], toolkit.MAX_VIDEO):
            write_bytes(place(VIDEOS / name, file.name, Path(file.name).suffix.lower()), file.getvalue())
            number += 1
        kept.update(file.file_id for file in files)
        if number:
            st.success(toolkit.plain(f"{number} files are kept for {name}."))


def place(folder: Path, name: str, suffix: str) -> Path:
    """A path in a folder that is not taken, with a name that any system takes."""
    clean = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(name).stem)[:60] or "file"
    return free(folder / f"{clean}{suffix}")


def everything(
    job: toolkit.Job, kind: str, detector: str, min_face: int, model: str
) -> tuple[TrainReport, Report | None, list[str]]:
    """All stages, one after the other; each does only what is new."""
    lost: list[str] = []
    cores = runtime.cpu_count()
    if VIDEOS.is_dir() and any(walk_files(VIDEOS, is_video)):
        report = extract([VIDEOS], RAW, jobs=cores, progress=job.progress)
        lost += [f"{f.source}: {f.reason}" for f in report.failed]
    if RAW.is_dir():
        crop = Crop(DEFAULT_MARGIN)
        finder = toolkit.detector(detector, min_face)
        report = detect(
            RAW, PROCESSED, detector=finder, crop=crop, min_face=min_face, min_confidence=None, jobs=cores,
            progress=job.progress,
        )  # fmt: skip
        lost += [f"{f.source}: {f.reason}" for f in report.failed]
        embed(PROCESSED, EMBEDDINGS, embedder=toolkit.embedder(model, crop, False), progress=job.progress)
    job.step = kind
    path = CLASSIFIERS / f"{kind}.npz"
    trained = train(EMBEDDINGS, path, kind=kind)
    judged = judge(path, EMBEDDINGS, PROCESSED) if trained.test.total else None
    return trained, judged, lost


def outcome(trained: TrainReport, judged: Report | None, lost: list[str]) -> None:
    """What came of it."""
    st.subheader(f"{trained.people} people are known")
    if GALLERY.is_file() and toolkit.names_path() == trained.output:
        st.info(f"Names come from {trained.output} from now on, not from the gallery of the People page.")
    figures: list[tuple[str, Any]] = [("training photos", trained.train), ("test photos", trained.test)]
    for column, (what, score) in zip(st.columns(2), figures, strict=True):
        value = "–" if score.accuracy is None else f"{score.accuracy:.1%}"
        column.metric(f"right on {what}", value, help=str(score))
    for line in lost[:20]:
        st.warning(toolkit.plain(line))
    if trained.dropped:
        st.warning(f"The earlier classifier was calibrated to a {trained.dropped}: that is not kept, calibrate again.")
    if judged is None:
        st.info("No test photos: with more photos a person some are kept apart for testing.")
        return
    for caption, picture in judged.pictures:
        st.image(picture, caption=caption)
