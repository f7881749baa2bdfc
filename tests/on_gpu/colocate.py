"""vLLM in the training process: its log-probs are those of the loss at T = 0.6 and 1.5, and a stale head shows."""

from importlib.util import find_spec
from pathlib import Path

import torch

from tests.on_gpu.device import need_gpu
from tests.on_gpu.report import Report, Skipped

TEMPERATURES = (0.6, 1.5)
# Mean difference of log-probs per token that rounding explains: of logits to 8 or 11 bits, in two computations.
ALLOWED = {"bf16": 0.03, "fp16": 0.006}


def run(report: Report, folder: Path) -> None:
    need_gpu()
    if find_spec("vllm") is None:
        raise Skipped("vLLM is not installed")
    from tests.with_vllm.colocate import DIFFERENCE, make_trainer, rounds

    precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    linear = {"start_temperature": TEMPERATURES[0], "end_temperature": TEMPERATURES[1]}
    trainer = make_trainer(
        folder, use_cpu=False, **{precision: True}, max_steps=2, vllm_gpu_memory_utilization=0.2,
        temperature_controller="linear", temperature_controller_kwargs=linear,
    )  # fmt: skip
    log = rounds(trainer)
    for i, temperature in enumerate(TEMPERATURES):
        right, stale = (log[name][i][DIFFERENCE] for name in ("right", "stale head"))
        title = f"{precision}, T = {temperature}"
        at = log["right"][i]["temperature"]
        allowed = ALLOWED[precision]
        report.check(f"{title}, sampler and loss", at == temperature and right < allowed, gap=right, allowed=allowed)
        report.check(f"{title}, a stale head", stale > 5 * right, "at least 5 times the gap", gap=stale)
    before, after = (row[DIFFERENCE] for row in log["unsynced"])
    report.check(f"{precision}, stale weights in vLLM", after > 2 * before, "they show", gap=after, before=before)
