"""Which runs each table is made of, and the scores that come of them."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tampo.config import Params, TrainingConfig
from tampo.inference.evaluate import problem_scores
from tampo.paper.published_results import BENCHMARKS, published_value
from tampo.runs.jobs import Job, run_jobs, say_now
from tampo.runs.store import Record, RunStore
from tampo.stats import mean_interval


@dataclass(frozen=True)
class Method:
    """One row of a table: a key, a title, and what its training changes (None: the base model, untrained)."""

    key: str
    title: str
    changes: dict[str, Any] | None = field(default_factory=dict)


# What a controller is called in tables, figures and `explore`; {} are its parameters.
CONTROLLER_TITLES = {
    "fixed": "GRPO (T = {value})",
    "linear": "GRPO (T = {start_temperature} → {end_temperature})",
    "tampo": "TAMPO",
    "cosine": "Cosine ({start_temperature} → {end_temperature})",
    "staged": "Staged ({stages})",
    "entropy-target": "EntropyTarget ({target})",
    "e3": "E3",
    "exp3": "EXP3",
    "ucb": "UCB",
}


def controller_title(name: str, parameters: Mapping[str, Any]) -> str:
    """What a controller with these parameters is called; its name, where it has no title."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(text, value))
        return f"{value:g}" if isinstance(value, int | float) else str(value)

    words = defaultdict(lambda: "?", {key: text(value) for key, value in parameters.items()})
    if parameters.get("target") == 0:
        words["target"] = "first"  # the entropy of the first steps
    return CONTROLLER_TITLES.get(name, name).format_map(words)


def _row(key: str, controller: str, title: str | None = None, **parameters: Any) -> Method:
    """A row that trains with a controller; parameters that have names of their own are given by these names."""
    changes: dict[str, Any] = {"temperature_controller": controller}
    own = {name: value for name, value in parameters.items() if name not in TrainingConfig.model_fields}
    changes |= {name: value for name, value in parameters.items() if name not in own}
    if own:
        changes["temperature_controller_kwargs"] = own
    shown = own | {"value": parameters.get("temperature", 1.0)}
    return Method(key, title or controller_title(controller, shown), changes)


BASE = Method("base", "Base model", None)
_TAMPO = _row("tampo", "tampo")
TABLE1 = (
    BASE,
    *(_row(f"fixed-{t:g}", "fixed", temperature=t) for t in (0.9, 1.2, 1.5)),
    _row("linear", "linear", start_temperature=0.9, end_temperature=1.5),
    _TAMPO,
)
# The rows called "tampo" are the same runs as Table 1's, as long as the parameters say alpha 0.05 and p 0.7.
FIXED = TABLE1[1:4]
TRAINED = TABLE1[1:]
TABLE2 = tuple(
    Method("tampo" if alpha == 0.05 else f"alpha-{alpha:g}", f"TAMPO (α = {alpha:.2f})", {"alpha": alpha})
    for alpha in (0.01, 0.05, 0.10)
)
TABLE3 = tuple(
    Method("tampo" if p == 0.7 else f"p-{p:g}", f"TAMPO (p = {p:g})" + (", greedy" if p == 0 else ""), {"p": p})
    for p in (0.9, 0.7, 0.5, 0.0)
)
TABLE4 = (_TAMPO,)
TABLE5 = (BASE, _row("grpo", "fixed", temperature=1.0), _TAMPO)

EXPLORATION = tuple(method for method in TABLE1 if method.key in ("base", "fixed-0.9", "fixed-1.5", "tampo"))
LIKELIHOODS = (
    _row("tampo", "tampo", "TAMPO (sum, Eq. 8)", likelihood="sum"),
    _row("mean", "tampo", "TAMPO (mean, Eq. 6)", likelihood="mean"),
)
# Every controller of `tampo.controllers`; the first rows are Table 1's runs.
CONTROLLER_ROWS = (
    *TABLE1,
    _row("cosine", "cosine", start_temperature=0.9, end_temperature=1.5),
    _row("staged", "staged", stages=[0.9, 1.2, 1.5]),
    _row("entropy-0.3", "entropy-target", target=0.3),
    _row("entropy-first", "entropy-target", target=0.0),
    _row("e3", "e3"),
    _row("exp3", "exp3"),
    _row("ucb", "ucb"),
)
ABLATION_SEEDS = 3  # the first of the seeds; Table 1 and what is drawn of its runs use all
EVALUATION_TEMPERATURES = (0.6, 1.4)  # beside the paper's 1.0

