"""Evaluation: sample a model on benchmarks, grade every sample, and compute the scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tampo.config import ConfigError, EvaluationConfig
from tampo.context import UnsuitableModel, check_context
from tampo.files import atomic_path
from tampo.inference.engine import Engine, derive_seed
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
    if name == "transformers":
        from tampo.inference.transformers_engine import TransformersEngine

        return TransformersEngine(model, batch, **options)
    if name not in ("vllm", "vllm-server"):
        raise ValueError(f"Unknown engine {name!r}; known are transformers, vllm, vllm-server.")
    from tampo.inference.vllm_engine import VLLMEngine, VLLMServerEngine

    return (VLLMEngine if name == "vllm" else VLLMServerEngine)(model, batch, **options)


def load_benchmarks(config: EvaluationConfig) -> dict[str, Loaded]:
    """The problems of an evaluation by benchmark; an empty `benchmarks` means all benchmarks of the suite.

    Raises:
        ConfigError: The suite has no such benchmark.
        DataError: A published data set is missing or changed.
    """
    suite = get_suite(config.suite)
    return {
        name: suite.benchmark(name, config.eval_problems, config.eval_seed, config.data_dir, config.data_revisions)
        for name in chosen_benchmarks(config)
    }


def chosen_benchmarks(config: EvaluationConfig) -> tuple[str, ...]:
    """The names of the benchmarks of an evaluation. Raises ConfigError if the suite has no such benchmark."""
    suite = get_suite(config.suite)
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
    """Sample and grade every benchmark, each in one call of the engine.

    Args:
        benchmarks: From `load_benchmarks`, which is called by default.
        progress: Called before each benchmark with the number of finished ones.
        parts: Folder that keeps the samples of finished benchmarks, so that an interrupted evaluation resumes.

    Returns:
        One row per sample: benchmark, problem_id, sample, prompt, gold, completion, tokens, truncated, answer (None
        if none was found), status (`tampo.grading.pool.Verdict`) and correct.

    Raises:
        UnsuitableModel: A prompt with `eval_max_completion_length` does not fit into the model's context.
    """
    samples = []
    benchmarks = load_benchmarks(config) if benchmarks is None else benchmarks
    _check_lengths(engine, config, benchmarks)
    for done, (name, loaded) in enumerate(benchmarks.items()):
        progress({"benchmark": done, "benchmarks": len(benchmarks)})
        part = parts / f"{name}.parquet" if parts else None
        if part and part.is_file():
            samples.append(pd.read_parquet(part))
            continue
        samples.append(_evaluate_benchmark(engine, config, name, loaded.problems))
        if part:
            with atomic_path(part) as temporary:
                samples[-1].to_parquet(temporary)
    return pd.concat(samples, ignore_index=True)


def _check_lengths(engine: Engine, config: EvaluationConfig, benchmarks: dict[str, Loaded]) -> None:
    """Check that every prompt and completion fits, before the first one is sampled."""
    model, limit = getattr(engine, "config", None), getattr(engine, "engine_limit", None)
    if model is None and limit is None:
        return
    prompt = get_suite(config.suite).prompt
    for name, loaded in benchmarks.items():
        texts = [render(engine.tokenizer, prompt(problem)) for problem in loaded.problems]
        longest = max(map(len, engine.tokenizer(texts, add_special_tokens=False)["input_ids"]), default=0)
        try:
            check_context(
                model, longest, config.eval_max_completion_length, "eval_max_completion_length", engine_limit=limit
            )
        except UnsuitableModel as error:
            raise UnsuitableModel(f"Benchmark {name}: {error}") from None


def _evaluate_benchmark(engine: Engine, config: EvaluationConfig, name: str, problems: list[Problem]) -> pd.DataFrame:
    suite = get_suite(config.suite, config.grader)
    prompts = [render(engine.tokenizer, suite.prompt(problem)) for problem in problems]
    seed = derive_seed(config.eval_seed, name)  # benchmarks must not share random numbers
    sampled = engine.generate(
        prompts, config.eval_samples, config.eval_temperature, config.eval_max_completion_length, seed
    )
    flat = [
        (problem, prompt, sample, completion)
        for problem, prompt, completions in zip(problems, prompts, sampled, strict=True)
        for sample, completion in enumerate(completions)
    ]
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
