"""Likelihood of rollouts under K virtual temperatures (TAMPO, section 3.3.1, Eqs. 5-8), in torch.

One pass over the logits serves all temperatures, since the maximum of z / T is (max z) / T: each temperature
costs one sum of exponentials. From hidden states, the LM head is applied tile by tile, so that logits of the
shape (B, L, V) never exist. Nothing here needs gradients: likelihoods move the meta-policy, not the model.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from tampo import meta_policy

# Logits that exist at a time: 2**24 values are 64 MB in float32, 110 tokens of a vocabulary of 151,936.
TILE_ELEMENTS = 2**24


@overload
def sparsemax(x: Tensor) -> Tensor: ...
@overload
def sparsemax(x: ArrayLike) -> NDArray[np.float64]: ...
def sparsemax(x):
    """Euclidean projection onto the probability simplex along the last axis (Martins & Astudillo, 2016).

    Args:
        x: Finite scores, shape (..., K); a tensor (differentiable, any device) or anything numpy takes.

    Returns:
        Probabilities of the same shape: a tensor for a tensor, a float64 array otherwise.
    """
    if not isinstance(x, Tensor):
        return meta_policy.sparsemax(x)
    scores = x - x.detach().amax(dim=-1, keepdim=True)
    descending = scores.sort(dim=-1, descending=True).values  # (..., K)
    excess = descending.cumsum(dim=-1) - 1  # (..., K)
    rank = torch.arange(1, x.size(-1) + 1, device=x.device, dtype=x.dtype)  # (K,)
    support = (descending * rank > excess).sum(dim=-1, keepdim=True)  # (..., 1)
    threshold = excess.gather(-1, support - 1) / support  # (..., 1)
    return (scores - threshold).clamp(min=0)


@torch.no_grad()
def virtual_log_likelihoods(
    logits: Tensor, tokens: Tensor, mask: Tensor, temperatures: Sequence[float] | Tensor
) -> Tensor:
    """Log-likelihood of each rollout at each temperature, summed over its tokens (Eq. 8).

    Args:
        logits: Shape (B, L, V); `logits[:, t]` predicts `tokens[:, t]`.
        tokens: The sampled tokens, shape (B, L).
        mask: 1 where a token counts, 0 for padding (and tool output), shape (B, L).
        temperatures: The K virtual temperatures.

    Returns:
        Shape (B, K), float32 (float64 for float64 logits).

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # (B, L, V) = (1, 2, 2)
        >>> virtual_log_likelihoods(logits, torch.tensor([[0, 1]]), torch.tensor([[1, 1]]), [0.5, 1.0])
        tensor([[-0.1451, -0.4402]])
    """
    keep = mask.bool()  # (B, L)
    per_token = _log_probs_of_logits(logits[keep], tokens[keep], _as_tensor(temperatures, logits))  # (M, K)
    return _spread(per_token, keep).sum(dim=1)  # (B, K)


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
) -> Tensor:
    """Log-probability of each token at each temperature from hidden states and the LM head, tile by tile.

    The per-token form: a trainer that learns only later which tokens count (tool output, truncated rollouts)
    masks and sums it itself. Memory above the result: `tile_elements` logits and as many exponentials.

    Args:
        hidden_states: Last hidden states, shape (B, L, H); `hidden_states[:, t]` predicts `tokens[:, t]`.
        weight: The LM head's weight, shape (V, H).
        tokens: Shape (B, L).
        mask: 1 where a token is scored, shape (B, L); the others get 0.
        temperatures: The K virtual temperatures.
        bias: The LM head's bias, shape (V,).
        logit_scale: Factor of the logits before the soft-cap (1 in most models).
        softcap: If given, logits become `softcap * tanh(logits / softcap)` (Gemma).
        tile_elements: How many logits exist at a time.

    Returns:
        Shape (B, L, K), float32 (float64 for float64 hidden states).
    """
    keep = mask.bool()  # (B, L)
    virtual = _as_tensor(temperatures, hidden_states)  # (K,)
    tile = max(1, tile_elements // weight.size(0))
    parts = []
    for states, targets in zip(hidden_states[keep].split(tile), tokens[keep].split(tile), strict=True):
        logits = F.linear(states, weight, bias)  # (tile, V)
        if logit_scale != 1.0:
            logits = logits * logit_scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        parts.append(_log_probs_of_logits(logits, targets, virtual))
    return _spread(torch.cat(parts), keep)


def virtual_log_likelihoods_from_hidden(
    hidden_states: Tensor,
    weight: Tensor,
    tokens: Tensor,
    mask: Tensor,
    temperatures: Sequence[float] | Tensor,
    **head: object,
) -> Tensor:
    """`virtual_log_likelihoods` without logits of shape (B, L, V): Eq. 8 from hidden states and the LM head.

    Arguments as in `virtual_log_probs` (`head` holds its keyword arguments). Returns shape (B, K).
    """
    return virtual_log_probs(hidden_states, weight, tokens, mask, temperatures, **head).sum(dim=1)  # type: ignore[arg-type]


def _log_probs_of_logits(logits: Tensor, tokens: Tensor, temperatures: Tensor) -> Tensor:
    """log softmax(z / T_k) of the given tokens: (M, V), (M,), (K,) -> (M, K), Eq. 2."""
    shifted = logits.to(temperatures.dtype)
    shifted = shifted - shifted.amax(dim=-1, keepdim=True)  # (M, V); exponents are <= 0 at every temperature
    chosen = shifted.gather(-1, tokens[:, None])  # (M, 1)
    normaliser = torch.stack([(shifted / t).exp().sum(dim=-1) for t in temperatures], dim=-1).log()  # (M, K)
    return chosen / temperatures - normaliser


def _as_tensor(temperatures: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.as_tensor(temperatures, dtype=dtype, device=like.device)


def _spread(per_token: Tensor, keep: Tensor) -> Tensor:
    """Put the scored tokens (M, K) back in their places: (B, L, K), zero elsewhere."""
    result = per_token.new_zeros(*keep.shape, per_token.size(-1))
    result[keep] = per_token
    return result
