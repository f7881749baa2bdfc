"""T*, the temperature at which a rollout is likeliest (Eq. 7), and sparsemax weights (Eq. 9), by length of rollouts.

T* is the maximum-likelihood estimate of the sampling temperature. For n tokens its standard deviation is about
1 / sqrt(n I), where I is the Fisher information per token about T. So T* should converge to the sampling temperature as
rollouts get longer. This is measured on whole rollouts, and on chains of rollouts that stand for long answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tampo.inference.engine import derive_seed
from tampo.meta_policy import sparsemax
from tampo.paper.questions import Questions, group_advantages
from tampo.paper.trajectories import LanguageModel, sample_trajectories, token_log_probs

# The range of the continuous T*. Rollouts of greedy tokens only have T* = 0, so T* is often at an end.
GRID: tuple[float, ...] = tuple(np.geomspace(0.25, 4.0, 81).tolist())
LENGTHS = (30, 300, 3000)  # tokens
CHAIN_LENGTHS = (100, 300, 1000, 3000)  # tokens


@dataclass(frozen=True)
class ScoredRollouts:
    """Rollouts at one sampling temperature, with their likelihoods at K virtual temperatures.

    Attributes:
        sampled_at: The sampling temperature.
        temperatures: The virtual temperatures, ascending, shape (K,).
        table: N rows: prompt, tokens, correct, advantage (Eq. 1), truncated.
        log_likelihoods: Sums over tokens (Eq. 8), in nats, shape (N, K).
        log_probs: Of every token of all rollouts, shape (M, K).
    """

    sampled_at: float
    temperatures: NDArray[np.float64]
    table: pd.DataFrame
    log_likelihoods: NDArray[np.float64]
    log_probs: NDArray[np.float32]

    def at(self, temperatures: Sequence[float]) -> NDArray[np.intp]:
        """Indices of some virtual temperatures. Raises ValueError if one is missing."""
        return _indices(self.temperatures, temperatures)


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
    """Sample `n` rollouts per question at `temperature`, grade them, and compute their likelihoods.

    The virtual temperatures are the candidates of the meta-policy, `grid` (for the continuous T*), and `temperature`.
    """
    virtual = np.unique(np.round([*candidates, *grid, temperature], 9))  # (K,)
    trajectories = sample_trajectories(model, questions.prompts, n, temperature, max_tokens, seed)
    correct = questions.correct(trajectories)
    log_probs = token_log_probs(model, trajectories, virtual.tolist())
    table = pd.DataFrame(
        {
            "prompt": [t.prompt for t in trajectories],
            "tokens": [len(t.tokens) for t in trajectories],
            "correct": correct,
            "advantage": group_advantages(correct, n),
            "truncated": [t.truncated for t in trajectories],
        }
    )
    sums = np.stack([values.sum(axis=0, dtype=np.float64) for values in log_probs])
    return ScoredRollouts(temperature, virtual, table, sums, np.concatenate(log_probs))


def likeliest_temperatures(log_likelihoods: ArrayLike, temperatures: ArrayLike) -> NDArray[np.float64]:
    """Continuous T*: the vertex of the parabola in 1/T through the three best points.

    Args:
        log_likelihoods: Shape (N, K).
        temperatures: Shape (K,), ascending.

    Returns:
        Shape (N,). If the best point is an end of the grid, that end; ties go to the lower temperature.

    Raises:
        ValueError: Shapes do not agree, or temperatures do not ascend.
    """
    values, grid = np.asarray(log_likelihoods, dtype=np.float64), np.asarray(temperatures, dtype=np.float64)
    if values.ndim != 2 or values.shape[1:] != grid.shape or (np.diff(grid) <= 0).any():
        raise ValueError(f"expected (N, K) values at K ascending temperatures, got {values.shape} and {grid.shape}.")
    best = values.argmax(axis=1)  # (N,), the first of equal ones
    result = grid[best]
    rows = np.flatnonzero((best > 0) & (best < len(grid) - 1))
    b0, b1, b2 = (1 / grid[best[rows] + step] for step in (-1, 0, 1))
    y0, y1, y2 = (values[rows, best[rows] + step] for step in (-1, 0, 1))
    left, right = (b1 - b0) * (y1 - y2), (b1 - b2) * (y1 - y0)
    curved = left - right
    shift = np.divide((b1 - b0) * left - (b1 - b2) * right, 2 * curved, out=np.zeros_like(curved), where=curved != 0)
    result[rows] = 1 / (b1 - shift)
    return result


def rollout_optima(curves: pd.DataFrame, candidates: Sequence[float]) -> pd.DataFrame:
    """T* of each rollout of `tampo.paper.trajectories.likelihood_curves`.

    Returns:
        Columns rollout, tokens, correct, candidate (Eq. 7: the likeliest candidate), optimum (continuous, within the
        temperatures of the curves).
    """
    rows = curves.drop_duplicates("rollout")[["rollout", "tokens", "correct"]].reset_index(drop=True)
    wide = curves.pivot(index="rollout", columns="temperature", values="log_likelihood").loc[rows["rollout"]]
    grid, values = wide.columns.to_numpy(dtype=np.float64), wide.to_numpy()
    candidate = values[:, _indices(grid, candidates)].argmax(axis=1)
    return rows.assign(candidate=np.asarray(candidates)[candidate], optimum=likeliest_temperatures(values, grid))


def fisher_information(scored: ScoredRollouts) -> float:
    """Fisher information per token about T at the sampling temperature: -d2/dT2 of the expected log-probability.

    It equals T^-4 times the variance of the logits. Here it is minus the curvature in 1/T of the mean over all tokens,
    by finite differences.
    """
    beta, mean = 1 / scored.temperatures, scored.log_likelihoods.sum(axis=0) / scored.table["tokens"].sum()
    curvature = np.gradient(np.gradient(mean, beta), beta)  # (K,)
    here = int(scored.at([scored.sampled_at])[0])
    return float(-curvature[here] / scored.sampled_at**4)


def pooled_estimate(scored: ScoredRollouts) -> dict[str, float]:
    """T* of all tokens together. No reward has selected them, so up to noise it is the sampling temperature.

    Returns:
        sampled_at, rollouts, tokens, optimum, standard_error (1 / sqrt(n I)), information (I, per token).
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


