"""What TAMPO's outer loop costs: its steps beside those of TRL's GRPOTrainer, on the same rollouts.

Both train at T = 1 throughout, TAMPO because its warm-up lasts for the whole run. They then draw the same rollouts to
the last token and make the same updates, and what is left between them is the outer loop.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import TrainerCallback
from trl import GRPOTrainer

from tampo.config import Params, TrainingConfig
from tampo.files import atomic_path
from tampo.mini_model import RECIPES
from tampo.runs import Record, RunStore, training_identity
from tampo.stats import Estimate, mean_interval
from tampo.trainer import TAMPOTrainer
from tampo.training import make_trainer

TRAINERS = {"grpo": GRPOTrainer, "tampo": TAMPOTrainer}


class _Clock(TrainerCallback):
    """Seconds of every optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def measure_steps(config: TrainingConfig, rounds: int) -> pd.DataFrame:
    """Step times of both trainers, taken in turns: the first of one round is the second of the next.

    Args:
        config: The training; its controller is replaced.
        rounds: Trainings of each.

    Returns:
        Columns round, step (from 1), grpo, tampo (seconds). Each round is the same training over again.

    Raises:
        RuntimeError: The trainers did not draw the same rollouts, so that their times cannot be compared.
    """
    fair = {
        "controller": "tampo",
        "temperature": 1.0,
        "meta_warmup_ratio": 1.0,
        "meta_warmup_temperature": 1.0,
        "scoring_batch": None,
    }
    config = TrainingConfig(**config.model_dump() | fair)
    rows = []
    for number in range(rounds):
        names = list(TRAINERS) if number % 2 == 0 else list(reversed(TRAINERS))
        seconds, tokens = {}, {}
        for name in names:
            clock = _Clock()
            with tempfile.TemporaryDirectory() as folder:
                trainer, _ = make_trainer(config, Path(folder), TRAINERS[name], [clock])
                trainer.train()
            seconds[name] = clock.seconds
            tokens[name] = [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row]
        if tokens["grpo"] != tokens["tampo"]:
            raise RuntimeError("The two trainers drew different rollouts: their times cannot be compared.")
        for step, times in enumerate(zip(seconds["grpo"], seconds["tampo"], strict=True), start=1):
            rows.append({"round": number, "step": step, "grpo": times[0], "tampo": times[1]})
    return pd.DataFrame(rows)


def step_time_ratio(times: pd.DataFrame) -> Estimate:
    """TAMPO's step time over GRPO's, paired by step, with its 95 % interval over steps and rounds (geometric mean).

    The first step of a round warms caches, and does not count where there are others.

    Args:
        times: From `measure_steps`.
    """
    kept = times[times["step"] > 1] if times["step"].max() > 1 else times
    logs = np.log(kept["tampo"] / kept["grpo"])
    grid = kept.assign(log=logs).pivot(index="round", columns="step", values="log").to_numpy()
    ratio = mean_interval([grid])
    value, low, high = np.exp([ratio.value, ratio.low, ratio.high]).tolist()
    return Estimate(value, low, high, ratio.p_greater)


def overhead(params: Params, steps: int = 25, rounds: int = 3) -> tuple[Estimate, Record] | None:
    """The ratio of step times of these parameters, measured once and then kept in the store of runs.

    None for a model that does not ship with the package: its steps may need several GPUs, which one process has not.

    Args:
        params: The scale.
        steps: Steps of each training, at most; `params.steps` if that is less.
        rounds: Trainings of each trainer.
    """
    if params.model not in RECIPES:
        return None
    config = params.training(steps=min(steps, params.steps))

    def build(folder: Path) -> dict[str, Any]:
        with atomic_path(folder / "times.csv") as temporary:
            measure_steps(config, rounds).to_csv(temporary, index=False)
        return {}

    record = RunStore.of(params).make("overhead", training_identity(config) | {"rounds": rounds}, build)
    return step_time_ratio(pd.read_csv(record.folder / "times.csv")), record
