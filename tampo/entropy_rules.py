"""Temperatures that hold the policy's entropy: feedback in the log of T, and the rule of E3.

Both read the mean entropy a token of the distribution that was sampled from, so after temperature scaling (which is
what AceReason calls temperature-adjusted entropy, and TRL logs). Both sample at one temperature in the warm-up, in
which the entropy to hold can be measured, and stay between the lowest and the highest candidate.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from tampo.control import ControllerSettings, Observation, check_positive
from tampo.meta_policy import check_fraction, check_temperatures

_TINY = 1e-6  # nats; a policy that is sure of everything still has a finite logarithm


@dataclass
class _EntropyRule:
    """A warm-up, then a step of T after each batch.

    Attributes:
        target: H*, in nats a token; None: the mean of the warm-up (of the first batch without one).
        low, high: Where T is kept.
        current: T, at first that of the warm-up.
        warmup_batches: Batches before T moves.
    """

    target: float | None
    low: float
    high: float
    current: float = 1.0
    warmup_batches: int = 0
    _first: list[float] = field(default_factory=list, init=False)
    _batches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_temperatures("meta_warmup_temperature", [self.current])
        if self.target is not None:
            check_positive("target_entropy", self.target)

    def temperature(self, step: int) -> float:
        return self.current

    def update(self, observation: Observation) -> None:
        """Measure, or move T. A batch without entropy, as one of empty completions, changes nothing."""
        self._batches += 1
        if not math.isfinite(observation.entropy):
            return
        entropy = max(observation.entropy, _TINY)
        if self.target is None:
            self._first.append(entropy)
            if self._batches >= self.warmup_batches:
                self.target = sum(self._first) / len(self._first)
        elif self._batches >= self.warmup_batches:
            self.current = min(max(self._moved(entropy, self.target), self.low), self.high)

    def _moved(self, entropy: float, target: float) -> float:
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        return {} if self.target is None else {"controller/target_entropy": self.target}

    def state_dict(self) -> dict[str, Any]:
        return {"current": self.current, "target": self.target, "first": [*self._first], "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        current, target = float(state["current"]), state["target"]
        if not (0 < current < math.inf and (target is None or 0 < target < math.inf)):
            raise ValueError(f"temperature {current!r} or target entropy {target!r} is out of range")
        self.current, self.target = current, target
        self._first, self._batches = [float(value) for value in state["first"]], int(state["batches"])


@dataclass
class EntropyTarget(_EntropyRule):
    """log T <- log T + k (H* - H): warmer while the entropy is below H*, colder while it is above.

    H* of 0.3 nats is what AceReason-Nemotron 1.1 (Liu et al. 2025) recommends for mathematics and code, where T was
    chosen by hand to hold it.
    """

    gain: float = 0.5
    parameters: ClassVar = frozenset({"target_entropy", "entropy_gain", "meta_warmup_ratio", "meta_warmup_temperature"})

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        gain = check_positive("entropy_gain", settings.entropy_gain)
        return cls(settings.target_entropy or None, *_frame(settings), gain=gain)

    def _moved(self, entropy: float, target: float) -> float:
        # Beyond the clamp anyway, and exp stays finite.
        return self.current * math.exp(min(max(self.gain * (target - entropy), -50.0), 50.0))


@dataclass
class E3(_EntropyRule):
    """T <- T (1 + T ln(H* / H) / (ln V + ln ln V)), H* that of the first steps (Liao et al. 2025, arXiv 2505.18573).

    V is the number of tokens of the vocabulary.
    """

    vocabulary: int = 32_000
    parameters: ClassVar = frozenset({"meta_warmup_ratio", "meta_warmup_temperature"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary < 3:
            raise ValueError(f"E3 needs a vocabulary of at least 3 tokens, got {self.vocabulary}.")

    @classmethod
    def from_settings(cls, settings: ControllerSettings) -> Self:
        return cls(None, *_frame(settings), vocabulary=settings.vocabulary)

    def _moved(self, entropy: float, target: float) -> float:
        size = math.log(self.vocabulary) + math.log(math.log(self.vocabulary))
        return self.current * (1 + self.current * math.log(target / entropy) / size)


def _frame(settings: ControllerSettings) -> tuple[float, float, float, int]:
    """Lowest and highest temperature, that of the warm-up, and its batches."""
    candidates = check_temperatures("temperatures", settings.temperatures)
    check_fraction("meta_warmup_ratio", settings.meta_warmup_ratio)
    return float(min(candidates)), float(max(candidates)), settings.meta_warmup_temperature, settings.warmup_batches
