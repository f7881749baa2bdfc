"""Pass@k against enumeration, intervals against their definition."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tampo.stats import mean_interval, pass_at_k


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


def test_interval_of_a_proportion_is_the_binomials():
    """300 of 1,000: the normal approximation gives 0.3 +- 1.96 sqrt(0.21 / 1000)."""
    values = np.repeat([1.0, 0.0], [300, 700])
    mean, low, high = mean_interval([values])
    half = 1.96 * np.sqrt(0.21 / 1000)
    assert mean == pytest.approx(0.3)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_groups_weigh_the_same_whatever_their_size():
    mean, low, high = mean_interval([np.ones(10), np.tile([0.0, 1.0], 500)])
    assert mean == pytest.approx(0.75)
    assert low < 0.75 < high


def test_coverage():
    """95 % intervals of 200 samples of size 50 hold the true mean about 95 times in 100."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        _, low, high = mean_interval([generator.normal(1, 1, 50)], resamples=400)
        hits += low <= 1 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_interval_is_reproducible_and_degenerate_cases_work():
    values = np.random.default_rng(1).random(30)
    assert mean_interval([values], seed=3) == mean_interval([values], seed=3)
    assert mean_interval([[4.0]]) == (4.0, 4.0, 4.0)
    assert mean_interval([[4.0], [1.0, 2.0]])[0] == pytest.approx(2.75)
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([[]])
