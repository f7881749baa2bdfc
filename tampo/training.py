"""One training from its config: data, rewards and `TAMPOTrainer` put together, resumed where it was cut off."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback

from tampo.config import TrainingConfig
from tampo.mini_model import mini_model_path
from tampo.rewards import task_accuracy
from tampo.tasks import TASKS, Problem, format_prompt, make_problems
from tampo.trainer import CONTROLLER_STATE_NAME, TAMPOConfig, TAMPOTrainer

Progress = Callable[[dict[str, Any]], None]

CHECKPOINT_STEPS = 20

# What a rerun cannot reproduce: wall times. They are kept apart, so that metrics are equal to the bit.
TIMINGS = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def model_folder(model: str) -> str:
    """What transformers loads for a config's `model`: the shipped folder for "mini", else the value itself."""
    return str(mini_model_path()) if model == "mini" else model


def model_revision(model: str) -> str | None:
    """SHA-256 of a local model's weights, which a stored run is known by; None for a model that is not local."""
    weights = Path(model_folder(model), "model.safetensors")
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def training_problems(config: TrainingConfig) -> list[Problem]:
    """The training set of the mini scale: as many problems of each task family."""
    return [p for task in TASKS for p in make_problems(task, config.train_problems, config.data_seed, "train")]


def trainer_config(config: TrainingConfig, folder: Path) -> TAMPOConfig:
    """The `TAMPOConfig` of a training in `folder`: GRPO of Eq. 13 with the schedule of section 4.1."""
    return TAMPOConfig(
        output_dir=str(folder),
        seed=config.seed,
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.prompts_per_step * config.num_generations // config.micro_batch,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        beta=config.beta,
        loss_type=config.loss_type,
        temperature_controller=config.controller,
        temperature=config.temperature,
        temperature_start=config.temperature_start,
        temperature_end=config.temperature_end,
        temperature_candidates=list(config.temperatures),
        meta_alpha=config.alpha,
        meta_top_p=config.p,
        meta_likelihood=config.likelihood,
        meta_warmup_ratio=config.meta_warmup_ratio,
        meta_warmup_temperature=config.meta_warmup_temperature,
        model_init_kwargs={"dtype": "float32"},
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=CHECKPOINT_STEPS,
        save_total_limit=2,  # the older one is whole while the newer one is being written
        report_to=[],
        disable_tqdm=True,
    )


def train(config: TrainingConfig, folder: Path, progress: Progress = lambda row: None) -> list[dict[str, Any]]:
    """Train, leave the model in `folder`/model, and return TRL's log, one row a step.

    Checkpoints go to `folder`/checkpoints; where that holds a whole one, the run goes on from it and ends in the
    same weights and log as if it had not been interrupted.

    Args:
        config: The training.
        folder: Where to work. It may hold the checkpoints of an interrupted run of the same config.
        progress: Called with each step's row of the log.
    """
    problems = training_problems(config)
    data = Dataset.from_dict(
        {"prompt": [format_prompt(p.question) for p in problems], "problem_id": [p.id for p in problems]}
    )
    checkpoints = folder / "checkpoints"
    path = model_folder(config.model)
    trainer = TAMPOTrainer(
        model=path,
        reward_funcs=task_accuracy(problems),
        args=trainer_config(config, checkpoints),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(path, padding_side="left"),
        callbacks=[_ProgressCallback(progress)],
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(checkpoints))
    trainer.save_model(str(folder / "model"))
    (folder / "model" / "training_args.bin").unlink(missing_ok=True)  # a pickle, with the time of day in it
    return [row for row in trainer.state.log_history if "loss" in row]


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, or None."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{CONTROLLER_STATE_NAME}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._progress({"step": state.global_step, "steps": state.max_steps} | logs)
