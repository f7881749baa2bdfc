"""Measure the cost of TAMPO's outer loop per training step (section 4.2), and what tampo's rollouts save.

The outer loop is compared with TRL's GRPOTrainer on the same rollouts. Both train at T = 1 throughout (TAMPO's warm-up
lasts for the whole run), sample the same tokens and make the same updates, so only the outer loop differs.
Measurements alternate between their cases, so that ratios can be paired by step and round.
"""

import contextlib
import functools
import gc
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import trl
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from tampo.config import TrainingConfig
from tampo.paper.overhead_cases import CASES, PARTS
from tampo.paper.peak_memory import peak_memory
from tampo.runs.training import make_trainer, sample_rollouts
from tampo.trainer.trainer import TAMPOTrainer
from tampo.trainer.trl_internals import LogitRecorder


class Stopwatch:
    """Adds up the seconds spent in parts of a program. A part excludes the parts that run inside it.

    Example:
        >>> watch = Stopwatch()
        >>> sort = watch.timed("sorting", sorted)
        >>> sort([2, 1])
        [1, 2]
        >>> list(watch.lap())
        ['sorting']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]  # seconds of the parts inside each running part, innermost last

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A wrapper of `function` that adds the time of its calls to `part`."""

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            start = now()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = now() - start
                self._seconds[part] += took - self._inside.pop()
                self._inside[-1] += took

        return measured

    @contextlib.contextmanager
    def timing(self, part: str, owner: Any, *methods: str) -> Iterator[None]:
        """Add the time of methods of a class or an object to `part` inside the block.

        Raises:
            RuntimeError: `owner` has no such method.
        """
        for name in methods:
            if not callable(getattr(owner, name, None)):
                title = getattr(owner, "__name__", type(owner).__name__)
                raise RuntimeError(f"Cannot time {part!r}: {title} has no method {name!r} in TRL {trl.__version__}.")
        originals = {name: getattr(owner, name) for name in methods}
        try:
            for name, original in originals.items():
                setattr(owner, name, self.timed(part, original))
            yield
        finally:
            for name, original in originals.items():
                setattr(owner, name, original)

    def lap(self) -> dict[str, float]:
        """Seconds by part since the last lap."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


def now() -> float:
    """The clock in seconds, read after the GPU has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


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


def alternate(cases: list[Any], rounds: int) -> Iterator[tuple[int, Any]]:
    """(round, case) for all rounds; every round reverses the order of the one before."""
    for number in range(rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            yield number, case


def measure_steps(config: TrainingConfig, rounds: int, cases: tuple[str, ...] = ("grpo", "tampo")) -> pd.DataFrame:
    """Step times of several cases, measured alternately.

    Args:
        config: The training run; its controller is replaced.
        rounds: Training runs per case; all are repetitions of the same run.
        cases: Keys of `CASES`.

    Returns:
        Columns round, step (from 1), case, part (of `PARTS`, or "whole"), seconds.

    Raises:
        RuntimeError: "grpo" and "tampo" sampled different rollouts, so their times cannot be compared; or this version
            of TRL lacks a method to time.
    """
    rows, lengths = [], dict[str, list[float]]()
    for number, name in alternate(list(cases), rounds):
        with _trainer(config, name) as (trainer, laps):
            trainer.train()
        for step, parts in enumerate(laps.steps, start=1):
            for part in ("whole", *PARTS):
                row = {"round": number, "step": step, "case": name, "part": part}
                rows.append(row | {"seconds": parts.get(part, 0.0)})
        lengths[name] = [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row]
        if {"grpo", "tampo"} <= lengths.keys() and lengths["grpo"] != lengths["tampo"]:
            raise RuntimeError("The two trainers sampled different rollouts: their times cannot be compared.")
    return pd.DataFrame(rows)


@contextlib.contextmanager
def _trainer(config: TrainingConfig, name: str) -> Iterator[tuple[GRPOTrainer, _Laps]]:
    case, watch = CASES[name], Stopwatch()
    changes = {
        "temperature_controller": "tampo",
        "temperature": 1.0,
        "meta_warmup_ratio": 1.0,
        "meta_warmup_temperature": 1.0,
    }
    changes |= {} if case.fast else {"scoring_batch_size": None}
    laps = _Laps(watch)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The K log-likelihoods that `TAMPOTrainer` reads from the logits.
        stack.enter_context(watch.timing("outer loop", LogitRecorder, "__init__", "__call__", "log_probs"))
        rollouts = sample_rollouts if case.fast else None
        config = TrainingConfig(**config.model_dump() | changes)
        trainer, _ = make_trainer(config, folder, TAMPOTrainer if case.tampo else GRPOTrainer, [laps], rollouts)
        trainer.remove_callback(PrinterCallback)  # it prints the log of every step
        methods = {"generate": "_generate", "reward": "_calculate_rewards", "forward": "_compute_loss"}
        methods |= {"outer loop": "_collect_likelihoods"} if isinstance(trainer, TAMPOTrainer) else {}
        for part, method in methods.items():
            stack.enter_context(watch.timing(part, trainer, method))
        stack.enter_context(watch.timing("backward", trainer.accelerator, "backward"))
        yield trainer, laps
    del trainer
    gc.collect()


def step_memory(config: TrainingConfig, case: str) -> float:
    """Peak memory in MB of a training run in a new process (`peak_memory`)."""
    return peak_memory(_train_once, config, case)


def _train_once(config: TrainingConfig, case: str) -> None:
    torch.set_num_threads(1)
    with _trainer(config, case) as (trainer, _):
        trainer.train()
