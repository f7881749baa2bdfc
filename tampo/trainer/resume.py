"""What a checkpoint needs, beside transformers' files, so that a resumed run is equal to one that went on.

That is the controller's state and, where a generation batch serves several optimizer steps and the checkpoint falls
inside it, the rollouts that the next steps use. TRL's checkpoints do not have them: GRPOTrainer samples that batch
again, from later weights and with other random numbers.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tampo.trainer.trl_internals import (
    completion_table,
    micro_batches,
    restore_completion_table,
    rollouts_in_use,
    set_rollouts_in_use,
)
from tampo.values import plain

if TYPE_CHECKING:
    from tampo.trainer.trainer import TAMPOTrainer

logger = logging.getLogger(__name__)

CONTROLLER_STATE_NAME = "temperature_controller.json"

# Parameters that decide which rollouts a micro-batch of an unfinished generation batch has.
_LAYOUT = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_iterations",
    "num_generations",
    "world_size",
)


def save_rollouts(trainer: "TAMPOTrainer", folder: Path) -> None:
    """Add the rollouts in use to a checkpoint, if it falls inside a generation batch. Every process calls it.

    They are in rollouts_<process>.safetensors: the processes may have disks of their own. Where they hold more than
    tensors and plain values, they are not saved, and `load_state` refuses the checkpoint.
    """
    if not trainer.inside_generation_batch:
        return
    tensors, values = {}, []
    for number, part in enumerate(rollouts_in_use(trainer)):
        values.append({name: value for name, value in part.items() if not torch.is_tensor(value)})
        for name, value in part.items():
            if torch.is_tensor(value):
                tensors[f"{number}.{name}"] = value.detach().clone().contiguous()  # without the other parts' memory
    table = completion_table(trainer) if trainer.log_completions else None
    try:
        others = json.dumps({"values": values, "problems": trainer.problems, "table": _plain(table)})
    except TypeError as error:
        logger.warning("A run cannot resume from %s, which is inside a generation batch: %s.", folder, error)
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, _rollouts_file(trainer, folder), {"others": others})


def resumable_state(trainer: "TAMPOTrainer") -> dict[str, Any]:
    """The content of `CONTROLLER_STATE_NAME`, in JSON types."""
    assert trainer.controller is not None, "train() makes the controller"
    return {
        "controller": trainer.args.temperature_controller,
        "state": plain(trainer.controller.state_dict()),
        "generation_batch": {"micro_batches": micro_batches(trainer) % trainer.args.passes_per_batch}
        | _layout(trainer),
        "inside_step": not trainer.accelerator.sync_gradients,
        "skipped_steps": trainer.skipped_steps,
    }


def check_processes(trainer: "TAMPOTrainer", folder: Path) -> None:
    """Refuse a checkpoint of another number of processes, before DeepSpeed reads its shards.

    Not only there: each process has random numbers of its own in a checkpoint, and rollouts of its own in a step.

    Raises:
        ValueError: Another number saved it.
    """
    try:
        saved = json.loads((folder / CONTROLLER_STATE_NAME).read_text(encoding="utf-8"))["generation_batch"]
        before, now = saved["world_size"], trainer.args.world_size
    except (OSError, ValueError, KeyError, TypeError):  # for `load_state`; an older one does not say it
        return
    if before != now:
        raise ValueError(
            f"Cannot resume: {folder} was saved by {before} processes (GPUs), and {now} were started. Start {before}, "
            "such as by accelerate launch --num_processes; or start a new run, with the checkpoint's folder as model."
        )


def load_state(trainer: "TAMPOTrainer", folder: Path) -> None:
    """Restore the controller and the rollouts in use from a checkpoint.

    Raises:
        ValueError: It is missing, damaged, or of a run with other parameters; the message names them.
    """
    assert trainer.controller is not None, "create_scheduler is called first"
    path = folder / CONTROLLER_STATE_NAME
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["controller"] != trainer.args.temperature_controller:
            raise ValueError(f"it is the state of controller {saved['controller']!r}")
        trainer.controller.load_state_dict(saved["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Cannot resume the temperature controller {trainer.args.temperature_controller!r} from {path}: {error}. "
            "Resume from another checkpoint, or start a new run."
        ) from error
    if saved.get("inside_step"):
        raise ValueError(
            f"Cannot resume from {folder}: a callback stopped the run while gradients accumulated, and half of an "
            "optimizer step is in no checkpoint. Resume from another checkpoint, or start a new run."
        )
    trainer.skipped_steps = int(saved.get("skipped_steps", 0))
    batch = saved.get("generation_batch") or _estimated(trainer)
    if batch["micro_batches"]:
        _load_rollouts(trainer, folder, batch)


def _load_rollouts(trainer: "TAMPOTrainer", folder: Path, batch: Mapping[str, int]) -> None:
    changed = [f"{name} was {batch[name]} and is {now}" for name, now in _layout(trainer).items() if batch[name] != now]
    where = f"{folder} was saved inside a generation batch"
    if changed:
        raise ValueError(
            f"Cannot resume: {where}, and {', '.join(changed)}. Resume with the same parameters, or from a checkpoint "
            "at the end of a generation batch."
        )
    path = _rollouts_file(trainer, folder)
    try:
        with safe_open(path, "pt", device=str(trainer.accelerator.device)) as file:
            others = json.loads(file.metadata()["others"])
            rollouts: list[dict[str, Any]] = others["values"]
            for key in file.keys():  # noqa: SIM118  # it is no dict
                number, _, name = key.partition(".")
                rollouts[int(number)][name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"Cannot resume: {where}, and its rollouts cannot be read from {path}: {error}. Resume from another "
            "checkpoint, or start a new run."
        ) from error
    set_rollouts_in_use(trainer, batch["micro_batches"], rollouts)
    trainer.problems = tuple(others["problems"])
    if others["table"] is not None:
        restore_completion_table(trainer, others["table"])


def _layout(trainer: "TAMPOTrainer") -> dict[str, int]:
    return {name: getattr(trainer.args, name) for name in _LAYOUT}


def _estimated(trainer: "TAMPOTrainer") -> dict[str, int]:
    """The position of a checkpoint without one, which is older: those were inside a batch at a run's last step only."""
    done = trainer.state.global_step * trainer.args.gradient_accumulation_steps
    return {"micro_batches": done % trainer.args.passes_per_batch, **_layout(trainer)}


def _rollouts_file(trainer: "TAMPOTrainer", folder: Path) -> Path:
    return folder / f"rollouts_{trainer.accelerator.process_index}.safetensors"


def _plain(table: dict[str, Any] | None) -> dict[str, Any] | None:
    """A table of completions; None where it has images, or what a reward function logged is no plain value."""
    try:
        json.dumps(table)
        return table
    except TypeError:
        return None
