"""Cells of tables for readers, and estimates over training seeds."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tampo.paper.study_tables import average_rows, cells, difference_columns, over_seeds, with_interval, with_p

NAN = math.nan


def test_an_interval_over_seeds_is_that_of_a_t_test():
    values = [0.2, 0.5, 0.3, 0.7]
    expected = stats.ttest_1samp(values, 0)
    found = difference_columns(over_seeds(values))
    low, high = expected.confidence_interval()
    assert list(found.values()) == pytest.approx([np.mean(values), low, high, expected.pvalue])


@pytest.mark.parametrize(("values", "mean"), [([0.3], 0.3), ([0.3, NAN], NAN)])
def test_without_a_second_value_there_is_no_interval(values, mean):
    found = difference_columns(over_seeds(values))
    assert found == pytest.approx({"difference": mean, "low": NAN, "high": NAN, "p": NAN}, nan_ok=True)


def test_texts():
    assert with_interval(41.23, 39, 43.46) == "41.2 (39.0 to 43.5)"
    assert with_interval(0.5, NAN, NAN, digits=3) == "0.500"
    assert with_interval(NAN, NAN, NAN) == "–"
    assert with_interval(-0.04, -1, 0.04, signed=True) == "+0.0 (-1.0 to +0.0)", "no negative zero"
    assert with_p(-1.5, -2, -1, 0.0004) == "-1.5 (-2.0 to -1.0), p < 0.001"
    assert with_p(1.5, -2, 5, 0.046) == "+1.5 (-2.0 to +5.0), p = 0.046"
    assert with_p(1.5, NAN, NAN, NAN) == "+1.5"


def test_cells_keep_the_order_of_rows_and_metrics():
    rows = [(title, metric) for title in ("z", "a") for metric in ("pass@8", "pass@1", "reward")]
    table = pd.DataFrame(rows, columns=["title", "metric"]).assign(value=0.5, low=0.25, high=0.75)
    shown = cells(table, "title")
    assert shown.index.tolist() == ["z", "a"]
    assert shown.columns.tolist() == ["Pass@8", "Pass@1", "reward"]
    assert shown.loc["a"].tolist() == ["0.5 (0.2 to 0.8)"] * 2 + ["0.500 (0.250 to 0.750)"]


def test_the_average_stands_for_several_benchmarks():
    assert average_rows(pd.DataFrame({"benchmark": ["Average", "gcd"]}))["benchmark"].tolist() == ["Average"]
    assert average_rows(pd.DataFrame({"benchmark": ["lookups"]}))["benchmark"].tolist() == ["lookups"]
