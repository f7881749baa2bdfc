"""Scoring of rollouts without their padding: rows of like length together, each group as wide as its longest row.

TRL scores a micro-batch as one rectangle, as wide as the longest prompt and the longest completion in it. Where
lengths differ much, most of that is padding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores rows of (input_ids (b, l), attention_mask (b, l), completion length c): tensors (b, c, ...), or None.
Score = Callable[[Tensor, Tensor, int], tuple[Tensor | None, ...]]


def score_by_length(
    score: Score, input_ids: Tensor, attention_mask: Tensor, completion_length: int, rows: int
) -> tuple[Tensor | None, ...]:
    """What `score` gives for all rows at once, computed for `rows` rows of like length at a time.

    The number of calls depends on the number of rows alone, so that processes that hold as many rows each call as
    often. Gradients flow through.

    Args:
        score: What to compute, one value (or vector) a completion token.
        input_ids: Prompts, padded on the left, and completions, padded on the right, shape (B, P + C).
        attention_mask: Of the same shape; a row may have no token at all.
        completion_length: C.
        rows: Rows scored at a time.

    Returns:
        Of shape (B, C, ...), zero behind the end of a completion's group.
    """
    prompt_length = input_ids.size(1) - completion_length  # P
    # A mask may have holes; what counts is the first token of a prompt and the last of a completion.
    place = torch.arange(1, input_ids.size(1) + 1, device=input_ids.device)  # (P + C,)
    ends = ((attention_mask * place).amax(dim=1) - prompt_length).clamp(min=1)  # (B,), at least one column
    present = attention_mask[:, :prompt_length].bool()
    starts = torch.where(present, place[:prompt_length], prompt_length).amin(dim=1) - 1  # (B,)
    order = (ends - starts).argsort(stable=True)
    groups = []
    for group in order.split(rows):
        first, last = int(starts[group].min()), int(ends[group].max())
        columns = slice(first, prompt_length + last)
        parts = score(input_ids[group, columns], attention_mask[group, columns], last)
        groups.append([None if part is None else _widen(part, completion_length) for part in parts])
    back = order.argsort()
    return tuple(None if parts[0] is None else torch.cat(parts)[back] for parts in zip(*groups, strict=True))


def _widen(part: Tensor, length: int) -> Tensor:
    """(b, c, ...) -> (b, length, ...), with zeros at the end."""
    padding: list[Any] = [0, 0] * (part.dim() - 2) + [0, length - part.size(1)]
    return F.pad(part, padding)
