"""Pass@k against enumeration, intervals against their definition."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import mannwhitneyu, trim_mean

from tampo.stats import (
    Estimate,
    deviation_interval,
    holm,
    iqm,
    mean_interval,
    pass_at_k,
    probability_of_improvement,
)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_equals_enumeration(ncK):
    n, c, k = ncK
    samples = [True] * c + [False] * (n - c)
    subsets = list(combinations(samples, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_shapes_and_large_n():
    np.testing.assert_allclose(pass_at_k([8, 8, 4], [0, 4, 4], 1), [0, 0.5, 1])
    assert isinstance(pass_at_k(8, 2, 8), float)
    assert 0.63 < pass_at_k(100_000, 1_000, 100) < 0.64


@pytest.mark.parametrize(("n", "c", "k"), [(8, 2, 9), (8, 2, 0), (8, 9, 1), (8, -1, 1)])
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_one_seed_is_students_interval_over_problems():
    values = np.random.default_rng(1).random(30)
    estimate = mean_interval([values])
    expected = stats.ttest_1samp(values, 0, alternative="greater")
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.p_greater == pytest.approx(expected.pvalue)
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_one_value_a_seed_is_students_interval_over_seeds():
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.35])
    estimate = mean_interval([values[:, None]])
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.p_greater == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)


def test_a_seed_moves_all_benchmarks_together():
    """Without differences between problems only the seeds' means are left, averaged over the benchmarks."""
    shifts = np.array([1.0, 2.0, 4.0])
    estimate = mean_interval([np.tile(shifts[:, None], (1, 7)), np.tile(shifts[:, None], (1, 3))])
    low, high = stats.ttest_1samp(shifts, 0).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_interval_of_a_proportion_is_the_binomials():
    """300 of 1,000: the normal approximation gives 0.3 +- 1.96 sqrt(0.21 / 1000)."""
    estimate = mean_interval([np.repeat([1.0, 0.0], [300, 700])])
    half = 1.96 * np.sqrt(0.21 / 1000)
    assert estimate.value == pytest.approx(0.3)
    assert (estimate.low, estimate.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-3)


def test_groups_weigh_the_same_whatever_their_size():
    estimate = mean_interval([np.ones(10), np.tile([0.0, 1.0], 500)])
    assert estimate.value == pytest.approx(0.75)
    assert estimate.low < 0.75 < estimate.high


@pytest.mark.parametrize(("seed_scale", "problem_scale"), [(1.0, 0.0), (0.0, 1.0), (0.3, 1.0)])
def test_coverage_with_crossed_seeds_and_problems(seed_scale, problem_scale):
    """95 % intervals hold the true mean about 95 times in 100, whether seeds, problems or noise vary most."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        seeds = seed_scale * generator.normal(size=(5, 1))
        groups = [
            1 + seeds + problem_scale * generator.normal(size=(1, count)) + generator.normal(size=(5, count))
            for count in (20, 40)
        ]
        estimate = mean_interval(groups)
        hits += estimate.low <= 1 <= estimate.high
    assert 0.925 <= hits / 400 <= 0.99


def test_degenerate_groups():
    assert mean_interval([[4.0]]) == Estimate(4.0, 4.0, 4.0, 0.0)
    assert mean_interval([np.zeros((2, 3))]) == Estimate(0.0, 0.0, 0.0, 1.0)
    assert mean_interval([[4.0], [1.0, 2.0]]).value == pytest.approx(2.75)
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([[]])
    with pytest.raises(ValueError, match=r"number of seeds: \[2, 1\]"):
        mean_interval([[[1.0], [2.0]], [[1.0]]])


def closed_testing(p_values, level):
    """Holm's method by its definition: reject a hypothesis if Bonferroni rejects every intersection that holds it."""
    count = len(p_values)
    groups = [g for size in range(1, count + 1) for g in combinations(range(count), size)]
    rejected = {g for g in groups if min(p_values[i] for i in g) * len(g) <= level}
    return [all(g in rejected for g in groups if i in g) for i in range(count)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0.01, 0.2))
@settings(max_examples=12, deadline=None)  # the library collects garbage at each call
def test_holm_is_closed_bonferroni(p_values, level):
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    for decision, value in zip(closed_testing(p_values, level), adjusted, strict=True):
        assert decision == (value <= level) or value == pytest.approx(level)


def test_holm_of_nothing_and_of_nan():
    assert holm([]) == []
    assert holm([0.5, float("nan"), 0.01]) == [1.0, 1.0, 0.03]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8).filter(lambda x: np.std(x) > 1e-3))
def test_deviation_interval_holds_the_deviation(values):
    result = deviation_interval(np.array(values))
    assert result.value == pytest.approx(np.std(values, ddof=1))
    assert result.low < result.value < result.high


def test_deviation_interval_covers():
    generator = np.random.default_rng(0)
    samples = [deviation_interval(generator.normal(0, 2, 5)) for _ in range(500)]
    assert 0.92 < np.mean([s.low <= 2 <= s.high for s in samples]) < 0.98
    assert not np.isfinite(deviation_interval(np.array([1.0])).high)


def test_iqm_is_a_trimmed_mean():
    """As scipy's, which the library of Agarwal et al. calls."""
    generator = np.random.default_rng(0)
    for shape in [(1,), (3,), (4,), (7,), (5, 3), (10, 26)]:
        scores = generator.normal(size=shape)
        assert iqm(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None))
    assert iqm([1.0, 2.0, 3.0, 1e9]) == 2.5
    with pytest.raises(ValueError, match="at least one score"):
        iqm([])


def test_probability_of_improvement_is_mann_whitneys():
    """As that library computes it, with ties."""
    generator = np.random.default_rng(0)
    ours, theirs = generator.integers(0, 6, (5, 4)).astype(float), generator.integers(0, 6, (7, 4)).astype(float)
    u = [mannwhitneyu(ours[:, task], theirs[:, task], alternative="greater").statistic for task in range(4)]
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(u) / 35)
    assert probability_of_improvement(ours, ours) == pytest.approx(0.5)
    assert probability_of_improvement(ours + 10, theirs) == 1.0
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(ours, theirs[:, :3])


def test_two_sided_p_values():
    """Student's test; and 1 for values that are all 0, which say nothing against the hypothesis."""
    values = np.array([0.4, -0.1, 0.7, 0.2])
    assert mean_interval([values]).p_two_sided == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert mean_interval([-values]).p_two_sided == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert mean_interval([[0.0, 0.0]]).p_two_sided == 1.0
    assert mean_interval([[3.0, 3.0]]).p_two_sided == 0.0
