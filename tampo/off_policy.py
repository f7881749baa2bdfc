"""What a batch says about other temperatures than its own, by importance weights, in numpy.

The K virtual likelihoods of a rollout (Eq. 8) over its likelihood at the sampling temperature are the weights that turn
the batch into one that was sampled at each candidate. Further away, fewer rollouts carry the weight: every estimate
comes with the share of effective samples (Kong 1992), and below a tenth or so it means little.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def reward_at(log_weights: ArrayLike, rewards: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean reward at each candidate, self-normalised, and the share of effective samples.

    Args:
        log_weights: Logarithms of importance weights, shape (N, K).
        rewards: Shape (N,); rollouts with NaN are left out.

    Returns:
        Rewards (K,) and shares (K,), between 1 / N and 1; NaN and 0 if no rollout has a reward.

    Example:
        >>> values, shares = reward_at([[0.0, 1.0], [0.0, -1.0]], [1.0, 0.0])
        >>> values.round(2).tolist(), shares.round(2).tolist()
        ([0.5, 0.88], [1.0, 0.63])
    """
    logs, values = np.asarray(log_weights, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    graded = ~np.isnan(values)
    logs, values = logs[graded], values[graded]
    if not len(values):
        return np.full(logs.shape[1], np.nan), np.zeros(logs.shape[1])
    weights = np.exp(logs - logs.max(axis=0))  # (N, K)
    total = weights.sum(axis=0)  # (K,), at least 1
    return (weights * values[:, None]).sum(axis=0) / total, total**2 / (weights**2).sum(axis=0) / len(values)


def mixed_pairs(log_weights: ArrayLike, rewards: ArrayLike, groups: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """The share of pairs of rollouts of a prompt of which the first is right and the second is not, at each candidate.

    It is what a group of rollouts can learn from: without a mixed pair all its advantages are 0. At p the probability
    of a right answer, its expectation is p (1 - p). For each group it is the U-statistic
    sum_{i != j} w_i w_j r_i (1 - r_j) / sum_{i != j} w_i w_j, and the result is the mean over groups. As any ratio
    of so few, it is drawn towards its value at the sampling temperature (by a tenth at G = 8 and T = 1.5 for 1).

    Args:
        log_weights: Logarithms of importance weights, shape (N, K).
        rewards: Between 0 and 1, shape (N,). Rollouts with NaN are left out, and groups of fewer than two.
        groups: The prompt of each rollout, shape (N,).

    Returns:
        The share (K,), and of the samples that are effective (K,), as in `reward_at`; NaN and 0 without a group.

    Example:
        >>> share, samples = mixed_pairs([[0.0]] * 4, [1, 0, 0, 0], [0, 0, 1, 1])
        >>> share.tolist()
        [0.25]
    """
    logs, values = np.asarray(log_weights, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    prompts = np.asarray(groups)
    shares: list[Any] = []
    for prompt in np.unique(prompts):
        mine = (prompts == prompt) & ~np.isnan(values)
        if mine.sum() < 2:
            continue
        right = values[mine][:, None]  # (G, 1)
        weights = np.exp(logs[mine] - logs[mine].max(axis=0))  # (G, K)
        first, second, both = weights * right, weights * (1 - right), weights**2
        pairs = weights.sum(axis=0) ** 2 - both.sum(axis=0)
        mixed = first.sum(axis=0) * second.sum(axis=0) - (both * right * (1 - right)).sum(axis=0)
        # One rollout with all the weight makes no pair.
        shares.append(np.divide(mixed, pairs, out=np.zeros_like(mixed), where=pairs > 1e-12))
    _, samples = reward_at(logs, values)
    if not shares:
        return np.full(logs.shape[1], np.nan), np.zeros(logs.shape[1])
    return np.mean(shares, axis=0), samples
