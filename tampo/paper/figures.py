"""Figures 2 to 6, and the tables that they are drawn from, which are written beside them.

Figures are vector PDF and PNG, with units at the axes, colours for colour-blind readers, and legends beside the data.
Their titles say what the data show (`tampo.paper.findings`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from pandas.api.typing import Rolling

from tampo.files import atomic_path
from tampo.paper import findings
from tampo.paper.experiments import Method
from tampo.paper.layout import legend_below, set_title
from tampo.paper.outputs import DPI, manifest_name
from tampo.paper.results import Result
from tampo.paper.tables import write_texts

WINDOW = 25  # steps, as in Figure 3 of the paper
# Rewards at T = 1 are estimates by importance weights. Windows with a smaller mean share of effective samples are left
# out: there a few rollouts have nearly all the weight, and the estimate is noise.
FEWEST_SAMPLES = 0.1
PALETTE = sns.color_palette("colorblind")
MARKERS = "os^D"
# Colour, marker and line style of each sign of the advantage.
SIGNS = {"A > 0": (PALETTE[2], "o", "-"), "A < 0": (PALETTE[3], "s", "--")}
_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (3, 1.25, 1.5, 1.25)), (0, (5, 1, 1, 1)))
_RIGHT, _WRONG = (PALETTE[0], "-"), (PALETTE[1], "--")


@contextmanager
def style(font_scale: float = 1.1) -> Iterator[None]:
    """The style of all figures."""
    with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=font_scale):
        yield


def training_logs(result: Result, methods: tuple[Method, ...]) -> pd.DataFrame:
    """The logs of all training runs of `methods`, sorted by seed, with the columns title and seed."""
    logs = [
        # A copy first: pandas warns about columns that are added to a log of more than a hundred.
        record.metrics().copy().assign(title=method.title, seed=seed)
        for method in methods
        for (key, seed), record in sorted(result.runs.items(), key=lambda run: run[0])
        if key == method.key
    ]
    return pd.concat(logs, ignore_index=True)


def temperature_curve(result: Result, warmup_steps: int, method: str = "tampo", window: int = WINDOW) -> pd.DataFrame:
    """Sampled temperatures of one method, with mean and standard deviation over a sliding window of steps.

    The windows start anew after the warm-up: T changes at once there, and a window over both would show a glide.

    Args:
        result: The runs.
        warmup_steps: Steps of the warm-up; 0 for a method without one.
        method: Key of the method.
        window: Steps.

    Returns:
        Columns seed, step (from 1), temperature, mean, std. The first windows of the run, and of the steps after the
        warm-up, are shorter.

    Raises:
        ValueError: The result has no training run of that method.
    """
    if method not in {key for key, _ in result.runs}:
        raise ValueError(f"No training run of method {method!r} among {sorted({key for key, _ in result.runs})}.")
    curve = training_logs(result, (Method(method, method),))[["seed", "step", "temperature"]]
    by_phase = curve.groupby(["seed", curve["step"] > warmup_steps])["temperature"]
    return curve.assign(
        mean=by_phase.transform(lambda drawn: drawn.rolling(window, min_periods=1).mean()),
        std=by_phase.transform(lambda drawn: drawn.rolling(window, min_periods=1).std(ddof=0)),
    )


def reward_curves(result: Result, methods: tuple[Method, ...], window: int = WINDOW) -> pd.DataFrame:
    """Mean reward of each step of each training run, and its mean over a sliding window of steps.

    The reward of a step is that of rollouts at its own temperature. The reward that they would have had at T = 1 is the
    same measure for all methods. It is an estimate by importance weights (`tampo.off_policy.reward_at`), so its mean
    over a window has the effective samples of each step as weights.

    Returns:
        Columns title, seed, step (from 1), reward (of one step), smoothed, and the same at T = 1: reward_at_1,
        samples_at_1 (share of effective samples), smoothed_at_1. NaN where the logs have no reward at T = 1;
        smoothed_at_1 is also NaN where the mean share of the window is below `FEWEST_SAMPLES`.
    """
    logged = {"reward_at/1": "reward_at_1", "reward_at/1_samples": "samples_at_1"}
    logs = training_logs(result, methods).reindex(columns=["title", "seed", "step", "reward", *logged])
    curves = logs.rename(columns=logged)

    def rolling(values: pd.Series) -> Rolling:
        return values.rolling(window, min_periods=1)

    def smoothed_at_1(run: pd.DataFrame) -> pd.Series:
        weights = run["samples_at_1"].where(run["reward_at_1"].notna(), 0.0)
        mean = rolling(run["reward_at_1"].fillna(0.0) * weights).sum() / rolling(weights).sum()
        return mean.where(rolling(weights).mean() >= FEWEST_SAMPLES)

    runs = [
        run.assign(smoothed=rolling(run["reward"]).mean(), smoothed_at_1=smoothed_at_1(run))
        for _, run in curves.groupby(["title", "seed"], sort=False)
    ]
    columns = ["title", "seed", "step", "reward", "smoothed", "reward_at_1", "samples_at_1", "smoothed_at_1"]
    return pd.concat(runs)[columns]


def optimal_temperature_curves(result: Result, methods: tuple[Method, ...], window: int = 5) -> pd.DataFrame:
    """The distribution of T* (Eq. 7) over rollouts of positive and of negative advantage, along training.

    All rollouts of `window` successive steps and of all seeds are pooled, from the shares that each step logged. T* has
    few values, most often those at the ends of the candidates, so `quartiles` say more than mean and variance.

    Returns:
        Columns title, temperature (mean sampling temperature), advantage ("A > 0" or "A < 0"), step (the last of the
        window), q1, median, q3, at_floor and at_ceiling (share of rollouts whose T* is the lowest and the highest
        candidate), mean, variance, rollouts. A window without rollouts of a sign has no row for it.

    Raises:
        ValueError: A run did not log the shares of the candidates, as in earlier versions.
    """
    rows = []
    for title, log in training_logs(result, methods).groupby("title", sort=False):
        windows = np.minimum(((log["step"] - 1) // window + 1) * window, log["step"].max())
        for advantage, sign in (("A > 0", "positive"), ("A < 0", "negative")):
            counts = _optimal_temperature_counts(log, sign)
            for step, pooled in counts.groupby(windows):
                number, rollouts = pooled.sum().to_numpy(), float(pooled.to_numpy().sum())
                if rollouts == 0:
                    continue
                candidates = counts.columns.to_numpy(dtype=np.float64)
                mean = float(np.average(candidates, weights=number))
                q1, median, q3 = quartiles(candidates, number)
                rows.append(
                    {
                        "title": title,
                        "temperature": log.loc[windows == step, "temperature"].mean(),
                        "advantage": advantage,
                        "step": step,
                        "q1": q1,
                        "median": median,
                        "q3": q3,
                        "at_floor": number[0] / rollouts,
                        "at_ceiling": number[-1] / rollouts,
                        "mean": mean,
                        "variance": float(np.average((candidates - mean) ** 2, weights=number)),
                        "rollouts": rollouts,
                    }
                )
    return pd.DataFrame(rows)


def _optimal_temperature_counts(log: pd.DataFrame, sign: str) -> pd.DataFrame:
    """Rollouts of one sign whose T* is each candidate: a row per row of `log`, a column per candidate, ascending."""
    prefix = f"optimal_temperature/{sign}"
    names = {float(name[len(prefix) + 1 : -1]): name for name in log.columns if name.startswith(f"{prefix}(")}
    number = log.reindex(columns=[f"{prefix}_count"]).iloc[:, 0].fillna(0)
    shares = log[[names[t] for t in sorted(names)]].set_axis(sorted(names), axis=1)
    if ((number > 0) & ~(shares.sum(axis=1) > 0.5)).any():  # shares sum to 1; those that were not logged to 0
        raise ValueError(
            "A training run was made by an earlier version, which did not log the distribution of T* over the "
            "candidates. Train it again in another store (the variable TAMPO_STORE names its folder)."
        )
    return (shares.fillna(0).mul(number, axis=0)).round()  # whole rollouts again


def quartiles(values: ArrayLike, counts: ArrayLike) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of values that occur `counts` times each.

    Each is the lowest value whose cumulative share reaches 1/4, 1/2 and 3/4, so it is always one of the values.

    Args:
        values: Ascending, shape (K,).
        counts: Whole numbers, not all 0, shape (K,).

    Example:
        >>> quartiles([0.6, 1.0, 1.5], [3, 0, 1])
        (0.6, 0.6, 0.6)
    """
    cumulative = np.cumsum(np.asarray(counts, dtype=np.float64))
    first, second, third = np.searchsorted(cumulative, cumulative[-1] * np.array([0.25, 0.5, 0.75]))
    ordered = np.asarray(values, dtype=np.float64)
    return float(ordered[first]), float(ordered[second]), float(ordered[third])


