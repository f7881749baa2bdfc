"""Controllers that hold the policy's entropy: feedback in log T, the formula of E3, and the T that has that entropy.

All read the mean entropy per token of the distribution that was sampled from, so after temperature scaling (the
temperature-adjusted entropy of AceReason, which TRL logs). All sample at one temperature in the warm-up, in which the
entropy to hold can be measured, and stay between the lowest and the highest candidate. The last one also reads the
entropy at the candidates, from the same logits.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, check_positive, parameter
from tampo.meta_policy import check_fraction

_TINY = 1e-6  # nats; a policy that is sure of everything still has a finite logarithm


@dataclass
class _EntropyController(TemperatureController):
    """A warm-up, then a step of T after each batch.

    `target_entropy` is H*, in nats per token; None: the mean of the warm-up (of the first batch without one).
    """

    uses_warmup: ClassVar = True

    def start(self, run: RunSettings) -> None:
        super().start(run)
        self.current = run.warmup_temperature
        self.target_entropy = self._preset()
        self._first: list[float] = []
        self._batches = 0

    def _preset(self) -> float | None:
        """The entropy to hold, where it is not measured in the warm-up."""
        return None

    def temperature(self, step: int) -> float:
        return self.current

    def update(self, batch: RolloutBatch) -> None:
        """Measure, or move T. A batch without entropy, as one of empty completions, changes nothing."""
        self._batches += 1
        if not math.isfinite(batch.entropy):
            return
        entropy = max(batch.entropy, _TINY)
        if self.target_entropy is None:
            self._first.append(entropy)
            if self._batches >= self.run.warmup_batches:
                self.target_entropy = sum(self._first) / len(self._first)
        elif self._batches >= self.run.warmup_batches:
            moved = self._moved(entropy, self.target_entropy)
            self.current = min(max(moved, min(self.run.temperatures)), max(self.run.temperatures))

    @abstractmethod
    def _moved(self, entropy: float, target: float) -> float:
        """The next temperature, before it is kept in its range."""

    def metrics(self) -> dict[str, float]:
        return {} if self.target_entropy is None else {"controller/target_entropy": self.target_entropy}

    def state_dict(self) -> dict[str, Any]:
        return {
            "current": self.current,
            "target": self.target_entropy,
            "first": [*self._first],
            "batches": self._batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        current, target = float(state["current"]), state["target"]
        if not (0 < current < math.inf and (target is None or 0 < target < math.inf)):
            raise ValueError(f"temperature {current!r} or target entropy {target!r} is out of range")
        self.current, self.target_entropy = current, target
        self._first, self._batches = [float(value) for value in state["first"]], int(state["batches"])


@dataclass
class EntropyTarget(_EntropyController):
    """log T <- log T + k (H* - H): warmer while the entropy is below H*, colder while it is above.

    H* of 0.3 nats is what AceReason-Nemotron 1.1 (Liu et al. 2025) recommends for mathematics and code, where T was
    chosen by hand to hold it.
    """

    target: float = parameter(0.3, "Entropy to hold, in nats per token; 0: that of the warm-up.")
    gain: float = parameter(0.5, "How strongly log T is corrected, per nat.")

    def __post_init__(self) -> None:
        self.target = check_positive("target", self.target, or_zero=True)
        self.gain = check_positive("gain", self.gain)

    def _preset(self) -> float | None:
        return self.target or None

    def _moved(self, entropy: float, target: float) -> float:
        # Beyond the range anyway, and exp stays finite.
        return self.current * math.exp(min(max(self.gain * (target - entropy), -50.0), 50.0))


@dataclass
class E3(_EntropyController):
    """T <- T (1 + T ln(H* / H) / (ln V + ln ln V)), H* that of the first steps (Liao et al. 2025, arXiv 2505.18573).

    V is the number of tokens of the vocabulary.
    """

    def start(self, run: RunSettings) -> None:
        if run.vocabulary_size < 3:
            raise ValueError(f"E3 needs a vocabulary of at least 3 tokens, got {run.vocabulary_size}.")
        super().start(run)

    def _moved(self, entropy: float, target: float) -> float:
        size = math.log(self.run.vocabulary_size) + math.log(math.log(self.run.vocabulary_size))
        return self.current * (1 + self.current * math.log(target / entropy) / size)


@dataclass
class EntropyMatch(_EntropyController):
    """log T <- log T + rate (log T' - log T), T' where the policy that generated the latest batch has the entropy H*.

    T' is known without a further rollout: entropy rises with T, and that at each candidate comes from the logits of the
    log-likelihoods. Between two candidates, it is taken as linear in log T; T' stays within their range.
    """

    target: float = parameter(0.0, "Entropy to hold, in nats per token; 0: that of the warm-up.")
    rate: float = parameter(0.5, "Share of the way to the found log T that a batch moves, in (0, 1].")
    uses_virtual_entropies: ClassVar = True

    def __post_init__(self) -> None:
        self.target = check_positive("target", self.target, or_zero=True)
        self.rate = check_positive("rate", check_fraction("rate", self.rate))

    def _preset(self) -> float | None:
        return self.target or None

    def update(self, batch: RolloutBatch) -> None:
        if batch.virtual_entropies is None:
            raise ValueError("The controller entropy-match needs the virtual_entropies of a batch.")
        self._latest = batch  # for `_moved`
        super().update(batch)

    def _moved(self, entropy: float, target: float) -> float:
        temperatures, entropies = self._latest.temperatures, self._latest.virtual_entropies  # (K,) each
        assert entropies is not None, "update() checks it"
        if not np.isfinite(entropies).all():  # a batch without tokens
            return self.current
        order = temperatures.argsort()
        rising = np.maximum.accumulate(entropies[order])  # but for rounding it is
        found = float(np.interp(target, rising, np.log(temperatures[order])))
        return math.exp(math.log(self.current) + self.rate * (found - math.log(self.current)))
