"""The machine and its energy, as far as this and other machines tell."""

import gc
import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from tampo.runs import hardware
from tampo.runs.hardware import EnergyMeter, describe, machine


def test_the_machine_is_json():
    found = machine()
    assert list(found) == ["processor", "cores", "memory_gb", "threads", "gpus", "driver"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["processor"] and found["cores"] >= 1 and found["threads"] >= 1
    assert found["memory_gb"] is None or found["memory_gb"] > 0.1
    assert describe(found).startswith(f"{found['processor']}, {found['cores']} cores")


def test_the_machine_does_not_import_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = machine()
    assert "torch" not in sys.modules
    assert (found["threads"], found["gpus"], found["driver"]) == (3, [], None)


def test_a_machine_with_gpus(monkeypatch):
    cuda = SimpleNamespace(device_count=lambda: 2, get_device_name=lambda i: "NVIDIA X")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, get_num_threads=lambda: 1))
    monkeypatch.setattr(hardware, "_driver", lambda: "590.1")
    found = machine()
    assert (found["gpus"], found["driver"]) == (["NVIDIA X", "NVIDIA X"], "590.1")
    assert describe(found).endswith("cores, NVIDIA X")


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    """Counters of processors: call it with microjoules by package; each starts again at 1000 J."""
    monkeypatch.setattr(hardware, "_POWERCAP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # no GPU

    def show(**values):
        for number, value in values.items():
            folder = tmp_path / f"intel-rapl:{number[1:]}"
            folder.mkdir(exist_ok=True)
            (folder / "energy_uj").write_text(f"{value}\n")
            (folder / "max_energy_range_uj").write_text("1000000000\n")
        return tmp_path

    return show


def test_energy_is_summed_over_processors(powercap):
    (powercap(p0=5_000_000, p1=1_000_000) / "intel-rapl:0:0").mkdir()  # a part of processor 0
    (powercap() / "intel-rapl:0:0" / "energy_uj").write_text("7")
    meter = EnergyMeter()
    assert meter.joules() == 0.0
    powercap(p0=25_000_000, p1=1_500_000)
    assert meter.joules() == 20.5
    powercap(p0=26_000_000)
    assert meter.joules() == 21.5


def test_a_counter_that_starts_again(powercap):
    powercap(p0=990_000_000)
    meter = EnergyMeter()
    powercap(p0=5_000_000)
    assert meter.joules() == 15.0


def test_a_counter_is_read_before_it_starts_again_twice(powercap, monkeypatch):
    monkeypatch.setattr(hardware, "_EVERY", 0.01)
    powercap(p0=0)
    meter, before = EnergyMeter(), 0.0
    for value in (600, 200, 800, 400):  # 600 more each time, through 1000 twice
        powercap(p0=value * 1_000_000)
        before += 600
        deadline = time.monotonic() + 20
        while sum(meter._used.values()) < before and time.monotonic() < deadline:
            time.sleep(0.01)
    assert meter.joules() == before


def test_the_thread_ends_with_its_meter(powercap, monkeypatch):
    monkeypatch.setattr(hardware, "_EVERY", 0.01)
    powercap(p0=0)
    before = set(threading.enumerate())
    meter = EnergyMeter()
    (thread,) = set(threading.enumerate()) - before
    time.sleep(0.05)
    assert thread.is_alive()
    del meter
    gc.collect()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_no_counter_is_none_and_starts_no_thread(powercap):
    before = set(threading.enumerate())
    assert EnergyMeter().joules() is None
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("damage", ["text", "unreadable"])
def test_a_counter_that_cannot_be_read_is_none(powercap, damage):
    file = powercap(p0=5) / "intel-rapl:0" / "energy_uj"
    if damage == "text":
        file.write_text("?")
    else:
        file.unlink()
        file.mkdir()
    assert EnergyMeter().joules() is None


def test_gpus_count(powercap, monkeypatch):
    used = [1000, 5000]
    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda index: used[index],
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = EnergyMeter()
    used[:] = 3500, 5250
    assert meter.joules() == 2.8  # of millijoules
    used[:] = 0, 6250  # the first one's driver was loaded anew
    assert meter.joules() == 3.8
