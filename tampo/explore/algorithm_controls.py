"""The meta-policy at one step as a figure, and the sliders of the notebook algorithm."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tampo.explore.algorithm import quantity, replay
from tampo.explore.controls import live
from tampo.explore.figures import mark_step, png, policy_figure
from tampo.paper.figures import PALETTE, style
from tampo.paper.layout import legend_below

_AVERAGE, _KEPT, _LEFT_OUT = PALETTE[7], PALETTE[0], (0.78, 0.86, 0.93)
_DRAWN = "#d55e00"  # as in `policy_figure`


def step_figure(logs: Mapping[str, pd.DataFrame], step: int) -> Figure:
    """The averages (Eq. 11) and the probabilities (Eq. 12) after one step; a column for each run.

    Args:
        logs: From `replay`, by title. Axes have the same limits at every step.
        step: From 1; a shorter run is shown at its last step.
    """
    with style():
        size = (4.8 * len(logs), 4.6)
        figure, grid = plt.subplots(2, len(logs), figsize=size, layout="constrained", squeeze=False)
        plt.close(figure)  # or a notebook shows it twice
        for (title, log), (top, bottom) in zip(logs.items(), grid.T, strict=True):
            shown = min(step, int(log["step"].max()))
            top.set_title(f"{title.partition(',')[0]}, after step {shown}")
            averages, nuclei = quantity(log, "average"), quantity(log, "nucleus")
            top.bar(averages.columns, averages.loc[shown], width=0.06, color=_AVERAGE)
            top.axhline(0, color="0.3", linewidth=0.8)
            _draw_probabilities(bottom, log, shown)
            top.set(xticks=averages.columns, ylim=_limits(averages))
            bottom.set(xlabel="candidate temperature", xticks=averages.columns, ylim=(0, _limits(nuclei)[1]))
        grid[0, 0].set_ylabel("average (Eq. 11)")
        grid[1, 0].set_ylabel("p(T) (Eq. 12)")
        handles = [
            Patch(color=_KEPT, label="in the nucleus"),
            Patch(color=_LEFT_OUT, label="left out"),
            Line2D([], [], color="0.3", linestyle="", marker="_", ms=12, label="chance to be drawn"),
            Line2D([], [], color=_DRAWN, linestyle="", marker="v", label="the run's next T"),
        ]
        legend_below(figure, handles, columns=4)
        sns.despine(figure)
    return figure


def _draw_probabilities(axes: Axes, log: pd.DataFrame, step: int) -> None:
    probabilities, nucleus = quantity(log, "p").loc[step], quantity(log, "nucleus").loc[step].to_numpy()
    colours = [_KEPT if chance > 0 else _LEFT_OUT for chance in nucleus]
    axes.bar(probabilities.index, probabilities, width=0.06, color=colours)
    axes.plot(probabilities.index, np.where(nucleus > 0, nucleus, np.nan), "_", color="0.3", ms=12)
    following = log.loc[log["step"] == step + 1, "temperature"]
    axes.plot(following, np.full(len(following), 0.96), "v", color=_DRAWN, transform=axes.get_xaxis_transform())


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    low, high = float(table.min().min()), float(table.max().max())
    margin = 0.12 * (high - low) or 1.0
    return low - margin, high + margin


def sentence(logs: Mapping[str, pd.DataFrame], step: int) -> str:
    """In words: the likeliest candidate of each run after a step, its probability, and the mean of p(T)."""
    words = []
    for title, log in logs.items():
        table = quantity(log, "p")
        p, candidates = table.loc[min(step, int(table.index.max()))].to_numpy(), table.columns.to_numpy(dtype=float)
        likeliest = f"T = {candidates[p.argmax()]:g} is likeliest ({p.max():.0%})"
        words.append(f"{title.partition(',')[0]}: {likeliest}, mean {p @ candidates:.2f}")
    return f"Step {step}. " + "; ".join(words) + "."


class AlgorithmControls:
    """Sliders for the step, alpha and p over logged signals of some runs. `panel` is the widget with all of them."""

    def __init__(self, logs: Mapping[str, pd.DataFrame], alpha: float, top_p: float, step: int) -> None:
        import ipywidgets as widgets

        self._logs = logs
        wide: dict[str, Any] = {"style": {"description_width": "70px"}, "layout": {"width": "100%"}}
        # Updated when a slider is released, because drawing takes a moment.
        wide |= {"continuous_update": False}
        last = max(int(log["step"].max()) for log in logs.values())
        self.step = widgets.IntSlider(step, min=1, max=last, description="Step", **wide)
        fractions: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
        self.alpha = widgets.FloatSlider(alpha, description="alpha", **fractions, **wide)
        self.top_p = widgets.FloatSlider(top_p, description="p", **fractions, **wide)
        self.status = widgets.HTML(layout={"margin": "0 0 0 76px"})
        self.course, self.distribution = (
            widgets.Image(format="png", layout={"width": "100%", "max_width": "1000px"}) for _ in range(2)
        )
        fields = [self.step, self.alpha, self.top_p, self.status]
        self.panel = widgets.VBox([*fields, self.course, self.distribution])
        self.step.observe(lambda change: self._show_step(), "value")
        for slider in (self.alpha, self.top_p):
            slider.observe(lambda change: self._replay(), "value")
        self._replay()

    def _replay(self) -> None:
        self._replayed = {title: replay(log, self.alpha.value, self.top_p.value) for title, log in self._logs.items()}
        self._figure = policy_figure(self._replayed)
        self._show_step()

    def _show_step(self) -> None:
        step = self.step.value
        self.course.value = png(mark_step(self._figure, step))
        self.distribution.value = png(step_figure(self._replayed, step))
        self.status.value = sentence(self._replayed, step)


def show_algorithm_controls(logs: Mapping[str, pd.DataFrame], alpha: float, top_p: float, step: int) -> None:
    """Display the sliders; a sentence where there is no front end with a user."""
    from IPython.display import HTML, display

    if not live():
        display(HTML("<p>Run this notebook in JupyterLab for sliders over steps, α and p.</p>"))
        return
    # The sentence is shown for a saved notebook without its kernel, as on GitHub.
    shown = {"text/html": "<p>The sliders are not stored. Run this notebook in JupyterLab to use them.</p>"}
    bundle = AlgorithmControls(logs, alpha, top_p, step).panel._repr_mimebundle_()
    display({**bundle, "text/plain": "sliders", **shown}, raw=True)
