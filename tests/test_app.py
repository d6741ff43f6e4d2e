"""The page in a real browser: Debian's Chromium, driven by Playwright, on the real networks."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import hang_up_ends, vectors

from facerec import weights
from facerec.artifacts import load_embeddings, save_embeddings
from facerec.classify import Classifier
from facerec.commands.app import is_loopback
from facerec.galleries import open_gallery
from facerec.images import find_images
from facerec.paths import GALLERY
from facerec.stages.people import forget
from facerec.stages.project import Project
from facerec.types import Gate
from facerec.video import VideoWriter

CHROMIUM = shutil.which("chromium")
BROWSER = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
PATIENCE = 60_000  # milliseconds

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


class Server:
    """`facerec app` in a folder of its own."""

    def __init__(self, folder, *words):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        command = [sys.executable, "-m", "facerec", "app", "--no-browser", "--port", str(self.port), *words]
        self.log = (folder / "log.txt").open("w+")
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=self.log, stderr=self.log, env=os.environ, preexec_fn=hang_up_ends
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.url("_stcore/health"), timeout=1)
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, self.said
                time.sleep(0.1)

    def url(self, page=""):
        return f"http://127.0.0.1:{self.port}/{page}"

    @property
    def said(self):
        return (self.folder / "log.txt").read_text()

    def stop(self, by=signal.SIGTERM):
        self.process.send_signal(by)
        code = self.process.wait(20)
        self.log.close()
        return code


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    weights.pull("mtcnn")
    weights.pull("facenet-128")
    server = Server(tmp_path_factory.mktemp("app"))
    yield server
    assert server.stop(signal.SIGHUP) == 0 and "Traceback" not in server.said, server.said


@pytest.fixture(scope="module")
def camera(tmp_path_factory, astronaut_module):
    """A film for Chromium's fake camera: the astronaut moves from side to side, as slowly as people do."""
    path = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    face = cv2.resize(astronaut_module, (480, 480), interpolation=cv2.INTER_AREA)[..., ::-1]
    with path.open("wb") as film:
        for i in range(240):
            frame = np.full((480, 640, 3), 90, np.uint8)
            left = 80 + round(60 * np.sin(i / 240 * 2 * np.pi))
            frame[:, left : left + 480] = face
            film.write(cv2.imencode(".jpg", frame)[1].tobytes())
    return path