def figure2(curves: pd.DataFrame, candidates: Sequence[float], sampled_at: float, title: str) -> Figure:
    """Figure 2: likelihood of each rollout against temperature, with T* (Eq. 7) on each curve.

    Args:
        curves: From `tampo.paper.trajectories.likelihood_curves`; its temperatures include the candidates.
        candidates: The candidate temperatures of the meta-policy.
        sampled_at: The sampling temperature of the rollouts.
        title: Model and problem.
    """
    with style(font_scale=1.0):
        figure, axes = plt.subplots(figsize=(4.8, 3.9), layout="constrained")
        axes.axvspan(min(candidates), max(candidates), color="0.94", linewidth=0)
        axes.axvline(sampled_at, color="0.6", linewidth=0.8, linestyle=":")
        ends, optima = [], []
        for _, curve in curves.groupby("rollout"):
            correct, tokens = bool(curve["correct"].iloc[0]), int(curve["tokens"].iloc[0])
            colour, line = _RIGHT if correct else _WRONG
            axes.plot(curve["temperature"], curve["mean_log_likelihood"], line, color=colour, linewidth=1.2)
            among = curve[np.isclose(curve["temperature"].to_numpy()[:, None], candidates).any(axis=1)]
            best = among.iloc[among["mean_log_likelihood"].to_numpy().argmax()]
            axes.plot(best["temperature"], best["mean_log_likelihood"], "*", color=colour, ms=9, mec="white", mew=0.5)
            optima.append(("right rollouts" if correct else "wrong rollouts", best["temperature"]))
            ends.append((float(curve["mean_log_likelihood"].iloc[-1]), tokens, colour))
        _label_ends(axes, float(curves["temperature"].max()), ends)
        axes.set(xlabel="temperature T", ylabel="mean log-likelihood (nats per token, Eq. 6)", title=title)
        axes.set_xlim(curves["temperature"].min(), curves["temperature"].max())
        handles = [
            Line2D([], [], color=_RIGHT[0], linestyle="-", label="right"),
            Line2D([], [], color=_WRONG[0], linestyle="--", label="wrong"),
            Line2D([], [], color="0.3", linestyle="", marker="*", ms=9, label="T*"),
            Line2D([], [], color="0.94", linewidth=8, label="candidates"),
            Line2D([], [], color="0.6", linestyle=":", label=f"sampled at {sampled_at:g}"),
        ]
        legend_below(figure, handles, columns=5, columnspacing=1.0)
        words, values = zip(*sorted(optima), strict=True)  # right ones first
        set_title(figure, findings.medians("Median T*", pd.Series(values), pd.Series(words)))
        sns.despine(ax=axes)
    return figure


