"""Temperatures that the step alone decides: fixed, a straight line, half a cosine, stages."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tampo.control import ControllerSettings, Observation
from tampo.meta_policy import check_temperatures


class _Schedule:
    """Base of rules that have nothing to learn and no state."""

    def update(self, observation: Observation) -> None:
        """Nothing to learn."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@dataclass
class Fixed(_Schedule):
    """The same temperature at every step (the baselines of Table 1)."""

    value: float
    parameters: ClassVar = frozenset({"temperature"})

    def __post_init__(self) -> None:
        check_temperatures("temperature", [self.value])

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        return cls(settings.temperature)

    def temperature(self, step: int) -> float:
        return self.value


@dataclass
class Linear(_Schedule):
    """From `start` at the first step to `end` at the last, in a straight line (Table 1: 0.9 to 1.5)."""

    start: float
    end: float
    total_steps: int
    parameters: ClassVar = frozenset({"temperature_start", "temperature_end"})

    def __post_init__(self) -> None:
        check_temperatures("temperature_start", [self.start])
        check_temperatures("temperature_end", [self.end])

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        return cls(settings.temperature_start, settings.temperature_end, settings.total_steps)

    def temperature(self, step: int) -> float:
        return self.start + (self.end - self.start) * self._progress(step)

    def _progress(self, step: int) -> float:
        return min(step / max(self.total_steps - 1, 1), 1.0)


class Cosine(Linear):
    """From `start` to `end` along half a cosine: slow at both ends (the shape of SGDR, Loshchilov and Hutter 2017)."""

    def _progress(self, step: int) -> float:
        return (1 - math.cos(math.pi * super()._progress(step))) / 2


@dataclass
class Staged(_Schedule):
    """Constant in stages of equal length, as in Polaris (An et al. 2025), which sets a higher one in each stage."""

    stages: tuple[float, ...]
    total_steps: int
    parameters: ClassVar = frozenset({"temperature_stages"})

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("temperature_stages needs at least one temperature.")
        for stage in self.stages:  # one may come twice
            check_temperatures("temperature_stages", [stage])

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        return cls(settings.temperature_stages, settings.total_steps)

    def temperature(self, step: int) -> float:
        stage = step * len(self.stages) // max(self.total_steps, 1)
        return self.stages[min(stage, len(self.stages) - 1)]
