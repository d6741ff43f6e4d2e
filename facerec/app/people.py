"""People: the gallery as cards; add, rename, forget, merge, and what the audit finds; save and load."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import streamlit as st

from facerec.app import toolkit
from facerec.artifacts import load_embeddings
from facerec.audit import Finding, audit
from facerec.errors import DataError, FacerecError
from facerec.galleries import Where
from facerec.galleries.people import Person, empty, people
from facerec.paths import CLASSIFIERS
from facerec.stages.common import require_name
from facerec.stages.enroll import enroll
from facerec.stages.people import beyond, erase, rename
from facerec.stages.project import Project
from facerec.stages.train import default_gate
from facerec.types import Embeddings

COLUMNS, SHOWN = 4, 60


def page() -> None:
    """Draws the page."""
    st.title("People")
    with st.container():  # always there: what is below stays in its place, and open menus stay open
        for told in st.session_state.pop("told", []):
            st.success(toolkit.plain(told))
        for left in st.session_state.pop("left", []):
            st.warning(toolkit.plain(left))
    add()
    if not toolkit.gallery().exists():
        st.info("No gallery yet: add the first person above, or load one.")
        load()
        return
    gallery, saved_now = toolkit.photos(), toolkit.file()
    everybody = people(gallery)
    st.subheader(f"{counted(len(everybody), 'person', 'people')}, {counted(len(gallery), 'photo', 'photos')}")
    wanted = st.text_input("Search", placeholder="name", label_visibility="collapsed") if len(everybody) > 12 else ""
    shown = [p for p in everybody if wanted.casefold() in p.name.casefold()]
    for start in range(0, min(len(shown), SHOWN), COLUMNS):  # a row at a time: on a phone they stand below one another
        for column, person in zip(st.columns(COLUMNS), shown[start : min(start + COLUMNS, SHOWN)], strict=False):
            with column.container(border=True):
                card(person, gallery, [p.name for p in everybody])
    if len(shown) > SHOWN:
        st.caption(f"{len(shown) - SHOWN} more: search for them.")
    warnings(gallery)
    left, right = st.columns(2)
    left.download_button("Save the gallery", saved_now, "gallery.npz", width="stretch")
    with right:
        load()


def counted(n: int, one: str, many: str) -> str:
    """ "1 photo", "2 photos"."""
    return f"{n} {one if n == 1 else many}"


def say_and_start_again(told: str) -> None:
    """Runs the page again, with what happened on top."""
    st.session_state.setdefault("told", []).append(told)
    st.rerun()


def add() -> None:
    """A form for a person's photos."""
    with st.expander("Add a person", expanded=not toolkit.gallery().exists()):
        form = st.session_state.setdefault("form", 0)  # another after each person: their photos are not the next one's
        name = st.text_input("Name", key=f"new name {form}")
        source = st.segmented_control("Photos from", ["Files", "Camera"], default="Files", key="new source")
        if source == "Camera":
            shot = st.camera_input("One clear face", key=f"new shot {form}")
            files = [shot] if shot else []
        else:
            files = st.file_uploader("One clear face on each", accept_multiple_files=True, key=f"new files {form}")
        force = st.checkbox("Take faces that are small, blurred, turned or several, too")
        if not st.button("Add", type="primary", disabled=not (name.strip() and files)):
            return
        with tempfile.TemporaryDirectory() as folder, st.spinner("Looking at the photos …"):
            held = {str(path): given for path, given in saved(files, Path(folder))}
            if not held:
                return
            before = toolkit.names_path()
            embedder = toolkit.gallery_embedder(toolkit.settings().model)
            chosen = toolkit.settings()
            try:
                gallery = toolkit.gallery()
                there = gallery.about() if gallery.exists() else empty(embedder.space, embedder.dim)
                report = enroll(
                    name.strip(),
                    [Path(path) for path in held],
                    gallery,
                    detector=toolkit.detector(chosen.detector, chosen.min_face),
                    embedder=embedder,
                    gate=default_gate(there),
                    force=force,
                )
            except FacerecError as error:
                st.error(toolkit.plain(str(error)))
                return
        refused = [f"{held[failure.source]} is refused: {failure.reason}" for failure in report.failed]
        if not (taken := report.done + report.skipped):
            for line in refused:
                st.warning(toolkit.plain(line))
            return
        if isinstance(before, Path) and before.parent == CLASSIFIERS:
            report.warnings.append(
                f"Names come from the gallery from now on, not from {before}: train again to know its people too."
            )
        st.session_state["left"] = [*refused, *report.warnings]
        st.session_state["form"] += 1
        some = f"{taken} of {len(held)} photos" if refused else counted(report.photos, "photo", "photos")
        say_and_start_again(f"{report.name} is added: {some}.")


