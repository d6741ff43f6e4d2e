"""Where work runs, through joblib: threads or processes of this machine, or the workers of a Dask or Ray cluster.

Items and results travel, not pixels: items are paths, which all workers must see. A worker that dies is replaced
by its cluster and its work is done again; what takes its worker down every time comes back as `Crashed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import os
import pickle
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from facerec import __version__
from facerec.errors import FacerecError, UsageError

ANSWER = 15  # seconds that a scheduler has for its first answer
WAIT = 60  # seconds that a cluster has to start its first worker
LOG = 10  # messages that a Dask client keeps of those sent, with the paths in them; 1,000 by itself
RAY_TRIES = 3  # one in eight of the servers that it forks for a client hangs: a fork beside gRPC's threads
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
CHUNK, MOST, CHUNK_BYTES = 16, 64, 32_000_000  # items that travel together, at least and at most, and their bytes
SHARE = 8  # chunks that each worker has yet to do, where they are between these bounds
CHUNKS, MOST_OF_MANY = 10_000, 256  # of one run, before they get larger: Dask's scheduler remembers each for ever

log = logging.getLogger("facerec")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Crashed(Generic[T]):
    """An item that took its worker down, also when it was the only one at work."""

    item: T


@dataclass(frozen=True)
class _Place:
    """A backend that has been started.

    Attributes:
        workers: how many work side by side.
        run: joblib's calls → their results, as they are ready; calls are taken as workers become free.
        crashes: what it raises when workers have died.
        far: on other hosts.
        children: in processes of this one.
    """

    workers: int
    run: Callable[[Iterable[Any]], Iterator[Any]]
    crashes: tuple[type[BaseException], ...] = ()
    far: bool = False
    children: bool = False


def worker_name() -> str:
    """Host and process that this runs in."""
    return f"{socket.gethostname()}/{os.getpid()}"


def chunked(
    items: Iterable[T],
    number: int,
    workers: int,
    *,
    least: int = CHUNK,
    most: int = MOST,
    weight: Callable[[T], int] = lambda _: 0,
) -> Iterator[list[T]]:
    """Items in lists: longer ones first, since each costs 20 ms on a cluster, and shorter ones at the end, so that all
    workers stop at the same time.

    Args:
        items: `number` of them.
        number: of items.
        workers: that they are for.
        least: items of a list; fewer where they weigh more than `CHUNK_BYTES`.
        most: items of a list; more of very many.
        weight: an item's bytes.
    """
    if most == 1:  # nothing to weigh
        yield from ([item] for item in items)
        return
    most = max(most, min(number // CHUNKS, MOST_OF_MANY))
    chunk: list[T] = []
    heavy, left = 0, number
    for item in items:
        more = weight(item)
        full = len(chunk) >= min(max(left // (SHARE * workers), least), most)
        if chunk and (full or heavy + more > CHUNK_BYTES):
            yield chunk
            left -= len(chunk)
            chunk, heavy = [], 0
        chunk.append(item)
        heavy += more
    if chunk:
        yield chunk


def spread(
    work: Callable[[Sequence[T]], R],
    chunks: Callable[[int], Iterable[Sequence[T]]],
    *,
    jobs: int = 1,
    processes: bool = False,
    cluster: str | None = None,
) -> Generator[R | Crashed[T], None, None]:
    """Results of chunks of items, as they are ready; no more chunks are under way than workers can take.

    Args:
        work: treats a chunk. A function of a module or a `functools.partial` of one, where it has to travel.
        chunks: number of workers → the work, drawn as it goes.
        jobs: chunks treated side by side, on this machine.
        processes: each in a process of its own, not a thread.
        cluster: ``dask://HOST:PORT`` or ``ray://HOST:PORT``; None for this machine.

    Raises:
        UsageError: a cluster that is none, does not answer, or whose package is not installed.
        FacerecError: its workers are of another version.
    """
    with _place(jobs, processes, cluster) as place:
        yield from _surviving(place, work, chunks(place.workers))


def _surviving(
    place: _Place, work: Callable[[Sequence[T]], R], chunks: Iterable[Sequence[T]], depth: int = 0
) -> Iterator[R | Crashed[T]]:
    """Tries again what was under way when workers died: item by item, and at last each while nothing else runs."""
    rest = iter(chunks)
    while True:
        out: dict[int, Sequence[T]] = {}
        died = None
        try:
            yield from _run(place, work, rest, out)
        except place.crashes as error:
            died = error
        if died is None:
            return
        items = [item for chunk in out.values() for item in chunk]
        log.warning("a worker died (%s); %d items are tried again", type(died).__name__, len(items))
        if depth == 2:
            yield from map(Crashed, items)
        elif depth == 1:
            for item in items:
                yield from _surviving(place, work, [[item]], 2)
        else:
            yield from _surviving(place, work, ([item] for item in items), 1)


def _run(
    place: _Place, work: Callable[[Sequence[T]], R], chunks: Iterable[Sequence[T]], out: dict[int, Sequence[T]]
) -> Iterator[R]:
    """Results; `out` holds the chunks that were handed out and have not come back."""
    from joblib import delayed

    # Packed, networks are made where they work only: Dask's scheduler opens what it hands on.
    sent = pickle.dumps(work) if place.far else work

    def calls() -> Iterator[Any]:
        for number, chunk in enumerate(chunks):
            out[number] = chunk
            yield delayed(_call)(__version__, number, sent, chunk, os.getpid() if place.children else 0)

    for number, result in place.run(calls()):
        del out[number]
        yield result


def _call(
    version: str, number: int, work: Callable[[Sequence[T]], R] | bytes, chunk: Sequence[T], parent: int
) -> tuple[int, R]:
    """A chunk, on its worker."""
    _keep_memory()
    if parent:
        _end_with(parent)
    if version != __version__:
        raise FacerecError(f"{worker_name()} has facerec {__version__}, not {version}", "install the same everywhere")
    if isinstance(work, bytes):
        work = cast(Callable[[Sequence[T]], R], pickle.loads(work))
    return number, work(chunk)


@cache
def _keep_memory() -> None:
    """Undoes, once a process, what Dask's nannies set: malloc gave every larger array back to the system at once."""
    if "MALLOC_TRIM_THRESHOLD_" in os.environ and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        with contextlib.suppress(AttributeError):  # of another C library than glibc
            libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
            libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)


