"""Parts of one job in processes of their own, by `tampo.runs.workers`: an evaluation on all GPUs, or a training run.

A GPU's memory is surely free only when the process that used it has ended: vLLM refuses to start on one that still
holds the trainer and the engine of its rollouts. So a training run before an evaluation by vLLM has its own process.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tampo.config import ConfigError, EvaluationConfig, TrainingConfig
from tampo.runs.identity import training_identity
from tampo.runs.interrupts import Interrupted, stop_on_signals
from tampo.runs.store import RunStore
from tampo.runs.workers import RunFailed, Task, Workers, visible_gpus

_POLL = 0.2  # seconds


def gpus_here() -> int:
    """GPUs of this machine that this process may use."""
    return len(visible_gpus()) if torch.cuda.is_available() else 0


def evaluation_processes(config: EvaluationConfig, workers: int | None = None) -> int:
    """Processes that share an evaluation: one per GPU; without a GPU `workers`, by default one.

    A server has one client, and so has what a launcher started (torchrun, accelerate), where each GPU has a process.
    """
    if config.eval_engine == "vllm-server" or _launched():
        return 1
    return gpus_here() or workers or 1


def trains_apart(training: TrainingConfig, config: EvaluationConfig) -> bool:
    """Whether a training run needs its own process, so that the evaluation after it finds the GPUs' memory free.

    Raises:
        ConfigError: It would, and a launcher started several processes, whose memory stays taken.
    """
    if training.rollout_engine != "vllm-colocate" and config.eval_engine != "vllm" and gpus_here() < 2:
        return False
    if _launched() and config.eval_engine == "vllm":
        raise ConfigError(
            "eval_engine vllm needs the memory of the GPUs that the processes of the launcher train on: run `tampo "
            "train` by accelerate launch or torchrun, and then `tampo evaluate` without it."
        )
    return not _launched()


def train_apart(store: RunStore, training: TrainingConfig, config: EvaluationConfig) -> None:
    """Make the record of a training run in a process that ends with it; its log lies beside the record.

    Raises:
        RunFailed: With the end of the log.
        Interrupted: By Ctrl-C or SIGTERM, after a checkpoint.
    """
    values = training.model_dump(mode="json"), config.model_dump(mode="json")
    order = {"root": str(store.root), "training": values[0], "evaluation": values[1], "model": training.model}
    name = store.folder("training", training_identity(training)).name
    workers = Workers(store.root, 1, gpus=min(gpus_here(), 1))
    _run(workers, [Task(name, json.dumps(order | {"launch": None, "part": "training"}), 1)])


def sample_apart(
    config: EvaluationConfig,
    weights: str,
    parts: Path,
    processes: int,
    report: Callable[[], None] = lambda: None,
    options: dict[str, Any] | None = None,
) -> None:
    """Sample all slices of an evaluation into `parts` by several processes, each with a GPU if there are any.

    A process that dies leaves its slices to the others. The processes' logs lie in `parts`, too.

    Args:
        weights: The model's folder.
        report: Called several times per second.
        options: Further arguments of the engine's class, in JSON types.

    Raises:
        RunFailed: Every process has failed; with the end of the first log.
        Interrupted: By Ctrl-C or SIGTERM.
    """
    values = config.model_dump(mode="json")
    order = {"launch": None, "training": None, "evaluation": values, "model": weights, "part": str(parts)}
    order["options"] = options or {}
    tasks = [Task(f"process-{number}", json.dumps(order), 1) for number in range(processes)]
    _run(Workers(parts, processes, gpus=min(gpus_here(), 1)), tasks, report)


def _run(workers: Workers, tasks: Sequence[Task], report: Callable[[], None] = lambda: None) -> None:
    """Run tasks at the same time until the last one has ended; one that succeeds is enough."""
    with stop_on_signals("Stopping; finished work is kept.") as stop:
        try:
            started = running = workers.submit(iter(tasks))
            while running := [worker for worker in running if worker.state() == "running"]:
                if stop:
                    raise Interrupted(workers.stopped)
                report()
                time.sleep(_POLL)
            errors = [worker.error() for worker in started]
            if all(errors):
                raise RunFailed(f"{errors[0]}; the end of {os.path.relpath(started[0].log)}:\n{_tail(started[0].log)}")
        finally:
            workers.stop()


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _launched() -> bool:
    """Whether this is one of several processes that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def run_part(job: dict[str, Any]) -> None:
    """Run such a part in a worker: what `train_apart` and `sample_apart` ordered."""
    from tampo.runs import pipeline

    config = EvaluationConfig(**job["evaluation"])
    if job["part"] == "training":
        pipeline.train(RunStore(Path(job["root"])), TrainingConfig(**job["training"]))
    else:
        pipeline.sample(config, job["model"], Path(job["part"]), job["options"])
