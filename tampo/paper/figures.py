"""Figures from stored runs: the numbers first, as tables that are written beside each figure, then the drawing.

Drawn for a column of two-column paper: vector PDF and PNG, units at the axes, colours that colour-blind readers can
tell apart, legends that cover no data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tampo.files import atomic_path, write_text
from tampo.paper.experiments import Method, Result

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
    """Mean reward of each step of each training, and its mean over a sliding window of steps.

    Returns:
        Columns title, seed, step (from 1), reward (one step's), smoothed.
    """
    curves = []
    for method in methods:
        for (key, seed), record in result.trainings.items():
            if key == method.key:
                curve = record.metrics()[["step", "reward"]]
                smoothed = curve["reward"].rolling(window, min_periods=1).mean()
                curves.append(curve.assign(title=method.title, seed=seed, smoothed=smoothed))
    return pd.concat(curves, ignore_index=True)[["title", "seed", "step", "reward", "smoothed"]]


def optimal_temperature_curves(result: Result, methods: tuple[Method, ...], window: int = 5) -> pd.DataFrame:
    """How T* (Eq. 7) is distributed over rollouts of positive and of negative advantage, along training.

    All rollouts of `window` successive steps and of all seeds are taken together; the mean and the variance are theirs,
    put together from what each step logged.

    Returns:
        Columns title, temperature (sampled at, mean of the steps), advantage ("A > 0" or "A < 0"), step (the last of
        the window), mean, variance, rollouts. A window without rollouts of a sign has no row for it.
    """
    rows = []
    for method in methods:
        runs = [record.metrics() for (key, _), record in result.trainings.items() if key == method.key]
        if not runs:
            continue
        log = pd.concat(runs)
        for number, steps in log.groupby((log["step"] - 1) // window):
            for advantage, sign in (("A > 0", "positive"), ("A < 0", "negative")):
                pooled = _pooled(
                    *(steps.get(f"optimal_temperature/{sign}_{name}") for name in ("mean", "std", "count"))
                )
                if pooled is not None:
                    step = min((int(number) + 1) * window, int(log["step"].max()))  # type: ignore[call-overload]
                    own = {"title": method.title, "temperature": steps["temperature"].mean(), "advantage": advantage}
                    rows.append(own | {"step": step} | pooled)
    return pd.DataFrame(rows)


def _pooled(mean: pd.Series | None, std: pd.Series | None, count: pd.Series | None) -> dict[str, float] | None:
    """Mean, variance and number of all values, from those of several batches (missing where a batch had none)."""
    if mean is None or std is None or count is None or not count.sum() > 0:
        return None
    count, total = count.fillna(0), float(count.sum())
    centre = float((count * mean.fillna(0)).sum() / total)
    variance = float((count * (std.fillna(0) ** 2 + (mean.fillna(0) - centre) ** 2)).sum() / total)
    return {"mean": centre, "variance": variance, "rollouts": total}


def figure3(temperatures: pd.DataFrame, rewards: pd.DataFrame, warmup_steps: int) -> Figure:
    """Figure 3: (a) temperatures drawn from the meta-policy, (b) reward curves of all schemes.

    Args:
        temperatures: From `temperature_curve`; draws and spread are the first seed's, of others the means are shown.
        rewards: From `reward_curves`.
        warmup_steps: Steps of the warm-up, shaded in (a).
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
        _draw_temperatures(left, temperatures, warmup_steps)
        left.set_title("(a) Temperatures from the meta-policy")
        _draw_rewards(right, rewards)
        right.set_title("(b) Rewards in training")
    return figure


def reward_figure(rewards: pd.DataFrame) -> Figure:
    """Figures 5 and 6: the reward curves of several trainings.

    Args:
        rewards: From `reward_curves`.
    """
    with style():
        figure, axes = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
        _draw_rewards(axes, rewards)
    return figure


def figure4(curves: pd.DataFrame) -> Figure:
    """Figure 4: T* of good and of bad rollouts along training, a panel for each fixed sampling temperature.

    Args:
        curves: From `optimal_temperature_curves`. Lines are means, bands one standard deviation.
    """
    palette = sns.color_palette("colorblind")
    looks = {"A > 0": (palette[2], "-", "o"), "A < 0": (palette[3], "--", "s")}
    titles = list(curves["title"].unique())
    with style():
        figure, panels = plt.subplots(1, len(titles), figsize=(9.0, 3.2), sharey=True, layout="constrained")
        for axes, title in zip(np.atleast_1d(panels), titles, strict=True):
            own = curves[curves["title"] == title]
            for advantage, (colour, line, marker) in looks.items():
                part, spread = own[own["advantage"] == advantage], own[own["advantage"] == advantage]["variance"] ** 0.5
                axes.plot(part["step"], part["mean"], line, marker=marker, ms=3, color=colour, label=f"T*, {advantage}")
                band = (part["mean"] - spread, part["mean"] + spread)
                axes.fill_between(part["step"], *band, color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                own["step"].unique(), own.groupby("step")["temperature"].mean(), color=palette[0], label="T in force"
            )
            axes.set(xlabel="training step", title=title)
            sns.despine(ax=axes)
        np.atleast_1d(panels)[0].set_ylabel("likelihood-optimal T*")
        handles, labels = np.atleast_1d(panels)[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def evaluation_figure(summary: pd.DataFrame, metrics: tuple[str, ...]) -> Figure:
    """Average scores against the temperature of the evaluation, a panel for each metric, a line for each method.

    Args:
        summary: From `tampo.paper.experiments.evaluate_at`. Bars are its intervals.
        metrics: Its metrics to show.
    """
    titles = list(summary["title"].unique())
    palette, markers = sns.color_palette("colorblind", len(titles)), "osD^vPX*"
    with style():
        figure, panels = plt.subplots(1, len(metrics), figsize=(9.0, 3.6), layout="constrained")
        for axes, metric in zip(np.atleast_1d(panels), metrics, strict=True):
            chosen = summary[summary["metric"] == metric]
            average = chosen["benchmark"] == "Average"
            chosen = chosen[average] if average.any() else chosen
            for number, title in enumerate(titles):
                own = chosen[chosen["title"] == title]
                # Moved aside a little, so that bars of several methods can be told apart.
                place = own["eval_temperature"] + 0.012 * (number - (len(titles) - 1) / 2)
                bars = (own["value"] - own["low"], own["high"] - own["value"])
                look = {"color": palette[number], "marker": markers[number % len(markers)], "ms": 4, "lw": 1}
                axes.errorbar(place, own["value"], bars, label=title, elinewidth=0.8, **look)
            axes.set(xlabel="temperature of the evaluation", ylabel=f"average {metric.replace('pass', 'Pass')}, %")
            sns.despine(ax=axes)
        handles, labels = np.atleast_1d(panels)[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


@contextmanager
def style(font_scale: float = 1.1) -> Iterator[None]:
    """The look of all figures."""
    with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=font_scale):
        yield


def _draw_temperatures(axes: Axes, temperatures: pd.DataFrame, warmup_steps: int) -> None:
    seeds = list(temperatures["seed"].unique())
    one = temperatures[temperatures["seed"] == seeds[0]]
    colour = sns.color_palette("colorblind")[0]
    axes.axvspan(0.5, warmup_steps + 0.5, color="0.92", label="warm-up")
    axes.scatter(one["step"], one["temperature"], s=7, color="0.55", label="drawn at a step", linewidths=0)
    for seed in seeds[1:]:
        other = temperatures[temperatures["seed"] == seed]
        label = f"means, {len(seeds) - 1} other seeds" if seed == seeds[1] else None
        axes.plot(other["step"], other["mean"], color=colour, linewidth=0.7, alpha=0.5, label=label)
    axes.plot(one["step"], one["mean"], color=colour, label=f"mean of {WINDOW} steps")
    band = (one["mean"] - one["std"], one["mean"] + one["std"])
    axes.fill_between(one["step"], *band, color=colour, alpha=0.25, linewidth=0, label="± standard deviation")
    axes.set(xlabel="training step", ylabel="sampling temperature T")
    _legend_below(axes)


def _draw_rewards(axes: Axes, rewards: pd.DataFrame) -> None:
    """Lines are means over seeds; bands, where there are several seeds, one standard error."""
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
        errorbar="se" if rewards["seed"].nunique() > 1 else None,
        err_kws={"alpha": 0.15, "linewidth": 0},
        ax=axes,
    )
    axes.set(xlabel="training step", ylabel=f"reward, mean of {WINDOW} steps")
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, title=None)
    sns.despine(ax=axes)


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
