"""Regret over regimes: what a rule for the temperature costs against the best fixed temperature of each regime.

A sweep over fixed temperatures finds the best one of a regime; a rule that needs no sweep should lose little against it
in every regime. Each benchmark's problems are split in two: the best fixed temperature, and the best temperature for
the evaluation, are chosen on the first half (validation), and all scores are those of the second half (test). Scores
are averages over benchmarks; differences are paired by training seed and problem, over the seeds that both rows have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tampo.config import Params
from tampo.paper import findings
from tampo.paper.experiments import BASE, REGRET_EVALUATIONS, REGRET_FIXED, Method, regret_jobs, regret_methods
from tampo.paper.figures import MARKERS, PALETTE, style
from tampo.paper.layout import legend_below, set_title
from tampo.paper.results import KS as KS
from tampo.paper.study_tables import with_interval
from tampo.runs.jobs import print_line, run_jobs
from tampo.runs.store import Record, RunStore
from tampo.stats import Estimate, iqm, mean_interval, pass_at_k, probability_of_improvement

_BEST_FIXED = ", the best fixed one"  # end of a title
BEST = "best"  # the evaluation temperature that is chosen on the validation problems

# Pass@k by benchmark, each of shape (seeds, problems), in percent.
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class RegretRuns:
    """The finished runs of the study.

    Attributes:
        methods: The rows; the first is the base model.
        counts: By (regime, evaluation temperature, method's key): the correct samples of each problem by benchmark,
            shape (seeds, problems), in the order of the problems. A row may have the first few seeds only.
        samples: Samples of a problem by evaluation temperature.
        records: All records by name.
        runs: The record of each training run, by (regime, method's key, seed).
    """

    methods: tuple[Method, ...]
    counts: dict[tuple[str, float, str], dict[str, NDArray[np.int64]]]
    samples: dict[float, int]
    records: dict[str, Record]
    runs: dict[tuple[str, str, int], Record]

    @property
    def regimes(self) -> list[str]:
        """Their titles, in order."""
        return list(dict.fromkeys(regime for regime, *_ in self.counts))


def run_regret(params: Params, log: Callable[[str], None] = print_line) -> RegretRuns:
    """Make the missing runs of the study; existing records are reused."""
    jobs = regret_jobs(params)
    made = run_jobs(RunStore.of(params), list(jobs.values()), params.workers, log)
    counts: dict[tuple[str, float, str], dict[str, list[NDArray[np.int64]]]] = {}
    records, runs = {}, {}
    for (regime, temperature, key, seed), (training, evaluation) in zip(jobs, made, strict=True):
        records[evaluation.name] = evaluation
        if training is not None:
            records[training.name] = runs[regime, key, seed] = training
        found = evaluation.samples().groupby(["benchmark", "problem_id"], sort=False)["correct"].sum()
        for benchmark, values in found.groupby("benchmark", sort=False):
            counts.setdefault((regime, temperature, key), {}).setdefault(str(benchmark), []).append(values.to_numpy())
    arrays = {run: {name: np.array(rows) for name, rows in found.items()} for run, found in counts.items()}
    return RegretRuns((BASE, *regret_methods(params)), arrays, REGRET_EVALUATIONS[params.scale], records, runs)


def scores(runs: RegretRuns, regime: str, temperature: float, method: str, k: int, test: bool) -> Scores:
    """Pass@k of one half of the problems: the second half of each benchmark's if `test`, else the first."""
    found = {}
    for benchmark, correct in runs.counts[regime, temperature, method].items():
        middle = correct.shape[1] // 2
        half = correct[:, middle:] if test else correct[:, :middle]
        found[benchmark] = np.asarray(100 * pass_at_k(runs.samples[temperature], half, k))
    return found


def mean(values: Scores) -> float:
    """Over benchmarks, with the same weight."""
    return float(np.mean([array.mean() for array in values.values()]))


def chosen_temperature(runs: RegretRuns, regime: str, method: str, k: int, evaluation: float | str) -> float:
    """The evaluation temperature: as given, or for `BEST` the one with the highest validation score."""
    if not isinstance(evaluation, str):
        return evaluation
    possible = [t for t, samples in runs.samples.items() if samples >= k]
    return max(possible, key=lambda t: mean(scores(runs, regime, t, method, k, test=False)))


def best_fixed(runs: RegretRuns, regime: str, k: int, evaluation: float | str) -> str:
    """The key of the fixed temperature with the highest validation score; the first one on a tie."""
    keys = [method.key for method in runs.methods if method in REGRET_FIXED]

    def validation(key: str) -> float:
        temperature = chosen_temperature(runs, regime, key, k, evaluation)
        return mean(scores(runs, regime, temperature, key, k, test=False))

    return max(keys, key=validation)


def regret(
    runs: RegretRuns, regime: str, method: str, k: int, evaluation: float | str, rival: str | None = None
) -> list[NDArray[np.float64]]:
    """Score of a rival minus that of `method`, of test problems: positive is a loss.

    Args:
        rival: Another row's key; None: the regime's best fixed temperature.

    Returns:
        One array (seeds, problems) per benchmark, in points: the seeds that both have. The base model is the same for
        all seeds of its rival.
    """
    rival = rival or best_fixed(runs, regime, k, evaluation)
    theirs, ours = (
        scores(runs, regime, chosen_temperature(runs, regime, key, k, evaluation), key, k, test=True)
        for key in (rival, method)
    )
    return [_difference(theirs[name], ours[name]) for name in ours]


def _difference(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.float64]:
    seeds = min(len(theirs), len(ours))
    return theirs - ours if seeds == 1 else theirs[:seeds] - ours[:seeds]


def regret_table(runs: RegretRuns, k: int = 1, evaluation: float | str = 1.0) -> pd.DataFrame:
    """Scores and regret of every method in every regime, with the mean and the worst over regimes.

    Args:
        k: Of Pass@k.
        evaluation: The evaluation temperature, or `BEST`.

    Returns:
        One row per method and regime ("mean" and "worst" last): method, title, seeds (of training; 0 for the base
        model), regime, score (test problems), regret, low, high (95 % interval), best (whether it is the regime's best
        fixed temperature on the validation problems), temperature (mean over training).
    """
    rows = []
    rivals = {regime: best_fixed(runs, regime, k, evaluation) for regime in runs.regimes}
    for method in runs.methods:
        estimates: dict[str, Estimate] = {}
        seeds = len({seed for _, key, seed in runs.runs if key == method.key})
        row = {"method": method.key, "title": method.title, "seeds": seeds}
        for regime in runs.regimes:
            chosen = chosen_temperature(runs, regime, method.key, k, evaluation)
            estimates[regime] = estimate = mean_interval(
                regret(runs, regime, method.key, k, evaluation, rivals[regime])
            )
            rows.append(
                row
                | {
                    "regime": regime,
                    "score": mean(scores(runs, regime, chosen, method.key, k, test=True)),
                    **_ends(estimate),
                    "best": rivals[regime] == method.key,
                    "temperature": mean_temperature(runs, regime, method.key),
                }
            )
        for name, summary in (("mean", _mean_of(estimates)), ("worst", max(estimates.values(), key=_value))):
            rows.append(row | {"regime": name, **_ends(summary), "best": False})
    return pd.DataFrame(rows)


def _value(estimate: Estimate) -> float:
    return estimate.value


def _ends(estimate: Estimate) -> dict[str, float]:
    return {"regret": estimate.value, "low": estimate.low, "high": estimate.high}


def _mean_of(estimates: Mapping[str, Estimate]) -> Estimate:
    """The mean over regimes, which are fixed; their errors are independent, since each has its own runs."""
    value = float(np.mean([estimate.value for estimate in estimates.values()]))
    halves = [(estimate.high - estimate.low) / 2 for estimate in estimates.values()]
    half = float(np.sqrt(np.sum(np.square(halves))) / len(halves))
    return Estimate(value, value - half, value + half, float("nan"))


def mean_temperature(runs: RegretRuns, regime: str, method: str) -> float:
    """The mean sampling temperature of a method's training runs; NaN for the base model, which has none."""
    logs = [record.metrics() for (name, key, _), record in runs.runs.items() if (name, key) == (regime, method)]
    return float(np.mean([log["temperature"].mean() for log in logs])) if logs else float("nan")


def one_for_all(table: pd.DataFrame) -> str:
    """What a reader should know first: whether one fixed temperature is best everywhere, and what the safest one costs.

    Args:
        table: From `regret_table`.
    """
    fixed = table[table["method"].isin([method.key for method in REGRET_FIXED])]
    best = fixed[fixed["best"]].set_index("regime")["title"]
    worst = fixed[fixed["regime"] == "worst"].sort_values("regret").iloc[0]
    rules = table[(table["regime"] == "worst") & ~table["method"].isin([BASE.key, *fixed["method"]])]
    safest = rules.sort_values("regret").iloc[0]
    if best.nunique() == 1:
        first = f"One fixed temperature is the best one in every regime: {best.iloc[0]}."
    else:
        first = (
            "No fixed temperature is best everywhere: " + ", ".join(f"{r}: {title}" for r, title in best.items()) + "."
        )
    return (
        f"{first} The fixed temperature with the smallest worst regret is {worst['title']}: {_text(worst)}. "
        f"Among the rules it is {safest['title']}: {_text(safest)}."
    )


def task_scores(runs: RegretRuns, method: str | None, k: int = 1, evaluation: float | str = 1.0) -> NDArray[np.float64]:
    """Test scores of every training seed on every task, a benchmark of a regime: shape (seeds, tasks), in percent.

    `method` None is the best fixed temperature of each regime.
    """
    columns = []
    for regime in runs.regimes:
        key = best_fixed(runs, regime, k, evaluation) if method is None else method
        chosen = chosen_temperature(runs, regime, key, k, evaluation)
        columns += [array.mean(axis=1) for array in scores(runs, regime, chosen, key, k, test=True).values()]
    return np.array(columns).T


def robust_table(runs: RegretRuns, k: int = 1, evaluation: float | str = 1.0) -> pd.DataFrame:
    """Beside means: the interquartile mean over tasks and seeds, and how often a run beats one of the best fixed T.

    Returns:
        One row per method: title, iqm (percent), improvement (`tampo.stats.probability_of_improvement`; 0.5 is even).
    """
    best = task_scores(runs, None, k, evaluation)
    rows = []
    for method in runs.methods:
        ours = task_scores(runs, method.key, k, evaluation)
        row = {"title": method.title, "iqm": iqm(ours), "improvement": probability_of_improvement(ours, best)}
        rows.append(row)
    return pd.DataFrame(rows)


def pass_curves(runs: RegretRuns, regime: str, methods: tuple[str, ...] = ("tampo",)) -> pd.DataFrame:
    """Pass@k of the test problems at T = 1, for k up to the samples: base, best fixed temperature, `methods`.

    Beyond some k a base model often passes what was trained from it: training finds answers in fewer samples, and
    forgets others.

    Returns:
        Columns title, k (powers of 2, and the number of samples), value.
    """
    samples, fixed = runs.samples[1.0], best_fixed(runs, regime, 1, 1.0)
    titles = {method.key: method.title for method in runs.methods} | {BASE.key: BASE.title}
    titles[fixed] += _BEST_FIXED
    ks = sorted({*(2**power for power in range(samples.bit_length()) if 2**power <= samples), samples})
    rows = [
        {"title": titles[key], "k": k, "value": mean(scores(runs, regime, 1.0, key, k, test=True))}
        for key in (BASE.key, fixed, *methods)
        for k in ks
    ]
    return pd.DataFrame(rows)


def pass_figure(table: pd.DataFrame) -> Figure:
    """`pass_curves` of every regime, a panel for each; `table` has them with a column regime."""
    with style():
        by_regime = list(table.groupby("regime", sort=False))
        count = len(by_regime)
        figure, panels = plt.subplots(1, count, figsize=(2.9 * count, 3.4), layout="constrained", squeeze=False)
        for axes, (regime, curves) in zip(panels[0], by_regime, strict=True):
            best = ""
            for number, ((title, curve), marker) in enumerate(
                zip(curves.groupby("title", sort=False), MARKERS, strict=False)
            ):
                label = str(title)
                if label.endswith(_BEST_FIXED):
                    best, label = label.removesuffix(_BEST_FIXED), "the best fixed temperature"
                axes.plot(curve["k"], curve["value"], color=PALETTE[number], marker=marker, ms=4, label=label)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda k, _: f"{k:g}")
            axes.set(xlabel="samples k", ylim=(0, 103))
            axes.set_title(f"{regime}\n(best: {best})", fontsize="medium")
            sns.despine(ax=axes)
        panels[0][0].set_ylabel("Pass@k, %")
        legend_below(figure, panels[0][0].get_legend_handles_labels()[0])
        set_title(figure, findings.pass_curves(table, findings.TAMPO, BASE.title))
    return figure


def heat_map(table: pd.DataFrame) -> Figure:
    """Regret as a picture of the table: a row for each method, a column for each regime, then the mean and the worst.

    Args:
        table: From `regret_table`. A frame marks the best fixed temperature of a regime.
    """
    titles, columns = list(table["title"].unique()), list(table["regime"].unique())
    values = table.pivot(index="title", columns="regime", values="regret").loc[titles, columns]
    best = table.pivot(index="title", columns="regime", values="best").loc[titles, columns]
    with style():
        # At least as high as the label of the colour bar.
        size = (1.6 + 1.15 * len(columns), max(3.6, 1.1 + 0.32 * len(titles)))
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        trained = values.drop(index=BASE.title, errors="ignore")  # the base model is far from all of them
        limit = max(float(np.nanquantile(trained.abs().to_numpy(), 0.95)), 1.0)
        bar = {"label": "points below the best fixed temperature", "extend": "both"}
        sns.heatmap(
            values, annot=True, fmt="z.1f", cmap="vlag", center=0, vmin=-limit, vmax=limit, ax=axes, cbar_kws=bar
        )
        for row, column in zip(*np.nonzero(best.to_numpy(dtype=bool)), strict=True):
            axes.add_patch(
                Rectangle((column, row), 1, 1, fill=False, linewidth=1.5, edgecolor="black", clip_on=False, zorder=5)
            )
        axes.axvline(len(columns) - 2, color="white", linewidth=4)
        fixed = [titles.index(method.title) for method in REGRET_FIXED if method.title in titles]
        for edge in (min(fixed), max(fixed) + 1):
            axes.axhline(edge, color="white", linewidth=4)
        axes.set(xlabel="", ylabel="")
        set_title(figure, findings.regrets(table, [method.key for method in REGRET_FIXED]))
    return figure


def regret_rows(tables: Mapping[str, pd.DataFrame], robust: pd.DataFrame | None = None) -> pd.DataFrame:
    """Training seeds, and mean and worst regret, of every method, by the name of each of `tables` (`regret_table`).

    `robust`: From `robust_table`, two more columns.
    """
    first = next(iter(tables.values()))
    columns = {"training seeds": first.drop_duplicates("title").set_index("title")["seeds"]}
    for name, table in tables.items():
        for summary in ("mean", "worst"):
            chosen = table[table["regime"] == summary].set_index("title")
            columns[f"{name}, {summary}"] = chosen.apply(_text, axis=1)
    if robust is not None:
        by_title = robust.set_index("title")
        columns["IQM of Pass@1"] = by_title["iqm"].map("{:.1f}".format)
        columns["better than the best fixed T"] = by_title["improvement"].map("{:.0%}".format)
    return pd.DataFrame(columns)


_CAPTION = (
    "Points of Pass@k below the best fixed temperature of a regime, which validation problems chose, on test problems: "
    "the mean over the regimes and the worst one, with 95 % intervals over problems and training seeds. A negative "
    "number is a gain. Evaluated at T = 1, or at the evaluation temperature that suits each row on validation "
    "problems. IQM: the interquartile mean of Pass@1 over regimes and seeds, in percent. The last column is the "
    "probability that a run scores more than one of the best fixed temperature; 50 % is even. Manifest: "
    "regret.manifest.json."
)


def regret_markdown(rows: pd.DataFrame) -> str:
    """The table of `regret_rows` in Markdown, with its caption."""
    return f"{_CAPTION}\n\n{rows.to_markdown(disable_numparse=True)}\n"


# Rows of a table of half a page: two fixed temperatures, a schedule, chance, two rules.
BRIEF = ("fixed-0.6", "fixed-1", "linear-down", "random", "learning-signal", "tampo")


def brief_regret(table: pd.DataFrame) -> str:
    """The regret of the rows `BRIEF` in every regime as Markdown, with an interval for the mean and the worst regime.

    Args:
        table: From `regret_table`.
    """
    chosen = table.set_index("method").loc[list(BRIEF)].reset_index()
    summaries = chosen["regime"].isin(["mean", "worst"])
    cells = chosen["regret"].map("{:z.1f}".format).where(~summaries, chosen.apply(_text, axis=1))
    wide = chosen.assign(cell=cells).pivot(index="title", columns="regime", values="cell")
    wide = wide.loc[list(chosen["title"].unique()), list(chosen["regime"].unique())]
    aligned = ["left", *["right"] * wide.shape[1]]
    return wide.rename_axis(index="regret, points").to_markdown(colalign=aligned, disable_numparse=True)


def _text(row: pd.Series) -> str:
    return with_interval(row["regret"], row["low"], row["high"])
