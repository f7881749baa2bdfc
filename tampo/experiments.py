"""Which runs each table is made of, and the scores that come of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tampo.config import Params
from tampo.evaluate import problem_scores
from tampo.jobs import Job, run_jobs, say_now
from tampo.published import BENCHMARKS, table1_value
from tampo.runs import Record, RunStore
from tampo.stats import mean_interval


@dataclass(frozen=True)
class Method:
    """One row of a table: a key, a title, and what its training changes (None: the base model, untrained)."""

    key: str
    title: str
    changes: dict[str, Any] | None = field(default_factory=dict)


TABLE1 = (
    Method("base", "Base model", None),
    Method("fixed-0.9", "GRPO (T = 0.9)", {"controller": "fixed", "temperature": 0.9}),
    Method("fixed-1.2", "GRPO (T = 1.2)", {"controller": "fixed", "temperature": 1.2}),
    Method("fixed-1.5", "GRPO (T = 1.5)", {"controller": "fixed", "temperature": 1.5}),
    Method(
        "linear", "GRPO (T = 0.9 → 1.5)", {"controller": "linear", "temperature_start": 0.9, "temperature_end": 1.5}
    ),
    Method("tampo", "TAMPO", {"controller": "tampo"}),
)


@dataclass(frozen=True)
class Result:
    """The finished runs of an experiment.

    Attributes:
        scores: One row a method, seed and problem (`problem_scores`, with columns method and seed).
        records: Every record behind them, by name.
        trainings: The training's record by (method, seed); the base model has none.
    """

    scores: pd.DataFrame
    records: dict[str, Record]
    trainings: dict[tuple[str, int], Record]

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """The manifest of each record, by its name."""
        return {name: record.manifest for name, record in self.records.items()}


def run_experiment(
    params: Params, methods: tuple[Method, ...] = TABLE1, say: Callable[[str], None] = say_now
) -> Result:
    """Train and evaluate every method with every seed of `params`, as far as that has not been done.

    Missing runs are made side by side (`params.workers`); lines of progress go to `say`, by default to stdout.
    """
    jobs, keys = [], []
    for method in methods:
        # A base model is the same for every training seed.
        for seed in params.seeds if method.changes is not None else params.seeds[:1]:
            training = None if method.changes is None else params.training(seed=seed, **method.changes)
            label = method.title + (f", seed {seed}" if len(params.seeds) > 1 and training else "")
            jobs.append(Job(label, params.evaluation(), training, params.model))
            keys.append((method.key, seed))
    # The longest first: an evaluation alone fits into whatever is left at the end.
    order = sorted(range(len(jobs)), key=lambda i: jobs[i].training is None)
    made = run_jobs(RunStore.of(params), [jobs[i] for i in order], params.workers, say)
    found = dict(zip(order, made, strict=True))
    scores, records, trainings = [], {}, {}
    for i, (key, seed) in enumerate(keys):
        training_record, evaluation = found[i]
        scores.append(problem_scores(evaluation.samples()).assign(method=key, seed=seed))
        records[evaluation.name] = evaluation
        if training_record is not None:
            records[training_record.name] = training_record
            trainings[key, seed] = training_record
    return Result(pd.concat(scores, ignore_index=True), records, trainings)


def summarise(result: Result, methods: tuple[Method, ...] = TABLE1) -> pd.DataFrame:
    """Means and 95 % intervals of every method, benchmark and metric, in percent.

    A problem's score is its mean over training seeds; intervals are over problems. The average is the mean of the
    benchmarks, each with the same weight, as in the paper.

    Returns:
        Columns method, title, benchmark ("Average" first), metric, value, low, high, published (the paper's number
        where the benchmark is one of the paper's), seeds.
    """
    metrics = [name for name in result.scores.columns if "@" in name]
    comparable = set(result.scores["benchmark"]) == set(BENCHMARKS)  # the paper's numbers belong to its benchmarks
    rows = []
    for method in methods:
        own = result.scores[result.scores["method"] == method.key]
        seeds = own["seed"].nunique()
        problems = own.groupby(["benchmark", "problem_id"], sort=False)[metrics].mean().reset_index()
        for metric in metrics:
            groups = {str(name): group[metric].to_numpy() for name, group in problems.groupby("benchmark", sort=False)}
            cells = {"Average": list(groups.values())} | {name: [values] for name, values in groups.items()}
            for benchmark, values in cells.items():
                value, low, high = mean_interval(values)
                rows.append(
                    {
                        "method": method.key,
                        "title": method.title,
                        "benchmark": benchmark,
                        "metric": metric,
                        "value": value,
                        "low": low,
                        "high": high,
                        "published": table1_value(method.key, benchmark, metric) if comparable else None,
                        "seeds": seeds,
                    }
                )
    return pd.DataFrame(rows)


def table1_caption(params: Params) -> str:
    """What a reader of Table 1 must know of how it was made."""
    seeds = f"{len(params.seeds)} training seeds" if len(params.seeds) > 1 else "one training seed"
    problems = "all problems of" if params.eval_problems is None else f"{params.eval_problems} problems"
    return (
        f"Table 1 at scale {params.scale}: {params.steps} steps of {params.prompts_per_step} x "
        f"{params.num_generations} rollouts, {seeds}; {problems} a benchmark, "
        f"{params.eval_samples} samples each at temperature {params.eval_temperature:g}, in percent. "
        f"Best in bold, second underlined; 95 % bootstrap intervals over problems."
    )
