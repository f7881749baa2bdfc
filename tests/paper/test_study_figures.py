"""Figures of the studies: the numbers behind them, a panel for each case, and their labels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tampo.paper.experiments import CONTROLLER_ROWS, REGRET_ROWS, TABLE1, Method
from tampo.paper.optimal_temperature import convergence, convergence_summary, fisher_information, weight_table
from tampo.paper.replay import REPLAY
from tampo.paper.results import Result
from tampo.paper.study_figures import (
    best_evaluation,
    comparison_figure,
    convergence_figure,
    difference_figure,
    evaluation_figure,
    explained_by_temperature,
    sampled_temperatures,
    score_dots,
    temperature_panels,
    training_summary,
    weight_figure,
)
from tests.paper.helpers import assert_fits, title_of
from tests.trainer.two_token_rollouts import CANDIDATES, make_rollouts

METHODS = (
    Method("base", "Base", None),
    Method("a", "Controller A"),
    Method("tampo", "TAMPO"),
    Method("absent", "Absent"),
)


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
    runs = {("a", seed): Log(seed, 0.4) for seed in (2, 0, 1)} | {("tampo", 0): Log(7, 0.6)}
    return Result(pd.DataFrame(), {}, runs)


def test_area_is_the_mean_reward_with_an_interval_over_seeds(result):
    summary = training_summary(result, METHODS).set_index("title")
    assert summary.index.tolist() == ["Controller A", "TAMPO"]
    means = [result.runs["a", seed].log["reward"].mean() for seed in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    row = summary.loc["Controller A"]
    assert row[["value", "low", "high"]].tolist() == pytest.approx([np.mean(means), low, high])
    assert row["temperature"] == pytest.approx((15 * 0.9 + 25 * 1.2) / 40)
    assert row["last_temperature"] == pytest.approx(1.2)
    assert summary["seeds"].tolist() == [3, 1]


def test_temperatures_of_every_seed_in_order(result):
    drawn = sampled_temperatures(result, METHODS)
    assert drawn.groupby("title", sort=False)["seed"].unique().map(list).to_dict() == {
        "Controller A": [0, 1, 2],
        "TAMPO": [0],
    }
    assert len(drawn) == 4 * 40
    figure = temperature_panels(drawn)
    shown = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert shown == ["Controller A", "TAMPO"]
    *_, thick = figure.axes[0].lines
    assert thick.get_ydata().tolist() == [0.9] * 15 + [1.2] * 25, "a schedule is not smoothed"
    assert title_of(figure) == "Mean sampling temperature: 1.09 for both"
    assert_fits(figure)
    plt.close(figure)


def test_dots_are_the_values(result):
    training = training_summary(result, METHODS)
    figure = score_dots(pd.concat([training, training.assign(metric="pass@1")]), ("pass@1", "reward"))
    for axes in figure.axes:
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "D")]
        assert dots == pytest.approx(training["value"].tolist())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Controller A", "TAMPO"]
    assert title_of(figure).startswith("Highest Pass@1: TAMPO, ")
    assert_fits(figure)
    plt.close(figure)


def test_the_comparisons_have_every_controller_and_the_runs_of_table_1():
    from tampo.controllers.registry import CONTROLLERS

    assert CONTROLLER_ROWS[: len(TABLE1)] == TABLE1
    rows = [method for method in (*CONTROLLER_ROWS, *REGRET_ROWS) if method.changes]
    assert {method.changes["temperature_controller"] for method in rows} == set(CONTROLLERS)
    for comparison in (CONTROLLER_ROWS, REGRET_ROWS):
        assert len({method.key for method in comparison}) == len(comparison)


def test_evaluation_figure_says_what_it_shows():
    rows = [
        {
            "title": title,
            "metric": metric,
            "benchmark": "Average",
            "eval_temperature": t,
            "value": 5,
            "low": 4,
            "high": 7,
        }
        for title in ("one", "two")
        for metric in ("avg@8", "pass@8")
        for t in (0.6, 1.0)
    ]
    figure = evaluation_figure(pd.DataFrame(rows), ("avg@8", "pass@8"))
    assert title_of(figure) == "Highest avg@8 at T = 0.6: one, 5.0 %; at T = 1: one, 5.0 %"
    assert_fits(figure)
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("average avg@8, %", "average Pass@8, %")
    assert len(left.containers) == 2


def test_weights_have_a_panel_for_each_length_and_likelihood():
    figure = weight_figure(weight_table(make_rollouts(1.0), CANDIDATES, 20, seed=0))
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["30 tokens", "300 tokens", "3,000 tokens"]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["weight (sum, Eq. 8)", "weight (mean, Eq. 6)"]
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)
    assert title_of(figure).startswith(f"Candidates with a weight (of {len(CANDIDATES)}) at 30 and 3,000 tokens: ")
    assert_fits(figure)


def test_convergence_has_a_panel_for_each_temperature():
    scored = {t: make_rollouts(t) for t in (0.9, 1.5)}
    summary = convergence_summary(pd.concat([convergence(s, CANDIDATES, 50, seed=0) for s in scored.values()]))
    figure = convergence_figure(summary, {t: fisher_information(s) for t, s in scored.items()})
    assert [axes.get_title() for axes in figure.axes] == ["sampled at T = 0.9", "sampled at T = 1.5"]
    assert figure.axes[0].get_xscale() == "log"
    assert len(figure.legends[0].get_texts()) == 5
    assert title_of(figure).startswith("|Median of T* - T| is at most ")
    assert_fits(figure)


def test_comparison_of_training_runs():
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
    assert title_of(figure) == "Mean T at the end: from 1.00 for a to 2.00 for b; reward: from 1.00 for a to 2.00 for b"
    assert_fits(figure)


def test_differences_have_a_line_for_each_row():
    rows = [("Random", 2.0, 0.5, 3.5), (REPLAY.title, 0.3, -0.5, 1.1)]
    figure = difference_figure(pd.DataFrame(rows, columns=["rival", "difference", "low", "high"]), "points")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Random", REPLAY.title]
    assert title_of(figure).endswith("; minus its replays in points: +0.3 (-0.5 to +1.1)")
    assert_fits(figure)


def scores_of(values, metric="avg@8", benchmark="Average", **more):
    return pd.DataFrame([{"title": t, "benchmark": benchmark, "metric": metric, "value": v} | more for t, v in values])


def test_the_share_explained_by_temperature_is_that_of_a_regression():
    training = pd.DataFrame({"title": list("abcd"), "temperature": [0.7, 0.9, 1.2, 1.5], "metric": "reward"})
    training["value"] = 1.0 - 0.3 * training["temperature"]
    noisy = [48.0, 50.5, 49.9, 51.2]
    summary = pd.concat([scores_of(zip("abcd", noisy, strict=True)), scores_of([("a", 3.0)], benchmark="one")])
    table = explained_by_temperature(training, summary).set_index("metric")
    line = stats.linregress(training["temperature"], noisy)
    assert table.loc["avg@8", "line"] == pytest.approx(line.rvalue**2)
    assert line.rvalue**2 < table.loc["avg@8", "parabola"] < 1, "four points, three parameters"
    assert table.loc["reward", ["line", "parabola", "controllers"]].tolist() == pytest.approx([1.0, 1.0, 4])


def test_the_best_evaluation_temperature_of_each_method():
    parts = [(0.6, [("Base", 51.9), ("A", 50.0)]), (1.0, [("Base", 34.0), ("A", 52.0)])]
    summary = pd.concat([scores_of(v, eval_temperature=t, low=0.0, high=99.0) for t, v in parts], ignore_index=True)
    table = best_evaluation(summary, "avg@8")
    assert table[["title", "eval_temperature", "value"]].to_numpy().tolist() == [["A", 1.0, 52.0], ["Base", 0.6, 51.9]]
