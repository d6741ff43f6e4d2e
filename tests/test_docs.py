"""Every command of the README runs, in the README's order, on real photographs."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import pytest
from conftest import photos

from facerec import weights
from facerec.cli import COMMANDS, main, make_parser
from facerec.images import find_images, read_image
from facerec.video import VideoWriter

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
LINES = [shlex.split(line, comments=True) for line in SHELL.splitlines() if line.startswith("facerec ")]


def test_the_readme_shows_every_command():
    assert {words[1] for words in LINES} == set(COMMANDS)


def test_the_documented_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"help", "setup", "run", "test", "lint", "type", "bench", "clean"} <= targets
    assert set(re.findall(r"^make (\w+)", SHELL, re.M)) <= targets


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (ROOT / document).parent.joinpath(target).exists(), target


@pytest.mark.real
def test_every_command_of_the_readme_runs(tmp_path, monkeypatch, capsys, astronaut, database):
    people = sorted((weights.samples() / "train").iterdir())[:3]
    monkeypatch.chdir(tmp_path)
    for person in people:
        with VideoWriter(Path(f"videos/{person.name}.mp4"), 5) as writer:
            for photo in find_images(person)[:8]:
                for _ in range(10):
                    writer.write(cv2.resize(read_image(photo), (240, 320), interpolation=cv2.INTER_AREA))
    for person in (weights.samples() / "train").iterdir():
        (Path("photos") / person.name).mkdir(parents=True)
        for photo in find_images(person)[:8]:
            shutil.copy(photo, Path("photos") / person.name)
    shutil.copy(find_images(people[0])[0], "img.jpg")
    cv2.imwrite("ana.jpg", astronaut[..., ::-1])
    shutil.copy(f"videos/{people[0].name}.mp4", "party.mp4")

    camera = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source, *a: camera("party.mp4" if source == 0 else source, *a))
    monkeypatch.setattr("facerec.video.PATIENCE", 0)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    for words in LINES:
        if words[1] == "app" or "mine" in words:  # test_app.py opens it; test_finetune.py has people enough
            continue
        if words[1] in ("live", "capture") and "--headless" not in words:
            words = [*words, "--headless"]
        words = [database if word == "postgresql://faces@db/faces" else word for word in words]
        code = main(words[1:])
        output = capsys.readouterr()
        if words[1] == "calibrate":  # these few people cannot carry such a rate; test_trust.py has one that they can
            assert code == 1 and "not enough" in output.err
            continue
        if "--camera" in words:  # at the end of the film it is unplugged
            assert code == 1 and "camera 0 stopped" in output.err
            continue
        assert code in (0, 3), f"{' '.join(words)}: {output.err}"
        assert output.out.strip(), words
    assert Path("named.mp4").stat().st_size > 1000
    assert find_images(Path("named"))


def test_what_json_prints_is_documented(in_tmp, fakes, run, facerec_home):
    section = (ROOT / "docs/formats.md").read_text(encoding="utf-8").split("## What `--json` prints")[1]
    documented = {
        line.split("|")[1]: {*re.findall(r"`(\w+)`", line)} for line in section.splitlines() if line[:1] == "|"
    }
    photos(Path("raw_images"), {"ana": 8, "ben": 8})
    shutil.copytree("raw_images/ana", "album")
    picture = "raw_images/ana/0.png"
    stage = "every stage"
    for words, rows in (
        ("detect", [stage]),
        (f"detect {picture}", ["detect PHOTO"]),
        ("embed", [stage]),
        ("train --svm --threshold 0.5", [stage, "train"]),
        ("cluster album --threshold 0.4", [stage, "cluster"]),
        (f"predict {picture}", ["`predict`, a line an image"]),
        ("predict --batch 3", ["`predict --batch`"]),
        (f"explain {picture}", ["explain", "`predict`, a line an image"]),
        (f"blur {picture}", ["blur"]),
        (f"enroll Ana {picture} --force", [stage, "`enroll`, as well"]),
        (f"verify {picture} {picture} --threshold 0.5", ["verify"]),
        ("people", ["people"]),
        ("audit --threshold 0.5", ["audit"]),
        ("rename Ana Anna", ["rename"]),
        ("forget Anna --yes", ["rename"]),
        ("models list", ["models"]),
    ):
        answer = run(*words.split(), "--json")
        assert answer.code == 0, (words, answer.err)
        known = set().union(*(keys for cell, keys in documented.items() if any(row in cell for row in rows)))
        for line in answer.out.splitlines():
            printed = json.loads(line)
            faces = printed.get("faces") if isinstance(printed, dict) else printed
            for one in [printed, *(faces if isinstance(faces, list) else [])]:
                assert isinstance(one, list) or one.keys() <= known, words


def test_the_commands_of_scale_parse():  # test_parallel.py and test_postgres.py run them, on servers that they start
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    lines = [line for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).splitlines() if line]
    assert len(lines) >= 9
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "facerec" and make_parser().parse_args(words[1:]).command == words[1]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_examples_of_help_parse(command):
    parser = make_parser()
    examples = [line for line in COMMANDS[command].EXAMPLES.splitlines() if line.startswith("facerec ")]
    assert examples
    for line in examples:
        words = re.split(r"\s{2,}", line, maxsplit=1)[0]
        assert parser.parse_args(shlex.split(words)[1:]).command == command
