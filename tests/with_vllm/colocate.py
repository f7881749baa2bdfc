"""TAMPO sampling with vLLM in the training process, right and in two wrong ways; `test_colocate` runs this.

Usage: python -m tests.with_vllm.colocate OUT_DIR
       python -m tests.with_vllm.colocate OUT_DIR SEED

Each round starts from the same weights, takes three steps and leaves TRL's log in OUT_DIR/log.json:

right:      as it is.
stale head: the loss keeps the temperature it was built with, as if only sampling had been told of the new one.
unsynced:   vLLM keeps the weights it started with.

With SEED, one step on a single prompt, whose rollouts are left in OUT_DIR/rollouts.json.
"""

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from datasets import Dataset
from transformers import AutoTokenizer

from tampo import TAMPOConfig, TAMPOTrainer
from tampo.tasks.mini import TASKS, format_prompt, make_problems
from tampo.tasks.mini_model import mini_model_path
from tampo.tasks.rewards import accuracy_reward
from tampo.tasks.suites import get_suite
from tampo.trainer.trl_internals import FusedHeads
from tests.with_vllm.vllm_cpu import prepare_vllm_cpu

DIFFERENCE = "sampling/sampling_logp_difference/mean"  # of the sampled tokens' log-probs: vLLM's and the trainer's


def make_trainer(output: Path, prompts: int = 40, **changes: Any) -> TAMPOTrainer:
    problems = [p for task in TASKS for p in make_problems(task, 8, 0, "train")][:prompts]
    model = str(mini_model_path())
    settings = dict(
        output_dir=str(output),
        use_vllm=True,
        vllm_mode="colocate",
        vllm_importance_sampling_correction=True,  # it logs the difference
        vllm_max_model_length=256,
        temperature_candidates=[0.6, 0.8, 1.2, 1.5],
        meta_warmup_ratio=0,
        meta_top_p=1,
        meta_alpha=0,  # the distribution stays uniform, so that the seed alone decides on the temperatures
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=48,
        max_steps=3,
        learning_rate=1e-3,  # large, so that weights which did not reach vLLM would show
        seed=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
    )
    args = TAMPOConfig(**(settings | changes))
    data = {"prompt": [format_prompt(p.question) for p in problems], "problem_id": [p.id for p in problems]}
    return TAMPOTrainer(
        model=model,
        reward_funcs=accuracy_reward(get_suite("mini"), problems),
        args=args,
        train_dataset=Dataset.from_dict(data),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    )


def rounds(trainer: TAMPOTrainer) -> dict[str, list[dict[str, Any]]]:
    """TRL's log of each round, a row per step."""
    stale = property(FusedHeads.temperature.fget, lambda heads, value: None)
    faults: dict[str, AbstractContextManager[Any]] = {
        "right": nullcontext(),
        "stale head": patch.object(FusedHeads, "temperature", stale),
        "unsynced": patch.object(trainer.vllm_generation, "sync_weights"),
    }
    start = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    log = {}
    for name, fault in faults.items():
        trainer.model.load_state_dict(start)
        trainer.vllm_generation.sync_weights()
        trainer.set_temperature(trainer.args.temperature)
        with fault:
            trainer.train()
        log[name] = [row for row in trainer.state.log_history if "loss" in row]
    return log


def main(output: Path) -> None:
    prepare_vllm_cpu()
    (output / "log.json").write_text(json.dumps(rounds(make_trainer(output))))


def sample_once(output: Path, seed: int) -> None:
    prepare_vllm_cpu()
    # One prompt and one temperature, so that nothing but the sampler's random numbers can differ.
    changes = {"seed": seed, "max_steps": 1, "per_device_train_batch_size": 8, "temperature_controller": "fixed"}
    trainer = make_trainer(output, 1, **changes)
    trainer.train()
    (output / "rollouts.json").write_text(json.dumps(list(trainer._logs["completion"])))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sample_once(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
