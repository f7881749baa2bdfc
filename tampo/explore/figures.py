"""Figures of the notebook explore: the meta-policy and curves over training, and likelihoods of one step's rollouts.

Figures are closed in pyplot at once, because the notebook shows them again with another step marked.
"""

import io
from collections.abc import Mapping
from contextlib import suppress
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from tampo.explore.histories import Snapshot, meta_policy_probabilities
from tampo.paper import findings
from tampo.paper.figures import style
from tampo.paper.layout import legend_below, lines, set_title

SMOOTHED = 10  # steps
CURVES = {
    "temperature": "sampling temperature T",
    "reward": "reward, mean of the step",
    "entropy": "entropy, nats per token",
    "optimal_temperature/positive_mean": "mean T* where A > 0",
    "optimal_temperature/negative_mean": "mean T* where A < 0",
}
_LINES = ("-", "--", "-.", ":")
_PALETTE = sns.color_palette("colorblind")
# Colours and line styles each distinguish the signs.
_SIGNS = {1: ("A > 0", _PALETTE[0], "-"), -1: ("A < 0", _PALETTE[1], "--"), 0: ("A = 0", (0.4, 0.4, 0.4), "-.")}
_DRAWN: dict[str, Any] = {"color": "#d55e00", "marker": "o", "linestyle": "", "mec": "white", "mew": 0.4} | {
    "label": "sampling temperature of the step"
}
_OVER_STEPS = "over steps"  # id of the axes that `mark_step` draws on
_MARKER = "step marker"
_PANEL = 45  # characters of a line that fit above or into a panel


