"""`tampo.likelihood.StreamingLogProbs` on a GPU: a Triton kernel adds a tile of logits to the K sums per token.

One program per token reads the tile in blocks, with one running maximum for all temperatures. The same computation in
torch is `StreamingLogProbs._accumulate_rows`. A candidate that keeps sums per lane (tests/on_gpu/lane_kernel.py)
compiles to a loop of two thirds of the instructions; no GPU has timed either yet.
"""

from tampo.extras import extra

with extra("trl"):
    import torch
    import triton
    import triton.language as tl
    from torch import Tensor

# Exponentials that a program holds at a time: more temperatures, shorter blocks.
_POWERS = 8192


@triton.jit
def _accumulate_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,
    row_stride,
    tokens_ptr,
    rates_ptr,
    maximum_ptr,
    sums_ptr,
    chosen_ptr,
    start,
    width,
    logit_scale,
    softcap,
    weighted_ptr,  # None without entropies
    HAS_SOFTCAP: tl.constexpr,
    HAS_ENTROPIES: tl.constexpr,
    K: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, PADDED_K)  # sizes of a block are powers of two
    rates = tl.load(rates_ptr + k, mask=k < K, other=1.0)  # (PADDED_K,)
    sums = tl.load(sums_ptr + token * K + k, mask=k < K, other=0.0)
    if HAS_ENTROPIES:
        weighted = tl.load(weighted_ptr + token * K + k, mask=k < K, other=0.0)
    maximum = tl.load(maximum_ptr + token)
    chosen = tl.load(chosen_ptr + token)
    token_column = tl.load(tokens_ptr + token) - start
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < width
        z = tl.load(logits_ptr + token * row_stride + column, mask=inside, other=0.0).to(tl.float32) * logit_scale
        if HAS_SOFTCAP:
            z = softcap * (2 * tl.sigmoid(2 * z / softcap) - 1)  # tanh
        is_token = inside & (column == token_column)  # true in one block of one tile
        chosen += tl.sum(tl.where(is_token, z - chosen, 0.0), axis=0)
        z = tl.where(inside, z, -float("inf"))
        higher = tl.maximum(maximum, tl.max(z, axis=0))
        powers = tl.exp2((z - higher)[None, :] * rates[:, None])  # (PADDED_K, BLOCK)
        scaled = sums * tl.exp2((maximum - higher) * rates)
        if HAS_ENTROPIES:
            # -inf times its power, 0, would be NaN.
            below = tl.where(z - higher == -float("inf"), 0.0, z - higher)
            shift = tl.where(maximum - higher == -float("inf"), 0.0, maximum - higher)
            weighted = weighted * tl.exp2((maximum - higher) * rates) + shift * scaled
            weighted += tl.sum(powers * below[None, :], axis=1)
        sums = scaled + tl.sum(powers, axis=1)
        maximum = higher
    if HAS_ENTROPIES:
        tl.store(weighted_ptr + token * K + k, weighted, mask=k < K)
    tl.store(sums_ptr + token * K + k, sums, mask=k < K)
    tl.store(maximum_ptr + token, maximum)
    tl.store(chosen_ptr + token, chosen)


def accumulate(
    logits: Tensor,
    tokens: Tensor,
    rates: Tensor,
    maximum: Tensor,
    sums: Tensor,
    chosen: Tensor,
    start: int,
    logit_scale: float,
    softcap: float | None,
    weighted: Tensor | None,
) -> None:
    """Add a tile of logits (M, v) to `maximum` (M,), `sums` (M, K) and `chosen` (M,), all float32, in place.

    So it does to `weighted` (M, K), the sums of entropies; None: the compiled kernel has no code for them. `rates` are
    log2(e) / T_k, shape (K,); for all others see `StreamingLogProbs`. The tile is float32, bfloat16 or float16; its
    columns must be contiguous, its rows need not be.
    """
    if not len(logits):
        return
    padded = triton.next_power_of_2(len(rates))
    with torch.cuda.device_of(logits):
        _accumulate_kernel[(len(logits),)](
            logits,
            logits.stride(0),
            tokens,
            rates,
            maximum,
            sums,
            chosen,
            start,
            logits.size(1),
            logit_scale,
            softcap or 1.0,
            weighted,
            HAS_SOFTCAP=softcap is not None,
            HAS_ENTROPIES=weighted is not None,
            K=len(rates),
            PADDED_K=padded,
            BLOCK=max(64, _POWERS // padded),
        )
