"""Temperatures without regard to the rollouts: fixed, a straight line, half a cosine, stages, drawn evenly."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tampo.controllers.base import RunSettings, TemperatureController, parameter
from tampo.meta_policy import check_temperature
from tampo.values import to_list


@dataclass
class Fixed(TemperatureController):
    """The same temperature at every step (the baselines of Table 1)."""

    value: float = parameter(1.0, "Sampling temperature of the fixed controller.")

    def __post_init__(self) -> None:
        self.value = check_temperature("temperature", self.value)

    def temperature(self, step: int) -> float:
        return self.value


@dataclass
class Linear(TemperatureController):
    """From `start_temperature` at the first step to `end_temperature` at the last, in a straight line (Table 1)."""

    start_temperature: float = parameter(0.9, "First temperature.")
    end_temperature: float = parameter(1.5, "Last temperature.")

    def __post_init__(self) -> None:
        self.start_temperature = check_temperature("start_temperature", self.start_temperature)
        self.end_temperature = check_temperature("end_temperature", self.end_temperature)

    def temperature(self, step: int) -> float:
        return self.start_temperature + (self.end_temperature - self.start_temperature) * self._progress(step)

    def _progress(self, step: int) -> float:
        return min(step / max(self.run.total_steps - 1, 1), 1.0)


@dataclass
class Cosine(Linear):
    """From the first to the last temperature along half a cosine, slow at both ends (as SGDR, Loshchilov & Hutter)."""

    def _progress(self, step: int) -> float:
        return (1 - math.cos(math.pi * super()._progress(step))) / 2


@dataclass
class Staged(TemperatureController):
    """Constant in stages of equal length, as in Polaris (An et al. 2025), which sets a higher one in each stage."""

    stages: tuple[float, ...] = parameter((0.9, 1.2, 1.5), "Temperatures, each for an equal share of the steps.")

    def __post_init__(self) -> None:
        # Not `check_temperatures`, since a temperature may come twice.
        self.stages = tuple(check_temperature("stages", stage) for stage in to_list("stages", self.stages))
        if not self.stages:
            raise ValueError("stages must be a list of at least one temperature, got none.")

    def temperature(self, step: int) -> float:
        stage = step * len(self.stages) // max(self.run.total_steps, 1)
        return self.stages[min(stage, len(self.stages) - 1)]


@dataclass
class Random(TemperatureController):
    """Each time one of the candidates, all equally likely: a control for controllers that learn."""

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self._generator = np.random.default_rng(run.seed)

    def temperature(self, step: int) -> float:
        return float(self._generator.choice(self.run.temperatures))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state["generator"]
