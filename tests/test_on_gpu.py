"""`python -m tests.on_gpu` on a machine without a GPU, in a small part: what runs, what is skipped, what fails."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT
from tests.on_gpu import SECONDS, __main__
from tests.on_gpu.report import FAIL, PASS, SKIP, Report, Skipped, status_of

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make test-gpu")


def test_all_stages_together_end_within_eight_minutes():
    assert sum(SECONDS.values()) <= 480
    modules = {path.stem for path in (ROOT / "tests" / "on_gpu").glob("*.py")}
    assert modules == SECONDS.keys() | {"__init__", "__main__", "report", "device", "lane_kernel"}


@without_gpu
def test_what_can_run_on_a_cpu_runs(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    file = tmp_path / "result.json"
    words = [sys.executable, "-m", "tests.on_gpu", "--only", "kernel", "colocate", "--json", str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    kernel, colocate = json.loads(file.read_text())["stages"]
    found = {check["name"]: check for check in kernel["checks"]}
    assert (kernel["status"], colocate["status"]) == (PASS, SKIP)
    for name in ("kernel, float32", "kernel, bfloat16", "kernel, float16", "candidate, bfloat16"):
        check = found[f"{name}, against float64"]
        assert check["status"] == PASS
        assert 0 < check["numbers"]["largest_error"] < 1e-5
    for title in ("kernel", "candidate"):
        assert found[f"{title}, offsets up to {2**31} with 9 rows"]["status"] == PASS
    assert found["times"]["status"] == SKIP
    assert colocate["checks"][0]["message"] == "torch finds no GPU"
    assert "PASS  kernel" in done.stdout and "SKIP  colocate" in done.stdout


def child(body):
    """The command of a stage's process, which does this instead."""
    return [sys.executable, "-c", body]


BOTH_HANG = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; print('last words', flush=True); os.abort()", "status -6: last words"),
        (BOTH_HANG, "stopped after 1 s"),
    ],
    ids=["dies", "hangs"],
)
def test_a_stage_that_dies_or_hangs_is_one_failure(body, message, monkeypatch):
    start, popen = time.monotonic(), subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **options: popen([sys.executable, "-c", body], **options))
    monkeypatch.setitem(SECONDS, "kernel", 1)
    monkeypatch.setattr(__main__, "PATIENCE", 1)
    stage = __main__.run("kernel")
    (check,) = stage["checks"]
    assert (stage["status"], check["status"]) == (FAIL, FAIL)
    assert message in check["message"]
    assert time.monotonic() - start < 30
    if body == BOTH_HANG and Path("/proc/self").exists():  # what it started has ended too
        pid = int(check["message"].split()[-1])
        for _ in range(50):
            status = Path(f"/proc/{pid}/status")
            if not status.exists() or "zombie" in status.read_text():
                break
            time.sleep(0.1)
        else:
            pytest.fail("a process of the stage is left")


def test_an_error_in_a_stage_is_a_failure_and_what_it_found_stays(tmp_path, monkeypatch):
    from tests.on_gpu import kernel

    def broken(report, folder):
        report.check("first", True, number=1 / 3)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(kernel, "run", broken)
    __main__.run_here("kernel", str(tmp_path / "checks.json"))
    first, error = json.loads((tmp_path / "checks.json").read_text())
    assert first == {"name": "first", "status": PASS, "numbers": {"number": 0.3333}, "message": ""}
    assert (error["status"], error["message"]) == (FAIL, "RuntimeError: out of memory")
    assert status_of([first, error]) == FAIL


@pytest.mark.parametrize("fault", ["sums", "chosen"])
def test_a_wrong_kernel_fails(tmp_path, monkeypatch, fault):
    """One that loses a thousandth of a sum, or has another token's logit."""
    from tests.on_gpu import kernel

    def wrong(logits, tokens, temperatures, cap=None):
        logits = logits.double() if cap is None else cap * torch.tanh(logits.double() / cap)
        found = kernel.expected_log_probs(logits, tokens, temperatures)
        return found + 1e-3 if fault == "sums" else found + logits[:, :1] * 1e-3

    monkeypatch.setattr(kernel, "log_probs", wrong)
    report = Report(tmp_path / "checks.json")
    kernel.against_float64(report, "kernel", torch.float32)
    assert [check["status"] for check in report.checks] == [FAIL]


def test_what_was_skipped_is_no_success(tmp_path):
    report = Report(tmp_path / "checks.json")
    report.skip("GPU", "none")
    assert status_of(report.checks) == SKIP
    report.check("versions", True)
    assert status_of(report.checks) == PASS
    assert issubclass(Skipped, Exception)
