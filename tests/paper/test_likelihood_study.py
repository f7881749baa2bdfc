"""Weights against sparsemax itself, and what theory says of the T* of long rollouts."""

import numpy as np
import pandas as pd
import pytest
from entmax import sparsemax as entmax_sparsemax
from torch import tensor

from tampo.paper.likelihood_study import bootstrap_sums, settling, settling_summary, weight_summary, weight_table
from tampo.paper.optimal_temperature import fisher_information
from tests.trainer.two_token_rollouts import CANDIDATES, make_rollouts


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


def test_long_chains_settle_at_the_sampling_temperature():
    """Spread falls as 1 / sqrt(n I), for good chains and bad ones; and so does what selection leaves between them."""
    scored = make_rollouts(1.2, count=3000)
    settled = settling(scored, CANDIDATES, 400, seed=0, lengths=(20, 200, 2000, 8000))
    assert settled["kind"].value_counts().to_dict() == {"rollout": 3000, "chain": 1200}  # 20 tokens are one rollout
    chains = settled[settled["kind"] == "chain"]
    assert (chains["tokens"] == chains["length"]).all()
    for length, group in chains.groupby("length"):
        spread = 1 / np.sqrt(length * fisher_information(scored))
        assert group["optimum"].std() == pytest.approx(spread, rel=0.35 if length == 200 else 0.15)
        assert abs(group["optimum"].mean() - 1.2) < 0.5 * spread + 0.03
    summary = settling_summary(settled)
    medians = summary[summary["kind"] == "chain"].pivot(index="length", columns="sign", values="median")
    gaps = medians["A < 0"] - medians["A > 0"]  # favoured tokens are likelier when it is cold
    assert (gaps > 0).all()
    assert gaps[8000] < gaps[2000] < gaps[200]
    assert gaps[8000] < 0.1


def test_offsets_by_hand():
    settled = pd.DataFrame(
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
    summary = settling_summary(settled).set_index("sign")
    assert summary["count"].to_dict() == {"A > 0": 2, "A < 0": 1}, "advantages of 0 are in neither"
    row = summary.loc["A > 0"]
    assert row[["tokens", "mean", "std", "low", "median", "high"]].tolist() == pytest.approx(
        [18, -0.3, 0.1, -0.35, -0.3, -0.25]
    )
    assert row["candidate_mean"] == pytest.approx(-0.3)
