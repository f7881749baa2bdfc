"""Evaluation: samples of a model on benchmarks, judged and kept one by one, and the scores that follow from them."""

import hashlib
from collections.abc import Callable
from typing import Any

import pandas as pd

from tampo.config import ConfigError, EvaluationConfig
from tampo.engines import Engine
from tampo.stats import pass_at_k
from tampo.tasks import TASKS, extract_answer, format_prompt, make_problems, score


def benchmark_names(config: EvaluationConfig) -> tuple[str, ...]:
    """The benchmarks of an evaluation, all of the scale where none is named. Raises ConfigError for an unknown one."""
    unknown = [name for name in config.benchmarks if name not in TASKS]
    if unknown:
        raise ConfigError(f"Unknown benchmark {unknown[0]!r} in benchmarks; known are {', '.join(TASKS)}.")
    return config.benchmarks or TASKS


def evaluate(
    engine: Engine, config: EvaluationConfig, progress: Callable[[dict[str, Any]], None] = lambda row: None
) -> pd.DataFrame:
    """Sample and judge every benchmark, each in one call of the engine.

    Args:
        engine: The model.
        config: Benchmarks, problems, samples, temperature and seed.
        progress: Called after each benchmark with how many are done.

    Returns:
        One row a sample: benchmark, problem_id, sample, prompt, gold, completion, tokens, truncated, answer (None
        where none was found) and correct.
    """
    rows = []
    names = benchmark_names(config)
    for done, name in enumerate(names):
        progress({"benchmark": done, "benchmarks": len(names)})
        problems = make_problems(name, config.eval_problems, config.eval_seed, "test")
        prompts = [format_prompt(problem.question) for problem in problems]
        # Benchmarks must not share their random numbers.
        seed = int.from_bytes(hashlib.sha256(f"{config.eval_seed}/{name}".encode()).digest()[:7], "big")
        sampled = engine.generate(
            prompts, config.eval_samples, config.eval_temperature, config.eval_max_completion_length, seed
        )
        for problem, prompt, completions in zip(problems, prompts, sampled, strict=True):
            for sample, completion in enumerate(completions):
                rows.append(
                    {
                        "benchmark": name,
                        "problem_id": problem.id,
                        "sample": sample,
                        "prompt": prompt,
                        "gold": problem.answer,
                        "completion": completion.text,
                        "tokens": completion.tokens,
                        "truncated": completion.truncated,
                        "answer": extract_answer(completion.text),
                        "correct": score(problem, completion.text),
                    }
                )
    return pd.DataFrame(rows)


def problem_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """Scores of each problem, in percent, from the rows that `evaluate` returns.

    Returns:
        One row a problem: benchmark, problem_id, and, for n samples a problem,
        `pass@1`: whether the first sample is right (what the paper publishes: its values are multiples of 1 / n);
        `avg@n`: the share of the samples that are right, which has the same mean and less noise;
        `pass@n`: the chance that one of n is right (unbiased estimator).

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
