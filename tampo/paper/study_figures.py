"""Figure 2, and the figures of the study of likelihoods: drawing only."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray

from tampo.paper.figures import WINDOW, style

_PALETTE = sns.color_palette("colorblind")
# Colour and line style: each alone tells the two apart.
_RIGHT, _WRONG = (_PALETTE[0], "-"), (_PALETTE[1], "--")
_SIGNS = {"A > 0": (_PALETTE[2], "o", "-"), "A < 0": (_PALETTE[3], "s", "--")}
_EXAMPLES = 6  # single rollouts drawn over the mean weights
_FEWEST = 5  # rollouts that a median and its quartiles are drawn for


def figure2(curves: pd.DataFrame, candidates: Sequence[float], sampled_at: float, title: str) -> Figure:
    """Figure 2: likelihood of each rollout against temperature, with T* (Eq. 7) on each curve.

    Args:
        curves: From `tampo.paper.trajectories.likelihood_curves`, the candidates among its temperatures.
        candidates: The candidates of the meta-policy; T* is the likeliest of them.
        sampled_at: The temperature that the rollouts were sampled at.
        title: Model and problem.
    """
    with style(font_scale=1.0):
        figure, axes = plt.subplots(figsize=(4.8, 3.9), layout="constrained")
        axes.axvspan(min(candidates), max(candidates), color="0.94", linewidth=0)
        axes.axvline(sampled_at, color="0.6", linewidth=0.8, linestyle=":")
        ends = []
        for _, curve in curves.groupby("rollout"):
            correct, tokens = bool(curve["correct"].iloc[0]), int(curve["tokens"].iloc[0])
            colour, line = _RIGHT if correct else _WRONG
            axes.plot(curve["temperature"], curve["mean_log_likelihood"], line, color=colour, linewidth=1.2)
            among = curve[np.isclose(curve["temperature"].to_numpy()[:, None], candidates).any(axis=1)]
            best = among["mean_log_likelihood"].to_numpy().argmax()
            star = among["temperature"].iloc[best], among["mean_log_likelihood"].iloc[best]
            axes.plot(*star, "*", color=colour, ms=9, mec="white", mew=0.5)
            ends.append((float(curve["mean_log_likelihood"].iloc[-1]), tokens, colour))
        _label_ends(axes, float(curves["temperature"].max()), ends)
        axes.set(xlabel="temperature T", ylabel="mean log-likelihood (nats a token, Eq. 6)", title=title)
        axes.set_xlim(curves["temperature"].min(), curves["temperature"].max())
        handles = [axes.plot([], [], style, color=colour)[0] for colour, style in (_RIGHT, _WRONG)]
        for handle, label in zip(handles, ("right", "wrong"), strict=True):
            handle.set_label(label)
        handles += [Line2D([], [], color="0.3", linestyle="", marker="*", ms=9, label="T*")]
        handles += [Line2D([], [], color="0.94", linewidth=8, label="candidates")]
        handles += [Line2D([], [], color="0.6", linestyle=":", label=f"sampled at {sampled_at:g}")]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, columnspacing=1.0)
        sns.despine(ax=axes)
    return figure


def weight_figure(weights: pd.DataFrame) -> Figure:
    """Sparsemax weights over the candidates: a row for sum and for mean, a column for each length.

    Args:
        weights: From `tampo.paper.likelihood_study.weight_table`. Bars are means over rollouts, lines single rollouts.
    """
    rows, lengths = list(weights["likelihood"].unique()), list(weights["length"].unique())
    equations = {"sum": "sum, Eq. 8", "mean": "mean, Eq. 6"}
    with style(font_scale=1.0):
        figure, panels = plt.subplots(
            len(rows), len(lengths), figsize=(7.2, 3.9), sharex=True, sharey="row", layout="constrained", squeeze=False
        )
        for axes, (likelihood, length) in zip(panels.flat, ((r, c) for r in rows for c in lengths), strict=True):
            own = weights[(weights["likelihood"] == likelihood) & (weights["length"] == length)]
            table = own.pivot(index="temperature", columns="trial", values="weight")  # (K, trials)
            axes.bar(table.index, table.mean(axis=1), width=0.08, color=_PALETTE[9], label="mean of all rollouts")
            lines = axes.plot(table.index, table.iloc[:, :_EXAMPLES], color="0.25", linewidth=0.7, alpha=0.8)
            lines[0].set_label("single rollouts")
            axes.set(title=f"{length:,} tokens" if likelihood == rows[0] else "", xticks=table.index[::3])
            sns.despine(ax=axes)
        for axes, likelihood in zip(panels[:, 0], rows, strict=True):
            axes.set_ylabel(f"weight ({equations[likelihood]})")
            axes.set_ylim(0, None)
        for axes in panels[-1]:
            axes.set_xlabel("candidate temperature")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def settling_figure(summary: pd.DataFrame, information: Mapping[float, float]) -> Figure:
    """T* less the sampling temperature against length, a panel for each sampling temperature.

    Args:
        summary: From `tampo.paper.likelihood_study.settling_summary`. Marks are medians, bars quartiles.
        information: Fisher information of a token by sampling temperature; the band is one standard deviation of T*
            without any selection, 1 / sqrt(n I).
    """
    with style(font_scale=1.0):
        figure, panels = plt.subplots(
            1, len(information), figsize=(7.2, 3.3), sharey=True, layout="constrained", squeeze=False
        )
        for axes, (temperature, own) in zip(panels[0], summary.groupby("sampled_at"), strict=True):
            tokens = np.geomspace(summary["tokens"].min() * 0.9, summary["tokens"].max() * 1.1, 100)
            spread = 1 / np.sqrt(tokens * information[float(temperature)])  # type: ignore[arg-type]
            axes.fill_between(tokens, -spread, spread, color="0.9", linewidth=0, label="± 1 / √(n I)")
            axes.axhline(0, color="0.5", linewidth=0.8)
            for sign, shift in (("A > 0", 0.94), ("A < 0", 1.06)):
                _draw_offsets(axes, own[(own["sign"] == sign) & (own["count"] >= _FEWEST)], sign, shift)
            axes.set(xscale="log", xlabel="tokens", title=f"sampled at T = {temperature:g}")
            axes.xaxis.set_major_formatter(ScalarFormatter())
            sns.despine(ax=axes)
        shown = summary[summary["count"] >= _FEWEST]
        panels[0, 0].set(
            ylabel="T* − T (median, quartiles)", ylim=(shown["low"].min() - 0.1, shown["high"].max() + 0.2)
        )
        handles = [container for axes in panels[0] for container in axes.get_legend_handles_labels()[0]]
        labels = [label for axes in panels[0] for label in axes.get_legend_handles_labels()[1]]
        found = dict(zip(labels, handles, strict=True))  # a panel may lack one
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def comparison_figure(temperatures: pd.DataFrame, rewards: pd.DataFrame, warmup_steps: int) -> Figure:
    """Sampled temperatures and rewards of a few trainings beside each other; lines are means over seeds.

    Args:
        temperatures: From `tampo.paper.figures.temperature_curve`, with a column title.
        rewards: From `tampo.paper.figures.reward_curves`.
        warmup_steps: Steps of the warm-up, shaded.
    """
    titles = list(temperatures["title"].unique())
    looks = {
        "x": "step",
        "hue": "title",
        "hue_order": titles,
        "style": "title",
        "style_order": titles,
        "palette": _PALETTE[: len(titles)],
        "errorbar": None,
        "legend": False,
    }
    with style(font_scale=1.0):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
        left.axvspan(0.5, warmup_steps + 0.5, color="0.92", linewidth=0)
        sns.lineplot(temperatures, y="mean", ax=left, **looks)
        left.set(xlabel="training step", ylabel=f"sampled T, mean of {WINDOW} steps")
        sns.lineplot(rewards, y="smoothed", ax=right, **looks)
        right.set(xlabel="training step", ylabel=f"reward, mean of {WINDOW} steps")
        handles = [
            Line2D([], [], color=_PALETTE[i], linestyle=("-", "--", ":", "-.")[i % 4], label=title)
            for i, title in enumerate(titles)
        ]
        handles += [Line2D([], [], color="0.92", linewidth=8, label="warm-up")]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        sns.despine(figure)
    return figure


def _draw_offsets(axes: Axes, own: pd.DataFrame, sign: str, shift: float) -> None:
    """Medians and quartiles of one sign: filled marks for rollouts, open ones, joined, for chains."""
    colour, marker, line = _SIGNS[sign]
    for kind, name in (("rollout", "rollouts"), ("chain", "chains of them")):
        part = own[own["kind"] == kind].sort_values("tokens")
        if not len(part):
            continue
        axes.errorbar(
            part["tokens"] * shift,  # apart, so that bars do not cover one another
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


def _label_ends(axes: Axes, x: float, ends: list[tuple[float, int, tuple[float, float, float]]]) -> None:
    """The number of tokens at the right end of each curve, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0])
    places = _spread_out([y for y, _, _ in ordered], (high - low) * 0.052)
    for (y, tokens, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            str(tokens),
            (x, y),
            (1.045, (place - low) / (high - low)),
            textcoords="axes fraction",
            color=colour,
            fontsize="small",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
        )
    top = (places[-1] - low) / (high - low) + 0.07
    axes.text(1.045, top, "tokens", transform=axes.transAxes, fontsize="small", va="center", color="0.3")


def _spread_out(values: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Ascending values moved as little as a few passes need until neighbours are `gap` apart."""
    places = np.asarray(values, dtype=np.float64).copy()
    for _ in range(200):
        short = np.maximum(gap - np.diff(places), 0)
        if not (short > gap * 1e-3).any():
            break
        places[:-1] -= short / 2
        places[1:] += short / 2
    return places
