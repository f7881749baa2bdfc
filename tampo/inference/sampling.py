"""Completions from a transformers model, for small models or machines without a GPU; use vLLM otherwise.

It samples the same distribution as `model.generate`, several times faster: the samples of a prompt share the prefill,
finished rows leave the batch and the cache, and a token needs one uniform number instead of one per vocabulary entry.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

# Finished rows are dropped when they make up this share of the batch, because dropping copies the cache.
_DROPPED_SHARE = 0.15


@torch.no_grad()
def sample_completions(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_tokens: int,
    ends: Sequence[int],
    uniforms: Tensor | None = None,
) -> list[list[int]]:
    """One completion per prompt, all in one batch, drawn from softmax(logits / temperature) (Eq. 2).

    Args:
        model: A transformers decoder with a key-value cache; dropout stays as it is set.
        prompts: Token ids of each prompt, at least one. Repeat a prompt for several samples.
        temperature: Sampling temperature; there is no top-p, top-k or penalty.
        max_tokens: Maximum tokens per completion, at least one.
        ends: Tokens that end a completion.
        uniforms: Uniform numbers in [0, 1) that determine the tokens, shape (B, max_tokens), float64; by default
            they come from torch's global generator.

    Returns:
        Token ids of each completion, with the end token.

    Raises:
        ValueError: An empty prompt, or a temperature or max_tokens that is not positive.
    """
    if not (temperature > 0 and max_tokens > 0):
        raise ValueError(f"temperature and max_tokens must be positive, got {temperature} and {max_tokens}.")
    if not all(prompts):
        raise ValueError("A prompt without tokens cannot be completed.")
    if not prompts:
        return []
    index = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}  # distinct prompts
    ids, mask = _pad_left(list(index), model.device)  # (N, P)
    cache = DynamicCache(config=model.config)
    logits = _next_logits(model, ids, mask, cache)  # (N, V)
    repeated = torch.tensor([index[tuple(prompt)] for prompt in prompts], device=ids.device)  # (B,)
    _select(cache, repeated)
    logits, mask = logits[repeated], mask[repeated]  # (B, V), (B, P)
    rows = torch.arange(len(repeated), device=ids.device)  # the completion of each row of the batch
    uniforms = None if uniforms is None else uniforms.to(ids.device)
    tokens = ids.new_zeros(len(rows), max_tokens)  # (B, C)
    lengths = ids.new_full((len(rows),), max_tokens)  # (B,)
    end_tokens = torch.tensor(list(ends), device=ids.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    for step in range(max_tokens):
        if uniforms is None:
            numbers = torch.rand(len(rows), dtype=torch.double, device=ids.device)
        else:
            numbers = uniforms[rows, step]
        drawn = draw_tokens(logits, temperature, numbers)  # (b,)
        tokens[rows, step] = drawn
        ended = running & torch.isin(drawn, end_tokens)
        lengths[rows[ended]] = step + 1
        running = running & ~ended
        left = int(running.sum())
        if left == 0 or step + 1 == max_tokens:
            break
        if left <= (1 - _DROPPED_SHARE) * len(rows):
            kept = running.nonzero()[:, 0]
            _select(cache, kept)
            rows, drawn, mask, running = rows[kept], drawn[kept], mask[kept], running[kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = _next_logits(model, drawn[:, None], mask, cache)
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def draw_tokens(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """One token per row, from softmax(logits / temperature): (B, V), uniform numbers (B,) -> (B,).

    By inversion, in double precision: the first token whose cumulative probability exceeds the uniform number.
    """
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)  # (B, V)
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)  # (B, 1)
    return drawn[:, 0].clamp(max=logits.size(-1) - 1)  # the product may round up to the sum itself


def _select(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of the cache; they may repeat."""
    cache.reorder_cache(rows)  # type: ignore[arg-type]  # meant for beams, but takes any index


def _next_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the next token: ids (b, l), whose mask is the last l columns of `mask` -> (b, V)."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.size(1) :],  # (b, l)
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return ids.to(device), mask.to(device)
