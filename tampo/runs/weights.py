"""Whether a model's weights are finite, each process looking at the part that it holds."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tampo.runs.processes import gather
from tampo.trainer.trainer import NonFiniteLoss

_NAMED = 3  # weights in a message


def local_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each weight's name and what this process holds of it, in the shape that it is held in.

    ZeRO-3 leaves an empty parameter and keeps this process's part beside it, as `ds_tensor`; FSDP2's parameter is a
    DTensor. The parameter itself would show nothing, or wait for the other processes.
    """
    weight: Any  # DeepSpeed's attributes are unknown to torch
    for name, weight in model.named_parameters():
        if (part := getattr(weight, "ds_tensor", None)) is not None:
            start = torch.distributed.get_rank(weight.ds_process_group) * part.numel()
            yield name, part[: max(weight.ds_numel - start, 0)]  # the last part is filled up with what was in memory
        else:
            yield name, weight.to_local() if isinstance(weight, DTensor) else weight


def check_weights(model: nn.Module, step: int) -> None:
    """Raise NonFiniteLoss in all processes, if a weight is not finite in any of them. Every process calls it."""
    broken = [name for name, held in local_weights(model) if not torch.isfinite(held).all()]
    found = dict.fromkeys(name for names in gather(broken[:_NAMED]) for name in names)
    if found:
        raise NonFiniteLoss(f"After step {step}, weights are not finite: {', '.join([*found][:_NAMED])}.")
