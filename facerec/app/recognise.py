"""Recognise: pictures, a video or the browser's camera; who is in it, and why."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from facerec.app import toolkit
from facerec.draw import annotate_predictions, apart
from facerec.errors import InputError
from facerec.images import decode_image, encode_image
from facerec.recognizer import Recognizer, find_and_embed
from facerec.stages.appearances import appearances
from facerec.stages.explain import side_by_side
from facerec.stages.predict import COLUMNS, lines, result
from facerec.types import Prediction
from facerec.video import is_video

T = TypeVar("T")

VIDEO = "video "  # how the keys of videos' jobs begin


@dataclass(frozen=True)
class Answer:
    """A picture and what was found on it."""

    name: str
    picture: bytes
    sheet: bytes | None
    predictions: list[Prediction]


def page() -> None:
    """Draws the page."""
    st.title("Who is this?")
    recognizer = toolkit.recognizer()
    if recognizer is None:
        toolkit.nobody_yet()
        return
    source = st.segmented_control("From", ["Files", "Camera"], default="Files", label_visibility="collapsed")
    files: list[UploadedFile] = []
    if source == "Camera":
        shot = st.camera_input("Take a picture")
        files = [shot] if shot else []
    else:
        files = st.file_uploader(
            "Pictures, or a video", accept_multiple_files=True, help="They stay on this machine and are not kept."
        )
    present = {file.file_id for file in files}
    earlier = st.session_state.get("answers", {})
    st.session_state["answers"] = {key: given for key, given in earlier.items() if key[0] in present}
    followed = {key for key in st.session_state if isinstance(key, str) and key.startswith(VIDEO)}
    for key in followed - {video_key(file) for file in files}:  # taken away, or other people are known by now
        del st.session_state[key]
    videos = [file for file in files if is_video(Path(file.name))]
    answers: list[Answer] = []
    results: list[tuple[str, list[Prediction], str | None]] = []
    for file in toolkit.within_bounds([file for file in files if file not in videos], toolkit.MAX_BYTES):
        given = answer(file, recognizer)
        if isinstance(given, str):
            toolkit.refuse(file.name, given)
            results.append((file.name, [], given))
            continue
        answers.append(given)
        results.append((file.name, given.predictions, None))
        show(given)
    if answers:
        downloads(answers, results)
    for file in toolkit.within_bounds(videos, toolkit.MAX_VIDEO):
        video(file, recognizer)


def answer(file: UploadedFile, recognizer: Recognizer) -> Answer | str:
    """Recognises a picture, once for each state of people and settings; or says why it is not taken."""
    known: dict[object, Answer | str] = st.session_state["answers"]
    key = (file.file_id, toolkit.state())
    if key not in known:
        try:
            known[key] = recognise(file, recognizer)
        except InputError as error:
            known[key] = str(error)
    return known[key]


def recognise(file: UploadedFile, recognizer: Recognizer) -> Answer:
    """A picture's faces; raises `InputError` where it cannot be taken."""
    image = decode_image(file.getvalue(), toolkit.MAX_PIXELS)
    found = find_and_embed(image, recognizer.detector, recognizer.embedder, "all")
    predictions = recognizer.decide(found)
    sheet = None
    if predictions:
        picture, _ = side_by_side(found, predictions, recognizer.classifier, toolkit.crop_of)
        sheet = encode_image(picture, ".png")
    return Answer(file.name, encode_image(annotate_predictions(image, predictions), ".jpg"), sheet, predictions)


def show(answer: Answer) -> None:
    """A picture, its faces, and the people they are most like."""
    with st.container(border=True):
        st.image(answer.picture, width="stretch")
        if not answer.predictions:
            st.info("No face was found: try a picture that shows it larger, or from the front.")
            return
        names = " · ".join(toolkit.plain(p.name or "unknown") for p in answer.predictions)
        st.markdown(f"{toolkit.plain(answer.name)}: **{names}**")
        st.dataframe([row(p) for p in answer.predictions], hide_index=True, width="stretch")
        if answer.sheet:
            with st.expander("The three nearest people, side by side"):
                st.image(answer.sheet)


def row(p: Prediction) -> dict[str, str]:
    """A face as a line of the table."""
    return {
        "name": p.name or "unknown",
        "at": f"{p.face.box[0]:.0f}, {p.face.box[1]:.0f}",
        "distance": f"{apart(p):.2f}",
        "probability": "–" if p.probability is None else f"{p.probability:.0%}",
        "why": p.reason or "near enough, and nobody else is",
        "nearest": ", ".join(f"{name} {distance:.2f}" for name, distance in p.nearest),
    }


def downloads(answers: list[Answer], results: list[tuple[str, list[Prediction], str | None]]) -> None:
    """Buttons for the annotated pictures, and for CSV and JSON as `facerec predict` prints them."""
    pictures, table, data = st.columns(3)
    if len(answers) == 1:
        pictures.download_button("Annotated picture", answers[0].picture, "named.jpg", "image/jpeg", width="stretch")
    else:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number, each in enumerate(answers, start=1):
                archive.writestr(f"named/{number:03d}_{Path(each.name).stem}.jpg", each.picture)
        pictures.download_button("Annotated pictures", packed.getvalue(), "named.zip", width="stretch")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for one in results:
        writer.writerows(lines(*one))
    table.download_button("CSV", text.getvalue(), "faces.csv", "text/csv", width="stretch")
    body = [result(*one) for one in results]
    data.download_button("JSON", json.dumps(body, indent=1), "faces.json", "application/json", width="stretch")


def video_key(file: UploadedFile) -> str:
    """Where a video's job is kept, for one state of people and settings."""
    return f"{VIDEO}{file.file_id} {hash(toolkit.state())}"


def video(file: UploadedFile, recognizer: Recognizer) -> None:
    """Follows the faces of a video, in the background."""
    st.subheader(toolkit.plain(file.name))
    key = video_key(file)

    def work(job: toolkit.Job) -> tuple[list[dict[str, object]], bytes, bytes, str | None]:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / f"video{Path(file.name).suffix.lower()}"
            path.write_bytes(file.getvalue())
            out = Path(name) / "out" / "video.mp4"

            def progress(frames: Iterable[T], total: int, _: str) -> Iterable[T]:
                return job.progress(frames, total, f"following the faces of {file.name}")

            found, cut_off = appearances(path, out, recognizer=recognizer, progress=progress)
            copy, views = out.read_bytes(), out.with_suffix(".faces.png").read_bytes()
            return [a.to_json() for a in found], copy, views, cut_off

    if key not in st.session_state:
        st.session_state[key] = toolkit.start("following the faces", work)
    job = toolkit.watch(st.session_state[key])
    if job is None or job.error:
        return
    rows, copy, views, cut_off = job.result
    if cut_off:
        st.warning(cut_off)
    columns = ("name", "start", "end", "distance", "reason")
    st.dataframe([{c: r[c] for c in columns} for r in rows], hide_index=True, width="stretch")
    st.image(views, caption="The best view of each face")
    left, right = st.columns(2)
    left.download_button("Annotated video", copy, "named.mp4", "video/mp4", width="stretch", key=f"{key} copy")
    right.download_button("JSON", json.dumps(rows, indent=1), "appearances.json", width="stretch", key=f"{key} json")
