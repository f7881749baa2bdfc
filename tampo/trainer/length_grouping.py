"""Log-prob computation without padding: rows of similar length together, each group as wide as its longest row.

TRL computes a micro-batch as one rectangle, as wide as its longest prompt and its longest completion. Where lengths
differ much, most of that is padding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Takes rows (input_ids (b, l), attention_mask (b, l), completion length c) and returns tensors (b, c, ...) or None.
Compute = Callable[[Tensor, Tensor, int], tuple[Tensor | None, ...]]


def compute_by_length(
    compute: Compute, input_ids: Tensor, attention_mask: Tensor, completion_length: int, size: int
) -> tuple[Tensor | None, ...]:
    """The result of `compute` for all rows, computed in groups of `size` rows of similar length.

    The number of calls depends on the number of rows only, so it is the same on processes with as many rows. Gradients
    flow through.

    Args:
        compute: What to compute, one value (or vector) per completion token.
        input_ids: Prompts, padded on the left, and completions, padded on the right, shape (B, P + C).
        attention_mask: Same shape; a row may have no token at all.
        completion_length: C.
        size: Rows per group.

    Returns:
        Tensors of shape (B, C, ...), zero after the longest completion of a row's group.
    """
    prompt_length = input_ids.size(1) - completion_length  # P
    # A mask may have holes: what counts is the first token of a prompt and the last of a completion.
    column = torch.arange(1, input_ids.size(1) + 1, device=input_ids.device)  # (P + C,)
    ends = ((attention_mask * column).amax(dim=1) - prompt_length).clamp(min=1)  # (B,), at least one column
    present = attention_mask[:, :prompt_length].bool()
    starts = torch.where(present, column[:prompt_length], prompt_length).amin(dim=1) - 1  # (B,)
    order = (ends - starts).argsort(stable=True)
    groups = []
    for group in order.split(size):
        first, last = int(starts[group].min()), int(ends[group].max())
        columns = slice(first, prompt_length + last)
        parts = compute(input_ids[group, columns], attention_mask[group, columns], last)
        groups.append([None if part is None else _widen(part, completion_length) for part in parts])
    back = order.argsort()
    return tuple(None if parts[0] is None else torch.cat(parts)[back] for parts in zip(*groups, strict=True))


def _widen(part: Tensor, length: int) -> Tensor:
    """(b, c, ...) -> (b, length, ...), with zeros at the end."""
    padding: list[Any] = [0, 0] * (part.dim() - 2) + [0, length - part.size(1)]
    return F.pad(part, padding)
