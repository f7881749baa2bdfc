"""What rollouts say about temperature, by their length: sparsemax weights (Eqs. 6, 8, 9) and T* (Eq. 7).

The longer a rollout, the closer T* should lie to the temperature in force. Measured here on whole rollouts, and on
chains of them that stand for long answers in which every part counts.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tampo.inference.transformers_engine import derive_seed
from tampo.meta_policy import sparsemax
from tampo.paper.optimal_temperature import ScoredRollouts, likeliest_temperatures

LENGTHS = (30, 300, 3000)  # tokens
CHAIN_LENGTHS = (100, 300, 1000, 3000)  # tokens


def bootstrap_sums(
    log_probs: NDArray[np.floating], length: int, trials: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Log-likelihoods of made-up rollouts of `length` tokens, drawn with replacement from real ones.

    Args:
        log_probs: Of real tokens, shape (M, K).
        length: Tokens of a made-up rollout.
        trials: How many to make.
        generator: Random numbers.

    Returns:
        Sums over tokens, shape (trials, K).
    """
    # A token drawn twice counts twice: a product with the counts, so that (trials, length, K) never exists.
    counts = generator.multinomial(length, np.full(len(log_probs), 1 / len(log_probs)), size=trials)  # (trials, M)
    return counts.astype(np.float64) @ log_probs.astype(np.float64)


def weight_table(
    scored: ScoredRollouts, candidates: Sequence[float], trials: int, seed: int, lengths: Sequence[int] = LENGTHS
) -> pd.DataFrame:
    """Sparsemax weights (Eq. 9) over the candidates, from sums (Eq. 8) and means (Eq. 6), at several lengths.

    Args:
        scored: Real rollouts, whose tokens are drawn anew (`bootstrap_sums`).
        candidates: The candidates of the meta-policy.
        trials: Made-up rollouts of each length.
        seed: Seed of the resampling.
        lengths: In tokens.

    Returns:
        Columns length, likelihood ("sum" or "mean"), trial, temperature, weight.
    """
    real = scored.log_probs[:, scored.at(candidates)]
    parts = []
    for length in lengths:
        sums = bootstrap_sums(real, length, trials, np.random.default_rng(derive_seed(seed, length)))
        for likelihood, values in (("sum", sums), ("mean", sums / length)):
            parts.append(
                pd.DataFrame(
                    {
                        "length": length,
                        "likelihood": likelihood,
                        "trial": np.repeat(np.arange(trials), len(candidates)),
                        "temperature": np.tile(np.asarray(candidates), trials),
                        "weight": sparsemax(values).ravel(),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def weight_summary(weights: pd.DataFrame) -> pd.DataFrame:
    """How far the weights of `weight_table` are spread, as mean and standard deviation over rollouts.

    Returns:
        Columns likelihood, length, support_mean, support_std (weights that are not 0), entropy_mean, entropy_std
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


def settling(
    scored: ScoredRollouts,
    candidates: Sequence[float],
    trials: int,
    seed: int,
    lengths: Sequence[int] = CHAIN_LENGTHS,
) -> pd.DataFrame:
    """T* and advantage of whole rollouts and of chains of them, against their length.

    A chain is a run of independent rollouts that is taken for one long answer: the likelihood is the sum of theirs,
    the advantage the mean of theirs. So whole draws at one temperature are kept, and good chains are chosen as a
    reward that every part adds to would choose them.

    Returns:
        Columns sampled_at, kind ("rollout" or "chain"), length (tokens: of a rollout the power of 2 that it has at
        least, of a chain what was aimed at), tokens, advantage, optimum (T*, continuous), candidate (T*, Eq. 7).
    """
    sums, table = scored.log_likelihoods, scored.table
    tokens, advantages = table["tokens"].to_numpy(), table["advantage"].to_numpy()
    parts = [_optima(scored, candidates, "rollout", 2 ** np.floor(np.log2(tokens)), tokens, advantages, sums)]
    for length in lengths:
        links = round(length / tokens.mean())
        if links > 1:
            generator = np.random.default_rng(derive_seed(seed, f"{scored.sampled_at:g}/{length}"))
            drawn = generator.integers(len(table), size=(trials, links))
            # One chain at a time: (trials, links, K) may not fit.
            chained = np.stack([sums[chain].sum(axis=0) for chain in drawn])
            own = (tokens[drawn].sum(axis=1), advantages[drawn].mean(axis=1))
            parts.append(_optima(scored, candidates, "chain", np.full(trials, length), *own, chained))
    return pd.concat(parts, ignore_index=True)


def settling_summary(settled: pd.DataFrame) -> pd.DataFrame:
    """T* less the sampling temperature, by sampling temperature, kind, length and sign of the advantage.

    Returns:
        Columns sampled_at, kind, length, sign ("A > 0" or "A < 0"; advantages of 0 are in neither), count, tokens
        (mean), mean, std, low, median, high (of T* - T, low and high the quartiles), candidate_mean, candidate_std (of
        the candidates' T* - T).
    """
    signed = settled[settled["advantage"] != 0]
    signed = signed.assign(
        sign=np.where(signed["advantage"] > 0, "A > 0", "A < 0"),
        offset=signed["optimum"] - signed["sampled_at"],
        candidate=signed["candidate"] - signed["sampled_at"],
    )
    groups = signed.groupby(["sampled_at", "kind", "length", "sign"])
    offset = groups["offset"]
    return pd.DataFrame(
        {
            "count": groups.size(),
            "tokens": groups["tokens"].mean(),
            "mean": offset.mean(),
            "std": offset.std(ddof=0),
            "low": offset.quantile(0.25),
            "median": offset.median(),
            "high": offset.quantile(0.75),
            "candidate_mean": groups["candidate"].mean(),
            "candidate_std": groups["candidate"].std(ddof=0),
        }
    ).reset_index()


def _optima(
    scored: ScoredRollouts,
    candidates: Sequence[float],
    kind: str,
    length: NDArray[np.floating],
    tokens: NDArray[np.integer],
    advantages: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sampled_at": scored.sampled_at,
            "kind": kind,
            "length": length.astype(int),
            "tokens": tokens,
            "advantage": advantages,
            "optimum": likeliest_temperatures(sums, scored.temperatures),
            "candidate": np.asarray(candidates)[sums[:, scored.at(candidates)].argmax(axis=1)],
        }
    )
