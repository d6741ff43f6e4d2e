"""The engines that run the networks: their threads, their device, and what gets recorded about them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

from facerec.errors import WeightsError
from facerec.types import FloatArray


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(n: int, most: int, threads: int) -> int:
    """How many of n items one call takes, `most` at most, for every thread to have as many calls."""
    rounds = -(-n // (most * threads))
    return -(-n // (rounds * threads))


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def session(path: Path, threads: int, layout: Path | None = None) -> Any:
    """An ONNX Runtime session on the CPU, or what does the same where the graph carries a stem.

    Args:
        path: the graph.
        threads: inside one operator; 1 where the callers themselves run side by side.
        layout: where to write the graph as the runtime has arranged it, for where `arranged_for` says the same. Its
            values go to LAYOUT.bin, from where they are mapped into memory: it loads in a tenth of the time.

    Raises:
        WeightsError: the file is not a graph that the runtime can load, or the layout cannot be written.
    """
    made = _onnx(path, threads, layout)
    about = made.get_modelmeta().custom_metadata_map
    return Stemmed(made, about, threads, lambda: _onnx(path, threads=1)) if "facerec stem" in about else made


def _onnx(path: Path, threads: int, layout: Path | None = None) -> Any:
    import onnxruntime as ort

    ort.disable_telemetry_events()  # where it was imported before this package forbade it
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # after a call its threads would keep spinning, on the cores that ncnn, the detector and the levels need
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    if layout:
        options.optimized_model_filepath = str(layout)
        external = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{external}_file_name", f"{layout.name}.bin")
        options.add_session_config_entry(f"{external}_min_size_in_bytes", "1024")
    try:
        return ort.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises its own, undocumented types
        raise WeightsError(f"{path} cannot be loaded ({error})", "facerec models pull --force") from error


def arranged_for() -> dict[str, Any]:
    """What a layout depends on: the runtime, and what the processor can do."""
    import onnxruntime as ort

    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {"onnxruntime": ort.__version__, "processor": processor(), "instructions": simd.get("found", [])}


class Portable:
    """A network that goes to other processes as the call that made it: each process makes it once.

    One that is not ``thread_safe`` is made once a thread. The arguments must be hashable.
    """

    thread_safe = True
    _call: tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        made._call = args, tuple(kwargs.items())
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (type(self), *self._call)


_arrived_here: dict[Any, Any] = {}


def _arrived(kind: type[Portable], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Any:
    key = kind, args, kwargs, None if kind.thread_safe else threading.get_ident()
    with _making:
        if key not in _arrived_here:
            _arrived_here[key] = kind(*args, **dict(kwargs))
        return _arrived_here[key]


class _Blas:
    """Keeps BLAS to one thread while there are users.

    All limits are set on one thread of its own: threadpoolctl heeds only the one that set the first, and a user may
    be the first to come but not the last to go.
    """

    def __init__(self) -> None:
        from threadpoolctl import ThreadpoolController

        self._controller = ThreadpoolController().select(user_api="blas")
        self.needed = any(library["num_threads"] > 1 for library in self._controller.info())
        self._setter = ThreadPoolExecutor(1, "blas")
        self._lock, self._users, self._limit = threading.Lock(), 0, contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._setter.submit(lambda: self._limit.enter_context(self._controller.limit(limits=1))).result()
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._setter.submit(self._limit.close).result()


_one_blas: _Blas | None = None
_making = threading.RLock()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """While somebody is inside, each matrix product of this process stays on its caller's thread.

    For products too small to be shared, from callers that run side by side: BLAS would make them wait for
    one another.
    """
    global _one_blas
    with _making:
        blas = _one_blas = _one_blas or _Blas()
    if not blas.needed:  # as in workers, whose environment says so
        yield
        return
    blas.enter()
    try:
        yield
    finally:
        blas.leave()


def _ncnn() -> Any:
    """The package, its threads asleep between calls: they would spin on the cores that ONNX Runtime needs next."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # GNU's OpenMP; the others take `openmp_blocktime`
    import ncnn

    return ncnn


