"""The parameters of an experiment: one flat model that YAML files, the command line and notebooks all build.

`Params` is everything. `TrainingConfig` and `EvaluationConfig` are the parts that decide what a training run and an
evaluation produce, and so what their records are known by.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from tampo.config.errors import ConfigError, explain
from tampo.config.text import expand_ranges, list_items, mapping, refuse_null_characters
from tampo.controllers.base import RunSettings, TemperatureController, default_of, help_of, resolved
from tampo.controllers.registry import CONTROLLERS, NAMED, configure
from tampo.controllers.schedules import Fixed
from tampo.controllers.tampo import TAMPO
from tampo.extras import extra
from tampo.meta_policy import DEFAULT_TEMPERATURES, Likelihood, check_temperatures
from tampo.project import user_path
from tampo.values import plain, single

with extra("reproduce"):
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

GraderName = Literal["tampo", "math-verify", "exact"]
SuiteName = Literal["mini", "mini-choice", "mini-facts", "math", "ecqa", "own"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
RolloutEngine = Literal["transformers", "vllm-colocate", "vllm-server"]
EvaluationEngine = Literal["transformers", "vllm", "vllm-server"]
Device = Literal["auto", "cpu", "gpu"]
ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

MAX_SEED = 2**32 - 1  # of numpy and torch
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
SCALE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

# What decides nothing: addresses (models and data are known by their content and the grader by its version,
# `tampo.runs.identity`), where a log goes, and how much memory an engine takes.
_ADDRESSES = frozenset(
    {"grader", "model", "model_revision", "data_dir", "data_revisions", "vllm_server_base_url", "report_to"}
    | {"vllm_gpu_memory_utilization"}
    | {"device"}  # where it changes a run, `tampo.runs.identity` adds it
)
# Parameters here that are those of a controller (`NAMED`), by their names there.
_CONTROLLERS_OWN = {"alpha": "alpha", "p": "top_p", "likelihood": "likelihood", "temperature": "value"}

# What runs had before these were parameters. A run with these values is known without them, as it was then.
_BEFORE: dict[str, Any] = {
    "use_bias_correction_kl": True,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "eval_dtype": "auto",
    "base_logit_scale": 1.0,
    "use_adaptive_entropy": False,
    "loss_temperature": "sampling",
    "training_stages": 1,
    "keep_steps": None,
    "eval_step": None,
}


# The same of parameters of controllers.
_CONTROLLERS_BEFORE: dict[str, Any] = {"virtual_temperatures": "absolute", "noise_guard": 0.0}


def _without_older(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in _BEFORE or value != _BEFORE[name]}


class _Flat(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Text means the same wherever it comes from: a YAML file, the command line, `papermill -p` or `-y`."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if get_origin(annotation) is not dict:  # whose values the controller converts
            value = plain(value if get_origin(annotation) is tuple else single(value))
        refuse_null_characters(value)
        if annotation is not bool and isinstance(value, bool):  # which pydantic reads as 0 or 1
            raise ValueError("must not be true or false")
        if get_origin(annotation) is tuple:
            items = list_items(value)
            return expand_ranges(items) if get_args(annotation)[0] is Seed else items
        if get_origin(annotation) is dict:
            return mapping(value)
        if isinstance(value, str):
            if value.strip().lower() == "null" and type(None) in get_args(annotation):
                return None
            if annotation is not str and re.match(r"\s*\d+\s*-", value):  # which pydantic reads as a negative number
                raise ValueError("must be one number, not a range")
        return value


class _DataConfig(_Flat):
    suite: SuiteName = Field(
        "mini",
        description="What is asked and how it is judged: mini, mini-choice, mini-facts, math, ecqa, or own for the "
        "JSONL files in data_dir.",
    )
    grader: GraderName = Field(
        "tampo",
        description="Judge of math, ecqa and own: tampo, or math-verify for the verdicts of the plain library; of own "
        "also exact, which compares texts.",
    )
    data_dir: str | None = Field(
        None, description="Folder of JSONL files to read instead of the Hugging Face hub, or of suite own."
    )
    data_revisions: dict[str, str] = Field(
        {},
        description="Commits, branches or tags of data sets on the hub in place of the pinned ones, by name, such as "
        "{MATH-500: main}.",
    )
    model_revision: str | None = Field(None, description="Commit, branch or tag of a model on the hub.")
    base_logit_scale: float = Field(
        1.0,
        gt=0,
        description="Factor of the base model's logits: below 1 it is flatter, as if sampled at 1 / factor, above 1 "
        "sharper.",
    )
    device: Device = Field(
        "auto", description="cpu, gpu, or auto: the CPU for shipped models, a GPU for all others where there is one."
    )
    vllm_server_base_url: str = Field(
        "http://127.0.0.1:8000", description="Address of the server of the vllm-server engines."
    )

    @model_validator(mode="after")
    def _grader_of_the_suite(self) -> Self:
        if self.grader == "exact" and self.suite != "own":
            raise ValueError(f"grader 'exact' judges the suite own only, not {self.suite}")
        if self.grader != "tampo" and self.suite.startswith("mini"):
            raise ValueError(
                f"grader {self.grader!r} judges the suites math, ecqa and own; {self.suite} has its own judges"
            )
        return self

    @field_validator("data_dir", "model", "output_dir", check_fields=False)
    @classmethod
    def _usable_path(cls, value: str | None) -> str | None:
        if value is not None:
            user_path(value, "the path")
        return value


class TrainingConfig(_DataConfig):
    """One training run. Defaults are those of the mini scale."""

    model: str = Field(
        "mini",
        description="One that is shipped (mini, mini-choice, mini-facts, mini-rare), a folder, or a Hugging Face id.",
    )
    drop_overlaps: bool = Field(
        False, description="Leave out training problems that are in a benchmark (math, ecqa, own)."
    )
    train_problems: int | None = Field(2000, ge=1, description="Training problems (mini: a task family); null: all.")
    data_seed: Seed = Field(0, description="Seed of the training problems (mini).")
    training_stages: int = Field(
        1,
        ge=1,
        le=6,
        description="Stages of equal length; each unlocks further tables of mini-facts, so that the task drifts.",
    )
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
    loss_temperature: Literal["sampling", "one"] = Field(
        "sampling",
        description="Temperature of the loss: sampling (that of the rollouts), or one, with importance weights.",
    )
    loss_importance_cap: float = Field(2.0, ge=1, description="Upper limit of these weights.")
    use_bias_correction_kl: bool = Field(
        False, description="Multiply the KL term by the ratio, TRL's default; Eq. 13 does not."
    )
    use_adaptive_entropy: bool = Field(
        False, description="TRL's bonus for entropy, whose weight rises while the entropy is below entropy_target."
    )
    entropy_target: float = Field(
        0.2, gt=0, description="Entropy to hold by use_adaptive_entropy, in nats per token (TRL's default: 0.2)."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Precision = Field("auto", description="auto: fp32 on CPU, bf16 where the GPU has it, else fp16.")
    gradient_checkpointing: bool = Field(False, description="Compute activations again in the backward pass.")
    rollout_engine: RolloutEngine = Field("transformers", description="Who samples rollouts.")
    vllm_importance_sampling_correction: bool = Field(
        False, description="Weight rollouts of vLLM by loss probability / sampling probability; Eq. 13 does not."
    )
    vllm_importance_sampling_mode: ImportanceMode = Field(
        "token_truncate",
        description="One weight per token or per sequence, cut at the limits (truncate) or dropped beyond (mask).",
    )
    vllm_importance_sampling_clip_max: float | None = Field(
        3.0, gt=0, description="Upper limit of these weights; null: none."
    )
    vllm_importance_sampling_clip_min: float | None = Field(
        None, ge=0, description="Lower limit of these weights; null: none."
    )
    processes: int = Field(
        1, ge=1, description="Processes of a training run, such as GPUs; each draws rollouts of its own."
    )
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
        (), description="Trackers that get the log of a training run: tensorboard, trackio, wandb."
    )
    keep_steps: int | None = Field(
        None, ge=1, description="Keep the weights of every this many steps, to evaluate them too (eval_step)."
    )
    seed: Seed = Field(0, description="Seed of the training: order of prompts, rollouts and temperatures.")

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
            values = resolved(self.configure_controller())
        except ValueError as error:
            raise ValueError(f"temperature_controller_kwargs: {error}") from error
        kwargs = {name: plain(value) for name, value in self.temperature_controller_kwargs.items()}
        # An int stays one for a float: folders of results are named by these values.
        kwargs = {name: value if value == values[name] else values[name] for name, value in kwargs.items()}
        self.temperature_controller_kwargs.update(kwargs)
        return self

    @model_validator(mode="after")
    def _stages_of_facts(self) -> Self:
        if self.training_stages > 1 and self.suite != "mini-facts":
            raise ValueError(f"training_stages {self.training_stages}: only the suite mini-facts has stages")
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

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"vllm_importance_sampling_clip_min ({low:g}) must be below vllm_importance_sampling_clip_max "
                f"({high:g})"
            )
        return self

    def configure_controller(self) -> TemperatureController:
        """The controller with its parameters, before a run. Raises a ValueError that names a bad one."""
        named = {parameter: getattr(self, name) for name, parameter in _CONTROLLERS_OWN.items()}
        return configure(self.temperature_controller, self.temperature_controller_kwargs, named)

    def idle(self) -> dict[str, str]:
        """Parameters that this training run does not read, each with what would have it read."""
        controller = self.configure_controller()
        idle = {
            name: f"temperature_controller {reader}"
            for name, parameter in _CONTROLLERS_OWN.items()
            for reader, parameters in NAMED.items()
            if parameter in parameters and reader != self.temperature_controller
        }
        if not controller.uses_warmup:
            readers = "a temperature_controller with a warm-up, such as tampo"
            idle |= dict.fromkeys(("meta_warmup_ratio", "meta_warmup_temperature"), readers)
        if self.beta == 0:
            idle["use_bias_correction_kl"] = "beta above 0"
        if not self.use_adaptive_entropy:
            idle["entropy_target"] = "use_adaptive_entropy true"
        if self.loss_temperature == "sampling":
            idle["loss_importance_cap"] = "loss_temperature one"
        weights = [name for name in type(self).model_fields if name.startswith("vllm_importance_sampling_")]
        if self.rollout_engine == "transformers":
            idle |= dict.fromkeys(weights, "rollout_engine vllm-colocate or vllm-server")
        elif not self.vllm_importance_sampling_correction:
            weights.remove("vllm_importance_sampling_correction")
            idle |= dict.fromkeys(weights, "vllm_importance_sampling_correction true")
        return idle

    def identity(self) -> dict[str, Any]:
        """What decides the result of this training run: all values but those that only other controllers read."""
        excluded = {*self.idle(), *_ADDRESSES, *_CONTROLLERS_OWN}
        if self.rollout_engine == "vllm-server":
            excluded.add("processes")  # one server draws for all
        own = _without_older(self.model_dump(mode="json", exclude=excluded))
        values = {
            name: value
            for name, value in resolved(self.configure_controller()).items()
            if name not in _CONTROLLERS_BEFORE or value != _CONTROLLERS_BEFORE[name]
        }
        return own | {"temperature_controller_kwargs": values}


class EvaluationConfig(_DataConfig):
    """One evaluation of one model (section 4.1: 8 samples at temperature 1.0)."""

    benchmarks: tuple[str, ...] = Field((), description="Benchmarks to evaluate; empty: all of the scale.")
    eval_problems: int | None = Field(100, ge=1, description="Problems a benchmark; null: all.")
    eval_samples: int = Field(8, ge=1, description="Samples a problem.")
    eval_temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0: the likeliest token each time.")
    eval_max_completion_length: int = Field(64, ge=1, description="Tokens a sample may have.")
    eval_batch: int = Field(512, ge=1, description="Samples generated at a time.")
    eval_step: int | None = Field(
        None,
        ge=1,
        description="Step whose weights are evaluated, one that keep_steps kept; null: the last.",
    )
    eval_seed: Seed = Field(0, description="Seed of the problems (mini) and of the samples.")
    eval_engine: EvaluationEngine = Field("transformers", description="Who samples for the evaluation.")
    eval_dtype: Precision = Field(
        "auto",
        description="Precision of every model that is evaluated, trained or not; auto: fp32 on CPU, bf16 where the "
        "GPU has it, else fp16.",
    )

    def identity(self) -> dict[str, Any]:
        """What decides the result of this evaluation of a given model."""
        return _without_older(self.model_dump(mode="json", exclude=set(_ADDRESSES)))


_Part = TypeVar("_Part", bound=BaseModel)


class Params(TrainingConfig, EvaluationConfig):
    """All parameters of a scale, flat, as in params/*.yaml."""

    scale: str = Field("mini", pattern=SCALE_NAME, description="Name of the folder in results/.")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="Training seeds of a table, such as 0-4 or 0,2,5.")
    workers: int | None = Field(
        None,
        ge=1,
        description="Runs side by side, one thread each; default: one a core. Without a GPU, also the processes that "
        "share one `tampo evaluate`; default: one.",
    )
    output_dir: str | None = Field(
        None,
        description="Folder for tables, figures and studies; default: results/<scale>, and in it one for each "
        "other set of parameters.",
    )

    @field_validator("scale")
    @classmethod
    def _not_the_reference(cls, value: str) -> str:
        if value == "reference":
            raise ValueError("results/reference has the committed results; choose another name")
        return value

    @field_validator("output_dir")
    @classmethod
    def _local_folder(cls, value: str | None) -> str | None:
        if value and "://" in value:
            raise ValueError("must be a local folder; copy it to a remote one afterwards")
        return value

    def decisive(self) -> dict[str, Any]:
        """The values that decide a table or a figure, in JSON types: all but where it goes, and how fast."""
        return self.model_dump(mode="json", exclude={"workers", "output_dir"})

    def changes(self, usual: "Params") -> dict[str, Any]:
        """The decisive values that differ from those of `usual`."""
        before = usual.decisive()
        return {name: value for name, value in self.decisive().items() if value != before[name]}

    def training(self, **changes: Any) -> TrainingConfig:
        """The training that these parameters describe, with `changes`. Raises ConfigError if they do not fit."""
        return self._part(TrainingConfig, changes)

    def evaluation(self, **changes: Any) -> EvaluationConfig:
        """The evaluation that these parameters describe, with `changes`. Raises ConfigError as `training`."""
        return self._part(EvaluationConfig, changes)

    def _part(self, kind: type[_Part], changes: dict[str, Any]) -> _Part:
        try:
            return kind(**self.model_dump(include=set(kind.model_fields)) | changes)
        except ValidationError as error:
            where = ", ".join(f"{name} {value!r}" for name, value in changes.items())
            raise ConfigError(explain(error, f"with {where}")) from error
