"""The cost of a training run, from its parameters alone: memory by part, disk, time, and whether it fits.

Arithmetic: `plan_memory` has the terms, `plan_times` the times, `plan_gpus` the GPUs. Nothing here has been compared
with a GPU; the hours on V100s scale the one time in the paper (section 4.2: 9 h 54 min for 200 steps of 32 x 8 rollouts
of at most 6k tokens on 8 V100s).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, Qwen2Config

from tampo.config import ConfigError, Params
from tampo.runs.model_files import wrong_size
from tampo.runs.plan_gpus import BF16_CAPABILITY, GPU, LOWEST_CAPABILITY, Layout
from tampo.runs.plan_memory import CHECKPOINTS, ENGINE_OVERHEAD, Memory, Shape, kv_cache, memory
from tampo.runs.plan_times import Range, evaluation_time, step_times
from tampo.runs.training_data import local_model

PAPER_HOURS = 9.9
PAPER_STEPS, PAPER_ROLLOUTS, PAPER_TOKENS, PAPER_GPUS = 200, 32 * 8, 6000, 8
PAPER_PARAMETERS = 1_777_088_000  # DeepSeek-R1-Distill-Qwen-1.5B

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


# A run whose peak is above this share of a GPU's memory is expected to run out of it.
SAFE = 0.95


@dataclass(frozen=True)
class Plan:
    """What a run takes: tokens, bytes by part, seconds of a step and of one evaluation as (low, high), V100 hours.

    `rollouts_at_once` are rollouts of full length that a colocated engine's cache holds (None without one).
    """

    shape: Shape
    tokens: int
    memory: Memory
    step: dict[str, Range]
    evaluation: tuple[int, Range]
    hours: float
    rollouts_at_once: int | None

    def fits(self, gpu: GPU) -> bool:
        """Whether the GPU's memory is enough, with a margin, and the engine has room for a rollout."""
        return self.memory.peak <= SAFE * gpu.memory * 1e9 and self.rollouts_at_once != 0


def plan(model: PretrainedConfig | Shape, params: Params, layout: Layout, gpu: GPU) -> Plan:
    """The cost of a training run with Adam, for prompts of at most 512 tokens. `model`: its config, or its shape.

    Raises:
        ValueError: The GPUs cannot share the rollouts of a step evenly.
        AttributeError: The model is no decoder with attention and a gated MLP.
    """
    rollouts, batch = params.prompts_per_step * params.num_generations, params.per_device_train_batch_size
    if rollouts % (layout.gpus * batch):
        raise ValueError(
            f"{rollouts} rollouts per step cannot be divided over {layout.gpus} GPUs in micro-batches of {batch}: "
            "change per_device_train_batch_size or the number of GPUs."
        )
    shape = model if isinstance(model, Shape) else Shape.of(model, count_parameters(model))
    prompt = min(_PROMPT_TOKENS, params.max_prompt_length)
    at_once = None
    if params.rollout_engine == "vllm-colocate":
        room = params.vllm_gpu_memory_utilization * gpu.memory * 1e9 - 2 * shape.parameters - ENGINE_OVERHEAD
        # vLLM refuses to start when not even one sequence of the longest length has room.
        longest = params.max_prompt_length + params.max_completion_length
        at_once = max(0, int(room / kv_cache(shape, 2, longest)))
    hours = (
        PAPER_HOURS
        * (params.max_steps / PAPER_STEPS)
        * (rollouts / PAPER_ROLLOUTS)
        * (params.max_completion_length / PAPER_TOKENS)
        * (PAPER_GPUS / layout.gpus)
        * (shape.parameters / PAPER_PARAMETERS)
    )
    return Plan(
        shape,
        params.max_steps * rollouts * (prompt + params.max_completion_length),
        memory(shape, params, layout, gpu, prompt),
        step_times(shape, params, layout, gpu, prompt),
        evaluation_time(shape, params, layout, gpu, prompt),
        hours,
        at_once,
    )


