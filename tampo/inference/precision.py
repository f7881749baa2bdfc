"""Which precision a parameter means on this machine."""

import torch

from tampo.config import ConfigError, EvaluationConfig

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_precision(parameter: str, wanted: str, gpu: bool | None = None) -> str:
    """The precision that `wanted` (fp32, bf16, fp16 or auto) means on this machine: fp32, bf16 or fp16.

    "auto" is fp32 on a CPU, bf16 on a GPU that supports it, else fp16.

    Args:
        parameter: Name of the parameter, for messages.
        gpu: Whether the run uses a GPU; None: it does where there is one.

    Raises:
        ConfigError: "fp16" on a CPU, or "bf16" on a GPU without support.
    """
    gpu = torch.cuda.is_available() if gpu is None else gpu
    has_bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        return "bf16" if has_bf16 else "fp16" if gpu else "fp32"
    if wanted == "fp16" and not gpu:
        raise ConfigError(f"{parameter} fp16 needs a GPU; on a CPU use auto, fp32 or bf16.")
    if wanted == "bf16" and gpu and not has_bf16:
        raise ConfigError(f"{parameter} bf16 is not supported by this GPU; use auto or fp16.")
    return wanted


def evaluation_dtype(config: EvaluationConfig, gpu: bool | None = None) -> str | None:
    """The dtype that an evaluation's engine runs every model in, such as "bfloat16"; None: a server decides.

    Raises:
        ConfigError: The machine does not have it. Of a server's machine nothing is known.
    """
    if config.eval_engine == "vllm-server":
        return _DTYPES.get(config.eval_dtype)
    return _DTYPES[resolve_precision("eval_dtype", config.eval_dtype, gpu)]
