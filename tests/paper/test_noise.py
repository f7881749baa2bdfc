"""Padding drowns the signal as fast as its variance says; the guard closes where there is only noise."""

import numpy as np
import pandas as pd
import pytest

from tampo.meta_policy import DEFAULT_TEMPERATURES, MetaPolicy
from tampo.paper.noise import noise_table, padded_batches, signal_to_noise
from tampo.paper.optimal_temperature import ScoredRollouts
from tampo.paper.questions import group_advantages
from tampo.paper.theory import Answers

GRID = np.array(DEFAULT_TEMPERATURES)


def scored(prompts=30, size=8, seed=0):
    """Groups of answers of one token, whose right ones are likelier at high temperatures, and tokens to pad with."""
    generator, answers = np.random.default_rng(seed), Answers(1.0, 0)
    right = generator.random(prompts * size) < answers.reward_at(1.0)[0]
    table = pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(prompts), size),
            "tokens": 1,
            "correct": right,
            "advantage": group_advantages(right, size),
        }
    )
    likely, unlikely = (-np.logaddexp(0, sign * 2.0 / GRID) for sign in (-1, 1))
    tokens = np.where(generator.random(4000)[:, None] < 1 / (1 + np.exp(-2.0)), likely, unlikely)
    sums = answers.log_likelihoods(GRID)[right.astype(int)]
    return ScoredRollouts(1.0, GRID, table, sums, tokens.astype(np.float32))


def test_a_batch_has_whole_groups_and_as_many_more_tokens():
    rollouts = scored()
    plain, padded = (padded_batches(rollouts, GRID, n, 3, 5, seed=0)[0] for n in (0, 400))
    for batch, tokens in ((plain, 0), (padded, 400)):
        assert batch.log_likelihoods.shape == (40, 10)
        assert batch.lengths.tolist() == [1 + tokens] * 40
        assert batch.groups.tolist() == np.repeat(range(5), 8).tolist()
        np.testing.assert_allclose(batch.advantages.reshape(5, 8).sum(axis=1), 0, atol=1e-9)
    assert len(np.unique(plain.log_likelihoods, axis=0)) == 2, "right and wrong answers of one token"
    own = rollouts.log_probs.astype(float).sum(axis=0) / 4000 * 401
    np.testing.assert_allclose(padded.log_likelihoods.mean(axis=0), own, rtol=0.05)


def test_the_ratio_is_that_of_the_signal_over_batches():
    batches = padded_batches(scored(), GRID, 100, 50, 16, seed=1)
    policy = MetaPolicy(GRID)
    signals = np.array([policy.batch_advantages(b.log_likelihoods, b.advantages) for b in batches])
    mean = signals.mean(axis=0)
    contrast = signals[:, mean.argmax()] - signals[:, mean.argmin()]
    assert signal_to_noise(batches) == pytest.approx(contrast.mean() / contrast.std(ddof=1))


def test_padding_drowns_the_signal_and_the_guard_closes():
    table = noise_table(scored(), GRID, (0, 100, 20_000), guard=4.0).set_index("tokens")
    assert table["signal_to_noise"].is_monotonic_decreasing
    assert table.loc[0, "signal_to_noise"] > 3
    assert table.loc[20_000, "signal_to_noise"] < 0.5
    assert table.loc[0, "open"] == 1.0
    assert table.loc[0, ["free", "free_spread"]].tolist() == table.loc[0, ["guarded", "guarded_spread"]].tolist()
    assert table.loc[20_000, "open"] < 0.1
    assert table.loc[20_000, "free_spread"] > 0.1, "noise alone moves an unguarded temperature"
    assert abs(table.loc[20_000, "guarded"] - 1.0) < 0.05 and table.loc[20_000, "guarded_spread"] < 0.1
