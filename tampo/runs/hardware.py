"""The machine that a result was made on, and the energy that it took, as far as the machine tells."""

import os
import platform
import re
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from loky import cpu_count

_POWERCAP = Path("/sys/class/powercap")  # Linux: counters of processors, often readable by root only
_EVERY = 60.0  # seconds: such a counter starts again from 0 every ten minutes to an hour


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
        self._last, self._used, self._lock = _counters(), dict[str, float](), threading.Lock()
        if any(limit for _, limit in self._last.values()):
            threading.Thread(target=_follow, args=(weakref.ref(self),), daemon=True).start()

    def joules(self) -> float | None:
        """None: the machine has no counter that this user may read."""
        self.read()
        return round(sum(self._used.values()), 1) if self._used else None

    def read(self) -> None:
        """Add what was used since the last reading."""
        with self._lock:
            now = _counters()
            for name, (value, limit) in now.items():
                before = self._last.get(name, (value, limit))[0]
                if value < before:  # it has started again, once
                    value += limit
                # One that gives no limit and starts again (a driver was loaded anew) has lost what was used.
                self._used[name] = self._used.get(name, 0.0) + max(value - before, 0.0)
            self._last |= now


def _follow(meter: weakref.ref[EnergyMeter]) -> None:
    """Read a meter often enough that no counter starts again twice, until nobody has the meter."""
    pause = threading.Event()
    while not pause.wait(_EVERY):
        found = meter()
        if found is None:
            return
        found.read()
        del found


def _counters() -> dict[str, tuple[float, float]]:
    """By counter: joules so far, and the joules at which it starts again from 0 (0: it does not)."""
    found: dict[str, tuple[float, float]] = {}
    for package in sorted(_POWERCAP.glob("intel-rapl:?")):  # AMD's have the same name
        with suppress(OSError, ValueError):
            used, limit = (int((package / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
            found[package.name] = used / 1e6, limit / 1e6
    with suppress(Exception):  # no NVIDIA library, no GPU, or one without a counter
        import pynvml

        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found[f"gpu:{index}"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 0.0
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