@cache
def _end_with(parent: int) -> None:
    """Watches, in a thread: when the parent was killed, nobody takes the results any more, nor ends this process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Calls:
    """joblib's calls that travel together, on a worker; its name in Dask's dashboard."""

    def __repr__(self) -> str:
        return "facerec"

    def __call__(self, tasks: Sequence[tuple[Any, Any, Any]]) -> list[Any]:
        return [function(*args, **options) for function, args, options in tasks]


# --- places --------------------------------------------------------------------------------------

_START = {"dask": "start it: `dask scheduler`", "ray": "start it: `ray start --head`"}


@contextlib.contextmanager
def _place(jobs: int, processes: bool, cluster: str | None) -> Iterator[_Place]:
    # of a run that was given up; for good, since `catch_warnings` is not for threads
    warnings.filterwarnings("ignore", message=".*tasks.*", module="joblib")
    if cluster is None:
        with _machine(jobs, processes) as place:
            yield place
        return
    url = urlsplit(cluster)
    start = {"dask": _dask, "ray": _ray}.get(url.scheme)
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if start is None or not host or not port:
        raise UsageError(f"{cluster!r} is no cluster", "as in dask://HOST:8786 or ray://HOST:10001")
    if importlib.util.find_spec("distributed" if url.scheme == "dask" else "ray") is None:
        raise UsageError(f"{cluster} needs {url.scheme}", f"pip install 'facerec[{url.scheme}]'")
    try:  # the packages themselves would wait for half a minute
        socket.create_connection((host, port), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"{url.netloc} does not answer ({error})", _START[url.scheme]) from None
    with start(url.netloc) as place:
        yield place


def _generated(**options: Any) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """joblib's `Parallel`, its results as they are ready."""
    from joblib import Parallel

    return lambda calls: Parallel(return_as="generator_unordered", batch_size=1, **options)(calls)


def _raised(result: T) -> T:
    """What a cluster's backend calls back with: a result, or the error that there was instead."""
    if isinstance(result, BaseException):
        raise result
    return result


