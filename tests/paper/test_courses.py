"""The course of the temperature by regime: from logs whose values are known."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from tampo.config import load_params
from tampo.paper.courses import SHOWN, course_tables, courses_figure
from tampo.paper.experiments import TRAINED
from tampo.paper.regret import RegretRuns
from tests.paper.helpers import assert_fits, title_of


class Log:
    def __init__(self, level, steps=120):
        self.step = np.arange(1, steps + 1)
        self.level = level

    def metrics(self):
        temperature = np.where(self.step <= 12, 1.0, 1.4)
        columns = {"step": self.step, "temperature": temperature, "reward": 0.2, "reward_at/1": self.level}
        return pd.DataFrame(columns | {"reward_at/1_samples": 0.9})


@pytest.fixture
def tables():
    records = {
        (regime, method.key, seed): Log(0.1 * number)
        for regime in SHOWN
        for number, method in enumerate(TRAINED)
        for seed in (0, 1)
        if (regime, method.key) != ("arithmetic", "linear")
    }
    return course_tables(load_params("mini"), RegretRuns((), {}, {}, {}, records))


def test_the_warm_up_and_the_rest_are_smoothed_apart(tables):
    curve = tables[0]["facts"]
    assert curve[curve["step"] == 12]["mean"].tolist() == [1.0, 1.0]
    assert curve[curve["step"] == 13]["mean"].tolist() == [1.4, 1.4]
    assert curve.groupby("seed")["warmup"].sum().tolist() == [12, 12]


def test_rewards_are_those_at_1_and_absent_rows_are_left_out(tables):
    rewards = tables[1]
    last = rewards["facts"].groupby("title", sort=False)["smoothed_at_1"].last()
    assert last.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert "0.9 → 1.5" not in " ".join(rewards["arithmetic"]["title"].unique())


def test_the_figure_has_a_column_for_each_regime(tables):
    figure = courses_figure(*tables)
    assert [axes.get_title() for axes in figure.axes[:2]] == list(SHOWN)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["warm-up", "TAMPO's T, each seed", "mean over seeds"]
    assert labels[-1] == "TAMPO" and len(labels) == 8
    assert title_of(figure) == (
        "TAMPO's mean T: from 1.40 to 1.40 in facts, from 1.40 to 1.40 in arithmetic; "
        "highest reward at T = 1: TAMPO in facts, TAMPO in arithmetic"
    )
    assert_fits(figure)
