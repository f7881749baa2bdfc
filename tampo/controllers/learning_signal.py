"""Two controllers that ask the rollouts more directly than TAMPO: what could be learned, and where rewards rise.

Both read the importance weights of a batch (`tampo.off_policy`), sample at one temperature in the warm-up, and learn
in it.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, check_positive, parameter
from tampo.meta_policy import check_fraction, nucleus
from tampo.off_policy import mixed_pairs


@dataclass
class LearningSignal(TemperatureController):
    """Temperatures under which most pairs of a prompt's rollouts are mixed, one right and one wrong.

    A group of equal rewards teaches nothing. The share of mixed pairs at each candidate (`off_policy.mixed_pairs`) is
    averaged over batches, each weighted by its share of effective samples, and temperatures are drawn from the averages
    as TAMPO draws from its own (Eq. 12 and the nucleus).
    """

    alpha: float = parameter(0.05, "Weight of the newest batch in the moving average, in [0, 1].")
    top_p: float = parameter(0.7, "Nucleus mass for drawing temperatures, in [0, 1]; 0 is greedy.")
    uses_warmup: ClassVar = True

    def __post_init__(self) -> None:
        self.alpha = check_fraction("alpha", self.alpha)
        self.top_p = check_fraction("top_p", self.top_p)

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self._temperatures = np.array(run.temperatures)
        self._signal, self._weight = np.zeros(len(run.temperatures)), np.zeros(len(run.temperatures))  # (K,) each
        self._batches = 0
        self._generator = np.random.default_rng(run.seed)

    @property
    def averages(self) -> NDArray[np.float64]:
        """Moving average of the share of mixed pairs, shape (K,); 0 where nothing is known."""
        return np.divide(self._signal, self._weight, out=np.zeros_like(self._signal), where=self._weight > 0)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of each temperature, shape (K,): the averages, min-max scaled (Eq. 12); all equal while they are."""
        averages = self.averages
        scaled = averages - averages.min()
        return scaled / scaled.sum() if scaled.any() else np.full(len(scaled), 1 / len(scaled))

    def temperature(self, step: int) -> float:
        if self._batches < self.run.warmup_batches:
            return self.run.warmup_temperature
        chances = nucleus(self.probabilities, self.top_p, self._temperatures)
        return float(self._generator.choice(self._temperatures, p=chances))

    def update(self, batch: RolloutBatch) -> None:
        """Take in the batch's shares. A batch without a group of two graded rollouts changes nothing."""
        self._batches += 1
        if batch.rewards is None or batch.groups is None:
            raise ValueError("The controller learning-signal needs the rewards and groups of a batch.")
        shares, samples = mixed_pairs(batch.log_weights, batch.rewards, batch.groups)
        if samples.any():
            self._signal += self.alpha * (samples * shares - self._signal)
            self._weight += self.alpha * (samples - self._weight)

    def metrics(self) -> dict[str, float]:
        columns = {"p": self.probabilities, "mixed_pairs": self.averages}
        return {
            f"controller/{name}({t:g})": float(value)
            for name, values in columns.items()
            for t, value in zip(self._temperatures, values, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        generator = self._generator.bit_generator.state
        sums = {"signal": self._signal.tolist(), "weight": self._weight.tolist()}
        return sums | {"batches": self._batches, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        signal, weight = (np.array(state[name], dtype=float) for name in ("signal", "weight"))
        if not signal.shape == weight.shape == self._signal.shape or not np.isfinite([signal, weight]).all():
            raise ValueError(f"it has {len(signal)} temperatures, not {len(self._temperatures)}")
        self._signal, self._weight, self._batches = signal, weight, int(state["batches"])
        self._generator.bit_generator.state = state["generator"]


@dataclass
class ScoreFunction(TemperatureController):
    """log T climbs the expected reward at T: a natural gradient, from the same likelihoods as TAMPO's.

    With advantages A and s = d log p(rollout) / d log T, the gradient of the expected reward is E[A s], and the Fisher
    information of log T is E[s^2]. Each batch moves log T by `rate` times the ratio of their moving averages. The slope
    s is that between the two candidates around T. T stays between the lowest and the highest candidate.
    """

    rate: float = parameter(1.0, "Step of log T per unit of the natural gradient.")
    alpha: float = parameter(0.1, "Weight of the newest batch in the moving averages, in [0, 1].")
    uses_warmup: ClassVar = True

    def __post_init__(self) -> None:
        self.rate = check_positive("rate", self.rate)
        self.alpha = check_fraction("alpha", self.alpha)

    def start(self, run: RunSettings) -> None:
        super().start(run)
        if len(run.temperatures) < 2:
            raise ValueError("The controller score-function needs at least two temperature_candidates.")
        self.current = run.warmup_temperature
        self._gradient = self._information = 0.0
        self._batches = 0

    def temperature(self, step: int) -> float:
        return self.current

    def update(self, batch: RolloutBatch) -> None:
        self._batches += 1
        order = batch.temperatures.argsort()
        logs = np.log(batch.temperatures[order])  # (K,), rising
        high = int(np.clip(np.searchsorted(logs, math.log(self.current), side="right"), 1, len(logs) - 1))
        low = high - 1
        if high + 1 < len(logs) and math.isclose(logs[low], math.log(self.current)) and low > 0:
            low -= 1  # T is a candidate: the slope over both its neighbours
        rise = batch.log_likelihoods[:, order[high]] - batch.log_likelihoods[:, order[low]]
        slope = rise / (logs[high] - logs[low])  # (N,)
        self._gradient += self.alpha * (float((batch.advantages * slope).mean()) - self._gradient)
        self._information += self.alpha * (float((slope**2).mean()) - self._information)
        if self._batches >= self.run.warmup_batches and self._information > 0:
            moved = math.log(self.current) + self.rate * self._gradient / self._information
            self.current = math.exp(min(max(moved, logs[0]), logs[-1]))

    def metrics(self) -> dict[str, float]:
        return {"controller/gradient": self._gradient, "controller/information": self._information}

    def state_dict(self) -> dict[str, Any]:
        state = {"current": self.current, "gradient": self._gradient, "information": self._information}
        return state | {"batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        current, gradient, information = (float(state[name]) for name in ("current", "gradient", "information"))
        if not (0 < current < math.inf and math.isfinite(gradient) and 0 <= information < math.inf):
            raise ValueError(f"temperature {current!r} or its gradient is out of range")
        self.current, self._gradient, self._information = current, gradient, information
        self._batches = int(state["batches"])
