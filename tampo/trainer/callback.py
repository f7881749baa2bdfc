"""The callback that `TAMPOTrainer` adds to itself, and what of its metrics a terminal shows."""

import logging
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tampo.controllers.base import RolloutBatch

if TYPE_CHECKING:
    from tampo.trainer.trainer import TAMPOTrainer

logger = logging.getLogger(__name__)


class MetaPolicyCallback(TrainerCallback):
    """Logs temperatures beside TRL's metrics, and lets a training run stop between two optimizer steps only.

    `TAMPOTrainer` adds it, and calls it after all others. At every optimizer step it logs `temperature` (the current
    one), the controller's metrics (for TAMPO the distribution and its entropy in nats), and, after each finished
    generation batch, the mean, standard deviation and number of T* (Eq. 7) over rollouts of positive and of negative
    advantage, how far the sampler's log-probs are from the loss's (`tampo.trainer.sampler`), and the weights of a loss
    at temperature 1 (`tampo.trainer.importance_weights`). `skipped_steps` is the number of steps so far without an
    update, where gradients overflowed in fp16.

    A callback that stops the run, or the epoch, while gradients accumulate stops it at the end of that step: with half
    of a step done, no checkpoint could be resumed exactly.
    """

    def __init__(self, trainer: "TAMPOTrainer") -> None:
        self._trainer = trainer
        self._logged: RolloutBatch | None = None
        self._stops: set[str] = set()  # that wait for the end of the step
        self._loss_scale: float | None = None  # before the latest update; None without a gradient scaler

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stops.clear()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name in ("should_training_stop", "should_epoch_stop"):
            if getattr(control, name):
                self._stops.add(name)
                setattr(control, name, False)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scaler = self._trainer.accelerator.scaler
        self._loss_scale = None if scaler is None else scaler.get_scale()

    def _was_skipped(self) -> bool:
        accelerator = self._trainer.accelerator
        # A fused optimizer skips by itself, and accelerate takes its step as done. The loss scale falls all the same.
        lowered = self._loss_scale is not None and accelerator.scaler.get_scale() < self._loss_scale
        return lowered or bool(accelerator.optimizer_step_was_skipped)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        while self._stops:
            setattr(control, self._stops.pop(), True)
        trainer = self._trainer
        assert trainer.controller is not None, "train() makes the controller"
        metrics = {"temperature": trainer.temperature} | trainer.controller.metrics()
        trainer.skipped_steps += self._was_skipped()
        if trainer.skipped_steps:
            metrics["skipped_steps"] = trainer.skipped_steps
        if trainer.rollout_batch is not None and trainer.rollout_batch is not self._logged:
            metrics |= trainer.rollout_batch.statistics() | trainer.sampler_gap.metrics
            metrics |= trainer.importance_weights.metrics
            self._logged = trainer.rollout_batch
        trainer.log_names.write(metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Warn where `load_best_model_at_end` has loaded nothing, or not the best: no checkpoint is of that step."""
        loaded, best = state.best_model_checkpoint, state.best_global_step
        if not args.load_best_model_at_end or not state.is_world_process_zero:
            return
        if loaded is None or best is None or Path(loaded).name != f"{PREFIX_CHECKPOINT_DIR}-{best}":
            logger.warning(
                "load_best_model_at_end: %s; the model is that of %s.",
                "nothing was evaluated" if best is None else f"the best step, {best}, was not saved",
                "the last step" if loaded is None else loaded,
            )


# Such as meta_policy/p(0.6) and reward_at/1.2_samples: for eleven temperatures, eighty numbers a step.
_OF_ONE_TEMPERATURE = re.compile(r"\([\d.]+\)$|^reward_at/")


def print_briefly(callbacks: Iterable[TrainerCallback]) -> None:
    """Leave the metrics of single temperatures out of what is printed. Trackers and `log_history` have all."""
    for callback in callbacks:
        if isinstance(callback, PrinterCallback | ProgressCallback):
            callback.on_log = partial(_log_briefly, callback.on_log)  # type: ignore[method-assign]


def _log_briefly(
    on_log: Callable[..., None], args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
) -> None:
    shown = {name: value for name, value in (logs or {}).items() if not _OF_ONE_TEMPERATURE.search(name)}
    on_log(args, state, control, logs=shown, **kwargs)
