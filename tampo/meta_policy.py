"""The temperature meta-policy (TAMPO, section 3.3.2): Eqs. 9-12 and top-p sampling, in numpy.

For any trainer: draw a temperature with `sample`, generate rollouts, then give `update` their K virtual log-likelihoods
(`tampo.likelihood`, Eqs. 5-8) and their advantages.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tampo.values import shown, to_float, to_int, to_list, to_str

Likelihood = Literal["sum", "mean"]

DEFAULT_TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)  # section 4.1

# For rounding: the cumulative sum of ten times 0.1 must reach 1.0.
_NUCLEUS_TOLERANCE = 1e-9


def sparsemax(x: Any) -> Any:
    """Euclidean projection of `x` onto the probability simplex, along the last axis (Martins & Astudillo 2016, Alg. 1).

    Unlike softmax, it gives exact zeros to entries far below the largest one.

    Args:
        x: Finite scores, shape (..., K), K >= 1: a torch tensor (differentiable, any device) or an array-like.

    Returns:
        Probabilities, shape (..., K); each row sums to 1. A tensor for a tensor, else a float64 array.

    Example:
        >>> sparsemax([2.0, 1.5, 0.2]).tolist()
        [0.75, 0.25, 0.0]
    """
    if hasattr(x, "detach"):  # a tensor; torch may not be installed
        return _sparsemax_of_tensor(x)
    scores = np.asarray(x, dtype=np.float64)
    scores = scores - scores.max(axis=-1, keepdims=True)  # same projection, less rounding
    descending = -np.sort(-scores, axis=-1)  # (..., K)
    excess = np.cumsum(descending, axis=-1) - 1  # (..., K)
    rank = np.arange(1, scores.shape[-1] + 1)  # (K,)
    support = (descending * rank > excess).sum(axis=-1, keepdims=True)  # (..., 1), number of positive entries
    threshold = np.take_along_axis(excess, support - 1, axis=-1) / support  # (..., 1)
    return np.maximum(scores - threshold, 0.0)


def _sparsemax_of_tensor(x: Any) -> Any:
    scores = x - x.detach().amax(dim=-1, keepdim=True)
    descending = scores.sort(dim=-1, descending=True).values  # (..., K)
    excess = descending.cumsum(dim=-1) - 1  # (..., K)
    rank = x.new_ones(x.size(-1)).cumsum(dim=0)  # (K,)
    support = (descending * rank > excess).sum(dim=-1, keepdim=True)  # (..., 1)
    threshold = excess.gather(-1, support - 1) / support  # (..., 1)
    return (scores - threshold).clamp(min=0)


def nucleus(probabilities: NDArray[np.float64], top_p: float, tie_break: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep the smallest set of most likely entries whose probability reaches `top_p`, renormalised (section 4.3).

    Args:
        probabilities: Shape (K,), sums to 1.
        top_p: Mass to reach, in [0, 1]; 0 keeps only the most likely entry (greedy).
        tie_break: Shape (K,); among equally likely entries, the lower value comes first.
    """
    order = np.lexsort((tie_break, -probabilities))  # most likely first, then the lower temperature
    reached = np.cumsum(probabilities[order]) >= top_p - _NUCLEUS_TOLERANCE
    kept = order[: int(np.argmax(reached)) + 1]
    truncated = np.zeros_like(probabilities)
    truncated[kept] = probabilities[kept] / probabilities[kept].sum()
    return truncated