def _label_ends(axes: Axes, x: float, ends: list[tuple[float, int, tuple[float, float, float]]]) -> None:
    """Write the number of tokens at the right end of each curve; labels that would overlap are moved apart."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0])
    positions = _spread_out([y for y, _, _ in ordered], (high - low) * 0.052)
    for (y, tokens, colour), position in zip(ordered, positions, strict=True):
        axes.annotate(
            str(tokens),
            (x, y),
            (1.045, (position - low) / (high - low)),
            textcoords="axes fraction",
            color=colour,
            fontsize="small",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
        )
    top = (positions[-1] - low) / (high - low) + 0.07
    axes.text(1.045, top, "tokens", transform=axes.transAxes, fontsize="small", va="center", color="0.3")


def _spread_out(values: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Ascending values, moved apart step by step until neighbours are `gap` apart."""
    positions = np.asarray(values, dtype=np.float64).copy()
    for _ in range(200):
        short = np.maximum(gap - np.diff(positions), 0)
        if not (short > gap * 1e-3).any():
            break
        positions[:-1] -= short / 2
        positions[1:] += short / 2
    return positions


def figure3(temperatures: pd.DataFrame, rewards: pd.DataFrame, warmup_steps: int) -> Figure:
    """Figure 3: (a) temperatures sampled by the meta-policy, and the rewards of all methods in training, (b) at the
    temperature of each step and (c) at T = 1.

    Args:
        temperatures: From `temperature_curve`. The first seed is drawn in full, of the others only the means.
        rewards: From `reward_curves`. Without rewards at T = 1 there is no (c), and a note says so.
        warmup_steps: Steps of the warm-up, shaded in (a).
    """
    at_1 = bool(rewards["smoothed_at_1"].notna().any())
    with style():
        figure = plt.figure(figsize=(9.0, 6.4), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(2.7, 3.7), squeeze=False)[:, 0]
        top = upper.subplots()
        # In (a) TAMPO has its colour of (b) and (c).
        colour = _looks(rewards).get("TAMPO", {"color": PALETTE[0]})["color"]
        _draw_temperatures(top, temperatures, warmup_steps, colour)
        top.set_title("(a) Temperatures from the meta-policy")
        titles = ("(b) Rewards at the sampling temperature", "(c) Rewards at T = 1")
        _draw_reward_panels(lower, lower.subplots(1, 1 + at_1, squeeze=False)[0], rewards, titles)
        found = findings.course(temperatures, warmup_steps, WINDOW), findings.best_rewards(rewards)
        set_title(figure, findings.joined(*found, by=". "))
    return figure


