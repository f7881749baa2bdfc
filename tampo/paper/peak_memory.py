"""Peak memory of a call, measured in a process of its own."""

import contextlib
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch


def peak_memory(function: Callable[..., None], *args: Any) -> float:
    """Peak memory in MB of a call in a new process: of the GPU, or without a GPU of the process without its imports.

    Args:
        function: A function at module level, so that the new process can import it.
        args: Its arguments.
    """
    # Not a Pool, which starts a process that cannot start anew without end.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of, function, args).result()


def _peak_of(function: Callable[..., None], args: tuple[Any, ...]) -> float:
    if torch.cuda.is_available():
        function(*args)
        return torch.cuda.max_memory_allocated() / 2**20
    # Resets the peak, which the imports have set; on Linux only.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_resident()
    function(*args)
    return _peak_resident() - before


def _peak_resident() -> float:
    """Peak memory of this process in MB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
