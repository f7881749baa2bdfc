"""TAMPO as a controller: the meta-policy of `tampo.meta_policy` in a training run (Algorithm 1)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, parameter
from tampo.meta_policy import Likelihood, MetaPolicy, check_fraction, check_likelihood
from tampo.values import to_choice


@dataclass
class TAMPO(TemperatureController):
    """Temperatures drawn from the meta-policy, which every batch moves (Algorithm 1)."""

    alpha: float = parameter(0.05, "Weight of the newest batch in the moving average of Eq. 11, in [0, 1].")
    top_p: float = parameter(0.7, "Nucleus mass for drawing temperatures, in [0, 1]; 0 is greedy. Section 4.3.")
    likelihood: Likelihood = parameter("sum", "Log-likelihoods by sum (Eq. 8) or mean (Eq. 6) over tokens.")
    virtual_temperatures: Literal["absolute", "relative"] = parameter(
        "absolute",
        "Logits are divided by T_k (Eq. 5: absolute), or by T_k times the sampling temperature (relative), which is "
        "what scoring with tempered logits does.",
    )
    uses_warmup: ClassVar = True

    def __post_init__(self) -> None:
        self.alpha = check_fraction("alpha", self.alpha)
        self.top_p = check_fraction("top_p", self.top_p)
        self.likelihood = check_likelihood("likelihood", self.likelihood)
        to_choice("virtual_temperatures", self.virtual_temperatures, ("absolute", "relative"))

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
        self._latest: dict[str, list[float]] = {}  # the latest batch's signal and its error, (K,) each

    def temperature(self, step: int) -> float:
        return self.meta_policy.sample()

    def scored_at(self, temperature: float) -> tuple[float, ...] | None:
        if self.virtual_temperatures == "absolute":
            return None
        return tuple(candidate * temperature for candidate in self.run.temperatures)

    def update(self, batch: RolloutBatch) -> None:
        given = batch.log_likelihoods, batch.advantages, batch.lengths
        self.meta_policy.update(*given)
        self._latest = {"signal": self.meta_policy.batch_advantages(*given).tolist()}
        if (error := self._error(batch)) is not None:
            self._latest["signal_error"] = error.tolist()

    def _error(self, batch: RolloutBatch) -> NDArray[np.float64] | None:
        """Standard error of the batch's signal (Eq. 10) over prompts, shape (K,); None for a single prompt."""
        specific = self.meta_policy.rollout_advantages(batch.log_likelihoods, batch.advantages, batch.lengths)
        groups = np.arange(len(specific)) if batch.groups is None else batch.groups
        # Rollouts of a prompt share their baseline, so that prompts are what is independent.
        means = np.array([specific[groups == group].mean(axis=0) for group in np.unique(groups)])
        return means.std(axis=0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else None

    def metrics(self) -> dict[str, float]:
        """The distribution (Eq. 12) and its entropy in nats; the averages of Eq. 11; the latest batch's signal (Eq. 10)
        and its standard error over prompts.
        """
        policy = self.meta_policy
        columns = {"p": policy.probabilities.tolist(), "average": policy.advantages.tolist(), **self._latest}
        return {"meta_policy/entropy": policy.entropy} | {
            f"meta_policy/{name}({t:g})": value
            for name, values in columns.items()
            for t, value in zip(policy.temperatures, values, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        # The latest batch is logged again in its later steps, which a resumed run may begin with.
        return self.meta_policy.state_dict() | {"latest": dict(self._latest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_policy.load_state_dict(state)
        self._latest = dict(state.get("latest", {}))  # checkpoints of earlier versions have none
