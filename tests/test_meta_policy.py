"""The meta-policy against an oracle written from Eqs. 9-12 with plain loops, its invariants and its edge cases."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tampo.meta_policy import DEFAULT_TEMPERATURES, MetaPolicy, nucleus, sparsemax


def oracle_sparsemax(row):
    """Projection onto the simplex by bisection on the threshold: max(z - tau, 0) must sum to 1."""
    low, high = min(row) - 1.0, max(row)
    for _ in range(200):
        tau = (low + high) / 2
        if sum(max(z - tau, 0.0) for z in row) > 1:
            low = tau
        else:
            high = tau
    return [max(z - (low + high) / 2, 0.0) for z in row]


class Oracle:
    """Algorithm 1, lines 1 and 15-19, from the equations, with lists and loops."""

    def __init__(self, k, alpha, mean=False):
        self.average, self.alpha, self.mean = [0.0] * k, alpha, mean

    def update(self, log_likelihoods, advantages, lengths):
        k, n = len(self.average), len(advantages)
        batch = [0.0] * k
        for row, advantage, length in zip(log_likelihoods, advantages, lengths, strict=True):
            weights = oracle_sparsemax([value / length if self.mean else value for value in row])
            for j in range(k):
                batch[j] += weights[j] * advantage / n  # Eqs. 9 and 10
        self.average = [(1 - self.alpha) * old + self.alpha * new for old, new in zip(self.average, batch, strict=True)]

    def probabilities(self):
        low, high = min(self.average), max(self.average)
        if low == high:
            return [1 / len(self.average)] * len(self.average)
        scaled = [(value - low) / (high - low) for value in self.average]
        return [value / sum(scaled) for value in scaled]


@st.composite
def batches(draw, max_rows=12):
    """(log_likelihoods, advantages, lengths) of one batch for four temperatures."""
    rows = draw(st.integers(1, max_rows))
    likelihood = st.floats(-400, 0, width=32)
    return (
        draw(hnp.arrays(np.float64, (rows, 4), elements=likelihood)),
        draw(hnp.arrays(np.float64, rows, elements=st.floats(-3, 3, width=32))),
        draw(hnp.arrays(np.float64, rows, elements=st.integers(1, 200))),
    )


FOUR = (0.6, 0.9, 1.2, 1.5)


@given(st.lists(batches(), min_size=1, max_size=5), st.floats(0, 1), st.sampled_from(["sum", "mean"]))
def test_equals_the_equations(steps, alpha, likelihood):
    policy, oracle = MetaPolicy(FOUR, alpha=alpha, likelihood=likelihood), Oracle(4, alpha, likelihood == "mean")
    for step in steps:
        policy.update(*step)
        oracle.update(*step)
    np.testing.assert_allclose(policy.advantages, oracle.average, atol=1e-9)
    spread = max(oracle.average) - min(oracle.average)
    if spread > 1e-6:  # min-max turns rounding of nearly equal averages into probability
        np.testing.assert_allclose(policy.probabilities, oracle.probabilities(), atol=1e-8 / spread)


@given(st.lists(batches(), max_size=4))
def test_probabilities_are_a_distribution(steps):
    policy = MetaPolicy(FOUR)
    for step in steps:
        policy.update(*step)
    for probabilities in (policy.probabilities, policy.sampling_probabilities):
        assert probabilities.dtype == np.float64
        assert (probabilities >= 0).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert 0 <= policy.entropy <= math.log(4) + 1e-12


@given(batches())
def test_temperature_advantages_sum_to_the_mean_advantage(batch):
    """sum_k A_B^(T_k) = mean of A, since a rollout's weights sum to 1; so 0 for a whole group."""
    assert MetaPolicy(FOUR).batch_advantages(*batch).sum() == pytest.approx(batch[1].mean(), abs=1e-9)


@given(batches(), st.randoms(use_true_random=False))
def test_order_of_rollouts_does_not_matter_to_the_last_bit(batch, random):
    order = list(range(len(batch[1])))
    random.shuffle(order)
    one, other = MetaPolicy(FOUR), MetaPolicy(FOUR)
    one.update(*batch)
    other.update(*(part[order] for part in batch))
    assert one.advantages.tolist() == other.advantages.tolist()


