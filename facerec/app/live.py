"""Live: the browser's camera, recognised as it runs; a face in view is captured, named, and known from then on."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import av
import numpy as np
import streamlit as st
from streamlit_webrtc import WebRtcMode, webrtc_streamer

from facerec.app import toolkit
from facerec.draw import annotate
from facerec.errors import FacerecError
from facerec.follower import Follower, mark
from facerec.recognizer import Recognizer
from facerec.stages.learn import Learner
from facerec.stages.names import of_nobody
from facerec.tracking import Track
from facerec.types import Image
from facerec.video import Frame

RATE = 25.0  # frames a second that are aimed at
MIN_FACE = 40
STILL = 2.0  # seconds without a frame after which the camera has stopped


@dataclass
class Watcher:
    """Follows the faces of one visitor's camera; called by the stream's thread.

    Attributes:
        follower: tracks and names faces.
        lock: held while it works.
        shown: the newest frame with its tracks.
        times: of the newest frames, seconds.
    """

    follower: Follower
    lock: threading.Lock = field(default_factory=threading.Lock)
    shown: tuple[Image, list[Track]] | None = None
    times: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    start: float = field(default_factory=time.monotonic)

    def see(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame with boxes and names on it."""
        image: Image = frame.to_ndarray(format="rgb24")
        now = time.monotonic()
        with self.lock:
            tracks = self.follower.follow(Frame(0, now - self.start, image))
            followed = time.monotonic()
            self.shown = (image, tracks)
            self.times.append(followed)  # the first one may take seconds
        picture = annotate(image, [mark(track) for track in tracks])
        answer = av.VideoFrame.from_ndarray(picture, format="rgb24")
        answer.pts, answer.time_base = frame.pts, frame.time_base
        self.follower.worked(time.monotonic() - followed)
        return answer

    @property
    def rate(self) -> float:
        """Frames a second, of late."""
        with self.lock:
            times = list(self.times)
        if len(times) < 2 or time.monotonic() - times[-1] > STILL:
            return 0.0
        return (len(times) - 1) / max(times[-1] - times[0], 1e-6)

    @property
    def now(self) -> tuple[Image, list[Track]] | None:
        """The newest frame with its tracks; None where the camera has stopped."""
        return self.shown if self.times and time.monotonic() - self.times[-1] <= STILL else None

    @property
    def in_view(self) -> list[str]:
        """Who is."""
        return [track.name or "unknown" for track in (self.now or (None, []))[1]]


def page() -> None:
    """Draws the page."""
    st.title("Live")
    watcher = this_watcher()
    context = webrtc_streamer(
        key="live",
        mode=WebRtcMode.SENDRECV,
        rtc_configuration={"iceServers": []},  # this machine or its network: no third party is asked for the way
        media_stream_constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}, "audio": False},
        video_frame_callback=watcher.see,
        async_processing=True,
        media_toggle_controls=False,
    )
    if not context.state.playing:
        st.caption("Press START and allow the camera. The pictures are recognised on this machine and not kept.")
        return

    @st.fragment(run_every=1.0)
    def status() -> None:
        names = ", ".join(toolkit.plain(name) for name in watcher.in_view) or "nobody in view"
        st.markdown(f"**{watcher.rate:.1f}** frames a second · {names}")
        if st.session_state["watched"] != toolkit.state():  # somebody was added or forgotten elsewhere
            st.rerun()

    status()
    capture(watcher)


def this_watcher() -> Watcher:
    """This visitor's; a new one where people or settings have changed."""
    key = toolkit.state()
    if st.session_state.get("watched") != key:
        recognizer = toolkit.recognizer() or with_nobody()
        recognizer = Recognizer(
            toolkit.detector(toolkit.settings().detector, max(MIN_FACE, toolkit.settings().min_face)),
            recognizer.embedder,
            recognizer.classifier,
            "all",
        )
        old: Watcher | None = st.session_state.get("watcher")
        if old is None:
            st.session_state["watcher"] = Watcher(Follower(recognizer, rate=RATE))
        else:  # the stream goes on with the same watcher
            with old.lock:
                old.follower.recognizer = recognizer
                for track in old.follower.tracker.tracks:
                    track.forget()
        st.session_state["watched"] = key
    return st.session_state["watcher"]


def with_nobody() -> Recognizer:
    """A recogniser that knows nobody: every face is unknown."""
    embedder = toolkit.gallery_embedder(toolkit.settings().model)
    detector = toolkit.detector(toolkit.settings().detector, toolkit.settings().min_face)
    return Recognizer(detector, embedder, of_nobody(embedder))


def capture(watcher: Watcher) -> None:
    """A form that names the face in view."""
    with st.form("capture", clear_on_submit=True, border=True):
        left, right = st.columns([3, 1], vertical_alignment="bottom")
        name = left.text_input("Capture this face as", placeholder="name")
        pressed = right.form_submit_button("Capture", width="stretch")
    if not pressed:
        return
    if not name.strip():
        st.warning("Type the name first.")
        return
    with watcher.lock:
        image, tracks = watcher.now or (np.zeros((1, 1, 3), np.uint8), [])
        unknown = [track for track in tracks if track.name is None] or tracks
        if not unknown:
            st.warning("No face is in view.")
            return
        track = max(unknown, key=lambda track: track.face.size)
        if track.name and track.name.casefold() != name.strip().casefold():
            st.warning(toolkit.plain(f"That is {track.name}. If it is not, change it on the People page."))
            return
        try:
            told = Learner(watcher.follower, toolkit.gallery(), "nearest").name(name.strip(), image, track)
        except FacerecError as error:
            told = str(error)
    st.session_state["watched"] = toolkit.state()
    (st.warning if "not added" in told else st.success)(toolkit.plain(told))
