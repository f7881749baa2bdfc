"""Estimates from repeated samples: Pass@k and bootstrap intervals.

An interval here is over problems: how much a figure would move with other problems of the same kind. It says
nothing about other training seeds; tables say how many of those went into a figure.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> float | NDArray[np.float64]:
    """Probability that at least one of k samples is right, from c right among n: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. (2021), as a product, so that large n does not overflow.

    Args:
        n: Samples drawn for each problem.
        c: Samples that are right, between 0 and n; same shape as `n` or a scalar.
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
    # C(n - c, k) / C(n, k) is the chance that k draws without return all miss: a product of k shrinking ratios.
    draws = np.arange(k)  # (k,)
    misses = np.maximum(total[..., None] - right[..., None] - draws, 0) / (total[..., None] - draws)
    result = 1 - misses.prod(axis=-1)
    return float(result) if result.ndim == 0 else result


def mean_interval(
    groups: Sequence[ArrayLike], seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean over groups of the mean over problems, with its percentile-bootstrap interval.

    Problems are drawn anew within each group (benchmark), so that the mix of benchmarks stays as it is.

    Args:
        groups: One array of per-problem values a benchmark, shape (problems,); a single one for one benchmark.
        seed: Seed of the resampling.
        resamples: Bootstrap samples.
        confidence: Mass of the interval.

    Returns:
        (mean, low, high).

    Raises:
        ValueError: No group, or an empty one.
    """
    from scipy.stats import bootstrap  # half a second of import, only where intervals are made

    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    if not arrays or any(not len(array) for array in arrays):
        raise ValueError("mean_interval needs at least one value in every group.")

    def mean(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)

    value = float(mean(*arrays))
    if all((array == array[0]).all() for array in arrays):
        return value, value, value  # scipy refuses groups of one value
    # scipy asks for two values a group; a group of one problem varies as little as two equal ones.
    interval = bootstrap(
        [array if len(array) > 1 else array.repeat(2) for array in arrays],
        mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, float(interval.low), float(interval.high)
