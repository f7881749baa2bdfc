"""Where the time of a step goes, and how the K likelihoods grow (section 4.2), from the benchmark's tables."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tampo.paper.figures import style
from tampo.paper.overhead import CASES, PARTS


def step_parts(times: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds of each part of a step: a row a case, a column a part, without the first step of each round.

    Args:
        times: From `tampo.paper.overhead.measure_steps`.
    """
    kept = times[(times["step"] > 1) | (times["step"].max() == 1)]
    wide = kept.pivot_table(index="case", columns="part", values="seconds", aggfunc="mean")
    return wide.loc[[case for case in CASES if case in wide.index], [*PARTS, "whole"]]


def overhead_figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """Parts of a step, where steps were measured, and the time of the K likelihoods by tokens and by temperatures.

    Args:
        tables: `tampo.paper.bench.Benchmarks.tables`.
    """
    with style():
        if "steps" in tables:
            figure = plt.figure(figsize=(9.0, 5.6), layout="constrained")
            axes = figure.subplot_mosaic([["steps", "steps"], ["tokens", "temperatures"]])
            _draw_parts(axes["steps"], step_parts(tables["steps"]))
        else:
            figure = plt.figure(figsize=(9.0, 3.0), layout="constrained")
            axes = figure.subplot_mosaic([["tokens", "temperatures"]])
        sums = tables["likelihoods"]
        sums = sums[sums["case"] == "running sums"]
        tokens = sums["tokens"].max()
        k = sums[sums["tokens"] == tokens]["temperatures"].iloc[0]
        by_tokens, by_temperatures = sums[sums["temperatures"] == k], sums[sums["tokens"] == tokens // 4]
        _draw_growth(axes["tokens"], by_tokens, "tokens", f"tokens ({k} temperatures)")
        _draw_growth(axes["temperatures"], by_temperatures, "temperatures", f"temperatures ({tokens // 4} tokens)")
    return figure


def _draw_parts(axes: Axes, parts: pd.DataFrame) -> None:
    parts = parts.iloc[::-1]  # the first case on top
    left = pd.Series(0.0, index=parts.index)
    for part, colour in zip(PARTS, sns.color_palette("colorblind", len(PARTS)), strict=True):
        axes.barh([CASES[str(case)].title for case in parts.index], parts[part], left=left, color=colour, label=part)
        left += parts[part]
    axes.set(xlabel="seconds a step, mean")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=len(PARTS), frameon=False)
    sns.despine(ax=axes)


def _draw_growth(axes: Axes, times: pd.DataFrame, by: str, label: str) -> None:
    """Seconds against `by`, each round a dot, with the line of what would be proportional to it."""
    axes.plot(times[by], times["seconds"], "o", ms=4, alpha=0.6, color=sns.color_palette("colorblind")[0])
    mean = times.groupby(by)["seconds"].mean()
    smallest = mean.index.min()
    axes.plot(mean.index, mean, lw=1, color=sns.color_palette("colorblind")[0], label="measured")
    axes.plot(mean.index, mean.loc[smallest] * mean.index / smallest, "k:", lw=1, label="proportional")
    axes.set(xlabel=label, ylabel="seconds, K likelihoods", ylim=(0, None))
    axes.legend(frameon=False)
    sns.despine(ax=axes)
