"""Completions from a transformers model, for small models or machines without a GPU; use vLLM otherwise.

It samples the same distribution as `model.generate`, several times faster: the samples of a prompt share the prefill,
finished rows leave the batch and the cache, and a token needs one uniform number instead of one per vocabulary entry.
"""

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from tampo.context import UnsuitableModel, check_context
from tampo.decoding import NonFiniteLogits
from tampo.padding import positions_from_mask, probe_rows, relative_error, tolerance

# Finished rows are dropped when they make up this share of the batch, because dropping copies the cache.
_DROPPED_SHARE = 0.15

_CHECKED: "WeakSet[PreTrainedModel]" = WeakSet()  # models that `check_decoding` has tried


def sample_completions(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_tokens: int,
    ends: Sequence[int],
    uniforms: Tensor | None = None,
) -> list[list[int]]:
    """The token ids of `sample_with_log_probs`, which has the arguments, alone."""
    return sample_with_log_probs(model, prompts, temperature, max_tokens, ends, uniforms)[0]


@torch.no_grad()
def sample_with_log_probs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_tokens: int,
    ends: Sequence[int],
    uniforms: Tensor | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """One completion per prompt, all in one batch, drawn from softmax(logits / temperature) (Eq. 2).

    Args:
        model: A transformers decoder with a key-value cache; dropout stays as it is set.
        prompts: Token ids of each prompt, at least one. Repeat a prompt for several samples.
        temperature: Sampling temperature, 0 for the likeliest token each time; there is no top-p, top-k or penalty.
        max_tokens: Maximum tokens per completion, at least one.
        ends: Tokens that end a completion.
        uniforms: Uniform numbers in [0, 1) that determine the tokens, shape (B, max_tokens), float64; by default
            they come from torch's global generator.

    Returns:
        Token ids of each completion, with the end token; and the log-prob of each of them, in nats, at `temperature`.

    Raises:
        ValueError: An empty prompt, a negative temperature, or max_tokens that is not positive.
        NonFiniteLogits: The model's logits are NaN or infinite for some prompts.
        UnsuitableModel: More tokens than the model's context holds, or a model that cannot be sampled here
            (`check_decoding`).
    """
    if not (temperature >= 0 and max_tokens > 0):
        raise ValueError(f"temperature must be 0 or more and max_tokens positive, got {temperature} and {max_tokens}.")
    if not all(prompts):
        raise ValueError("A prompt without tokens cannot be completed.")
    if not prompts:
        return [], []
    check_context(model.config, max(map(len, prompts)), max_tokens, "the limit of completions", warn=False)
    check_decoding(model)
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
    log_probs = torch.zeros_like(tokens, dtype=torch.double)  # (B, C)
    lengths = ids.new_full((len(rows),), max_tokens)  # (B,)
    end_tokens = torch.tensor(list(ends), device=ids.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    for step in range(max_tokens):
        if uniforms is None:
            numbers = torch.rand(len(rows), dtype=torch.double, device=ids.device)
        else:
            numbers = uniforms[rows, step]
        drawn, drawn_log_probs = draw_tokens(logits, temperature, numbers)  # (b,), (b,)
        tokens[rows, step], log_probs[rows, step] = drawn, drawn_log_probs
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
    _check_finite(log_probs, lengths)
    completions, scores = (
        [row[:length] for row, length in zip(values.tolist(), lengths.tolist(), strict=True)]
        for values in (tokens, log_probs)
    )
    return completions, scores


def _check_finite(log_probs: Tensor, lengths: Tensor) -> None:
    """Refuse completions (B, C) of `lengths` (B,) that were drawn from logits that are not finite."""
    inside = torch.arange(log_probs.size(1), device=log_probs.device) < lengths[:, None]  # (B, C)
    bad = (log_probs.isnan() & inside).any(dim=1).nonzero()[:, 0].tolist()
    if bad:
        raise NonFiniteLogits(f"The logits of {len(bad)} of {len(log_probs)} completions are not finite.", bad)


@torch.no_grad()
def check_decoding(model: PreTrainedModel) -> None:
    """Check, once per model, that a token decoded with cache and padding has the logits of its row alone.

    Recurrent models keep their state elsewhere than in the key-value cache, or change it by padding; some models count
    padding as positions.

    Raises:
        UnsuitableModel: It has not; the message names the model.
    """
    if model in _CHECKED:
        return
    name, training = type(model).__name__, model.training
    other = "Sample it with vLLM (rollout_engine, eval_engine), if that supports it, or choose another model."
    model.eval()  # dropout would draw random numbers
    try:
        rows = probe_rows(model.config)
        alone = [model(input_ids=torch.tensor([row], device=model.device)).logits[0, -1] for row in rows]
        expected = torch.stack(alone).float()  # (2, V)
        ids, mask = _pad_left([row[:-1] for row in rows], model.device)
        cache = DynamicCache(config=model.config)
        _next_logits(model, ids, mask, cache)
        swapped = torch.tensor([1, 0], device=model.device)
        _select(cache, swapped)
        mask = torch.cat([mask[swapped], mask.new_ones(2, 1)], dim=1)
        last = torch.tensor([[rows[1][-1]], [rows[0][-1]]], device=model.device)
        found = _next_logits(model, last, mask, cache)[swapped]
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise UnsuitableModel(
            f"{name} cannot be sampled with a key-value cache ({type(error).__name__}: {error}). {other}"
        ) from error
    finally:
        model.train(training)
    half = torch.is_autocast_enabled(model.device.type)
    spread = expected.std(dim=-1)
    off = max(relative_error(found[i], expected[i], spread[i]) for i in range(2))
    if off > tolerance(torch.bfloat16 if half else model.dtype):
        raise UnsuitableModel(
            f"{name} cannot be sampled in padded batches with a key-value cache: logits are off by {off:.2g} "
            f"standard deviations. {other}"
        )
    _CHECKED.add(model)


def draw_tokens(logits: Tensor, temperature: float, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row, from softmax(logits / temperature): (B, V), uniform numbers (B,) -> (B,), and log-probs (B,).

    By inversion, in double precision: the first token whose cumulative probability exceeds the uniform number. At 0 the
    likeliest one, with log-prob 0. A log-prob is NaN where the logits of its row are not finite.
    """
    if temperature == 0:
        finite = torch.where(logits.isnan().any(dim=-1), torch.nan, 0.0).double()
        return logits.argmax(dim=-1), finite
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)  # (B, V)
    cumulative = probabilities.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)  # (B, 1)
    drawn = drawn.clamp(max=logits.size(-1) - 1)  # the product may round up to the sum itself
    return drawn[:, 0], probabilities.gather(-1, drawn)[:, 0].log()


def _select(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of the cache; they may repeat."""
    cache.reorder_cache(rows)  # type: ignore[arg-type]  # meant for beams, but takes any index


def _next_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the next token: ids (b, l), whose mask is the last l columns of `mask` -> (b, V)."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions_from_mask(mask)[:, -ids.size(1) :],  # (b, l)
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
