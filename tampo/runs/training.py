"""One training run from its config: data, rewards and `TAMPOTrainer`, resumed after an interruption."""

import importlib.util
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow
import torch
import trl
from datasets import Dataset
from pyarrow import parquet
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from tampo.config import ConfigError, TrainingConfig
from tampo.files import atomic_path
from tampo.inference.precision import resolve_precision
from tampo.inference.sampling import sample_with_log_probs
from tampo.runs.checkpoints import agreed_checkpoint, seal_checkpoint
from tampo.runs.devices import check_training_device, launch_line, on_gpu
from tampo.runs.interrupts import Interrupted, StopRequest, check_shutdown_timeout, stop_on_signals
from tampo.runs.objective import OBJECTIVE
from tampo.runs.processes import any_process, by_first, process_count
from tampo.runs.scaled_models import base_model
from tampo.runs.store import KEPT
from tampo.runs.training_data import (
    asked_problems,
    check_problem_count,
    leave_out_long_prompts,
    load_training_data,
    reward_functions,
)
from tampo.runs.weights import check_weights
from tampo.tasks.suites import get_suite
from tampo.trainer.config import TAMPOConfig
from tampo.trainer.trainer import TAMPOTrainer
from tampo.trainer.trl_internals import tokenize_prompts

Progress = Callable[[dict[str, Any]], None]
RolloutFunction = Callable[[list[Any], GRPOTrainer], dict[str, Any]]

CHECKPOINT_STEPS = 20

# Wall times differ between reruns. They are stored separately, so that metrics are equal to the bit. So is the gap of
# sampler and loss, which is rounding: metrics are those of runs before it was logged.
TIMINGS = (
    *("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"),
    *("sampler/log_prob_gap_mean", "sampler/log_prob_gap_max"),
)

# Parameters with the same name and meaning in both configs. (TRL's data_seed orders prompts; ours selects problems.)
_SHARED = (TrainingConfig.model_fields.keys() & TAMPOConfig.__dataclass_fields__.keys()) - {"data_seed"}


def precision(wanted: str, gpu: bool | None = None) -> tuple[str, bool, bool]:
    """(dtype of the weights, bf16, fp16) for a `precision` parameter on this machine.

    "auto" is fp32 on a CPU, bf16 on a GPU that supports it (compute capability 8.0), else fp16. Mixed precision keeps
    float32 weights. `gpu`: whether the run uses one; None: it does where there is one.

    Raises:
        ConfigError: "fp16" on a CPU, or "bf16" on a GPU without support.
    """
    wanted = resolve_precision("precision", wanted, gpu)
    return "float32", wanted == "bf16", wanted == "fp16"


def trainer_config(config: TrainingConfig, folder: Path, processes: int = 1) -> TAMPOConfig:
    """The `TAMPOConfig` of a training run in `folder`: GRPO of Eq. 13 with the schedule of section 4.1.

    Raises:
        ConfigError: The processes cannot share the rollouts of a step evenly, or the precision, the device or the
            entropy bonus is not supported.
    """
    if config.use_adaptive_entropy and "use_adaptive_entropy" not in _SHARED:
        raise ConfigError(f"use_adaptive_entropy: TRL {trl.__version__} has no such bonus. Install TRL 1.16.")
    gpu = on_gpu(config.device, config.model, config.rollout_engine)
    dtype, bf16, fp16 = precision(config.precision, gpu)
    rollouts, at_once = config.prompts_per_step * config.num_generations, config.per_device_train_batch_size * processes
    if rollouts % at_once:
        raise ConfigError(
            f"{rollouts} rollouts per step cannot be divided over {processes} processes in micro-batches of "
            f"{config.per_device_train_batch_size}: change per_device_train_batch_size or the number of processes."
        )
    values = {
        "temperature_candidates": list(config.temperature_candidates),
        "report_to": list(config.report_to),
        "vllm_server_base_url": config.vllm_server_base_url if config.rollout_engine == "vllm-server" else None,
    }
    fixed = {name: value for name, value in OBJECTIVE.items() if name in TAMPOConfig.__dataclass_fields__}
    return TAMPOConfig(
        **(fixed | config.model_dump(include=set(_SHARED)) | values),
        output_dir=str(folder),
        gradient_accumulation_steps=rollouts // at_once,
        meta_alpha=config.alpha,
        meta_top_p=config.p,
        meta_likelihood=config.likelihood,
        model_init_kwargs={"dtype": dtype},
        use_cpu=not gpu,
        bf16=bf16,
        fp16=fp16,
        use_vllm=config.rollout_engine != "transformers",
        vllm_mode="server" if config.rollout_engine == "vllm-server" else "colocate",
        # The model's own limit may exceed the cache of a shared GPU.
        vllm_max_model_length=config.max_prompt_length + config.max_completion_length,
        logging_steps=1,
        save_strategy="steps",
        save_steps=CHECKPOINT_STEPS,
        save_total_limit=2,  # the older one stays complete while the newer one is written
        run_name=folder.parent.name,
        project="tampo",
        log_completions=True,
        num_completions_to_print=0,
        disable_tqdm=True,
    )


