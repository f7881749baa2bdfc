"""Candidate temperatures as the arms of a bandit whose reward is the mean reward of a batch: EXP3 and UCB.

They find good temperatures by trying them, where TAMPO asks the rollouts it has. Rewards of any range are brought to
[0, 1] by the lowest and the highest batch so far. Neither knows that a policy which learns makes every arm better with
time.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, check_positive, parameter
from tampo.meta_policy import check_fraction


@dataclass
class _Bandit(TemperatureController):
    """Arms in the order of their temperatures, and the range of rewards so far."""

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self.arms = sorted(run.temperatures)  # K temperatures
        self._arm = 0
        self._low, self._high = math.inf, -math.inf

    def temperature(self, step: int) -> float:
        self._arm = self._choose()
        return self.arms[self._arm]

    def update(self, batch: RolloutBatch) -> None:
        """Reward the arm that was pulled. A batch that could not be graded changes nothing."""
        if math.isfinite(batch.reward):
            self._low, self._high = min(self._low, batch.reward), max(self._high, batch.reward)
            self._learn(batch.reward)

    def _scaled(self, reward: NDArray[np.float64] | float) -> Any:
        spread = self._high - self._low
        return (reward - self._low) / spread if spread > 0 else 0.5 + 0.0 * reward

    @abstractmethod
    def _choose(self) -> int:
        """The arm to pull."""

    @abstractmethod
    def _learn(self, reward: float) -> None:
        """Take in the reward of the arm that was pulled."""

    def _range(self) -> list[float] | None:
        return [self._low, self._high] if self._low <= self._high else None

    def _set_range(self, saved: list[float] | None) -> None:
        self._low, self._high = saved or (math.inf, -math.inf)

    def _named(self, name: str, values: NDArray[np.float64]) -> dict[str, float]:
        return {f"controller/{name}({t:g})": float(v) for t, v in zip(self.arms, values, strict=True)}


@dataclass
class EXP3(_Bandit):
    """Exponential weights with importance-weighted rewards (Auer et al. 2002, section 3), for rewards that drift."""

    exploration: float = parameter(0.3, "Share of draws that are uniform (gamma), in [0, 1].")

    def __post_init__(self) -> None:
        self.exploration = check_fraction("exploration", self.exploration)

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self._log_weights = np.zeros(len(self.arms))  # (K,)
        self._generator = np.random.default_rng(run.seed)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of each temperature, shape (K,)."""
        weights = np.exp(self._log_weights - self._log_weights.max())
        return (1 - self.exploration) * weights / weights.sum() + self.exploration / len(weights)

    def _choose(self) -> int:
        return int(self._generator.choice(len(self.arms), p=self.probabilities))

    def _learn(self, reward: float) -> None:
        estimate = self._scaled(reward) / self.probabilities[self._arm]
        self._log_weights[self._arm] += self.exploration * estimate / len(self.arms)

    def metrics(self) -> dict[str, float]:
        return self._named("p", self.probabilities)

    def state_dict(self) -> dict[str, Any]:
        generator = self._generator.bit_generator.state
        return {"log_weights": self._log_weights.tolist(), "range": self._range(), "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weights = np.array(state["log_weights"], dtype=float)
        if weights.shape != self._log_weights.shape or not np.isfinite(weights).all():
            raise ValueError(f"it has weights of {len(weights)} temperatures, not {len(self.arms)}")
        self._log_weights = weights
        self._generator.bit_generator.state = state["generator"]
        self._set_range(state["range"])


@dataclass
class UCB(_Bandit):
    """The arm with the highest mean + c sqrt(2 ln n / n_k) (UCB1, Auer et al. 2002, where c is 1); each one once first.

    Ties go to the lower temperature.
    """

    exploration: float = parameter(0.3, "Weight of the confidence bound (UCB1: 1).")

    def __post_init__(self) -> None:
        self.exploration = check_positive("exploration", self.exploration, or_zero=True)

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self._pulls, self._sums = np.zeros(len(self.arms)), np.zeros(len(self.arms))  # (K,), (K,)

    def _choose(self) -> int:
        if (self._pulls == 0).any():
            return int(self._pulls.argmin())
        bonus = self.exploration * np.sqrt(2 * np.log(self._pulls.sum()) / self._pulls)
        return int((self._scaled(self._sums / self._pulls) + bonus).argmax())

    def _learn(self, reward: float) -> None:
        self._pulls[self._arm] += 1
        self._sums[self._arm] += reward

    def metrics(self) -> dict[str, float]:
        return self._named("pulls", self._pulls)

    def state_dict(self) -> dict[str, Any]:
        return {"pulls": self._pulls.tolist(), "sums": self._sums.tolist(), "range": self._range()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pulls, sums = (np.array(state[name], dtype=float) for name in ("pulls", "sums"))
        if not pulls.shape == sums.shape == self._pulls.shape or (pulls < 0).any():
            raise ValueError(f"it has {len(pulls)} temperatures, not {len(self.arms)}")
        self._pulls, self._sums = pulls, sums
        self._set_range(state["range"])
