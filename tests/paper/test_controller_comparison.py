"""The numbers behind the comparison of rules, and what is drawn of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tampo.paper.controller_comparison import sampled_temperatures, score_dots, temperature_panels, training_summary
from tampo.paper.experiments import CONTROLLER_ROWS, TABLE1, Method, Result

METHODS = (Method("base", "Base", None), Method("a", "Rule A"), Method("tampo", "TAMPO"), Method("absent", "Absent"))


class Log:
    def __init__(self, seed, level):
        generator = np.random.default_rng(seed)
        steps = np.arange(1, 41)
        self.log = pd.DataFrame({"step": steps, "reward": level + 0.01 * generator.normal(size=40)})
        self.log["temperature"] = np.where(steps > 15, 1.2, 0.9)

    def metrics(self):
        return self.log


@pytest.fixture
def result():
    trainings = {("a", seed): Log(seed, 0.4) for seed in (2, 0, 1)} | {("tampo", 0): Log(7, 0.6)}
    return Result(pd.DataFrame(), {}, trainings)


def test_area_is_the_mean_reward_with_an_interval_over_seeds(result):
    summary = training_summary(result, METHODS).set_index("title")
    assert summary.index.tolist() == ["Rule A", "TAMPO"]
    means = [result.trainings["a", seed].log["reward"].mean() for seed in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    row = summary.loc["Rule A"]
    assert row[["value", "low", "high"]].tolist() == pytest.approx([np.mean(means), low, high])
    assert row["temperature"] == pytest.approx((15 * 0.9 + 25 * 1.2) / 40)
    assert row["last_temperature"] == pytest.approx(1.2)
    assert summary["seeds"].tolist() == [3, 1]


def test_temperatures_of_every_seed_in_order(result):
    drawn = sampled_temperatures(result, METHODS)
    assert drawn.groupby("title", sort=False)["seed"].unique().map(list).to_dict() == {
        "Rule A": [0, 1, 2],
        "TAMPO": [0],
    }
    assert len(drawn) == 4 * 40
    figure = temperature_panels(drawn)
    shown = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert shown == ["Rule A", "TAMPO"]
    *_, thick = figure.axes[0].lines
    assert thick.get_ydata().tolist() == [0.9] * 15 + [1.2] * 25, "a schedule is not smoothed"
    plt.close(figure)


def test_dots_are_the_values(result):
    training = training_summary(result, METHODS)
    figure = score_dots(pd.concat([training, training.assign(metric="pass@1")]), ("pass@1", "reward"))
    for axes in figure.axes:
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "D")]
        assert dots == pytest.approx(training["value"].tolist())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Rule A", "TAMPO"]
    plt.close(figure)


def test_the_comparison_has_every_rule_and_the_runs_of_table_1():
    from tampo.controllers.registry import CONTROLLERS

    assert CONTROLLER_ROWS[: len(TABLE1)] == TABLE1
    assert {method.changes["temperature_controller"] for method in CONTROLLER_ROWS if method.changes} == set(
        CONTROLLERS
    )
    assert len({method.key for method in CONTROLLER_ROWS}) == len(CONTROLLER_ROWS)
