"""Figure 2 and the study's figures: every rollout is there, T* where it belongs, files the same twice."""

import itertools

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from tampo.paper.figures import write_figure
from tampo.paper.likelihood_study import settling, settling_summary, weight_table
from tampo.paper.optimal_temperature import fisher_information
from tampo.paper.study_figures import comparison_figure, figure2, settling_figure, weight_figure
from tests.trainer.two_token_rollouts import CANDIDATES, GAP, log_probs, make_rollouts

DRAWN = sorted({*np.round(np.arange(0.3, 2.01, 0.05), 2), *CANDIDATES})


@pytest.fixture
def curves():
    """Three rollouts whose T* are 0.6 (below), 1.0 and 1.5 (above the candidates)."""
    parts = []
    for number, optimum in enumerate((0.4, 1.0, 2.5), start=1):
        share = 1 / (1 + np.exp(-GAP / optimum))
        mean = share * log_probs([True], DRAWN)[0] + (1 - share) * log_probs([False], DRAWN)[0]
        part = {"rollout": number, "tokens": 10 * number, "correct": number == 1, "temperature": DRAWN}
        parts.append(pd.DataFrame(part | {"log_likelihood": 10 * number * mean, "mean_log_likelihood": mean}))
    return pd.concat(parts, ignore_index=True)


def test_figure2(curves):
    figure = figure2(curves, CANDIDATES, 1.0, "a model, a problem")
    axes = figure.axes[0]
    stars = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"]
    assert stars == [0.6, 1.0, 1.5]
    assert axes.get_title() == "a model, a problem"
    assert "nats" in axes.get_ylabel()
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(DRAWN)]
    assert [line.get_linestyle() for line in drawn] == ["-", "--", "--"], "right and wrong differ without colour"
    assert sorted(text.get_text() for text in axes.texts) == ["10", "20", "30", "tokens"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["right", "wrong", "T*", "candidates", "sampled at 1"]


def test_token_labels_do_not_overlap(curves):
    same = pd.concat([curves[curves["rollout"] == 1].assign(rollout=i) for i in range(8)])
    figure = figure2(same, CANDIDATES, 1.0, "")
    figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(t) for t in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1.5 for below, above in itertools.pairwise(boxes))


def test_weights_have_a_panel_for_each_length_and_likelihood():
    figure = weight_figure(weight_table(make_rollouts(1.0), CANDIDATES, 20, seed=0))
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["30 tokens", "300 tokens", "3,000 tokens"]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["weight (sum, Eq. 8)", "weight (mean, Eq. 6)"]
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)


def test_settling_has_a_panel_for_each_temperature():
    scored = {t: make_rollouts(t) for t in (0.9, 1.5)}
    summary = settling_summary(pd.concat([settling(s, CANDIDATES, 50, seed=0) for s in scored.values()]))
    figure = settling_figure(summary, {t: fisher_information(s) for t, s in scored.items()})
    assert [axes.get_title() for axes in figure.axes] == ["sampled at T = 0.9", "sampled at T = 1.5"]
    assert figure.axes[0].get_xscale() == "log"
    assert len(figure.legends[0].get_texts()) == 5


def test_comparison_of_trainings():
    steps = np.arange(1, 31)
    temperatures = pd.concat(
        [
            pd.DataFrame({"title": title, "seed": 0, "step": steps, "mean": level})
            for title, level in (("a", 1), ("b", 2))
        ]
    )
    rewards = temperatures.rename(columns={"mean": "smoothed"})
    figure = comparison_figure(temperatures, rewards, 3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "warm-up"]
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [1, 2]


def test_files_are_the_same_twice(curves, tmp_path):
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        paths = write_figure(figure2(curves, CANDIDATES, 1.0, "t"), {"curves": curves}, folder, "fig2")
        assert [path.name for path in paths] == ["fig2.pdf", "fig2.png", "fig2.curves.csv"]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
