"""The whole pipeline on real photographs, as people run it: one process a command."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import hang_up_ends, tree, video

from facerec.images import find_images, read_image
from facerec.video import Video

pytestmark = pytest.mark.real


def facerec(folder, *words, code=0):
    """Runs a command in `folder`."""
    command = [sys.executable, "-m", "facerec", *map(str, words)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def project(tmp_path_factory, samples):
    """The sample photographs, taken through all stages."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(samples, folder / "raw_images")
    facerec(folder, "detect", code=3)  # on one photograph no face is found
    facerec(folder, "embed")
    for kind in ("--knn", "--nearest", "--svm"):
        facerec(folder, "train", kind)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory, samples):
    """Two photographs of one person, each shown for a second while it drifts, 20 frames a second."""
    frames = []
    for path in find_images(samples / "val" / "jerry_seinfeld")[:2]:
        image = cv2.resize(read_image(path), (340, 400), interpolation=cv2.INTER_AREA)
        frames += [np.roll(image, 2 * i, axis=1) for i in range(20)]
    return video(tmp_path_factory.mktemp("clip") / "jerry_seinfeld.mp4", frames, fps=20)


def right_answers(folder, *options):
    lines = facerec(folder, "predict", "raw_images/val", "--faces", "largest", "--json", *options).stdout
    answers = [json.loads(line) for line in lines.splitlines()]
    assert len(answers) == 25
    return sum(bool(a["faces"]) and a["faces"][0]["name"] == a["image"].split("/")[2] for a in answers)


@pytest.mark.parametrize(("kind", "least"), [("svm", 24), ("knn", 23), ("nearest", 23)])
def test_people_are_recognised_on_photographs_that_were_not_trained_on(project, kind, least):
    assert right_answers(project, "--classifier", f"classifiers/{kind}.npz") >= least
    report = json.loads((project / "classifiers" / f"{kind}.report.json").read_text())
    assert report["test"]["total"] == 25 and report["test"]["right"] >= least and report["train"]["total"] == 93


def test_the_classifier_trained_last_is_the_default(project):
    result = facerec(project, "-v", "predict", "raw_images/val/madonna")
    assert "classifiers/svm.npz: svm, 5 people" in result.stderr
    assert re.search(r"facerec: embedder facenet, facenet-128@6acdd8fb.*onnxruntime.*ncnn", result.stderr)
    assert "facerec: detector mtcnn, faces from 20 pixels" in result.stderr


def test_strangers_are_unknown(project, tmp_path, astronaut):
    from PIL import Image

    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    (line,) = facerec(project, "predict", tmp_path / "astronaut.png", "--json").stdout.splitlines()
    (face,) = json.loads(line)["faces"]
    assert face["name"] is None and face["distance"] > 0.8 and "too far from everyone" in face["reason"]


def test_a_second_run_does_no_work(project):
    before = tree(project)
    assert "0 done, 117 already done, 1 failed" in facerec(project, "detect", code=3).stdout
    assert re.search(r"embed: 0 done, \d+ already done", facerec(project, "embed").stdout)
    facerec(project, "train", "--svm")
    assert tree(project) == before


@pytest.mark.parametrize(
    "words", [["predict", "raw_images/val/madonna"], ["embed"], ["train"], ["detect"]], ids=lambda w: w[0]
)
def test_no_command_imports_tensorflow(project, words):
    code = f"""
import sys
from facerec.cli import main
assert main({words!r}) in (0, 3)
print([m for m in ("tensorflow", "keras", "mtcnn", "keras_facenet") if m in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


# facerec detect with a pause after each photo: there is time to hit it in the middle.
SLOW_DETECT = [
    sys.executable,
    "-c",
    """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits "ignore"
