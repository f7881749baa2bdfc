"""Errors of published numbers against simulation, and the power of a comparison against simulated experiments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tampo.paper.power import (
    PROBLEMS,
    Rates,
    closeness,
    error_of_average,
    fit_rates,
    power,
    power_figure,
    power_table,
    published_errors,
    published_rates,
    seeds_needed,
    settling_table,
    simulate_average,
)
from tests.paper.helpers import assert_fits, title_of


@given(st.floats(0.1, 0.9), st.floats(0.1, 50))
def test_rates_are_found_again_from_pass_1_and_pass_8(mean, concentration):
    a, b = mean * concentration, (1 - mean) * concentration
    missed = stats.betabinom.pmf(0, 8, a, b)  # all of 8 samples wrong
    found = fit_rates(mean, 1 - missed)
    assert found.concentration == pytest.approx(concentration, rel=1e-3)
    assert found.within + found.between == pytest.approx(mean * (1 - mean))
    assert found.between == pytest.approx(stats.beta(a, b).var(), rel=1e-3)


def test_pass_8_outside_of_what_rates_can_have():
    assert fit_rates(0.5, 0.5).within < 1e-3, "each problem is solved always or never"
    assert fit_rates(0.5, 1.0).between < 1e-3, "all problems are alike"


def test_errors_are_those_of_simulated_evaluations():
    rates, generator = published_rates("tampo"), np.random.default_rng(0)
    for samples in (1, 8):
        same = np.array([simulate_average(rates, 40, samples, generator).var(ddof=1) for _ in range(60)])
        assert np.sqrt(same.mean()) == pytest.approx(error_of_average(rates, samples), rel=0.05)
        new = np.array([simulate_average(rates, 1, samples, generator)[0] for _ in range(1500)])
        assert new.std() == pytest.approx(error_of_average(rates, samples, same_problems=False), rel=0.06)


def test_the_published_errors_are_binomial():
    """For one sample, and new problems: p (1 - p) / n of each benchmark, whatever the rates."""
    table = published_errors().set_index("row")
    p = np.array([23.3, 76.8, 55.0, 27.9, 39.6]) / 100
    expected = 100 * np.sqrt((p * (1 - p) / np.array(list(PROBLEMS.values()))).sum()) / 5
    assert table.loc["tampo", "error, new problems"] == pytest.approx(expected)
    assert table["error, new problems"].between(2.0, 2.4).all()
    assert (table["error, same problems"] < table["error, new problems"]).all()


def test_closeness_against_simulation():
    drawn = np.random.default_rng(0).normal(0, 2.0, (200_000, 3))
    spread = drawn.std(axis=1)
    values = [44.0, 45.0, 46.5]
    assert closeness(values, 2.0) == pytest.approx((spread <= np.std(values)).mean(), abs=0.005)


@pytest.mark.parametrize(("seeds", "samples"), [(3, 1), (5, 8)])
def test_power_is_that_of_simulated_experiments(seeds, samples):
    rates, generator = published_rates("tampo"), np.random.default_rng(1)
    table = power_table(rates, 1.9, 0.5, (seeds,), (samples,)).set_index("comparison")
    error, found = error_of_average(rates, samples), []
    for _ in range(4000):
        one, other = (
            mean + generator.normal(0, 0.5, seeds) + generator.normal(0, error, seeds) for mean in (44.5, 42.6)
        )
        found.append(stats.ttest_ind(one, other).pvalue < 0.05)
    assert np.mean(found) == pytest.approx(table.loc["same problems", "power"], abs=0.03)
    assert table.loc["new problems", "power"] < table.loc["same problems", "power"]


def test_seeds_needed_is_the_first_number_with_the_power():
    rates = published_rates("tampo")
    count = seeds_needed(rates, 1.9, 0.94, samples=8)
    table = power_table(rates, 1.9, 0.94, (count - 1, count), (8,)).set_index(["comparison", "seeds"])["power"]
    assert table["same problems", count - 1] < 0.8 <= table["same problems", count]
    assert seeds_needed({"AIME24": Rates(0.5, 1.0)}, 0.001, 1.0, 1) == 1000


def test_what_settles_it_costs_what_is_planned():
    rates = published_rates("tampo")
    table = settling_table(rates, 1.9, (0.0, 1.0), (1, 8))
    assert table["seeds"].tolist() == [seeds_needed(rates, 1.9, sd, n) for n in (1, 8) for sd in (0.0, 1.0)]
    one, eight = table.iloc[0], table.iloc[2]
    hours = [float(text.replace(",", "")) for text in one["training"].split(" to ")]
    assert 0 < hours[0] < hours[1]
    assert float(eight["training"].split(" to ")[0].replace(",", "")) / eight["seeds"] == pytest.approx(
        hours[0] / one["seeds"], rel=0.05
    ), "more samples change the evaluation alone"


def test_figure_has_a_line_for_each_number_of_samples_and_comparison():
    figure = power_figure(power_table(published_rates("tampo"), 1.9, 0.5))
    assert len(figure.axes[0].get_legend().get_texts()) == 6
    assert title_of(figure).startswith("Seeds for 80 % power, same problems: ")
    assert_fits(figure)


def test_power_without_an_effect_is_the_level():
    assert power(1e-9, 1.0, 8) == pytest.approx(0.05, abs=1e-4)
    assert power(20.0, 0.1, 38) == 1.0, "where the library's series has no value"
