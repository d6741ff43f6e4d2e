"""The command line: help, exit codes, messages, JSON, and what it does not import."""

import csv
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import COLOURS, STRANGER, photo, photos, save, tree, video

from facerec import __version__
from facerec.artifacts import load_embeddings, save_embeddings
from facerec.cli import COMMANDS
from facerec.errors import FacerecError, InputError, UsageError
from facerec.types import Failure

ROOT = Path(__file__).parents[1]
ERROR = re.compile(r"^facerec: error: .+ — .+$", re.M)


@pytest.fixture
def project(in_tmp, fakes, run):
    """A folder in which everything up to training has been done, with the fakes."""
    photos(in_tmp / "raw_images", {"ana": 8, "ben": 8, "cleo": 8})
    for words in (["detect"], ["embed"], ["train", "--threshold", "0.4"]):
        assert run(*words).code == 0
    save(in_tmp / "group.png", photo(5, [COLOURS["ben"], STRANGER, COLOURS["ana"]]))
    return in_tmp


# --- help and start-up ---------------------------------------------------------------------------


def test_help_lists_every_command(run):
    result = run("--help")
    assert result.code == 0
    for name, module in COMMANDS.items():
        assert re.search(rf"^    {name} ", result.out, re.M) and module.HELP[:30] in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples_that_parse(run, command):
    from facerec.cli import make_parser

    result = run(command, "--help")
    assert result.code == 0 and "examples:" in result.out
    examples = re.findall(r"^facerec (.+?)(?:  .*)?$", COMMANDS[command].EXAMPLES, re.M)
    assert examples
    for example in examples:
        assert make_parser().parse_args(shlex.split(example)).command == command


def test_version(run):
    assert run("--version").out.strip() == f"facerec {__version__}"


HEAVY = ["numpy", "cv2", "tensorflow", "keras", "sklearn", "onnxruntime", "matplotlib", "scipy", "PIL", "psycopg"]


def test_importing_the_command_line_imports_nothing_heavy():
    code = f"import sys, facerec.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", [n for n in COMMANDS if (ROOT / "scripts" / f"{n}.py").exists()])
def test_scripts_are_thin_and_take_the_same_options(name):
    script = ROOT / "scripts" / f"{name}.py"
    text = script.read_text()
    assert len(text.splitlines()) <= 15 and "argparse" not in text and "add_argument" not in text
    by_script, by_command = (
        subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True)
        for words in ([script], ["-m", "facerec", name])
    )
    assert by_script.returncode == by_command.returncode == 0
    options = [re.findall(r"--[a-z-]+", run.stdout) for run in (by_script, by_command)]
    assert options[0] == options[1] != []


def test_there_is_a_script_for_every_stage():
    assert {"extract", "detect", "embed", "train", "predict", "live"} <= {
        p.stem for p in (ROOT / "scripts").glob("*.py")
    }


# --- exit codes and messages ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["detect", "--nonsense"],
        ["train", "--svm", "--knn"],
        ["predict"],
        ["predict", "gone.jpg"],
        ["explain", "gone.jpg"],
        ["verify", "gone.jpg", "gone.jpg"],
        ["predict", "a.jpg", "--sample"],
        ["predict", "--batch", "0"],
        ["extract", "gone/"],
        ["extract"],
        ["detect"],
        ["detect", "a/", "b/"],
        ["embed"],
        ["show"],
        ["show", "--count", "0"],
        ["live"],
        ["live", "a.mp4", "--camera", "0"],
        ["live", "a.mp4", "--output", "a.avi"],
        ["evaluate", "pairs", "a", "--seed", "-1"],
        ["evaluate", "pairs", "a", "--margin", "nan"],
        ["evaluate", "compare", "a", "margin=nan"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_2(in_tmp, run, words):
    (in_tmp / "a").mkdir()
    result = run(*words)
    assert result.code == 2 and result.out == ""
    assert ERROR.search(result.err) or result.err.startswith("usage: facerec")
    assert "Traceback" not in result.err
    assert [p.name for p in in_tmp.iterdir()] == ["a"]  # and nothing was written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-size", "1"], "--test-size"),
        (["--margin", "2"], "--margin"),
        (["--min-face", "3"], "--min-face"),
        (["--min-confidence", "7"], "--min-confidence"),
    ],
)
def test_numbers_out_of_range_are_2(in_tmp, run, options, message):
    photos(in_tmp / "raw_images", {"ana": 1})
    result = run("detect", "--detector", "haar", *options)
    assert result.code == 2 and message in result.err and not (in_tmp / "processed").exists()


