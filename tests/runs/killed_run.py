"""Run by test_faults: a training run and its evaluation, to the end or killed at the n-th call of a function."""

import importlib
import os
import resource
import signal
from pathlib import Path
from typing import Any

import torch

from tampo.config import Params
from tampo.runs import training
from tampo.runs.jobs import Job, run_jobs
from tampo.runs.pipeline import evaluate
from tampo.runs.store import RunStore

# Where a run may be killed: module and function, or class.method.
POINTS = {
    "start of training": ("tampo.runs.training", "make_trainer"),
    "generation": ("tampo.inference.sampling", "draw_tokens"),
    "reward": ("tampo.tasks.rewards", "completion_text"),
    "forward": ("tampo.trainer.length_grouping", "_widen"),
    "likelihoods": ("tampo.trainer.trl_internals", "LogitRecorder.log_probs"),
    "meta-policy": ("tampo.controllers.registry", "TAMPO.update"),
    "backward": ("torch", "Tensor.backward"),
    "log": ("tampo.runs.pipeline", "_log_step"),
    "checkpoint, weights": ("transformers", "PreTrainedModel.save_pretrained"),
    "checkpoint, controller": ("tampo.trainer.trainer", "write_json"),
    "checkpoint, seal": ("tampo.runs.training", "seal_checkpoint"),
    "rollouts": ("tampo.runs.training", "_join_rollouts"),
    "metrics": ("tampo.runs.pipeline", "atomic_path"),
    "manifest": ("tampo.runs.store", "provenance"),
    "evaluation": ("tampo.inference.slices", "_sample_slice"),
    "part of an evaluation": ("tampo.inference.slices", "atomic_path"),
}


def kill_at(point: str, call: int) -> None:
    """Kill this process at the given call (from 1) of a function, before the function runs."""
    module, path = POINTS[point]
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), 0

    def counting(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counting)


def run(root: Path, values: dict[str, Any], kill: tuple[str, int] | None = None, largest: int | None = None) -> None:
    """Make the records of these parameters in the store `root`.

    Killed at a point: its name in `POINTS`, number of the call. `largest`: no file can have more bytes.
    """
    torch.set_num_threads(1)
    training.CHECKPOINT_STEPS = 2
    if kill is not None:
        kill_at(*kill)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    params = Params(**values)
    evaluate(RunStore(root), params.evaluation(), params.model, params.training())


def run_by_workers(root: Path, values: dict[str, Any]) -> None:
    """The same by one of the workers of `run_jobs`."""
    params = Params(**values)
    job = Job("TAMPO", params.evaluation(), params.training())
    run_jobs(RunStore(root), [job], workers=1)
