"""What a training run holds in memory and on disk, term by term, in bytes. Tests compare the terms with real ones.

With DeepSpeed, weights and gradients have half precision, and the optimizer float32 weights and two moments. Without
it, mixed precision is autocast: weights, gradients, moments and the residual stream have float32, the products half.
LoRA is no parameter of a run, so every weight is trained.
"""

from dataclasses import dataclass
from typing import Any

from tampo.config import Params
from tampo.runs.plan_gpus import GPU, Layout

# TRL computes log-probabilities in tiles of at most this many rows and columns (trl/kernels/chunked_logprob.py).
_TILE_ROWS, _TILE_COLUMNS = 4096, 32768

# Elements of DeepSpeed's reduce and all-gather buckets, and of the parameters that ZeRO-3 keeps gathered, by default.
_BUCKET, _LIVE = 5e8, 1e9

# Guesses: a process's CUDA context and libraries (GPU), its libraries (host RAM), the share that torch's allocator
# holds and cannot use, and a vLLM engine's activations and CUDA graphs.
CONTEXT, LIBRARIES, FRAGMENTATION, ENGINE_OVERHEAD = 0.7e9, 6e9, 0.05, 2.5e9

CHECKPOINTS = 3  # two are kept, and the older one goes only when the new one is whole


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with grouped-query attention and a gated MLP (Qwen2, Llama, ...)."""

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int

    @classmethod
    def of(cls, config: Any, parameters: int) -> "Shape":
        """The shape in a transformers config. Raises AttributeError for another kind of model."""
        heads = config.num_attention_heads
        return cls(
            parameters,
            config.hidden_size,
            config.num_hidden_layers,
            config.intermediate_size,
            config.vocab_size,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
        )

    @property
    def head_parameters(self) -> int:
        """Weights of the LM head."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True)
class Sizes:
    """Bytes of a weight while the model computes (`weight`), of the residual stream, and of the products."""

    weight: int
    residual: int
    product: int

    @classmethod
    def of(cls, precision: str, deepspeed: bool) -> "Sizes":
        """Those of a `precision` parameter; "auto" is bf16, as on every GPU of the table."""
        if precision == "fp32":
            return cls(4, 4, 4)
        return cls(2, 2, 2) if deepspeed else cls(4, 4, 2)


def weights(shape: Shape, sizes: Sizes) -> float:
    """The model's own; also those of a reference model."""
    return shape.parameters * sizes.weight


def gradients(shape: Shape, sizes: Sizes) -> float:
    """One for each weight, in its precision."""
    return shape.parameters * sizes.weight


def adam(shape: Shape, sizes: Sizes) -> float:
    """Two float32 moments for each weight, and a float32 copy of weights that are not float32."""
    return shape.parameters * (8 + (4 if sizes.weight < 4 else 0))


def cast_weights(shape: Shape, sizes: Sizes) -> float:
    """Half-precision copies that autocast keeps until the forward pass ends."""
    return shape.parameters * sizes.product if sizes.product < sizes.weight else 0


def layer_activations(shape: Shape, sizes: Sizes, tokens: int) -> float:
    """What one layer keeps for its backward pass, without gradient checkpointing.

    Two norms (a float32 input, the normalized values), the inputs of the products (autocast casts one for each of
    q, k, v, gate and up), q, k, v, the attention's result, and four tensors of the MLP.
    """
    h, kv = shape.hidden, shape.kv_heads * shape.head_size
    q = shape.heads * shape.head_size
    inputs = 5 * sizes.product if sizes.product < sizes.residual else 2 * sizes.product
    per_token = 2 * 4 * h + 2 * sizes.residual * h + inputs * h
    per_token += sizes.product * (2 * q + 2 * kv + 4 * shape.intermediate) + 4 * shape.heads
    return tokens * per_token


def activations(shape: Shape, sizes: Sizes, tokens: int, checkpointing: bool) -> float:
    """What all layers keep for the backward pass; with checkpointing their inputs only."""
    if checkpointing:
        return tokens * shape.layers * shape.hidden * sizes.residual
    return shape.layers * layer_activations(shape, sizes, tokens)


def logits_tiles(shape: Shape, sizes: Sizes, tokens: int) -> float:
    """TRL's buffer for a tile of logits, on a GPU."""
    return sizes.product * min(tokens, _TILE_ROWS) * min(shape.vocabulary, _TILE_COLUMNS)


def head_gradient(shape: Shape, sizes: Sizes, tokens: int) -> float:
    """Of the LM head: float32 sums for its weights and for the hidden states, and copies in other precisions."""
    copies = 4 + (sizes.weight if sizes.weight < 4 else 0)
    return copies * shape.head_parameters + (4 + (2 if sizes.residual < 4 else 0)) * tokens * shape.hidden


def kv_cache(shape: Shape, item: int, tokens: int) -> float:
    """Keys and values of `tokens` tokens, `item` bytes each."""
    return tokens * 2 * shape.layers * shape.kv_heads * shape.head_size * item


def likelihoods(candidates: int, tokens: int) -> float:
    """Sums over the vocabulary of TAMPO's temperatures, and the log-probabilities of them, in float32."""
    return 2 * 4 * candidates * tokens