# Parameter files by scale: of Table 5, whose base model and task are others, and of the base that has to explore.
CHOICE_PARAMS = {"smoke": "smoke-choice", "mini": "mini-choice", "paper": "paper-ecqa"}
RARE_PARAMS = {"smoke": "smoke-rare", "mini": "mini-rare"}

_SUBJECTS = {
    1: "TAMPO beside fixed and linear temperatures",
    2: "influence of the weight α of the moving average",
    3: "influence of the nucleus mass p of the meta-policy",
    4: "independent trainings of TAMPO",
    5: "another base model and task",
}


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


def experiment_jobs(params: Params, methods: tuple[Method, ...] = TABLE1) -> dict[tuple[str, int], Job]:
    """What has to be trained and evaluated for `methods`, by method's key and training seed."""
    jobs = {}
    for method in methods:
        # A base model is the same for every training seed.
        for seed in params.seeds if method.changes is not None else params.seeds[:1]:
            training = None if method.changes is None else params.training(seed=seed, **method.changes)
            label = method.title + (f", seed {seed}" if len(params.seeds) > 1 and training else "")
            jobs[method.key, seed] = Job(label, params.evaluation(), training, params.model)
    return jobs


def run_experiment(
    params: Params, methods: tuple[Method, ...] = TABLE1, say: Callable[[str], None] = say_now
) -> Result:
    """Train and evaluate every method with every seed of `params`, as far as that has not been done.

    Missing runs are made side by side (`params.workers`); lines of progress go to `say`, by default to stdout.
    """
    jobs = experiment_jobs(params, methods)
    made = run_jobs(RunStore.of(params), list(jobs.values()), params.workers, say)
    scores, records, trainings = [], {}, {}
    for (key, seed), (training_record, evaluation) in zip(jobs, made, strict=True):
        scores.append(problem_scores(evaluation.samples()).assign(method=key, seed=seed))
        records[evaluation.name] = evaluation
        if training_record is not None:
            records[training_record.name] = training_record
            trainings[key, seed] = training_record
    return Result(pd.concat(scores, ignore_index=True), records, trainings)


def by_seed(result: Result, method: str = "tampo") -> tuple[Result, tuple[Method, ...]]:
    """The same runs with every training seed of one method as a method of its own, run-1, run-2 ... (Table 4)."""
    own = result.scores[result.scores["method"] == method]
    runs = {seed: f"run-{number}" for number, seed in enumerate(sorted(own["seed"].unique()), start=1)}
    methods = tuple(Method(key, f"TAMPO run {key[4:]} (seed {seed})") for seed, key in runs.items())
    trainings = {(runs[seed], seed): record for (key, seed), record in result.trainings.items() if key == method}
    return Result(own.assign(method=own["seed"].map(runs)), result.records, trainings), methods


def score_arrays(scores: pd.DataFrame, metric: str) -> dict[str, NDArray[np.float64]]:
    """One method's scores by benchmark, each of shape (seeds, problems), in the order of seeds and problem ids.

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

    Intervals are over problems and training seeds (`tampo.stats.mean_interval`). The average is the mean of the
    benchmarks, each with the same weight, as in the paper.

    Args:
        result: The runs.
        methods: The rows.
        table: The paper's table whose numbers belong beside ours; None: there is none.

    Returns:
        Columns method, title, benchmark ("Average" first, where there are several), metric, value, low, high,
        published (the paper's number where the benchmark is one of the paper's), seeds.
    """
    metrics = [name for name in result.scores.columns if "@" in name]
    benchmarks = set(result.scores["benchmark"])
    # The paper's numbers belong to its benchmarks, and an average to all of them together.
    comparable = benchmarks in (set(BENCHMARKS), {"ECQA"})
    rows = []
    for method in methods:
        own = result.scores[result.scores["method"] == method.key]
        for metric in metrics:
            arrays = score_arrays(own, metric)
            cells = {"Average": list(arrays.values())} if len(arrays) > 1 else {}
            for benchmark, values in (cells | {name: [array] for name, array in arrays.items()}).items():
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
                        "published": published_value(table, method.key, metric, benchmark)
                        if table and comparable
                        else None,
                        "seeds": own["seed"].nunique(),
                    }
                )
    return pd.DataFrame(rows)