def ways_out(shape: Shape, params: Params, layout: Layout, gpu: GPU) -> list[str]:
    """Single changes with which the run fits the GPU, and if there is none, several together or larger GPUs."""
    fewer = {"per_device_train_batch_size": max(1, params.per_device_train_batch_size // 2)}
    changes: list[dict[str, Any]] = []
    while fewer["per_device_train_batch_size"] < params.per_device_train_batch_size and len(changes) < 8:
        changes.append(dict(fewer))
        if fewer["per_device_train_batch_size"] == 1:
            break
        fewer["per_device_train_batch_size"] //= 2
    if not params.gradient_checkpointing:
        changes.append({"gradient_checkpointing": True})
    if params.rollout_engine == "vllm-colocate":
        shares = [share / 100 for share in range(90, 9, -5)]
        changes += [{"vllm_gpu_memory_utilization": share} for share in shares]

    def fit(changed: dict[str, Any], spread: Layout) -> bool:
        try:
            return plan(shape, params.model_copy(update=changed), spread, gpu).fits(gpu)
        except ValueError:  # rollouts that cannot be divided
            return False

    found, names = [], set()
    for change in changes:  # the smallest change of each parameter
        (name, value) = next(iter(change.items()))
        if name not in names and fit(change, layout):
            names.add(name)
            found.append(f"--{name.replace('_', '-')} {str(value).lower()}")
    stages = [replace(layout, deepspeed=True, stage=stage) for stage in (2, 3) if stage > layout.stage]
    spread = [other for other in stages if layout.gpus > 1 or other.stage == 2]
    found += [f"DeepSpeed ZeRO-{other.stage} in the accelerate file" for other in spread if fit({}, other)][:1]
    more = [replace(layout, gpus=gpus, deepspeed=True, stage=2) for gpus in (2, 4, 8) if gpus > layout.gpus]
    found += [f"{other.gpus} GPUs with ZeRO-2" for other in more if fit({}, other)][:1]
    if not found:
        least: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_checkpointing": True}
        for share in (0.5, 0.4, 0.3, 0.2, 0.1):
            together = least | {"vllm_gpu_memory_utilization": share}
            if fit(together, layout):
                words = " ".join(f"--{name.replace('_', '-')} {str(value).lower()}" for name, value in together.items())
                return [f"together: {words}"]
        found.append("a larger GPU (--gpu), more GPUs with ZeRO-3, a smaller model, or shorter max_completion_length")
    return found


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
        config = AutoConfig.from_pretrained(local_model(model) or model, revision=revision or "main").get_text_config()
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"Cannot read the sizes of model {model!r}: {error}") from error
    if wrong := wrong_size(config.to_dict()):
        raise ConfigError(f"Cannot read the sizes of model {model!r}: {wrong}.")
    return config


NO_FIT = "does NOT fit"  # in the text of `describe`, where a part is too large


def describe(params: Params, layout: Layout, gpu: GPU, host_ram: float | None = None, disk: float | None = None) -> str:
    """The text that `tampo plan` prints. `host_ram` and `disk` are what each machine has, in GB.

    Raises:
        ConfigError: The GPUs cannot share the rollouts of a step evenly, or the model's sizes are unknown.
    """
    config = model_config(params.model, params.model_revision)
    try:
        result = plan(config, params, layout, gpu)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{params.model}: {error}") from error
    rollouts, used = params.prompts_per_step * params.num_generations, result.memory
    samples, seconds = result.evaluation
    step = sum(low for low, _ in result.step.values()), sum(high for _, high in result.step.values())
    lines = [
        f"{params.model}: {_count(result.shape.parameters)} parameters, all trained",
        f"{params.max_steps} steps of {rollouts} rollouts, at most {params.max_completion_length} tokens each: "
        f"at most {result.tokens / 1e6:,.0f} million tokens",
        f"{layout.gpus} x {gpu.name} ({gpu.memory:.1f} GB seen by a program), {layout}",
        f"A GPU needs compute capability {LOWEST_CAPABILITY}, for bf16 {BF16_CAPABILITY}; this one has "
        f"{gpu.capability}. A part marked ~ is a guess.",
        "",
        "Memory of each GPU, in GB (10^9 bytes)",
        *_table(used.always, used.guesses),
        f"  and in the phase with the peak, {used.largest_phase}:",
        *_table(used.phases[used.largest_phase], used.guesses),
        f"    {'peak':24}{used.peak / 1e9:8.1f}",
    ]
    if result.rollouts_at_once is not None:
        here = rollouts // layout.gpus
        at_once = min(here, result.rollouts_at_once)
        lines.append(
            f"  vLLM's cache: {at_once} of the GPU's {here} rollouts at once at full length (~); the rest wait"
        )
    lines += ["", "Host RAM of each machine, in GB", *_table(used.host, used.guesses, total=True)]
    lines += ["Disk, in GB", *_table(used.disk, used.guesses, total=True)]
    lines += [
        f"    ({CHECKPOINTS} checkpoints: two are kept, and a third while it is written)",
        "",
        "Time, all guesses (~)",
        *(f"    {part:24}{_span(times)} per step" for part, times in result.step.items()),
        f"    {'training run':24}{_span((step[0] * params.max_steps, step[1] * params.max_steps))}",
        f"    {'evaluation':24}{_span(seconds)} for {samples:,} samples, on {layout.gpus} GPUs",
        f"    {'on as many V100s':24}{result.hours:.1f} h, scaled from the paper's 9 h 54 min",
        "",
        *_verdict(params, layout, gpu, result),
        _compare(
            "Host RAM",
            sum(used.host.values()),
            host_ram,
            "--host-ram",
            "a machine with more RAM, or ZeRO-3, whose processes load one model after the other",
        ),
        _compare("Disk", sum(used.disk.values()), disk, "--disk", "the folder of TAMPO_STORE on a larger disk"),
    ]
    return "\n".join(lines)


def _table(parts: dict[str, float], guesses: frozenset[str], total: bool = False) -> list[str]:
    rows = [
        f"    {name:24}{size / 1e9:8.1f}{' ~' if name in guesses else ''}" for name, size in parts.items() if size > 0
    ]
    return [*rows, f"    {'total':24}{sum(parts.values()) / 1e9:8.1f}"] if total else rows


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e8 else f"{parameters / 1e6:.2f} million"


def _span(seconds: Range) -> str:
    unit, size = ("h", 3600) if seconds[1] >= 3600 else ("min", 60) if seconds[1] >= 120 else ("s", 1)
    return f"{seconds[0] / size:.1f} to {seconds[1] / size:.1f} {unit}"


def _verdict(params: Params, layout: Layout, gpu: GPU, result: Plan) -> list[str]:
    peak = f"{result.memory.peak / 1e9:.1f} of {gpu.memory:.1f} GB"
    if result.fits(gpu):
        return [f"GPU: fits, {peak}."]
    if result.rollouts_at_once == 0:
        why = f"vllm_gpu_memory_utilization {params.vllm_gpu_memory_utilization} has no room for one rollout"
    else:
        why = f"{peak}, and above {SAFE:.0%} it is expected to run out of memory"
    ways = ways_out(result.shape, params, layout, gpu)
    return [f"GPU: {NO_FIT}, {why}. Ways out:", *(f"    {way}" for way in ways)]


def _compare(what: str, needed: float, there: float | None, option: str, way: str) -> str:
    size = f"{needed / 1e9:.0f} GB"
    if there is None:
        return f"{what}: needs {size} ({option} GB compares it with what there is)."
    if needed <= there * 1e9:
        return f"{what}: fits, {size} of {there:g} GB."
    return f"{what}: {NO_FIT}, {size} of {there:g} GB. Way out: {way}."
