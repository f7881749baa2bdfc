"""Figures from stored runs: the numbers first, as tables that are written beside each figure, then the drawing.

Drawn for a column of two-column paper: vector PDF and PNG, units at the axes, colours that colour-blind readers can
tell apart, legends that cover no data.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tampo.experiments import Method, Result
from tampo.files import atomic_path, write_text

WINDOW = 25  # steps, as in Figure 3 of the paper


def temperature_curve(result: Result, method: str = "tampo", window: int = WINDOW) -> pd.DataFrame:
    """Sampled temperatures of one method, with mean and standard deviation over a sliding window of steps.

    Returns:
        Columns seed, step (from 1), temperature, mean, std; the window is shorter at the beginning.

    Raises:
        ValueError: The result has no training of that method.
    """
    curves = []
    for (key, seed), record in result.trainings.items():
        if key == method:
            metrics = record.metrics()
            rolling = metrics["temperature"].rolling(window, min_periods=1)
            curve = {"seed": seed, "step": metrics["step"], "temperature": metrics["temperature"]}
            curves.append(pd.DataFrame(curve | {"mean": rolling.mean(), "std": rolling.std(ddof=0)}))
    if not curves:
        raise ValueError(f"No training of method {method!r} among {sorted({key for key, _ in result.trainings})}.")
    return pd.concat(curves, ignore_index=True)


def reward_curves(result: Result, methods: tuple[Method, ...], window: int = WINDOW) -> pd.DataFrame:
    """Mean reward of each step of each trained method, averaged over seeds, then over a sliding window of steps.

    Returns:
        Columns title, step (from 1), reward (one step's), smoothed.
    """
    curves = []
    for method in methods:
        runs = [
            record.metrics()[["step", "reward"]] for (key, _), record in result.trainings.items() if key == method.key
        ]
        if runs:
            mean = pd.concat(runs).groupby("step", as_index=False)["reward"].mean()
            smoothed = mean["reward"].rolling(window, min_periods=1).mean()
            curves.append(mean.assign(title=method.title, smoothed=smoothed))
    return pd.concat(curves, ignore_index=True)[["title", "step", "reward", "smoothed"]]


def figure3(temperatures: pd.DataFrame, rewards: pd.DataFrame, warmup_steps: int) -> Figure:
    """Figure 3: (a) temperatures drawn from the meta-policy, (b) reward curves of all schemes.

    Args:
        temperatures: From `temperature_curve`; the first seed's draws are shown.
        rewards: From `reward_curves`.
        warmup_steps: Steps of the warm-up, shaded in (a).
    """
    with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=1.1):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
        one = temperatures[temperatures["seed"] == temperatures["seed"].iloc[0]]
        colour = sns.color_palette("colorblind")[0]
        left.axvspan(0.5, warmup_steps + 0.5, color="0.92", label="warm-up")
        left.scatter(one["step"], one["temperature"], s=7, color="0.55", label="drawn at a step", linewidths=0)
        left.plot(one["step"], one["mean"], color=colour, label=f"mean of {WINDOW} steps")
        band = (one["mean"] - one["std"], one["mean"] + one["std"])
        left.fill_between(one["step"], *band, color=colour, alpha=0.25, linewidth=0, label="± standard deviation")
        left.set(xlabel="training step", ylabel="sampling temperature T", title="(a) Temperatures from the meta-policy")
        titles = list(rewards["title"].unique())
        sns.lineplot(
            rewards,
            x="step",
            y="smoothed",
            hue="title",
            hue_order=titles,
            style="title",
            style_order=titles,
            palette=sns.color_palette("colorblind", len(titles)),
            ax=right,
        )
        right.set(xlabel="training step", ylabel=f"reward, mean of {WINDOW} steps", title="(b) Rewards in training")
        for axes, columns in ((left, 2), (right, 2)):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, frameon=False, title=None)
            sns.despine(ax=axes)
    return figure


def write_figure(figure: Figure, data: dict[str, pd.DataFrame], folder: Path, name: str) -> list[Path]:
    """Write `name`.pdf, `name`.png and for each table of `data` `name`.<key>.csv into `folder`, each atomically.

    Returns:
        The paths written.
    """
    paths = []
    for ending, settings in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 200})):
        paths.append(folder / f"{name}.{ending}")
        with atomic_path(paths[-1]) as temporary:
            figure.savefig(temporary, **settings)  # type: ignore[arg-type]
    for key, table in data.items():
        paths.append(folder / f"{name}.{key}.csv")
        write_text(paths[-1], table.to_csv(index=False, float_format="%.6g"))
    return paths