def checkpoint(shape: Shape, sizes: Sizes, layout: Layout) -> float:
    """Files of one checkpoint: the model, its optimizer's state, and with DeepSpeed below ZeRO-3 the model again."""
    again = layout.deepspeed and layout.stage < 3
    return shape.parameters * sizes.weight * (2 if again else 1) + adam(shape, sizes)


def host_copies(shape: Shape, layout: Layout, reference: bool) -> float:
    """Float32 copies in host RAM that the processes of one machine hold at start."""
    processes = layout.gpus // layout.machines
    models = 1 if layout.deepspeed and layout.stage == 3 else 1 + reference  # ZeRO-3 loads one after the other
    return processes * models * 4 * shape.parameters


@dataclass(frozen=True)
class Memory:
    """Bytes by part. Of a GPU: what is always there, and what exists in each phase of a step only."""

    always: dict[str, float]
    phases: dict[str, dict[str, float]]
    host: dict[str, float]
    disk: dict[str, float]
    guesses: frozenset[str]

    @property
    def largest_phase(self) -> str:
        """The phase with the peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        """Bytes of each GPU at the peak."""
        return sum(self.always.values()) + sum(self.phases[self.largest_phase].values())


def memory(shape: Shape, params: Params, layout: Layout, gpu: GPU, prompt: int) -> Memory:
    """The memory of a run; `prompt` is the length of prompts in tokens."""
    sizes = Sizes.of(params.precision, layout.deepspeed)
    rows, length = params.per_device_train_batch_size, prompt + params.max_completion_length
    tokens, answers = rows * length, rows * params.max_completion_length
    optimizer = adam(shape, sizes) / layout.shards(1)
    model = weights(shape, sizes) / layout.shards(3)
    always = {
        "weights": 0.0 if layout.offload_weights else model,
        "gradients": gradients(shape, sizes) / layout.shards(2),
        "optimizer": 0.0 if layout.offload_optimizer else optimizer,
    }
    if params.beta > 0:
        always["reference model"] = 0.0 if layout.offload_weights else model
    if layout.deepspeed and layout.stage:
        buffers = 2 if layout.stage == 3 else 1  # ZeRO-3 reduces one while it fills the other
        always["ZeRO buckets"] = buffers * _BUCKET * sizes.weight
    elif layout.gpus > 1:
        always["DDP buckets"] = gradients(shape, sizes)
    if layout.shards(3) > 1:
        always["ZeRO-3 gathered"] = min(shape.parameters, _LIVE) * sizes.weight
    if params.rollout_engine == "vllm-colocate":
        always["vLLM, reserved"] = params.vllm_gpu_memory_utilization * gpu.memory * 1e9
    always["CUDA context"] = CONTEXT

    kept = activations(shape, sizes, tokens, params.gradient_checkpointing)
    again = layer_activations(shape, sizes, tokens) if params.gradient_checkpointing else 0.0
    tiles, sums = logits_tiles(shape, sizes, answers), likelihoods(len(params.temperature_candidates), answers)
    cast = cast_weights(shape, sizes)
    phases = {
        "forward": {"activations": kept, "weights cast": cast, "one layer": again, "logits tiles": tiles}
        | {"virtual likelihoods": sums},
        # The last product's gradient is there while the last layer is computed again; its tensors' gradients too.
        "backward": {"activations": kept, "one layer": again, "logits tiles": tiles}
        | {"LM-head gradient": head_gradient(shape, sizes, answers)}
        | {"gradients in a layer": 3 * sizes.product * shape.intermediate * tokens}
        | ({} if params.gradient_checkpointing else {"weights cast": cast}),
        # DeepSpeed's float32 copy of the gradients, and its bucket of gathered weights.
        "optimizer step": {"float32 gradients": shape.parameters * 4 / layout.shards(1), "gathered": _BUCKET * 2}
        if layout.deepspeed
        else {"gradient norms": 0.0},
    }
    rollouts = params.prompts_per_step * params.num_generations // layout.gpus
    if params.rollout_engine == "transformers":
        phases["rollouts"] = {"KV cache": kv_cache(shape, sizes.product, rollouts * length), "weights cast": cast}
    for parts in phases.values():
        own = sum(parts.values()) + sum(size for name, size in always.items() if not name.startswith("vLLM"))
        parts["fragmentation"] = FRAGMENTATION * own

    host = {"float32 copies at start": host_copies(shape, layout, params.beta > 0)}
    per_machine = layout.gpus // layout.machines
    if layout.offload_optimizer:
        host["offloaded optimizer"] = adam(shape, sizes) / layout.machines
    if layout.offload_weights:
        host["offloaded weights"] = weights(shape, sizes) * (2 if params.beta > 0 else 1) / layout.machines
    host["libraries"] = LIBRARIES * per_machine
    disk = {
        "checkpoints": CHECKPOINTS * checkpoint(shape, sizes, layout),
        "trained model": weights(shape, sizes),
        "files of the model": 2.0 * shape.parameters,
    }
    if params.keep_steps:
        disk["kept weights"] = weights(shape, sizes) * (params.max_steps // params.keep_steps)
    guesses = {"CUDA context", "fragmentation", "gradients in a layer", "libraries", "ZeRO-3 gathered"}
    return Memory(always, phases, host, disk, frozenset(guesses | {"files of the model"}))
