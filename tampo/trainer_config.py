"""`TAMPOConfig`: TRL's `GRPOConfig` and the parameters of the rules that set the temperature."""

from dataclasses import dataclass, field
from typing import Any, cast

from tampo.extras import extra

with extra("trl"):
    from trl import GRPOConfig

from tampo.control import ControllerSettings, check_positive
from tampo.controllers import CONTROLLERS
from tampo.meta_policy import DEFAULT_TEMPERATURES, check_fraction, check_temperatures
from tampo.schedules import Staged


@dataclass
class TAMPOConfig(GRPOConfig):
    """`GRPOConfig` and the parameters of the temperature's controller.

    `temperature`, GRPO's own, is what the "fixed" controller samples at, and the temperature of evaluations during
    training under every controller. A parameter out of its range raises a ValueError that names it.

    Example:
        >>> config = TAMPOConfig("out", temperature_controller="linear", temperature_end=1.2, use_cpu=True, bf16=False)
        >>> config.temperature_start, config.temperature_end
        (0.9, 1.2)
        >>> TAMPOConfig("out", meta_alpha=2, use_cpu=True, bf16=False)
        Traceback (most recent call last):
        ValueError: meta_alpha must be between 0 and 1, got 2.
    """

    temperature_controller: str = field(
        default="tampo",
        metadata={
            "help": f"Rule that sets the sampling temperature of each generation batch: {', '.join(CONTROLLERS)}."
        },
    )
    temperature_candidates: list[float] = field(
        default_factory=lambda: list(DEFAULT_TEMPERATURES),
        metadata={"help": "Candidate (and virtual) temperatures T_1 ... T_K of the meta-policy; section 4.1."},
    )
    temperature_start: float = field(default=0.9, metadata={"help": "First temperature of linear and cosine."})
    temperature_end: float = field(default=1.5, metadata={"help": "Last temperature of linear and cosine."})
    temperature_stages: list[float] = field(
        default_factory=lambda: [0.9, 1.2, 1.5],
        metadata={"help": "Temperatures of staged, each for an equal share of the steps."},
    )
    target_entropy: float = field(
        default=0.3, metadata={"help": "Entropy that entropy-target holds, in nats a token; 0: that of the warm-up."}
    )
    entropy_gain: float = field(default=0.5, metadata={"help": "How strongly entropy-target corrects log T, per nat."})
    exp3_exploration: float = field(default=0.3, metadata={"help": "Share of uniform draws of exp3 (gamma)."})
    ucb_exploration: float = field(default=0.3, metadata={"help": "Weight of the confidence bound of ucb (UCB1: 1)."})
    meta_alpha: float = field(
        default=0.05, metadata={"help": "Weight of the newest batch in the moving average of Eq. 11, in [0, 1]."}
    )
    meta_top_p: float = field(
        default=0.7, metadata={"help": "Nucleus mass for drawing temperatures, in [0, 1]; 0 is greedy. Section 4.3."}
    )
    meta_warmup_ratio: float = field(
        default=0.1,
        metadata={"help": "Share of the run that samples at meta_warmup_temperature while the meta-policy learns."},
    )
    meta_warmup_temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of the warm-up."})
    meta_likelihood: str = field(
        default="sum",
        metadata={"help": "Compare log-likelihoods by their 'sum' (Eq. 8) or 'mean' (Eq. 6) over tokens."},
    )
    scoring_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows scored at a time in loss and reference, those of like length together, so that little is "
            "padding. By default a whole micro-batch, as TRL does."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.scoring_batch_size
        if rows is not None and (not isinstance(rows, int) or rows < 1):
            raise ValueError(f"scoring_batch_size must be a whole number of at least 1, or None, got {rows!r}.")
        if self.temperature_controller not in list(CONTROLLERS):  # a list compares what cannot be hashed, too
            raise ValueError(
                f"temperature_controller must be one of {', '.join(CONTROLLERS)}, got {self.temperature_controller!r}."
            )
        check_temperatures("temperature_candidates", self.temperature_candidates)
        for name in ("temperature", "temperature_start", "temperature_end", "meta_warmup_temperature"):
            check_temperatures(name, [getattr(self, name)])
        if not isinstance(self.temperature_stages, list | tuple):
            raise ValueError(f"temperature_stages must be a list of temperatures, got {self.temperature_stages!r}.")
        Staged(tuple(self.temperature_stages), total_steps=1)
        for name in ("meta_alpha", "meta_top_p", "meta_warmup_ratio", "exp3_exploration"):
            check_fraction(name, getattr(self, name))
        check_positive("entropy_gain", self.entropy_gain)
        for name in ("target_entropy", "ucb_exploration"):
            check_positive(name, getattr(self, name), or_zero=True)
        if self.meta_likelihood not in ("sum", "mean"):
            raise ValueError(f"meta_likelihood must be 'sum' or 'mean', got {self.meta_likelihood!r}.")
        if isinstance(self.generation_kwargs, dict) and "temperature" in self.generation_kwargs:
            raise ValueError(
                "generation_kwargs must not hold a temperature: the loss would not know of it. Set `temperature` and "
                "temperature_controller='fixed' instead."
            )

    @property
    def passes_per_batch(self) -> int:
        """Micro-batches that one generation batch serves."""
        assert self.steps_per_generation is not None, "GRPOConfig sets it"
        return self.steps_per_generation * self.num_iterations

    def controller_settings(self, total_steps: int, vocabulary: int = 32_000) -> ControllerSettings:
        """The controllers' parameters for a run of `total_steps` optimizer steps and a model of so many tokens."""
        batches = total_steps * self.gradient_accumulation_steps / self.passes_per_batch
        return ControllerSettings(
            temperature=self.temperature,
            temperature_start=self.temperature_start,
            temperature_end=self.temperature_end,
            temperature_stages=tuple(self.temperature_stages),
            temperatures=tuple(self.temperature_candidates),
            alpha=self.meta_alpha,
            p=self.meta_top_p,
            likelihood=cast(Any, self.meta_likelihood),
            target_entropy=self.target_entropy,
            entropy_gain=self.entropy_gain,
            exp3_exploration=self.exp3_exploration,
            ucb_exploration=self.ucb_exploration,
            meta_warmup_ratio=self.meta_warmup_ratio,
            meta_warmup_temperature=self.meta_warmup_temperature,
            seed=self.seed,
            total_steps=total_steps,
            total_batches=round(batches),
            vocabulary=vocabulary,
        )
