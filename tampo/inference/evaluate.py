"""Evaluation: sample a model on benchmarks, grade every sample, and compute the scores."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from tampo.config import ConfigError, EvaluationConfig
from tampo.context import UnsuitableModel, check_context, context_limit
from tampo.inference.engine import Completion, Engine
from tampo.inference.slices import Meter, Slice, plan_slices, read_slice, sample_slices
from tampo.stats import pass_at_k
from tampo.tasks.mini import Problem
from tampo.tasks.prompts import render
from tampo.tasks.published import Loaded
from tampo.tasks.suites import get_suite


def make_engine(name: str, model: str, batch: int = 512, **options: Any) -> Engine:
    """The engine "transformers", "vllm" (in this process) or "vllm-server", with the arguments of its class.

    Raises:
        ValueError: Unknown engine.
    """
    engine: Engine = engine_class(name)(model, batch, **options)
    return engine


def engine_class(name: str) -> Any:
    """The class of the engine with this name. Raises ValueError for an unknown one."""
    if name == "transformers":
        from tampo.inference.transformers_engine import TransformersEngine

        return TransformersEngine
    if name not in ("vllm", "vllm-server"):
        raise ValueError(f"Unknown engine {name!r}; known are transformers, vllm, vllm-server.")
    from tampo.inference.vllm_engine import VLLMEngine, VLLMServerEngine

    return VLLMEngine if name == "vllm" else VLLMServerEngine


def load_benchmarks(config: EvaluationConfig) -> dict[str, Loaded]:
    """The problems of an evaluation by benchmark; an empty `benchmarks` means all benchmarks of the suite.

    Raises:
        ConfigError: The suite has no such benchmark.
        DataError: A published data set is missing or changed.
    """
    suite = get_suite(config.suite, config.grader, config.data_dir)
    return {
        name: suite.benchmark(name, config.eval_problems, config.eval_seed, config.data_dir, config.data_revisions)
        for name in chosen_benchmarks(config)
    }


def chosen_benchmarks(config: EvaluationConfig) -> tuple[str, ...]:
    """The names of the benchmarks of an evaluation. Raises ConfigError if the suite has no such benchmark."""
    suite = get_suite(config.suite, config.grader, config.data_dir)
    for name in config.benchmarks:
        if name not in suite.benchmarks:
            raise ConfigError(f"Unknown benchmark {name!r} in benchmarks; known are {', '.join(suite.benchmarks)}.")
    return config.benchmarks or suite.benchmarks


def evaluate(
    engine: Engine,
    config: EvaluationConfig,
    benchmarks: dict[str, Loaded] | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
    parts: Path | None = None,
) -> pd.DataFrame:
    """Sample every benchmark in slices (`tampo.inference.slices`), and grade every sample.

    Args:
        benchmarks: From `load_benchmarks`, which is called by default.
        progress: Called at the start and after each slice (`Meter.row`).
        parts: Folder, for this model only, that keeps the samples of finished slices, so that an interrupted
            evaluation resumes.

    Returns:
        One row per sample: benchmark, problem_id, sample, prompt, gold, completion, tokens, truncated, answer (None
        if none was found), status (`tampo.grading.pool.Verdict`) and correct.

    Raises:
        UnsuitableModel: A prompt with `eval_max_completion_length` does not fit into the model's context.
    """
    benchmarks = load_benchmarks(config) if benchmarks is None else benchmarks
    with tempfile.TemporaryDirectory() if parts is None else nullcontext(str(parts)) as name:
        slices = sample_benchmarks(engine, config, benchmarks, Path(name), progress)
        return grade_slices(config, benchmarks, slices, Path(name))


def sample_benchmarks(
    engine: Engine,
    config: EvaluationConfig,
    benchmarks: dict[str, Loaded],
    folder: Path,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[Slice]:
    """Sample every slice that has no file in `folder`, beside other processes that do the same; returns all slices.

    Raises UnsuitableModel as `evaluate` does.
    """
    _check_lengths(engine, config, benchmarks)
    slices = plan_slices(engine.tokenizer, config, benchmarks)
    meter = Meter(config, slices, folder)
    progress(meter.row())
    sample_slices(engine, config, slices, folder, lambda: progress(meter.row()))
    return slices


def open_engine(config: EvaluationConfig, model: str, benchmarks: dict[str, Loaded], **options: Any) -> Engine:
    """The engine of an evaluation, by `make_engine`. Close it, so that it leaves no process and no memory behind.

    Args:
        model: A folder, or the name on a server.
        options: Further arguments of the engine's class.
    """
    if config.eval_engine == "vllm-server":
        options.setdefault("server", config.vllm_server_base_url)
    if config.eval_engine == "vllm":
        from transformers import AutoConfig, AutoTokenizer

        # Otherwise vLLM reserves memory for the model's whole context, 131,072 tokens for R1-Distill.
        tokenizer, limit = AutoTokenizer.from_pretrained(model), context_limit(AutoConfig.from_pretrained(model))
        longest = max((_longest_prompt(tokenizer, config, loaded) for loaded in benchmarks.values()), default=0)
        needed = longest + config.eval_max_completion_length
        if limit is None or needed <= limit[0]:  # else `_check_lengths` names what does not fit
            options.setdefault("max_model_len", needed)
    return make_engine(config.eval_engine, model, batch=config.eval_batch, **options)


def _longest_prompt(tokenizer: Any, config: EvaluationConfig, loaded: Loaded) -> int:
    """Tokens of a benchmark's longest prompt."""
    prompt = get_suite(config.suite, config.grader, config.data_dir).prompt
    texts = [render(tokenizer, prompt(problem)) for problem in loaded.problems]
    return max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]), default=0)


