"""T* against closed forms and an optimiser, and of all tokens together against the temperature in force."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from tampo.config import EvaluationConfig
from tampo.paper.optimal_temperature import (
    GRID,
    fisher_information,
    likeliest_temperatures,
    pooled_estimate,
    rollout_optima,
    score_rollouts,
)
from tampo.paper.questions import suite_questions
from tampo.paper.trajectories import load_language_model
from tests.trainer.two_token_rollouts import CANDIDATES, GAP, log_probs, make_rollouts


@given(st.integers(30, 60), st.integers(61, 95))
def test_two_tokens_have_a_closed_form(fewer, more):
    """m of n tokens are the favoured one: T* = GAP / log(m / (n - m))."""
    favoured = np.array([np.arange(100) < m for m in (60 + fewer % 30, more)])
    values = np.stack([log_probs(row, GRID).sum(axis=0) for row in favoured])
    m = favoured.sum(axis=1)
    expected = GAP / np.log(m / (100 - m))
    inside = (expected > GRID[1]) & (expected < GRID[-2])
    np.testing.assert_allclose(likeliest_temperatures(values, GRID)[inside], expected[inside], rtol=2e-3)
    outside = likeliest_temperatures(values, GRID)[expected > GRID[-1] * 1.02]
    assert (outside == GRID[-1]).all()


@pytest.mark.parametrize("seed", range(5))
def test_optimum_against_an_optimiser(seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (40, 30))
    tokens = [generator.choice(30, p=np.exp(log_softmax(row / 1.2))) for row in logits]

    def log_likelihood(temperature):
        chosen = logits[np.arange(40), tokens] / temperature
        return (chosen - logsumexp(logits / temperature, axis=1)).sum()

    found = minimize_scalar(lambda t: -log_likelihood(t), bounds=(0.25, 4), method="bounded", options={"xatol": 1e-6})
    ours = likeliest_temperatures([[log_likelihood(t) for t in GRID]], GRID)[0]
    assert ours == pytest.approx(found.x, rel=1e-3)


def test_optimum_at_the_ends_and_of_equals():
    assert likeliest_temperatures([[3, 2, 1], [1, 2, 3], [0, 0, 0], [-5, 0, 0]], [1, 2, 4]).tolist() == pytest.approx(
        [1, 4, 1, 1 / 0.3125], rel=0.2
    )
    with pytest.raises(ValueError, match="ascending"):
        likeliest_temperatures([[1, 2]], [2, 1])
    with pytest.raises(ValueError, match="K ascending temperatures"):
        likeliest_temperatures([[1, 2, 3]], [1, 2])


def test_optima_of_curves():
    favoured = np.arange(50)[None] < np.array([[30], [45]])
    parts = [
        pd.DataFrame({"rollout": i, "temperature": GRID, "log_likelihood": log_probs(row, GRID).sum(axis=0)})
        for i, row in enumerate(favoured, start=1)
    ]
    table = rollout_optima(pd.concat(parts).assign(tokens=50, correct=True), GRID[10:60:10])
    np.testing.assert_allclose(table["optimum"], [GAP / np.log(30 / 20), GAP / np.log(9)], rtol=2e-3)
    for candidate, row in zip(table["candidate"], favoured, strict=True):
        assert candidate == max(GRID[10:60:10], key=lambda t, row=row: log_probs(row, [t]).sum())


def test_information_of_a_token():
    """I(T) = Var(z) / T^4; for two tokens p (1 - p) GAP^2 / T^4. The sample's own is that plus noise in its mean."""
    for temperature in (0.9, 1.5):
        p = 1 / (1 + np.exp(-GAP / temperature))
        expected = p * (1 - p) * GAP**2 / temperature**4
        assert fisher_information(make_rollouts(temperature)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("temperature", [0.9, 1.2, 1.5])
def test_all_tokens_together_give_the_sampling_temperature(temperature):
    estimate = pooled_estimate(make_rollouts(temperature, count=2000))
    assert estimate["tokens"] == 40_000
    assert abs(estimate["optimum"] - temperature) < 4 * estimate["standard_error"]
    assert estimate["standard_error"] < 0.03


def test_real_rollouts_end_to_end():
    mini = load_language_model("mini")
    questions = suite_questions(EvaluationConfig(benchmarks=("gcd", "products")), mini, 4)
    scored = score_rollouts(mini, questions, 4, 1.2, 40, 0, CANDIDATES)
    assert len(scored.table) == 32
    assert scored.log_probs.shape == (scored.table["tokens"].sum(), len(scored.temperatures))
    starts = np.cumsum([0, *scored.table["tokens"]])[:-1]
    np.testing.assert_allclose(
        np.add.reduceat(scored.log_probs.astype(float), starts), scored.log_likelihoods, atol=1e-4
    )
    assert (scored.table.groupby("prompt")["advantage"].sum().abs() < 1e-9).all()
    assert abs(pooled_estimate(scored)["optimum"] - 1.2) < 4 * pooled_estimate(scored)["standard_error"]
    assert scored.temperatures[scored.at(CANDIDATES)].tolist() == list(CANDIDATES)
    with pytest.raises(ValueError, match="asked for"):
        scored.at([0.123])