def reward_figure(rewards: pd.DataFrame) -> Figure:
    """Figures 5 and 6: rewards of each step at its own temperature and at T = 1.

    Args:
        rewards: From `reward_curves`. Without rewards at T = 1 there is one panel, and a note says so.
    """
    at_1 = bool(rewards["smoothed_at_1"].notna().any())
    with style():
        figure, panels = plt.subplots(
            1, 1 + at_1, figsize=(9.0 if at_1 else 5.4, 3.8), layout="constrained", squeeze=False
        )
        titles = ("(a) Rewards at the sampling temperature", "(b) Rewards at T = 1")
        _draw_reward_panels(figure, panels[0], rewards, titles)
        set_title(figure, findings.final_rewards(rewards))
    return figure


def _draw_temperatures(axes: Axes, temperatures: pd.DataFrame, warmup_steps: int, colour: Any) -> None:
    seeds = list(temperatures["seed"].unique())
    one = temperatures[temperatures["seed"] == seeds[0]]
    if warmup_steps:
        axes.axvspan(0.5, warmup_steps + 0.5, color="0.92", linewidth=0, label="warm-up")
    axes.scatter(one["step"], one["temperature"], s=9, color="0.5", label="sampled at a step", linewidths=0)
    for seed in seeds[1:]:
        other = temperatures[temperatures["seed"] == seed]
        label = f"means, {len(seeds) - 1} other seeds" if seed == seeds[1] else None
        for phase in _phases(other, warmup_steps):
            axes.plot(phase["step"], phase["mean"], color=colour, linewidth=0.7, alpha=0.5, label=label)
            label = None
    names = (f"mean of {WINDOW} steps", "± standard deviation")
    for number, phase in enumerate(_phases(one, warmup_steps)):
        line, area = names if number == 0 else (None, None)
        axes.plot(phase["step"], phase["mean"], color=colour, label=line)
        band = (phase["mean"] - phase["std"], phase["mean"] + phase["std"])
        axes.fill_between(phase["step"], *band, color=colour, alpha=0.25, linewidth=0, label=area)
    axes.set(xlabel="training step", ylabel="sampling temperature T")
    axes.xaxis.set_major_locator(_steps())
    axes.margins(x=0.02)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    sns.despine(ax=axes)


def _phases(curve: pd.DataFrame, warmup_steps: int) -> list[pd.DataFrame]:
    """The steps of the warm-up and those after it, so that no line joins them; a phase without steps is left out."""
    warm = curve["step"] <= warmup_steps
    return [phase for phase in (curve[warm], curve[~warm]) if len(phase)]


def _draw_reward_panels(
    figure: Figure | SubFigure, panels: Sequence[Axes], rewards: pd.DataFrame, titles: tuple[str, str]
) -> None:
    """Rewards at the sampling temperature and, in a second panel if there is one, at T = 1; one legend for both."""
    for axes, column, title in zip(panels, ("smoothed", "smoothed_at_1"), titles, strict=False):
        _draw_rewards(axes, rewards, column)
        axes.set_title(title)
    if len(panels) > 1:
        panels[1].sharey(panels[0])
        panels[1].tick_params(labelleft=True)
    legend_below(figure, panels[0].get_legend_handles_labels()[0], note=_note_at_1(rewards))


def _note_at_1(rewards: pd.DataFrame) -> str:
    """What the reader must know about the panel of rewards at T = 1; "" if it is complete."""
    if not rewards["reward_at_1"].notna().any():
        return "No panel of rewards at T = 1: the logs of these runs do not have them."
    absent = rewards.groupby("title", sort=False)["smoothed_at_1"].count() == 0
    if absent.all():
        return f"No panel of rewards at T = 1: fewer than {FEWEST_SAMPLES:.0%} of the samples are effective."
    if absent.any():
        return f"Not shown at T = 1, too few effective samples: {', '.join(absent[absent].index)}."
    return ""


