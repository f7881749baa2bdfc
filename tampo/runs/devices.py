"""The device of a run, and what is refused before it starts: GPUs that are too old, or several in one process.

Shipped models run on the CPU, also beside a GPU: one core is as fast for half a million parameters, several runs go
side by side, and the results are those of every other machine, to the bit. `device: gpu` asks for the other.
"""

import os

from tampo.config import ConfigError, EvaluationConfig, TrainingConfig
from tampo.config.model import Device
from tampo.tasks.mini_assets import RECIPES

# CUDA's compute capability: torch 2.13 and vLLM 0.31 have no code for older GPUs.
CAPABILITY = (7, 5)
BF16_CAPABILITY = (8, 0)
CAPABILITIES = "compute capability 7.5 or newer (T4, RTX 20), 8.0 for bfloat16 (A100, RTX 30)"


def usual_device(model: str, engine: str) -> Device:
    """The device that "auto" means, "cpu" or "gpu", for a config's `model` and the engine that samples from it.

    Where it is "gpu", a machine without one uses its CPU.
    """
    return "cpu" if model in RECIPES and engine == "transformers" else "gpu"


def wants_gpu(device: Device, model: str, engine: str) -> bool:
    """Whether a run would use a GPU where there is one."""
    return (usual_device(model, engine) if device == "auto" else device) == "gpu"


def on_gpu(device: Device, model: str, engine: str = "transformers") -> bool:
    """Whether a run uses a GPU of this machine.

    Raises:
        ConfigError: `device` is "gpu", and torch finds none.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "gpu" and not there:
        raise ConfigError(
            "device is gpu, and torch finds none here. Give --device auto, or check nvidia-smi, CUDA_VISIBLE_DEVICES "
            f"({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}) and torch.version.cuda ({torch.version.cuda})."
        )
    return there and wants_gpu(device, model, engine)


def torch_device(device: Device, model: str) -> str:
    """ "cuda" or "cpu", for a model that transformers loads. Raises ConfigError as `on_gpu` does."""
    return "cuda" if on_gpu(device, model) else "cpu"


def unusual_device(device: Device, model: str, engine: str) -> dict[str, str]:
    """What the device adds to a run's identity: nothing, unless another one than usual is asked for."""
    if engine.startswith("vllm") or device in ("auto", usual_device(model, engine)):
        return {}
    return {"device": device}


def check_training_device(config: TrainingConfig) -> None:
    """Refuse what cannot train here, before anything is loaded.

    Raises:
        ConfigError: The GPU is too old; this process sees several, of which it could use one only; or the device does
            not fit how the run was started or who samples. The message has the way out.
    """
    import torch

    there = torch.cuda.is_available()
    if not on_gpu(config.device, config.model, config.rollout_engine):
        if there and config.rollout_engine != "transformers":
            raise ConfigError(
                f"device is cpu, and rollout_engine {config.rollout_engine} uses the GPU. Give --device gpu, or "
                "--rollout-engine transformers."
            )
        if there and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and os.environ.get("DS_ACCELERATOR") != "cpu":
            raise ConfigError(
                f"{config.model} would train on the CPU (device {config.device}), and DeepSpeed was started on GPUs. "
                "Give --device gpu, or start the run without DeepSpeed."
            )
        return
    check_capability(torch.cuda.get_device_capability(_local_rank() or 0), config.precision)
    visible = torch.cuda.device_count()
    if _local_rank() is None and visible > 1:
        raise ConfigError(
            f"This process sees {visible} GPUs and trains on one. Choose it, by CUDA_VISIBLE_DEVICES=0 before the "
            f"command, or start one process for each GPU: {launch_line(visible)}"
        )


def check_evaluation_device(config: EvaluationConfig, model: str) -> None:
    """Refuse to evaluate on a GPU that is too old.

    Raises:
        ConfigError: It is, or `device` is "gpu" and there is none.
    """
    import torch

    if config.eval_engine == "vllm":
        # By vLLM's own way, which leaves CUDA alone: a process that has used it cannot be forked.
        try:
            from vllm.platforms import current_platform
        except ImportError:
            return  # the engine says how to install it
        if (found := current_platform.get_device_capability()) is not None:
            check_capability((found.major, found.minor))
    elif config.eval_engine == "transformers" and on_gpu(config.device, model):
        check_capability(torch.cuda.get_device_capability())


def check_capability(found: tuple[int, int], precision: str = "auto") -> None:
    """Refuse a GPU of this compute capability, (major, minor), for a `precision`. AMD's have none.

    Raises:
        ConfigError: It is too old.
    """
    import torch

    if torch.version.hip is not None:
        return
    if found < CAPABILITY:
        raise ConfigError(
            f"This GPU has compute capability {_dotted(found)}; torch {torch.__version__} and vLLM need {CAPABILITIES} "
            "and have no code for older ones such as the V100 (7.0). Use another GPU, or the CPU: --device cpu with "
            "the engines transformers."
        )
    if precision == "bf16" and found < BF16_CAPABILITY:
        raise ConfigError(
            f"precision bf16 is not supported by this GPU, which has compute capability {_dotted(found)} and would "
            f"need {_dotted(BF16_CAPABILITY)}. Use auto or fp16."
        )


def launch_line(processes: int) -> str:
    """The command that starts a training run with one process for each of `processes` GPUs of this machine."""
    file = "params/accelerate/8gpu-zero2.yaml" if processes > 1 else "params/accelerate/1gpu.yaml"
    return (
        f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3600 accelerate launch --config_file {file} --num_processes {processes} "
        f"-m tampo train SCALE --processes {processes}"
    )


def _local_rank() -> int | None:
    """The number of this process on its machine, if torchrun or accelerate started several (or one of that kind)."""
    rank = int(os.environ.get("LOCAL_RANK", "-1"))
    return None if rank < 0 else rank


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
