"""The decoding rules of a trainer's rollouts, so that they end and are sampled as in evaluations (`tampo.decoding`)."""

import logging
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedModel
from trl import GRPOTrainer

from tampo.decoding import decoding_rules, token_ids, unused_settings

logger = logging.getLogger(__name__)


def readable_by_trl(model: Any) -> None:
    """Let TRL read the end tokens of a loaded model: it needs a generation_config, and plain numbers in it."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(model, "config") and hasattr(model, "generation_config"):
        if model.generation_config is None:
            model.generation_config = GenerationConfig.from_model_config(model.config)
        if hasattr(ends := model.generation_config.eos_token_id, "tolist"):
            model.generation_config.eos_token_id = token_ids(ends)


def set_rollout_rules(trainer: GRPOTrainer, policy: PreTrainedModel) -> None:
    """Let the rollouts of a new trainer end as `decoding_rules` says, with every engine.

    For most models TRL does so itself. Beyond that, a tokenizer without an end or padding token works, and vLLM ends
    at the same tokens even if its copy of the model names others. Explicit generation_kwargs stay in force; the end
    tokens among them count as ends, where TRL would train on the padding that follows.

    Raises:
        ValueError: No token ends a completion.
    """
    tokenizer: Any = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    rules = decoding_rules(policy, tokenizer)
    chosen: dict[str, Any] = cast(Any, trainer.args).generation_kwargs or {}
    unused = [] if trainer.use_vllm else unused_settings(policy, trainer.generation_config)
    if unused and trainer.is_world_process_zero():
        logger.warning(
            "The model's generation_config sets %s. Rollouts ignore it: they are sampled from the softmax at the "
            "current temperature, as the loss assumes. To sample otherwise, set it in generation_kwargs.",
            ", ".join(unused),
        )
    if not hasattr(trainer, "eos_token_ids"):  # an older TRL, which ends at the tokenizer's token only
        return
    if tokenizer.pad_token_id != rules.pad:
        tokenizer.pad_token_id = rules.pad
        for config in (policy.config.get_text_config(), policy.generation_config):
            cast(Any, config).pad_token_id = rules.pad
    if not {tokenizer.eos_token_id, *token_ids(policy.generation_config.eos_token_id)}.issuperset(rules.ends):
        # They are in the model's config only, where transformers puts the tokenizer's. The saved model keeps them here.
        policy.generation_config.eos_token_id = list(rules.ends)
    trainer.eos_token_ids = token_ids(chosen.get("eos_token_id")) or list(rules.ends)
    if trainer.use_vllm:
        if "ignore_eos" not in chosen:
            ends = trainer.eos_token_ids = list(dict.fromkeys([*rules.ends, *chosen.get("stop_token_ids", [])]))
            trainer.vllm_generation.generation_kwargs = chosen | {"stop_token_ids": ends, "ignore_eos": True}
        return
    special = {"eos_token_id": trainer.eos_token_ids, "pad_token_id": rules.pad} | chosen
    for name in ("eos_token_id", "pad_token_id"):
        setattr(trainer.generation_config, name, special[name])
        trainer.generation_kwargs[name] = special[name]
