"""Every rule that sets the sampling temperature of a training run, by name.

A new rule is one class with the methods of `tampo.control.TemperatureController` and one line in `CONTROLLERS`; then
`controller: its-name` in a file of params/, or `TAMPOConfig(temperature_controller="its-name")`, uses it.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from tampo.bandits import EXP3, UCB
from tampo.control import ControllerSettings, Observation, TemperatureController
from tampo.entropy_rules import E3, EntropyTarget
from tampo.meta_policy import MetaPolicy, check_fraction
from tampo.schedules import Cosine, Fixed, Linear, Staged


@dataclass
class TAMPO:
    """Temperatures drawn from the meta-policy, which every batch moves (Algorithm 1)."""

    meta_policy: MetaPolicy = field(default_factory=MetaPolicy)
    parameters: ClassVar = frozenset({"alpha", "p", "likelihood", "meta_warmup_ratio", "meta_warmup_temperature"})

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        check_fraction("meta_warmup_ratio", settings.meta_warmup_ratio)
        return cls(
            MetaPolicy(
                settings.temperatures,
                alpha=settings.alpha,
                top_p=settings.p,
                likelihood=settings.likelihood,
                seed=settings.seed,
                warmup_updates=settings.warmup_batches,
                warmup_temperature=settings.meta_warmup_temperature,
            )
        )

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


CONTROLLERS: dict[str, type[TemperatureController]] = {
    "tampo": TAMPO,
    "fixed": Fixed,
    "linear": Linear,
    "cosine": Cosine,
    "staged": Staged,
    "entropy-target": EntropyTarget,
    "e3": E3,
    "exp3": EXP3,
    "ucb": UCB,
}


def make_controller(name: str, settings: ControllerSettings) -> TemperatureController:
    """The controller that `CONTROLLERS` calls `name`.

    Raises:
        ValueError: Unknown name, or a parameter out of range; the message names it.

    Example:
        >>> cosine = make_controller("cosine", ControllerSettings(total_steps=5))
        >>> [round(cosine.temperature(step), 2) for step in range(5)]
        [0.9, 0.99, 1.2, 1.41, 1.5]
    """
    if name not in list(CONTROLLERS):  # a list compares what cannot be hashed, too
        raise ValueError(f"Unknown temperature controller {name!r}; known are {', '.join(CONTROLLERS)}.")
    return CONTROLLERS[name].from_settings(settings)
