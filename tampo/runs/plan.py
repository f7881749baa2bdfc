"""What a training will cost, from its parameters alone: tokens, memory of each GPU by part, and hours.

Arithmetic, not measurement: activations are counted for gradient checkpointing, and hours scale the one time that
the paper reports (section 4.2: 9 h 54 min for 200 steps of 32 x 8 rollouts of at most 6k tokens on 8 V100s). Meant
to show before a start whether a run fits, to about a fifth; what allocators and libraries add is not in it.
"""

from dataclasses import dataclass

from tampo.config import ConfigError, Params

PAPER_HOURS = 9.9
PAPER_STEPS, PAPER_ROLLOUTS, PAPER_TOKENS, PAPER_GPUS = 200, 32 * 8, 6000, 8
PAPER_PARAMETERS = 1_777_088_000  # DeepSeek-R1-Distill-Qwen-1.5B

# TRL scores tokens in tiles of this many rows and columns (trl/kernels/chunked_logprob.py).
_TRL_TILE = 4096 * 32768


@dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder-only transformer with gated MLP and grouped-query attention (Qwen2, Llama)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    attention_bias: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """All weights: embeddings, attention, MLP and norms."""
        kv = self.kv_heads * self.head_dim
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv
        if self.attention_bias:
            attention += self.hidden + 2 * kv
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden

    @property
    def kv_bytes_a_token(self) -> int:
        """Bytes of the key-value cache for one token, in half precision."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


# The paper's two base models, so that a plan needs no network.
KNOWN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": Architecture(1536, 28, 12, 2, 8960, 151936, tied=False),
    "Qwen/Qwen2.5-3B-Instruct": Architecture(2048, 36, 16, 2, 11008, 151936, tied=True),
}


@dataclass(frozen=True)
class Workload:
    """The parameters of a training that decide its cost. `zero_stage` is DeepSpeed's, 0 without it."""

    steps: int
    rollouts: int
    per_device_train_batch_size: int
    prompt_tokens: int
    completion_tokens: int
    beta: float
    gpus: int = 8
    zero_stage: int = 2
    colocated_engine: bool = True
    candidates: int = 10


@dataclass(frozen=True)
class Plan:
    """Tokens of the run, gigabytes (10^9 bytes) of each GPU by part, and hours on as many V100s.

    `engine_weights` and `kv_cache` are there with a colocated engine only; the cache is what the rollouts of one GPU
    need if all of them grow to the limit at once (an engine makes do with less, and takes longer).
    """

    parameters: int
    tokens: int
    memory: dict[str, float]
    hours: float

    @property
    def total(self) -> float:
        return sum(self.memory.values())


def plan(architecture: Architecture, work: Workload) -> Plan:
    """The cost of `work` with a model of `architecture`, trained in mixed precision with Adam.

    Raises:
        ValueError: A count is not positive, or the rollouts of a step do not go evenly on the GPUs.
    """
    for name in ("steps", "rollouts", "per_device_train_batch_size", "completion_tokens", "gpus"):
        if getattr(work, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(work, name)}.")
    if work.rollouts % (work.gpus * work.per_device_train_batch_size):
        raise ValueError(
            f"{work.rollouts} rollouts a step do not go evenly on {work.gpus} GPUs in micro-batches of "
            f"{work.per_device_train_batch_size}: change per_device_train_batch_size or the number of GPUs."
        )
    weights = architecture.parameters

    def sharded(stage: int) -> int:
        return work.gpus if work.zero_stage >= stage else 1

    length = work.prompt_tokens + work.completion_tokens
    tokens_at_once = work.per_device_train_batch_size * length
    # Half-precision weights and gradients; Adam's two moments and the weights in float32.
    memory = {
        "weights": 2 * weights / sharded(3),
        "gradients": 2 * weights / sharded(2),
        "optimizer": 12 * weights / sharded(1),
    }
    if work.beta > 0:
        memory["reference model"] = 2 * weights / sharded(3)
    # Checkpointed: the input of each layer, and inside one layer what its backward needs.
    inside = 2 * (8 * architecture.hidden + 3 * architecture.intermediate)
    memory["activations"] = tokens_at_once * (2 * architecture.hidden * architecture.layers + inside)
    memory["LM head tiles"] = 4 * min(_TRL_TILE, tokens_at_once * architecture.vocabulary)
    # Their sums over the vocabulary, which TRL's tiles pass through, and the log-probabilities that follow.
    memory["virtual likelihoods"] = 2 * 4 * work.candidates * work.per_device_train_batch_size * work.completion_tokens
    if work.colocated_engine:
        memory["engine weights"] = 2 * weights
        memory["KV cache"] = work.rollouts / work.gpus * length * architecture.kv_bytes_a_token
    hours = (
        PAPER_HOURS
        * (work.steps / PAPER_STEPS)
        * (work.rollouts / PAPER_ROLLOUTS)
        * (work.completion_tokens / PAPER_TOKENS)
        * (PAPER_GPUS / work.gpus)
        * (weights / PAPER_PARAMETERS)
    )
    return Plan(
        parameters=weights,
        tokens=work.steps * work.rollouts * length,
        memory={part: size / 1e9 for part, size in memory.items()},
        hours=hours,
    )


def architecture(model: str) -> Architecture:
    """The sizes of a model: of `KNOWN` ones without a network, else from its config.

    Raises:
        ConfigError: The config cannot be read, or lacks a size.
    """
    if model in KNOWN:
        return KNOWN[model]
    from transformers import AutoConfig

    from tampo.runs.training_data import model_folder

    try:
        config = AutoConfig.from_pretrained(model_folder(model)).get_text_config()
        return Architecture(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.intermediate_size,
            config.vocab_size,
            config.tie_word_embeddings,
            attention_bias=config.model_type == "qwen2",
        )
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"Cannot read the sizes of model {model!r}: {error}") from error


# What a prompt of a mathematics problem usually takes, well below the limit.
_PROMPT_TOKENS = 512


def describe(params: Params, gpus: int, zero_stage: int) -> str:
    """A plan in words: what `tampo plan` prints, for prompts of 512 tokens or their limit if that is less.

    Raises:
        ConfigError: The parameters do not go with that many GPUs, or the model is not known.
    """
    work = Workload(
        params.max_steps,
        params.prompts_per_step * params.num_generations,
        params.per_device_train_batch_size,
        min(_PROMPT_TOKENS, params.max_prompt_length),
        params.max_completion_length,
        params.beta,
        gpus,
        zero_stage,
        params.rollout_engine == "vllm-colocate",
        len(params.temperature_candidates),
    )
    try:
        result = plan(architecture(params.model), work)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    lines = [
        f"{params.model}: {result.parameters / 1e9:.2f} billion parameters",
        f"{work.steps} steps of {work.rollouts} rollouts, at most {work.completion_tokens} tokens each: "
        f"at most {result.tokens / 1e6:,.0f} million tokens",
        f"Memory of each of {gpus} GPUs (ZeRO stage {zero_stage}), in GB:",
        *(f"  {part:20} {size:6.1f}" for part, size in result.memory.items()),
        f"  {'total':20} {result.total:6.1f}",
        f"Time on {gpus} V100s, scaled from the paper's 9 h 54 min: {result.hours:.1f} h (longer answers take longer)",
    ]
    return "\n".join(lines)