def policy_figure(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Heat maps of the meta-policies with the sampling temperatures; runs without a meta-policy share a panel.

    `logs` has `History.metrics` of each training run, by label.
    """
    maps = {label: table for label, log in logs.items() if len(table := meta_policy_probabilities(log))}
    others = {label: log for label, log in logs.items() if label not in maps}
    panels = len(maps) + bool(others)
    columns = min(panels, 2)
    rows, looks = -(-panels // columns), dict(zip(logs, _looks(len(logs)), strict=True))
    highest = max((table.to_numpy().max() for table in maps.values()), default=1.0)
    first, last = min(log["step"].min() for log in logs.values()), max(log["step"].max() for log in logs.values())
    with style():
        size = (4.8 * columns, 0.6 + 0.1 * len(others) + 2.9 * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
        plt.close(figure)  # or a notebook shows it twice
        handles = []
        for axes, (label, table) in zip(grid.flat, maps.items(), strict=False):
            edges = (_edges(table.columns.to_numpy()), _edges(table.index.to_numpy()))
            mesh = axes.pcolormesh(*edges, table, cmap="Blues", vmin=0, vmax=highest, rasterized=True)
            dots = float(np.clip(300 / table.shape[1], 4, 9))
            handles = axes.plot(logs[label]["step"], logs[label]["temperature"], ms=dots, **_DRAWN)
            axes.set_title(lines(label, _PANEL), pad=16)
        if maps:
            figure.colorbar(mesh, ax=list(grid.flat[: len(maps)]), label="probability after the step", pad=0.02)
        for label, log in others.items():
            axes = grid.flat[len(maps)]
            handles = handles + axes.plot(log["step"], log["temperature"], label=label, **looks[label])
            axes.set_title("without a meta-policy", pad=16)
        for axes in grid.flat[:panels]:
            _over_steps(axes, "temperature")
            axes.set_xlim(first - 0.5, last + 0.5)
            axes.tick_params(labelleft=True)
        for axes in grid.flat[panels:]:
            axes.axis("off")
        legend_below(figure, handles, columns=2)
        ends = {label: table.iloc[:, -1].idxmax() for label, table in maps.items()}
        set_title(figure, findings.span("Likeliest T at the end", pd.Series(ends, dtype=float), "g"))
    return figure


def curves_figure(logs: Mapping[str, pd.DataFrame], window: int = SMOOTHED) -> Figure:
    """Temperature, reward, entropy and mean T* of good and of bad rollouts over training, of all runs.

    `logs` has `History.metrics` of each run, by label. Thick lines are means of `window` steps.
    """
    looks = dict(zip(logs, _looks(len(logs)), strict=True))
    with style():
        figure, grid = plt.subplots(2, 3, figsize=(9.6, 5.2), layout="constrained")
        plt.close(figure)
        *panels, corner = grid.flat
        rewards = {}
        for axes, (name, label_y) in zip(panels, CURVES.items(), strict=True):
            for label, log in logs.items():
                if name in log:
                    smooth = log[name].rolling(window, min_periods=1).mean()
                    if name == "reward":
                        rewards[label] = smooth.iloc[-1]
                    axes.plot(log["step"], log[name], color=looks[label]["color"], linewidth=0.6, alpha=0.35)
                    axes.plot(log["step"], smooth, **looks[label])
            _over_steps(axes, label_y)
        panels[3].sharey(panels[4])  # the two T*
        corner.axis("off")
        handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
        title = f"thick: mean of {window} steps"
        font = "x-small" if max(map(len, looks), default=0) > _PANEL else None
        corner.legend(handles=handles, loc="center", frameon=False, title=title, handlelength=3, fontsize=font)
        set_title(figure, findings.span("Reward at the end", pd.Series(rewards, dtype=float)))
    return figure


def mark_step(figure: Figure, step: int) -> Figure:
    """The same figure with `step` marked in every panel over steps; an earlier mark is removed."""
    for axes in figure.axes:
        if axes.get_gid() == _OVER_STEPS:
            for artist in [*axes.lines, *axes.texts]:
                if artist.get_gid() == _MARKER:
                    artist.remove()
            axes.axvline(step, color="0.25", linewidth=1, linestyle=(0, (2, 2)), gid=_MARKER)
            above = axes.get_xaxis_transform()
            axes.text(step, 1.01, f"step {step}", transform=above, ha="center", fontsize="small", gid=_MARKER)
    return figure


def likelihood_figure(snapshot: Snapshot, problem: str, rollout: int) -> Figure:
    """Log-likelihoods (Eq. 8) of one rollout, and of its group relative to their maxima; a star marks T*.

    Rollouts of a problem are numbered from 1.

    Raises:
        ValueError: No such rollout, or its likelihoods or the candidate temperatures are unknown.
    """
    group = snapshot.group(problem)
    if rollout not in group.index or "log_likelihoods" not in group:
        raise ValueError("There is no such rollout with likelihoods.")
    curves, temperatures = _likelihoods(group), np.array(snapshot.candidates)  # (G, K), (K,)
    if curves.shape[1] != len(temperatures):
        raise ValueError("The candidate temperatures of this run are unknown.")
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.5), layout="constrained")
        plt.close(figure)
        for number, curve, advantage in zip(group.index, curves, group["advantage"], strict=True):
            _, colour, line = _SIGNS[int(np.sign(advantage))]
            chosen = number == rollout
            look = {"color": colour, "linestyle": line, "linewidth": 2.2 if chosen else 0.9}
            _draw_likelihood(right, temperatures, curve - curve.max(), look | {"alpha": 1 if chosen else 0.6})
            if chosen:
                _draw_likelihood(left, temperatures, curve, look)
        left.set(
            xlabel="temperature",
            ylabel="log-likelihood, nats (Eq. 8)",
            title=lines(f"{snapshot.label}: rollout {rollout}", _PANEL),
        )
        right.set(xlabel="temperature", ylabel="minus its maximum, nats", title=f"all its {len(group)} rollouts")
        for axes in (left, right):
            if snapshot.temperature is not None:
                axes.axvline(snapshot.temperature, color="0.6", linewidth=1, linestyle=":")
            sns.despine(ax=axes)
        signs = [_SIGNS[int(sign)] for sign in sorted(set(np.sign(group["advantage"])), reverse=True)]
        handles = [Line2D([], [], label=name, color=colour, ls=line) for name, colour, line in signs]
        handles += [Line2D([], [], color="0.3", linestyle="", marker="*", ms=9, label="T*")]
        if snapshot.temperature is not None:
            handles += [Line2D([], [], color="0.6", linestyle=":", label=f"sampled at T = {snapshot.temperature:.3g}")]
        legend_below(figure, handles, columns=5)
        signed = group.assign(best=temperatures[curves.argmax(axis=1)]).sort_values("advantage", ascending=False)
        names = signed["advantage"].map(lambda advantage: _SIGNS[int(np.sign(advantage))][0])
        set_title(figure, findings.medians("Median T*", signed["best"], names))
    return figure


def png(figure: Figure) -> bytes:
    """A figure as PNG. The layout is kept, so that the next drawing is fast."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    figure.set_layout_engine("none")
    return buffer.getvalue()


def _likelihoods(group: pd.DataFrame) -> NDArray[np.float64]:
    with suppress(TypeError, ValueError):  # missing values, or unequal lengths
        curves = np.stack(group["log_likelihoods"].tolist()).astype(float)
        if curves.ndim == 2:
            return curves
    raise ValueError("The likelihoods of this problem's rollouts are not available (yet).")


def _draw_likelihood(axes: Axes, temperatures: NDArray[Any], curve: NDArray[Any], look: dict[str, Any]) -> None:
    best = int(curve.argmax())  # the lowest of equal ones, as in Eq. 7
    axes.plot(temperatures, curve, **look)
    axes.plot(
        temperatures[best], curve[best], "*", color=look["color"], ms=11 if look["linewidth"] > 2 else 7, zorder=3
    )


def _looks(number: int) -> list[dict[str, Any]]:
    """Distinct pairs of colour and line style."""
    pairs = zip(range(number), cycle(_PALETTE), cycle(_LINES), strict=False)
    return [{"color": colour, "linestyle": line, "linewidth": 1.6} for _, colour, line in pairs]


def _over_steps(axes: Axes, ylabel: str) -> None:
    axes.set(xlabel="training step", ylabel=ylabel)
    axes.set_gid(_OVER_STEPS)
    sns.despine(ax=axes)


def _edges(centres: NDArray[Any]) -> NDArray[Any]:
    """Edges of cells around `centres`, (N + 1,), halfway between neighbours."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])
