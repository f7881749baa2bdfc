"""TAMPO as a controller: the meta-policy of `tampo.meta_policy` in a training run (Algorithm 1)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, parameter
from tampo.meta_policy import Likelihood, MetaPolicy, check_fraction, check_likelihood
from tampo.values import to_choice, to_float


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
    noise_guard: float = parameter(
        0.0,
        "Temperatures stay at that of the warm-up while the spread of Eq. 11 is below this many of its standard "
        "errors; 0 (the paper): never. 4 keeps noise from moving them.",
    )
    uses_warmup: ClassVar = True

    def __post_init__(self) -> None:
        self.noise_guard = to_float("noise_guard", self.noise_guard)
        if not 0 <= self.noise_guard < math.inf:
            raise ValueError(f"noise_guard must be at least 0 and finite, got {self.noise_guard!r}.")
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
        count = len(run.temperatures)
        self._covariance = np.zeros((count, count))  # of the averages of Eq. 11, from rollouts of different prompts

    def temperature(self, step: int) -> float:
        drawn = self.meta_policy.sample()  # always, so that what is drawn later does not depend on the guard
        return drawn if self.is_significant else self.run.warmup_temperature

    @property
    def is_significant(self) -> bool:
        """Whether best and worst candidate are more than `noise_guard` standard errors apart in Eq. 11."""
        if self.noise_guard == 0:
            return True
        averages, covariance = self.meta_policy.advantages, self._covariance
        best, worst = averages.argmax(), averages.argmin()
        variance = covariance[best, best] + covariance[worst, worst] - 2 * covariance[best, worst]
        return bool(averages[best] - averages[worst] > self.noise_guard * math.sqrt(max(variance, 0.0)))

    def scored_at(self, temperature: float) -> tuple[float, ...] | None:
        if self.virtual_temperatures == "absolute":
            return None
        return tuple(candidate * temperature for candidate in self.run.temperatures)

    def update(self, batch: RolloutBatch) -> None:
        given = batch.log_likelihoods, batch.advantages, batch.lengths
        self.meta_policy.update(*given)
        self._latest = {"signal": self.meta_policy.batch_advantages(*given).tolist()}
        means = self._prompt_means(batch)
        if len(means) > 1:
            self._latest["signal_error"] = (means.std(axis=0, ddof=1) / np.sqrt(len(means))).tolist()
            if self.noise_guard > 0:
                noise = np.cov(means, rowvar=False).reshape(self._covariance.shape) / len(means)
                self._covariance = (1 - self.alpha) ** 2 * self._covariance + self.alpha**2 * noise

    def _prompt_means(self, batch: RolloutBatch) -> NDArray[np.float64]:
        """The signal (Eq. 10) of each prompt of the batch, shape (prompts, K)."""
        specific = self.meta_policy.rollout_advantages(batch.log_likelihoods, batch.advantages, batch.lengths)
        groups = np.arange(len(specific)) if batch.groups is None else batch.groups
        # Rollouts of a prompt share their baseline, so that prompts are what is independent.
        return np.array([specific[groups == group].mean(axis=0) for group in np.unique(groups)])

    def metrics(self) -> dict[str, float]:
        """The distribution (Eq. 12) and its entropy in nats; the averages of Eq. 11; the latest batch's signal (Eq. 10)
        and its standard error over prompts.
        """
        policy = self.meta_policy
        logged = {"meta_policy/entropy": policy.entropy}
        if self.noise_guard > 0:
            logged["meta_policy/significant"] = float(self.is_significant)
        columns = {"p": policy.probabilities.tolist(), "average": policy.advantages.tolist(), **self._latest}
        for name, values in columns.items():
            logged |= {
                f"meta_policy/{name}({t:g})": value for t, value in zip(policy.temperatures, values, strict=True)
            }
        return logged

    def state_dict(self) -> dict[str, Any]:
        # The latest batch is logged again in its later steps, which a resumed run may begin with.
        state = self.meta_policy.state_dict() | {"latest": dict(self._latest)}
        return state | ({"covariance": self._covariance.tolist()} if self.noise_guard else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_policy.load_state_dict(state)
        self._latest = dict(state.get("latest", {}))  # checkpoints of earlier versions have none
        if "covariance" in state:
            self._covariance = np.array(state["covariance"])
