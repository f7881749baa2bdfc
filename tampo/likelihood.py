"""Log-likelihood of rollouts at K virtual temperatures (TAMPO, section 3.3.1, Eqs. 5-8), in torch.

One pass over the logits serves all temperatures: the maximum of z / T is (max z) / T, so each temperature costs one
sum of exponentials. `StreamingLogProbs` reads the logits in tiles, so that logits of shape (B, L, V) never exist. Where
it is asked to, it also sums z times these exponentials, from which follow the entropies at the K temperatures.
Nothing here has gradients: likelihoods change the meta-policy, not the model.

A Triton kernel reads a tile on a GPU, torch elsewhere. Both use powers of 2: on a CPU, torch.exp2 is several times
faster than torch.exp, and a GPU has no other instruction for it.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec

from tampo.extras import extra
from tampo.meta_policy import check_temperature
from tampo.values import to_list

with extra("trl"):
    import torch
    from torch import Tensor
    from torch.nn import functional as F

# Logits in memory at a time: 2**24 values are 64 MB in float32.
TILE_ELEMENTS = 2**24
_TILE_TOKENS = 2048

# Logits that torch processes at a time. On a CPU they should stay in the core's cache for all temperatures.
_CACHED_ELEMENTS = {"cpu": 2**18}
_UNCACHED_ELEMENTS = 2**22


class StreamingLogProbs:
    """Log-probabilities of given tokens at K temperatures, from tiles of logits over the vocabulary (Eq. 2).

    Args:
        tokens: Shape (M,).
        temperatures: The K virtual temperatures.
        dtype: Precision of the sums, float32 or float64.
        entropies: Whether to keep the sums of `entropies()`, too.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0]])
        >>> stream = StreamingLogProbs(torch.tensor([0]), [0.5, 1.0])
        >>> stream.accumulate(logits[:, :2])
        >>> stream.accumulate(logits[:, 2:], start=2)
        >>> stream.log_probs()
        tensor([[-0.1429, -0.4076]])
    """

    def __init__(
        self,
        tokens: Tensor,
        temperatures: Sequence[float] | Tensor,
        dtype: torch.dtype = torch.float32,
        *,
        entropies: bool = False,
    ) -> None:
        self._tokens = tokens
        checked = _checked(temperatures)
        self._temperatures = torch.tensor(checked, dtype=dtype, device=tokens.device)  # (K,)
        self._rates = math.log2(math.e) / self._temperatures  # e^(z / T) = 2^(z rate)
        self._chosen = tokens.new_zeros(len(tokens), dtype=dtype)  # (M,), logit of the token itself
        # Not -inf: where all logits of a tile are -inf, -inf - -inf would be NaN.
        self._maximum = self._chosen.new_full((len(tokens),), torch.finfo(dtype).min)  # (M,)
        self._sums = self._chosen.new_zeros(len(tokens), len(self._rates))  # (M, K), of 2^((z - maximum) rate)
        # (M, K), of (z - maximum) 2^((z - maximum) rate)
        self._weighted = torch.zeros_like(self._sums) if entropies else None

    @torch.no_grad()
    def accumulate(
        self, logits: Tensor, start: int = 0, logit_scale: float = 1.0, softcap: float | None = None
    ) -> None:
        """Add one tile of logits; it is not changed.

        Args:
            logits: Shape (M, v), any float dtype.
            start: Index in the vocabulary of the tile's first column.
            logit_scale: Factor of the logits before the soft-cap.
            softcap: If given, logits become `softcap * tanh(logits / softcap)`.
        """
        if self._sums.dtype == torch.float32 and _use_kernel(logits.device):
            from tampo.likelihood_kernel import accumulate

            sums = self._maximum, self._sums, self._chosen
            accumulate(logits, self._tokens, self._rates, *sums, start, logit_scale, softcap, self._weighted)
            return
        elements = _CACHED_ELEMENTS.get(logits.device.type, _UNCACHED_ELEMENTS)
        rows = max(1, elements // max(1, logits.size(1)))
        powers = self._sums.new_empty(min(rows, len(logits)), logits.size(1))
        for first in range(0, len(logits), rows):
            self._accumulate_rows(slice(first, first + rows), logits, start, logit_scale, softcap, powers)

    def _accumulate_rows(
        self, rows: slice, logits: Tensor, start: int, logit_scale: float, softcap: float | None, powers: Tensor
    ) -> None:
        z = logits[rows].to(powers.dtype)  # (m, v)
        if logit_scale != 1.0:
            z = z * logit_scale
        if softcap is not None:
            z = softcap * torch.tanh(z / softcap)
        before = self._maximum[rows]  # (m,)
        maximum = torch.maximum(before, z.amax(dim=-1))
        column = self._tokens[rows] - start
        in_tile = (column >= 0) & (column < z.size(1))
        chosen = z.gather(-1, column.clamp(0, z.size(1) - 1)[:, None])[:, 0]
        self._chosen[rows] = torch.where(in_tile, chosen, self._chosen[rows])
        z = z - maximum[:, None]
        powers = powers[: len(z)]
        lowest = torch.finfo(z.dtype).min
        if self._weighted is not None:
            z.clamp_(min=lowest)  # -inf times its power, 0, would be NaN
        tile, weighted = [], []
        for rate in self._rates:
            tile.append(torch.mul(z, rate, out=powers).exp2_().sum(dim=-1))
            if self._weighted is not None:
                weighted.append(powers.mul_(z).sum(dim=-1))
        shift = (before - maximum)[:, None]  # (m, 1)
        scale = torch.exp2(shift * self._rates)  # (m, K)
        sums = self._sums[rows] * scale
        if self._weighted is not None:
            moved = self._weighted[rows] * scale + shift.clamp(min=lowest) * sums
            self._weighted[rows] = moved + torch.stack(weighted, dim=-1)
        self._sums[rows] = sums + torch.stack(tile, dim=-1)
        self._maximum[rows] = maximum

    def log_probs(self) -> Tensor:
        """Log-probabilities in nats, shape (M, K), after all tiles."""
        return (self._chosen - self._maximum)[:, None] / self._temperatures - self._sums.log()

    def entropies(self) -> Tensor:
        """Entropy of each token's distribution in nats, log Z - E[z] / T, shape (M, K), after all tiles.

        Raises:
            ValueError: The sums were not kept.
        """
        if self._weighted is None:
            raise ValueError("StreamingLogProbs has no entropies: it was made without `entropies=True`.")
        return self._sums.log() - self._weighted / self._sums / self._temperatures

    def values(self) -> Tensor:
        """`log_probs()`, shape (M, K); where entropies are kept, these behind them, shape (M, 2 K)."""
        log_probs = self.log_probs()
        return log_probs if self._weighted is None else torch.cat([log_probs, self.entropies()], dim=-1)


@torch.no_grad()
def virtual_log_likelihoods(
    logits: Tensor, tokens: Tensor, mask: Tensor, temperatures: Sequence[float] | Tensor
) -> Tensor:
    """Log-likelihood of each rollout at each temperature, summed over its tokens (Eq. 8).

    Args:
        logits: Shape (B, L, V); `logits[:, t]` predicts `tokens[:, t]`.
        tokens: The sampled tokens, shape (B, L).
        mask: 1 for tokens of the sum, 0 for padding (and tool output), shape (B, L).
        temperatures: The K virtual temperatures.

    Returns:
        Shape (B, K), float32 (float64 for float64 logits).

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # (B, L, V) = (1, 2, 2)
        >>> virtual_log_likelihoods(logits, torch.tensor([[0, 1]]), torch.tensor([[1, 1]]), [0.5, 1.0])
        tensor([[-0.1451, -0.4402]])
    """
    keep = mask.bool()  # (B, L)
    stream = StreamingLogProbs(tokens[keep], temperatures, _precision(logits))
    stream.accumulate(logits[keep])
    return scatter_to_mask(stream.log_probs(), keep).sum(dim=1)  # (B, K)


@torch.no_grad()
def virtual_log_probs(
    hidden_states: Tensor,
    weight: Tensor,
    tokens: Tensor,
    mask: Tensor,
    temperatures: Sequence[float] | Tensor,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    tile_elements: int = TILE_ELEMENTS,
    entropies: bool = False,
) -> Tensor:
    """Log-probability of each token at each temperature from hidden states and the LM head, tile by tile.

    Needs memory for `tile_elements` logits beside the result.

    Args:
        hidden_states: Last hidden states, shape (B, L, H); `hidden_states[:, t]` predicts `tokens[:, t]`.
        weight: The LM head's weight, shape (V, H).
        tokens: Shape (B, L).
        mask: Shape (B, L); where it is 0, the result is 0.
        temperatures: The K virtual temperatures.
        bias: The LM head's bias, shape (V,).
        logit_scale: As in `StreamingLogProbs.accumulate` (1 in most models).
        softcap: As in `StreamingLogProbs.accumulate` (Gemma).
        tile_elements: Number of logits in memory at a time.
        entropies: Whether the result has the entropies at the K temperatures, in nats, behind the log-probabilities.

    Returns:
        Shape (B, L, K), float32 (float64 for float64 hidden states); with entropies (B, L, 2 K).
    """
    keep, temperatures = mask.bool(), _checked(temperatures)  # (B, L), (K,)
    height = max(1, min(_TILE_TOKENS, tile_elements))
    width = max(1, tile_elements // height)
    values = len(temperatures) * (2 if entropies else 1)  # per token
    parts = [hidden_states.new_empty(0, values, dtype=_precision(hidden_states))]
    for states, targets in zip(hidden_states[keep].split(height), tokens[keep].split(height), strict=True):
        stream = StreamingLogProbs(targets, temperatures, _precision(hidden_states), entropies=entropies)
        for start in range(0, len(weight), width):
            rows = slice(start, start + width)
            logits = F.linear(states, weight[rows], None if bias is None else bias[rows])  # (height, width)
            stream.accumulate(logits, start, logit_scale, softcap)
        parts.append(stream.values())
    return scatter_to_mask(torch.cat(parts), keep)


def virtual_log_likelihoods_from_hidden(
    hidden_states: Tensor,
    weight: Tensor,
    tokens: Tensor,
    mask: Tensor,
    temperatures: Sequence[float] | Tensor,
    **head: object,
) -> Tensor:
    """`virtual_log_likelihoods` (Eq. 8) from hidden states and the LM head, without logits of shape (B, L, V).

    Takes the arguments of `virtual_log_probs` but `entropies`. Returns shape (B, K).

    Example:
        >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # (B, L, H) = (1, 2, 2)
        >>> weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]])  # (V, H)
        >>> tokens, mask = torch.tensor([[0, 1]]), torch.tensor([[1, 1]])
        >>> virtual_log_likelihoods_from_hidden(states, weight, tokens, mask, [0.5, 1.0])
        tensor([[-0.1451, -0.4402]])
    """
    return virtual_log_probs(hidden_states, weight, tokens, mask, temperatures, **head).sum(dim=1)  # type: ignore[arg-type]


def scatter_to_mask(per_token: Tensor, keep: Tensor) -> Tensor:
    """Values (M, K) of the M tokens where `keep`, (B, L), is True, as (B, L, K) with zeros elsewhere."""
    result = per_token.new_zeros(*keep.shape, per_token.size(-1))
    result[keep] = per_token
    return result


def _checked(temperatures: Sequence[float] | Tensor) -> list[float]:
    return [check_temperature("temperatures", value) for value in to_list("temperatures", temperatures)]


def _precision(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _use_kernel(device: torch.device) -> bool:
    return device.type == "cuda" and find_spec("triton") is not None
