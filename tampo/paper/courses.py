"""The course of TAMPO's temperature in different regimes, beside the rewards of Table 1's rows: README's figure."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tampo.config import Params
from tampo.paper import findings
from tampo.paper.experiments import TRAINED, regime_params
from tampo.paper.figures import PALETTE, WINDOW, reward_curves, style, temperature_curve
from tampo.paper.layout import legend_below, set_title
from tampo.paper.regret import RegretRuns
from tampo.paper.results import Result

SHOWN = ("facts", "arithmetic")
_LINES = ("--", "-.", ":", (0, (4, 1, 1, 1, 1, 1)), "-")  # TAMPO is the last row


def course_tables(
    params: Params, runs: RegretRuns, regimes: Sequence[str] = SHOWN
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """TAMPO's temperatures and the rewards of Table 1's rows in each regime.

    Returns:
        `temperature_curve` with a column warmup (whether the step is of the warm-up), and `reward_curves`, by regime.
        Rows without a training run are left out.
    """
    configs = regime_params(params)
    temperatures, rewards = {}, {}
    for regime in regimes:
        chosen = {(key, seed): record for (name, key, seed), record in runs.runs.items() if name == regime}
        result = Result(pd.DataFrame(), {}, chosen)
        warmup = round(configs[regime].meta_warmup_ratio * configs[regime].max_steps)
        curve = temperature_curve(result, warmup)
        temperatures[regime] = curve.assign(warmup=curve["step"] <= warmup)
        there = {key for key, _ in chosen}
        rewards[regime] = reward_curves(result, tuple(method for method in TRAINED if method.key in there))
    return temperatures, rewards


def courses_figure(temperatures: Mapping[str, pd.DataFrame], rewards: Mapping[str, pd.DataFrame]) -> Figure:
    """A column for each regime: above the temperatures that TAMPO drew, below the rewards of all rows at T = 1.

    Args:
        temperatures, rewards: From `course_tables`. Thin lines are seeds, thick ones their mean.
    """
    with style():
        figure, grid = plt.subplots(
            2, len(temperatures), figsize=(9.0, 5.2), sharex="col", sharey="row", squeeze=False, layout="constrained"
        )
        for number, regime in enumerate(temperatures):
            top, bottom = grid[:, number]
            _draw_course(top, temperatures[regime])
            top.set_title(regime)
            _draw_rewards(bottom, rewards[regime])
            bottom.set_xlabel("training step")
        grid[0, 0].set_ylabel("sampling temperature T")
        grid[1, 0].set_ylabel(f"reward at T = 1,\nmean of {WINDOW} steps")
        handles = [handle for axes in grid[:, 0] for handle in axes.get_legend_handles_labels()[0]]
        legend_below(figure, handles, columns=4)
        set_title(figure, findings.courses(temperatures, rewards, WINDOW))
        sns.despine(figure)
    return figure


def _draw_course(axes: Axes, curve: pd.DataFrame) -> None:
    warm = curve.loc[curve["warmup"], "step"]
    if len(warm):
        axes.axvspan(0.5, warm.max() + 0.5, color="0.92", linewidth=0, label="warm-up")
    label: str | None = "TAMPO's T, each seed"
    for _, part in curve.groupby(["seed", "warmup"]):
        axes.plot(part["step"], part["mean"], color=PALETTE[4], linewidth=0.8, alpha=0.5, label=label)
        label = None
    mean = curve.groupby(["warmup", "step"])["mean"].mean()
    for warmup, label in ((False, "mean over seeds"), (True, None)):
        if warmup in mean.index:
            axes.plot(mean[warmup].index, mean[warmup], color=PALETTE[4], linewidth=2, label=label)


def _draw_rewards(axes: Axes, curves: pd.DataFrame) -> None:
    titles = list(curves["title"].unique())
    for number, title in enumerate(titles):
        mean = curves[curves["title"] == title].groupby("step")["smoothed_at_1"].mean()
        last = number == len(titles) - 1
        colour, line = (PALETTE[4], "-") if last else (PALETTE[number], _LINES[number % (len(_LINES) - 1)])
        axes.plot(mean.index, mean, color=colour, linestyle=line, linewidth=2 if last else 1.3, label=title)
