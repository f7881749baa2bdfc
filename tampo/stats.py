"""Pass@k, and means with intervals and tests over problems and training seeds.

An interval covers the variation over problems of the same kind and, with several training seeds, over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> float | NDArray[np.float64]:
    """Probability that at least one of k samples is correct, given c correct of n: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. (2021), as a product, so that large n does not overflow.

    Args:
        n: Samples per problem.
        c: Correct samples; same shape as `n` or a scalar.
        k: Between 1 and every n.

    Returns:
        A float for scalars, else an array of the broadcast shape.

    Raises:
        ValueError: k is below 1 or above n, or c is not between 0 and n.

    Example:
        >>> pass_at_k(8, 2, 1)
        0.25
        >>> pass_at_k(8, [0, 2, 8], 8).tolist()
        [0.0, 1.0, 1.0]
    """
    total, right = np.broadcast_arrays(np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64))
    if k < 1 or (total < k).any():
        raise ValueError(
            f"k must be between 1 and the number of samples n, got k={k} and n={np.unique(total).tolist()}."
        )
    if ((right < 0) | (right > total)).any():
        raise ValueError("c must be between 0 and n for every problem.")
    # C(n - c, k) / C(n, k), the probability that k draws without replacement all miss, is a product of k ratios.
    draws = np.arange(k)  # (k,)
    misses = np.maximum(total[..., None] - right[..., None] - draws, 0) / (total[..., None] - draws)
    result = 1 - misses.prod(axis=-1)
    return float(result) if result.ndim == 0 else result


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval [low, high], and the one-sided p-value of the hypothesis that the mean is at most 0."""

    value: float
    low: float
    high: float
    p_greater: float

    @property
    def p_two_sided(self) -> float:
        """The p-value of the hypothesis that the mean is 0. Without any variation it is 1 at 0, and else 0."""
        if self.low == self.high:
            return 1.0 if abs(self.value) < 1e-9 else 0.0
        return 2 * min(self.p_greater, 1 - self.p_greater)


def mean_interval(groups: Sequence[ArrayLike], confidence: float = 0.95) -> Estimate:
    """Mean over groups (benchmarks, with equal weights) of the mean over seeds and problems.

    Seeds and problems are crossed: every seed has a value for every problem, in all groups. The variance of the mean is
    that of the seeds' means plus that of the problems' means minus that of their interaction, which both contain
    (analysis of variance with two random factors), and at least the larger of the two. The interval is Student's t with
    Satterthwaite's degrees of freedom. For a paired comparison, pass the differences.

    Args:
        groups: One array per benchmark, shape (seeds, problems), or (problems,) for one seed.
        confidence: Coverage of the interval.

    Raises:
        ValueError: No group, an empty group, or groups with different numbers of seeds.

    Example:
        >>> mean_interval([[[1.0, 3.0], [3.0, 5.0]]]).value
        3.0
    """
    from scipy.stats import t as student  # takes half a second to import

    arrays = [np.atleast_2d(np.asarray(group, dtype=np.float64)) for group in groups]  # (S, P) each
    if not arrays or any(not array.size for array in arrays):
        raise ValueError("mean_interval needs at least one value in every group.")
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"Groups differ in their number of seeds: {[len(array) for array in arrays]}.")
    value = float(np.mean([array.mean() for array in arrays]))
    by_seed = np.mean([array.mean(axis=1) for array in arrays], axis=0)  # (S,)
    seed_part = _variance_of_mean(by_seed)
    problem_parts = np.array([_variance_of_mean(array.mean(axis=0)) for array in arrays]) / len(arrays) ** 2
    interaction = sum(_interaction(array) for array in arrays) / len(arrays) ** 2
    problem_part = float(problem_parts.sum())
    variance = max(seed_part + problem_part - interaction, seed_part, problem_part)
    if variance <= 1e-20 * max(1.0, value**2):  # all values are equal up to rounding
        return Estimate(value, value, value, 0.0 if value > 0 else 1.0)
    parts = [(seed_part, len(by_seed))] + [(part, a.shape[1]) for part, a in zip(problem_parts, arrays, strict=True)]
    freedom = variance**2 / sum(part**2 / (count - 1) for part, count in parts if count > 1)
    error = variance**0.5
    half = float(student.ppf((1 + confidence) / 2, freedom)) * error
    return Estimate(value, value - half, value + half, float(student.sf(value / error, freedom)))


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0


def _interaction(array: NDArray[np.float64]) -> float:
    """Variance of the mean of an array (S, P) from the interaction of seeds and problems, and noise."""
    seeds, problems = array.shape
    if seeds == 1 or problems == 1:
        return 0.0
    rest = array - array.mean(axis=0) - array.mean(axis=1, keepdims=True) + array.mean()
    return float((rest**2).sum() / ((seeds - 1) * (problems - 1)) / array.size)


def deviation_interval(values: NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """Standard deviation of normal values with its chi-squared interval; the upper end is infinite below two values."""
    from scipy.stats import chi2

    count = len(values)
    if count < 2:
        return Estimate(float("nan"), 0.0, float("inf"), float("nan"))
    deviation = float(values.std(ddof=1))
    ends = chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], count - 1)
    low, high = deviation * np.sqrt((count - 1) / ends)
    return Estimate(deviation, float(low), float(high), float("nan"))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple tests by Holm's step-down method; NaN counts as p = 1.

    Rejecting where the result is below a level keeps the probability of any false rejection below it, whatever the
    dependence between the tests.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    known = np.nan_to_num(np.asarray(p_values, dtype=float), nan=1.0)
    if len(known) < 2:  # nothing to adjust, and the library collects garbage at each call
        return known.tolist()
    from statsmodels.stats.multitest import multipletests

    return multipletests(known, method="holm")[1].tolist()


def iqm(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores: robust as a median, and less noisy (Agarwal et al. 2021, section 4.2).

    Where a quarter is no whole number of scores, it is rounded down, as in the paper's library.

    Args:
        scores: Of any shape, such as (runs, tasks).

    Raises:
        ValueError: There is no score.

    Example:
        >>> iqm([0.0, 1.0, 2.0, 100.0])
        1.5
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not len(ordered):
        raise ValueError("iqm needs at least one score.")
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def probability_of_improvement(ours: ArrayLike, theirs: ArrayLike) -> float:
    """How often a random run of one method beats one of another, on a random task (Agarwal et al. 2021, section 4.3).

    The mean over tasks of Mann and Whitney's U over the number of pairs; a tie counts one half.

    Args:
        ours: Scores, shape (runs, tasks).
        theirs: Scores on the same tasks, shape (other runs, tasks).

    Raises:
        ValueError: The tasks differ in number, or there is no run.

    Example:
        >>> probability_of_improvement([[1.0, 5.0], [3.0, 6.0]], [[2.0, 5.0]])
        0.625
    """
    first, second = (np.asarray(scores, dtype=np.float64) for scores in (ours, theirs))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size * second.size:
        raise ValueError(f"scores must have the shape (runs, tasks), of the same tasks: {first.shape}, {second.shape}.")
    pairs = first[:, None] - second[None]  # (runs, other runs, tasks)
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
