"""Dask and Ray on the cores of this machine: what they cost beside local joblib, and what workers that die cost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import ENVIRONMENT, MissingDataError, Section, data, facerec, installed
from facerec import runtime
from facerec.images import find_images

REPEATS = 3
KILL = 20  # seconds between two kills
KILLS = 3

COPIES = 1, 5, 10  # of lfw-dev, for the memory of larger and larger runs

HERE = "local joblib"
AS_ADVISED = {  # by docs/scale.md, for the processes of a cluster
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "10",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}
KINDS = {  # how a process is told by its command line
    " detect ": "the command, detect",
    " embed ": "the command, embed",
    "dask scheduler": "the scheduler",
    "spawn_main": "a worker, the larger",
}
NEW, OLD = "workers just started", "workers that have their networks"


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(port: int) -> None:
    while True:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


@contextlib.contextmanager
def _started(*commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    quiet = subprocess.DEVNULL
    processes = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(command, env={**ENVIRONMENT, **AS_ADVISED}, stdout=quiet, stderr=quiet))
        yield processes
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


@contextlib.contextmanager
def dask(temp: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and a worker of one thread a core: its address, and the processes that watch over the workers."""
    from distributed import Client

    port, cores = free_port(), runtime.cpu_count()
    command = [sys.executable, "-m", "dask"]
    scheduler = [*command, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [*command, "worker", f"127.0.0.1:{port}", "--nthreads", "1", "--no-dashboard", "--local-directory"]
    with _started(scheduler, *[[*worker, str(temp / f"w{i}")] for i in range(cores)]) as (_, *watching):
        with Client(f"tcp://127.0.0.1:{port}", set_as_default=False) as client:
            client.wait_for_workers(cores, timeout=60)
        yield f"dask://127.0.0.1:{port}", watching


@contextlib.contextmanager
def ray() -> Iterator[str]:
    """A head with as many workers as cores."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # its sockets' paths must be short
        words = [
            "start", "--head", "--block", "--port", free_port(), "--ray-client-server-port", port,
            "--num-cpus", runtime.cpu_count(), "--include-dashboard", "false", "--disable-usage-stats",
            "--temp-dir", folder,
        ]  # fmt: skip
        with _started([str(Path(sys.executable).with_name("ray")), *map(str, words)]):
            _wait(port)
            time.sleep(3)
            yield f"ray://127.0.0.1:{port}"


def through(folder: Path, cluster: str = "", photos: Path | None = None) -> list[float]:
    """Seconds of detect and embed of lfw-dev (or other photos) into a folder, all anew."""
    more = ["--cluster", cluster] if cluster else []
    folder.mkdir(exist_ok=True)
    seconds = []
    for words in (["detect", str(photos or data("lfw-dev"))], ["embed"]):
        start = time.perf_counter()
        facerec(*words, "--force", *more, cwd=folder)
        seconds.append(time.perf_counter() - start)
    return seconds


def peaks(folder: Path, cluster: str, photos: Path) -> dict[str, float]:
    """Largest resident memory of each kind of process while photos go through, MB."""
    import psutil

    most: dict[str, float] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    words = " ".join(process.cmdline())
                    kind = next((kind for sign, kind in KINDS.items() if sign in words), None)
                    if kind:
                        most[kind] = max(most.get(kind, 0), process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        through(folder, cluster, photos)
    finally:
        stop.set()
        thread.join()
    return most


def copies(temp: Path, number: int) -> Path:
    """lfw-dev several times over, everybody under as many names; links, which cost no room."""
    top = temp / f"{number} copies"
    for photo in find_images(data("lfw-dev")):
        for i in range(number):
            folder = top / f"{photo.parent.name}_{i}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / photo.name).symlink_to(photo)
    return top


def digests(folder: Path) -> tuple[str, str]:
    """sha256 of all crops with their paths, and of the file of vectors."""
    crops = hashlib.sha256()
    root = folder / "processed"
    for path in sorted(root.rglob("*.png")):
        crops.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return crops.hexdigest(), hashlib.sha256((folder / "embeddings" / "faces.npz").read_bytes()).hexdigest()


def children(watching: list[subprocess.Popen[bytes]]) -> list[int]:
    """The workers that these processes watch over."""
    import psutil

    found = []
    for process in watching:
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                found += [child.pid] * ("spawn_main" in " ".join(child.cmdline()))
    return found


def killed(folder: Path, address: str, watching: list[subprocess.Popen[bytes]]) -> tuple[int, int, bool]:
    """Runs until enough workers were killed: how many, in how many runs, and whether all wrote the same."""
    kills, runs, same, stop = 0, 0, set(), threading.Event()

    def kill() -> None:
        nonlocal kills
        while not stop.wait(KILL):
            workers = children(watching)
            if workers:
                os.kill(workers[kills % len(workers)], signal.SIGKILL)
                kills += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        while kills < KILLS:
            through(folder, address)
            same.add(digests(folder))
            runs += 1
    finally:
        stop.set()
        thread.join()
    return kills, runs, same == {digests(folder.with_name(HERE))}


def main(section: Section) -> None:
    """All tables."""
    if not installed("distributed") or not installed("ray"):
        raise MissingDataError("needs facerec[dask,ray]")
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        taken: dict[str, list[list[float]]] = {p: [] for p in (HERE, f"Dask, {NEW}", f"Dask, {OLD}", "Ray")}
        for _ in range(REPEATS):  # one after the other: a started cluster takes its share also while it waits
            taken[HERE].append(through(temp / HERE))
            with dask(temp) as (address, _):
                for state in (NEW, OLD):
                    taken[f"Dask, {state}"].append(through(temp / f"Dask, {state}", address))
        with ray() as address:
            for _ in range(REPEATS):
                taken["Ray"].append(through(temp / "Ray", address))
        found = {place: digests(temp / place) for place in taken}
        best = {
            place: [min(run[i] for run in runs) for i in (0, 1)] + [min(map(sum, runs))]
            for place, runs in taken.items()
        }
        rows = [
            [place, *seconds, seconds[2] / best[HERE][2], found[place][0][:12], found[place][1][:12]]
            for place, seconds in best.items()
        ]
        section.table(
            f"lfw-dev through detect and embed on the same {runtime.cpu_count()} cores, a worker of one thread a core; "
            f"cold commands, minimum of {REPEATS}",
            {
                "where": "{}", "detect, s": "{:.1f}", "embed, s": "{:.1f}", "both, s": "{:.1f}",
                "ratio": "{:.2f}", "sha256 of the crops": "{}", "of the vectors": "{}",
            },
            rows,
        )  # fmt: skip
        same = len(set(found.values())) == 1
        section.note(f"Crops and vectors of all three are {'identical' if same else '**not** identical'}.")
        with dask(temp) as (address, watching):
            kills, runs, same = killed(temp / "killed", address, watching)
        section.table(
            f"A Dask worker killed every {KILL} s, with its nanny to start another",
            {"workers killed": "{}", "complete runs meanwhile": "{}", "same crops and vectors": "{}"},
            [[kills, runs, "yes" if same else "**no**"]],
        )
        photos = [copies(temp, number) for number in COPIES]
        with dask(temp) as (address, _):
            most = [peaks(temp / f"memory of {folder.name}", address, folder) for folder in photos]
        numbers = [len(find_images(folder)) for folder in photos]
        more = numbers[-1] - numbers[-2]
        section.table(
            "Largest resident memory, MB, of the same processes one run after the other",
            {
                "process": "{}",
                f"{numbers[0]} photos": "{:.0f}",
                **{f"then {number}": "{:.0f}" for number in numbers[1:]},
                f"kB for each of the last {more} more": "{:.2f}",
            },
            [
                [kind, *(run[kind] for run in most), (most[-1][kind] - most[-2][kind]) * 1000 / more]
                for kind in KINDS.values()
            ],
        )
