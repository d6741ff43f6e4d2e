"""The pipeline as a user runs it: accuracy on videos and photos, cold start, memory, running again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import data, machine, table
from facerec import weights
from facerec.artifacts import read_manifest, sha256_of
from facerec.images import find_images

FACEREC = [sys.executable, "-m", "facerec"]


def facerec(*words: str, cwd: Path) -> dict:
    """Runs a command with --json and returns its report."""
    run = subprocess.run([*FACEREC, *words, "--json"], cwd=cwd, capture_output=True, text=True)
    if run.returncode not in (0, 3):
        sys.exit(run.stderr)
    return json.loads(run.stdout)


def peak(*words: str, cwd: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a command in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen([*FACEREC, *words], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 3), words
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, usage.ru_maxrss * unit / 1e6


def tree(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file."""
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def accuracy(temp: Path) -> None:
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
            scores = [f"{report[s]['right']}/{report[s]['total']}" for s in ("train", "test")]
            rows.append([name, kind, *scores, f"{report['test']['accuracy']:.4f}"])
    table(["data", "classifier", "train", "test", "test accuracy"], rows)
    frames = {o["path"]: (r.input, i) for r in read_manifest(video / "raw_images") for i, o in enumerate(r.outputs)}
    sides = {
        frames[Path(r.input).relative_to("raw_images").as_posix()]: r.split for r in read_manifest(video / "processed")
    }
    beside = [
        f for f, side in sides.items() if side == "train" and "test" in (sides.get((f[0], f[1] + d)) for d in (-1, 1))
    ]
    print(f"training frames next to a test frame: {len(beside)} of {sum(s == 'train' for s in sides.values())}")


def start_up(temp: Path) -> None:
    """Cold processes, weights cached; the fastest of five."""
    image = next(iter(find_images(data("lfw-dev"))))
    folder = temp / "photos"
    commands = (["--help"], ["predict", str(image)])
    rows = [[" ".join(["facerec", c[0]]), f"{min(peak(*c, cwd=folder)[0] for _ in range(5)):.2f}"] for c in commands]
    table(["cold process", "seconds"], rows)
    code = "import sys; from facerec.cli import main; main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, "predict", str(image)], cwd=folder, capture_output=True, text=True
    )
    print(f"TensorFlow imported by predict: {run.stdout.split()[-1]}")


def memory(temp: Path) -> None:
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
        seconds, megabytes = peak("embed", cwd=folder)
        rows.append([n, f"{megabytes:.0f}", f"{seconds:.0f}", f"{seconds / n * 1000:.1f}"])
        shutil.rmtree(folder)
    table(["crops", "peak memory of embed, MB", "seconds", "ms a crop"], rows)


def again(temp: Path) -> None:
    """A second run of each stage, and a run that was killed in the middle and repeated."""
    video = temp / "video"
    rows = []
    for words in (["extract", str(data("videos"))], ["detect"], ["embed"]):
        report = facerec(*words, cwd=video)
        rows.append([words[0], report["done"], report["skipped"], f"{report['seconds']:.2f}"])
    table(["second run", "done", "already done", "seconds"], rows)

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
            process = subprocess.Popen(
                [*FACEREC, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        facerec(*words, cwd=folder)
        same = tree(folder / made) == undisturbed
        rows.append([words[0], kills, "equal, byte for byte" if same else "DIFFERENT"])
    table(["killed", "times", "result against an undisturbed run"], rows)


def main() -> None:
    """Prints all tables."""
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        accuracy(temp)
        start_up(temp)
        again(temp)
        memory(temp)


if __name__ == "__main__":
    main()
