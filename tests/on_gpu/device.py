"""The device of this process: a GPU where torch finds one."""

import torch

from tests.on_gpu.report import Skipped

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


def need_gpu() -> None:
    """Raise Skipped where torch finds no GPU."""
    if not ON_GPU:
        raise Skipped("torch finds no GPU")


def peak_mb() -> float | None:
    """Most memory that tensors on the GPU took since the last call, in MB; None without a GPU."""
    if not ON_GPU:
        return None
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 1)
