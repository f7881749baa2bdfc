"""Candidate temperatures as the arms of a bandit whose reward is the mean reward of a batch: EXP3 and UCB.

They ask which temperature makes good rollouts, by trying, where TAMPO asks the rollouts it has. Rewards of any range
are brought to [0, 1] by the lowest and the highest batch so far. Neither knows that a policy which learns makes every
arm better with time.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tampo.control import ControllerSettings, Observation, check_positive
from tampo.meta_policy import check_fraction, check_temperatures


@dataclass
class _Bandit:
    """Arms in the order of their temperatures, and the range of rewards so far."""

    temperatures: tuple[float, ...]
    _arm: int = field(default=0, init=False)
    _low: float = field(default=math.inf, init=False)
    _high: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        self.temperatures = tuple(sorted(map(float, check_temperatures("temperatures", self.temperatures))))

    def temperature(self, step: int) -> float:
        self._arm = self._choose()
        return self.temperatures[self._arm]

    def update(self, observation: Observation) -> None:
        """Reward the arm that was pulled. A batch that nobody could judge changes nothing."""
        if math.isfinite(observation.reward):
            self._low, self._high = min(self._low, observation.reward), max(self._high, observation.reward)
            self._learn(observation.reward)

    def _scaled(self, reward: NDArray[np.float64] | float) -> Any:
        spread = self._high - self._low
        return (reward - self._low) / spread if spread > 0 else 0.5 + 0.0 * reward

    def _choose(self) -> int:
        raise NotImplementedError

    def _learn(self, reward: float) -> None:
        raise NotImplementedError

    def _range(self) -> list[float] | None:
        return [self._low, self._high] if self._low <= self._high else None

    def _set_range(self, saved: list[float] | None) -> None:
        self._low, self._high = saved or (math.inf, -math.inf)

    def _named(self, name: str, values: NDArray[np.float64]) -> dict[str, float]:
        return {f"controller/{name}({t:g})": float(v) for t, v in zip(self.temperatures, values, strict=True)}


@dataclass
class EXP3(_Bandit):
    """Exponential weights with importance-weighted rewards (Auer et al. 2002, section 3), for rewards that drift.

    Attributes:
        exploration: gamma in [0, 1], the share of draws that are uniform.
        seed: Of the draws.
    """

    exploration: float = 0.3
    seed: int = 0
    parameters: ClassVar = frozenset({"exp3_exploration"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("exp3_exploration", self.exploration)
        self._log_weights = np.zeros(len(self.temperatures))  # (K,)
        self._generator = np.random.default_rng(self.seed)

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        return cls(settings.temperatures, settings.exp3_exploration, settings.seed)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of each temperature, shape (K,)."""
        weights = np.exp(self._log_weights - self._log_weights.max())
        return (1 - self.exploration) * weights / weights.sum() + self.exploration / len(weights)

    def _choose(self) -> int:
        return int(self._generator.choice(len(self.temperatures), p=self.probabilities))

    def _learn(self, reward: float) -> None:
        estimate = self._scaled(reward) / self.probabilities[self._arm]
        self._log_weights[self._arm] += self.exploration * estimate / len(self.temperatures)

    def metrics(self) -> dict[str, float]:
        return self._named("p", self.probabilities)

    def state_dict(self) -> dict[str, Any]:
        generator = self._generator.bit_generator.state
        return {"log_weights": self._log_weights.tolist(), "range": self._range(), "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weights = np.array(state["log_weights"], dtype=float)
        if weights.shape != self._log_weights.shape or not np.isfinite(weights).all():
            raise ValueError(f"it has weights of {len(weights)} temperatures, not {len(self.temperatures)}")
        self._log_weights = weights
        self._generator.bit_generator.state = state["generator"]
        self._set_range(state["range"])


@dataclass
class UCB(_Bandit):
    """The arm with the highest mean + c sqrt(2 ln n / n_k) (UCB1, Auer et al. 2002, where c is 1); each one once first.

    Attributes:
        exploration: c; ties go to the lower temperature.
    """

    exploration: float = 0.3
    parameters: ClassVar = frozenset({"ucb_exploration"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("ucb_exploration", self.exploration, or_zero=True)
        self._pulls, self._sums = np.zeros(len(self.temperatures)), np.zeros(len(self.temperatures))  # (K,), (K,)

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        return cls(settings.temperatures, settings.ucb_exploration)

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
            raise ValueError(f"it has {len(pulls)} temperatures, not {len(self.temperatures)}")
        self._pulls, self._sums = pulls, sums
        self._set_range(state["range"])
