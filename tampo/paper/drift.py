"""A task that changes during training: does TAMPO follow the change, and is that worth more than a schedule?

Further tables of mini-facts are unlocked after each stage of a training run (`tampo.tasks.stages`). Runs at different
temperatures are compared along training by the reward that their rollouts would have had at T = 1: each batch is
reweighted to T = 1 by importance weights, and logs that reward with the share of samples that it is known from
(`tampo.off_policy.reward_at`).
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from tampo.config import ConfigError, Params
from tampo.paper import findings
from tampo.paper.experiments import Method
from tampo.paper.figures import PALETTE, WINDOW, style, training_logs
from tampo.paper.layout import legend_below, set_title
from tampo.paper.results import Result, compare, summarise
from tampo.paper.study_tables import average_rows, difference_columns, over_seeds, value_columns
from tampo.tasks.lookups import TABLE_NAMES, unlocking_stage

REWARD, SHARE = "reward_at/1", "reward_at/1_samples"  # columns of the log
NEAR = 20  # steps that are compared before and after an unlocking
_LINES = ("--", "-.", ":", "-")  # TAMPO is the last row


def stage_ends(stages: int, steps: int) -> list[int]:
    """The last step, from 1, of each stage of a run; the last stage takes the steps that are left."""
    return [steps // stages * number for number in range(1, stages)] + [steps]


def stage_of(step: ArrayLike, ends: Sequence[int]) -> NDArray[np.int64]:
    """The stage, from 1, that each step, from 1, is in."""
    return np.searchsorted(ends, step) + 1


def drift_logs(result: Result, methods: tuple[Method, ...], params: Params) -> pd.DataFrame:
    """The training logs with the stage of each step.

    Returns:
        Columns title, seed, step (from 1), stage (from 1), temperature, reward (at T = 1), share (of effective samples;
        0 where no reward is known).

    Raises:
        ConfigError: The log has no reward at T = 1, because 1 is not among the candidate temperatures.
    """
    logs = training_logs(result, methods)
    if REWARD not in logs:
        raise ConfigError("This study reads the reward at T = 1: temperature_candidates must contain 1.")
    return logs[["title", "seed", "step"]].assign(
        stage=stage_of(logs["step"], stage_ends(params.training_stages, params.max_steps)),
        temperature=logs["temperature"],
        reward=logs[REWARD].fillna(0.0),
        share=logs[SHARE].where(logs[REWARD].notna(), 0.0),
    )


def drift_curves(logs: pd.DataFrame, window: int = WINDOW) -> pd.DataFrame:
    """Temperature and reward at T = 1 of each run, smoothed over a centred window that ends where its stage does.

    The reward of a step weighs as much as the share of its samples that are effective. A temperature that is the same
    for all of several seeds, as a schedule's is, is not smoothed.

    Args:
        logs: From `drift_logs`.
        window: Steps; at the ends of a stage there are fewer.

    Returns:
        Columns title, seed, step, stage, temperature, reward.
    """
    seeds, by_step = logs["seed"].nunique(), logs.groupby(["title", "step"])["temperature"]
    most = by_step.nunique().groupby("title").max()
    scheduled = set(most.index[most == 1]) if seeds > 1 else set()
    curves = []
    for (title, _, _), part in logs.groupby(["title", "seed", "stage"], sort=False):
        weighted = part.assign(weighted=part["reward"] * part["share"])[["temperature", "weighted", "share"]]
        means = weighted.rolling(window, min_periods=1, center=True).mean()
        reward = means["weighted"] / means["share"].where(means["share"] > 0)
        known = part[["title", "seed", "step", "stage"]]
        temperature = part["temperature"] if title in scheduled else means["temperature"]
        curves.append(known.assign(temperature=temperature, reward=reward))
    return pd.concat(curves, ignore_index=True)


def drift_figure(curves: pd.DataFrame, stages: int) -> Figure:
    """Sampling temperature and reward at T = 1 along training; lines are broken where tables are unlocked.

    Lines are means over seeds; with several seeds, bands are one standard error.

    Args:
        curves: From `drift_curves`.
        stages: Stages of a run.
    """
    titles = list(curves["title"].unique())
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
        for axes, column in zip(panels, ("temperature", "reward"), strict=True):
            for number, title in enumerate(titles):
                _draw_stages(axes, curves[curves["title"] == title], column, number)
            _mark_stages(axes, curves, stages)
            axes.set_xlabel("training step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            sns.despine(ax=axes)
        panels[0].set_ylabel("sampling temperature T")
        panels[1].set_ylabel("reward at T = 1")
        legend_below(figure, panels[0].get_legend_handles_labels()[0], columns=len(titles))
        set_title(figure, findings.drift(curves))
    return figure


def _draw_stages(axes: Axes, curves: pd.DataFrame, column: str, number: int) -> None:
    """The line of one method, in a piece for each stage."""
    colour, line = PALETTE[number], _LINES[number % len(_LINES)]
    label = str(curves["title"].iloc[0])
    for _, part in curves.groupby("stage"):
        by_step = part.groupby("step")[column]
        mean, error = by_step.mean(), by_step.sem()  # one seed has no error, and so no band
        marker = "o" if len(mean) == 1 else None  # a line of one point would not show
        axes.plot(mean.index, mean, line, color=colour, marker=marker, ms=4, label=label)
        axes.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
        label = "_"  # one entry in the legend


def _mark_stages(axes: Axes, curves: pd.DataFrame, stages: int) -> None:
    """A vertical line where tables are unlocked, and above each stage the number of tables that it asks about."""
    for stage in curves["stage"].unique():
        steps = curves.loc[curves["stage"] == stage, "step"]
        if steps.min() > 1:
            axes.axvline(steps.min() - 0.5, color="0.6", linewidth=0.8, linestyle=":")
        tables = sum(unlocking_stage({"tables": [name]}, stages) < stage for name in TABLE_NAMES)
        middle = (steps.min() + steps.max()) / 2
        axes.text(
            middle,
            1.01,
            f"{tables} table{'s' if tables > 1 else ''}",
            transform=axes.get_xaxis_transform(),  # steps, and a share of the height
            ha="center",
            va="bottom",
            color="0.35",
            fontsize="small",
        )


def late_rewards(logs: pd.DataFrame) -> pd.DataFrame:
    """Reward at T = 1 over the last third of each stage, the mean of its steps weighted by their effective samples.

    Args:
        logs: From `drift_logs`.

    Returns:
        One row per (title, seed), a column for each stage.
    """
    by_stage = logs.groupby("stage")["step"]
    first, last = by_stage.transform("min"), by_stage.transform("max")
    late = logs[logs["step"] > last - np.maximum((last - first + 1) // 3, 1)]
    sums = late.assign(weighted=late["reward"] * late["share"]).groupby(["title", "seed", "stage"], sort=False)
    sums = sums[["weighted", "share"]].sum()
    return (sums["weighted"] / sums["share"].where(sums["share"] > 0)).unstack("stage")


def drift_scores(result: Result, methods: tuple[Method, ...], logs: pd.DataFrame) -> pd.DataFrame:
    """Pass@k at the end of training, in percent, and the reward at T = 1 late in each stage.

    Args:
        result: Scored by `tampo.paper.results.pass_scores`.
        methods: The rows.
        logs: From `drift_logs`.

    Returns:
        Columns title, metric ("pass@1" and so on, "reward, stage 1" and so on), value, low, high: 95 % intervals over
        problems and seeds, of rewards over seeds.
    """
    scores = average_rows(summarise(result, methods, table=None))[["title", "metric", "value", "low", "high"]]
    rewards = [
        {"title": title, "metric": f"reward, stage {stage}"} | value_columns(over_seeds(values))
        for stage, column in late_rewards(logs).items()
        for title, values in column.groupby("title", sort=False)
    ]
    return pd.concat([scores, pd.DataFrame(rewards)], ignore_index=True)


def drift_differences(result: Result, methods: tuple[Method, ...], logs: pd.DataFrame) -> pd.DataFrame:
    """The metrics of `drift_scores` of TAMPO minus those of every other method, paired by seed and problem.

    Returns:
        Columns rival, metric, difference, low, high, p (two-sided, not adjusted).
    """
    rewards = {method.key: late_rewards(logs[logs["title"] == method.title]).droplevel("title") for method in methods}
    rows = [
        {"rival": method.title, "metric": f"reward, stage {stage}"}
        | difference_columns(over_seeds(rewards["tampo"][stage] - rewards[method.key][stage]))  # aligned by seed
        for stage in rewards["tampo"]
        for method in methods
        if method.key != "tampo"
    ]
    return pd.concat([compare(result, "tampo", methods), pd.DataFrame(rows)], ignore_index=True)


def temperature_rise(logs: pd.DataFrame, near: int = NEAR) -> pd.DataFrame:
    """How far the sampling temperature is above its level before an unlocking: soon after it, and later.

    Args:
        logs: From `drift_logs`, of one method.
        near: Steps of a period; one that would reach beyond its stage is shorter.

    Returns:
        One row per unlocking and period: step (the first one with the new tables), period, before and after (mean
        temperatures), difference, low, high (95 % interval over seeds), p. NaN where a stage has no such steps.
    """
    rows: list[dict[str, object]] = []
    for stage in sorted(logs["stage"].unique())[1:]:
        first = logs.loc[logs["stage"] == stage, "step"].min()
        since = logs["step"] - first
        before = _level(logs[(logs["stage"] == stage - 1) & (since >= -near)])
        for start in (0, near):
            after = _level(logs[(logs["stage"] == stage) & (since >= start) & (since < start + near)])
            after = after.reindex(before.index)
            row: dict[str, object] = {"step": first, "period": f"steps {start + 1} to {start + near}"}
            row |= {"before": before.mean(), "after": after.mean(skipna=False)}
            rows.append(row | difference_columns(over_seeds(after - before)))
    return pd.DataFrame(rows)


def _level(logs: pd.DataFrame) -> pd.Series:
    """The mean temperature of each seed."""
    return logs.groupby("seed")["temperature"].mean()