def _check_lengths(engine: Engine, config: EvaluationConfig, benchmarks: dict[str, Loaded]) -> None:
    """Check that every prompt and completion fits, before the first one is sampled."""
    model, limit = getattr(engine, "config", None), getattr(engine, "engine_limit", None)
    if model is None and limit is None:
        return
    for name, loaded in benchmarks.items():
        longest = _longest_prompt(engine.tokenizer, config, loaded)
        try:
            check_context(
                model, longest, config.eval_max_completion_length, "eval_max_completion_length", engine_limit=limit
            )
        except UnsuitableModel as error:
            raise UnsuitableModel(f"Benchmark {name}: {error}") from None


def grade_slices(
    config: EvaluationConfig, benchmarks: dict[str, Loaded], slices: Sequence[Slice], folder: Path
) -> pd.DataFrame:
    """Grade the samples of all slices, from their files; returns the table of `evaluate`, in the benchmarks' order.

    Raises:
        ValueError: The file of a slice is damaged.
    """
    tables = []
    for name, loaded in benchmarks.items():
        mine = [piece for piece in slices if piece.benchmark == name]
        prompts = {i: text for piece in mine for i, text in zip(piece.indices, piece.prompts, strict=True)}
        sampled = {i: row for piece in mine for i, row in read_slice(config, piece, folder).items()}
        flat = [
            (problem, prompts[i], sample, completion)
            for i, problem in enumerate(loaded.problems)
            for sample, completion in enumerate(sampled[i])
        ]
        tables.append(_graded(config, name, flat))
    return pd.concat(tables, ignore_index=True)


def _graded(config: EvaluationConfig, name: str, flat: Sequence[tuple[Problem, str, int, Completion]]) -> pd.DataFrame:
    """The table of one benchmark, from its samples: problem, prompt, number of the sample, completion."""
    suite = get_suite(config.suite, config.grader, config.data_dir)
    verdicts = suite.grade([problem for problem, *_ in flat], [completion.text for *_, completion in flat])
    return pd.DataFrame(
        {
            "benchmark": name,
            "problem_id": problem.id,
            "sample": sample,
            "prompt": prompt,
            "gold": problem.answer,
            "completion": completion.text,
            "tokens": completion.tokens,
            "truncated": completion.truncated,
            "answer": verdict.answer,
            "status": verdict.status,
            "correct": verdict.correct,
        }
        for (problem, prompt, sample, completion), verdict in zip(flat, verdicts, strict=True)
    )


def problem_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """Scores of each problem, in percent, from the rows that `evaluate` returns.

    Returns:
        One row per problem: benchmark, problem_id, and, for n samples per problem,
        `pass@1`: whether the first sample is correct (the paper's metric: its values are multiples of 1 / n);
        `avg@n`: the share of correct samples, which has the same mean and less variance;
        `pass@n`: the probability that one of n samples is correct (unbiased estimator).

    Raises:
        ValueError: Problems differ in their number of samples.
    """
    ordered = samples.sort_values("sample", kind="stable")
    grouped = ordered.groupby(["benchmark", "problem_id"], sort=False)["correct"]
    counts = grouped.agg(["first", "sum", "count"]).reset_index()
    n = int(counts["count"].iloc[0])
    if (counts["count"] != n).any():
        raise ValueError(f"Problems differ in their number of samples: {sorted(counts['count'].unique().tolist())}.")
    scores = counts[["benchmark", "problem_id"]].copy()
    scores["pass@1"] = counts["first"].astype(float) * 100
    if n > 1:
        scores[f"avg@{n}"] = counts["sum"] / n * 100
        scores[f"pass@{n}"] = pass_at_k(n, counts["sum"].to_numpy(), n) * 100
    return scores