@pytest.fixture(scope="module")
def astronaut_module():
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="module")
def browser(camera):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        arguments = [*BROWSER, f"--use-file-for-fake-video-capture={camera}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens pages for visitors of their own; nothing may leave this machine."""
    contexts, foreign = [], []

    def open_page(where="", server=server, **options):
        contexts.append(browser.new_context(permissions=["camera"], **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on(
            "request", lambda r: "127.0.0.1" in r.url or r.url.startswith(("data:", "blob:")) or foreign.append(r.url)
        )
        page.goto(server.url(where))
        page.wait_for_selector("h1, input[type=password]")
        page.wait_for_timeout(500)
        return page

    yield open_page
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=server.folder / f"last{number}.png")
        context.close()
    assert not foreign


@pytest.fixture
def nobody(server):
    for name in ("embeddings", "classifiers", "processed", "raw_images", "videos", "evaluation"):
        shutil.rmtree(server.folder / name, ignore_errors=True)


def again(page):
    """Loads it anew, and lets it settle: what is typed before that is lost."""
    page.reload()
    page.wait_for_selector("h1")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)


def upload(page, *files, number=0):
    page.locator("input[type=file]").nth(number).set_input_files([str(f) for f in files])


def add(page, name, *files):
    page.get_by_label("Name", exact=True).fill(name)
    page.keyboard.press("Tab")
    upload(page, *files)
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector(f"text={name} is added")


@pytest.fixture(scope="module")
def faces(tmp_path_factory, astronaut_module):
    """The astronaut, and two photos each of two people."""
    folder = tmp_path_factory.mktemp("faces")
    cv2.imwrite(str(folder / "astronaut.png"), astronaut_module[..., ::-1])
    for person in ("jerry_seinfeld", "madonna"):
        for number, photo in enumerate(find_images(weights.samples() / "train" / person)[:2]):
            shutil.copy(photo, folder / f"{person.split('_')[0]}{number}.jpg")
    return folder


def test_enrolled_is_recognised_and_forgotten_is_unknown(visit, server, nobody, faces):
    page = visit()
    assert "Nobody is known yet" in page.inner_text("body")
    people = visit("people")
    assert "No gallery yet" in people.inner_text("body")
    add(people, "Eileen", faces / "astronaut.png")
    again(people)
    open_form(people)
    add(people, "Jerry", faces / "jerry0.jpg")

    again(page)
    page.wait_for_selector("input[type=file]", state="attached")
    upload(page, faces / "astronaut.png", faces / "madonna0.jpg")
    page.wait_for_selector("text=Annotated pictures")
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV", exact=True).click()
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    assert [(row["image"], row["name"]) for row in rows] == [("astronaut.png", "Eileen"), ("madonna0.jpg", "")]
    assert float(rows[0]["distance"]) < 0.1 and "too far" in rows[1]["reason"]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Annotated pictures").click()
    assert saved.value.path().stat().st_size > 10_000
    assert page.locator("[data-testid=stImage] img").count() >= 2

    people.get_by_role("button", name="Change").first.click()
    people.get_by_text("Really forget").click()
    people.get_by_role("button", name="Forget", exact=True).click()
    people.wait_for_selector("text=Eileen is forgotten")
    assert load_embeddings(server.folder / "embeddings/gallery.npz").people == ["Jerry"]
    again(page)
    upload(page, faces / "astronaut.png")
    page.wait_for_selector("text=Annotated picture")
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV", exact=True).click()
    (row,) = csv.DictReader(saved.value.path().read_text().splitlines())
    assert row["name"] == "" and "too far" in row["reason"]


def test_the_form_is_empty_for_the_next_person_and_says_when_the_gallery_takes_over(visit, server, nobody, faces):
    page = visit("people")
    add(page, "Jerry", faces / "jerry0.jpg")
    trained = server.folder / "classifiers" / "nearest.npz"
    Classifier.train("nearest", load_embeddings(server.folder / "embeddings/gallery.npz"), Gate(0.9)).save(trained)
    open_form(page)
    assert page.get_by_label("Name", exact=True).input_value() == ""
    assert page.locator("[data-testid=stFileUploaderFile]").count() == 0
    try:
        add(page, "Eileen", faces / "astronaut.png")
        page.wait_for_selector("text=Names come from the gallery from now on")
    finally:
        trained.unlink()
    assert (load_embeddings(server.folder / "embeddings/gallery.npz").labels == "Eileen").sum() == 1


def test_a_page_on_a_database_knows_whom_others_enrol_and_forget(visit, tmp_path, faces, database):
    gallery = open_gallery(database)
    server = Server(tmp_path, "--gallery", database)
    try:
        page = visit("people", server)
        page.wait_for_selector("text=No gallery yet")
        add(page, "Eileen", faces / "astronaut.png")
        rows = gallery.load()
        assert rows.people == ["Eileen"] and not (tmp_path / "embeddings").exists()
        tile = page.locator("[data-testid=stImage] img").first
        tile.wait_for()
        gallery.add(replace(rows, labels=np.array(["Somebody"]), digests=np.array(["x"])))
        again(page)
        page.wait_for_selector("text=2 people, 2 photos")
        gallery.forget("Eileen")
        page = visit("", server)
        upload(page, faces / "astronaut.png")
        page.wait_for_selector("text=Annotated picture")
        page.get_by_text("The three nearest people, side by side").wait_for()
        assert "Somebody" in page.inner_text("body") and "Eileen" not in page.inner_text("body")
        gallery.forget("Somebody")
        again(page)
        page.wait_for_selector("text=Nobody is known yet")
        assert "Traceback" not in server.said
    finally:
        server.stop()


def open_form(page):
    """The first expander, which is closed once there is somebody."""
    page.wait_for_selector("[data-testid=stExpander] summary")
    page.wait_for_timeout(500)
    if page.locator("[data-testid=stExpander] details").first.get_attribute("open") is None:
        page.locator("[data-testid=stExpander] summary").first.click()


def take_photo(page):
    """Once the camera has sent some frames: the first are black."""
    page.wait_for_function("(document.querySelector('video')?.getVideoPlaybackQuality().totalVideoFrames ?? 0) > 15")
    page.get_by_role("button", name="Take photo").click()


def test_a_picture_of_the_browsers_camera_enrols_and_is_recognised(visit, server, nobody):
    people = visit("people")
    people.get_by_label("Name", exact=True).fill("Eileen")
    people.keyboard.press("Tab")
    people.get_by_role("radio", name="Camera").click()
    take_photo(people)
    people.get_by_role("button", name="Add", exact=True).click()
    people.wait_for_selector("text=Eileen is added")
    page = visit()
    page.get_by_role("radio", name="Camera").click()
    take_photo(page)
    page.wait_for_selector("text=Annotated picture")
    assert "Eileen" in page.locator("[data-testid=stMarkdown]", has_text=".jpg").last.inner_text()


def test_a_video_is_followed_and_again_when_others_are_known(visit, nobody, faces, tmp_path, astronaut_module):
    people = visit("people")
    add(people, "Jerry", faces / "jerry0.jpg")
    with VideoWriter(tmp_path / "film.mp4", 10) as film:
        for left in range(20):
            film.write(np.roll(astronaut_module, left, axis=1))
    page = visit()
    upload(page, tmp_path / "film.mp4")
    page.wait_for_selector("text=The best view of each face")
    for name in (None, "Eileen"):
        with page.expect_download() as saved:
            page.get_by_role("button", name="JSON", exact=True).last.click()
        (seen,) = json.loads(saved.value.path().read_text())
        assert seen["name"] == name and seen["end"] > 1.5
        if name is None:
            again(people)
            open_form(people)
            add(people, "Eileen", faces / "astronaut.png")
            upload(page, tmp_path / "film.mp4", faces / "jerry1.jpg")
            page.wait_for_selector("text=following the faces")
            page.wait_for_selector("text=The best view of each face")


def test_rename_merge_save_and_load(visit, server, nobody, faces):
    page = visit("people")
    add(page, "Jerry", faces / "jerry0.jpg")
    again(page)
    open_form(page)
    add(page, "Jerome", faces / "jerry1.jpg")
    page.get_by_role("button", name="Change").nth(1).click()
    page.get_by_label("Rename to").fill("Jerry S")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.wait_for_selector("text=Jerry is called Jerry S now")
    gallery = server.folder / "embeddings/gallery.npz"
    assert load_embeddings(gallery).people == ["Jerome", "Jerry S"]
    page.wait_for_selector("[data-test-script-state=notRunning]")  # a run that goes on would cancel the download
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the gallery").click()
    kept = saved.value.path()
    shutil.copy(kept, faces / "kept.npz")
    gallery.unlink()
    again(page)
    page.wait_for_selector("text=No gallery yet")
    upload(page, faces / "kept.npz", number=1)
    page.wait_for_selector("text=2 people are loaded")
    assert load_embeddings(gallery).people == ["Jerome", "Jerry S"]
    page.get_by_role("button", name="Change").first.click()
    page.get_by_label("Or: the same person as").click()
    page.get_by_role("option", name="Jerry S").click()
    page.get_by_role("button", name="Merge", exact=True).click()
    page.wait_for_selector("text=Jerome and Jerry S are one person now")
    assert load_embeddings(gallery).labels.tolist() == ["Jerry S"] * 2


def capture(page, name, expected):
    """As a user does, once more where the face was not in view just then, or blurred."""
    from playwright.sync_api import TimeoutError

    for _ in range(10):
        page.get_by_label("Capture this face as").fill(name)
        page.get_by_role("button", name="Capture").click()
        with contextlib.suppress(TimeoutError):
            page.wait_for_selector(f"text={expected}", timeout=5000)
            return
    pytest.fail(page.inner_text("body"))


def test_a_face_before_the_camera_is_captured_named_and_recognised(visit, server, nobody):
    page = visit("live")
    frame = page.frame_locator("iframe[title*=webrtc]")
    frame.get_by_role("button", name="START").click()
    page.wait_for_selector("text=frames a second")
    page.wait_for_selector("text=· unknown")
    capture(page, "Eileen", "Eileen is added")
    page.wait_for_selector("text=· Eileen")
    assert float(re.search(r"([\d.]+) frames a second", page.inner_text("body"))[1]) > 0
    assert load_embeddings(server.folder / "embeddings/gallery.npz").people == ["Eileen"]
    capture(page, "Somebody Else", "That is Eileen")
    frame.get_by_role("button", name="STOP").click()
    page.wait_for_selector("text=Press START")


def test_training_on_what_was_dropped_in(visit, server, nobody):
    page = visit("train")
    for person in sorted((weights.samples() / "train").iterdir())[:2]:
        page.get_by_label("Name", exact=True).fill(person.name)
        page.keyboard.press("Tab")
        upload(page, *find_images(person)[:6])
        page.get_by_role("button", name="Keep").click()
        page.wait_for_selector(f"text=6 files are kept for {person.name}")
        page.get_by_label("Name", exact=True).fill("somebody else")  # the files that are kept are not theirs
        page.keyboard.press("Tab")
        page.wait_for_selector("button:has-text('Keep')[disabled]")
        again(page)
    (server.folder / "videos").mkdir()
    (server.folder / "videos" / "readme.txt").write_text("no video")
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_selector("text=2 people are known")
    again(page)  # what came of it is still there, until others are known
    page.wait_for_selector("text=2 people are known")
    assert (server.folder / "classifiers/svm.npz").is_file()
    page.wait_for_selector("[data-testid=stImage] img")


def test_an_evaluation_runs_and_its_report_can_be_had(visit, server, nobody):
    for person in sorted((weights.samples() / "train").iterdir()):
        shutil.copytree(person, server.folder / "raw_images" / person.name)
    page = visit("evaluate")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    page.wait_for_selector("text=Verification of pairs")
    page.wait_for_selector("text=pairs.html")
    assert (server.folder / "evaluation/pairs.html").is_file()


def test_each_visitor_has_their_own_settings_and_pictures(visit, nobody, faces):
    first, second = visit("people"), visit("settings")
    add(first, "Jerry", faces / "jerry0.jpg")
    again(second)
    second.get_by_role("combobox").first.click()
    second.get_by_role("option", name="haar").click()
    second.wait_for_selector("text=Now named")
    other = visit("settings")
    assert "mtcnn" in other.locator("[data-baseweb=select], [data-testid=stSelectbox]").first.inner_html()
    one = visit()
    upload(one, faces / "astronaut.png")
    one.wait_for_selector("text=Annotated picture")
    assert visit().locator("[data-testid=stImage]").count() == 0


def hostile(folder):
    """Fifty files that are no pictures to recognise, or no pictures at all."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    made = {}
    for suffix in (".jpg", ".png", ".bmp", ".tiff", ".webp"):
        whole = cv2.imencode(suffix, noise)[1].tobytes()
        for share in (0.02, 0.1, 0.3, 0.5, 0.7):
            made[f"cut_{share}{suffix}"] = whole[: int(len(whole) * share)]

    def png(width, height, data=b""):
        def chunk(kind, body):
            return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

        head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")

    made |= {f"bomb_{side}.png": png(side, side, b"\0" * 10_000_000) for side in (8000, 30_000, 65_000, 2**31 - 1)}
    made |= {"no_width.png": png(0, 10), "empty.png": png(64, 64)}
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    made |= {"drawing.svg": svg, "drawing.jpg": svg, "page.html": b"<h1>hello</h1>", "page.png": b"<h1>hello</h1>"}
    made |= {
        "text.txt": b"hello",
        "text.jpg": b"hello",
        "program.exe": b"MZ" + bytes(500),
        "archive.zip": b"PK\3\4" + bytes(99),
    }
    made |= {"paper.pdf": b"%PDF-1.7\n", "arrays.npz": b"PK\5\6" + bytes(18), "pickle.jpg": b"\x80\x04\x95."}
    made |= {"nothing.jpg": b"", "huge.jpg": b"\xff\xd8\xff" + bytes(26_000_000)}
    made |= {
        "<img src=x onerror=alert(1)>.jpg": b"x",
        "**bold** [link](http:x).png": b"x",
        "Ünal 李 \u202egpj.jpg": b"x",
    }
    made |= {"a" * 200 + ".jpg": b"x", "; rm -rf ~.jpg": b"x", "%2e%2e%2fetc.jpg": b"x"}
    folder.mkdir(exist_ok=True)
    paths = []
    for name, data in made.items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths


def test_hostile_uploads_are_each_refused_with_a_reason_and_the_page_goes_on(visit, nobody, faces, tmp_path):
    first = visit("people")
    add(first, "Eileen", faces / "astronaut.png")
    files = hostile(tmp_path / "hostile")
    assert len(files) == 50
    page = visit()
    alerts = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message) or dialog.dismiss())
    upload(page, *files, faces / "astronaut.png")
    page.wait_for_selector("text=Annotated picture")
    refused = [text for text in page.locator("[data-testid=stAlert]").all_inner_texts() if "is refused:" in text]
    assert len(refused) == 50 and not alerts
    assert all(len(text.split("is refused:")[1].strip()) > 5 for text in refused)
    assert page.locator("[data-testid=stImage] img").count() >= 1


def test_a_gallery_with_paths_for_names_is_refused(visit, server, nobody, tmp_path):
    (tmp_path / "mine").mkdir()
    save_embeddings(tmp_path / "foreign.npz", vectors({"ana": 1, str(tmp_path / "mine"): 1}))
    page = visit("people")
    upload(page, tmp_path / "foreign.npz", number=1)
    page.wait_for_selector("text=is refused")
    assert not (server.folder / "embeddings").exists()


def test_a_damaged_gallery_is_said_on_the_page(visit, server, nobody):
    (server.folder / "embeddings").mkdir()
    (server.folder / "embeddings/gallery.npz").write_bytes(b"no gallery")
    for where in ("", "people", "live"):
        page = visit(where)
        page.wait_for_selector("text=embeddings/gallery.npz is damaged")


def test_others_on_the_network_need_the_token(visit, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEREC_APP_TOKEN", "")  # is none
    server = Server(tmp_path, "--address", "0.0.0.0")
    try:
        url = re.search(r"http://0\.0\.0\.0:\d+/\?token=(\S+)", server.said)
        page = visit(server=server)
        assert page.locator("h1").count() == 0
        page.get_by_label("Token", exact=True).fill("guess")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=That is not the token")
        assert uploaded(page, "input[type=password]") == 400
        page = visit(f"?token={url[1]}", server=server)
        assert page.locator("h1").inner_text() == "Who is this?" and "token" not in page.url
        page.goto(server.url(f"?token={url[1]}"))
        assert uploaded(page, "h1", f"?token={url[1]}") == 204
    finally:
        server.stop()


def uploaded(page, there, query=""):
    """The server's answer to a file of a session that the page begins now."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    sessions = []

    def received(data):
        message = ForwardMsg.FromString(data)
        if message.WhichOneof("type") == "new_session":
            sessions.append(message.new_session.initialize.session_id)

    page.on("websocket", lambda socket: socket.on("framereceived", received))
    page.goto(page.url.partition("?")[0] + query)
    page.wait_for_selector(there)
    return page.evaluate(
        """async session => {
            const body = new FormData()
            body.append("file", new Blob(["hello"]), "a.txt")
            const headers = {"X-Xsrftoken": document.cookie.match(/_streamlit_xsrf=([^;]*)/)[1]}
            return (await fetch(`/_stcore/upload_file/${session}/1`, {method: "PUT", headers, body})).status
        }""",
        sessions[-1],
    )


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 101), ("localhost", 101), ("evil.example", 403)])
def test_a_name_that_is_made_to_point_here_does_not_get_in(server, host, status):
    """DNS rebinding: to the browser such a page has the same origin."""
    request = (
        f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}:{server.port}\r\nOrigin: http://{host}:{server.port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as visitor:
        visitor.sendall(request.encode())
        assert visitor.recv(64).split()[1] == str(status).encode()


