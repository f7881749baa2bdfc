"""Figures of the studies: evaluation temperatures, controllers, sum against mean, and convergence of T*."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from tampo.paper import findings
from tampo.paper.experiments import Method
from tampo.paper.figures import PALETTE, SIGNS, WINDOW, style, training_logs
from tampo.paper.layout import legend_below, set_title
from tampo.paper.results import Result
from tampo.paper.study_tables import average_rows
from tampo.paper.tables import metric_title
from tampo.stats import mean_interval

_COLUMNS = 4  # panels in a row
_SMOOTHED = 9  # steps
_HEADINGS = {"pass@1": "Pass@1, %", "avg@8": "avg@8, %", "pass@8": "Pass@8, %", "reward": "reward in training"}
_EXAMPLES = 6  # single rollouts drawn over the mean weights
_FEWEST = 5  # rollouts needed to draw a median and its quartiles


def evaluation_figure(summary: pd.DataFrame, metrics: tuple[str, ...]) -> Figure:
    """Average scores against the evaluation temperature: a panel for each metric, a line for each method.

    Args:
        summary: From `tampo.paper.results.evaluate_at`; bars are its intervals.
        metrics: Which of its metrics to show.
    """
    titles = list(summary["title"].unique())
    palette, markers = sns.color_palette("colorblind", len(titles)), "osD^vPX*"
    with style():
        figure, panels = plt.subplots(1, len(metrics), figsize=(9.0, 3.6), layout="constrained", squeeze=False)
        for axes, metric in zip(panels[0], metrics, strict=True):
            chosen = average_rows(summary[summary["metric"] == metric])
            for number, title in enumerate(titles):
                row = chosen[chosen["title"] == title]
                # Shifted a little, so that the bars of several methods do not overlap.
                x = row["eval_temperature"] + 0.012 * (number - (len(titles) - 1) / 2)
                bars = (row["value"] - row["low"], row["high"] - row["value"])
                look = {"color": palette[number], "marker": markers[number % len(markers)], "ms": 4, "lw": 1}
                axes.errorbar(x, row["value"], bars, label=title, elinewidth=0.8, **look)
            axes.set(xlabel="evaluation temperature", ylabel=f"average {metric_title(metric)}, %")
            sns.despine(ax=axes)
        legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
        set_title(figure, findings.evaluation(summary, metrics[0]))
    return figure


def sampled_temperatures(result: Result, methods: tuple[Method, ...]) -> pd.DataFrame:
    """The temperature of each step of each training run: columns title, seed, step (from 1), temperature."""
    return training_logs(result, methods)[["title", "seed", "step", "temperature"]]


def training_summary(result: Result, methods: tuple[Method, ...]) -> pd.DataFrame:
    """Reward and temperature of each method, averaged over training.

    The mean reward of all steps is the area under the reward curve, per step. It is higher for a controller that learns
    sooner, and also for one that samples at lower temperatures.

    Returns:
        One row per method: title, metric ("reward"), value, low, high (95 % interval over training seeds), temperature
        (mean of all steps), last_temperature (of the last 25), seeds.
    """
    rows = []
    for title, logs in training_logs(result, methods).groupby("title", sort=False):
        runs = logs.groupby("seed")
        area = mean_interval([runs["reward"].mean().to_numpy()[:, None]])  # one value per seed
        rows.append(
            {
                "title": title,
                "metric": "reward",
                "value": area.value,
                "low": area.low,
                "high": area.high,
                "temperature": runs["temperature"].mean().mean(),
                "last_temperature": runs.tail(WINDOW).groupby("seed")["temperature"].mean().mean(),
                "seeds": len(runs),
            }
        )
    return pd.DataFrame(rows)


def explained_by_temperature(training: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """The share of the differences between controllers that their mean sampling temperature alone explains (R²).

    Args:
        training: From `training_summary`.
        summary: From `tampo.paper.results.summarise`.

    Returns:
        One row per metric, and for the reward in training: metric, line, parabola (R² over controllers of a fit in the
        mean temperature), controllers.
    """
    temperatures = training.set_index("title")["temperature"]
    average = summary[summary["benchmark"] == summary["benchmark"].iloc[0]]
    rows = []
    for metric, values in pd.concat([average, training]).groupby("metric", sort=False):
        scores = values[values["title"].isin(temperatures.index)].set_index("title")["value"].astype(float)
        x, y = temperatures[scores.index].to_numpy(), scores.to_numpy()
        shares = [1 - (y - np.polyval(np.polyfit(x, y, degree), x)).var() / y.var() for degree in (1, 2)]
        rows.append({"metric": metric, "line": shares[0], "parabola": shares[1], "controllers": len(y)})
    return pd.DataFrame(rows)


def best_evaluation(summary: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Each method at the evaluation temperature that suits it best.

    Args:
        summary: From `tampo.paper.results.evaluate_at`.
        metric: One of its metrics, such as "avg@8".

    Returns:
        One row per method, best first: title, eval_temperature, value, low, high. Where several temperatures are tried,
        the best one is chosen for its luck too.
    """
    average = average_rows(summary)
    chosen = average[average["metric"] == metric]
    best = chosen.loc[chosen.groupby("title", sort=False)["value"].idxmax()]
    columns = ["title", "eval_temperature", "value", "low", "high"]
    return best.sort_values("value", ascending=False)[columns].reset_index(drop=True)