from facerec import cli
from facerec.commands import common
common.bar = lambda items, total, title: (item for item in items if time.sleep(0.05) is None)
sys.argv = ["facerec", "detect"]
cli.entry()
""",
]


def test_detect_killed_and_run_again_equals_undisturbed(project, tmp_path):
    shutil.copytree(project / "raw_images", tmp_path / "raw_images")
    for _ in range(2):  # killed twice, at different places
        manifest = tmp_path / "processed" / "manifest.jsonl"
        already = len(manifest.read_text().splitlines()) if manifest.exists() else 0
        process = subprocess.Popen(
            SLOW_DETECT,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if manifest.exists() and len(manifest.read_bytes().splitlines()) >= already + 20:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait() == -signal.SIGKILL
    report = json.loads(facerec(tmp_path, "detect", "--json", code=3).stdout)
    assert report["skipped"] >= 38 and report["done"] + report["skipped"] + len(report["failed"]) == 118
    assert tree(tmp_path / "processed") == tree(project / "processed")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_is_130_and_run_again_goes_on(project, tmp_path, name):
    shutil.copytree(project / "raw_images", tmp_path / "raw_images")
    process = subprocess.Popen(SLOW_DETECT, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    manifest = tmp_path / "processed" / "manifest.jsonl"
    while process.poll() is None and not (manifest.exists() and manifest.stat().st_size):
        time.sleep(0.005)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate()
    assert process.returncode == 130 and "run the same command again to go on" in err and "Traceback" not in err
    facerec(tmp_path, "detect", code=3)
    assert tree(tmp_path / "processed") == tree(project / "processed")


def test_from_videos_to_names(tmp_path, samples):
    for name in ("jerry_seinfeld", "madonna"):
        frames = []
        for path in find_images(samples / "train" / name)[:12]:
            frames += [cv2.resize(read_image(path), (340, 400), interpolation=cv2.INTER_AREA)] * 10
        video(tmp_path / "videos" / f"{name}.mp4", frames, fps=20)
    assert "2 done" in facerec(tmp_path, "extract", "videos", "--count", "12").stdout
    assert {p.name: len(list(p.iterdir())) for p in (tmp_path / "raw_images").iterdir() if p.is_dir()} == {
        "jerry_seinfeld": 12,
        "madonna": 12,
    }
    for words in (["detect"], ["embed"], ["train"], ["show", "--count", "6"]):
        facerec(tmp_path, *words)
    shutil.copytree(samples / "val" / "madonna", tmp_path / "album")
    lines = facerec(tmp_path, "predict", "album", "--faces", "largest", "--json").stdout.splitlines()
    assert sum(json.loads(line)["faces"][0]["name"] == "madonna" for line in lines) >= len(lines) - 1
    before = tree(tmp_path)
    for words in (["extract", "videos", "--count", "12"], ["detect"], ["embed"]):
        assert " 0 done" in facerec(tmp_path, *words).stdout
    assert tree(tmp_path) == before


def test_live_follows_and_names_faces_and_writes_the_video(project, clip, tmp_path):
    result = facerec(project, "live", clip, "--headless", "--output", tmp_path / "named.mp4", "--json")
    *events, summary = (json.loads(line) for line in result.stdout.splitlines())
    assert summary["event"] == "summary" and summary["frames"] == 40
    assert {"unique_fps", "latency_ms", "faces", "tracks", "seconds"} <= summary.keys()
    assert {e["name"] for e in events if e["event"] == "named"} >= {"jerry_seinfeld"}
    assert summary["names"]["jerry_seinfeld"] >= 30
    assert sum(e["event"] == "appeared" for e in events) == sum(e["event"] == "left" for e in events)
    with Video(tmp_path / "named.mp4") as written:
        assert written.fps == pytest.approx(20) and len(list(written.frames())) == 40


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_recording_outlives_the_end_of_its_service_or_terminal(project, clip, tmp_path, name):
    words = ["live", clip, "--headless", "--realtime", "--output", tmp_path / "named.mp4", "--json"]
    command = [sys.executable, "-m", "facerec", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=project, preexec_fn=hang_up_ends, **pipes)
    assert json.loads(process.stdout.readline())["event"] == "appeared"
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    frames = json.loads(out.splitlines()[-1])["frames"]
    assert process.returncode == 130 and "Traceback" not in err and 0 < frames < 40
    assert [path.name for path in tmp_path.iterdir()] == ["named.mp4"]
    with Video(tmp_path / "named.mp4") as written:
        assert len(list(written.frames())) in (frames - 1, frames)  # the signal may come between looking and writing


def test_a_crowd_is_found_in_the_research_photo(detector, shared_data):
    assert len(detector.detect(read_image(shared_data / "photos" / "multiface.jpg"))) == 6


@pytest.mark.skipif(not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool")
def test_live_in_a_window_ends_with_q(project, clip):
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with contextlib.ExitStack() as stack:
        stack.callback(server.wait)
        stack.callback(server.terminate)
        with os.fdopen(read) as answer:
            screen = {**os.environ, "DISPLAY": f":{answer.readline().strip()}"}
        long = video(clip.with_name("long.mp4"), [read_image_of(clip)] * 3000, fps=20)
        process = subprocess.Popen(
            [sys.executable, "-m", "facerec", "live", str(long), "--json"],
            cwd=project, env=screen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(process.kill)
        search = ["xdotool", "search", "--sync", "--name", "facerec live"]
        found = subprocess.run(search, env=screen, capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(process.stdout.readline())["event"] == "appeared"
        press = ["xdotool", "windowfocus", found.stdout.split()[0], "key"]

        def until(key, done):
            while not done():  # a key that comes while the window is made is lost
                subprocess.run([*press, key], env=screen, capture_output=True, timeout=60)
                time.sleep(0.3)

        until("space", lambda: list(project.glob("snapshots/*.jpg")))
        until("r", lambda: list(project.glob("snapshots/.facerec-tmp-*.mp4")))
        until("q", lambda: process.poll() is not None)  # ends the recording, too
        out, err = process.communicate(timeout=60)
        summary = json.loads(out.splitlines()[-1])
        assert process.returncode == 0, err
        assert summary["event"] == "summary" and 0 < summary["frames"] < 3000
        (snapshot,), (recording,) = (sorted(project.glob(f"snapshots/*{suffix}"))[:1] for suffix in (".jpg", ".mp4"))
        assert read_image(snapshot).shape == read_image_of(clip).shape
        with Video(recording) as film:
            assert film.read(0) is not None


def read_image_of(clip):
    """The first frame of a video."""
    with Video(clip) as film:
        return film.read(0).image
