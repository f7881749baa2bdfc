"""What TAMPO's outer loop costs (section 4.2), and what tampo's own rollouts and scoring save.

Every measurement takes its cases in turns, and every ratio is paired: a step with the same step, a round with itself.

The outer loop is measured beside TRL's GRPOTrainer on the same rollouts. Both train at T = 1 throughout, TAMPO
because its warm-up lasts for the whole run; they draw the same tokens and make the same updates, and what is left
between them is the outer loop.
"""

import contextlib
import gc
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from tampo.config import TrainingConfig
from tampo.fused_head import LogitRecorder
from tampo.stats import Estimate, mean_interval
from tampo.stopwatch import Stopwatch, now
from tampo.trainer import TAMPOTrainer
from tampo.training import make_trainer, sample_rollouts

PARTS = ("generate", "reward", "forward", "backward", "outer loop", "other")


@dataclass(frozen=True)
class Case:
    """One way to train: the trainer, who samples, and whether rollouts are scored by length."""

    title: str
    trainer: type[GRPOTrainer]
    fast: bool = False


CASES = {
    "grpo": Case("TRL's GRPOTrainer", GRPOTrainer),
    "tampo": Case("TAMPOTrainer, TRL's rollouts and scoring", TAMPOTrainer),
    "fast": Case("TAMPOTrainer as tampo trains", TAMPOTrainer, fast=True),
}


class _Laps(TrainerCallback):
    """Seconds of every optimizer step, whole and by part."""

    def __init__(self, watch: Stopwatch) -> None:
        self.steps: list[dict[str, float]] = []
        self._watch, self._start = watch, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watch.lap()
        self._start = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parts = {"whole": now() - self._start} | self._watch.lap()
        self.steps.append(parts | {"other": 2 * parts["whole"] - sum(parts.values())})


def measure_steps(config: TrainingConfig, rounds: int, cases: tuple[str, ...] = ("grpo", "tampo")) -> pd.DataFrame:
    """Step times of several ways to train, taken in turns: the order of one round is turned round in the next.

    Args:
        config: The training; its controller is replaced.
        rounds: Trainings of each case.
        cases: Keys of `CASES`.

    Returns:
        Columns round, step (from 1), case, part (of `PARTS`, or "whole"), seconds. Each round is the same training
        over again.

    Raises:
        RuntimeError: "grpo" and "tampo" did not draw the same rollouts, so that their times cannot be compared.
    """
    rows, lengths = [], dict[str, list[float]]()
    for number in range(rounds):
        for name in cases if number % 2 == 0 else reversed(cases):
            with _trainer(config, name) as (trainer, laps):
                trainer.train()
            for step, parts in enumerate(laps.steps, start=1):
                for part in ("whole", *PARTS):
                    own = {"round": number, "step": step, "case": name, "part": part}
                    rows.append(own | {"seconds": parts.get(part, 0.0)})
            lengths[name] = [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row]
        if {"grpo", "tampo"} <= {*cases} and lengths["grpo"] != lengths["tampo"]:
            raise RuntimeError("The two trainers drew different rollouts: their times cannot be compared.")
    return pd.DataFrame(rows)


@contextlib.contextmanager
def _trainer(config: TrainingConfig, name: str) -> Iterator[tuple[GRPOTrainer, _Laps]]:
    case = CASES[name]
    fair = {"controller": "tampo", "temperature": 1.0, "meta_warmup_ratio": 1.0, "meta_warmup_temperature": 1.0}
    fair |= {} if case.fast else {"scoring_batch": None}
    watch = Stopwatch()
    laps = _Laps(watch)
    with tempfile.TemporaryDirectory() as folder, patch("tampo.fused_head.LogitRecorder", _timed_recorder(watch)):
        rollouts = sample_rollouts if case.fast else None
        config = TrainingConfig(**config.model_dump() | fair)
        trainer, _ = make_trainer(config, Path(folder), case.trainer, [laps], rollouts)
        trainer.remove_callback(PrinterCallback)  # the log of a training is of no use here
        for part, owner, method in (
            ("generate", trainer, "_generate"),
            ("reward", trainer, "_calculate_rewards"),
            ("forward", trainer, "_compute_loss"),
            ("backward", trainer.accelerator, "backward"),
            ("outer loop", trainer, "_observe"),
        ):
            if hasattr(owner, method):
                setattr(owner, method, watch.timed(part, getattr(owner, method)))
        yield trainer, laps
    del trainer
    gc.collect()


def _timed_recorder(watch: Stopwatch) -> type:
    methods = ("__init__", "__call__", "log_probs")
    timed = {name: watch.timed("outer loop", getattr(LogitRecorder, name)) for name in methods}
    return type("TimedRecorder", (LogitRecorder,), timed)


def step_ratio(times: pd.DataFrame, case: str, base: str = "grpo") -> Estimate:
    """Step time of one case over that of another, paired by step, with its 95 % interval over steps and rounds.

    The mean is geometric. The first step of a round warms caches, and does not count where there are others.

    Args:
        times: From `measure_steps`.
        case: Key of `CASES`.
        base: What it is compared with.
    """
    whole = times[times["part"] == "whole"].pivot(index=["round", "step"], columns="case", values="seconds")
    return _geometric(_grid(whole[case] / whole[base]))


def outer_loop_ratio(times: pd.DataFrame, case: str) -> Estimate:
    """Seconds of the outer loop over those of the rest of the same step, with a 95 % interval (see `step_ratio`).

    Args:
        times: From `measure_steps`.
        case: "tampo" or "fast".
    """
    own = times[times["case"] == case].pivot(index=["round", "step"], columns="part", values="seconds")
    return _geometric(_grid(own["outer loop"] / (own["whole"] - own["outer loop"])))


def ratio(numerator: pd.Series, denominator: pd.Series) -> Estimate:
    """Geometric mean of paired ratios of times (the same index), with its 95 % interval over the pairs."""
    return _geometric((numerator / denominator).to_numpy())


def _grid(values: pd.Series) -> np.ndarray:
    """Values by (round, step) as an array (rounds, steps), without the first step."""
    wide = values.unstack("step").sort_index(axis=1).to_numpy()  # (rounds, steps)
    return wide[:, 1:] if wide.shape[1] > 1 else wide


def _geometric(values: np.ndarray) -> Estimate:
    mean = mean_interval([np.log(values)])
    value, low, high = np.exp([mean.value, mean.low, mean.high]).tolist()
    return Estimate(value, low, high, mean.p_greater)


def step_memory(config: TrainingConfig, case: str) -> float:
    """Peak memory in MB of a training of `config`, in a process of its own: of the GPU, or of the process."""
    return peak_memory(_train_once, config, case)


def _train_once(config: TrainingConfig, case: str) -> None:
    torch.set_num_threads(1)
    with _trainer(config, case) as (trainer, _):
        trainer.train()


def peak_memory(function: Callable[..., None], *args: Any) -> float:
    """Memory in MB that a call takes at most, in a new process: of the GPU, or of the process beyond its imports.

    Args:
        function: A function of a module, so that the new process finds it.
        args: Its arguments.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of, (function, args))


def _peak_of(function: Callable[..., None], args: tuple[Any, ...]) -> float:
    if torch.cuda.is_available():
        function(*args)
        return torch.cuda.max_memory_allocated() / 2**20
    # Imports have a peak of their own, which Linux can forget.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_resident()
    function(*args)
    return _peak_resident() - before


def _peak_resident() -> float:
    """The most memory, in MB, that this process has had."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
