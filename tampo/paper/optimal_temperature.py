"""T*, the temperature at which a rollout is likeliest (Eq. 7), on the candidates and on a continuous scale.

T* is the maximum-likelihood estimate of the temperature that a rollout was sampled at. Of n tokens its standard
deviation is about 1 / sqrt(n I), I the Fisher information of one token about T.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tampo.paper.questions import Questions, group_advantages
from tampo.paper.trajectories import LanguageModel, sample_trajectories, token_log_probs

# Where the continuous T* is sought. Rollouts of greedy tokens only have theirs at 0, so an end is often reached.
GRID: tuple[float, ...] = tuple(np.geomspace(0.25, 4.0, 81).tolist())


@dataclass(frozen=True)
class ScoredRollouts:
    """Rollouts of one sampling temperature, scored at K virtual ones.

    Attributes:
        sampled_at: The temperature that they were sampled at.
        temperatures: The virtual temperatures, ascending, shape (K,).
        table: N rows: prompt, tokens, correct, advantage (Eq. 1), truncated.
        log_likelihoods: Summed over tokens (Eq. 8), in nats, shape (N, K).
        log_probs: Of every token of all rollouts, shape (M, K).
    """

    sampled_at: float
    temperatures: NDArray[np.float64]
    table: pd.DataFrame
    log_likelihoods: NDArray[np.float64]
    log_probs: NDArray[np.float32]

    def at(self, temperatures: Sequence[float]) -> NDArray[np.intp]:
        """The places of some of the virtual temperatures. Raises ValueError when one is not among them."""
        return _places(self.temperatures, temperatures)


def score_rollouts(
    model: LanguageModel,
    questions: Questions,
    n: int,
    temperature: float,
    max_tokens: int,
    seed: int,
    candidates: Sequence[float],
    grid: Sequence[float] = GRID,
) -> ScoredRollouts:
    """Sample `n` rollouts of every question at `temperature`, judge them, and score them at all temperatures.

    Args:
        model: The policy.
        questions: What is asked.
        n: Rollouts a question, G.
        temperature: Sampling temperature.
        max_tokens: Tokens a rollout may have.
        seed: Seed of the samples.
        candidates: The candidates of the meta-policy.
        grid: Further virtual temperatures, for the continuous T*.
    """
    virtual = np.unique(np.round([*candidates, *grid, temperature], 9))  # (K,)
    trajectories = sample_trajectories(model, questions.prompts, n, temperature, max_tokens, seed)
    correct = questions.correct(trajectories)
    scored = token_log_probs(model, trajectories, virtual.tolist())
    table = pd.DataFrame(
        {
            "prompt": [t.prompt for t in trajectories],
            "tokens": [len(t.tokens) for t in trajectories],
            "correct": correct,
            "advantage": group_advantages(correct, n),
            "truncated": [t.truncated for t in trajectories],
        }
    )
    sums = np.stack([log_probs.sum(axis=0, dtype=np.float64) for log_probs in scored])
    return ScoredRollouts(temperature, virtual, table, sums, np.concatenate(scored))


def likeliest_temperatures(log_likelihoods: ArrayLike, temperatures: ArrayLike) -> NDArray[np.float64]:
    """T* on a continuous scale: where the parabola through the three best points, as a function of 1/T, is highest.

    Args:
        log_likelihoods: Shape (N, K).
        temperatures: Shape (K,), ascending.

    Returns:
        Shape (N,). The end of the grid where the likelihood rises up to it; ties go to the lower temperature.

    Raises:
        ValueError: Shapes do not agree, or temperatures do not ascend.
    """
    values, grid = np.asarray(log_likelihoods, dtype=np.float64), np.asarray(temperatures, dtype=np.float64)
    if values.ndim != 2 or values.shape[1:] != grid.shape or (np.diff(grid) <= 0).any():
        raise ValueError(f"expected (N, K) values at K ascending temperatures, got {values.shape} and {grid.shape}.")
    best = values.argmax(axis=1)  # (N,), the first of equal ones
    result = grid[best]
    inner = (best > 0) & (best < len(grid) - 1)
    rows, places = np.flatnonzero(inner), best[inner]
    beta = 1 / grid
    b0, b1, b2 = beta[places - 1], beta[places], beta[places + 1]
    y0, y1, y2 = (values[rows, places + step] for step in (-1, 0, 1))
    # Vertex of a parabola through three points that are not evenly spaced.
    left, right = (b1 - b0) * (y1 - y2), (b1 - b2) * (y1 - y0)
    curved = left - right
    shift = np.divide((b1 - b0) * left - (b1 - b2) * right, 2 * curved, out=np.zeros_like(curved), where=curved != 0)
    result[rows] = 1 / (b1 - shift)
    return result


def rollout_optima(curves: pd.DataFrame, candidates: Sequence[float]) -> pd.DataFrame:
    """T* of each rollout of `tampo.paper.trajectories.likelihood_curves`.

    Returns:
        Columns rollout, tokens, correct, candidate (Eq. 7: the likeliest candidate) and optimum (continuous, within the
        temperatures of the curves).
    """
    rows = curves.drop_duplicates("rollout")[["rollout", "tokens", "correct"]].reset_index(drop=True)
    wide = curves.pivot(index="rollout", columns="temperature", values="log_likelihood").loc[rows["rollout"]]
    grid, values = wide.columns.to_numpy(dtype=np.float64), wide.to_numpy()
    places = _places(grid, candidates)
    rows["candidate"] = grid[places][values[:, places].argmax(axis=1)]
    rows["optimum"] = likeliest_temperatures(values, grid)
    return rows


def fisher_information(scored: ScoredRollouts) -> float:
    """Information of one token about T at the temperature in force: -d2/dT2 of its expected log-probability.

    At the sampling temperature that is T^-4 times the variance of the logits; here minus the curvature in 1/T of the
    mean over all tokens, by differences.
    """
    beta, mean = 1 / scored.temperatures, scored.log_likelihoods.sum(axis=0) / scored.table["tokens"].sum()
    curvature = np.gradient(np.gradient(mean, beta), beta)  # (K,)
    here = int(scored.at([scored.sampled_at])[0])
    return float(-curvature[here] / scored.sampled_at**4)


def pooled_estimate(scored: ScoredRollouts) -> dict[str, float]:
    """T* of all tokens of all rollouts together, which no reward has selected: the sampling temperature, but for noise.

    Returns:
        sampled_at, rollouts, tokens, optimum, standard_error (1 / sqrt(n I)), information (I, of one token).
    """
    tokens, information = int(scored.table["tokens"].sum()), fisher_information(scored)
    total = scored.log_likelihoods.sum(axis=0, keepdims=True)
    return {
        "sampled_at": scored.sampled_at,
        "rollouts": len(scored.table),
        "tokens": tokens,
        "optimum": float(likeliest_temperatures(total, scored.temperatures)[0]),
        "standard_error": float(1 / np.sqrt(tokens * information)),
        "information": information,
    }


def _places(grid: NDArray[np.float64], temperatures: Sequence[float]) -> NDArray[np.intp]:
    places = np.abs(grid[:, None] - np.asarray(temperatures)).argmin(axis=0)
    if not np.allclose(grid[places], temperatures):
        raise ValueError(f"scored at {grid.tolist()}, asked for {list(temperatures)}.")
    return places