@pytest.mark.parametrize(
    "words",
    [["train"], ["predict", "a.png"], ["live", "a.mp4", "--headless"], ["predict", "--sample"]],
    ids=" ".join,
)
def test_errors_are_1_and_say_what_to_do(in_tmp, run, words):
    save(in_tmp / "a.png", photo(1))
    video(in_tmp / "a.mp4", [photo(1)])
    result = run(*words)
    assert result.code == 1 and result.out == "" and ERROR.search(result.err) and "`facerec" in result.err


@pytest.mark.parametrize("words", [["embed", "raw_images"], ["detect", "processed", "--output", "again"]], ids=" ".join)
def test_the_wrong_folder_is_an_error_without_a_traceback(project, run, words):
    video(project / "v" / "ana.mp4", [photo(i, [COLOURS["ana"]]) for i in range(5)])
    run("extract", "v")
    assert run(*words).code in (0, 1, 2)


def test_some_failed_is_3_and_all_done_is_0(in_tmp, fakes, run):
    photos(in_tmp / "raw_images", {"ana": 3})
    assert run("detect").code == 0
    save(in_tmp / "raw_images" / "ana" / "wall.png", photo(1))
    for _ in range(2):
        result = run("detect")
        assert result.code == 3
        assert "failed: raw_images/ana/wall.png: no face found" in result.err and "1 failed" in result.out
    assert run("detect", "--strict", "--force").code == 1


def test_interrupted_is_130_without_a_traceback(in_tmp, run, monkeypatch):
    from conftest import FakeDetector

    monkeypatch.setattr("facerec.detectors.load_detector", lambda *_, **__: FakeDetector(interrupt_after=2))
    photos(in_tmp / "raw_images", {"ana": 5})
    result = run("detect", "--jobs", "1")
    assert result.code == 130 and result.err.strip().startswith("facerec: interrupted; run the same command again")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FacerecError("it broke", "mend it"), 1, "facerec: error: it broke — mend it"),
        (UsageError("not so", "but so"), 2, "facerec: error: not so — but so"),
        (InputError("bad file", "copy it"), 1, "facerec: error: bad file — copy it"),
        (
            OSError(28, "No space left on device", "x.npz"),
            1,
            "facerec: error: x.npz: No space left on device — check",
        ),
    ],
)
def test_errors_become_messages_unless_debugging(run, monkeypatch, error, code, message):
    def fail(_):
        raise error

    monkeypatch.setattr(COMMANDS["show"], "run", fail)
    result = run("show")
    assert result.code == code and result.err.startswith(message)
    monkeypatch.setenv("FACEREC_DEBUG", "0")
    assert run("show").code == code
    monkeypatch.setenv("FACEREC_DEBUG", "1")
    with pytest.raises(type(error)):
        run("show")


def test_a_reader_that_goes_away_is_no_error():
    command = f"PYTHONUNBUFFERED= {sys.executable} -m facerec models list | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.strip() == "0" and "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr


def test_a_command_that_a_lost_reader_stops_says_so():
    """One that still prints: its work is not done."""
    code = """if True:
        from facerec import cli
        cli.COMMANDS["models"].run = lambda args: [print("named", flush=True) for _ in range(100_000)]
        cli.entry()
    """
    for errors in ("", "2>&1"):
        command = f"{sys.executable} -c '{code}' models list {errors} | true; echo ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert result.stdout.strip() == "141" and ("stopped before the end" in result.stderr) == (errors == "")
        assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's /dev/full stands for a full disk")
def test_output_to_a_full_disk_is_an_error():
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([sys.executable, "-m", "facerec", "models", "list"], stdout=full, stderr=-1, text=True)
    assert result.returncode == 1 and "No space left on device" in result.stderr and "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


