"""ONNX Runtime sessions: threads, device, and what gets recorded about them."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from facerec.errors import WeightsError


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        path: the graph.
        threads: inside one operator; 1 where the callers themselves run side by side.

    Raises:
        WeightsError: the file is not a graph that the runtime can load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises its own, undocumented types
        raise WeightsError(f"{path} cannot be loaded ({error})", "facerec models pull --force") from error


def describe() -> str:
    """Engine, version and device, for logs and records."""
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__} CPUExecutionProvider"