class MetaPolicy:
    """A distribution over sampling temperatures; `update` favours those that make good rollouts likely.

    Args:
        temperatures: The K candidates, positive, finite and distinct (section 4.1: 0.6, 0.7, ..., 1.5).
        alpha: Weight of the newest batch in the moving average of Eq. 11, in [0, 1].
        top_p: Nucleus mass of `sample`, in [0, 1]; 0 is greedy.
        likelihood: "sum" compares log-likelihoods summed over tokens (Eq. 8), "mean" averaged ones (Eq. 6).
        seed: Seed of `sample`.
        warmup_updates: `sample` returns `warmup_temperature` until this many updates (section 4.1: 10 % of the steps).
        warmup_temperature: The temperature of the warm-up.

    Raises:
        ValueError: A parameter is out of its range; the message names it.

    Example:
        >>> policy = MetaPolicy([0.6, 1.0, 1.4], alpha=0.5, top_p=0.7, seed=0)
        >>> policy.update(log_likelihoods=[[-9.0, -5.0, -6.0], [-4.0, -5.0, -7.0]], advantages=[1.0, -1.0])
        >>> policy.probabilities.round(2).tolist()
        [0.0, 0.67, 0.33]
        >>> policy.sample()
        1.0
    """

    def __init__(
        self,
        temperatures: Sequence[float] = DEFAULT_TEMPERATURES,
        alpha: float = 0.05,
        top_p: float = 0.7,
        likelihood: Likelihood = "sum",
        seed: int = 0,
        *,
        warmup_updates: int = 0,
        warmup_temperature: float = 1.0,
    ) -> None:
        self.temperatures = check_temperatures("temperatures", temperatures)  # (K,)
        self.alpha = check_fraction("alpha", alpha)
        self.top_p = check_fraction("top_p", top_p)
        self.likelihood = check_likelihood("likelihood", likelihood)
        self.warmup_updates = to_int("warmup_updates", warmup_updates)
        if self.warmup_updates < 0:
            raise ValueError(f"warmup_updates must be at least 0, got {warmup_updates!r}.")
        self.warmup_temperature = check_temperature("warmup_temperature", warmup_temperature)
        self.updates = 0
        self._advantages = np.zeros(len(self.temperatures))  # (K,), Algorithm 1 line 1
        self._generator = np.random.default_rng(to_int("seed", seed))

    @property
    def advantages(self) -> NDArray[np.float64]:
        """Moving average of the temperature-specific advantages (Eq. 11), shape (K,), a copy."""
        return self._advantages.copy()

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The distribution of Eq. 12, shape (K,).

        Uniform while all averages are equal, as before the first update; otherwise the worst temperature has
        probability 0.
        """
        lowest, highest = self._advantages.min(), self._advantages.max()
        if lowest == highest:
            return np.full(len(self.temperatures), 1 / len(self.temperatures))
        scaled = (self._advantages - lowest) / (highest - lowest)
        return scaled / scaled.sum()

    @property
    def sampling_probabilities(self) -> NDArray[np.float64]:
        """The distribution of `sample` after the warm-up: the nucleus of `probabilities`, shape (K,)."""
        return nucleus(self.probabilities, self.top_p, self.temperatures)

    @property
    def entropy(self) -> float:
        """Entropy of `probabilities` in nats, between 0 and log K."""
        positive = self.probabilities[self.probabilities > 0]
        return float(-(positive * np.log(positive)).sum())

    def sample(self) -> float:
        """Draw the temperature of the next batch."""
        if self.updates < self.warmup_updates:
            return self.warmup_temperature
        return float(self._generator.choice(self.temperatures, p=self.sampling_probabilities))

    def update(self, log_likelihoods: ArrayLike, advantages: ArrayLike, lengths: ArrayLike | None = None) -> None:
        """Update the distribution by one batch of rollouts (Eqs. 9-11), independent of their order to the last bit.

        Args:
            log_likelihoods: Log-likelihood of each rollout at each candidate temperature, summed over its tokens
                (Eq. 8), shape (N, K).
            advantages: Advantage of each rollout (Eq. 1), shape (N,). Rollouts of groups without reward spread count,
                with advantage 0.
            lengths: Tokens of each rollout, shape (N,); needed for `likelihood="mean"`.

        Raises:
            ValueError: Wrong shape, no rollouts, NaN or infinity. The state is then unchanged.
        """
        batch = self.batch_advantages(log_likelihoods, advantages, lengths)
        self._advantages = (1 - self.alpha) * self._advantages + self.alpha * batch  # Eq. 11
        self.updates += 1

    def batch_advantages(
        self, log_likelihoods: ArrayLike, advantages: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Temperature-specific advantages of one batch (Eq. 10), shape (K,); they sum to the mean advantage.

        Arguments and errors as in `update`; the state is unchanged.
        """
        specific = self.rollout_advantages(log_likelihoods, advantages, lengths)
        # math.fsum is exact: the order of rollouts and their split over processes have no effect.
        return np.array([math.fsum(column) for column in specific.T]) / len(specific)

    def rollout_advantages(
        self, log_likelihoods: ArrayLike, advantages: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Temperature-specific advantages of each rollout (Eq. 9), shape (N, K).

        Arguments and errors as in `update`; the state is unchanged.
        """
        scores = _finite("log_likelihoods", log_likelihoods, ndim=2)  # (N, K)
        weights = _finite("advantages", advantages, ndim=1)  # (N,)
        if scores.shape != (len(weights), len(self.temperatures)):
            raise ValueError(
                f"log_likelihoods must have shape (N, K) = ({len(weights)}, {len(self.temperatures)}) for "
                f"{len(weights)} advantages and {len(self.temperatures)} temperatures, got {scores.shape}."
            )
        if not len(weights):
            raise ValueError("advantages is empty: an update needs at least one rollout.")
        if self.likelihood == "mean":
            if lengths is None:
                raise ValueError("lengths is needed with likelihood='mean': Eq. 6 divides by the number of tokens.")
            tokens = _finite("lengths", lengths, ndim=1)  # (N,)
            if tokens.shape != weights.shape or (tokens < 0).any():
                raise ValueError(f"lengths must hold {len(weights)} token counts >= 0, got {tokens}.")
            scores = scores / np.maximum(tokens, 1)[:, None]  # an empty rollout has log-likelihood 0
        return sparsemax(scores) * weights[:, None]

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types, including the random generator."""
        return {
            "temperatures": self.temperatures.tolist(),
            "advantages": self._advantages.tolist(),
            "updates": self.updates,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            ValueError: The state has other candidate temperatures, or is incomplete. Nothing is changed then.
        """
        missing = {"temperatures", "advantages", "updates", "generator"} - state.keys()
        if missing:
            raise ValueError(f"The meta-policy's state lacks {sorted(missing)}.")
        if state["temperatures"] != self.temperatures.tolist():
            raise ValueError(
                f"The state has the temperatures {state['temperatures']}, this meta-policy has "
                f"{self.temperatures.tolist()}."
            )
        advantages = _finite("advantages", state["advantages"], ndim=1)
        if advantages.shape != self._advantages.shape:
            raise ValueError(f"The state holds {len(advantages)} advantages for {len(self.temperatures)} temperatures.")
        self._generator.bit_generator.state = state["generator"]
        self._advantages = advantages
        self.updates = int(state["updates"])


def check_temperatures(name: str, temperatures: Sequence[float]) -> NDArray[np.float64]:
    """`temperatures` as an array of shape (K,), or a ValueError that names `name`."""
    values = [check_temperature(name, temperature) for temperature in to_list(name, temperatures)]
    if not values:
        raise ValueError(f"{name} must be a list of at least one temperature, got {temperatures!r}.")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must be distinct, got {values}.")
    return np.array(values)


def check_temperature(name: str, temperature: float) -> float:
    """`temperature` as a float, or a ValueError that names `name`."""
    value = to_float(name, temperature)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}.")
    return value


def check_fraction(name: str, value: float) -> float:
    """`value` as a float in [0, 1], or a ValueError that names `name`."""
    fraction = to_float(name, value)
    if not 0 <= fraction <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {shown(value)}.")
    return fraction


def check_likelihood(name: str, value: str) -> Likelihood:
    """`value` if it is "sum" or "mean", or a ValueError that names `name`."""
    word = to_str(name, value)
    if word not in ("sum", "mean"):
        raise ValueError(f"{name} must be 'sum' (Eq. 8) or 'mean' (Eq. 6), got {shown(value)}.")
    return cast(Likelihood, word)


def _finite(name: str, values: ArrayLike, ndim: int) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {array.shape}.")
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name} must be finite; {bad.sum()} of {array.size} values are not, the first at {where}.")
    return array