@given(st.lists(batches(), min_size=2, max_size=5), st.integers(0, 2**32), st.floats(0, 1))
def test_state_round_trip_draws_the_same_temperatures(steps, seed, top_p):
    whole = MetaPolicy(FOUR, top_p=top_p, seed=seed, warmup_updates=1)
    for step in steps[:1]:
        whole.sample()
        whole.update(*step)
    restored = MetaPolicy(FOUR, top_p=top_p, seed=seed + 1, warmup_updates=1)
    restored.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for step in steps[1:]:
        assert whole.sample() == restored.sample()
        whole.update(*step)
        restored.update(*step)
    assert [whole.sample() for _ in range(20)] == [restored.sample() for _ in range(20)]
    assert whole.state_dict() == restored.state_dict()


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-1e4, 1e4)))
def test_sparsemax_equals_bisection(rows):
    np.testing.assert_allclose(sparsemax(rows), [oracle_sparsemax(row) for row in rows], atol=1e-9)


def brute_force_nucleus(probabilities, temperatures, p):
    """Grow the set one by one, most likely first, lower temperature on a tie."""
    kept, mass = [], 0.0
    for k in sorted(range(len(probabilities)), key=lambda k: (-probabilities[k], temperatures[k])):
        kept.append(k)
        mass += probabilities[k]
        if mass >= p - 1e-9:
            break
    return [probabilities[k] / mass if k in kept else 0.0 for k in range(len(probabilities))]


@given(hnp.arrays(np.float64, 6, elements=st.integers(0, 5)).filter(lambda a: a.sum() > 0), st.floats(0, 1))
def test_nucleus_is_the_smallest_set_that_reaches_p(weights, p):
    probabilities, temperatures = weights / weights.sum(), np.array([1.1, 0.6, 1.0, 0.7, 1.5, 0.9])
    expected = brute_force_nucleus(probabilities, temperatures, p)
    np.testing.assert_allclose(nucleus(probabilities, p, temperatures), expected, atol=1e-12)


def test_ten_tenths_reach_one():
    tenths = np.full(10, 0.1)
    assert (nucleus(tenths, 0.7, np.arange(10.0)) > 0).sum() == 7
    assert (nucleus(tenths, 1.0, np.arange(10.0)) > 0).sum() == 10


def moved(**settings):
    """A policy whose averages are 0.0, 0.3, 0.6, 0.1 by construction (one-hot likelihoods, alpha 1)."""
    policy = MetaPolicy(FOUR, alpha=1.0, **settings)
    one_hot = np.where(np.eye(4, dtype=bool), 0.0, -100.0)
    policy.update(one_hot, 4 * np.array([0.0, 0.3, 0.6, 0.1]), np.ones(4))
    np.testing.assert_allclose(policy.advantages, [0.0, 0.3, 0.6, 0.1])
    return policy


def draws(policy, count=2000):
    values, counts = np.unique([policy.sample() for _ in range(count)], return_counts=True)
    return dict(zip(values.tolist(), (counts / count).tolist(), strict=True))


def test_the_worst_temperature_gets_nothing_and_the_rest_their_share():
    np.testing.assert_allclose(moved().probabilities, [0.0, 0.3, 0.6, 0.1])


def test_p_zero_is_greedy_and_p_one_is_the_whole_distribution():
    assert draws(moved(top_p=0)) == {1.2: 1.0}
    assert draws(moved(top_p=1)) == pytest.approx({0.9: 0.3, 1.2: 0.6, 1.5: 0.1}, abs=0.04)
    assert draws(moved(top_p=0.7)) == pytest.approx({0.9: 1 / 3, 1.2: 2 / 3}, abs=0.04)


def test_before_the_first_update_all_temperatures_are_equally_likely():
    policy = MetaPolicy()
    np.testing.assert_allclose(policy.probabilities, 0.1)
    assert policy.entropy == pytest.approx(math.log(10))
    assert MetaPolicy(top_p=0).sample() == 0.6, "ties go to the lower temperature"
    assert policy.temperatures.tolist() == list(DEFAULT_TEMPERATURES)


def test_equal_averages_and_zero_advantages_leave_it_uniform():
    policy = MetaPolicy(FOUR)
    policy.update(np.random.default_rng(0).normal(size=(6, 4)) * 50, np.zeros(6))
    assert policy.probabilities.tolist() == [0.25] * 4
    policy.update(np.full((6, 4), -7.0), np.ones(6))  # likelihoods that tell nothing apart
    assert policy.probabilities.tolist() == [0.25] * 4
    assert policy.updates == 2


