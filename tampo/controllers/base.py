"""What a temperature controller is: its parameters, what it is asked, and what it is shown.

A controller is asked for a temperature once per generation batch. Afterwards it is shown, once, what came of that
batch. It is a dataclass whose fields are its parameters, and this is their one declaration: `TAMPOConfig`, YAML files,
the command line and what a run is known by all follow from the fields.
"""

import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from tampo.meta_policy import DEFAULT_TEMPERATURES, check_fraction, check_temperature, check_temperatures
from tampo.off_policy import reward_at
from tampo.values import convert, plain, shown, to_float, to_int


@dataclass(frozen=True)
class RolloutBatch:
    """One generation batch, over all processes, as a controller sees it. Rollouts are in the order of generation.

    Attributes:
        temperatures: The K candidate temperatures, shape (K,).
        log_likelihoods: Summed over tokens, under the policy that generated (Eq. 8), shape (N, K).
        advantages: Shape (N,).
        lengths: Tokens of each rollout, shape (N,).
        reward: Mean over rollouts; NaN if none could be graded.
        entropy: Mean per token, in nats, of the distribution that was sampled from, so after temperature scaling; where
            the loss is at temperature 1 (`loss_temperature` of `TAMPOConfig`), that of the policy at 1.
        temperature: The sampling temperature.
        rewards: Of each rollout, the weighted sum of the reward functions, shape (N,); NaN if it could not be graded.
        groups: The number of each rollout's prompt in the batch, shape (N,).
        sampled_log_likelihoods: Of each rollout at `temperature`, summed over its tokens, shape (N,).
        scored_at: The temperatures that `log_likelihoods` are of, shape (K,); None: the candidates.
        virtual_entropies: Mean per token, in nats, of the policy at each of `scored_at`, shape (K,); NaN for a batch
            without tokens. None: no controller asked for it (`TemperatureController.uses_virtual_entropies`).
    """

    temperatures: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]
    advantages: NDArray[np.float64]
    lengths: NDArray[np.float64]
    reward: float = math.nan
    entropy: float = math.nan
    temperature: float = math.nan
    rewards: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None
    sampled_log_likelihoods: NDArray[np.float64] | None = None
    scored_at: NDArray[np.float64] | None = None
    virtual_entropies: NDArray[np.float64] | None = None

    @property
    def optimal_temperatures(self) -> NDArray[np.float64]:
        """T* of each rollout, the candidate under which it is most likely (Eq. 7), shape (N,)."""
        return self.temperatures[self.log_likelihoods.argmax(axis=1)]

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """Logarithms of the weights that turn this batch into one sampled at each of `scored_at`, shape (N, K).

        Raises:
            ValueError: The batch has no `sampled_log_likelihoods`.
        """
        if self.sampled_log_likelihoods is None:
            raise ValueError("The batch has no sampled_log_likelihoods, which importance weights need.")
        return self.log_likelihoods - self.sampled_log_likelihoods[:, None]

    def statistics(self) -> dict[str, float]:
        """What is logged of the batch, beside what TRL logs.

        Mean, standard deviation and number of T* over rollouts of positive and of negative advantage, and the share
        of each candidate, the data of Figure 4 (a sign without rollouts is left out); and for each candidate the mean
        reward that rollouts at that temperature would have had, with the share of effective samples that this is known
        from (`tampo.off_policy.reward_at`).
        """
        result = {}
        for sign, chosen in (("positive", self.advantages > 0), ("negative", self.advantages < 0)):
            if chosen.any():
                best = self.optimal_temperatures[chosen]
                result[f"optimal_temperature/{sign}_mean"] = float(best.mean())
                result[f"optimal_temperature/{sign}_std"] = float(best.std())
                result[f"optimal_temperature/{sign}_count"] = float(len(best))
                for t in self.temperatures:
                    result[f"optimal_temperature/{sign}({t:g})"] = float(np.mean(best == t))
        at_candidates = self.scored_at is None or np.array_equal(self.scored_at, self.temperatures)
        if self.rewards is not None and self.sampled_log_likelihoods is not None and at_candidates:
            rewards, shares = reward_at(self.log_weights, self.rewards)
            for t, reward, share in zip(self.temperatures, rewards, shares, strict=True):
                result |= {f"reward_at/{t:g}": float(reward), f"reward_at/{t:g}_samples": float(share)}
        return result