def saved(files: list[st.runtime.uploaded_file_manager.UploadedFile], folder: Path) -> list[tuple[Path, str]]:
    """(file, its name at the visitor's) of the pictures that can be taken."""
    from facerec.artifacts import write_image

    pairs = []
    for number, (name, image) in enumerate(toolkit.pictures(files)):
        path = folder / f"photo{number}.png"
        write_image(path, image)
        pairs.append((path, name))
    return pairs


def card(person: Person, gallery: Embeddings, names: list[str]) -> None:
    """A person's picture, and what can be done to them."""
    rows = np.flatnonzero(gallery.labels == person.name)
    best = rows[np.argsort(-np.nan_to_num(gallery.quality[rows], nan=-1.0))]
    images = (toolkit.crop_of(str(gallery.sources[row])) for row in best)
    picture = next((image for image in images if image is not None), None)
    st.image(toolkit.initial(person.name) if picture is None else picture, width="stretch")
    quality = "" if person.quality is None else f" · quality {person.quality:.2f}"
    photos = counted(person.photos, "photo", "photos")
    st.markdown(f"**{toolkit.plain(person.name)}**  \n{photos}{quality}")
    with st.popover("Change", width="stretch"):
        project = Project.of(Path(), toolkit.where())
        new = st.text_input("Rename to", key=f"rename {person.name}")
        others = [name for name in names if name != person.name]
        into = st.selectbox("Or: the same person as", others, index=None, key=f"merge {person.name}")
        try:
            if st.button("Rename", key=f"do rename {person.name}", disabled=not new.strip()):
                rename(project, person.name, new.strip())
                say_and_start_again(f"{person.name} is called {new.strip()} now.")
            if st.button("Merge", key=f"do merge {person.name}", disabled=into is None) and into:
                rename(project, person.name, into, merge=True)
                say_and_start_again(f"{person.name} and {into} are one person now.")
            sure = st.checkbox("Really forget, in every file of this folder", key=f"sure {person.name}")
            if st.button("Forget", key=f"do forget {person.name}", disabled=not sure, type="primary"):
                erased, left = erase(project, person.name)
                traces = [f"still {person.name}'s, or names them: {trace}" for trace in left[:SHOWN]]
                st.session_state["left"] = [*traces, *beyond(person.name)]
                say_and_start_again(f"{person.name} is forgotten: {len(erased)} places.")
        except FacerecError as error:
            st.error(toolkit.plain(str(error)))


def warnings(gallery: Embeddings) -> None:
    """What the audit finds."""
    try:
        findings = _findings(toolkit.where(), toolkit.gallery().state()) if len(gallery) else []
    except DataError as error:
        st.caption(toolkit.plain(f"No audit: {error}"))
        return
    serious = [f for f in findings if f.kind != "needs photos"]
    with st.expander(f"Audit: {len(serious)} to look at, {len(findings) - len(serious)} could do with more photos"):
        for finding in [*serious, *(f for f in findings if f not in serious)][:SHOWN]:
            st.markdown(f"**{finding.kind}** {toolkit.plain(finding.text)}: {toolkit.plain(finding.advice)}")
            crops = [toolkit.crop_of(str(gallery.sources[i])) for group in finding.photos for i in group[:3]]
            if pictures := [crop for crop in crops if crop is not None]:
                st.image(pictures[:6], width=80)


@st.cache_data(show_spinner=False, max_entries=2)
def _findings(where: Where, state: object) -> list[Finding]:
    """Of the audit, once for each state of the gallery: it compares everybody with everybody."""
    gallery = toolkit.photos()
    return audit(gallery, default_gate(gallery).threshold, 3)


def load() -> None:
    """Adds the people of a gallery that was saved."""
    file = st.file_uploader("Load a gallery (.npz): its people are added", type="npz", key="load gallery")
    if file is None or st.session_state.get("loaded") == file.file_id:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npz"
        path.write_bytes(file.getvalue())
        try:
            rows = load_embeddings(path)
            for label in rows.people:
                require_name(label)
            toolkit.gallery().add(rows)
        except FacerecError as error:
            toolkit.refuse(file.name, str(error).replace(str(path), "the file"))
            return
    st.session_state["loaded"] = file.file_id
    say_and_start_again(f"{len(rows.people)} people are loaded; {len(toolkit.photos().people)} in the gallery now.")
