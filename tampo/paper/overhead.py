"""What TAMPO's outer loop costs (section 4.2), and what tampo's rollouts and log-prob computation save.

Every measurement alternates between its cases, and every ratio is paired by step and round.

The outer loop is compared with TRL's GRPOTrainer on the same rollouts. Both train at T = 1 throughout (TAMPO's warm-up
lasts for the whole run), draw the same tokens and make the same updates, so the outer loop is the only difference.
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

import numpy as np
import pandas as pd
import torch
import trl
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from tampo.config import TrainingConfig
from tampo.paper.stopwatch import Stopwatch, now
from tampo.runs.training import make_trainer, sample_rollouts
from tampo.stats import Estimate, mean_interval
from tampo.trainer.trainer import TAMPOTrainer
from tampo.trainer.trl_internals import LogitRecorder

PARTS = ("generate", "reward", "forward", "backward", "outer loop", "other")


@dataclass(frozen=True)
class Case:
    """One way to train: the trainer class, and whether tampo's own rollouts and grouping by length are used."""

    title: str
    trainer: type[GRPOTrainer]
    fast: bool = False


CASES = {
    "grpo": Case("TRL's GRPOTrainer", GRPOTrainer),
    "tampo": Case("TAMPOTrainer, TRL's rollouts and scoring", TAMPOTrainer),
    "fast": Case("TAMPOTrainer as tampo trains", TAMPOTrainer, fast=True),
}


class _Laps(TrainerCallback):
    """Seconds of every optimizer step, in total and by part."""

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
    """Step times of several cases, measured alternately: each round reverses the order of the one before.

    Args:
        config: The training run; its controller is replaced.
        rounds: Training runs per case.
        cases: Keys of `CASES`.

    Returns:
        Columns round, step (from 1), case, part (of `PARTS`, or "whole"), seconds. Every round repeats the same
        training run.

    Raises:
        RuntimeError: "grpo" and "tampo" did not draw the same rollouts, so their times cannot be compared; or a
            method to time does not exist in this version of TRL.
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
    fair = {
        "temperature_controller": "tampo",
        "temperature": 1.0,
        "meta_warmup_ratio": 1.0,
        "meta_warmup_temperature": 1.0,
    }
    fair |= {} if case.fast else {"scoring_batch_size": None}
    watch = Stopwatch()
    laps = _Laps(watch)
    with tempfile.TemporaryDirectory() as folder, _timed_recorder(watch):
        rollouts = sample_rollouts if case.fast else None
        config = TrainingConfig(**config.model_dump() | fair)
        trainer, _ = make_trainer(config, Path(folder), case.trainer, [laps], rollouts)
        trainer.remove_callback(PrinterCallback)  # it prints the log of every step
        _time_method(watch, "generate", trainer, "_generate")
        _time_method(watch, "reward", trainer, "_calculate_rewards")
        _time_method(watch, "forward", trainer, "_compute_loss")
        _time_method(watch, "backward", trainer.accelerator, "backward")
        if isinstance(trainer, TAMPOTrainer):
            _time_method(watch, "outer loop", trainer, "_collect_likelihoods")
        yield trainer, laps
    del trainer
    gc.collect()


def _time_method(watch: Stopwatch, part: str, owner: object, method: str) -> None:
    """Replace `owner.method` by a wrapper that adds its seconds to `part`.

    Raises:
        RuntimeError: `owner` has no such method.
    """
    if not callable(function := getattr(owner, method, None)):
        raise RuntimeError(
            f"Cannot time {part!r}: {type(owner).__name__} has no method {method!r} in TRL {trl.__version__}."
        )
    setattr(owner, method, watch.timed(part, function))


@contextlib.contextmanager
def _timed_recorder(watch: Stopwatch) -> Iterator[None]:
    """Time the K log-likelihoods that `TAMPOTrainer` reads from the logits, as part of the outer loop."""
    methods = ("__init__", "__call__", "log_probs")
    originals = {name: getattr(LogitRecorder, name) for name in methods}
    try:
        for name in methods:
            setattr(LogitRecorder, name, watch.timed("outer loop", originals[name]))
        yield
    finally:
        for name, original in originals.items():
            setattr(LogitRecorder, name, original)


def step_ratio(times: pd.DataFrame, case: str, base: str = "grpo") -> Estimate:
    """Step time of one case divided by that of another, paired by step, with its 95 % interval over steps and rounds.

    The mean is geometric. The first step of a round warms caches and is left out, unless it is the only one.

    Args:
        times: From `measure_steps`.
        case: Key of `CASES`.
        base: Key of the case to compare with.
    """
    whole = times[times["part"] == "whole"].pivot(index=["round", "step"], columns="case", values="seconds")
    return _geometric(_grid(whole[case] / whole[base]))


def outer_loop_ratio(times: pd.DataFrame, case: str) -> Estimate:
    """Seconds of the outer loop divided by those of the rest of the same step, with a 95 % interval (see `step_ratio`).

    Args:
        times: From `measure_steps`.
        case: "tampo" or "fast".
    """
    own = times[times["case"] == case].pivot(index=["round", "step"], columns="part", values="seconds")
    return _geometric(_grid(own["outer loop"] / (own["whole"] - own["outer loop"])))


def ratio(numerator: pd.Series, denominator: pd.Series) -> Estimate:
    """Geometric mean of ratios of times, paired by index, with its 95 % interval over the pairs."""
    return _geometric((numerator / denominator).to_numpy())


def _grid(values: pd.Series) -> np.ndarray:
    """Values indexed by (round, step) as an array (rounds, steps), without the first step."""
    wide = values.unstack("step").sort_index(axis=1).to_numpy()  # (rounds, steps)
    return wide[:, 1:] if wide.shape[1] > 1 else wide


def _geometric(values: np.ndarray) -> Estimate:
    mean = mean_interval([np.log(values)])
    value, low, high = np.exp([mean.value, mean.low, mean.high]).tolist()
    return Estimate(value, low, high, mean.p_greater)


def step_memory(config: TrainingConfig, case: str) -> float:
    """Peak memory in MB of a training run of `config` in a new process: of the GPU, or without one of the process."""
    return peak_memory(_train_once, config, case)


def _train_once(config: TrainingConfig, case: str) -> None:
    torch.set_num_threads(1)
    with _trainer(config, case) as (trainer, _):
        trainer.train()


def peak_memory(function: Callable[..., None], *args: Any) -> float:
    """Peak memory in MB of a call in a new process: of the GPU, or without one of the process, less its imports.

    Args:
        function: A function at module level, so that the new process can import it.
        args: Its arguments.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of, (function, args))


def _peak_of(function: Callable[..., None], args: tuple[Any, ...]) -> float:
    if torch.cuda.is_available():
        function(*args)
        return torch.cuda.max_memory_allocated() / 2**20
    # Linux can reset the peak, which the imports have set.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_resident()
    function(*args)
    return _peak_resident() - before


def _peak_resident() -> float:
    """Peak memory of this process in MB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
