"""Settings: of this visitor."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from facerec import catalogue
from facerec.app import toolkit
from facerec.detectors import DETECTORS
from facerec.embedders import models

SIZES = (20, 30, 40, 60, 80, 120)


def page() -> None:
    """Draws the page."""
    st.title("Settings")
    chosen = toolkit.settings()
    offered = [d for d in DETECTORS if not d.endswith("reference")]
    detector = st.selectbox("Detector", offered, key=kept("detector", chosen.detector, offered))
    sizes = sorted({*SIZES, chosen.min_face})
    min_face = st.select_slider(
        "Smallest face, pixels (larger is faster)", sizes, key=kept("size", chosen.min_face, sizes)
    )
    calibrated = [model for model in models() if catalogue.gate(model)]
    model = st.selectbox("Model of a new gallery", calibrated, key=kept("model", chosen.model, calibrated))
    toolkit.with_settings(detector=detector, min_face=min_face, model=model)
    recognizer = toolkit.recognizer()
    known = recognizer.classifier.photos.space.model if recognizer else model
    rates: list[int | None] = [None, *(round(1000 * rate) for rate in catalogue.stranger_rates(known))]
    strangers = st.select_slider(
        "How many strangers in a thousand may get a name?",
        rates,
        key=kept("strangers", chosen.strangers, rates),
        format_func=lambda n: "as calibrated" if n is None else str(n),
        help="Fewer means that more of those you know stay unknown. Measured with about a hundred people enrolled.",
    )
    toolkit.with_settings(strangers=strangers)
    recognizer = toolkit.recognizer()
    if recognizer is None:
        toolkit.nobody_yet()
    else:
        st.caption(f"Now named: {recognizer.classifier.gate}; names from {toolkit.names_path()}.")


def kept(what: str, chosen: object, options: Sequence[object]) -> str:
    """The key of a widget that begins with what was chosen: one whose start changed would be another widget."""
    key = f"setting {what}"
    if key not in st.session_state or st.session_state[key] not in options:
        st.session_state[key] = chosen if chosen in options else options[0]
    return key
