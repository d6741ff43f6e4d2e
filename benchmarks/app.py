"""The page in Chromium: how soon the first picture is recognised, the live camera's rate, eight visitors at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2

from benchmarks.common import ENVIRONMENT, FACEREC, MissingDataError, Section, data, facerec, installed
from facerec.images import find_images
from facerec.video import Video

PORT = 8613
VISITORS, SECONDS = 8, 120
WAIT = 60_000  # milliseconds
LIVE = 20  # seconds


def serve(folder: Path) -> subprocess.Popen[bytes]:
    """The page on a project, once it answers."""
    command = [*FACEREC, "app", "--no-browser", "--port", str(PORT)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=quiet, stderr=quiet)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=1)
            return process
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the page does not answer")


def camera(temp: Path) -> Path:
    """The crowd at 640×480 for Chromium's fake camera."""
    path = temp / "camera.mjpeg"
    with path.open("wb") as film, Video(data("live") / "people.mp4") as video:
        for frame in video.frames():
            middle = frame.image[:, 240:-240]  # of 1920×1080
            small = cv2.resize(middle, (640, 480), interpolation=cv2.INTER_AREA)
            film.write(cv2.imencode(".jpg", small[..., ::-1])[1].tobytes())
    return path


def first(browser: Any, folder: Path, photo: Path) -> float:
    """Seconds from opening the page to the first recognised picture, of a server that was just started."""
    server = serve(folder)
    page = browser.new_page()
    start = time.perf_counter()
    page.goto(f"http://127.0.0.1:{PORT}")
    page.locator("input[type=file]").set_input_files(str(photo))
    page.wait_for_selector("text=Annotated picture", timeout=WAIT)
    taken = time.perf_counter() - start
    page.close()
    server.terminate()
    server.wait()
    return taken


def live(browser: Any) -> list[float]:
    """The rates that the live page shows, a second apart."""
    page = browser.new_context(permissions=["camera"]).new_page()
    page.goto(f"http://127.0.0.1:{PORT}/live")
    page.frame_locator("iframe[title*=webrtc]").get_by_role("button", name="START").click(timeout=WAIT)
    page.wait_for_selector("text=frames a second", timeout=WAIT)
    page.wait_for_timeout(5000)
    rates = []
    for _ in range(LIVE):
        page.wait_for_timeout(1000)
        rates.append(float(re.findall(r"([\d.]+) frames a second", page.inner_text("body"))[0]))
    page.context.close()
    return rates


def visitors(browser: Any, process: subprocess.Popen[bytes], photos: dict[str, list[Path]]) -> dict[str, Any]:
    """Visitors who upload photos of people of their own, all at once, again and again."""
    pages = [browser.new_context().new_page() for _ in range(VISITORS)]
    people = sorted(photos)
    shares = [people[i::VISITORS] for i in range(VISITORS)]
    for page in pages:
        page.goto(f"http://127.0.0.1:{PORT}")
    uploads = errors = mixed = rounds = 0
    memory: list[tuple[float, float]] = []
    start = time.monotonic()
    while (passed := time.monotonic() - start) < SECONDS:
        sent = []
        for page, mine in zip(pages, shares, strict=True):
            name = mine[rounds % len(mine)]
            photo = photos[name][rounds // len(mine) % len(photos[name])]
            if rounds:  # the picture before: a chooser for several adds to what is there
                page.get_by_test_id("stFileChipDeleteBtn").get_by_role("button").click()
                page.wait_for_selector("text=Annotated picture", state="detached", timeout=WAIT)
                page.wait_for_selector("[data-test-script-state=notRunning]", timeout=WAIT)
            page.locator("input[type=file]").set_input_files(str(photo))
            sent.append(photo)
        for page, photo in zip(pages, sent, strict=True):
            uploads += 1
            try:
                page.wait_for_selector(f"text={photo.name}: ", timeout=WAIT)
            except Exception:
                errors += 1
                continue
            body = page.inner_text("body")
            errors += "Traceback" in body or "Error" in body
            shown = set(re.findall(r"(\w+\.jpg): ", body))
            others = {
                p.name for other, paths in photos.items() if other not in shares[pages.index(page)] for p in paths
            }
            mixed += bool(shown & others)
        rounds += 1
        pages_used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        memory.append((passed, pages_used * os.sysconf("SC_PAGE_SIZE") / 1e6))
    for page in pages:
        page.context.close()
    half = [mb for t, mb in memory if t >= SECONDS / 2]
    quarter = [mb for t, mb in memory if SECONDS / 4 <= t < SECONDS / 2]
    return {
        "uploads": uploads,
        "errors": errors,
        "mixed": mixed,
        "first": sum(quarter) / len(quarter),
        "last": sum(half[-5:]) / len(half[-5:]),
    }


def main(section: Section) -> None:
    """All figures."""
    chromium = shutil.which("chromium")
    if chromium is None or not installed("playwright") or not installed("streamlit"):
        raise MissingDataError("needs Debian's chromium, and playwright and streamlit (facerec[dev])")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        temp = Path(name)
        everybody = [p for p in sorted(data("lfw-dev").iterdir()) if len(find_images(p)) >= 3][: 3 * VISITORS]
        for person in everybody:
            facerec("enroll", person.name, str(find_images(person)[0]), "--force", cwd=temp)
        photos = {p.name: find_images(p)[1:4] for p in everybody}
        arguments = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        arguments.append(f"--use-file-for-fake-video-capture={camera(temp)}")
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        openings = [first(browser, temp, photos[everybody[0].name][0]) for _ in range(3)]
        server = serve(temp)
        rates = live(browser)
        crowd = visitors(browser, server, photos)
        server.terminate()
        server.wait()
        browser.close()
    section.table(
        f"`facerec app`, {len(everybody)} people enrolled, browser and server on the same cores",
        {"what": "{}", "minimum": "{:.1f}", "median": "{:.1f}"},
        [
            [
                "from opening the page to the first picture recognised, server just started, s",
                min(openings),
                sorted(openings)[1],
            ],
            [
                "live page, Chromium's fake camera (the crowd at 640×480), frames a second",
                min(rates),
                sorted(rates)[LIVE // 2],
            ],
        ],
    )
    section.table(
        f"{VISITORS} visitors at once who upload photos for {SECONDS} s",
        {
            "uploads": "{}",
            "errors": "{}",
            "another visitor's picture shown": "{}",
            "server's memory from 30 to 60 s, MB": "{:.0f}",
            "at the end": "{:.0f}",
        },
        [list(crowd.values())],
    )