def test_a_port_that_is_taken_or_none_is_said_before_anything_starts(in_tmp, run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = run("app", "--no-browser", "--port", taken.getsockname()[1])
    assert answer.code == 1 and "choose another --port" in answer.err and "http://" not in answer.err
    assert run("app", "--port", 99999).code == 2


@pytest.mark.parametrize("name", ["", "live", "people", "train", "evaluate", "settings"])
def test_every_page_fits(visit, tmp_path, name):
    page = visit(name)
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        ground = "getComputedStyle(document.querySelector('.stApp')).backgroundColor.match(/\\d+/g)"
        page.wait_for_function(f"{ground}.slice(0, 3).every(v => v < 80) === {str(scheme == 'dark').lower()}")
        page.wait_for_timeout(300)
        page.screenshot(path=tmp_path / f"{scheme}-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_classifier_that_was_written_again_is_read_again(in_tmp):
    """Also where its date stays, as when somebody is forgotten."""
    from facerec.app import toolkit
    from facerec.classify import Classifier

    path = in_tmp / "classifiers" / "nearest.npz"
    Classifier.train("nearest", vectors({"ana": 2, "ben": 2, "cleo": 2}), Gate(0.5)).save(path)
    save_embeddings(in_tmp / "embeddings" / "faces.npz", vectors({"ana": 2, "ben": 2, "cleo": 2}))
    before, there = toolkit._changed(path), path.stat().st_mtime_ns
    forget(Project(in_tmp, GALLERY), "ana", really=True)
    assert path.stat().st_mtime_ns == there and toolkit._changed(path) != before


def apart(script):
    """In a process of its own: Streamlit's tester takes __main__ away, WebRTC's libraries bear few others."""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_change_of_a_setting_counts(in_tmp):
    apart("""
from streamlit.testing.v1 import AppTest

page = AppTest.from_string("from facerec.app import settings; settings.page()", default_timeout=60).run()
for size in (40, 60, 80, 120, 20):
    page.select_slider[0].set_value(size).run()
    assert page.session_state["settings"].min_face == size
page.session_state["setting strangers"] = 17  # of a model that was measured at other rates
page.run()
assert not page.exception and page.session_state["settings"].strangers is None
for detector in ("haar", "mtcnn", "haar"):
    page.selectbox[0].set_value(detector).run()
    assert page.session_state["settings"].detector == detector
""")


def test_a_camera_that_has_stopped_shows_nobody():
    apart("""
import time, numpy as np
from facerec.app.live import STILL, Watcher

watcher = Watcher(None, shown=(np.zeros((9, 9, 3), np.uint8), []))
watcher.times.append(time.monotonic())
assert watcher.now is not None
watcher.times[-1] -= STILL + 0.1
assert watcher.now is None and watcher.in_view == []
""")


def test_the_page_names_by_what_the_gallery_was_calibrated_to(in_tmp):
    from facerec.app import toolkit

    gate = Gate(0.5, 0.1, 1e-3, source="calibrated")
    save_embeddings(GALLERY, replace(vectors({"ana": 2, "ben": 2}), gate=gate))
    assert toolkit.names_path() == GALLERY
    assert toolkit._names(GALLERY, GALLERY.stat().st_mtime_ns).gate == gate
    space = load_embeddings(GALLERY).space
    assert toolkit.gate_for(gate, space, toolkit.Settings()) == gate
    few, many = (toolkit.gate_for(gate, space, toolkit.Settings(strangers=n)) for n in (2, 80))
    assert few.margin > many.margin and "FPIR 0.002" in few.source


@pytest.mark.parametrize(
    ("address", "mine"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("host", False)]
)
def test_only_loopback_needs_no_token(address, mine):
    assert is_loopback(address) is mine
