"""Run by test_faults: a training run and its evaluation, killed several times, each at the n-th call of a function.

Arguments: the store's folder, the parameters as JSON, and a list of [name in POINTS, number of the call] as JSON. Each
is a run in a fork of this process, which has imported all already. Without any, it runs itself, to the end.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tampo.config import Params
from tampo.runs import training
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


def killed_at(point: str, call: int, run: Callable[[], object]) -> None:
    """Fork a run. Raises RuntimeError if it is not killed at this call."""
    if (child := os.fork()) == 0:
        kill_at(point, call)
        run()
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended != -signal.SIGKILL:
        raise RuntimeError(f"{point}, call {call}: not killed, but ended with {ended}.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    training.CHECKPOINT_STEPS = 2
    params, points = Params(**json.loads(sys.argv[2])), json.loads(sys.argv[3])

    def run() -> None:
        evaluate(RunStore(Path(sys.argv[1])), params.evaluation(), params.model, params.training())

    for point in points:
        killed_at(*point, run)
    if not points:
        run()
