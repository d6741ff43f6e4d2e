"""Evaluate: error rates on a folder of people, as the commands report them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from facerec import runtime
from facerec.app import toolkit
from facerec.embedders import DEFAULT_MARGIN
from facerec.paths import PROCESSED, RAW
from facerec.report import Report
from facerec.stages import evaluate
from facerec.stages.evaluate import Engine
from facerec.types import Crop

OUTPUT = Path("evaluation")
PROTOCOLS = {
    "pairs": "Verification: are two photos of one person?",
    "identify": "Identification: which of the enrolled people is it?",
    "open-set": "Open set: and how often does a stranger get a name?",
}


def page() -> None:
    """Draws the page."""
    st.title("Evaluate")
    folders = [p for p in (RAW, PROCESSED / "test", Path("photos")) if p.is_dir() and any(p.iterdir())]
    if not folders:
        st.info("Nothing to evaluate on yet: a folder with a folder a person is needed. Add photos on the Train page.")
    else:
        folder = st.selectbox("Photos", folders, format_func=str)
        protocol = st.selectbox("Protocol", list(PROTOCOLS), format_func=lambda name: PROTOCOLS[name])
        running = (job := toolkit.shared("evaluation")) is not None and job.running
        if st.button("Evaluate", type="primary", disabled=running):
            chosen = toolkit.settings()
            toolkit.start_shared("evaluation", protocol, lambda job: run(job, protocol, folder, chosen))
        if (job := toolkit.watch(toolkit.shared("evaluation"))) and not job.error:
            show(job.result)
    earlier()


def run(job: toolkit.Job, protocol: str, folder: Path, chosen: toolkit.Settings) -> Report:
    """A protocol on a folder; writes its report."""
    crop = Crop(DEFAULT_MARGIN)
    engine = Engine(
        toolkit.detector(chosen.detector, chosen.min_face),
        toolkit.embedder(chosen.model, crop, False),
        "central",
        chosen.min_face,
        None,
    )
    photos = evaluate.load_photos(folder, OUTPUT / "cache", engine, jobs=runtime.cpu_count(), progress=job.progress)
    job.step = "comparing"
    about = {**engine.settings(folder), "seed": 0}
    if protocol == "pairs":
        report = evaluate.pairs(photos, about, OUTPUT, None, 0)
    elif protocol == "identify":
        report = evaluate.identify(photos, about, evaluate.seconds_a_photo(folder, photos, engine, 0), 0)
    else:
        report = evaluate.open_set(photos, about, 1, None, 0)
    report.write(OUTPUT)
    return report


def show(report: Report) -> None:
    """A report on the page."""
    st.header(report.title)
    for line in report.summary:
        st.markdown(toolkit.plain(line))
    for caption, head, rows in report.tables:
        st.caption(caption)
        st.dataframe([dict(zip(head, row, strict=True)) for row in rows], hide_index=True, width="stretch")
    for caption, picture in report.pictures:
        st.image(picture, caption=caption)


def earlier() -> None:
    """Reports that lie here."""
    reports = sorted(OUTPUT.glob("*.html"), key=lambda path: -path.stat().st_mtime)
    if reports:
        st.subheader("Reports")
    for path in reports[:20]:
        st.download_button(path.name, path.read_bytes(), path.name, "text/html", key=str(path))
