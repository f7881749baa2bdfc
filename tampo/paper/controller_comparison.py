"""All rules that set the temperature beside each other: what they drew, and what it brought in training."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tampo.paper.experiments import Method, Result
from tampo.paper.figures import WINDOW, style
from tampo.stats import mean_interval

_COLUMNS = 4
_SMOOTHED = 9  # steps
_HEADINGS = {"pass@1": "Pass@1, %", "avg@8": "avg@8, %", "pass@8": "Pass@8, %", "reward": "reward in training"}


def sampled_temperatures(result: Result, methods: tuple[Method, ...]) -> pd.DataFrame:
    """The temperature of each step of each training.

    Returns:
        Columns title, seed, step (from 1), temperature; methods in the given order, an untrained one has no row.
    """
    curves = [
        record.metrics()[["step", "temperature"]].assign(title=method.title, seed=seed)
        for method in methods
        for (key, seed), record in sorted(result.trainings.items())
        if key == method.key
    ]
    return pd.concat(curves, ignore_index=True)[["title", "seed", "step", "temperature"]]


def training_summary(result: Result, methods: tuple[Method, ...]) -> pd.DataFrame:
    """What each rule brought while it trained.

    The area under the reward curve is given a step, as the mean reward of all steps: a rule that learns sooner has
    more of it, and so has one that samples colder.

    Returns:
        One row a method: title, metric ("reward"), value, low, high (95 % interval over training seeds), temperature
        (mean of all steps), last_temperature (of the last 25), seeds.
    """
    rows = []
    for method in methods:
        logs = [record.metrics() for (key, _), record in sorted(result.trainings.items()) if key == method.key]
        if logs:
            # One value a seed: a benchmark of one problem.
            area = mean_interval([[[log["reward"].mean()] for log in logs]])
            rows.append(
                {
                    "title": method.title,
                    "metric": "reward",
                    "value": area.value,
                    "low": area.low,
                    "high": area.high,
                    "temperature": sum(log["temperature"].mean() for log in logs) / len(logs),
                    "last_temperature": sum(log["temperature"].tail(WINDOW).mean() for log in logs) / len(logs),
                    "seeds": len(logs),
                }
            )
    return pd.DataFrame(rows)


def temperature_panels(temperatures: pd.DataFrame) -> Figure:
    """What each rule drew, a panel a rule: thin lines are seeds, thick ones their mean, of 9 steps where they differ.

    Args:
        temperatures: From `sampled_temperatures`.
    """
    titles = list(temperatures["title"].unique())
    rows = -(-len(titles) // _COLUMNS)
    colour = sns.color_palette("colorblind")[0]
    with style():
        size = (9.0, 1.9 * rows + 0.4)
        figure, grid = plt.subplots(rows, _COLUMNS, figsize=size, sharex=True, sharey=True, layout="constrained")
        for axes, title in zip(np.ravel(grid), titles, strict=False):
            own = temperatures[temperatures["title"] == title]
            for _, seed in own.groupby("seed"):
                axes.plot(seed["step"], seed["temperature"], color="0.6", linewidth=0.4, alpha=0.7)
            by_step = own.groupby("step")["temperature"]
            mean = by_step.mean()
            if by_step.nunique().max() > 1:  # a schedule is shown as it is
                mean = mean.rolling(_SMOOTHED, min_periods=1, center=True).mean()
            axes.plot(mean.index, mean, color=colour, linewidth=1.8)
            axes.set_title(title, fontsize="medium")
            sns.despine(ax=axes)
        for axes in np.ravel(grid)[len(titles) :]:
            axes.set_visible(False)
        figure.supxlabel("training step", fontsize="medium")
        figure.supylabel("sampling temperature T", fontsize="medium")
    return figure


def score_dots(scores: pd.DataFrame, metrics: tuple[str, ...] = ("pass@1", "pass@8", "reward")) -> Figure:
    """Scores with their intervals, a row a rule, a panel a metric; the dotted line is the best value.

    Args:
        scores: Columns title, metric, value, low, high; the first title is at the top.
        metrics: Which, from left to right.
    """
    titles = list(scores["title"].unique())
    colour, own_colour = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]
    with style():
        figure, panels = plt.subplots(
            1, len(metrics), figsize=(9.0, 0.28 * len(titles) + 1.0), sharey=True, layout="constrained"
        )
        for axes, metric in zip(panels, metrics, strict=True):
            chosen = scores[scores["metric"] == metric].set_index("title")
            for place, title in enumerate(titles):
                if title in chosen.index:
                    row = chosen.loc[title]
                    look = (
                        {"color": own_colour, "marker": "D"} if title == "TAMPO" else {"color": colour, "marker": "o"}
                    )
                    axes.plot([row["low"], row["high"]], [place, place], color=look["color"], linewidth=1.2)
                    axes.plot(row["value"], place, ms=4.5, **look)
            axes.axvline(chosen["value"].max(), color="0.6", linestyle=":", linewidth=0.8)
            axes.set(xlabel=_HEADINGS[metric])
            axes.grid(axis="y", color="0.93")
            sns.despine(ax=axes)
        panels[0].set_yticks(range(len(titles)), titles)
        panels[0].invert_yaxis()
    return figure
