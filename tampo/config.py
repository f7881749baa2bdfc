"""The parameters of an experiment: one flat set that YAML files, the command line and notebooks all build.

`Params` is everything; `TrainingConfig` and `EvaluationConfig` are the parts that decide what a training and an
evaluation produce, and so what a stored run is known by (`tampo.runs.store`).
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from tampo.extras import extra

with extra("reproduce"):
    import yaml
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from tampo.controllers.base import RunSettings, TemperatureController, default_of, help_of, resolved
from tampo.controllers.registry import CONTROLLERS, configure
from tampo.controllers.schedules import Fixed
from tampo.controllers.tampo import TAMPO
from tampo.meta_policy import DEFAULT_TEMPERATURES, Likelihood, check_temperatures
from tampo.project import bundled, parameter_folders, project_root

SuiteName = Literal["mini", "mini-choice", "math", "ecqa"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
RolloutEngine = Literal["transformers", "vllm-colocate", "vllm-server"]
EvaluationEngine = Literal["transformers", "vllm", "vllm-server"]

# Names of earlier versions, and what is written now: where TRL has a name for a parameter, it is TRL's.
RENAMED = {
    "steps": "max_steps",
    "micro_batch": "per_device_train_batch_size",
    "scoring_batch": "scoring_batch_size",
    "engine_memory": "vllm_gpu_memory_utilization",
    "vllm_server": "vllm_server_base_url",
    "warmup_ratio": "warmup_steps",
    "controller": "temperature_controller",
    "temperatures": "temperature_candidates",
    "temperature_start": "temperature_controller_kwargs: {start_temperature: ...}",
    "temperature_end": "temperature_controller_kwargs: {end_temperature: ...}",
    "temperature_stages": "temperature_controller_kwargs: {stages: [...]}",
    "target_entropy": "temperature_controller_kwargs: {target: ...}",
    "entropy_gain": "temperature_controller_kwargs: {gain: ...}",
    "exp3_exploration": "temperature_controller_kwargs: {exploration: ...}",
    "ucb_exploration": "temperature_controller_kwargs: {exploration: ...}",
}

# At most so many seeds, which a slip in a range would exceed.
MAX_SEEDS = 1000

Seed = Annotated[int, Field(ge=0)]

# Where things are, as files are known by their content, and where a log is sent.
_PLACES = frozenset({"data_dir", "vllm_server_base_url", "report_to"})


class ConfigError(ValueError):
    """A parameter is unknown, of the wrong type or out of range; the message names it and the way out."""


class _Flat(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Text means the same wherever it comes from: a YAML file, the command line, `papermill -p` or `-y`."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if get_origin(annotation) is tuple:
            items = _list_items(value)
            return _expand_ranges(items) if get_args(annotation)[0] is Seed else items
        if get_origin(annotation) is dict:
            return _mapping(value)
        if isinstance(value, str):
            if value.strip().lower() == "null" and type(None) in get_args(annotation):
                return None
            if annotation is not str and re.match(r"\s*\d+\s*-", value):  # which pydantic reads as a negative number
                raise ValueError("must be one number, not a range")
        return value


def _mapping(value: Any) -> Any:
    """A mapping, which may be text: {start_temperature: 0.8}, as YAML or JSON write it. None is an empty one."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError("must be a mapping such as {start_temperature: 0.8}") from error