def test_one_candidate_is_always_drawn():
    policy = MetaPolicy([0.8], top_p=0.5)
    policy.update([[-3.0], [-4.0]], [1.0, -0.5])
    assert policy.probabilities.tolist() == [1.0]
    assert policy.sample() == 0.8
    assert policy.entropy == 0


def test_candidates_may_come_in_any_order():
    assert MetaPolicy([1.5, 0.6, 1.0], top_p=0).sample() == 0.6


def test_warmup_holds_its_temperature_while_the_policy_learns():
    policy = MetaPolicy(FOUR, alpha=1, top_p=0, warmup_updates=2, warmup_temperature=1.0)
    sampled = []
    for _ in range(4):
        sampled.append(policy.sample())
        policy.update([[-9.0, -9.0, -1.0, -9.0]], [1.0])
    assert sampled == [1.0, 1.0, 1.2, 1.2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["log_likelihoods", "advantages", "lengths"])
def test_numbers_that_are_none_are_refused_and_nothing_changes(bad, where):
    policy = moved(likelihood="mean") if where == "lengths" else moved()
    before = policy.state_dict()
    batch = {"log_likelihoods": np.full((2, 4), -1.0), "advantages": np.ones(2), "lengths": np.ones(2)}
    batch[where].flat[1] = bad
    with pytest.raises(ValueError, match=rf"{where} must be finite; 1 of"):
        policy.update(**batch)
    assert policy.state_dict() == before


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([[-1.0] * 3], [1.0]), r"shape \(N, K\) = \(1, 4\)"),
        (([[-1.0] * 4], [1.0, 2.0]), r"\(2, 4\) for 2 advantages"),
        (([-1.0] * 4, [1.0]), "log_likelihoods must have 2 dimension"),
        ((np.zeros((0, 4)), []), "at least one rollout"),
    ],
)
def test_wrong_shapes_are_refused_and_nothing_changes(batch, message):
    policy = moved()
    before = policy.state_dict()
    with pytest.raises(ValueError, match=message):
        policy.update(*batch)
    assert policy.state_dict() == before


def test_mean_needs_lengths():
    with pytest.raises(ValueError, match="lengths is needed"):
        MetaPolicy(FOUR, likelihood="mean").update([[-1.0] * 4], [1.0])
    with pytest.raises(ValueError, match="token counts"):
        MetaPolicy(FOUR, likelihood="mean").update([[-1.0] * 4], [1.0], [-2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": []}, "temperatures must be a list of at least one"),
        ({"temperatures": [0.6, 0.0]}, "temperatures must be positive"),
        ({"temperatures": [0.6, math.inf]}, "temperatures must be positive and finite"),
        ({"temperatures": [0.6, math.nan]}, "temperatures must be a number, got nan"),
        ({"temperatures": [0.6, 0.6]}, "temperatures must be distinct"),
        ({"alpha": -0.1}, "alpha must be between 0 and 1"),
        ({"top_p": 1.1}, "top_p must be between 0 and 1"),
        ({"top_p": math.nan}, "top_p must be a number, got nan"),
        ({"likelihood": "max"}, "likelihood must be 'sum'"),
        ({"warmup_updates": -1}, "warmup_updates"),
        ({"warmup_temperature": 0}, "warmup_temperature"),
    ],
)
def test_bad_parameters_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MetaPolicy(**settings)


@pytest.mark.parametrize("damage", ["missing", "temperatures", "length", "nan"])
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(damage):
    policy, state = moved(), moved().state_dict()
    if damage == "missing":
        del state["generator"]
    elif damage == "temperatures":
        state["temperatures"] = [0.5, 0.9, 1.2, 1.5]
    elif damage == "length":
        state["advantages"] = [0.0]
    else:
        state["advantages"][0] = math.nan
    before = policy.state_dict()
    with pytest.raises(ValueError):
        policy.load_state_dict(state)
    assert policy.state_dict() == before


def test_copies_are_handed_out():
    policy = moved()
    policy.advantages[0] = 9.0
    assert policy.advantages[0] == 0.0