def _steps() -> MaxNLocator:
    """Ticks at whole steps, also of short runs."""
    return MaxNLocator(6, steps=[1, 2, 3, 5, 10], integer=True)


def _looks(rewards: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and line style of each method, the same in all panels of a figure."""
    titles = list(rewards["title"].unique())
    pairs = zip(titles, sns.color_palette("colorblind", len(titles)), cycle(_LINES), strict=False)
    return {title: {"color": colour, "linestyle": line} for title, colour, line in pairs}


def _draw_rewards(axes: Axes, rewards: pd.DataFrame, column: str) -> None:
    """Lines are means over seeds; with several seeds, bands are one standard error. Steps that lack a seed are gaps."""
    for title, look in _looks(rewards).items():
        seeds = rewards[rewards["title"] == title].pivot(index="step", columns="seed", values=column)
        mean = seeds.mean(axis=1, skipna=False)
        axes.plot(mean.index, mean, label=title, **look)
        if seeds.shape[1] > 1:
            error = seeds.sem(axis=1, skipna=False)
            axes.fill_between(mean.index, mean - error, mean + error, color=look["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="training step", ylabel=f"reward, mean of {WINDOW} steps")
    axes.xaxis.set_major_locator(_steps())
    sns.despine(ax=axes)


def figure4(curves: pd.DataFrame) -> Figure:
    """Figure 4: T* by sign of the advantage along training, a column of panels for each fixed sampling temperature.

    From top to bottom: median and quartiles of T*, and the shares of rollouts whose T* is the lowest and the highest
    candidate.

    Args:
        curves: From `optimal_temperature_curves`.
    """
    titles = list(curves["title"].unique())
    labels = {
        "median": "likelihood-optimal T*\n(median, quartiles)",
        "at_floor": "share at the\nlowest candidate",
        "at_ceiling": "share at the\nhighest candidate",
    }
    with style():
        figure, panels = plt.subplots(
            3,
            len(titles),
            figsize=(9.0, 6.6),
            sharex=True,
            sharey="row",
            height_ratios=(3, 2, 2),
            layout="constrained",
            squeeze=False,
        )
        for column, title in zip(panels.T, titles, strict=True):
            shown = curves[curves["title"] == title]
            for axes, name in zip(column, labels, strict=True):
                for advantage, (colour, marker, line) in SIGNS.items():
                    part = shown[shown["advantage"] == advantage]
                    axes.plot(part["step"], part[name], line, marker=marker, ms=3, color=colour, label=advantage)
                    if name == "median":
                        axes.fill_between(part["step"], part["q1"], part["q3"], color=colour, alpha=0.18, linewidth=0)
                sns.despine(ax=axes)
            current = shown.groupby("step")["temperature"].mean()
            column[0].plot(current.index, current, color="0.3", linestyle=":", label="current T")
            column[0].set_title(title)
            column[-1].set_xlabel("training step")
            column[-1].xaxis.set_major_locator(_steps())
        for axes, label in zip(panels[:, 0], labels.values(), strict=True):
            axes.set_ylabel(label)
        for axes in panels[1:, 0]:
            axes.set_ylim(0, None)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        figure.align_ylabels(panels[:, 0])
        legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
        set_title(figure, findings.optima_by_sign(curves))
    return figure


def write_figure(figure: Figure, data: dict[str, pd.DataFrame], folder: Path, name: str) -> list[Path]:
    """Write `name`.pdf, `name`.png and, for each table of `data`, `name`.<key>.csv into `folder`, each atomically.

    Both pictures name the manifest in their metadata.

    Returns:
        The paths written.
    """
    paths = []
    manifest = manifest_name(name)
    pdf: dict[str, str | None] = {"CreationDate": None, "Subject": f"Manifest: {manifest}"}
    png = {"Description": f"Manifest: {manifest}"}
    for ending, settings in (("pdf", {"metadata": pdf}), ("png", {"metadata": png, "dpi": DPI})):
        paths.append(folder / f"{name}.{ending}")
        with atomic_path(paths[-1]) as temporary:
            figure.savefig(temporary, **settings)  # type: ignore[arg-type]
    texts = {f"{key}.csv": table.to_csv(index=False, float_format="%.6g") for key, table in data.items()}
    return paths + write_texts(folder, name, texts)
