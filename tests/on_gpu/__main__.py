"""Usage: python -m tests.on_gpu [--only STAGE ...] [--json FILE]

Prints PASS, FAIL or SKIP for each check with its numbers, and writes them to FILE. Exit status 1 if any check failed.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tampo.files import write_json
from tests.on_gpu import SECONDS
from tests.on_gpu.report import Report, Skipped, status_of

ROOT = Path(__file__).parents[2]
HAS_GPU = shutil.which("nvidia-smi") is not None
PATIENCE = 1 if HAS_GPU else 4  # the limits are for a machine with a GPU


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.on_gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*SECONDS], metavar="STAGE", help=", ".join(SECONDS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the result")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)  # stage and file, of a process of ours
    options = parser.parse_args()
    if options.child:
        run_here(*options.child)
        return 0
    start, stages = time.monotonic(), []
    for name in options.only or SECONDS:
        stages.append(run(name))
        print(describe(stages[-1]), flush=True)
        seconds = round(time.monotonic() - start, 1)
        if options.json:
            write_json(options.json, {"seconds": seconds, "stages": stages})
    failed = [stage["stage"] for stage in stages if stage["status"] == "FAIL"]
    print(f"{seconds:.0f} s; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def run(name: str) -> dict[str, Any]:
    """A stage in a process of its own: its name, status, seconds and checks."""
    limit = SECONDS[name] * PATIENCE
    with tempfile.TemporaryDirectory(prefix=f"on_gpu_{name}_") as folder:
        file, start = Path(folder, "checks.json"), time.monotonic()
        with open(Path(folder, "log.txt"), "w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.on_gpu", "--child", name, str(file)],
                cwd=ROOT, env=environment(folder), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                ended = f"the process ended with status {process.wait(limit)}"
            except subprocess.TimeoutExpired:
                ended = f"stopped after {limit} s"
            finally:
                kill_group(process)
            log.seek(0)
            said = log.read()[-2000:]
        checks = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        if process.returncode != 0:
            checks.append({"name": name, "status": "FAIL", "numbers": {}, "message": f"{ended}: {said}"})
    seconds = round(time.monotonic() - start, 1)
    return {"stage": name, "status": status_of(checks), "seconds": seconds, "checks": checks}


def kill_group(process: subprocess.Popen) -> None:
    """End a stage and what it started, such as vLLM's processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(folder: str) -> dict[str, str]:
    """Nothing is downloaded or reported; without a GPU, Triton's kernels run in its interpreter."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_NO_USAGE_STATS": "1"}
    quiet |= {"VLLM_LOGGING_LEVEL": "WARNING", "TAMPO_CACHE": folder}
    if not HAS_GPU:
        quiet |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return os.environ | quiet


def run_here(name: str, file: str) -> None:
    """A stage in this process. An error of it is a failed check, and what it had found before stays."""
    report = Report(Path(file))
    try:
        importlib.import_module(f"tests.on_gpu.{name}").run(report, Path(file).parent)
    except Skipped as reason:
        report.skip(name, str(reason))
    except Exception as error:
        report.check(name, False, f"{type(error).__name__}: {error}"[-2000:])


def describe(stage: dict[str, Any]) -> str:
    lines = [f"{stage['status']}  {stage['stage']}  ({stage['seconds']:.0f} s)"]
    for check in stage["checks"]:
        numbers = ", ".join(f"{name} {value}" for name, value in check["numbers"].items())
        lines.append(f"  {check['status']}  {check['name']}: {'; '.join(filter(None, [numbers, check['message']]))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
