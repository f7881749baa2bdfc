"""Ranges for the time of a step and of an evaluation, from a GPU's data sheet. Every efficiency here is a guess.

A product reaches a share of the GPU's peak; a token of a rollout costs one read of the weights and of the cache, and
the engine's own time. Communication between GPUs, rewards and loading are left out.
"""

import math

from tampo.config import Params
from tampo.runs.plan_gpus import GPU, Layout
from tampo.runs.plan_memory import ENGINE_OVERHEAD, Shape, Sizes, kv_cache
from tampo.tasks.suites import get_suite

Range = tuple[float, float]  # (low, high)

# Guesses, the better one first: shares of the GPU's peak in products and of its bandwidth in decoding, an engine's own
# seconds per token, and lengths of the mean and of the longest answer as shares of the limit.
_PEAK, _BANDWIDTH = (0.45, 0.2), (0.8, 0.4)
_OWN_TIME = {"vllm": (0.002, 0.008), "transformers": (0.025, 0.06)}
_MEAN, _LONGEST = (0.25, 1.0), (0.5, 1.0)
_AT_ONCE = 256  # sequences that vLLM decodes together, at most
_EVALUATION_SHARE = 0.9  # of the memory, for vLLM alone on a GPU

# Problems of the published benchmarks together; the mini suites make 200 a family.
_PROBLEMS = {"math": 30 + 500 + 40 + 272 + 674, "ecqa": 2194}


def step_times(shape: Shape, params: Params, layout: Layout, gpu: GPU, prompt: int) -> dict[str, Range]:
    """Seconds of the parts of one step: rollouts, log-probabilities of the reference model, forward and backward."""
    rollouts = params.prompts_per_step * params.num_generations // layout.gpus
    colocated = params.rollout_engine == "vllm-colocate"
    room = params.vllm_gpu_memory_utilization * gpu.memory * 1e9 if colocated else None
    engine = "transformers" if params.rollout_engine == "transformers" else "vllm"
    limit = params.max_completion_length
    parts = {"rollouts": _decoding(shape, gpu, engine, rollouts, prompt, limit, room)}
    if params.beta > 0:
        parts["reference model"] = _products(shape, gpu, params, rollouts, prompt, 2)
    passes = 8 if params.gradient_checkpointing else 6
    parts["forward, backward"] = _products(shape, gpu, params, rollouts, prompt, passes)
    return parts


def evaluation_time(shape: Shape, params: Params, layout: Layout, gpu: GPU, prompt: int) -> tuple[int, Range]:
    """Samples of one model's evaluation, and its seconds on all GPUs, each with a share of the problems."""
    samples = evaluation_problems(params) * params.eval_samples
    share = math.ceil(samples / layout.gpus)
    if params.eval_engine == "transformers":
        at_once, room, engine = params.eval_batch, None, "transformers"
    else:
        at_once, room, engine = _AT_ONCE, _EVALUATION_SHARE * gpu.memory * 1e9, "vllm"
    rounds, last = divmod(share, at_once)
    one = [(rounds, at_once), (1, last)] if last else [(rounds, at_once)]
    limit = params.eval_max_completion_length
    times = [(n, _decoding(shape, gpu, engine, rows, prompt, limit, room)) for n, rows in one if n]
    return samples, (sum(n * low for n, (low, _) in times), sum(n * high for n, (_, high) in times))


def evaluation_problems(params: Params) -> int:
    """Problems of all benchmarks, for the user's own as counted; where some are chosen, each as the suite's mean."""
    suite = get_suite(params.suite, params.grader, params.data_dir)
    if params.suite == "own":  # on this machine, so they can be counted
        counted = [suite.benchmark(n, params.eval_problems, 0, None, {}) for n in params.benchmarks or suite.benchmarks]
        return sum(len(loaded.problems) for loaded in counted)
    chosen, every = len(params.benchmarks) or len(suite.benchmarks), len(suite.benchmarks)
    whole = math.ceil(_PROBLEMS.get(params.suite, 200 * every) * chosen / every)
    return whole if params.eval_problems is None else min(whole, params.eval_problems * chosen)


def _products(shape: Shape, gpu: GPU, params: Params, rollouts: int, prompt: int, passes: int) -> Range:
    """Seconds of `passes` (2 a forward pass) multiplications per weight and token, with causal attention's."""

    def seconds(index: int) -> float:
        length = prompt + _MEAN[index] * params.max_completion_length
        attention = passes * shape.layers * shape.hidden * length  # half of all pairs, two products
        flops = rollouts * length * (passes * shape.parameters + attention)
        return flops / (gpu.flops * 1e12 * _PEAK[index] / (4 if params.precision == "fp32" else 1))

    return seconds(0), seconds(1)


def _decoding(shape: Shape, gpu: GPU, engine: str, rollouts: int, prompt: int, limit: int, room: float | None) -> Range:
    """Seconds to decode `rollouts` answers on one GPU. `room`: bytes for weights and cache together, if bounded."""
    half = Sizes(2, 2, 2)
    weights = shape.parameters * half.weight

    def seconds(index: int) -> float:
        length = prompt + _MEAN[index] * limit
        waves = 1.0
        if room is not None:
            free = max(room - weights - ENGINE_OVERHEAD, kv_cache(shape, 2, prompt + limit))
            waves = max(1.0, rollouts * kv_cache(shape, 2, round(length)) / free)
        read = weights + kv_cache(shape, 2, round(rollouts / waves * (prompt + _MEAN[index] * limit / 2)))
        per_token = read / (gpu.bandwidth * 1e9 * _BANDWIDTH[index]) + _OWN_TIME[engine][index]
        return waves * _LONGEST[index] * limit * per_token

    return seconds(0), seconds(1)