class Net:
    """An ncnn network from blob "image" to blob "out", in float32.

    Args:
        param: its layers.
        weights: their values.
        threads: that share a call, the caller's among them.

    Raises:
        WeightsError: the files are not a network that ncnn can load.
    """

    def __init__(self, param: Path, weights: Path, threads: int = 1) -> None:
        ncnn = _ncnn()
        self._net, self._mat = ncnn.Net(), ncnn.Mat
        for option in ("use_vulkan_compute", "use_fp16_storage", "use_fp16_packed", "use_fp16_arithmetic"):
            setattr(self._net.opt, option, False)
        self._net.opt.num_threads = threads
        self._net.opt.openmp_blocktime = 0
        self._allocators = ncnn.UnlockedPoolAllocator, ncnn.PoolAllocator  # of results; of what threads share
        self._own = threading.local()  # a thread's memory: the network's own would go from core to core with each call
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise WeightsError(f"{param} cannot be loaded", "facerec models pull --force")

    def __call__(self, image: FloatArray) -> FloatArray:
        """(channels, h, w) float32 → the output's channels first."""
        if not hasattr(self._own, "memory"):
            self._own.memory = tuple(allocator() for allocator in self._allocators)
        return self._run(np.ascontiguousarray(image), *self._own.memory)

    def _run(self, pixels: FloatArray, blobs: Any, workspace: Any) -> FloatArray:
        """A call that takes its memory from these, and has given it back when it ends: so the result is a copy."""
        run = self._net.create_extractor()
        run.set_blob_allocator(blobs)
        run.set_workspace_allocator(workspace)
        run.input("image", self._mat(pixels))  # ncnn reads from it, and does not keep it alive
        return np.array(run.extract("out")[1])


class Stemmed:
    """A network whose first layers run on ncnn, a picture at a time, and the others as an ONNX graph.

    Stands in for the whole network's session. The first layers are a quarter of FaceNet's work, and ncnn's Winograd
    convolutions do them in less than half the time.

    Threads take whole pieces of a batch, small enough for what a piece needs to fit a core's cache; a rest of fewer
    pictures than threads is shared.

    Args:
        rest: session of the graph that takes what the first layers give, on all threads.
        about: the graph's metadata, as `facerec.reference` wrote them.
        threads: how many.
        alone: makes the session that a piece runs on, on its caller's thread.
    """

    PIECE = 4

    def __init__(self, rest: Any, about: dict[str, str], threads: int, alone: Callable[[], Any]) -> None:
        self._param, self._weights = about["facerec stem"], base64.b64decode(about["facerec stem weights"])
        self._threads = threads
        self._inputs = [SimpleNamespace(name="image", shape=json.loads(about["facerec stem input"]))]
        self._rest, self._make_alone = rest, alone
        self._between = rest.get_inputs()[0].name
        self._map: Any = ThreadPoolExecutor(threads).map if threads > 1 else map

    @cached_property
    def _alone(self) -> tuple[Net, Any]:
        """Both parts on one thread."""
        return self._make_stem(1), self._make_alone() if self._threads > 1 else self._rest

    @cached_property
    def _shared(self) -> tuple[Net, Any]:
        """Both parts on all threads."""
        return self._make_stem(self._threads), self._rest

    def _make_stem(self, threads: int) -> Net:
        with tempfile.TemporaryDirectory(prefix="facerec-") as name:  # ncnn reads files only
            param, weights = Path(name, "stem.param"), Path(name, "stem.bin")
            param.write_text(self._param)
            weights.write_bytes(self._weights)
            return Net(param, weights, threads)

    def get_inputs(self) -> list[SimpleNamespace]:
        """The whole network's."""
        return self._inputs

    def get_outputs(self) -> Any:
        """The whole network's."""
        return self._rest.get_outputs()

    def run(self, names: list[str] | None, inputs: dict[str, FloatArray]) -> Any:
        """As a session's: "image" is (n, h, w, 3) float32."""
        images = inputs["image"].transpose(0, 3, 1, 2)
        even = len(images) - len(images) % self._threads  # as many for each thread
        whole, left = images[:even], images[even:]

        def piece(stem: Net, rest: Any, images: FloatArray) -> Any:
            return rest.run(names, {self._between: np.stack([stem(image) for image in images])})

        done = []
        if even:
            size, alone = share(even, self.PIECE, self._threads), self._alone
            done += self._map(lambda i: piece(*alone, whole[i : i + size]), range(0, even, size))
        if len(left):
            done.append(piece(*self._shared, left))
        return [np.concatenate(outputs) for outputs in zip(*done, strict=True)]


def describe() -> str:
    """Engines, versions and device, for logs and records."""
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__} CPUExecutionProvider, ncnn {_ncnn().__version__} CPU"
