"""Answers padded with tokens that say nothing: how TAMPO's signal drowns in them, and what its noise guard does.

Every rollout gets further tokens, resampled from rollouts at the same temperature: they tell nothing of right and
wrong, but add their likelihoods to the sums of Eq. 8. TAMPO then sees batches of such rollouts while the policy stays
as it is, so that every movement of its temperature beyond the first steps is noise.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tampo.controllers.base import RolloutBatch, RunSettings
from tampo.controllers.tampo import TAMPO
from tampo.paper.optimal_temperature import ScoredRollouts, bootstrap_sums

_POOL = 1000  # paddings of a length, which rollouts draw from


def padded_batches(
    scored: ScoredRollouts, candidates: Sequence[float], tokens: int, batches: int, prompts: int, seed: int
) -> list[RolloutBatch]:
    """Batches of whole groups of rollouts, each rollout with `tokens` further tokens.

    Args:
        scored: Rollouts in groups of one prompt; their virtual temperatures hold the candidates.
        candidates: T_1 ... T_K.
        tokens: Further tokens of a rollout.
        batches: How many.
        prompts: Groups of a batch, drawn with replacement.
        seed: Of the draws.
    """
    generator = np.random.default_rng([seed, tokens])
    columns = scored.at(candidates)
    pool = bootstrap_sums(scored.log_probs[:, columns], tokens, _POOL, generator)
    groups = list(scored.table.groupby("prompt").indices.values())
    made = []
    for _ in range(batches):
        drawn = [groups[number] for number in generator.integers(len(groups), size=prompts)]
        rows = np.concatenate(drawn)
        padding = pool[generator.integers(_POOL, size=len(rows))]
        made.append(
            RolloutBatch(
                temperatures=np.asarray(candidates, dtype=float),
                log_likelihoods=scored.log_likelihoods[np.ix_(rows, columns)] + padding,
                advantages=scored.table["advantage"].to_numpy()[rows],
                lengths=scored.table["tokens"].to_numpy(dtype=float)[rows] + tokens,
                temperature=scored.sampled_at,
                groups=np.repeat(np.arange(prompts), [len(group) for group in drawn]),
            )
        )
    return made


def signal_to_noise(batches: Sequence[RolloutBatch]) -> float:
    """Mean over batches of the difference of best and worst candidate in Eq. 10, over its standard deviation.

    Best and worst are those of all batches together, so that noise alone does not give 0, but 0.1 to 0.3 with 100
    batches.
    """
    rule = TAMPO()
    rule.start(RunSettings(temperatures=tuple(batches[0].temperatures)))
    signals = np.array(
        [rule.meta_policy.batch_advantages(batch.log_likelihoods, batch.advantages) for batch in batches]
    )  # (B, K)
    mean = signals.mean(axis=0)
    contrast = signals[:, mean.argmax()] - signals[:, mean.argmin()]
    return float(contrast.mean() / contrast.std(ddof=1))


def noise_table(
    scored: ScoredRollouts,
    candidates: Sequence[float],
    lengths: Sequence[int],
    guard: float,
    batches: int = 60,
    prompts: int = 16,
    seeds: int = 3,
) -> pd.DataFrame:
    """TAMPO with and without its noise guard on padded answers, from the same batches.

    Returns:
        One row per length: tokens (padding), signal_to_noise (of one batch), then of the second half of the batches
        free and free_spread (mean and standard deviation of the temperatures drawn without a guard), guarded and
        guarded_spread (with it), and open (share of the steps in which the guard lets the meta-policy draw).
    """
    rows = []
    for tokens in lengths:
        drawn: dict[float, list[float]] = {0.0: [], guard: []}
        ratios, opened = [], []
        for seed in range(seeds):
            made = padded_batches(scored, candidates, tokens, batches, prompts, seed)
            ratios.append(signal_to_noise(made))
            for level, found in drawn.items():
                temperatures, significant = _run(level, made, seed)
                found += temperatures[batches // 2 :]
                opened += significant[batches // 2 :] if level > 0 else []
        row = {"tokens": tokens, "signal_to_noise": np.mean(ratios)}
        for name, found in zip(("free", "guarded"), drawn.values(), strict=True):
            row |= {name: np.mean(found), f"{name}_spread": np.std(found)}
        rows.append(row | {"open": np.mean(opened)})
    return pd.DataFrame(rows)


def _run(guard: float, batches: Sequence[RolloutBatch], seed: int) -> tuple[list[float], list[bool]]:
    """The temperatures that TAMPO draws before each batch, and whether the guard was open."""
    rule = TAMPO(noise_guard=guard)
    temperatures = tuple(batches[0].temperatures)
    rule.start(RunSettings(temperatures=temperatures, warmup_ratio=0.0, seed=seed))
    drawn, significant = [], []
    for step, batch in enumerate(batches):
        drawn.append(rule.temperature(step))
        significant.append(rule.is_significant)
        rule.update(batch)
    return drawn, significant
