"""The cost of a training run, from its parameters alone: tokens, memory of each GPU by part, and hours.

Arithmetic, accurate to about a fifth, to check before a start whether a run fits. It assumes gradient checkpointing and
ignores the overhead of allocators and libraries. Hours scale the one time in the paper (section 4.2: 9 h 54 min for 200
steps of 32 x 8 rollouts of at most 6k tokens on 8 V100s).
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, Qwen2Config

from tampo.config import ConfigError, Params
from tampo.runs.devices import CAPABILITIES
from tampo.runs.training_data import local_model

PAPER_HOURS = 9.9
PAPER_STEPS, PAPER_ROLLOUTS, PAPER_TOKENS, PAPER_GPUS = 200, 32 * 8, 6000, 8
PAPER_PARAMETERS = 1_777_088_000  # DeepSeek-R1-Distill-Qwen-1.5B

# TRL computes log-probabilities in tiles of this many rows and columns (trl/kernels/chunked_logprob.py).
_TRL_TILE = 4096 * 32768

# Typical length of a mathematics problem's prompt, well below the limit.
_PROMPT_TOKENS = 512

# Sizes of the base models of params/, so that a plan needs no network.
KNOWN: dict[str, dict[str, Any]] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
    },
    "Qwen/Qwen2.5-3B-Instruct": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11008,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-0.5B-Instruct": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class Plan:
    """Tokens of the run, gigabytes (10^9 bytes) of each GPU by part, and hours on as many V100s.

    "engine weights" and "KV cache" exist with a colocated engine only; the cache holds the rollouts of one GPU at
    their full length (an engine runs with less, more slowly).
    """

    parameters: int
    tokens: int
    memory: dict[str, float]
    hours: float


def plan(config: PretrainedConfig, params: Params, gpus: int, zero_stage: int) -> Plan:
    """The cost of a training run in mixed precision with Adam, for prompts of at most 512 tokens.

    `config` is the model's, `zero_stage` DeepSpeed's (0 without it).

    Raises:
        ValueError: The GPUs cannot share the rollouts of a step evenly.
    """
    rollouts, batch = params.prompts_per_step * params.num_generations, params.per_device_train_batch_size
    if gpus < 1 or rollouts % (gpus * batch):
        raise ValueError(
            f"{rollouts} rollouts per step cannot be divided over {gpus} GPUs in micro-batches of {batch}: "
            "change per_device_train_batch_size or the number of GPUs."
        )
    weights = count_parameters(config)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    length = min(_PROMPT_TOKENS, params.max_prompt_length) + params.max_completion_length

    def sharded(stage: int) -> int:
        return gpus if zero_stage >= stage else 1

    # Half-precision weights and gradients; Adam's two moments and the weights in float32.
    memory = {
        "weights": 2 * weights / sharded(3),
        "gradients": 2 * weights / sharded(2),
        "optimizer": 12 * weights / sharded(1),
    }
    if params.beta > 0:
        memory["reference model"] = 2 * weights / sharded(3)
    # With gradient checkpointing: the input of each layer, and the activations inside one layer.
    inside = 2 * (8 * hidden + 3 * config.intermediate_size)
    memory["activations"] = batch * length * (2 * hidden * layers + inside)
    memory["LM head tiles"] = 4 * min(_TRL_TILE, batch * length * config.vocab_size)
    # Sums over the vocabulary in TRL's tiles, and the log-probabilities computed from them.
    candidates = len(params.temperature_candidates)
    memory["virtual likelihoods"] = 2 * 4 * candidates * batch * params.max_completion_length
    if params.rollout_engine == "vllm-colocate":
        heads = config.num_key_value_heads * (hidden // config.num_attention_heads)
        memory["engine weights"] = 2 * weights
        memory["KV cache"] = rollouts / gpus * length * (2 * layers * heads * 2)  # keys, values; 2 bytes
    hours = (
        PAPER_HOURS
        * (params.max_steps / PAPER_STEPS)
        * (rollouts / PAPER_ROLLOUTS)
        * (params.max_completion_length / PAPER_TOKENS)
        * (PAPER_GPUS / gpus)
        * (weights / PAPER_PARAMETERS)
    )
    tokens = params.max_steps * rollouts * length
    return Plan(weights, tokens, {part: size / 1e9 for part, size in memory.items()}, hours)


def count_parameters(config: PretrainedConfig) -> int:
    """The number of weights of a model, without allocating them."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def model_config(model: str, revision: str | None = None) -> PretrainedConfig:
    """The config of a model, without its weights; no network is needed for the models in `KNOWN`.

    `revision` is a commit, branch or tag of a model on the hub.

    Raises:
        ConfigError: The config cannot be read.
    """
    if model in KNOWN:
        return Qwen2Config(**KNOWN[model])  # the vocabulary has the default size
    try:
        # A revision means nothing to a folder, and transformers ignores it there.
        return AutoConfig.from_pretrained(local_model(model) or model, revision=revision or "main").get_text_config()
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the sizes of model {model!r}: {error}") from error


def describe(params: Params, gpus: int, zero_stage: int) -> str:
    """The text that `tampo plan` prints.

    Raises:
        ConfigError: The GPUs cannot share the rollouts of a step evenly, or the model's sizes are unknown.
    """
    try:
        result = plan(model_config(params.model, params.model_revision), params, gpus, zero_stage)
    except (ValueError, AttributeError) as error:
        raise ConfigError(str(error)) from error
    rollouts = params.prompts_per_step * params.num_generations
    lines = [
        f"{params.model}: {result.parameters / 1e9:.2f} billion parameters",
        f"{params.max_steps} steps of {rollouts} rollouts, at most {params.max_completion_length} tokens each: "
        f"at most {result.tokens / 1e6:,.0f} million tokens",
        f"Memory of each of {gpus} GPUs (ZeRO stage {zero_stage}), in GB:",
        *(f"  {part:20} {size:6.1f}" for part, size in result.memory.items()),
        f"  {'total':20} {sum(result.memory.values()):6.1f}",
        f"Time on {gpus} V100s, scaled from the paper's 9 h 54 min: {result.hours:.1f} h (longer for longer answers)",
        f"GPUs need {CAPABILITIES}; a V100 is the unit of that time only",
    ]
    return "\n".join(lines)