def _list_items(value: Any) -> Any:
    """The items of a list, which may be one value, or text with commas and perhaps brackets; anything else as it is."""
    if isinstance(value, str):
        inside = re.fullmatch(r"\s*[\[(](.*)[\])]\s*", value, re.DOTALL)
        return [part.strip(" \t\n'\"") for part in (inside[1] if inside else value).split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def _expand_ranges(items: Any) -> Any:
    """Seeds with "0-4" written out; repeated ones count once."""
    if not isinstance(items, list | tuple):
        return items
    seeds: list[Any] = []
    for item in items:
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", item) if isinstance(item, str) else None
        if match is None:
            seeds.append(item)
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last:
            raise ValueError(f"the range {item.strip()} must go up")
        if last - first >= MAX_SEEDS:
            raise ValueError(f"the range {item.strip()} has more than {MAX_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(seeds) > MAX_SEEDS:
        raise ValueError(f"more than {MAX_SEEDS} seeds")
    hashable = all(isinstance(seed, int | float | str) for seed in seeds)
    return list(dict.fromkeys(seeds)) if hashable else seeds


class _DataConfig(_Flat):
    suite: SuiteName = Field("mini", description="What is asked and how it is judged: mini, mini-choice, math or ecqa.")
    data_dir: str | None = Field(None, description="Folder of JSONL files to read instead of the Hugging Face hub.")
    data_revision: str | None = Field(None, description="Commit, branch or tag of the data sets on the hub.")
    vllm_server_base_url: str = Field(
        "http://127.0.0.1:8000", description="Address of the server of the vllm-server engines."
    )


class TrainingConfig(_DataConfig):
    """One training run. Defaults are those of the mini scale."""

    model: str = Field(
        "mini", description="One that is shipped (mini, mini-choice, mini-rare), a folder, or a Hugging Face id."
    )
    drop_overlaps: bool = Field(False, description="Leave out training problems that are in a benchmark (math, ecqa).")
    train_problems: int | None = Field(2000, ge=1, description="Training problems (mini: a task family); null: all.")
    data_seed: int = Field(0, ge=0, description="Seed of the training problems (mini).")
    reward_accuracy: float = Field(1.0, ge=0, description="Weight of a right answer in the reward.")
    reward_format: float = Field(0.0, ge=0, description="Weight of the asked-for form in the reward.")
    max_steps: int = Field(100, ge=1, description="Optimizer steps (section 4.1: 200).")
    prompts_per_step: int = Field(32, ge=1, description="Prompts in a step (section 4.1: 32).")
    num_generations: int = Field(8, ge=2, description="Rollouts a prompt, G (section 4.1: 8).")
    per_device_train_batch_size: int = Field(128, ge=1, description="Rollouts in one forward and backward pass.")
    scoring_batch_size: int | None = Field(
        32, ge=1, description="Rollouts scored at a time, those of like length together; null: a whole micro-batch."
    )
    max_prompt_length: int = Field(512, ge=1, description="Tokens a prompt may have; longer problems are left out.")
    max_completion_length: int = Field(64, ge=1, description="Tokens a rollout may have.")
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate (section 4.1: 1e-6).")
    warmup_steps: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    beta: float = Field(0.0, ge=0, description="Weight of the KL term (Eq. 13).")
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = Field("grpo", description="TRL's loss (Eq. 13: grpo).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Precision = Field("auto", description="auto: fp32 on CPU, bf16 where the GPU has it, else fp16.")
    gradient_checkpointing: bool = Field(False, description="Compute activations again in the backward pass.")
    rollout_engine: RolloutEngine = Field("transformers", description="Who samples rollouts.")
    vllm_gpu_memory_utilization: float = Field(
        0.3, gt=0, le=1, description="Share of the GPU's memory for a colocated vLLM."
    )
    temperature_controller: str = Field(
        "tampo", description=f"What sets the sampling temperature: {', '.join(CONTROLLERS)}."
    )
    temperature_controller_kwargs: dict[str, Any] = Field(
        {},
        description="Parameters of the controller that have no name of their own here, such as "
        "{start_temperature: 0.8}; `tampo params` lists them.",
    )
    temperature: float = Field(default_of(Fixed, "value"), gt=0, description=help_of(Fixed, "value"))
    temperature_candidates: tuple[float, ...] = Field(
        DEFAULT_TEMPERATURES, description="Candidates T_1 ... T_K (section 4.1)."
    )
    alpha: float = Field(default_of(TAMPO, "alpha"), ge=0, le=1, description=help_of(TAMPO, "alpha"))
    p: float = Field(default_of(TAMPO, "top_p"), ge=0, le=1, description=help_of(TAMPO, "top_p"))
    likelihood: Likelihood = Field(default_of(TAMPO, "likelihood"), description=help_of(TAMPO, "likelihood"))
    meta_warmup_ratio: float = Field(
        RunSettings.warmup_ratio, ge=0, le=1, description="Share of the steps at the warm-up temperature."
    )
    meta_warmup_temperature: float = Field(
        RunSettings.warmup_temperature, gt=0, description="Sampling temperature of the warm-up."
    )
    report_to: tuple[Tracker, ...] = Field(
        (), description="Trackers that get the log of a training: tensorboard, trackio, wandb."
    )
    seed: int = Field(0, ge=0, description="Seed of the training: order of prompts, rollouts and temperatures.")

    @field_validator("temperature_controller")
    @classmethod
    def _known_controller(cls, value: str) -> str:
        if value not in CONTROLLERS:
            raise ValueError(f"must be one of {', '.join(CONTROLLERS)}")
        return value

    @field_validator("temperature_candidates")
    @classmethod
    def _distinct_temperatures(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        check_temperatures("temperature_candidates", value)
        return value

    @model_validator(mode="after")
    def _known_parameters(self) -> Self:
        try:
            self.configure_controller()
        except ValueError as error:
            raise ValueError(f"temperature_controller_kwargs: {error}") from error
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        rollouts = self.prompts_per_step * self.num_generations
        if rollouts % self.per_device_train_batch_size:
            raise ValueError(
                f"per_device_train_batch_size ({self.per_device_train_batch_size}) must divide prompts_per_step * "
                f"num_generations ({rollouts})."
            )
        return self

    def configure_controller(self) -> TemperatureController:
        """The controller with its parameters, before a run. Raises a ValueError that names a bad one."""
        named = {"alpha": self.alpha, "top_p": self.p, "likelihood": self.likelihood, "value": self.temperature}
        return configure(self.temperature_controller, self.temperature_controller_kwargs, named)

    def identity(self) -> dict[str, Any]:
        """What decides the result of this training run: all values but those that only other controllers read."""
        controller = self.configure_controller()
        idle = {"alpha", "p", "likelihood", "temperature"}
        if not controller.uses_warmup:
            idle |= {"meta_warmup_ratio", "meta_warmup_temperature"}
        own = self.model_dump(mode="json", exclude={*idle, *_PLACES})
        return own | {"temperature_controller_kwargs": {**resolved(controller)}}


class EvaluationConfig(_DataConfig):
    """One evaluation of one model (section 4.1: 8 samples at temperature 1.0)."""

    benchmarks: tuple[str, ...] = Field((), description="Benchmarks to evaluate; empty: all of the scale.")
    eval_problems: int | None = Field(100, ge=1, description="Problems a benchmark; null: all.")
    eval_samples: int = Field(8, ge=1, description="Samples a problem.")
    eval_temperature: float = Field(1.0, gt=0, description="Sampling temperature.")
    eval_max_completion_length: int = Field(64, ge=1, description="Tokens a sample may have.")
    eval_batch: int = Field(512, ge=1, description="Samples generated at a time.")
    eval_seed: int = Field(0, ge=0, description="Seed of the problems (mini) and of the samples.")
    eval_engine: EvaluationEngine = Field("transformers", description="Who samples for the evaluation.")

    def identity(self) -> dict[str, Any]:
        """What decides the result of this evaluation of a given model."""
        return self.model_dump(mode="json", exclude=set(_PLACES))


class Params(TrainingConfig, EvaluationConfig):
    """All parameters of a scale, flat, as in params/*.yaml."""

    scale: str = Field("mini", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the folder in results/.")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="Training seeds of a table, such as 0-4 or 0,2,5.")
    workers: int | None = Field(None, ge=1, description="Runs side by side, one thread each; default: one a core.")

    def training(self, **changes: Any) -> TrainingConfig:
        """The training that these parameters describe, with `changes`."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)) | changes)

    def evaluation(self, **changes: Any) -> EvaluationConfig:
        """The evaluation that these parameters describe, with `changes`."""
        return EvaluationConfig(**self.model_dump(include=set(EvaluationConfig.model_fields)) | changes)


def load_params(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Params:
    """Parameters from a scale's name ("mini": params/mini.yaml) or a YAML file, with `overrides` over them.

    A file may say `base: mini` (a scale, or a YAML file beside it), and then only what differs from that one.

    A source of None, "None" or "" is the scale in the variable TAMPO_SCALE, or else mini.
    An override of None, "None" or "" leaves the file's value: so templates and notebooks say "as in params". The
    word "null" is the value null. Lists are lists or text, "0.6,1.0" or "[0.6, 1.0]"; seeds may be a range, "0-4".

    Raises:
        ConfigError: No such scale or file, not a flat mapping, an unknown parameter (with the nearest known name),
            or a value of the wrong type or out of range.

    Example:
        >>> load_params("mini", {"alpha": 0.1, "seeds": "0-2", "eval_problems": "null"}).seeds
        (0, 1, 2)
    """
    path = _params_path(default_scale() if _as_in_params(source) else str(source))
    values = _read(path)
    values = {name: value for name, value in values.items() if value is None or not _as_in_params(value)}
    given = {name: value for name, value in (overrides or {}).items() if not _as_in_params(value)}
    for name in [*values, *given]:
        check_parameter_name(str(name), where=f"{path}" if name in values else "the overrides")
    try:
        return Params(**(values | given))
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from error


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """The values in a YAML file, over those of the file that its `base` names."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Cannot read the parameters in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold one flat mapping of parameters, got a {type(values).__name__}.")
    base = values.pop("base", None)
    if base is None:
        return values
    if path in above:
        raise ConfigError(f"{path} is its own base, by way of {', '.join(p.name for p in above)}.")
    beside = path.parent / str(base)
    try:
        return _read(beside if beside.is_file() else _params_path(str(base)), (*above, path)) | values
    except ConfigError as error:
        raise ConfigError(f"The base of {path}: {error}") from error


def default_scale() -> str:
    """The scale where none is given: that in the variable TAMPO_SCALE, or else mini."""
    return os.environ.get("TAMPO_SCALE", "").strip() or "mini"


def _as_in_params(value: Any) -> bool:
    """Whether an override says nothing: what a notebook's cell or an unfilled template holds."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def check_parameter_name(name: str, where: str, also: tuple[str, ...] = ()) -> None:
    """Raise ConfigError, with the nearest known name, unless `name` is a field of `Params` or among `also`."""
    known = [*Params.model_fields, *also]
    if name in RENAMED:
        raise ConfigError(f"The parameter {name!r} in {where} is now {RENAMED[name]}.")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(sorted(known))}."
        raise ConfigError(f"Unknown parameter {name!r} in {where}.{hint}")


def _params_path(source: str | Path) -> Path:
    try:
        return _find_params(source)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{str(source)[:100]!r} cannot be a parameter file: {error}") from error


def _find_params(source: str | Path) -> Path:
    if str(source).endswith((".yaml", ".yml")):
        path = Path(source).expanduser()
        if not path.is_file() and not path.is_absolute():
            path = project_root() / path  # notebooks run in their own folder
        if not path.is_file() and Path(source).parts[:1] == ("params",):
            path = bundled("params") / Path(*Path(source).parts[1:])  # params/paper.yaml, away from a checkout
        if not path.is_file():
            raise ConfigError(
                f"No parameter file {source}. `tampo init DIR` writes those of the package into a folder."
            )
        return path
    known = {path.stem: path for folder in reversed([*parameter_folders()]) for path in folder.glob("*.yaml")}
    if str(source) not in known:
        raise ConfigError(
            f"No scale {str(source)!r}; known are {', '.join(sorted(known))}. Or give the path of a .yaml file."
        )
    return known[str(source)]


def _explain(error: ValidationError, path: Path) -> str:
    lines, items = [], error.errors()
    for item in items:
        if item["type"] == "too_short" and any(other["loc"][:1] == item["loc"] for other in items if other is not item):
            continue  # a list is short because its items were refused
        name = ".".join(str(part) for part in item["loc"])
        given = f", got {item['input']!r}" if name else ""
        lines.append(f"  {name or 'parameters'}: {item['msg'].removeprefix('Value error, ')}{given}")
    return f"Bad parameters (from {path}, with overrides):\n" + "\n".join(lines)