@contextlib.contextmanager
def _machine(jobs: int, processes: bool) -> Iterator[_Place]:
    if not processes or jobs == 1:
        yield _Place(jobs, _generated(n_jobs=jobs, backend="threading"))
        return
    from joblib.externals.loky.process_executor import BrokenProcessPool

    yield _Place(jobs, _generated(n_jobs=jobs, backend="loky"), (BrokenProcessPool,), children=True)


@contextlib.contextmanager
def _dask(address: str) -> Iterator[_Place]:
    import dask
    from distributed import Client, KilledWorker
    from joblib import parallel_config, register_parallel_backend
    from joblib._dask import DaskDistributedBackend

    dask.config.set({"distributed.admin.low-level-log-length": LOG})
    try:
        client = Client(f"tcp://{address}", timeout=ANSWER, set_as_default=False)
    except OSError as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error})", _START["dask"]) from None
    with client:
        if not client.ncores():
            log.warning("%s has no workers yet: waiting", address)
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise UsageError(f"{address} has no workers", f"start some: `dask worker {address} --nthreads 1`") from None
        workers = sum(client.ncores().values())
        log.info("%s: %d Dask workers", address, workers)

        class Backend(DaskDistributedBackend):
            """joblib's, which would wait for ever for a task that Dask has given up, run one worker's work here, and
            start a client on each worker, for calls within calls."""

            async def _to_func_args(self, func: Any) -> Any:
                return _Calls(), func.items

            def effective_n_jobs(self, n_jobs: int) -> int:
                return max(sum(client.ncores().values()), 2)

            def submit(self, func: Any, callback: Any = None) -> Any:
                def told(future: Future[Any]) -> None:
                    if error := future.exception():
                        callback(error)

                future = super().submit(func, callback)
                future.add_done_callback(told)
                return future

            def retrieve_result_callback(self, out: Any) -> Any:
                return super().retrieve_result_callback(_raised(out))

        register_parallel_backend("facerec-dask", Backend)

        def run(calls: Iterable[Any]) -> Iterator[Any]:
            with parallel_config("facerec-dask", client=client):
                yield from _generated(n_jobs=-1)(calls)

        yield _Place(workers, run, (KilledWorker,), far=True)


@contextlib.contextmanager
def _ray(address: str) -> Iterator[_Place]:
    # Else Ray's threads, where one outlives the connection, start a cluster on this machine and go on there.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    import ray
    from joblib import parallel_config, register_parallel_backend
    from ray.util.joblib.ray_backend import RayBackend
    from ray.util.multiprocessing.pool import ResultThread

    class Backend(RayBackend):
        """joblib's, which would give no result before all are there."""

        supports_return_generator = True

        def retrieve_result_callback(self, out: Any) -> Any:
            return super().retrieve_result_callback(_raised(out))

    for left in reversed(range(RAY_TRIES)):
        try:
            ray.init(f"ray://{address}", log_to_driver=False, logging_level=logging.ERROR)
            break
        except RuntimeError as error:
            if "Version mismatch" not in str(error):
                raise
            raise FacerecError(" ".join(str(error).split()), "install the same everywhere") from None
        except ConnectionError as error:
            ray.shutdown()
            if not left:
                raise UsageError(
                    f"no Ray cluster answers at {address} ({error})",
                    f"{_START['ray']}; where it asks for a token, set RAY_AUTH_MODE=token",
                ) from None
            log.warning("the Ray cluster at %s started no server for us: trying again", address)
    try:
        register_parallel_backend("facerec-ray", Backend)
        workers = int(ray.cluster_resources().get("CPU", 0))
        if workers < 2:  # joblib would run one worker's work here
            raise UsageError(
                f"{address} has {workers} processors", "join more with `ray start --address`, or use --jobs"
            )
        log.info("%s: %d Ray workers", address, workers)

        def run(calls: Iterable[Any]) -> Iterator[Any]:
            again = {"max_restarts": -1, "max_task_retries": 1}
            with parallel_config("facerec-ray", ray_remote_args=again):
                yield from _generated(n_jobs=workers)(calls)

        yield _Place(workers, run, (ray.exceptions.RayActorError,), far=True)
    finally:
        for thread in threading.enumerate():  # of a run that was given up: each hears that its worker is gone
            if isinstance(thread, ResultThread):
                thread.join(ANSWER)
        ray.shutdown()