def difference_figure(differences: pd.DataFrame, label: str) -> Figure:
    """Paired differences with their intervals, a line for each row.

    Args:
        differences: Columns rival, difference, low, high.
        label: What is measured, with its unit.
    """
    with style():
        size = (6.4, 0.42 * len(differences) + 1.1)
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        y = range(len(differences))
        bars = (differences["difference"] - differences["low"], differences["high"] - differences["difference"])
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.errorbar(differences["difference"], y, xerr=bars, fmt="o", color=PALETTE[0], ms=5, elinewidth=1.2)
        axes.set_yticks(y, differences["rival"])
        axes.set(xlabel=label, ylim=(len(differences) - 0.5, -0.5))
        set_title(figure, findings.differences(differences))
        sns.despine(ax=axes)
    return figure


def temperature_panels(temperatures: pd.DataFrame) -> Figure:
    """Sampled temperatures, a panel for each controller: thin lines are seeds, the thick line is their mean.

    The mean is smoothed over 9 steps where seeds differ.

    Args:
        temperatures: From `sampled_temperatures`.
    """
    titles = list(temperatures["title"].unique())
    rows = -(-len(titles) // _COLUMNS)
    with style():
        size = (9.0, 1.9 * rows + 0.4)
        figure, grid = plt.subplots(rows, _COLUMNS, figsize=size, sharex=True, sharey=True, layout="constrained")
        for axes, title in zip(np.ravel(grid), titles, strict=False):
            drawn = temperatures[temperatures["title"] == title]
            for _, seed in drawn.groupby("seed"):
                axes.plot(seed["step"], seed["temperature"], color="0.6", linewidth=0.4, alpha=0.7)
            by_step = drawn.groupby("step")["temperature"]
            mean = by_step.mean()
            if by_step.nunique().max() > 1:  # schedules are the same for all seeds
                mean = mean.rolling(_SMOOTHED, min_periods=1, center=True).mean()
            axes.plot(mean.index, mean, color=PALETTE[0], linewidth=1.8)
            axes.set_title(title, fontsize="medium")
            sns.despine(ax=axes)
        for axes in np.ravel(grid)[len(titles) :]:
            axes.set_visible(False)
        figure.supxlabel("training step", fontsize="medium")
        figure.supylabel("sampling temperature T", fontsize="medium")
        set_title(figure, findings.mean_temperatures(temperatures))
    return figure


def score_dots(scores: pd.DataFrame, metrics: tuple[str, ...] = ("pass@1", "pass@8", "reward")) -> Figure:
    """Scores with their intervals: a row for each method, a panel for each metric; the dotted line is the best value.

    Args:
        scores: Columns title, metric, value, low, high; the first title is at the top.
        metrics: The panels, from left to right.
    """
    titles = list(scores["title"].unique())
    with style():
        size = (9.0, 0.28 * len(titles) + 1.0)
        figure, panels = plt.subplots(1, len(metrics), figsize=size, sharey=True, layout="constrained")
        for axes, metric in zip(panels, metrics, strict=True):
            chosen = scores[scores["metric"] == metric].set_index("title")
            for y, title in enumerate(titles):
                if title in chosen.index:
                    row = chosen.loc[title]
                    colour, marker = (PALETTE[3], "D") if title == "TAMPO" else (PALETTE[0], "o")
                    axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.2)
                    axes.plot(row["value"], y, ms=4.5, color=colour, marker=marker)
            axes.axvline(chosen["value"].max(), color="0.6", linestyle=":", linewidth=0.8)
            axes.set(xlabel=_HEADINGS[metric])
            axes.grid(axis="y", color="0.93")
            sns.despine(ax=axes)
        panels[0].set_yticks(range(len(titles)), titles)
        panels[0].invert_yaxis()
        set_title(figure, findings.scores(scores, metrics[0]))
    return figure


def comparison_figure(temperatures: pd.DataFrame, rewards: pd.DataFrame, warmup_steps: int) -> Figure:
    """Sampled temperatures and rewards of a few methods beside each other; lines are means over seeds.

    Args:
        temperatures: From `tampo.paper.figures.temperature_curve`, with a column title.
        rewards: From `tampo.paper.figures.reward_curves`.
        warmup_steps: Steps of the warm-up, shaded.
    """
    titles = list(temperatures["title"].unique())
    look: dict[str, Any] = {"x": "step", "hue": "title", "hue_order": titles, "style": "title", "style_order": titles}
    look |= {"palette": PALETTE[: len(titles)], "errorbar": None, "legend": False}
    with style(font_scale=1.0):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
        left.axvspan(0.5, warmup_steps + 0.5, color="0.92", linewidth=0)
        sns.lineplot(temperatures, y="mean", ax=left, **look)
        left.set(xlabel="training step", ylabel=f"sampled T, mean of {WINDOW} steps")
        sns.lineplot(rewards, y="smoothed", ax=right, **look)
        right.set(xlabel="training step", ylabel=f"reward, mean of {WINDOW} steps")
        handles = [
            Line2D([], [], color=PALETTE[i], linestyle=("-", "--", ":", "-.")[i % 4], label=title)
            for i, title in enumerate(titles)
        ]
        handles += [Line2D([], [], color="0.92", linewidth=8, label="warm-up")]
        legend_below(figure, handles, columns=len(handles))
        set_title(figure, findings.training(temperatures, rewards))
        sns.despine(figure)
    return figure