def sample_rollouts(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
    """TRL's `rollout_func` for the engine "transformers": `tampo.inference.sampling` with torch's generator."""
    prompt_ids = tokenize_prompts(trainer, prompts)
    args = cast(GRPOConfig, trainer.args)
    gather, limit = args.ds3_gather_for_generation, cast(int, args.max_completion_length)
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, gather) as policy:
        ids, log_probs = sample_with_log_probs(policy, prompt_ids, trainer.temperature, limit, trainer.eos_token_ids)
    return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": log_probs}


def train(
    config: TrainingConfig, folder: Path, progress: Progress = lambda row: None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train; write the model to `folder`/model and every rollout to `folder`/rollouts.parquet.

    With `keep_steps`, the weights of these steps are in `folder`/kept/<step>.

    Checkpoints are in `folder`/checkpoints. A run that resumes from one ends with the same weights and log as an
    uninterrupted run.

    `progress` is called with each step's row of the log.

    Returns:
        TRL's log, one row per step, and the source of the training data.

    Raises:
        Interrupted: By Ctrl-C or SIGTERM, after the current step and its checkpoint.
        DamagedCheckpoint: A file of the newest checkpoint was changed, or not all processes see it.
    """
    checkpoints = folder / "checkpoints"
    if int(os.environ.get("RANK", "0")) == 0:
        check_shutdown_timeout()
    with _trackers(config, folder), stop_on_signals() as stop:
        callbacks = [_ProgressCallback(progress), _CheckpointCallback(checkpoints, stop)]
        trainer, source = make_trainer(config, checkpoints, callbacks=callbacks)
        if config.keep_steps:
            trainer.add_callback(_KeepingCallback(trainer, folder / KEPT, config.keep_steps))
        trainer.train(resume_from_checkpoint=agreed_checkpoint(checkpoints))
        step = trainer.state.global_step
        if step < config.max_steps and not stop:
            raise RuntimeError(f"The training run ended after step {step} of {config.max_steps}, without a request.")
        if step < config.max_steps:
            raise Interrupted(f"Stopped after step {step} of {config.max_steps}. The same command resumes from there.")
        trainer.save_model(str(folder / "model"))
        trainer.create_model_card(model_name=folder.name)
        if trainer.is_world_process_zero():
            shutil.copy(checkpoints / "README.md", folder / "model" / "README.md")
            _join_rollouts(checkpoints / "completions", folder / "rollouts.parquet")
    for weights in (folder / "model", *(folder / KEPT).glob("*")):
        (weights / "training_args.bin").unlink(missing_ok=True)  # a pickle that contains the time of day
    return [row for row in trainer.state.log_history if "loss" in row], source


@contextmanager
def _trackers(config: TrainingConfig, folder: Path) -> Iterator[None]:
    """Set the trackers' output for one training run, unless the user has set it."""
    for tracker in config.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(f"report_to {tracker} needs a package to install: pip install 'tampo[tracking]'.")
    # Outside the record, whose files are checked; one folder per training run, so that each has its own curve.
    outputs = {"TENSORBOARD_LOGGING_DIR": f"{folder}.tensorboard", "WANDB_PROJECT": "tampo"}
    added = {name: value for name, value in outputs.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _join_rollouts(folder: Path, target: Path) -> None:
    """Join TRL's tables of completions, one per step, into one file with a row group per step."""
    tables = [parquet.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = max(len(table) for table in tables)
    with atomic_path(target) as temporary:
        # "permissive", because a column that is empty in one step has no type there.
        table = pyarrow.concat_tables(tables, promote_options="permissive")
        parquet.write_table(table, temporary, row_group_size=rows, compression="zstd")


def make_trainer(
    config: TrainingConfig,
    checkpoints: Path,
    trainer_class: type[GRPOTrainer] = TAMPOTrainer,
    callbacks: Sequence[TrainerCallback] = (),
    rollout_func: RolloutFunction | None = sample_rollouts,
) -> tuple[GRPOTrainer, dict[str, Any]]:
    """The trainer of a config, with its model, data and rewards, and the source of the training data.

    Args:
        checkpoints: Folder for checkpoints.
        trainer_class: `TAMPOTrainer`, or TRL's own for comparison, which ignores the controller.
        rollout_func: Samples rollouts for the engine "transformers"; None: TRL does.

    Raises:
        ConfigError: Among others, the training set has fewer problems than one step.
    """
    _check_processes(config)
    check_training_device(config)
    check_problem_count(config)
    suite = get_suite(config.suite, config.grader, config.data_dir)
    path = base_model(config.model, config.model_revision, config.base_logit_scale)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    loaded = leave_out_long_prompts(load_training_data(config), suite, tokenizer, config.max_prompt_length)
    check_problem_count(config, loaded)
    asked = asked_problems(config, loaded)
    data = Dataset.from_dict({"prompt": [suite.prompt(p) for p in asked], "problem_id": [p.id for p in asked]})
    functions, weights = reward_functions(config, suite, loaded, tokenizer)
    args = trainer_config(config, checkpoints, int(os.environ.get("WORLD_SIZE", "1")))
    args.reward_weights = weights
    args.shuffle_dataset = config.training_stages == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using 'rollout_func', which is an experimental feature")
        trainer = trainer_class(
            model=path,
            reward_funcs=cast(Any, functions),  # a list is invariant to mypy
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            rollout_func=rollout_func if config.rollout_engine == "transformers" else None,
        )
    return trainer, loaded.source


def _check_processes(config: TrainingConfig) -> None:
    """The record is named by `processes`, so it has to be the number that really runs."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if config.rollout_engine != "vllm-server" and started != config.processes:
        raise ConfigError(
            f"processes is {config.processes}, and {started} were started. Give --processes {started}, or start "
            f"{config.processes} by accelerate launch or torchrun: {launch_line(config.processes)}"
        )


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._progress({"step": state.global_step, "steps": state.max_steps} | logs)


class _KeepingCallback(TrainerCallback):
    """Keeps the weights of every so many steps; a step that is repeated after an interruption writes the same ones."""

    def __init__(self, trainer: GRPOTrainer, folder: Path, steps: int) -> None:
        self._trainer, self._folder, self._steps = trainer, folder, steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._steps == 0:
            self._trainer.save_model(str(self._folder / str(state.global_step)))


class _CheckpointCallback(TrainerCallback):
    """Seals each checkpoint. When a stop is requested, it saves one and ends the training run."""

    def __init__(self, folder: Path, stop: StopRequest) -> None:
        self._folder, self._stop = folder, stop
        self._stopping = False  # the same in all processes, as a request is not
        self._start, self._slow = 0.0, False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_local_process_zero and not self._slow:
            self._slow = check_shutdown_timeout(time.monotonic() - self._start)
        if any_process(bool(self._stop)):
            self._stop.requested = self._stopping = True
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        check_weights(kwargs["model"], state.global_step)  # first: what is not sealed, no run resumes from
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # all processes have written their files
        folder = self._folder / f"checkpoint-{state.global_step}"
        by_first(lambda: seal_checkpoint(folder, process_count()))
        if self._stopping:
            control.should_training_stop = True
