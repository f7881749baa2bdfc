"""The machine that a result was made on, and the energy that it took, as far as the machine tells."""

import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from loky import cpu_count

_POWERCAP = Path("/sys/class/powercap")  # Linux: counters of processors, often readable by root only


def machine() -> dict[str, Any]:
    """Processor, cores of this process, memory in GB, threads of torch, GPUs and their driver."""
    torch = sys.modules.get("torch")  # not imported for this: it takes seconds
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {
        "processor": _processor(),
        "cores": cpu_count(),
        "memory_gb": _memory(),
        "threads": torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS", cpu_count())),
        "gpus": gpus,
        "driver": _driver() if gpus else None,
    }


def describe(machine: dict[str, Any]) -> str:
    """The machine in words, for captions: the processor model, the cores, and the GPUs if there are any."""
    return ", ".join([machine["processor"], f"{machine['cores']} cores", *sorted(set(machine["gpus"]))])


class EnergyMeter:
    """Joules of the whole machine's processors and GPUs since it was made; other work on the machine counts too."""

    def __init__(self) -> None:
        self._start = _counters()

    def joules(self) -> float | None:
        """None: the machine has no counter that this user may read."""
        # A counter that has started again from 0 would give a negative number.
        used = [now - self._start[name] for name, now in _counters().items() if now >= self._start.get(name, now + 1)]
        return round(sum(used), 1) if used else None


def _counters() -> dict[str, float]:
    """Joules so far, by counter."""
    found: dict[str, float] = {}
    for package in sorted(_POWERCAP.glob("intel-rapl:?")):  # AMD's have the same name
        with suppress(OSError, ValueError):
            found[package.name] = int((package / "energy_uj").read_text()) / 1e6
    with suppress(Exception):  # no NVIDIA library, no GPU, or one without a counter
        import pynvml

        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found[f"gpu:{index}"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    return found


def _processor() -> str:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if model := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return model[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _driver() -> str | None:
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        if version := re.search(r"Kernel Module.*?(\d+\.\d+[.\d]*)", text):
            return version[1]
    return None
