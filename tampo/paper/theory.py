"""What TAMPO's signal is a signal of, checked on answers whose probabilities are known exactly.

An answer has one token that decides whether it is right, and n others that tell nothing but the temperature. All its
probabilities, and so every expectation here, are sums over the 2 (n + 1) kinds of answers: there is no sampling error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tampo.meta_policy import sparsemax
from tampo.paper import findings
from tampo.paper.figures import MARKERS, PALETTE, style
from tampo.paper.layout import legend_below, set_title
from tampo.paper.optimal_temperature import ScoredRollouts, bootstrap_sums, fisher_information


@dataclass(frozen=True)
class Answers:
    """A distribution of answers at any temperature.

    Attributes:
        gap: Logit of the wrong token minus that of the right one: positive where the right answer is the rarer one.
        tokens: Number of other tokens, n.
        other_gap: Logit of the likelier of their two values minus that of the other.
    """

    gap: float
    tokens: int
    other_gap: float = 2.0

    @property
    def rewards(self) -> NDArray[np.float64]:
        """1 for right answers, shape (S,): first the wrong kinds, then the right, by their count of likely tokens."""
        return np.repeat([0.0, 1.0], self.tokens + 1)

    def log_likelihoods(self, temperatures: ArrayLike) -> NDArray[np.float64]:
        """Of one answer of each kind at K temperatures (Eq. 8), shape (S, K)."""
        grid = np.atleast_1d(np.asarray(temperatures, dtype=float))
        deciding = np.stack([-np.logaddexp(0, -self.gap / grid), -np.logaddexp(0, self.gap / grid)])  # wrong, right
        likely, unlikely = -np.logaddexp(0, -self.other_gap / grid), -np.logaddexp(0, self.other_gap / grid)
        count = np.arange(self.tokens + 1)[:, None]
        others = count * likely + (self.tokens - count) * unlikely  # (n + 1, K)
        return (deciding[:, None] + others).reshape(-1, len(grid))

    def probabilities(self, temperatures: ArrayLike) -> NDArray[np.float64]:
        """Of all answers of each kind together at K temperatures, shape (S, K); columns sum to 1."""
        ways = [math.lgamma(self.tokens + 1) - math.lgamma(m + 1) - math.lgamma(self.tokens - m + 1)
                for m in range(self.tokens + 1)]  # fmt: skip
        return np.exp(self.log_likelihoods(temperatures) + np.tile(ways, 2)[:, None])

    def reward_at(self, temperatures: ArrayLike) -> NDArray[np.float64]:
        """J: the expected reward at K temperatures, shape (K,)."""
        return self.rewards @ self.probabilities(temperatures)

    def information(self, temperature: float) -> float:
        """Fisher information per token about T, of the others."""
        p = 1 / (1 + math.exp(self.other_gap / temperature))
        return p * (1 - p) * (self.other_gap / temperature**2) ** 2


def shares(log_likelihoods: ArrayLike, kind: str = "softmax") -> NDArray[np.float64]:
    """The share of each answer that each temperature gets, (S, K): normalised likelihoods, or "sparsemax" (Eq. 9)."""
    scores = np.asarray(log_likelihoods, dtype=float)
    if kind == "sparsemax":
        return sparsemax(scores)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def mean_signal(answers: Answers, temperatures: Sequence[float], kind: str = "softmax") -> NDArray[np.float64]:
    """The expectation of Eq. 10, shape (K,), when each temperature is drawn equally often.

    Advantages are rewards minus the expected reward at the temperature in force.
    """
    probabilities, weights = answers.probabilities(temperatures), shares(answers.log_likelihoods(temperatures), kind)
    advantages = answers.rewards[:, None] - answers.reward_at(temperatures)  # (S, K), at each temperature in force
    return np.asarray(weights.T @ (probabilities * advantages)).mean(axis=1)


def predicted_signal(answers: Answers, temperatures: Sequence[float]) -> NDArray[np.float64]:
    """(J - W J) / K, shape (K,): W[k, j] is the mean share of temperature k in answers that were sampled at j.

    It equals `mean_signal` for normalised likelihoods; sparsemax, which is sharper, has no such formula. On short
    answers W is 1 / K everywhere, and the signal is J minus its mean; on longer ones W averages over neighbours, and
    the signal is the curvature of J; on very long ones W is the identity, and there is no signal.
    """
    weights = shares(answers.log_likelihoods(temperatures))
    mean_share = weights.T @ answers.probabilities(temperatures)  # W, (K, K)
    rewards = answers.reward_at(temperatures)
    return (rewards - mean_share @ rewards) / len(rewards)


def prompt_weight(p: ArrayLike, group: int | None = None) -> NDArray[np.float64]:
    """How much a change of a prompt's success rate p counts in TAMPO's signal, per unit of p.

    With advantages that are normalised in groups of G (Eq. 1) it is E[sqrt(f (1 - f))] / (p (1 - p)), f the share of
    right rollouts. For large groups (None) that is 1 / sqrt(p (1 - p)), the slope of 2 arcsin sqrt p. With plain
    rewards it would be 1.
    """
    from scipy.stats import binom

    rates = np.asarray(p, dtype=float)
    if group is None:
        return 1 / np.sqrt(rates * (1 - rates))
    counts = np.arange(group + 1)
    found = np.sqrt(counts / group * (1 - counts / group))
    return (binom.pmf(counts, group, rates[..., None]) @ found) / (rates * (1 - rates))


def selection_bound(p: ArrayLike, tokens: ArrayLike, information: float) -> NDArray[np.float64]:
    """How far the mean T* of the good rollouts can be from the sampling temperature, with n tokens each.

    T* has a standard deviation of 1 / sqrt(n I). The mean over any part of the rollouts, of share p, is off by at most
    sqrt((1 - p) / p) standard deviations, however good and bad ones are told apart.
    """
    rates = np.asarray(p, dtype=float)
    return np.sqrt((1 - rates) / rates) / np.sqrt(np.asarray(tokens, dtype=float) * information)


_AROUND = np.geomspace(0.8, 1.25, 21)  # times T


def virtual_grid(candidates: Sequence[float], temperature: float) -> list[float]:
    """The virtual temperatures that `scored_once_and_twice` and `information_at` need beside the candidates."""
    return [*(t * temperature for t in candidates), *(t * temperature for t in _AROUND)]


def information_at(scored: ScoredRollouts) -> float:
    """Fisher information per token about T at the sampling temperature, of rollouts scored at `virtual_grid`."""
    # Evenly spaced: elsewhere two virtual temperatures may be so close that rounding decides their second difference.
    columns = scored.at(np.round(scored.sampled_at * _AROUND, 9).tolist())
    likelihoods = scored.log_likelihoods[:, columns]
    return fisher_information(replace(scored, temperatures=scored.temperatures[columns], log_likelihoods=likelihoods))


def scored_once_and_twice(
    scored: Mapping[float, ScoredRollouts], candidates: Sequence[float], length: int, trials: int, seed: int
) -> pd.DataFrame:
    """T* among the candidates of chains of `length` tokens, scored as in Eq. 5 and from logits divided by T before.

    Args:
        scored: Rollouts by sampling temperature T; their virtual temperatures hold the candidates and their products
            with T.
        candidates: T_1 ... T_K.
        length: Tokens of a chain, resampled from all tokens.
        trials: Chains.
        seed: Of the resampling.

    Returns:
        One row per T and kind ("divided once", "divided twice"): sampled_at, kind, mean (of T*), above and below
        (shares of chains with T* above and below T).
    """
    grid, rows = np.asarray(candidates, dtype=float), []
    for temperature, rollouts in scored.items():
        sums = bootstrap_sums(rollouts.log_probs, length, trials, np.random.default_rng(seed))
        for kind, factor in (("divided once", 1.0), ("divided twice", temperature)):
            columns = rollouts.at(np.round(grid * factor, 9).tolist())
            best = grid[sums[:, columns].argmax(axis=1)]
            above, below = (best > temperature + 1e-9).mean(), (best < temperature - 1e-9).mean()
            rows.append({"sampled_at": temperature, "kind": kind, "mean": best.mean(), "above": above, "below": below})
    return pd.DataFrame(rows)


def signal_figure(answers: Sequence[Answers], temperatures: Sequence[float]) -> Figure:
    """The mean signal against temperature, scaled to its largest value: a panel for each length of answers."""
    with style():
        figure, panels = plt.subplots(1, len(answers), figsize=(2.5 * len(answers), 2.8), layout="constrained")
        maxima = []
        for axes, task in zip(np.ravel(panels), answers, strict=True):
            signal = mean_signal(task, temperatures)
            size = np.abs(signal).max()
            rewards = task.reward_at(temperatures)
            centred = (rewards - rewards.mean()) / np.abs(rewards - rewards.mean()).max()
            axes.plot(temperatures, centred, color="0.6", label="reward curve J, centred")
            axes.plot(
                temperatures,
                signal / size,
                color=PALETTE[0],
                marker="o",
                ms=3,
                label="signal with normalised likelihoods, exact",
            )
            predicted = predicted_signal(task, temperatures) / size
            axes.plot(temperatures, predicted, "x", color=PALETTE[1], label="(J − W J) / K")
            sharper = mean_signal(task, temperatures, "sparsemax")
            sharper /= np.abs(sharper).max()
            axes.plot(temperatures, sharper, "--", color=PALETTE[2], label="signal with sparsemax, exact")
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.set_title(f"{task.tokens:,} other tokens\n(1 is {size:.1g})", fontsize="small")
            axes.set_xlabel("temperature T")
            best = {"signal_at": temperatures[int(signal.argmax())], "reward_at": temperatures[int(rewards.argmax())]}
            maxima.append({"tokens": task.tokens, "size": size} | best)
        np.ravel(panels)[0].set_ylabel("scaled to 1")
        legend_below(figure, np.ravel(panels)[0].get_legend_handles_labels()[0], columns=4)
        set_title(figure, findings.exact_signals(pd.DataFrame(maxima)))
        for axes in np.ravel(panels):
            sns.despine(ax=axes)
    return figure


def weight_and_bound_figure(information: Mapping[str, float], group: int = 8) -> Figure:
    """Left: `prompt_weight` against the success rate. Right: `selection_bound` against the length of answers.

    Args:
        information: Fisher information per token about T, by title.
        group: Rollouts per prompt, G.
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
        p = np.linspace(0.01, 0.99, 197)
        left.plot(p, prompt_weight(p), color=PALETTE[0], label="large groups: slope of 2 arcsin √p")
        left.plot(p, prompt_weight(p, group), "--", color=PALETTE[1], label=f"groups of {group}")
        left.axhline(1, color="0.6", label="plain rewards")
        left.set(xlabel="success rate p of a prompt", ylabel="weight of a change of p", ylim=(0, 10))
        left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        tokens = np.geomspace(10, 10_000, 100)
        for number, (title, per_token) in enumerate(information.items()):
            look = {"color": PALETTE[number], "marker": MARKERS[number % len(MARKERS)], "ms": 4, "markevery": 33}
            for rate, dashes in ((0.1, "-"), (0.5, "--")):
                label = f"{title}, {rate:.0%} right"
                right.plot(tokens, selection_bound(rate, tokens, per_token), dashes, label=label, **look)
        right.axhline(0.05, color="0.6", linewidth=0.8)
        right.text(10, 0.047, "half the distance of two candidates", color="0.4", va="top", fontsize="small")
        right.set(xscale="log", yscale="log", xlabel="tokens of an answer", ylabel="largest |mean T* - T|")
        right.set_title("T* of good answers", fontsize="medium")
        left.set_title("Normalised advantages", fontsize="medium")
        right.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        rare, length = np.array([0.01, 0.5]), 1000
        bound = max((float(selection_bound(0.1, length, value)) for value in information.values()), default=math.nan)
        ratio = [float(np.divide(*prompt_weight(rare, size))) for size in (None, group)]
        set_title(figure, findings.prompt_weights(ratio[0], ratio[1], group, bound, length))
        sns.despine(figure)
    return figure
