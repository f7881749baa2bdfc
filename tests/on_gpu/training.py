"""TAMPO training runs of the mini model in each precision, whole, and killed and resumed: the same weights.

Each run is a process: python -m tests.on_gpu.training FOLDER PRECISION [POINT CALL], of `tests.runs.killed_run`.
"""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers import ROOT
from tests.on_gpu.device import ON_GPU
from tests.on_gpu.report import Report

STEPS, CHECKPOINT = 4, 2
PRECISIONS = ("fp32", "bf16", "fp16")
SMALL = {
    "prompts_per_step": 4,
    "per_device_train_batch_size": 32,
    "train_problems": 40,
    "max_completion_length": 32,
    "max_steps": STEPS,
    "meta_warmup_ratio": 0.25,
}


def run(report: Report, folder: Path) -> None:
    wanted = []
    for precision in PRECISIONS:
        if precision != "fp32" and not ON_GPU:
            report.skip(precision, "torch finds no GPU")
        elif precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            report.skip(precision, "this GPU has no bfloat16 (compute capability below 8.0)")
        else:
            wanted.append(precision)
    with ThreadPoolExecutor(len(wanted)) as pool:  # most of a run's time goes into imports
        for precision, result in zip(wanted, pool.map(lambda p: whole_and_resumed(folder / p, p), wanted), strict=True):
            compare(report, precision, folder / precision, *result)


def whole_and_resumed(folder: Path, precision: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The logs of an uninterrupted and of a resumed run, and the step that the latter resumed from."""
    whole = finished(folder / "whole", command(folder / "whole", precision))
    killed = subprocess.run(command(folder / "resumed", precision, "meta-policy", STEPS), **OPTIONS)
    if killed.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{precision}: not killed, but ended with {killed.returncode}: {killed.stderr[-1500:]}")
    sealed = list((folder / "resumed" / "checkpoints").glob("checkpoint-*/files.json"))
    (step,) = (int(path.parent.name.split("-")[1]) for path in sealed)
    return whole, finished(folder / "resumed", command(folder / "resumed", precision)), step


OPTIONS: dict[str, Any] = {
    "cwd": ROOT, "capture_output": True, "text": True, "env": os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
}  # fmt: skip


def command(folder: Path, precision: str, *point: Any) -> list[str]:
    return [sys.executable, "-m", "tests.on_gpu.training", str(folder), precision, *map(str, point)]


def finished(folder: Path, words: list[str]) -> dict[str, Any]:
    """The log that a run leaves in its folder; a RuntimeError with its messages if it does not end well."""
    done = subprocess.run(words, **OPTIONS)
    if done.returncode:
        raise RuntimeError(f"{folder.name}: status {done.returncode}: {done.stderr[-1500:]}")
    return json.loads((folder / "log.json").read_text(encoding="utf-8"))


def compare(
    report: Report, precision: str, folder: Path, whole: dict[str, Any], resumed: dict[str, Any], step: int
) -> None:
    check_log(report, precision, whole)
    far = distance(folder / "whole", folder / "resumed")
    message = f"resumed from step {step}"
    if far:
        finished(folder / "again", command(folder / "again", precision))
        message += f"; two uninterrupted runs differ by {distance(folder / 'whole', folder / 'again'):.2g}"
    same = whole["temperatures"] == resumed["temperatures"]
    report.check(f"{precision}, weights of a killed and resumed run", far == 0, message, largest_difference=far)
    report.check(f"{precision}, its temperatures", same and step == CHECKPOINT, message)


def check_log(report: Report, title: str, log: dict[str, Any]) -> None:
    """That a run trained, where it should, with temperatures that change."""
    finite = log["finite"] and all(abs(loss) < 1e6 for loss in log["losses"])
    changing = len(log["temperatures"]) == STEPS and len(set(log["temperatures"])) > 1
    placed = log["device"].startswith("cuda") == ON_GPU
    report.check(
        f"{title}, training", finite and changing and placed, "finite weights and losses, several temperatures",
        **{name: log[name] for name in ("device", "wrapper", "temperatures", "seconds_per_step", "peak_mb")},
    )  # fmt: skip


def distance(one: Path, other: Path) -> float:
    """The largest difference of any weight of two saved models."""
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def train(folder: Path, precision: str, point: str | None = None, call: str = "") -> None:
    """Train, resumed if there is a checkpoint, and leave log.json; or die at a point of `tests.runs.killed_run`."""
    from tampo.config import load_params
    from tampo.runs import training
    from tests.on_gpu.device import peak_mb
    from tests.runs.killed_run import kill_at

    torch.use_deterministic_algorithms(True, warn_only=True)
    training.CHECKPOINT_STEPS, made, make = CHECKPOINT, [], training.make_trainer

    def keep(*args: Any, **kwargs: Any) -> Any:
        made.append(make(*args, **kwargs))
        return made[-1]

    training.make_trainer = keep
    if point:
        kill_at(point, int(call))
    # The mini model would train on the CPU by itself.
    device = {"precision": precision, "device": "gpu" if ON_GPU else "auto"}
    config = load_params("smoke", SMALL | device).training()
    rows, _ = training.train(config, folder)
    trainer = made[0][0]
    if not trainer.is_world_process_zero():
        return
    weights = load_file(folder / "model" / "model.safetensors").values()
    log = {
        "device": str(trainer.accelerator.device),
        "wrapper": type(trainer.model_wrapped).__name__,
        "temperatures": [row["temperature"] for row in rows],
        "losses": [row["loss"] for row in rows],
        "finite": all(bool(weight.isfinite().all()) for weight in weights),
        "seconds_per_step": round(median(row["step_time"] for row in rows), 3),
        "peak_mb": peak_mb(),
    }
    (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")


if __name__ == "__main__":
    train(Path(sys.argv[1]), *sys.argv[2:])
