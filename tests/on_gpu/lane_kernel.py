"""A candidate for `tampo.likelihood_kernel`: K sums per lane, which are added up once, after the last block.

The kernel that is in use adds up each block's powers across lanes: for bfloat16, K = 10 and compute capability 9.0 its
loop has 499 instructions of PTX, 96 of them shuffles; this one has 331, 14 of them shuffles. Which is faster, a GPU has
to show: the stage "kernel" times both.
"""

import triton
import triton.language as tl


@triton.jit
def lane_kernel(
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
    weighted_ptr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_ENTROPIES: tl.constexpr,
    K: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tl.static_assert(not HAS_ENTROPIES, "the candidate has no entropies")
    token = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, PADDED_K)
    rates = tl.load(rates_ptr + k, mask=k < K, other=1.0)  # (PADDED_K,)
    before = tl.load(maximum_ptr + token)
    maximum = before
    chosen = tl.load(chosen_ptr + token)
    token_column = tl.load(tokens_ptr + token) - start
    lanes = tl.zeros((PADDED_K, BLOCK), tl.float32)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < width
        z = tl.load(logits_ptr + token * row_stride + column, mask=inside, other=0.0).to(tl.float32) * logit_scale
        if HAS_SOFTCAP:
            z = softcap * (2 * tl.sigmoid(2 * z / softcap) - 1)
        is_token = inside & (column == token_column)
        chosen += tl.sum(tl.where(is_token, z - chosen, 0.0), axis=0)
        z = tl.where(inside, z, -float("inf"))
        higher = tl.maximum(maximum, tl.max(z, axis=0))
        scale = tl.exp2((maximum - higher) * rates)
        lanes = lanes * scale[:, None] + tl.exp2((z - higher)[None, :] * rates[:, None])
        maximum = higher
    sums = tl.load(sums_ptr + token * K + k, mask=k < K, other=0.0)
    sums = sums * tl.exp2((before - maximum) * rates) + tl.sum(lanes, axis=1)
    tl.store(sums_ptr + token * K + k, sums, mask=k < K)
    tl.store(maximum_ptr + token, maximum)
    tl.store(chosen_ptr + token, chosen)