def differences(result: Result, method: str, rival: str, metric: str) -> list[NDArray[np.float64]]:
    """Scores of `method` less those of `rival`, paired by seed and problem: (seeds, problems) for each benchmark.

    Seeds that only one of them has are left out.

    Raises:
        ValueError: They have no seed in common.
    """
    scores = result.scores
    own, other = scores[scores["method"] == method], scores[scores["method"] == rival]
    common = set(own["seed"]) & set(other["seed"])
    if not common:
        raise ValueError(f"{method} and {rival} have no training seed in common.")
    first = score_arrays(own[own["seed"].isin(common)], metric)
    second = score_arrays(other[other["seed"].isin(common)], metric)
    return [first[name] - second[name] for name in first]


def compare(result: Result, method: str, rivals: tuple[Method, ...]) -> pd.DataFrame:
    """Average scores of one method less those of each other, paired by training seed and problem.

    Returns:
        One row a rival and metric: rival, metric, difference, low, high (95 % interval over problems and seeds), p
        (two-sided, not adjusted for the number of rows), in points.
    """
    rows = []
    for rival in rivals:
        if rival.key not in (method, "base"):
            for metric in (name for name in result.scores.columns if "@" in name):
                estimate = mean_interval(differences(result, method, rival.key, metric))
                row = {"rival": rival.title, "metric": metric, "difference": estimate.value}
                row |= {"low": estimate.low, "high": estimate.high}
                rows.append(row | {"p": 2 * min(estimate.p_greater, 1 - estimate.p_greater)})
    return pd.DataFrame(rows)


def evaluate_at(
    params: Params,
    methods: tuple[Method, ...],
    temperatures: tuple[float, ...],
    say: Callable[[str], None] = say_now,
) -> tuple[pd.DataFrame, dict[str, Record]]:
    """The same trainings, evaluated at several temperatures.

    Returns:
        `summarise`'s rows with a column eval_temperature, and every record behind them, by name.
    """
    tables: list[pd.DataFrame] = []
    records: dict[str, Record] = {}
    for temperature in temperatures:
        result = run_experiment(params.model_copy(update={"eval_temperature": temperature}), methods, say)
        tables.append(summarise(result, methods, table=None).assign(eval_temperature=temperature))
        records |= result.records
    return pd.concat(tables, ignore_index=True), records


def table_caption(params: Params, table: int | None, subject: str | None = None) -> str:
    """What a reader of a table must know of how it was made.

    Args:
        params: What it was made with.
        table: The paper's table that it is made after; None: none, and `subject` says what it is.
        subject: In a few words what is compared; by default what the paper's table compares.
    """
    subject = subject or _SUBJECTS[table or 1]
    if params.suite == "mini-choice":
        subject += "; held-out multiple-choice questions about animals, in place of the paper's ECQA"
    head = f"Table {table}" if table else "Table"
    seeds = f"{len(params.seeds)} training seeds" if len(params.seeds) > 1 else "one training seed"
    problems = "all problems of" if params.eval_problems is None else f"{params.eval_problems} problems"
    over = "problems and seeds" if len(params.seeds) > 1 and table != 4 else "problems"
    return (
        f"{head} at scale {params.scale}, {subject}: {params.max_steps} steps of {params.prompts_per_step} x "
        f"{params.num_generations} rollouts, {seeds}; {problems} a benchmark, "
        f"{params.eval_samples} samples each at temperature {params.eval_temperature:g}, in percent. "
        f"Best in bold, second underlined; 95 % intervals over {over}."
    )