@dataclass(frozen=True)
class RunSettings:
    """What every controller may use of the training run that it belongs to.

    Attributes:
        temperatures: The K candidates; also the range of controllers that follow the entropy.
        warmup_ratio: Share of the generation batches that sample at `warmup_temperature` (section 4.1: 0.1).
        warmup_temperature: Sampling temperature of the warm-up (section 4.1: 1.0).
        seed: Seed of the controller's own draws.
        total_steps: Optimizer steps of the whole run.
        total_batches: Generation batches of the whole run, the unit of the warm-up.
        vocabulary_size: Tokens that can be drawn.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES
    warmup_ratio: float = 0.1
    warmup_temperature: float = 1.0
    seed: int = 0
    total_steps: int = 1
    total_batches: int = 1
    vocabulary_size: int = 32_000

    def __post_init__(self) -> None:
        values: dict[str, Any] = {
            "temperatures": tuple(check_temperatures("temperature_candidates", self.temperatures).tolist()),
            "warmup_ratio": check_fraction("meta_warmup_ratio", self.warmup_ratio),
            "warmup_temperature": check_temperature("meta_warmup_temperature", self.warmup_temperature),
        }
        for name in ("seed", "total_steps", "total_batches", "vocabulary_size"):
            values[name] = to_int(name, getattr(self, name))
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def warmup_batches(self) -> int:
        """Generation batches of the warm-up."""
        return round(self.warmup_ratio * self.total_batches)


@dataclass
class TemperatureController(ABC):
    """Sets the sampling temperature. All processes hold the same state, and so draw the same temperature.

    A controller of one's own is a dataclass with fields (made by `parameter`), `temperature`, and a line in
    `tampo.controllers.CONTROLLERS`. One that learns adds `update`, `state_dict` and `load_state_dict`.
    """

    uses_warmup: ClassVar[bool] = False
    """Whether it reads the warm-up of `RunSettings`."""
    uses_virtual_entropies: ClassVar[bool] = False
    """Whether `RolloutBatch.virtual_entropies` is computed for it."""

    def start(self, run: RunSettings) -> None:
        """Prepare for a training run. Called once, before the first batch."""
        self.run = run

    @abstractmethod
    def temperature(self, step: int) -> float:
        """The temperature of the generation batch that starts at optimizer step `step` (from 0). One call a batch."""

    def scored_at(self, temperature: float) -> tuple[float, ...] | None:
        """The K temperatures at which a batch that is sampled at `temperature` is scored; None: the candidates."""
        return None

    def update(self, batch: RolloutBatch) -> None:
        """Learn from that batch. A schedule has nothing to learn."""

    def metrics(self) -> dict[str, float]:
        """Scalars to log at every step, beside the temperature itself."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs, as JSON types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError where it does not fit."""

    @classmethod
    def parameters(cls) -> dict[str, dataclasses.Field[Any]]:
        """The controller's parameters, by name: the fields of its dataclass."""
        return {field.name: field for field in dataclasses.fields(cls) if field.init}

    @classmethod
    def convert(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of parameters as their annotated types. Raises a ValueError that names a bad one."""
        try:
            kinds = get_type_hints(cls)
        except NameError:  # postponed annotations of a class that is defined in a function
            kinds = {}
        defaults = {name: type(field.default) for name, field in cls.parameters().items()}
        return {name: convert(name, value, kinds.get(name, defaults[name])) for name, value in values.items()}


def parameter(default: Any, help: str) -> Any:
    """A field of a controller: its default and its meaning."""
    return dataclasses.field(default=default, metadata={"help": help})


def help_of(controller: type[TemperatureController], name: str) -> str:
    """The meaning of a controller's parameter."""
    return controller.parameters()[name].metadata["help"]


def default_of(controller: type[TemperatureController], name: str) -> Any:
    """The default of a controller's parameter."""
    return controller.parameters()[name].default


def check_positive(name: str, value: float, or_zero: bool = False) -> float:
    """`value` as a finite float above 0 (or 0, where that is allowed), or a ValueError that names `name`."""
    number = to_float(name, value)
    if not (0 < number <= sys.float_info.max or (or_zero and number == 0)):
        wanted = "number of 0 or more" if or_zero else "positive number"
        raise ValueError(f"{name} must be a {wanted}, got {shown(value)}.")
    return number


def resolved(controller: TemperatureController) -> dict[str, Any]:
    """The values of a controller's parameters, as JSON types."""
    values = {name: plain(getattr(controller, name)) for name in controller.parameters()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
