"""Signals and gains from logs whose values are known."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from tampo.paper.experiments import REGRET_FIXED, REGRET_ROWS
from tampo.paper.regret import RegretRuns
from tampo.paper.signals import GAIN, PHASES, SIGNALS, agreement, signal_table, signals_figure
from tests.paper.helpers import assert_fits, title_of

REWARD, PAIRS, ADVANTAGE = (title for title, *_ in SIGNALS)
GRID = (0.6, 0.9, 1.5)


class Log:
    def __init__(self, **columns):
        self.columns = columns

    def metrics(self):
        steps = np.arange(30)
        return pd.DataFrame({name: value + 0.0 * steps for name, value in self.columns.items()})


def fixed(final, seed):
    """The reward at T = 1 rises in the first third only, to `final`."""
    reward = np.concatenate([np.linspace(0, final, 10), np.full(20, final)]) + 0.01 * seed
    return Log(**{"reward_at/1": reward, "reward_at/1_samples": 1.0, "temperature": 1.0})


@pytest.fixture
def runs():
    records = {}
    for seed in (0, 1):
        for method, final in zip(REGRET_FIXED, (0.1, 0.2, 0.3, 0.3, 0.5, 0.4), strict=True):
            records["facts", method.key, seed] = fixed(final, seed)
        signals = {f"reward_at/{t:g}": 1 - 0.3 * t + 0.1 * seed for t in GRID}
        signals |= {f"reward_at/{t:g}_samples": 0.5 for t in GRID}
        signals |= {f"meta_policy/signal({t:g})": -((t - 0.9) ** 2) for t in GRID}
        records["facts", "tampo", seed] = Log(**signals)
        records["facts", "learning-signal", seed] = Log(**{f"controller/mixed_pairs({t:g})": t for t in GRID})
    methods = tuple(m for m in REGRET_ROWS if m.key in {key for _, key, _ in records})
    return RegretRuns(methods, {("facts", 1.0, "tampo"): {}}, {1.0: 4}, {}, records)


def test_signals_are_means_over_steps_and_seeds(runs):
    table = signal_table(runs).set_index(["phase", "quantity", "temperature"])["value"]
    assert table[PHASES[1], REWARD, 0.6] == pytest.approx(1 - 0.18 + 0.05)
    assert table[PHASES[1], PAIRS, 1.5] == pytest.approx(1.5)
    assert table[PHASES[2], ADVANTAGE, 1.5] == pytest.approx(-0.36)
    assert set(table.index.get_level_values("temperature")) == {0.6, 0.7, 0.9, 1.0, 1.2, 1.5}


def test_gains_are_differences_of_the_ends_of_a_third(runs):
    table = signal_table(runs).set_index(["phase", "quantity", "temperature"])["value"]
    ends = np.linspace(0, 0.5, 10)
    assert table[PHASES[0], GAIN, 1.2] == pytest.approx(ends[-3:].mean() - ends[:3].mean())
    assert table[PHASES[1], GAIN, 1.2] == pytest.approx(0)


def test_steps_with_few_effective_samples_count_little(runs):
    first = np.where(np.arange(30) < 1, 9.0, 0.2)  # a wild value of the first step
    shares = np.where(np.arange(30) < 1, 1e-9, 1.0)
    key = ("facts", REGRET_FIXED[0].key)
    for seed in (0, 1):
        runs.runs[*key, seed] = Log(**{"reward_at/1": first, "reward_at/1_samples": shares})
    table = signal_table(runs).set_index(["phase", "quantity", "temperature"])["value"]
    assert table[PHASES[0], GAIN, 0.6] == pytest.approx(0, abs=1e-6)


def test_agreement_says_where_a_rule_would_go_and_where_the_gain_is(runs):
    table = agreement(signal_table(runs)).set_index(["phase", "signal"])
    row = table.loc[PHASES[0], REWARD]
    assert (row["its best T"], row["largest gain at T"]) == (0.6, 1.2)
    assert row["correlation"] == pytest.approx(-1.0), "over 0.6, 0.9 and 1.5, which both have"
    assert table.loc[(PHASES[0], PAIRS), "correlation"] == pytest.approx(1.0)
    assert np.isnan(table.loc[(PHASES[1], PAIRS), "correlation"]), "no temperature gained anything"


def test_the_figure_has_a_panel_for_each_third(runs):
    table = signal_table(runs)
    figure = signals_figure(pd.concat([table, table.assign(regime="other")]))
    assert [axes.get_title() for axes in figure.axes] == [f"{r}, {p}" for r in ("facts", "other") for p in PHASES]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [REWARD, PAIRS, ADVANTAGE, GAIN]
    assert all(-0.01 <= y <= 1.01 for axes in figure.axes for line in axes.lines for y in line.get_ydata())
    assert title_of(figure).startswith("Rank correlation of a signal with the gain, mean of panels: from -1.00 for ")
    assert_fits(figure)
