"""Run by torchrun in test_several_processes: two processes decide together; then they take slow steps until a signal.

Arguments: a folder, the seconds of a step, and "all", or "steps alone" for the last part. Each writes what it found to
<folder>/rank<n>.json, then <folder>/ready<n>; a process that could end its step and save writes <folder>/saved<n>.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from tampo.runs import checkpoints
from tampo.runs.checkpoints import agreed_checkpoint, seal_checkpoint
from tampo.runs.interrupts import check_shutdown_timeout, stop_on_signals
from tampo.runs.processes import any_process, by_first, gather, process_count, process_index


def error_of(call) -> str:
    try:
        return f"nothing: {call()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fail() -> None:
    raise OSError(28, "No space left on device")


def decide(folder: Path) -> dict:
    rank, found = process_index(), {"count": process_count()}
    found["gathered"] = gather(f"of {rank}")
    found["first"] = by_first(lambda: f"by {rank}")
    found["error"] = error_of(lambda: by_first(fail))
    found["any"] = [any_process(rank == 1), any_process(False)]
    # Each works in a folder of its own, as on two machines without a common disk.
    own = folder / f"own{rank}"
    own.mkdir()
    os.chdir(own)
    save(Path("same"), 2, b"12345678")
    save(Path("other"), 2, b"12345678"[: 8 - 4 * rank])
    save(Path("of three"), 3, b"12345678")
    if rank == 1:
        save(Path("of the second"), 2, b"12345678")
    checkpoints._VISIBLE = 0.5  # seconds, of waiting for what will not come
    found["agreed"] = [agreed_checkpoint(Path("same")), agreed_checkpoint(folder / "common")]
    found["left"] = [path.name for path in (folder / "common").iterdir()]
    found["refused"] = [error_of(lambda: agreed_checkpoint(Path("other")))]
    found["refused"].append(error_of(lambda: agreed_checkpoint(Path("of three"))))
    found["refused"].append(error_of(lambda: agreed_checkpoint(Path("of the second"))))
    return found


def save(folder: Path, count: int, weights: bytes) -> None:
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint-1" / "weights").write_bytes(weights)
    for number in range(count):
        (folder / "checkpoint-1" / f"rng_state_{number}.pth").write_bytes(b"1")
    seal_checkpoint(folder / "checkpoint-1", count)


def weights() -> dict:
    # Here, because they import TRL, which takes seconds.
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from tampo.runs.weights import check_weights, local_weights

    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    total = sum(weight.numel() for weight in model.parameters())
    fully_shard(model, mesh=mesh)
    here = sum(held.numel() for _, held in local_weights(model))
    found = {"held": here, "total": total, "whole": error_of(lambda: check_weights(model, 3))}
    if process_index() == 1:
        with torch.no_grad():
            dict(local_weights(model))["1.weight"].fill_(torch.nan)
    return found | {"broken": error_of(lambda: check_weights(model, 4))}


def main(folder: Path, seconds: float, what: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = process_index()
    found = decide(folder) | weights() if what == "all" else {}
    found["warned"] = check_shutdown_timeout(seconds)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    with stop_on_signals() as stop:
        (folder / f"ready{rank}").touch()
        stopping = False
        while not stopping:
            for _ in range(round(seconds / 0.05)):
                time.sleep(0.05)
            stopping = any_process(bool(stop))
        (folder / f"saved{rank}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
