"""Where work runs: processes that die, clusters that are not there, and real Dask and Ray clusters."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from conftest import CROP, FakeDetector, FakeEmbedder, numbered, photos, save, tree, until, video

from facerec import parallel
from facerec.errors import FacerecError, SpaceError, UsageError
from facerec.manifests import read_manifest
from facerec.parallel import CHUNK, CHUNK_BYTES, MOST, Crashed, chunked, spread
from facerec.runtime import Portable
from facerec.stages import process as loop
from facerec.stages.detect import detect
from facerec.stages.embed import vectors_of
from facerec.stages.extract import extract
from facerec.types import Space

POISON = 3  # the red of a photo that takes down whoever looks at it


def double(chunk):
    return [2 * number for number in chunk]


def double_or_die(chunk):
    if 13 in chunk:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(chunk)


class Mortal(Portable):
    """`FakeDetector`, which a photo of plain `POISON` kills with its process."""

    name = "fake"

    def detect(self, image):
        if (image == POISON).all():
            os.kill(os.getpid(), signal.SIGKILL)
        return FakeDetector().detect(image)


def flat(results):
    """Sorted numbers, and the items that crashed."""
    good, crashed = [], []
    for some in results:
        if isinstance(some, Crashed):
            crashed.append(some.item)
        else:
            good += some
    return sorted(good), crashed


def outputs(folder):
    """Everything but the manifest, whose lines say which host it was."""
    return {path: digest for path, digest in tree(folder).items() if not path.endswith("manifest.jsonl")}


def told(folder):
    """The manifest without hosts."""
    return [{**vars(record), "host": ""} for record in read_manifest(folder)]


# --- this machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [False, True])
def test_all_chunks_come_back_once(processes):
    chunks = [range(i, i + 3) for i in range(0, 60, 3)]
    assert flat(spread(double, lambda _: chunks, jobs=2, processes=processes)) == (list(range(0, 120, 2)), [])


@pytest.mark.parametrize("processes", [False, True])
def test_chunks_are_drawn_as_workers_become_free(processes):
    drawn, most = 0, 0

    def chunks():
        nonlocal drawn
        for i in range(40):
            drawn += 1
            yield [i]

    for back, _ in enumerate(spread(partial(slowly, 0.03), lambda _: chunks(), jobs=2, processes=processes)):
        most = max(most, drawn - back)
    assert drawn == 40 and most <= 8


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    """Nobody takes their results any more: they must not go on writing somebody's crops."""
    script = """
import os, time
from pathlib import Path
from facerec.parallel import spread

def work(chunk):
    Path("worker", str(os.getpid())).touch()
    time.sleep(60)

list(spread(work, lambda _: [[1], [2]], jobs=2, processes=True))
"""
    (tmp_path / "worker").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    until(lambda: len(list((tmp_path / "worker").iterdir())) == 2)
    parent.kill()
    parent.wait()

    def gone(worker):
        state = Path("/proc", worker.name, "stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"

    until(lambda: all(map(gone, (tmp_path / "worker").iterdir())))


@pytest.mark.parametrize("workers", [1, 2, 7, 1000])
def test_chunks_are_bounded_in_number_and_bytes_and_get_shorter(workers):
    sizes = [1] * 900 + [CHUNK_BYTES // 2 + 1] * 3 + [2 * CHUNK_BYTES] + [5] * 90
    chunks = list(chunked(sizes, len(sizes), workers, weight=lambda size: size))
    assert [size for chunk in chunks for size in chunk] == sizes
    assert max(map(len, chunks)) == {1: MOST, 2: 62, 7: 17, 1000: CHUNK}[workers]
    assert all(sum(chunk) <= CHUNK_BYTES or len(chunk) == 1 for chunk in chunks)
    assert len(chunks[-1]) <= len(chunks[-2]) <= CHUNK
    light = [len(chunk) for chunk in chunked(range(5000), 5000, workers)]
    assert sorted(light, reverse=True) == light and light[-2] == CHUNK


def test_chunks_of_nothing_of_single_items_and_of_very_many():
    assert list(chunked([], 0, 2)) == []
    # of single items, nothing is weighed: in a store that is a call each
    assert list(chunked("abc", 3, 2, most=1, weight=pytest.fail)) == [
        ["a"],
        ["b"],
        ["c"],
    ]
    assert list(map(len, chunked(range(10), 10, 1, least=3))) == [3, 3, 3, 1]
    assert len(next(chunked(iter(int, 1), 50_000_000, 1000))) == 256
    assert len(next(chunked(iter(int, 1), 640_000, 2))) == MOST


def test_what_kills_its_process_is_found_and_the_rest_is_done():
    chunks = [list(range(i, i + 4)) for i in range(0, 40, 4)]
    good, crashed = flat(spread(double_or_die, lambda _: chunks, jobs=2, processes=True))
    assert crashed == [13]
    assert good == [2 * i for i in range(40) if i != 13]


def test_a_photo_that_kills_its_process_is_an_error_of_its_own(in_tmp, monkeypatch):
    monkeypatch.setattr(loop, "PROCESSES", 4)
    raw = photos(in_tmp / "raw", {"ana": 8, "ben": 8})
    save(raw / "ben" / "poison.png", _plain())
    report = detect(
        raw, in_tmp / "out", detector=Mortal(), crop=CROP, min_face=20, min_confidence=None, jobs=2, split="random"
    )
    assert report.done == 16
    (failure,) = report.failed
    assert failure.source == "raw/ben/poison.png" and "worker died" in failure.reason
    assert not list((in_tmp / "out").rglob(".facerec-tmp-*"))
    again = detect(
        raw, in_tmp / "out", detector=Mortal(), crop=CROP, min_face=20, min_confidence=None, jobs=2, split="random"
    )
    assert (again.done, again.skipped, len(again.failed)) == (0, 16, 1)


def _plain():
    import numpy as np

    return np.full((60, 60, 3), POISON, np.uint8)


# --- networks that travel ------------------------------------------------------------------------


class Counted(Portable):
    made = 0

    def __init__(self, a, *, b=1):
        Counted.made += 1
        self.a, self.b, self.session = a, b, threading.Lock()  # which no pickle takes


class OneAThread(Counted):
    thread_safe = False


def test_a_network_travels_as_the_call_that_made_it():
    import cloudpickle

    before = Counted.made
    packed = cloudpickle.dumps(Counted(5, b=7))
    first, second = cloudpickle.loads(packed), cloudpickle.loads(packed)
    assert first is second and (first.a, first.b) == (5, 7)
    assert Counted.made == before + 2
    assert cloudpickle.loads(cloudpickle.dumps(Counted(6))) is not first


def test_one_that_is_not_thread_safe_is_made_once_a_thread():
    import cloudpickle

    packed = cloudpickle.dumps(OneAThread(1))
    here, there = cloudpickle.loads(packed), []
    thread = threading.Thread(target=lambda: there.append(cloudpickle.loads(packed)))
    thread.start()
    thread.join()
    assert cloudpickle.loads(packed) is here and there[0] is not here


def test_a_worker_with_another_model_of_the_same_name_is_refused(in_tmp):
    other = Space("facenet-128", "another", CROP, False)
    with pytest.raises(SpaceError, match="another"):
        vectors_of(in_tmp, FakeEmbedder(), other, [])


# --- clusters that are not there -----------------------------------------------------------------


@pytest.mark.parametrize("url", ["dask", "dask://", "dask://host", "dask://host:port", "http://host:1", "host:8786"])
def test_a_cluster_that_is_none_is_refused(url):
    with pytest.raises(UsageError, match="no cluster"):
        list(spread(double, lambda _: [[1]], cluster=url))


@pytest.mark.parametrize("scheme", ["dask", "ray"])
def test_a_package_that_is_not_installed_is_named(scheme, monkeypatch):
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"facerec\[{scheme}\]"):
        list(spread(double, lambda _: [[1]], cluster=f"{scheme}://localhost:1"))


def test_a_scheduler_that_does_not_answer_is_an_error_with_a_cure(monkeypatch):
    monkeypatch.setattr(parallel, "ANSWER", 1)
    with pytest.raises(UsageError, match="dask scheduler"):
        list(spread(double, lambda _: [[1]], cluster=f"dask://127.0.0.1:{free_port()}"))


def test_a_host_that_does_not_see_the_folder_says_so(in_tmp):
    with pytest.raises(FacerecError, match="does not see"):
        loop.treat(lambda item: [], in_tmp / "nowhere" / "manifest.jsonl", True, [])


def test_the_command_line_takes_cores_or_a_cluster(run, in_tmp):
    answer = run("detect", "--jobs", 2, "--cluster", "dask://localhost:1")
    assert answer.code == 2 and "not allowed with" in answer.err
    photos(in_tmp / "raw_images", {"ana": 1})
    answer = run("detect", "--cluster", "somewhere")
    assert answer.code == 2 and "dask://HOST:8786" in answer.err


# --- Dask ----------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Dask:
    """A scheduler with two workers of one thread each, in processes of their own."""

    def __init__(self, folder):
        self.port = free_port()
        self.url = f"dask://127.0.0.1:{self.port}"
        tests = Path(__file__).parent
        path = os.pathsep.join([str(tests), str(tests.parent)])
        self.environment = {
            **os.environ, "PYTHONPATH": path, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        }  # fmt: skip
        self.folder = folder
        self.processes = [self.start("scheduler", "--host", "127.0.0.1", "--port", self.port)]

    def workers(self):
        for _ in range(2):
            self.processes.append(
                self.start("worker", f"127.0.0.1:{self.port}", "--nthreads", 1, "--local-directory", self.folder)
            )
        from distributed import Client

        with Client(f"tcp://127.0.0.1:{self.port}", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

    def start(self, *words):
        command = [sys.executable, "-m", "dask", *map(str, words), "--no-dashboard"]
        log = (self.folder / f"{words[0]}.log").open("ab")
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)

    def pids(self):
        """Of the processes that work, not of those that watch over them."""
        import psutil

        found = []
        for watching in self.processes[1:]:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(watching.pid).children():
                    found += [child.pid] * ("spawn_main" in " ".join(child.cmdline()))
        return found

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait()


@pytest.fixture(scope="module")
def dask():
    pytest.importorskip("distributed")
    with tempfile.TemporaryDirectory() as name:
        cluster = Dask(Path(name))
        cluster.workers()
        yield cluster
        cluster.stop()


@pytest.fixture
def killer(dask):
    """Kills a worker again and again; the number of kills so far."""
    done, stop = [], threading.Event()

    def kill():
        while not stop.wait(4):  # a new one needs some seconds
            pids = dask.pids()
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[len(done) % len(pids)], signal.SIGKILL)
                    done.append(pids)

    thread = threading.Thread(target=kill)
    thread.start()
    yield done
    stop.set()
    thread.join()


