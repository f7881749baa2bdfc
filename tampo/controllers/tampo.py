"""TAMPO as a controller: the meta-policy of `tampo.meta_policy` in a training run (Algorithm 1)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, parameter
from tampo.meta_policy import Likelihood, MetaPolicy, check_fraction, check_likelihood


@dataclass
class TAMPO(TemperatureController):
    """Temperatures drawn from the meta-policy, which every batch moves (Algorithm 1)."""

    alpha: float = parameter(0.05, "Weight of the newest batch in the moving average of Eq. 11, in [0, 1].")
    top_p: float = parameter(0.7, "Nucleus mass for drawing temperatures, in [0, 1]; 0 is greedy. Section 4.3.")
    likelihood: Likelihood = parameter("sum", "Log-likelihoods by sum (Eq. 8) or mean (Eq. 6) over tokens.")
    uses_warmup: ClassVar = True

    def __post_init__(self) -> None:
        self.alpha = check_fraction("alpha", self.alpha)
        self.top_p = check_fraction("top_p", self.top_p)
        self.likelihood = check_likelihood("likelihood", self.likelihood)

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self.meta_policy = MetaPolicy(
            run.temperatures,
            alpha=self.alpha,
            top_p=self.top_p,
            likelihood=self.likelihood,
            seed=run.seed,
            warmup_updates=run.warmup_batches,
            warmup_temperature=run.warmup_temperature,
        )

    def temperature(self, step: int) -> float:
        return self.meta_policy.sample()

    def update(self, batch: RolloutBatch) -> None:
        self.meta_policy.update(batch.log_likelihoods, batch.advantages, batch.lengths)

    def metrics(self) -> dict[str, float]:
        policy = self.meta_policy
        distribution = zip(policy.temperatures, policy.probabilities, strict=True)
        return {"meta_policy/entropy": policy.entropy} | {f"meta_policy/p({t:g})": float(p) for t, p in distribution}

    def state_dict(self) -> dict[str, Any]:
        return self.meta_policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_policy.load_state_dict(state)
