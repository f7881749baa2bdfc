"""Results of experiments: make the runs that are missing, then means, intervals and paired differences of scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from numpy import float64
from numpy.typing import NDArray

from tampo.config import ConfigError, Params
from tampo.inference.evaluate import problem_scores
from tampo.paper.experiments import TABLE1, Method, experiment_jobs
from tampo.paper.published_results import BENCHMARKS, published_value
from tampo.runs.jobs import print_line, run_jobs
from tampo.runs.store import Record, RunStore
from tampo.stats import iqm, mean_interval, pass_at_k, probability_of_improvement

# Makes one row per problem from one per sample: benchmark, problem_id, and a column for each metric, with an @ in its
# name.
Score = Callable[[pd.DataFrame], pd.DataFrame]
KS = (1, 8, 64)


@dataclass(frozen=True)
class Result:
    """The finished runs of an experiment.

    Attributes:
        scores: One row per method, seed and problem: `problem_scores` with the columns method and seed.
        records: All records, by name.
        runs: The record of each training run, by (method, seed); the base model has none.
    """

    scores: pd.DataFrame
    records: dict[str, Record]
    runs: dict[tuple[str, int], Record]

    @property
    def manifests(self) -> dict[str, dict]:
        """The manifest of each record, by its name."""
        return {name: record.manifest for name, record in self.records.items()}


def run_experiment(
    params: Params,
    methods: tuple[Method, ...] = TABLE1,
    log: Callable[[str], None] = print_line,
    score: Score = problem_scores,
) -> Result:
    """Train and evaluate every method with every seed of `params`; existing records are reused.

    `params.workers` runs are made at a time. Progress messages go to `log`. `score` makes the scores of each problem.
    """
    jobs = experiment_jobs(params, methods)
    made = run_jobs(RunStore.of(params), list(jobs.values()), params.workers, log)
    return collect(dict(zip(jobs, made, strict=True)), score)


def collect(made: Mapping[tuple[str, int], tuple[Record | None, Record]], score: Score = problem_scores) -> Result:
    """The result of finished runs: (training, evaluation) by (method's key, training seed)."""
    scores, records, runs = [], {}, {}
    for (key, seed), (training, evaluation) in made.items():
        scores.append(score(evaluation.samples()).assign(method=key, seed=seed))
        records[evaluation.name] = evaluation
        if training is not None:
            records[training.name] = runs[key, seed] = training
    return Result(pd.concat(scores, ignore_index=True), records, runs)


def pass_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """Pass@k of each problem from all of its samples, in percent, for each k of `KS` that there are samples for.

    Unlike in `problem_scores`, pass@1 is the share of right samples and not the first one alone.

    Returns:
        One row per problem: benchmark, problem_id, pass@1, and so on.
    """
    counts = samples.groupby(["benchmark", "problem_id"], sort=False)["correct"].agg(["sum", "count"]).reset_index()
    total, right = counts["count"].to_numpy(), counts["sum"].to_numpy()
    columns = {f"pass@{k}": 100 * pass_at_k(total, right, k) for k in KS if k <= total.min()}
    return counts[["benchmark", "problem_id"]].assign(**columns)


def by_seed(result: Result, method: str = "tampo") -> tuple[Result, tuple[Method, ...]]:
    """The runs of one method with each training seed as a row: run-1, run-2 and so on (Table 4)."""
    scores = result.scores[result.scores["method"] == method]
    keys = {seed: f"run-{number}" for number, seed in enumerate(sorted(scores["seed"].unique()), start=1)}
    methods = tuple(Method(key, f"TAMPO run {key[4:]} (seed {seed})") for seed, key in keys.items())
    runs = {(keys[seed], seed): record for (key, seed), record in result.runs.items() if key == method}
    return Result(scores.assign(method=scores["seed"].map(keys)), result.records, runs), methods


def score_arrays(scores: pd.DataFrame, metric: str) -> dict[str, NDArray[float64]]:
    """The scores of one method by benchmark, each of shape (seeds, problems), sorted by seed and problem id.

    Args:
        scores: The rows of one method of `Result.scores`.
        metric: A column, such as "pass@1".
    """
    return {
        str(name): group.pivot(index="seed", columns="problem_id", values=metric).to_numpy()
        for name, group in scores.groupby("benchmark", sort=False)
    }


def summarise(result: Result, methods: tuple[Method, ...] = TABLE1, table: int | None = 1) -> pd.DataFrame:
    """Means and 95 % intervals of every method, benchmark and metric, in percent.

    Intervals are over problems and training seeds (`tampo.stats.mean_interval`). The average gives each benchmark the
    same weight, as in the paper.

    Args:
        result: The runs.
        methods: The rows.
        table: The paper's table with the published values; None: there is none.

    Returns:
        Columns method, title, benchmark ("Average" first if there are several), metric, value, low, high, published
        (the paper's value, on the paper's benchmarks only), seeds.
    """
    # The published average is over all of the paper's benchmarks.
    comparable = table and set(result.scores["benchmark"]) in (set(BENCHMARKS), {"ECQA"})
    rows = []
    for method in methods:
        scores = result.scores[result.scores["method"] == method.key]
        for metric in _metrics(scores):
            arrays = score_arrays(scores, metric)
            groups = {"Average": list(arrays.values())} if len(arrays) > 1 else {}
            for benchmark, values in (groups | {name: [array] for name, array in arrays.items()}).items():
                estimate = mean_interval(values)
                rows.append(
                    {
                        "method": method.key,
                        "title": method.title,
                        "benchmark": benchmark,
                        "metric": metric,
                        "value": estimate.value,
                        "low": max(estimate.low, 0.0),
                        "high": min(estimate.high, 100.0),
                        "published": published_value(table or 0, method.key, metric, benchmark) if comparable else None,
                        "seeds": scores["seed"].nunique(),
                    }
                )
    return pd.DataFrame(rows)


def differences(result: Result, method: str, baseline: str, metric: str) -> list[NDArray[float64]]:
    """Scores of `method` minus those of `baseline`, paired by seed and problem: (seeds, problems) per benchmark.

    Seeds that only one of them has are left out.

    Raises:
        ValueError: They have no seed in common.
    """
    first, second = (result.scores[result.scores["method"] == key] for key in (method, baseline))
    common = set(first["seed"]) & set(second["seed"])
    if not common:
        raise ValueError(f"{method} and {baseline} have no training seed in common.")
    ours, theirs = (score_arrays(scores[scores["seed"].isin(common)], metric) for scores in (first, second))
    return [ours[name] - theirs[name] for name in ours]


def identical_trainings(result: Result, first: str, second: str) -> tuple[int, int]:
    """In how many of the seeds of both methods their training runs are the same, step by step, and the seeds.

    Two rules that draw the same temperatures with the same seed are one training. They say nothing about a difference.
    """
    seeds = [seed for key, seed in result.runs if key == first and (second, seed) in result.runs]
    columns = ["temperature", "reward"]
    pairs = [[result.runs[key, seed].metrics()[columns] for key in (first, second)] for seed in seeds]
    return sum(ours.equals(theirs) for ours, theirs in pairs), len(seeds)


def compare(result: Result, method: str, baselines: tuple[Method, ...]) -> pd.DataFrame:
    """Average scores of `method` minus those of each baseline, paired by training seed and problem, in points.

    Returns:
        One row per baseline and metric: rival (the baseline's title), metric, difference, low, high (95 % interval over
        problems and seeds), p (two-sided, not adjusted for the number of rows), same (in how many of the seeds both are
        the same training run, such as "2 of 3": there no difference can be).
    """
    rows = []
    for baseline in baselines:
        if baseline.key not in (method, "base"):
            same = "{} of {}".format(*identical_trainings(result, method, baseline.key))  # reads the logs
            for metric in _metrics(result.scores):
                estimate = mean_interval(differences(result, method, baseline.key, metric))
                row = {"rival": baseline.title, "metric": metric, "difference": estimate.value}
                row |= {"low": estimate.low, "high": estimate.high, "p": estimate.p_two_sided}
                rows.append(row | {"same": same})
    return pd.DataFrame(rows)


def robust_summary(result: Result, methods: tuple[Method, ...], metric: str = "pass@1") -> pd.DataFrame:
    """Beside means: what does not hang on a few runs or benchmarks that stand out (Agarwal et al. 2021).

    Returns:
        One row per trained method: title, iqm (the mean of the middle half of all scores of a training run on a
        benchmark, percent), tampo_better (the share of pairs of a run of TAMPO and one of this method, on a benchmark,
        in which TAMPO's is better; 0.5 is even).
    """
    by_run = result.scores.groupby(["method", "seed", "benchmark"])[metric].mean()
    tables = {method: by_run[method].unstack().to_numpy() for method in by_run.index.unique("method")}  # (runs, tasks)
    rows = [
        {
            "title": method.title,
            "iqm": iqm(tables[method.key]),
            "tampo_better": probability_of_improvement(tables["tampo"], tables[method.key]),
        }
        for method in methods
        if method.changes is not None
    ]
    return pd.DataFrame(rows)


def evaluate_along(
    params: Params, methods: tuple[Method, ...], log: Callable[[str], None] = print_line
) -> tuple[pd.DataFrame, dict[str, Record]]:
    """Scores along training: every method at the steps whose weights `keep_steps` of `params` keeps.

    Returns:
        The rows of `summarise` with a column step, and all records by name.

    Raises:
        ConfigError: `params` has no `keep_steps`.
    """
    if params.keep_steps is None:
        raise ConfigError("Scores along training need the weights of its steps: give keep_steps, such as 20.")
    steps = range(params.keep_steps, params.max_steps + 1, params.keep_steps)
    return _evaluate_each({s: params.model_copy(update={"eval_step": s}) for s in steps}, "step", methods, log)


def evaluate_at(
    params: Params,
    methods: tuple[Method, ...],
    temperatures: tuple[float, ...],
    log: Callable[[str], None] = print_line,
) -> tuple[pd.DataFrame, dict[str, Record]]:
    """The same training runs, evaluated at several temperatures.

    Returns:
        The rows of `summarise` with a column eval_temperature, and all records by name.
    """
    changed = {t: params.model_copy(update={"eval_temperature": t}) for t in temperatures}
    return _evaluate_each(changed, "eval_temperature", methods, log)


def _evaluate_each(
    by_value: Mapping[float, Params], column: str, methods: tuple[Method, ...], log: Callable[[str], None]
) -> tuple[pd.DataFrame, dict[str, Record]]:
    """The rows of `summarise` for each of several evaluations, with the key of each as a column, and all records."""
    tables: list[pd.DataFrame] = []
    records: dict[str, Record] = {}
    for value, params in by_value.items():
        result = run_experiment(params, methods, log)
        tables.append(summarise(result, methods, table=None).assign(**{column: value}))
        records |= result.records
    return pd.concat(tables, ignore_index=True), records


def _metrics(scores: pd.DataFrame) -> list[str]:
    return [name for name in scores.columns if "@" in name]
