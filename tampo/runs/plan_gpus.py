"""GPUs that a run can be planned for, and how accelerate's configuration spreads a run over them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tampo.config import ConfigError
from tampo.runs import devices

# As data sheets write them: 7.5 and 8.0.
LOWEST_CAPABILITY, BF16_CAPABILITY = (
    major + minor / 10 for major, minor in (devices.CAPABILITY, devices.BF16_CAPABILITY)
)


@dataclass(frozen=True)
class GPU:
    """One GPU by its data sheet.

    `memory` is in 10^9 bytes as a program sees it, `bandwidth` in 10^9 bytes a second, `flops` in 10^12 a second for
    dense bfloat16 products with float32 sums.
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    capability: float


def _visible(sheet: float) -> float:
    """10^9 bytes that a program sees; a data sheet's "GB" of GPU memory are GiB, and the driver keeps about 1 %."""
    return round(sheet * 1.0737 * 0.989, 1)


# NVIDIA's data sheets, dense rates (those with sparsity are twice as high):
# H100 SXM5 80GB ("NVIDIA H100 Tensor Core GPU"), H200 SXM ("NVIDIA H200 Tensor Core GPU"), A100 SXM4 80GB ("NVIDIA A100
# Tensor Core GPU"), "NVIDIA L40S" (its error correction takes a sixteenth of 48 GB), RTX 4090 (table of the white paper
# "NVIDIA Ada GPU Architecture"), and compute capabilities of developer.nvidia.com/cuda-gpus.
GPUS = {
    "h100": GPU("H100 80GB", _visible(80), 3350, 989, 9.0),
    "h200": GPU("H200 141GB", _visible(141), 4800, 989, 9.0),
    "a100": GPU("A100 80GB", _visible(80), 2039, 312, 8.0),
    "l40s": GPU("L40S 48GB", _visible(45), 864, 362, 8.9),
    "rtx4090": GPU("RTX 4090 24GB", _visible(24), 1008, 165, 8.9),
}
_TOO_OLD = {"v100": 7.0, "p100": 6.0}


def find_gpu(name: str, precision: str = "auto") -> GPU:
    """The GPU of a name, such as h100.

    Raises:
        ConfigError: It is unknown, or too old for the pinned torch and vLLM, or for the `precision`.
    """
    key = name.lower()
    known = ", ".join(GPUS)
    if key in _TOO_OLD:
        raise ConfigError(
            f"--gpu {name} has compute capability {_TOO_OLD[key]}; torch 2.13 and vLLM 0.31 need at least "
            f"{LOWEST_CAPABILITY} ({BF16_CAPABILITY} for bf16). Choose another: {known}."
        )
    if key not in GPUS:
        raise ConfigError(f"Unknown --gpu {name!r}; known are {known}.")
    gpu = GPUS[key]
    if precision == "bf16" and gpu.capability < BF16_CAPABILITY:
        raise ConfigError(f"precision bf16 needs compute capability {BF16_CAPABILITY}; {gpu.name} has less. Use fp16.")
    return gpu


@dataclass(frozen=True)
class Layout:
    """How a run is spread: GPUs of all machines together, machines, and DeepSpeed's settings.

    Without DeepSpeed (`deepspeed` false) `stage` is 0, and several GPUs are torch's DDP.
    """

    gpus: int = 8
    machines: int = 1
    deepspeed: bool = True
    stage: int = 2
    offload_optimizer: bool = False
    offload_weights: bool = False

    def shards(self, stage: int) -> int:
        """Into how many parts DeepSpeed splits what it splits from this stage on."""
        return self.gpus if self.deepspeed and self.stage >= stage else 1

    def __str__(self) -> str:
        how = f"ZeRO stage {self.stage}" if self.deepspeed else "no DeepSpeed" if self.gpus == 1 else "DDP"
        return how + (f", {self.machines} machines" if self.machines > 1 else "")


def choose_layout(accelerate: str | None, gpus: int | None, stage: int | None) -> Layout:
    """The layout of accelerate's configuration file, of which `gpus` and `stage` replace parts.

    Without a file: 8 GPUs and ZeRO-2. Stage 0 without a file means no DeepSpeed.

    Raises:
        ConfigError: The file cannot be read or describes something else than one process a GPU with or without
            DeepSpeed, or a number is impossible.
    """
    layout = _read(Path(accelerate)) if accelerate else Layout()
    if stage is not None:
        if accelerate and stage != layout.stage:
            raise ConfigError(f"--zero-stage {stage} contradicts {accelerate}, which has {layout}. Leave one out.")
        layout = replace(layout, stage=stage, deepspeed=layout.deepspeed and (stage > 0 or accelerate is not None))
    if gpus is not None:
        layout = replace(layout, gpus=gpus)
    if layout.gpus < 1 or layout.gpus % layout.machines:
        raise ConfigError(f"--gpus {layout.gpus} must be at least 1 and a multiple of {layout.machines} machines.")
    return layout


def _read(path: Path) -> Layout:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind, gpus, machines = values["distributed_type"], values["num_processes"], values.get("num_machines", 1)
        settings = dict(values.get("deepspeed_config") or {})
        if other := settings.get("deepspeed_config_file"):
            file = Path(other) if Path(other).is_absolute() else path.parent / other
            zero = json.loads(file.read_text(encoding="utf-8")).get("zero_optimization", {})
            settings = {"zero_stage": zero.get("stage", 0)} | {
                f"{name}_device": (zero.get(name) or {}).get("device")
                for name in ("offload_optimizer", "offload_param")
            }
        stage = int(settings.get("zero_stage", 2))
        numbers = isinstance(gpus, int) and isinstance(machines, int) and machines > 0
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"Cannot read --accelerate {path}: {error!r}") from error
    if kind is False:  # an unquoted NO in YAML
        kind = "NO"
    if not numbers or kind not in ("NO", "MULTI_GPU", "DEEPSPEED") or not 0 <= stage <= 3:
        raise ConfigError(
            f"--accelerate {path}: tampo plan knows distributed_type NO, MULTI_GPU and DEEPSPEED with ZeRO stages 0 to "
            f"3 and whole num_processes, not {kind}, {stage}, {gpus}. Use a file of params/accelerate/."
        )
    if kind != "DEEPSPEED":
        return Layout(gpus, machines, deepspeed=False, stage=0)
    elsewhere = [
        settings.get(f"{name}_device") not in (None, "none") for name in ("offload_optimizer", "offload_param")
    ]
    return Layout(gpus, machines, True, stage, *elsewhere)