def bootstrap_sums(
    log_probs: NDArray[np.floating], length: int, trials: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Log-likelihoods, shape (trials, K), of rollouts of `length` tokens resampled from `log_probs`, shape (M, K)."""
    # A product with the counts of each token, so that (trials, length, K) never exists.
    counts = generator.multinomial(length, np.full(len(log_probs), 1 / len(log_probs)), size=trials)  # (trials, M)
    return counts.astype(np.float64) @ log_probs.astype(np.float64)


def weight_table(
    scored: ScoredRollouts, candidates: Sequence[float], trials: int, seed: int, lengths: Sequence[int] = LENGTHS
) -> pd.DataFrame:
    """Sparsemax weights (Eq. 9) from sums (Eq. 8) and means (Eq. 6) of log-probs of `trials` resampled rollouts.

    Returns:
        Columns length (tokens), likelihood ("sum" or "mean"), trial, temperature, weight.
    """
    real, parts = scored.log_probs[:, scored.at(candidates)], []
    for length in lengths:
        sums = bootstrap_sums(real, length, trials, np.random.default_rng(derive_seed(seed, length)))
        for likelihood, values in (("sum", sums), ("mean", sums / length)):
            wide = pd.DataFrame(sparsemax(values), columns=pd.Index(list(candidates), name="temperature"))
            table = wide.rename_axis("trial").stack().reset_index(name="weight")  # type: ignore[call-overload]
            parts.append(table.assign(length=length, likelihood=likelihood))
    return pd.concat(parts, ignore_index=True)[["length", "likelihood", "trial", "temperature", "weight"]]


def weight_summary(weights: pd.DataFrame) -> pd.DataFrame:
    """How concentrated the weights of `weight_table` are: mean and standard deviation over rollouts.

    Returns:
        Columns likelihood, length, support_mean, support_std (number of positive weights), entropy_mean, entropy_std
        (nats; log K for equal weights), largest_mean (the largest weight).
    """
    groups = weights.groupby(["likelihood", "length", "trial"], sort=False)["weight"]
    each = groups.agg(
        support=lambda w: (w > 0).sum(),
        entropy=lambda w: float(-(w[w > 0] * np.log(w[w > 0])).sum()),
        largest="max",
    ).reset_index()
    summary = each.groupby(["likelihood", "length"], sort=False)[["support", "entropy", "largest"]].agg(["mean", "std"])
    summary.columns = ["_".join(column) for column in summary.columns]
    return summary.drop(columns="largest_std").reset_index()


def convergence(
    scored: ScoredRollouts,
    candidates: Sequence[float],
    trials: int,
    seed: int,
    lengths: Sequence[int] = CHAIN_LENGTHS,
) -> pd.DataFrame:
    """T* and advantage of whole rollouts, and of `trials` chains of rollouts for each of `lengths` (tokens).

    A chain is a series of independent rollouts, taken as one long answer. Its log-likelihood is the sum and its
    advantage the mean of those of its rollouts, as if every part added to the reward.

    Returns:
        Columns sampled_at, kind ("rollout" or "chain"), length (of a rollout rounded down to a power of 2, of a chain
        the requested one), tokens, advantage, optimum (T*, continuous), candidate (T*, Eq. 7).
    """
    sums, table = scored.log_likelihoods, scored.table
    tokens, advantages = table["tokens"].to_numpy(), table["advantage"].to_numpy()
    parts = [("rollout", (2 ** np.floor(np.log2(tokens))).astype(int), tokens, advantages, sums)]
    for length in lengths:
        rollouts = round(length / tokens.mean())
        if rollouts > 1:
            generator = np.random.default_rng(derive_seed(seed, f"{scored.sampled_at:g}/{length}"))
            drawn = generator.integers(len(table), size=(trials, rollouts))
            # One chain at a time: (trials, rollouts, K) may not fit into memory.
            chained = np.stack([sums[chain].sum(axis=0) for chain in drawn])
            parts.append(("chain", length, tokens[drawn].sum(axis=1), advantages[drawn].mean(axis=1), chained))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "sampled_at": scored.sampled_at,
                    "kind": kind,
                    "length": length,
                    "tokens": count,
                    "advantage": advantage,
                    "optimum": likeliest_temperatures(values, scored.temperatures),
                    "candidate": np.asarray(candidates)[values[:, scored.at(candidates)].argmax(axis=1)],
                }
            )
            for kind, length, count, advantage, values in parts
        ],
        ignore_index=True,
    )


def convergence_summary(optima: pd.DataFrame) -> pd.DataFrame:
    """T* minus the sampling temperature, by sampling temperature, kind, length and sign of the advantage.

    Returns:
        Columns sampled_at, kind, length, sign ("A > 0" or "A < 0"; advantages of 0 are left out), count, tokens (mean),
        mean, std, low, median, high (of T* - T; low and high are quartiles), candidate_mean, candidate_std (of the
        candidates' T* - T).
    """
    signed = optima[optima["advantage"] != 0]
    signed = signed.assign(
        sign=np.where(signed["advantage"] > 0, "A > 0", "A < 0"),
        offset=signed["optimum"] - signed["sampled_at"],
        candidate=signed["candidate"] - signed["sampled_at"],
    )
    groups = signed.groupby(["sampled_at", "kind", "length", "sign"])
    offset, candidate = groups["offset"], groups["candidate"]
    columns = {
        "count": groups.size(),
        "tokens": groups["tokens"].mean(),
        "mean": offset.mean(),
        "std": offset.std(ddof=0),
        "low": offset.quantile(0.25),
        "median": offset.median(),
        "high": offset.quantile(0.75),
        "candidate_mean": candidate.mean(),
        "candidate_std": candidate.std(ddof=0),
    }
    return pd.DataFrame(columns).reset_index()


def _indices(grid: NDArray[np.float64], temperatures: Sequence[float]) -> NDArray[np.intp]:
    indices = np.abs(grid[:, None] - np.asarray(temperatures)).argmin(axis=0)
    if not np.allclose(grid[indices], temperatures):
        raise ValueError(f"likelihoods are at {grid.tolist()}, asked for {list(temperatures)}.")
    return indices
