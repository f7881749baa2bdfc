"""The K likelihoods' Triton kernel: against float64, with offsets above 2^31, and its time."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from tests.helpers import expected_log_probs
from tests.on_gpu.device import DEVICE, ON_GPU
from tests.on_gpu.report import Report, Skipped

TILE = 32768  # columns, as in TRL's fused head
WIDTHS = (1, 64, 333, TILE, 151_936) if ON_GPU else (64, 333)
ROWS = 64 if ON_GPU else 4
# K and soft-cap. Triton compiles each anew, so not all in each precision.
CASES = {
    torch.bfloat16: ((1, None), (10, None), (32, None), (10, 5.0)),
    torch.float32: ((10, None), (10, 5.0)),
    torch.float16: ((10, None), (10, 5.0)),
}
TOLERANCE = 2e-5  # absolute, and relative to the log-prob


def run(report: Report, folder: Path) -> None:
    if find_spec("triton") is None:
        raise Skipped("Triton is not installed")
    from tampo import likelihood_kernel
    from tests.on_gpu.lane_kernel import lane_kernel

    with patch("tampo.likelihood._use_kernel", lambda device: True):
        one_kernel(report, "kernel", list(CASES))
        with patch.object(likelihood_kernel, "_accumulate_kernel", lane_kernel):
            one_kernel(report, "candidate", [torch.bfloat16])
    if not ON_GPU:
        report.skip("times", "torch finds no GPU")
        return
    against_head(report)


def one_kernel(report: Report, title: str, dtypes: list[torch.dtype]) -> None:
    for dtype in dtypes:
        against_float64(report, title, dtype)
    far_offsets(report, title)
    if ON_GPU:
        time_of_a_tile(report, title)


def log_probs(logits: torch.Tensor, tokens: torch.Tensor, temperatures: list[float], cap: float | None = None):
    """As TRL's head would have them read: in tiles of a wide vocabulary."""
    from tampo.likelihood import StreamingLogProbs

    sums = StreamingLogProbs(tokens, temperatures)
    for start in range(0, logits.size(1), TILE):
        sums.accumulate(logits[:, start : start + TILE], start, softcap=cap)
    return sums.log_probs()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error as a share of what is allowed."""
    return ((found.double() - expected).abs() / (TOLERANCE * (1 + expected.abs()))).max().item()


def against_float64(report: Report, title: str, dtype: torch.dtype) -> None:
    worst, cases = 0.0, list(product(WIDTHS, CASES[dtype]))
    for width, (k, cap) in cases:
        generator = torch.Generator().manual_seed(width + k)
        logits = (torch.randn(ROWS, width, generator=generator) * 6).to(dtype).to(DEVICE)
        tokens = torch.randint(width, (ROWS,), generator=generator).to(DEVICE)
        temperatures = torch.linspace(0.3, 3, k).tolist()
        capped = logits.double() if cap is None else cap * torch.tanh(logits.double() / cap)
        expected = expected_log_probs(capped, tokens, temperatures)
        worst = max(worst, error(log_probs(logits, tokens, temperatures, cap), expected))
    name = f"{title}, {str(dtype).removeprefix('torch.')}, against float64"
    report.check(name, worst <= 1, cases=len(cases), largest_error=worst * TOLERANCE, allowed=TOLERANCE)


def far_offsets(report: Report, title: str) -> None:
    """Rows whose first element lies beyond 2^31, in a buffer of 4.3 GB (of which a CPU touches some pages only)."""
    size, width = 2**31 + TILE, 333
    # The width of the paper's vocabulary; and rows far apart, as few as a CPU's interpreter can do.
    for rows, stride in ((size // 151_936, 151_936), (9, 2**28)) if ON_GPU else ((9, 2**28),):
        buffer = torch.empty(size, dtype=torch.bfloat16, device=DEVICE)
        tile = buffer.as_strided((rows, width), (stride, 1))
        generator = torch.Generator().manual_seed(0)
        tile.copy_((torch.randn(rows, width, generator=generator) * 6).to(DEVICE))
        tokens = torch.randint(width, (rows,), generator=generator).to(DEVICE)
        found, expected = log_probs(tile, tokens, [0.6, 1.5]), expected_log_probs(tile, tokens, [0.6, 1.5])
        last = (rows - 1) * stride
        name = f"{title}, offsets up to {last} with {rows} rows"
        report.check(name, error(found, expected) <= 1, largest_error=error(found, expected) * TOLERANCE)
        del buffer, tile


def milliseconds(function: Callable[[], object], rounds: int = 20) -> float:
    times = []
    for _ in range(rounds + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return median(times[3:])


def time_of_a_tile(report: Report, title: str) -> None:
    """One of TRL's tiles, 4,096 tokens, against one read of it."""
    from tampo.likelihood import StreamingLogProbs

    logits = torch.randn(4096, TILE, device=DEVICE, dtype=torch.bfloat16)
    tokens = torch.randint(TILE, (4096,), device=DEVICE)
    read = milliseconds(partial(torch.amax, logits, dim=-1))
    for k in (1, 10, 32):
        sums = StreamingLogProbs(tokens, torch.linspace(0.6, 1.5, k).tolist())
        took = milliseconds(partial(sums.accumulate, logits))
        numbers = {"ms": took, "read_ms": read, "reads": took / read, "gb_per_s": logits.nbytes / took / 1e6}
        report.check(f"{title}, time of a tile, K = {k}", True, **numbers)


def against_head(report: Report) -> None:
    from tampo.paper.overhead_cases import HeadShape
    from tampo.paper.overhead_parts import measure_head

    rows = measure_head(HeadShape(), 10)
    ratio = (rows["likelihoods"] / rows["head"]).median()
    report.check(
        "likelihoods / LM head forward and backward", ratio <= 0.25, "goal: at most 0.25", ratio=float(ratio),
        likelihoods_ms=float(rows["likelihoods"].median() * 1e3), head_ms=float(rows["head"].median() * 1e3),
    )  # fmt: skip
