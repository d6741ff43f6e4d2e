"""The pipeline as a user runs it: accuracy on videos and photos, memory, running again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import ENVIRONMENT, FACEREC, Section, data, facerec, usage
from facerec import weights
from facerec.artifacts import sha256_of
from facerec.images import find_images
from facerec.manifests import read_manifest


def quietly(*words: str, cwd: Path) -> subprocess.Popen[bytes]:
    """Starts a command."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*FACEREC, *words], cwd=cwd, env=ENVIRONMENT, stdout=quiet, stderr=quiet)


def tree(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file."""
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def accuracy(section: Section, temp: Path) -> None:
    """Videos of five people with block split; 93 training and 25 validation photos of five others."""
    rows = []
    video, photos = temp / "video", temp / "photos"
    video.mkdir()
    photos.mkdir()
    facerec("extract", str(data("videos")), cwd=video)
    shutil.copytree(weights.samples(), photos / "raw_images")
    for name, folder in (("five videos, block split", video), ("93 + 25 sample photos", photos)):
        facerec("detect", cwd=folder)
        facerec("embed", cwd=folder)
        for kind in ("svm", "knn", "nearest"):
            report = facerec("train", f"--{kind}", cwd=folder)
            rows.append([name, kind, *((report[s]["right"], report[s]["total"]) for s in ("train", "test"))])
    section.table(
        "Photos named right",
        {"data": "{}", "classifier": "{}", "train": "{} of {}", "test": "{} of {}"},
        rows,
    )
    frames = {o["path"]: (r.input, i) for r in read_manifest(video / "raw_images") for i, o in enumerate(r.outputs)}
    sides = {
        frames[Path(r.input).relative_to("raw_images").as_posix()]: r.split for r in read_manifest(video / "processed")
    }
    beside = [
        f for f, side in sides.items() if side == "train" and "test" in (sides.get((f[0], f[1] + d)) for d in (-1, 1))
    ]
    train = sum(side == "train" for side in sides.values())
    section.note(f"Training frames next to a test frame: {len(beside)} of {train}.")


def memory(section: Section, temp: Path) -> None:
    """Peak memory of embed over the number of crops (copies of the sample crops, each made different)."""
    source = find_images(temp / "photos" / "processed")
    rows = []
    for n in (1_000, 5_000, 20_000):
        folder = temp / f"memory{n}"
        processed = folder / "processed"
        (processed / "train" / "p").mkdir(parents=True)
        with (processed / "manifest.jsonl").open("w") as manifest:
            options = next(read_manifest(temp / "photos" / "processed")).options
            for i in range(n):
                path = f"train/p/{i:05d}.png"
                # bytes after the end of a PNG are ignored: another content, the same picture
                (processed / path).write_bytes(source[i % len(source)].read_bytes() + str(i).encode())
                record = {
                    "input": f"raw_images/p/{i}.jpg",
                    "sha256": "",
                    "options": options,
                    "outputs": [{"path": path}],
                }
                manifest.write(json.dumps(record | {"error": None, "label": "p", "split": "train"}) + "\n")
        used = usage("embed", cwd=folder)
        rows.append([n, used.memory, used.seconds, used.seconds / n * 1000])
        shutil.rmtree(folder)
    section.table(
        "`facerec embed` over the number of crops",
        {"crops": "{:,}", "peak memory, MB": "{:.0f}", "seconds": "{:.0f}", "ms a crop": "{:.1f}"},
        rows,
    )


def again(section: Section, temp: Path) -> None:
    """A second run of each stage, and a run that was killed in the middle and repeated."""
    video = temp / "video"
    rows = []
    for words in (["extract", str(data("videos"))], ["detect"], ["embed"]):
        report = facerec(*words, cwd=video)
        rows.append([words[0], report["done"], report["skipped"], report["seconds"]])
    section.table("A second run", {"stage": "{}", "done": "{}", "already done": "{}", "seconds": "{:.2f}"}, rows)

    rows = []
    for words, made in (
        (["extract", str(data("videos"))], "raw_images"),
        (["detect"], "processed"),
        (["embed"], "embeddings"),
    ):
        undisturbed = tree(video / made)
        folder = temp / f"killed_{words[0]}"
        folder.mkdir(parents=True)
        for needed in ("raw_images", "processed"):
            if needed != made and (video / needed).exists():
                shutil.copytree(video / needed, folder / needed)
        kills = 0
        for wait in (1.5, 2.5, 4.0):
            process = quietly(*words, cwd=folder)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        facerec(*words, cwd=folder)
        same = tree(folder / made) == undisturbed
        rows.append([words[0], kills, "equal, byte for byte" if same else "DIFFERENT"])
    section.table(
        "Killed in the middle and run again",
        {"stage": "{}", "kills": "{}", "result against an undisturbed run": "{}"},
        rows,
    )


def main(section: Section) -> None:
    """All tables."""
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        accuracy(section, temp)
        again(section, temp)
        memory(section, temp)