def slowly(seconds, chunk):
    time.sleep(seconds)
    return double(chunk)


def test_dask_does_what_this_machine_does(dask):
    chunks = [[i, i + 1] for i in range(0, 40, 2)]
    assert flat(spread(double, lambda _: chunks, cluster=dask.url)) == flat(spread(double, lambda _: chunks))


def test_workers_that_die_all_the_time_lose_nothing(dask, killer):
    chunks = [[i] for i in range(40)]
    good, crashed = flat(spread(partial(slowly, 0.5), lambda _: chunks, cluster=dask.url))
    assert (good, crashed) == ([2 * i for i in range(40)], [])
    assert len(killer) >= 2


def test_a_poisonous_item_is_found_on_dask(dask):
    good, crashed = flat(spread(double_or_die, lambda _: [[11, 12], [13, 14], [15, 16]], cluster=dask.url))
    assert (good, crashed) == ([22, 24, 28, 30, 32], [13])


def test_a_worker_of_another_version_is_refused(dask, monkeypatch):
    monkeypatch.setattr(parallel, "__version__", "9.9")
    with pytest.raises(FacerecError, match=r"not 9\.9 — install the same everywhere"):
        list(spread(double, lambda _: [[1]], cluster=dask.url))


def test_what_goes_wrong_on_a_worker_is_told_here(dask, in_tmp):
    with pytest.raises(ZeroDivisionError):
        list(spread(partial(divide, 0), lambda _: [[1]], cluster=dask.url))


