"""Versions, machine, the GPU's capability and free memory."""

import platform
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.requirements import Requirement

from tampo.runs.hardware import describe, machine
from tests.helpers import ROOT
from tests.on_gpu.device import ON_GPU
from tests.on_gpu.report import Report

PACKAGES = ("tampo", "torch", "triton", "transformers", "trl", "accelerate", "deepspeed", "vllm")


def run(report: Report, folder: Path) -> None:
    versions = {name: metadata.version(name) for name in PACKAGES if find_spec(name) is not None}
    report.check("versions", True, python=platform.python_version(), **versions)
    pins = {line.name: line for line in map(Requirement, (ROOT / ".ci/constraints.txt").read_text().splitlines())}
    other = [n for n, v in versions.items() if n in pins and not pins[n].specifier.contains(v.partition("+")[0])]
    report.check("versions are those of .ci/constraints.txt", not other, ", ".join(other))
    here = machine()
    report.check("machine", True, describe(here), memory_gb=here["memory_gb"], driver=here["driver"])
    report.check("disk", True, free_gb=round(shutil.disk_usage(folder).free / 1e9, 1))
    if not ON_GPU:
        report.skip("GPU", "torch finds no GPU")
        return
    free, total = torch.cuda.mem_get_info()
    major, minor = torch.cuda.get_device_capability()
    report.check(
        "compute capability", (major, minor) >= (7, 5), "torch 2.13 (CUDA 13) has code for 7.5 and higher",
        capability=f"{major}.{minor}", cuda=torch.version.cuda, compiled_for=" ".join(torch.cuda.get_arch_list()),
    )  # fmt: skip
    report.check("bfloat16", True, "from 8.0 on", supported=torch.cuda.is_bf16_supported(including_emulation=False))
    report.check("free memory", free > 0.8 * total, "little else runs", free_gb=free / 1e9, total_gb=total / 1e9)
    sum_of_ones = torch.ones(1024, device="cuda").sum().item()
    report.check("a first computation", sum_of_ones == 1024, nccl=".".join(map(str, torch.cuda.nccl.version())))
