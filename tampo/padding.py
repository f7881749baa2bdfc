"""Checks that a model computes the same for a padded row as for the row alone, and positions for those that do not.

Models differ in where they take positions from: the attention mask, the column, or nothing at all (recurrent ones,
whose state padding may change). No list of architectures can be complete. So a model is tried once, on two short rows.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from tampo.context import context_limit
from tampo.extras import extra

with extra("trl"):
    import torch
    from torch import Tensor, nn

NEGLIGIBLE = 1e-3  # an error (`relative_error`) of rounding in float32


def tolerance(dtype: torch.dtype) -> float:
    """The largest error (`relative_error`) that rounding explains where a model computes with `dtype`."""
    return 0.01 if dtype in (torch.float32, torch.float64) else 0.1


def relative_error(found: Tensor, expected: Tensor, spread: Tensor) -> float:
    """Mean absolute error of log-probs or logits, in units of `spread`, the standard deviation over a vocabulary.

    NaN where one of them is not finite.
    """
    return ((found.float() - expected.float()).abs().mean() / spread.float().mean().clamp(min=1e-12)).item()


def probe_rows(config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of two rows, of 16 and 6 tokens, without special ones; shorter where the context is."""
    text = config.get_text_config()
    special: set[Any] = set()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(text, name, None)
        special.update(ids if isinstance(ids, Sequence) else [ids])
    usual = [token for token in range(min(text.vocab_size, 512)) if token not in special] or [0]
    limit = context_limit(config)
    longest = 16 if limit is None else min(16, limit[0])
    long = tuple(usual[(7 * i + 3) % len(usual)] for i in range(longest))
    return long, long[: max(3, 3 * longest // 8)][::-1]


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """Positions of tokens, 0 for the first one of a row and for padding on the left; (B, L) -> (B, L)."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def takes_position_ids(model: nn.Module) -> bool:
    """Whether the model's forward has an argument `position_ids`."""
    return "position_ids" in inspect.signature(type(model).forward).parameters


def add_position_ids(model: nn.Module) -> Any:
    """Have `model` count positions by the attention mask wherever a call does not give them.

    Returns:
        A handle whose `remove` undoes it.
    """

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        mask = kwargs.get("attention_mask")
        absent = kwargs.get("position_ids") is None and kwargs.get("past_key_values") is None
        if absent and mask is not None and mask.dim() == 2:
            kwargs = kwargs | {"position_ids": positions_from_mask(mask)}
        return args, kwargs

    return model.register_forward_pre_hook(add, with_kwargs=True)
