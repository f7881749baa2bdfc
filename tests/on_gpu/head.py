"""TRL's fused head in mixed precision, with the K likelihoods read from its tiles: gradients, values, memory."""

import os
from pathlib import Path

import torch

from tampo.meta_policy import DEFAULT_TEMPERATURES
from tampo.paper.overhead_cases import HeadShape
from tampo.paper.overhead_parts import _Head
from tampo.trainer.trl_internals import tapped_logits
from tests.on_gpu.device import DEVICE, ON_GPU, peak_mb
from tests.on_gpu.report import Report

SHAPE = HeadShape() if ON_GPU else HeadShape(hidden=16, vocabulary=40_000, tokens=24)  # more than one tile
EXTRA_MB = 256  # allowed above the head's own


def run(report: Report, folder: Path) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    head = _Head(SHAPE)
    for name in ("states", "weight"):  # float32, as the weights of mixed precision
        setattr(head, name, getattr(head, name).detach().float().requires_grad_())
    for dtype in (torch.bfloat16, torch.float16):
        one_precision(report, head, dtype)


def one_precision(report: Report, head: _Head, dtype: torch.dtype) -> None:
    title = str(dtype).removeprefix("torch.")
    peak_mb()
    alone, gradients = forward_and_backward(head, dtype)
    memory_alone = peak_mb()
    recorder = head.recorder()
    with tapped_logits(recorder):
        tapped, tapped_gradients = forward_and_backward(head, dtype)
    recorded = recorder.log_probs()[0, :, DEFAULT_TEMPERATURES.index(1.0)]
    memory_tapped = peak_mb()
    pairs = zip([alone, *gradients], [tapped, *tapped_gradients], strict=True)
    different = sum(int((one != other).sum()) for one, other in pairs)
    report.check(f"{title}, log-probs and gradients with the tap, to the bit", not different, different=different)
    finite = all(bool(values.isfinite().all()) for values in gradients)
    report.check(f"{title}, gradients are finite", finite, largest=max(g.abs().max().item() for g in gradients))
    gap = (recorded - alone).abs().max().item()
    report.check(f"{title}, recorded log-probs at T = 1 against the head's", gap < 1e-3, largest_gap=gap)
    if memory_alone is None or memory_tapped is None:
        report.skip(f"{title}, memory", "torch finds no GPU")
        return
    extra = memory_tapped - memory_alone
    report.check(
        f"{title}, memory of the likelihoods", extra <= EXTRA_MB, f"at most {EXTRA_MB} MB",
        extra_mb=extra, head_mb=memory_alone,
    )  # fmt: skip


def forward_and_backward(head: _Head, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probs (N,), and gradients of states and weight."""
    head.states.grad = head.weight.grad = None
    with torch.autocast(DEVICE, dtype):
        log_probs = head.log_probs()
    log_probs.sum().backward()
    return log_probs.detach(), [head.states.grad, head.weight.grad]
