"""`TAMPOConfig`: TRL's `GRPOConfig`, the temperature controller and its parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, cast

from trl import GRPOConfig

from tampo.controllers.base import RunSettings, TemperatureController, default_of, help_of, parameter, resolved
from tampo.controllers.registry import CONTROLLERS, RENAMED_PARAMETERS, configure
from tampo.controllers.tampo import TAMPO
from tampo.meta_policy import (
    DEFAULT_TEMPERATURES,
    check_fraction,
    check_likelihood,
    check_temperature,
    check_temperatures,
)
from tampo.trainer.trl_internals import DICT_FIELDS
from tampo.values import convert, plain

LOSS_TEMPERATURES = ("sampling", "one")


def _of_tampo(name: str) -> Any:
    """A field with the default and the help text of a parameter of the controller `TAMPO`."""
    return parameter(default_of(TAMPO, name), help_of(TAMPO, name))


@dataclass
class TAMPOConfig(GRPOConfig):
    """`GRPOConfig`, the controller of the sampling temperature, and its parameters.

    GRPO's `temperature` is the sampling temperature of the "fixed" controller, and with every controller that of
    evaluations during training. A parameter out of its range raises a ValueError that names it.

    Defaults are those of TRL, also where they change the objective (docs/paper-scale.md has the table): with the
    "fixed" controller, a script that changes from GRPO to TAMPO trains as before. `tampo train` has the paper's.

    Values become plain Python types: numbers may be words ("6e-1"), fractions, and scalars of numpy, torch or pandas;
    lists may be arrays.

    Example:
        >>> cosine = {"temperature_controller": "cosine", "temperature_controller_kwargs": {"end_temperature": 1.2}}
        >>> config = TAMPOConfig("out", **cosine, use_cpu=True, bf16=False)
        >>> config.configure_controller()
        Cosine(start_temperature=0.9, end_temperature=1.2)
        >>> TAMPOConfig("out", meta_alpha=2, use_cpu=True, bf16=False)
        Traceback (most recent call last):
        ValueError: meta_alpha must be between 0 and 1, got 2.0.
    """

    _VALID_DICT_FIELDS = [*DICT_FIELDS, "temperature_controller_kwargs"]  # noqa: RUF012

    temperature_controller: str = parameter("tampo", f"Sets the sampling temperature: {', '.join(CONTROLLERS)}.")
    temperature_controller_kwargs: dict[str, Any] | str | None = parameter(
        None,
        "Parameters of the controller, such as {'start_temperature': 0.8} of linear; `tampo params` lists them. Those "
        "of tampo are meta_alpha, meta_top_p and meta_likelihood.",
    )
    temperature_candidates: list[float] = field(
        default_factory=lambda: list(DEFAULT_TEMPERATURES),
        metadata={"help": "Candidate (and virtual) temperatures T_1 ... T_K of the meta-policy; section 4.1."},
    )
    meta_alpha: float = _of_tampo("alpha")
    meta_top_p: float = _of_tampo("top_p")
    meta_likelihood: str = _of_tampo("likelihood")
    meta_warmup_ratio: float = parameter(
        RunSettings.warmup_ratio,
        "Share of the run that samples at meta_warmup_temperature.",
    )
    meta_warmup_temperature: float = parameter(RunSettings.warmup_temperature, "Sampling temperature of the warm-up.")
    loss_temperature: str = parameter(
        "sampling",
        "Temperature of the log-probs of the loss: sampling (that of the rollouts), or one. With one, T is a property "
        "of the behaviour policy only, and the loss is importance-weighted (tampo.trainer.importance_weights).",
    )
    loss_importance_cap: float = parameter(
        2.0, "Upper limit of these weights, at least 1; read with loss_temperature 'one' only."
    )
    scoring_batch_size: int | None = parameter(
        None,
        "Rows per group in log-prob computation (policy and reference); rows of similar length form a group, so that "
        "little is padding. By default a whole micro-batch, as in TRL.",
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        for name in RENAMED_PARAMETERS.keys() & kwargs.keys():
            new = f'temperature_controller_kwargs={{"{RENAMED_PARAMETERS[name]}": ...}}'
            raise TypeError(f"TAMPOConfig has no {name} any more; write {new}.")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        kinds = TAMPOConfig.__annotations__ | {"temperature": float}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if name == "temperature_controller_kwargs":
                continue  # the controller converts them
            if name in kinds:
                setattr(self, name, convert(name, value, kinds[name]))
            elif hasattr(value, "tolist"):
                setattr(self, name, plain(value))
        super().__post_init__()
        if self.torch_compile:  # also by torch_compile_backend or torch_compile_mode
            raise ValueError(
                "torch_compile=True is not supported: compiled code keeps the temperature that it was compiled with, "
                "and the loss would not follow the sampling. Set torch_compile=False, without torch_compile_backend "
                "and torch_compile_mode."
            )
        if self.loss_temperature not in LOSS_TEMPERATURES:
            raise ValueError(
                f"loss_temperature must be one of {', '.join(LOSS_TEMPERATURES)}, got {self.loss_temperature!r}."
            )
        if not self.loss_importance_cap >= 1:  # not NaN either; below 1, rollouts at T = 1 would have other weights
            raise ValueError(f"loss_importance_cap must be a number of at least 1, got {self.loss_importance_cap!r}.")
        rows = self.scoring_batch_size
        if rows is not None and rows < 1:
            raise ValueError(f"scoring_batch_size must be a whole number of at least 1, or None, got {rows!r}.")
        if self.temperature_controller not in CONTROLLERS:
            raise ValueError(
                f"temperature_controller must be one of {', '.join(CONTROLLERS)}, got {self.temperature_controller!r}."
            )
        check_temperatures("temperature_candidates", self.temperature_candidates)
        for name in ("temperature", "meta_warmup_temperature"):
            check_temperature(name, getattr(self, name))
        for name in ("meta_alpha", "meta_top_p", "meta_warmup_ratio"):
            check_fraction(name, getattr(self, name))
        check_likelihood("meta_likelihood", self.meta_likelihood)
        try:
            values = resolved(self.configure_controller())
        except ValueError as error:
            raise ValueError(f"temperature_controller_kwargs: {error}") from error
        if isinstance(self.temperature_controller_kwargs, Mapping):
            self.temperature_controller_kwargs = {name: values[name] for name in self.temperature_controller_kwargs}
        if isinstance(self.generation_kwargs, dict) and "temperature" in self.generation_kwargs:
            raise ValueError(
                "generation_kwargs must not hold a temperature: the loss would not use it. Set `temperature` and "
                "temperature_controller='fixed' instead."
            )

    @property
    def passes_per_batch(self) -> int:
        """Micro-batches computed from one generation batch."""
        assert self.steps_per_generation is not None, "GRPOConfig sets it"
        return self.steps_per_generation * self.num_iterations

    @property
    def prompts_per_batch(self) -> int:
        """Different prompts in one generation batch, over all processes."""
        assert self.generation_batch_size is not None and self.num_generations is not None, "GRPOConfig sets them"
        return self.generation_batch_size // self.num_generations

    def describe_batch(self) -> str:
        """The parameters that decide `prompts_per_batch`, for messages."""
        return (
            f"A generation batch needs {self.prompts_per_batch} different prompts: per_device_train_batch_size "
            f"({self.per_device_train_batch_size}) * processes ({self.world_size}) * steps_per_generation "
            f"({self.steps_per_generation}) / num_generations ({self.num_generations}). Give more rows, or lower one "
            "of the first three."
        )

    def configure_controller(self) -> TemperatureController:
        """A new controller with its parameters. Raises a ValueError that names a bad parameter."""
        named = {"alpha": self.meta_alpha, "top_p": self.meta_top_p, "likelihood": self.meta_likelihood}
        named["value"] = self.temperature
        return configure(self.temperature_controller, cast(Any, self.temperature_controller_kwargs or {}), named)

    def run_settings(self, total_steps: int, vocabulary_size: int = 32_000) -> RunSettings:
        """Settings for the controller of a training run of `total_steps` optimizer steps."""
        batches = total_steps * self.gradient_accumulation_steps / self.passes_per_batch
        return RunSettings(
            temperatures=tuple(self.temperature_candidates),
            warmup_ratio=self.meta_warmup_ratio,
            warmup_temperature=self.meta_warmup_temperature,
            seed=self.seed,
            total_steps=total_steps,
            total_batches=round(batches),
            vocabulary_size=vocabulary_size,
        )
