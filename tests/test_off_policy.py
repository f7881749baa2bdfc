"""Rewards and mixed pairs at other temperatures: exact on small distributions, and by brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tampo.off_policy import mixed_pairs, reward_at

TEMPERATURES = np.array([0.6, 1.0, 1.5])


def log_softmax(logits, temperatures):
    scaled = logits[:, None] / temperatures  # (V, K)
    return scaled - np.log(np.exp(scaled).sum(axis=0))


def test_reward_at_another_temperature_is_the_expectation_there():
    """Every outcome once for each of its counts: the estimate is then exact."""
    logits = np.log([8.0, 4.0, 2.0, 1.0, 1.0])
    rewards = np.array([0.0, 1.0, 0.5, 1.0, 0.0])
    counts = np.array([8, 4, 2, 1, 1])  # their probabilities at T = 1 are these over 16
    scores = log_softmax(logits, TEMPERATURES)
    drawn = np.repeat(np.arange(5), counts)
    found, shares = reward_at((scores - scores[:, 1:2])[drawn], rewards[drawn])
    np.testing.assert_allclose(found, (np.exp(scores) * rewards[:, None]).sum(axis=0))
    assert shares[1] == pytest.approx(1.0)
    assert (shares[[0, 2]] < 1).all()
    second = (np.exp(scores) ** 2 / np.exp(scores[:, 1:2])).sum(axis=0)  # E[w^2] at T = 1
    np.testing.assert_allclose(shares, 1 / second)


def test_rollouts_without_a_reward_are_left_out():
    logs = np.array([[0.0, 2.0], [0.0, 1.0], [0.0, 900.0]])
    for rewards in ([1.0, 0.0], [1.0, 0.0, np.nan]):
        found, _ = reward_at(logs[: len(rewards)], rewards)
        np.testing.assert_allclose(found, [0.5, 1 / (1 + math.exp(-1))])
    found, shares = reward_at(logs, [np.nan] * 3)
    assert np.isnan(found).all() and not shares.any()
    found, shares = mixed_pairs(logs, [np.nan] * 3, [0, 0, 0])
    assert np.isnan(found).all() and not shares.any()


def pairs_by_hand(weights, rewards):
    """The U-statistic as written, over all ordered pairs."""
    pairs = list(itertools.permutations(range(len(rewards)), 2))
    over = sum(weights[i] * weights[j] * rewards[i] * (1 - rewards[j]) for i, j in pairs)
    return over / sum(weights[i] * weights[j] for i, j in pairs)


@given(st.data())
def test_mixed_pairs_are_the_sum_over_pairs(data):
    sizes = data.draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    number = st.floats(-3, 3)
    logs = np.array(data.draw(st.lists(st.tuples(number, number), min_size=len(groups), max_size=len(groups))))
    rewards = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=len(groups), max_size=len(groups)))
    )
    found, _ = mixed_pairs(logs, rewards, groups)
    for k in range(2):
        each = [pairs_by_hand(np.exp(logs[groups == g, k]), rewards[groups == g]) for g in range(len(sizes))]
        assert found[k] == pytest.approx(np.mean(each), abs=1e-9)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    again, _ = mixed_pairs(logs[shuffled], rewards[shuffled], groups[shuffled])
    np.testing.assert_allclose(again, found, atol=1e-12)


def test_mixed_pairs_estimate_p_times_one_minus_p():
    """Without weights, the mean over many groups is unbiased, also of groups of two."""
    right = np.random.default_rng(0).random((20_000, 2)) < 0.3
    found, samples = mixed_pairs(np.zeros((40_000, 1)), right.ravel(), np.repeat(np.arange(20_000), 2))
    assert found[0] == pytest.approx(0.3 * 0.7, abs=0.01)
    assert samples[0] == pytest.approx(1.0)


def test_one_rollout_with_all_the_weight_makes_no_pair():
    found, samples = mixed_pairs([[800.0], [0.0], [0.0]], [1, 0, 0], [0, 0, 0])
    assert found.tolist() == [0.0]
    assert samples[0] == pytest.approx(1 / 3)
