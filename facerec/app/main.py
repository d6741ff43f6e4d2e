"""The script that Streamlit runs for each visitor: the token, then the page that was chosen."""

from __future__ import annotations

import hmac
import os

import streamlit as st
from PIL import Image as Pillow
from PIL import ImageDraw
from streamlit.runtime.scriptrunner import get_script_run_ctx

from facerec.app import ADMITTED, TOKEN, evaluate, live, people, recognise, settings, train
from facerec.app.toolkit import plain
from facerec.errors import FacerecError

_STYLE = """
<style>
[data-testid="stMainBlockContainer"] { max-width: 64rem; padding-top: 3rem }
[data-testid="stImage"] img { border-radius: .5rem }
@media (max-width: 640px) { [data-testid="stMainBlockContainer"] { padding: 3rem 1rem 4rem } }
</style>
"""


def let_in() -> None:
    """Stops the script where a token is needed and the visitor has not given it."""
    token = os.environ.get(TOKEN)
    if not token or st.session_state.get("let in"):
        return
    given = str(st.query_params.get("token", ""))
    if not given:
        given = st.text_input("Token", type="password", help="`facerec app` printed it when it started") or ""
    if hmac.compare_digest(given.encode(), token.encode()):
        st.session_state["let in"] = True
        if context := get_script_run_ctx():
            ADMITTED.add(context.session_id)
        if "token" in st.query_params:
            del st.query_params["token"]
        st.rerun()
    if given:
        st.error("That is not the token.")
    st.stop()


def icon() -> Pillow.Image:
    """A face in a frame; drawn here, since Streamlit would fetch its own icons from the web."""
    picture = Pillow.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(picture)
    for x, y, start in ((4, 4, 180), (28, 4, 270), (28, 28, 0), (4, 28, 90)):
        pen.arc((x, y, x + 32, y + 32), start, start + 90, "#00a050", 6)
    pen.ellipse((20, 16, 44, 48), fill="#00c850")
    return picture


st.set_page_config("facerec", page_icon=icon(), layout="wide")
st.html(_STYLE)
let_in()
page = st.navigation(
    [
        st.Page(recognise.page, title="Recognise", icon=":material/frame_person:", default=True),
        st.Page(live.page, title="Live", icon=":material/videocam:", url_path="live"),
        st.Page(people.page, title="People", icon=":material/group:", url_path="people"),
        st.Page(train.page, title="Train", icon=":material/model_training:", url_path="train"),
        st.Page(evaluate.page, title="Evaluate", icon=":material/analytics:", url_path="evaluate"),
        st.Page(settings.page, title="Settings", icon=":material/tune:", url_path="settings"),
    ],
    position="top",
)
try:
    page.run()
except (FacerecError, OSError) as error:  # a file that was damaged or taken away
    st.error(plain(str(error)))
