"""Rules that set the sampling temperature of a training run, behind one protocol.

A controller is asked for a temperature once per generation batch and is shown, once, what came of that batch.
A new rule is one class with the four methods of `TemperatureController` and one entry in `make_controller`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tampo.meta_policy import DEFAULT_TEMPERATURES, Likelihood, MetaPolicy, check_fraction, check_temperatures

ControllerName = Literal["tampo", "fixed", "linear"]
CONTROLLERS: tuple[ControllerName, ...] = ("tampo", "fixed", "linear")


@dataclass(frozen=True)
class Observation:
    """What one generation batch, over all processes, says about temperatures.

    Attributes:
        temperatures: The K candidate temperatures, shape (K,).
        log_likelihoods: Summed over tokens, under the policy that generated (Eq. 8), shape (N, K).
        advantages: Shape (N,).
        lengths: Tokens of each rollout, shape (N,).
    """

    temperatures: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]
    advantages: NDArray[np.float64]
    lengths: NDArray[np.float64]

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


class TemperatureController(Protocol):
    """A rule for the sampling temperature. All processes hold the same state and so draw the same temperature."""

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


class _Stateless:
    """Base of rules that know their temperature from the step alone."""

    def update(self, observation: Observation) -> None:
        """Nothing to learn."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@dataclass
class Fixed(_Stateless):
    """The same temperature at every step (the baselines of Table 1)."""

    value: float

    def __post_init__(self) -> None:
        check_temperatures("temperature", [self.value])

    def temperature(self, step: int) -> float:
        return self.value


@dataclass
class Linear(_Stateless):
    """From `start` at the first step to `end` at the last, in a straight line (Table 1: 0.9 to 1.5)."""

    start: float
    end: float
    total_steps: int

    def __post_init__(self) -> None:
        check_temperatures("temperature_start", [self.start])
        check_temperatures("temperature_end", [self.end])

    def temperature(self, step: int) -> float:
        progress = min(step / max(self.total_steps - 1, 1), 1.0)
        return self.start + (self.end - self.start) * progress


@dataclass
class TAMPO:
    """Temperatures drawn from the meta-policy, which every batch moves (Algorithm 1)."""

    meta_policy: MetaPolicy = field(default_factory=MetaPolicy)

    def temperature(self, step: int) -> float:
        return self.meta_policy.sample()

    def update(self, observation: Observation) -> None:
        self.meta_policy.update(observation.log_likelihoods, observation.advantages, observation.lengths)

    def metrics(self) -> dict[str, float]:
        policy = self.meta_policy
        distribution = zip(policy.temperatures, policy.probabilities, strict=True)
        return {"meta_policy/entropy": policy.entropy} | {f"meta_policy/p({t:g})": float(p) for t, p in distribution}

    def state_dict(self) -> dict[str, Any]:
        return self.meta_policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_policy.load_state_dict(state)


@dataclass(frozen=True)
class ControllerSettings:
    """The parameters of every rule; each reads its own. `tampo.trainer.TAMPOConfig` says what they mean.

    Attributes:
        total_steps: Optimizer steps of the whole run.
        total_batches: Generation batches of the whole run, the unit of the warm-up.
    """

    temperature: float = 1.0
    temperature_start: float = 0.9
    temperature_end: float = 1.5
    candidates: tuple[float, ...] = DEFAULT_TEMPERATURES
    alpha: float = 0.05
    top_p: float = 0.7
    likelihood: Likelihood = "sum"
    warmup_ratio: float = 0.1
    warmup_temperature: float = 1.0
    seed: int = 0
    total_steps: int = 1
    total_batches: int = 1


def make_controller(name: str, settings: ControllerSettings) -> TemperatureController:
    """The controller called `name` ("tampo", "fixed", "linear").

    Raises:
        ValueError: Unknown name, or a parameter out of range; the message names it.
    """
    check_fraction("warmup_ratio", settings.warmup_ratio)
    if name == "fixed":
        return Fixed(settings.temperature)
    if name == "linear":
        return Linear(settings.temperature_start, settings.temperature_end, settings.total_steps)
    if name == "tampo":
        return TAMPO(
            MetaPolicy(
                settings.candidates,
                alpha=settings.alpha,
                top_p=settings.top_p,
                likelihood=settings.likelihood,
                seed=settings.seed,
                warmup_updates=round(settings.warmup_ratio * settings.total_batches),
                warmup_temperature=settings.warmup_temperature,
            )
        )
    raise ValueError(f"Unknown temperature controller {name!r}; known are {', '.join(CONTROLLERS)}.")
