"""What the processes of one training run decide together. In a run of one process all of this is that process alone.

A process that stops while others wait for it leaves them waiting until a timeout of half an hour: so an error of one is
raised in all of them, at the same point.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import torch

T = TypeVar("T")


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_count() -> int:
    """Processes of the run."""
    return torch.distributed.get_world_size() if _together() else 1


def process_index() -> int:
    """The number of this process, from 0."""
    return torch.distributed.get_rank() if _together() else 0


def gather(value: T) -> list[T]:
    """The values of all processes, in their order. Every process calls it."""
    if not _together():
        return [value]
    values: list[T | None] = [None] * process_count()
    torch.distributed.all_gather_object(values, value)
    return cast(list[T], values)


def any_process(wanted: bool) -> bool:
    """Whether it is true in any process: a signal, for instance, may reach them in different steps."""
    if not _together():
        return wanted
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(wanted), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def by_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in all of them; what it raises there is raised in all of them.

    Every process calls it; the others wait.
    """
    if not _together():
        return make()
    made: list[T | Exception | None] = [None]
    if process_index() == 0:
        try:
            made[0] = make()
        except Exception as error:
            made[0] = error
    torch.distributed.broadcast_object_list(made, src=0)
    if isinstance(made[0], Exception):
        raise made[0]
    return cast(T, made[0])
