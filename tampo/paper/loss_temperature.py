"""T in the loss, or in sampling only? The same rows trained both ways, and compared.

With `loss_temperature="sampling"`, the logits are divided by T in the loss too, as in the paper and in TRL. With "one",
T is a property of the behaviour policy only: the loss is that of the policy at T = 1, with truncated importance weights
(`tampo.trainer.importance_weights`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tampo.config import Params
from tampo.paper import findings
from tampo.paper.experiments import LOSS_TEMPERATURE_ROWS, Method, loss_jobs
from tampo.paper.figures import MARKERS, PALETTE, style, training_logs
from tampo.paper.layout import legend_below, set_title
from tampo.paper.results import KS, Result, collect, differences, pass_scores, summarise
from tampo.paper.study_tables import average_rows, difference_columns, with_p
from tampo.paper.tables import metric_title
from tampo.runs.jobs import print_line, run_jobs
from tampo.runs.store import RunStore
from tampo.stats import mean_interval

# (loss at the sampling temperature, loss at 1) of each row.
PAIRS = tuple(zip(LOSS_TEMPERATURE_ROWS[::2], LOSS_TEMPERATURE_ROWS[1::2], strict=True))
MEAN, CAPPED = "loss/importance_weight_mean", "loss/importance_weight_capped"  # columns of the log


def run_loss(params: Params, log: Callable[[str], None] = print_line) -> dict[str, Result]:
    """Make the missing runs of the study; existing records are reused.

    Returns:
        The results of each regime, scored by Pass@k from all samples.
    """
    jobs = loss_jobs(params)
    made = run_jobs(RunStore.of(params), list(jobs.values()), params.workers, log)
    by_regime: dict[str, dict] = {}
    for (regime, key, seed), pair in zip(jobs, made, strict=True):
        by_regime.setdefault(regime, {})[key, seed] = pair
    return {regime: collect(pairs, pass_scores) for regime, pairs in by_regime.items()}


def pairs_of(result: Result) -> list[tuple[Method, Method]]:
    """The pairs of rows that a result has."""
    keys = set(result.scores["method"])
    return [pair for pair in PAIRS if {method.key for method in pair} <= keys]


def loss_table(results: Mapping[str, Result]) -> pd.DataFrame:
    """Pass@k of every row with both losses, averaged over benchmarks, in percent, and the paired difference in points.

    Args:
        results: By regime, scored by `tampo.paper.results.pass_scores`.

    Returns:
        Columns regime, title (of the row), metric, sampling and one (by temperature of the loss), difference (one minus
        sampling, paired by seed and problem), low, high (95 % interval over both), p (two-sided, not adjusted).
    """
    rows = []
    for regime, result in results.items():
        for sampling, one in pairs_of(result):
            summary = average_rows(summarise(result, (sampling, one), table=None))
            means = summary.set_index(["method", "metric"])["value"]
            for metric in (f"pass@{k}" for k in KS if f"pass@{k}" in result.scores):
                row = {"regime": regime, "title": sampling.title, "metric": metric}
                row |= {"sampling": means[sampling.key, metric], "one": means[one.key, metric]}
                estimate = mean_interval(differences(result, one.key, sampling.key, metric))
                rows.append(row | difference_columns(estimate))
    return pd.DataFrame(rows)


def weight_summary(results: Mapping[str, Result]) -> pd.DataFrame:
    """Temperatures and importance weights of every row, averaged over steps and seeds.

    Returns:
        Columns regime, title, temperature_sampling and temperature_one (mean sampling temperature, by temperature of
        the loss), weight (mean weight of a token after truncation; loss at 1 only) and capped (share of tokens whose
        weight was truncated).
    """
    rows = []
    for regime, result in results.items():
        for sampling, one in pairs_of(result):
            theirs, ours = (training_logs(result, (method,)) for method in (sampling, one))
            rows.append(
                {
                    "regime": regime,
                    "title": sampling.title,
                    "temperature_sampling": theirs["temperature"].mean(),
                    "temperature_one": ours["temperature"].mean(),
                    "weight": ours[MEAN].mean(),
                    "capped": ours[CAPPED].mean(),
                }
            )
    return pd.DataFrame(rows)


def loss_figure(table: pd.DataFrame) -> Figure:
    """Paired differences with their intervals: a panel for each metric, a line for each row, a colour for each regime.

    Args:
        table: From `loss_table`.
    """
    titles, regimes = list(table["title"].unique()), list(table["regime"].unique())
    metrics = list(table["metric"].unique())
    with style():
        size = (3.0 * max(len(metrics), 2), 0.3 * len(titles) * len(regimes) + 1.4)
        shape: dict[str, Any] = {"figsize": size, "sharex": True, "sharey": True, "squeeze": False}
        figure, panels = plt.subplots(1, len(metrics), layout="constrained", **shape)
        for axes, metric in zip(panels[0], metrics, strict=True):
            axes.axvline(0, color="0.6", linewidth=0.8)
            for number, regime in enumerate(regimes):
                chosen = table[(table["metric"] == metric) & (table["regime"] == regime)].set_index("title")
                rows = [title for title in titles if title in chosen.index]
                shift = 0.3 * (number - (len(regimes) - 1) / 2)  # regimes below each other
                y = [titles.index(title) + shift for title in rows]
                found = chosen.loc[rows]
                bars = (found["difference"] - found["low"], found["high"] - found["difference"])
                look = {"fmt": MARKERS[number % len(MARKERS)], "color": PALETTE[number], "ms": 5, "elinewidth": 1.2}
                axes.errorbar(found["difference"], y, xerr=bars, label=regime, **look)
            axes.set(xlabel=f"{metric_title(metric)}, points", ylim=(len(titles) - 0.5, -0.5))
            sns.despine(ax=axes)
        panels[0, 0].set_yticks(range(len(titles)), titles)
        set_title(figure, findings.loss(table))
        legend_below(figure, panels[0, 0].get_legend_handles_labels()[0], columns=len(regimes))
    return figure


def loss_rows(table: pd.DataFrame) -> pd.DataFrame:
    """`loss_table` for a reader: percent and points with one decimal, the interval and p in one cell."""
    return pd.DataFrame(
        {
            "regime": table["regime"],
            "row": table["title"],
            "metric": table["metric"].map(metric_title),
            "loss at T, %": table["sampling"].map("{:.1f}".format),
            "loss at 1, %": table["one"].map("{:.1f}".format),
            "difference, points": [
                with_p(*row) for row in table[["difference", "low", "high", "p"]].itertuples(index=False)
            ],
        }
    )
