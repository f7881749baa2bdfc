"""Rollouts of a model that can be solved by hand: two tokens, one `GAP` nats above the other, drawn anew each time."""

import numpy as np
import pandas as pd

from tampo.paper.optimal_temperature import GRID, ScoredRollouts

GAP = 1.5
CANDIDATES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)


def log_probs(favoured, temperatures):
    """log softmax((GAP, 0) / T) of each token: (M,) booleans -> (M, K)."""
    scaled = GAP / np.asarray(temperatures)
    return np.where(np.asarray(favoured)[:, None], scaled, 0.0) - np.log1p(np.exp(scaled))


def make_rollouts(sampled_at, count=400, length=20, seed=0):
    """Rollouts of one length in pairs; the one of a pair with more favoured tokens has the advantage."""
    generator = np.random.default_rng(seed)
    temperatures = np.unique(np.round([*GRID, *CANDIDATES, sampled_at], 9))
    favoured = generator.random((count, length)) < 1 / (1 + np.exp(-GAP / sampled_at))
    scored = log_probs(favoured.ravel(), temperatures)
    pairs = favoured.sum(axis=1).reshape(-1, 2)
    table = pd.DataFrame(
        {
            "prompt": np.arange(count) // 2,
            "tokens": length,
            "correct": False,
            "advantage": np.sign(pairs - pairs.mean(axis=1, keepdims=True)).ravel(),
            "truncated": False,
        }
    )
    sums = scored.reshape(count, length, -1).sum(axis=1)
    return ScoredRollouts(sampled_at, temperatures, table, sums, scored.astype(np.float32))
