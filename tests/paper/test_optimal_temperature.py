"""T* against closed forms and an optimiser, and by length of rollouts; weights against another sparsemax."""

import numpy as np
import pandas as pd
import pytest
from entmax import sparsemax as entmax_sparsemax
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from torch import tensor

from tampo.config import EvaluationConfig
from tampo.paper.optimal_temperature import (
    GRID,
    bootstrap_sums,
    convergence,
    convergence_summary,
    fisher_information,
    likeliest_temperatures,
    pooled_estimate,
    rollout_optima,
    score_rollouts,
    weight_summary,
    weight_table,
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


def test_bootstrap_has_the_mean_and_variance_of_a_sum():
    real = make_rollouts(1.0).log_probs[:, :3]
    sums = bootstrap_sums(real, 50, 4000, np.random.default_rng(0))
    assert sums.shape == (4000, 3)
    np.testing.assert_allclose(sums.mean(axis=0), 50 * real.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(sums.var(axis=0), 50 * real.var(axis=0), rtol=0.1)
    np.testing.assert_allclose(bootstrap_sums(real[:1], 7, 2, np.random.default_rng(0)), 7 * real[[0, 0]], rtol=1e-6)


def test_weights():
    scored = make_rollouts(1.0)
    weights = weight_table(scored, CANDIDATES, 50, seed=3)
    assert len(weights) == 3 * 2 * 50 * len(CANDIDATES)
    np.testing.assert_allclose(weights.groupby(["length", "likelihood", "trial"])["weight"].sum(), 1)
    pd.testing.assert_frame_equal(weights, weight_table(scored, CANDIDATES, 50, seed=3))
    assert not weights.equals(weight_table(scored, CANDIDATES, 50, seed=4))
    # Of one kind of token only: n times its log-probabilities, or once.
    same = scored.log_probs[:1]
    alone = weight_table(
        type(scored)(1.0, scored.temperatures, scored.table, scored.log_likelihoods, same), CANDIDATES, 2, 0
    )
    values = same[:, scored.at(CANDIDATES)].astype(float)
    for likelihood, factor in (("sum", 300), ("mean", 1)):
        ours = alone[(alone["likelihood"] == likelihood) & (alone["length"] == 300) & (alone["trial"] == 0)]["weight"]
        np.testing.assert_allclose(ours, entmax_sparsemax(tensor(factor * values), dim=-1)[0], atol=1e-5)


def test_sums_sharpen_with_length_and_means_do_not():
    summary = weight_summary(weight_table(make_rollouts(1.0), CANDIDATES, 200, seed=0)).set_index(
        ["likelihood", "length"]
    )
    assert summary.loc["sum", "support_mean"].is_monotonic_decreasing
    assert summary.loc[("sum", 3000), "support_mean"] < 2.5
    assert (summary.loc["mean", "support_mean"] > 8).all()
    assert (summary.loc["mean", "entropy_mean"] > summary.loc["sum", "entropy_mean"]).all()


def test_summary_of_weights_by_hand():
    weights = pd.DataFrame(
        {
            "length": 30,
            "likelihood": "sum",
            "trial": np.repeat([0, 1], 4),
            "weight": [1, 0, 0, 0, 0.25, 0.25, 0.25, 0.25],
        }
    )
    row = weight_summary(weights).iloc[0]
    assert (row["support_mean"], row["largest_mean"]) == (2.5, 0.625)
    assert row["support_std"] == pytest.approx(np.std([1, 4], ddof=1))
    assert row["entropy_mean"] == pytest.approx(np.log(4) / 2)


def test_long_chains_converge_to_the_sampling_temperature():
    """Spread falls as 1 / sqrt(n I), for good chains and bad ones; and so does what selection leaves between them."""
    scored = make_rollouts(1.2, count=3000)
    optima = convergence(scored, CANDIDATES, 400, seed=0, lengths=(20, 200, 2000, 8000))
    assert optima["kind"].value_counts().to_dict() == {"rollout": 3000, "chain": 1200}  # 20 tokens are one rollout
    chains = optima[optima["kind"] == "chain"]
    assert (chains["tokens"] == chains["length"]).all()
    for length, group in chains.groupby("length"):
        spread = 1 / np.sqrt(length * fisher_information(scored))
        assert group["optimum"].std() == pytest.approx(spread, rel=0.35 if length == 200 else 0.15)
        assert abs(group["optimum"].mean() - 1.2) < 0.5 * spread + 0.03
    summary = convergence_summary(optima)
    medians = summary[summary["kind"] == "chain"].pivot(index="length", columns="sign", values="median")
    gaps = medians["A < 0"] - medians["A > 0"]  # favoured tokens are likelier when it is cold
    assert (gaps > 0).all()
    assert gaps[8000] < gaps[2000] < gaps[200]
    assert gaps[8000] < 0.1


def test_offsets_by_hand():
    optima = pd.DataFrame(
        {
            "sampled_at": 1.0,
            "kind": "rollout",
            "length": 16,
            "tokens": [16, 20, 30, 17],
            "advantage": [1.0, 0.5, -1.0, 0.0],
            "optimum": [0.8, 0.6, 1.5, 9.0],
            "candidate": [0.8, 0.6, 1.5, 1.5],
        }
    )
    summary = convergence_summary(optima).set_index("sign")
    assert summary["count"].to_dict() == {"A > 0": 2, "A < 0": 1}, "advantages of 0 are in neither"
    row = summary.loc["A > 0"]
    assert row[["tokens", "mean", "std", "low", "median", "high"]].tolist() == pytest.approx(
        [18, -0.3, 0.1, -0.35, -0.3, -0.25]
    )
    assert row["candidate_mean"] == pytest.approx(-0.3)
