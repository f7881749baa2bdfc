"""What a temperature controller is: what it is asked, what it is shown, and the parameters it is made from.

A controller is asked for a temperature once per generation batch and is shown, once, what came of that batch. The
rules are in `tampo.schedules`, `tampo.entropy_rules`, `tampo.bandits` and `tampo.controllers`, which lists them all.
"""

import math
import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tampo.meta_policy import DEFAULT_TEMPERATURES, Likelihood


def check_positive(name: str, value: float, or_zero: bool = False) -> float:
    """`value` if it is a finite number above 0 (or 0, where that is allowed), or a ValueError that names `name`."""
    if not isinstance(value, Real) or not (0 < value <= sys.float_info.max or (or_zero and value == 0)):
        raise ValueError(f"{name} must be a {'number of 0 or more' if or_zero else 'positive number'}, got {value!r}.")
    return float(value)


@dataclass(frozen=True)
class Observation:
    """What one generation batch, over all processes, says about temperatures.

    Attributes:
        temperatures: The K candidate temperatures, shape (K,).
        log_likelihoods: Summed over tokens, under the policy that generated (Eq. 8), shape (N, K).
        advantages: Shape (N,).
        lengths: Tokens of each rollout, shape (N,).
        reward: Mean over rollouts; NaN if nothing could be judged.
        entropy: Mean over tokens, in nats, of the distribution that was sampled from, so after temperature scaling.
    """

    temperatures: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]
    advantages: NDArray[np.float64]
    lengths: NDArray[np.float64]
    reward: float = math.nan
    entropy: float = math.nan

    @property
    def optimal_temperatures(self) -> NDArray[np.float64]:
        """T* of each rollout, the candidate under which it is most likely (Eq. 7), shape (N,)."""
        return self.temperatures[self.log_likelihoods.argmax(axis=1)]

    def statistics(self) -> dict[str, float]:
        """Mean, standard deviation and number of T* over rollouts of positive and of negative advantage.

        The raw material of Figure 4; a sign without rollouts is left out.
        """
        result = {}
        for sign, chosen in (("positive", self.advantages > 0), ("negative", self.advantages < 0)):
            if chosen.any():
                best = self.optimal_temperatures[chosen]
                result[f"optimal_temperature/{sign}_mean"] = float(best.mean())
                result[f"optimal_temperature/{sign}_std"] = float(best.std())
                result[f"optimal_temperature/{sign}_count"] = float(len(best))
        return result


@dataclass(frozen=True)
class ControllerSettings:
    """The parameters of every rule, named as in `tampo.config.TrainingConfig`, which says what they mean.

    Attributes:
        total_steps: Optimizer steps of the whole run.
        total_batches: Generation batches of the whole run, the unit of the warm-up.
        vocabulary: Tokens that can be drawn.
    """

    temperature: float = 1.0
    temperature_start: float = 0.9
    temperature_end: float = 1.5
    temperature_stages: tuple[float, ...] = (0.9, 1.2, 1.5)
    temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES
    alpha: float = 0.05
    p: float = 0.7
    likelihood: Likelihood = "sum"
    target_entropy: float = 0.3
    entropy_gain: float = 0.5
    exp3_exploration: float = 0.3
    ucb_exploration: float = 0.3
    meta_warmup_ratio: float = 0.1
    meta_warmup_temperature: float = 1.0
    seed: int = 0
    total_steps: int = 1
    total_batches: int = 1
    vocabulary: int = 32_000

    @property
    def warmup_batches(self) -> int:
        """Generation batches of the warm-up."""
        return round(self.meta_warmup_ratio * self.total_batches)


class TemperatureController(Protocol):
    """A rule for the sampling temperature. All processes hold the same state and so draw the same temperature."""

    parameters: ClassVar[frozenset[str]]
    """Names of the settings that the rule reads, beside `temperatures`, `seed` and the numbers of steps."""

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        """The rule of a run. Raises ValueError, with the parameter's name, where one is out of range."""

    def temperature(self, step: int) -> float:
        """The temperature of the generation batch that starts at optimizer step `step` (from 0). One call a batch."""

    def update(self, observation: Observation) -> None:
        """Take in what came of that batch."""

    def metrics(self) -> dict[str, float]:
        """Scalars worth logging at every step, beside the temperature itself."""

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs, as JSON types."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError where it does not fit."""