# --- what is written and printed -----------------------------------------------------------------


def test_everything_is_for_its_owner_only(project, run):
    video(project / "v" / "dora.mp4", [photo(i, [COLOURS["dora"]]) for i in range(5)])
    assert run("extract", "v", "--output", "raw2").code == 0
    assert run("predict", "group.png", "--output", "named").code == 0
    assert run("show").code == 0
    assert run("live", "v/dora.mp4", "--headless", "--output", "out/live.mp4").code == 0
    for top in ("raw2", "processed", "embeddings", "classifiers", "named", "contact_sheets", "out"):
        for path in [project / top, *(project / top).rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_second_run_does_nothing(project, run):
    before = tree(project)
    assert "0 done, 24 already done" in run("detect").out and "0 done, 24 already done" in run("embed").out
    assert run("train", "--threshold", "0.4").code == 0
    assert tree(project) == before


@pytest.mark.parametrize("command", ["extract", "detect", "embed", "train"])
def test_json_reports_parse(project, run, command):
    video(project / "v" / "dora.mp4", [photo(i, [COLOURS["dora"]]) for i in range(5)])
    result = run(command, *(["v"] if command == "extract" else []), "--json")
    data = json.loads(result.out)
    assert data["stage"] == command and data["failed"] == [] and data["done"] + data["skipped"] > 0
    if command == "train":
        assert data["test"]["accuracy"] == 1 and data["train"]["total"] == 18


def test_predict_prints_names_json_and_csv(project, run):
    save(project / "wall.png", photo(1))
    (project / "bad.jpg").write_text("no picture")
    images = ["group.png", "wall.png", "bad.jpg"]
    text = run("predict", *images)
    assert (
        text.code == 3 and "group.png: 3 faces" in text.out and re.search(r"^  ana, .*distance 0\.\d\d", text.out, re.M)
    )
    assert re.search(r"^  unknown, .*: too far from everyone", text.out, re.M) and "wall.png: 0 faces" in text.out
    lines = [json.loads(line) for line in run("predict", *images, "--json").out.splitlines()]
    assert [line["image"] for line in lines] == images and lines[2]["error"] and not lines[0]["error"]
    found = {f["name"]: f for f in lines[0]["faces"]}
    assert set(found) == {"ana", "ben", None} and 0 <= found["ana"]["probability"] <= 1
    assert len(found["ana"]["box"]) == 4 and found[None]["reason"] and not found["ana"]["reason"]
    rows = list(csv.DictReader(run("predict", *images, "--csv").out.splitlines()))
    assert [r["image"] for r in rows] == ["group.png"] * 3 + ["wall.png", "bad.jpg"]
    assert {r["name"] for r in rows[:3]} == {"ana", "ben", ""} and rows[4]["error"] and float(rows[0]["x"]) >= 0


def test_predict_on_the_test_set_tells_the_truth(project, run):
    lines = [json.loads(line) for line in run("predict", "--batch", "99", "--json").out.splitlines()]
    assert len(lines) == 6 and all(line["right"] and line["name"] == line["truth"] for line in lines)
    one, again = (run("predict", "--sample", "--seed", "3").out for _ in range(2))
    assert one == again and one.startswith("right: ") and "1 of 1 right" in one
    assert "0 of 6 right" in run("predict", "--batch", "6", "--threshold", "0").out
    assert "cosine distance" in run("predict", "--batch", "6", "--metric", "cosine").out
    embeddings = Path("embeddings/faces.npz")
    failures = (Failure("raw_images/ana/wall.png", "no face", "ana", "test"),)
    save_embeddings(Path("lossy.npz"), replace(load_embeddings(embeddings), failures=failures))
    lossy = run("predict", "--batch", "99", "--embeddings", "lossy.npz").out
    assert "WRONG: no face (truth ana), raw_images/ana/wall.png" in lossy and "6 of 7 right = 0.857" in lossy
    assert (
        run("predict", "--batch", "6", "--output", "named").code == 0
        and (project / "named" / "test_faces.png").exists()
    )


def test_the_newest_classifier_is_used_and_never_an_unfinished_one(project, run):
    run("train", "--nearest", "--threshold", "0.0001")
    os.utime("classifiers/nearest.npz", (4e9, 4e9))
    assert "\n  ana, " not in run("predict", "group.png").out
    assert "\n  ana, " in run("predict", "group.png", "--classifier", "classifiers/svm.npz").out
    assert "\n  ana, " in run("predict", "group.png", "--threshold", "0.4").out
    (project / "classifiers" / ".facerec-tmp-abc.npz").write_bytes(b"half")  # of a run that was killed
    os.utime("classifiers/.facerec-tmp-abc.npz", (4.1e9, 4.1e9))
    assert run("predict", "group.png").code == 0


def test_detect_prints_the_faces_of_images_and_writes_nothing(project, run):
    before = tree(project)
    (line,) = run("detect", "group.png", "--json").out.splitlines()
    data = json.loads(line)
    assert data["image"] == "group.png" and len(data["faces"]) == 3 and data["faces"][0]["keypoints"]
    assert "group.png: 3 faces" in run("detect", "group.png").out
    assert "group.png: 1 face\n" in run("detect", "group.png", "--faces", "largest").out
    assert tree(project) == before
    (project / "bad.jpg").write_text("no picture")
    result = run("detect", "group.png", "bad.jpg", "--json")
    assert result.code == 3 and "not a picture" in json.loads(result.out.splitlines()[1])["error"]
    assert run("detect", "group.png", "gone.png").code in (2, 3)


def test_show_writes_contact_sheets(project, run):
    result = run("show", "--count", "3", "--seed", "1")
    assert result.code == 0 and result.out.split() == [
        "contact_sheets/raw.png",
        "contact_sheets/processed.png",
    ]
    assert all(Path(p).stat().st_size > 1000 for p in result.out.split())
    (project / "raw_images/ana/bad.jpg").write_text("no picture")
    result = run("show", "--count", "99", "--json")
    told = json.loads(result.out)
    assert result.code == 3 and "failed: raw_images/ana/bad.jpg: not a picture" in result.err
    assert told["sheets"] == {"raw": "contact_sheets/raw.png", "processed": "contact_sheets/processed.png"}
    assert [failure["input"] for failure in told["failed"]] == ["raw_images/ana/bad.jpg"]


def test_live_prints_events_and_a_summary(project, run):
    video(project / "a.mp4", [photo(3, [COLOURS["ana"], STRANGER])] * 30, fps=10)
    result = run("live", "a.mp4", "--headless", "--json", "--step", "2")
    *events, summary = (json.loads(line) for line in result.out.splitlines())
    assert result.code == 0 and [e["event"] for e in events] == ["appeared", "appeared", "named", "left", "left"]
    assert {e["track"]: e["name"] for e in events if e["event"] == "left"} in ({1: "ana", 2: None}, {1: None, 2: "ana"})
    assert (summary["event"], summary["frames"], summary["faces"], summary["tracks"]) == ("summary", 30, 30, 2)
    assert 0 < summary["names"]["ana"] <= 29 and summary.keys() >= {"seconds", "unique_fps", "latency_ms"}
    assert "30 frames" in run("live", "a.mp4", "--headless").out


def test_live_of_a_missing_video_is_an_error(project, run):
    result = run("live", "gone.mp4", "--headless")
    assert result.code == 1 and ERROR.search(result.err)


def test_verbose_says_what_is_used(project, run, caplog):
    run("predict", "group.png")
    assert caplog.text == ""
    for words in (["-v", "predict", "group.png"], ["predict", "-v", "group.png"]):
        caplog.clear()
        run(*words)
        assert "classifiers/svm.npz: svm, 3 people, distance up to 0.40" in caplog.text


@pytest.mark.real
@pytest.mark.parametrize("words", ["-v detect", "detect -v", "evaluate pairs -v raw_images"])
def test_verbose_says_which_networks_are_used(in_tmp, run, caplog, samples, words):
    shutil.copytree(samples / "val", in_tmp / "raw_images")
    run(*words.split())
    assert "detector mtcnn, faces from 20 pixels" in caplog.text
    embeds = "embedder facenet, facenet-128" in caplog.text and "onnxruntime" in caplog.text
    assert embeds == ("evaluate" in words)