def divide(by, chunk):
    return [n / by for n in chunk]


def test_a_scheduler_without_workers_is_an_error_with_a_cure(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(parallel, "WAIT", 1)
    cluster = Dask(tmp_path)
    while socket.socket().connect_ex(("127.0.0.1", cluster.port)):
        time.sleep(0.1)
    try:
        with pytest.raises(UsageError, match="dask worker"):
            list(spread(double, lambda _: [[1]], cluster=cluster.url))
    finally:
        cluster.stop()


def test_extract_on_dask_takes_the_same_frames(dask, in_tmp):
    extracts_the_same(in_tmp, dask.url)


def extracts_the_same(in_tmp, cluster):
    for name in ("ana", "ben", "cleo"):
        video(in_tmp / "videos" / f"{name}.mp4", [numbered(i) for i in range(30)])
    (in_tmp / "videos" / "dora.mp4").write_bytes(b"no video")
    here = extract([in_tmp / "videos"], in_tmp / "here", count=5)
    there = extract([in_tmp / "videos"], in_tmp / "there", count=5, cluster=cluster)
    assert outputs(in_tmp / "here") == outputs(in_tmp / "there") != {}
    assert told(in_tmp / "here") == told(in_tmp / "there")
    assert here.failed == there.failed and len(there.failed) == 1
    assert sum(there.hosts.values()) == 4 and len(there.hosts) == 2  # a video at a time


@pytest.fixture
def project(samples, in_tmp, run):
    """Photos of five people, cut out and embedded by this machine's threads."""
    raw = in_tmp / "raw_images"
    for person in (samples / "train").iterdir():
        (raw / person.name).mkdir(parents=True)
        for photo in sorted(person.iterdir())[:8]:
            (raw / person.name / photo.name).write_bytes(photo.read_bytes())
    (raw / person.name / "broken.jpg").write_bytes(b"no photo")
    assert run("detect", "--output", "here").code == 3
    assert run("embed", "here", "--output", "here.npz").code == 0
    return in_tmp


@pytest.mark.real
def test_the_pipeline_on_dask_writes_the_same_bytes(dask, project, run, caplog):
    answer = run("-v", "detect", "--output", "there", "--cluster", dask.url)
    assert answer.code == 3 and "2 Dask workers" in caplog.text
    embedded = json.loads(run("embed", "there", "--output", "there.npz", "--cluster", dask.url, "--json").out)
    assert len(embedded["hosts"]) == 2 and sum(embedded["hosts"].values()) == embedded["done"] > 0
    assert outputs(project / "here") == outputs(project / "there") != {}
    assert told(project / "here") == told(project / "there")
    assert (project / "here.npz").read_bytes() == (project / "there.npz").read_bytes()
    hosts = Counter(record.host for record in read_manifest(project / "there"))
    assert len(hosts) == 2 and all(host.startswith(f"{socket.gethostname()}/") for host in hosts)
    assert {record.host for record in read_manifest(project / "here")} == {""}
    assert dict(Counter(record.host for record in read_manifest(project, "there.manifest.jsonl"))) == embedded["hosts"]
    assert not (project / "here.manifest.jsonl").exists()


@pytest.mark.real
def test_a_second_run_does_only_what_is_missing(dask, project, run):
    assert run("detect", "--output", "there", "--cluster", dask.url).code == 3
    gone = next((project / "there").rglob("*.png"))
    before = outputs(project / "there")
    gone.unlink()
    answer = json.loads(run("detect", "--output", "there", "--cluster", dask.url, "--json").out)
    assert (answer["done"], answer["skipped"]) == (1, len(before) - 1)
    assert outputs(project / "there") == before


@pytest.mark.real
def test_workers_die_during_detect(dask, killer, project, run):
    deadline = time.monotonic() + 120
    while len(killer) < 2 and time.monotonic() < deadline:
        assert run("detect", "--output", "there", "--cluster", dask.url, "--force").code == 3
    assert len(killer) >= 2
    assert outputs(project / "here") == outputs(project / "there")


@pytest.mark.real
def test_evaluate_on_dask_gives_the_same_figures(dask, samples, in_tmp, run):
    evaluates_the_same(samples, run, dask.url)


def evaluates_the_same(samples, run, cluster):
    figures = []
    for more in ((), ("--cluster", cluster)):
        answer = run("evaluate", "pairs", samples / "val", "--json", "--output", f"e{len(more)}", *more)
        assert answer.code == 0
        figures.append(json.loads(answer.out))
    assert figures[0] == figures[1]


# --- Ray -----------------------------------------------------------------------------------------


def require_ray():
    if importlib.util.find_spec("ray") is None:  # importing it is for facerec, which sets how
        pytest.skip("Ray is not installed")


@pytest.fixture(scope="module")
def ray():
    require_ray()
    import psutil

    port, folder = free_port(), tempfile.mkdtemp(dir="/tmp")  # of sockets, whose paths must be short
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    environment["RAY_AUTH_MODE"] = "disabled"  # whatever token the user has
    environment["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # else one client's server in eight never starts: see docs/scale.md
    words = [
        "start", "--head", "--block", "--port", free_port(), "--ray-client-server-port", port, "--num-cpus", 2,
        "--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", folder,
    ]  # fmt: skip
    command = [str(Path(sys.executable).with_name("ray")), *map(str, words)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{port}"
        for child in (*psutil.Process(process.pid).children(recursive=True), process):
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.wait()


@pytest.mark.real
def test_the_pipeline_on_ray_writes_the_same_bytes(ray, project, run, caplog):
    answer = run("-v", "detect", "--output", "there", "--cluster", ray)
    assert answer.code == 3 and "2 Ray workers" in caplog.text
    assert run("embed", "there", "--output", "there.npz", "--cluster", ray).code == 0
    assert outputs(project / "here") == outputs(project / "there") != {}
    assert told(project / "here") == told(project / "there")
    assert (project / "here.npz").read_bytes() == (project / "there.npz").read_bytes()


def test_extract_on_ray_takes_the_same_frames(ray, in_tmp):
    extracts_the_same(in_tmp, ray)


@pytest.mark.real
def test_evaluate_on_ray_gives_the_same_figures(ray, samples, in_tmp, run):
    evaluates_the_same(samples, run, ray)


def test_results_come_from_ray_as_they_are_ready(ray):
    given = 0

    def chunks():
        nonlocal given
        for given in range(1, 41):
            yield [given]

    results = spread(double, lambda _: chunks(), cluster=ray)
    next(results)
    assert given < 40
    results.close()


def test_a_poisonous_item_is_found_on_ray(ray):
    good, crashed = flat(spread(double_or_die, lambda _: [[11, 12], [13, 14], [15, 16]], cluster=ray))
    assert (good, crashed) == ([22, 24, 28, 30, 32], [13])


def test_after_a_run_nothing_starts_a_ray_cluster_here(ray):
    assert flat(spread(double, lambda _: [[1]], cluster=ray))[0] == [2]
    import ray as package

    with pytest.raises(package.exceptions.RaySystemError, match="not been started"):
        package.put(1)
    assert not package.is_initialized()


def test_a_ray_cluster_that_is_not_there():
    require_ray()
    with pytest.raises(UsageError, match="ray start --head"):
        list(spread(double, lambda _: [[1]], cluster=f"ray://127.0.0.1:{free_port()}"))


def test_a_ray_cluster_of_another_version_says_so(run, in_tmp, monkeypatch):
    require_ray()
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")  # before it is imported
    import ray as package

    def mismatched(*words, **options):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0\n    Python: 3.8")

    monkeypatch.setattr(package, "init", mismatched)
    photos(in_tmp / "raw_images", {"ana": 1})
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        answer = run("detect", "--cluster", f"ray://127.0.0.1:{somebody.getsockname()[1]}")
    assert answer.code == 1 and "Ray: 1.0 Python: 3.8 — install the same everywhere" in answer.err