def weight_figure(weights: pd.DataFrame) -> Figure:
    """Sparsemax weights over the candidates: a row each for sum and mean, a column for each length.

    Args:
        weights: From `tampo.paper.optimal_temperature.weight_table`. Bars are means over rollouts, lines are rollouts.
    """
    rows, lengths = list(weights["likelihood"].unique()), list(weights["length"].unique())
    equations = {"sum": "sum, Eq. 8", "mean": "mean, Eq. 6"}
    with style(font_scale=1.0):
        figure, panels = plt.subplots(
            len(rows), len(lengths), figsize=(7.2, 3.9), sharex=True, sharey="row", layout="constrained", squeeze=False
        )
        for axes, (likelihood, length) in zip(panels.flat, ((r, c) for r in rows for c in lengths), strict=True):
            shown = weights[(weights["likelihood"] == likelihood) & (weights["length"] == length)]
            table = shown.pivot(index="temperature", columns="trial", values="weight")  # (K, trials)
            axes.bar(table.index, table.mean(axis=1), width=0.08, color=PALETTE[9], label="mean of all rollouts")
            lines = axes.plot(table.index, table.iloc[:, :_EXAMPLES], color="0.25", linewidth=0.7, alpha=0.8)
            lines[0].set_label("single rollouts")
            axes.set(title=f"{length:,} tokens" if likelihood == rows[0] else "", xticks=table.index[::3])
            sns.despine(ax=axes)
        for axes, likelihood in zip(panels[:, 0], rows, strict=True):
            axes.set_ylabel(f"weight ({equations[likelihood]})")
            axes.set_ylim(0, None)
        for axes in panels[-1]:
            axes.set_xlabel("candidate temperature")
        legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
        set_title(figure, findings.weights(weights))
    return figure


def convergence_figure(summary: pd.DataFrame, information: Mapping[float, float]) -> Figure:
    """T* minus the sampling temperature against length, a panel for each sampling temperature.

    Args:
        summary: From `tampo.paper.optimal_temperature.convergence_summary`. Marks are medians, bars quartiles.
        information: Fisher information per token, by sampling temperature. The band is 1 / sqrt(n I), one standard
            deviation of T* if no rollout is selected by its reward.
    """
    with style(font_scale=1.0):
        figure, panels = plt.subplots(
            1, len(information), figsize=(7.2, 3.3), sharey=True, layout="constrained", squeeze=False
        )
        for axes, (temperature, panel) in zip(panels[0], summary.groupby("sampled_at"), strict=True):
            tokens = np.geomspace(summary["tokens"].min() * 0.9, summary["tokens"].max() * 1.1, 100)
            deviation = 1 / np.sqrt(tokens * information[float(temperature)])  # type: ignore[arg-type]
            axes.fill_between(tokens, -deviation, deviation, color="0.9", linewidth=0, label="± 1 / √(n I)")
            axes.axhline(0, color="0.5", linewidth=0.8)
            for sign, shift in (("A > 0", 0.94), ("A < 0", 1.06)):
                _draw_offsets(axes, panel[(panel["sign"] == sign) & (panel["count"] >= _FEWEST)], sign, shift)
            axes.set(xscale="log", xlabel="tokens", title=f"sampled at T = {temperature:g}")
            axes.xaxis.set_major_formatter(ScalarFormatter())
            sns.despine(ax=axes)
        shown = summary[summary["count"] >= _FEWEST]
        limits = shown["low"].min() - 0.1, shown["high"].max() + 0.2
        panels[0, 0].set(ylabel="T* − T (median, quartiles)", ylim=limits)
        legend: dict[str, Any] = {}  # of all panels, since one may lack an entry
        for axes in panels[0]:
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        legend_below(figure, list(legend.values()))
        set_title(figure, findings.offsets(shown))
    return figure


def _draw_offsets(axes: Axes, summary: pd.DataFrame, sign: str, shift: float) -> None:
    """Medians and quartiles of one sign: filled marks for rollouts, open and joined marks for chains."""
    colour, marker, line = SIGNS[sign]
    for kind, name in (("rollout", "rollouts"), ("chain", "chains of rollouts")):
        part = summary[summary["kind"] == kind].sort_values("tokens")
        if len(part):
            axes.errorbar(
                part["tokens"] * shift,  # so that the bars of both signs do not overlap
                part["median"],
                yerr=(part["median"] - part["low"], part["high"] - part["median"]),
                color=colour,
                marker=marker,
                ms=4,
                mfc=colour if kind == "rollout" else "white",
                linestyle=line if kind == "chain" else "none",
                linewidth=0.9,
                label=f"{sign}, {name}",
            )
