"""Run by test_distributed in two processes: each rank writes its rollouts, temperatures, batches and final state."""

import json
import os
from pathlib import Path

import torch
from datasets import Dataset

from tampo.runs.weights import check_weights, local_weights
from tampo.trainer.trainer import NonFiniteLoss
from tests.trainer.helpers import Watching, make_trainer


class Recording(Watching):
    """Keeps the rollouts, the temperatures and batches of the controller, and the temperature of each fused head.

    Set `rollouts` to those of another run to train on them instead of sampling.
    """

    rollouts = None

    def create_scheduler(self, *args, **kwargs):
        result = super().create_scheduler(*args, **kwargs)
        self.given, self.rollouts = self.rollouts, []
        self.temperatures, self.batches, self.head_temperatures = [], [], []
        draw, update = self.controller.temperature, self.controller.update

        def temperature(step):
            self.temperatures.append(draw(step))
            return self.temperatures[-1]

        def record(batch):
            rows = batch.log_likelihoods, batch.advantages, batch.lengths
            self.batches.append([part.tolist() for part in rows])
            update(batch)

        self.controller.temperature, self.controller.update = temperature, record
        return result

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        if self.given is None:
            completions, _ = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        else:
            prompts, completions = self.given[len(self.rollouts)]
            assert prompts == prompt_ids, "rollouts of other prompts"
        self.rollouts.append((prompt_ids, completions))
        return completions, None

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.head_temperatures.append([cell.cell_contents for cell in self._heads.cells])
        return loss


def rank(model: Path, output: Path, settings: list[dict]) -> None:
    """One of the processes of several training runs, in the environment that torchrun gives it."""
    if "deepspeed" in settings[0]:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo will do, and needs no C++ compiler
        # On CPU, accelerate leaves this to DeepSpeed's first use of it, which under ZeRO-3 is the loading of the
        # model: too late, its batch sizes are then checked for one process.
        deepspeed.init_distributed(dist_backend="gloo")
    prompts = Dataset.from_dict({"prompt": [f"{a}+{b}=" for a in range(8) for b in range(8)]})
    for i, changes in enumerate(settings):
        trainer = make_trainer(model, prompts, output, Recording, ddp_backend="gloo", **changes)
        trainer.train()
        name = f"run{i}-rank{trainer.args.process_index}.json"
        (output / name).write_text(json.dumps(record(trainer)))
    torch.distributed.barrier()
    os._exit(0)  # threads of gloo, which DeepSpeed's engines keep, abort a normal exit now and then


def record(trainer: Recording) -> dict:
    model = trainer._policy()
    held = sum(part.numel() for _, part in local_weights(model))
    return {
        "held": held,
        "weights": sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters()),
        "broken weights": broken_on_the_second(model, trainer.args.process_index),
        "wrapper": type(trainer.model_wrapped).__name__,
        # ZeRO-3 replaces a split parameter by an empty tensor.
        "head_is_split": trainer._policy().get_output_embeddings().weight.numel() == 0,
        "rollouts": trainer.rollouts,
        "temperatures": trainer.temperatures,
        "head_temperatures": trainer.head_temperatures,
        "batches": trainer.batches,
        "state": trainer.controller.state_dict(),
        "error": max(trainer.errors),
        "reference_passes": sum(is_reference for _, is_reference, _ in trainer.passes),
    }


def broken_on_the_second(model: torch.nn.Module, rank: int) -> str:
    """The error of both processes when a weight is broken in the part that the second one holds; then it is mended."""
    name, part = next((name, part) for name, part in local_weights(model) if part.numel())
    before = part.clone()
    with torch.no_grad():
        part.fill_(torch.nan if rank == 1 else 1.0)
        try:
            check_weights(model, 7)
            return "nothing"
        except NonFiniteLoss as error:
            return f"{error} ({name})"
        finally:
            part.copy_(before)
