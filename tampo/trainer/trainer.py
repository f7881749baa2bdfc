"""TRL's GRPO with a sampling temperature that changes during training.

TRL 1.16 fixes the temperature when the trainer is built: it is copied into the generation settings and captured in
the closure of a fused LM head, which computes every log-probability of the loss. `TAMPOTrainer.set_temperature`
changes all of those places together, so that sampling, loss and reference model never disagree. Where TRL has no such
head, or one that tampo does not know, hidden states are scaled instead (`tampo.trainer.scaled_head`). Each generation
batch carries the temperature it was sampled at, and is scored at it for as long as it is used.

The K virtual log-likelihoods of a batch come from the logits of the first pass of the policy that generated it: no
further forward pass, and no further product with the LM head.
"""

import inspect
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from trl import GRPOTrainer

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController
from tampo.files import write_json
from tampo.meta_policy import check_temperatures
from tampo.trainer.config import TAMPOConfig
from tampo.trainer.length_grouping import score_by_length
from tampo.trainer.model_card import PAPER, add_temperature
from tampo.trainer.scaled_head import ScaledHeads
from tampo.trainer.trl_internals import FusedHeads

logger = logging.getLogger(__name__)

CONTROLLER_STATE_NAME = "temperature_controller.json"


class NonFiniteLoss(FloatingPointError):
    """The loss is NaN or infinite; the message names the step, the prompts and the newest checkpoint."""


class TAMPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose sampling temperature is set by a controller, by default TAMPO's meta-policy (Algorithm 1).

    Takes the arguments of `GRPOTrainer`, with a `TAMPOConfig` as `args`. With `temperature_controller="fixed"` it
    trains as `GRPOTrainer` does, to the last bit, and logs the same quantities about temperatures. With
    `log_completions`, TRL's table of completions has two more columns: the temperature a completion was sampled at,
    and its K log-likelihoods (Eq. 8).

    Attributes:
        controller: The rule in use; made anew by every `train()`, None before the first.
        temperature: The temperature in force.
        observation: What the latest finished generation batch said about temperatures, or None.

    Raises:
        TypeError: `args` is not a `TAMPOConfig`.
        ValueError: `train_dataset` has no rows.
        RuntimeError: With this version of TRL, tampo can set the loss's temperature for plain LM heads alone, and this
            model's is another (see `tampo.trainer.scaled_head`).

    `train` raises NonFiniteLoss before an update by a loss that is NaN or infinite.

    Example:
        >>> from datasets import Dataset
        >>> from tampo.tasks.mini_model import mini_model_path
        >>> def shorter(completions, **columns):
        ...     return [-float(len(completion)) for completion in completions]
        >>> cpu = dict(use_cpu=True, bf16=False, model_init_kwargs={"dtype": "float32"})
        >>> quiet = dict(report_to="none", disable_tqdm=True, logging_strategy="no", save_strategy="no")
        >>> trainer = TAMPOTrainer(
        ...     model=str(mini_model_path()),
        ...     reward_funcs=shorter,
        ...     args=TAMPOConfig("out", max_steps=2, max_completion_length=16, **cpu, **quiet),
        ...     train_dataset=Dataset.from_dict({"prompt": ["1 + 2 =\\n", "3 + 4 =\\n"]}),
        ... )
        >>> result = trainer.train()  # doctest: +ELLIPSIS
        {'train_runtime'...}
        >>> trainer.controller.meta_policy.updates
        2
        >>> any(isinstance(callback, MetaPolicyCallback) for callback in trainer.callback_handler.callbacks)
        True
    """

    # As in TRL, for its model card.
    _tag_names = ["trl", "grpo", "tampo"]  # noqa: RUF012
    _name = "TAMPO"
    _paper = PAPER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(GRPOTrainer.__init__).bind(self, *args, **kwargs)
        config = bound.arguments.get("args")
        if config is not None and not isinstance(config, TAMPOConfig):
            raise TypeError(f"TAMPOTrainer needs a TAMPOConfig as `args`, got {type(config).__name__}.")
        if config is None:
            bound.arguments["args"] = TAMPOConfig("tampo-output")
        prompts = bound.arguments.get("train_dataset")
        if prompts is not None and hasattr(prompts, "__len__") and not len(prompts):
            raise ValueError("train_dataset has no rows: there is nothing to train on.")
        super().__init__(*bound.args[1:], **bound.kwargs)
        self.args: TAMPOConfig
        self.controller: TemperatureController | None = None
        self.rollout_batch: RolloutBatch | None = None
        if self.use_vllm and self.vllm_mode == "colocate":
            # vLLM draws from torch's own generator, which it has just seeded with the number of the process (TRL 1.16):
            # without this, trainings with other seeds would have the same rollouts.
            set_seed(self.args.seed + self.accelerator.process_index // self.args.vllm_tensor_parallel_size)
        self._heads = self._find_heads()
        # TRL scores a whole generation batch at once, before any update, when an update falls inside the batch's use.
        self._scored_at_generation = self.args.gradient_accumulation_steps % self.args.passes_per_batch != 0 or (
            self.use_vllm and self.vllm_importance_sampling_correction
        )
        self._examples: list[dict[str, Any]] = []  # of the latest generation batch
        self._record_next_pass = False
        self._recorded: tuple[Tensor, Tensor]  # (b, C, K), (b, C), of the latest recorded pass
        self._reward = math.nan  # mean of the latest generation batch
        self._unobserved = 0  # local rows of the current generation batch whose likelihoods are still to come
        # (b, K + 3) and (b,) each: log-likelihoods, entropy, advantage, length; and the row in the order of generation
        self._observed: list[tuple[Tensor, Tensor]] = []
        self.add_callback(MetaPolicyCallback(self))

    @property
    def inside_generation_batch(self) -> bool:
        """Whether the latest generation batch is still in use, so that a checkpoint could not be resumed exactly."""
        return self._step % self.args.passes_per_batch != 0

    def _policy(self) -> PreTrainedModel:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _find_heads(self) -> FusedHeads | ScaledHeads:
        models = [self._policy()]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))
        heads: FusedHeads | ScaledHeads
        try:
            heads, way = FusedHeads(models), "in the closure of TRL's fused head"
        except RuntimeError as unknown:
            if getattr(self.args, "use_liger_kernel", False):  # its loss does not pass through `score`
                raise RuntimeError(f"{unknown} With this one, tampo does not support use_liger_kernel.") from unknown
            heads, way = ScaledHeads(models, self), "by scaling hidden states"
        if self.is_world_process_zero():
            logger.info("TRL %s: the temperature is set %s; cost: %s.", trl.__version__, way, heads.cost)
        return heads

    def set_temperature(self, temperature: float) -> None:
        """Make `temperature` the one in force, for sampling and for every log-probability computed from now on."""
        self.temperature = self._heads.temperature = temperature
        if self.use_vllm:
            self.vllm_generation.temperature = temperature
        else:
            self.generation_config.temperature = temperature
            self.generation_kwargs["temperature"] = temperature

    def _run_settings(self, steps: int) -> RunSettings:
        return self.args.run_settings(steps, self._policy().config.get_text_config().vocab_size)

    # The number of steps is known here, and the checkpoint is loaded after.
    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        self.controller = self.args.configure_controller()
        self.controller.start(self._run_settings(num_training_steps))
        self._unobserved, self._observed = 0, []
        return super().create_scheduler(num_training_steps, optimizer)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run that is resumed at its last step has none left to take; transformers would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL, but a table of completions is not replaced by an empty one where nothing was sampled."""
        wanted, self.log_completions = self.log_completions, self.log_completions and bool(self._logs["prompt"])
        try:
            super().log(logs, start_time)
        finally:
            self.log_completions = wanted

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        training = self._policy().training
        if training:
            assert self.controller is not None, "train() makes the controller"
            temperature = self.controller.temperature(self.state.global_step)
        else:
            temperature = self.args.temperature
        self.set_temperature(temperature)
        self._record_next_pass = training and self._scored_at_generation
        self._examples = inputs
        output = super()._generate_and_score_completions(inputs)
        rows = len(output["advantages"])
        output["temperature"] = torch.tensor(temperature, dtype=torch.float64)
        # The likelihoods come later, when TRL has shuffled the rows; its table of completions has them in this order.
        output["rollout"] = torch.arange(rows, device=self.accelerator.device)
        self._log_rollouts(temperature=[temperature] * rows, log_likelihoods=[None] * rows)
        if training:
            if self._scored_at_generation != ("old_per_token_logps" in output):
                raise RuntimeError(f"TRL {trl.__version__} scores rollouts at another point than tampo expects.")
            self._unobserved, self._observed = rows, []
            self._reward = self._metrics["train"]["reward"][-1]
            if self._scored_at_generation:
                self._observe(output)
        return output

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        self.set_temperature(inputs["temperature"].item())
        observing = self._policy().training and self._unobserved > 0
        self._record_next_pass = observing
        loss = super()._compute_loss(model, inputs)
        if self._policy().training and not torch.isfinite(loss):
            raise NonFiniteLoss(self._describe_loss(loss.item()))
        if observing:
            self._observe(inputs)
        return loss

    def _describe_loss(self, loss: float) -> str:
        column = "problem_id" if "problem_id" in self._examples[0] else "prompt"
        prompts = list(dict.fromkeys(str(example[column]) for example in self._examples))
        shown = "; ".join(prompt[:80] for prompt in prompts[:8]) + ("; ..." if len(prompts) > 8 else "")
        newest = get_last_checkpoint(self.args.output_dir) if os.path.isdir(str(self.args.output_dir)) else None
        return (
            f"The loss of step {self.state.global_step + 1} is {loss}, at temperature {self.temperature:g}. "
            f"Prompts of the batch ({column}): {shown}. Newest checkpoint: {newest or 'none'}. "
            "Go on from it with a lower learning_rate or max_grad_norm, or in another precision."
        )

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        recording, self._record_next_pass = self._record_next_pass, False
        score = super()._get_per_token_logps_and_entropies
        if recording:
            kwargs["compute_entropy"] = True  # the head has computed it anyway
        others = {name: value for name, value in kwargs.items() if name not in ("batch_size", "compute_entropy")}

        def score_rows(ids: Tensor, mask: Tensor, length: int) -> tuple[Tensor | None, ...]:
            temperatures = self.args.temperature_candidates if recording else None
            return self._heads.score(
                lambda: score(model, ids, mask, length, *args, **kwargs), ids, mask, length, temperatures
            )

        rows = self.args.scoring_batch_size
        # Images belong to rows in ways of their own, and an auxiliary loss to a whole micro-batch.
        if rows is None or any(value is not None and value is not False for value in others.values()):
            scored = score_rows(input_ids, attention_mask, logits_to_keep)
        else:
            rows = min(rows, kwargs.get("batch_size") or rows)
            scored = score_by_length(score_rows, input_ids, attention_mask, logits_to_keep, rows)
        log_probs, entropies, *auxiliary_loss, recorded = scored  # no such loss before TRL 1.7
        assert log_probs is not None, "the one value that is always there"
        if recorded is not None:
            assert entropies is not None, "asked for"
            self._recorded = recorded, entropies.detach().float()
        return log_probs, entropies, *auxiliary_loss

    def _observe(self, inputs: dict[str, Any]) -> None:
        """Take in the recorded likelihoods of some rows; when the generation batch is complete, tell the controller."""
        assert self.controller is not None, "train() makes the controller"
        if self._record_next_pass:
            raise RuntimeError(f"TRL {trl.__version__} computes the loss without the log-probabilities tampo expects.")
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)  # (b, C)
        log_probs, entropies = self._recorded
        log_likelihoods = (log_probs * mask.unsqueeze(-1)).sum(dim=1)  # (b, K), Eq. 8
        others = [(entropies * mask).sum(dim=1), inputs["advantages"], mask.sum(dim=1)]  # (b,) each
        rows = torch.cat([log_likelihoods, torch.stack(others, dim=1)], dim=1)
        self._observed.append((rows, inputs["rollout"]))
        self._unobserved -= len(rows)
        if self._unobserved == 0:
            observed = torch.cat([rows for rows, _ in self._observed])
            order = torch.cat([rollout for _, rollout in self._observed]).argsort()
            batch = self.accelerator.gather(observed).double().cpu().numpy()  # (N, K + 3)
            likelihoods, (entropy, advantages, lengths) = batch[:, :-3], batch[:, -3:].T
            self.rollout_batch = RolloutBatch(
                temperatures=check_temperatures("temperature_candidates", self.args.temperature_candidates),
                log_likelihoods=likelihoods,
                advantages=advantages,
                lengths=lengths,
                reward=self._reward,
                entropy=entropy.sum() / lengths.sum() if lengths.any() else math.nan,
            )
            self.controller.update(self.rollout_batch)
            self._log_rollouts(log_likelihoods=observed[order, :-3].tolist())

    def _log_rollouts(self, **columns: list[Any]) -> None:
        """Put values, one a local row of the latest generation batch, into TRL's table of completions."""
        table: Any = self._logs["extra"]  # each column a deque as long as a generation batch: the newest stay
        if self.log_completions:
            for name, values in columns.items():
                table[name].extend(gather_object(values))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's model card, which then says which rule set the temperature, and with which parameters."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            name, path = self.args.temperature_controller, Path(str(self.args.output_dir), "README.md")
            run = self._run_settings(max(self.state.max_steps, 1))
            add_temperature(path, name, self.args.configure_controller(), run)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save and self.controller is not None:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            state = {"controller": self.args.temperature_controller, "state": self.controller.state_dict()}
            write_json(Path(self._get_output_dir(trial=trial), name, CONTROLLER_STATE_NAME), state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        assert self.controller is not None, "create_scheduler comes first"
        path = os.path.join(checkpoint, CONTROLLER_STATE_NAME)
        try:
            with open(path, encoding="utf-8") as file:
                saved = json.load(file)
            if saved["controller"] != self.args.temperature_controller:
                raise ValueError(f"it is of the controller {saved['controller']!r}")
            self.controller.load_state_dict(saved["state"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Cannot resume the temperature controller {self.args.temperature_controller!r} from {path}: {error}. "
                "Resume from another checkpoint, or start anew."
            ) from error


class MetaPolicyCallback(TrainerCallback):
    """Logs temperatures beside TRL's metrics, and keeps checkpoints where a run can be resumed exactly.

    Added by `TAMPOTrainer`. At every optimizer step it logs `temperature` (the one in force), what the controller
    reports (for TAMPO the distribution and its entropy in nats), and, where a generation batch was completed, the
    mean, standard deviation and number of T* (Eq. 7) over rollouts of positive and of negative advantage. The
    metrics go to every tracker of `report_to`.

    A save that falls inside a generation batch is put off to its end, since TRL's checkpoints do not hold rollouts.

    Args:
        trainer: The trainer to watch.
    """

    def __init__(self, trainer: TAMPOTrainer) -> None:
        self._trainer = trainer
        self._logged: RolloutBatch | None = None
        self._save_is_due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        assert trainer.controller is not None, "train() makes the controller"
        metrics = {"temperature": trainer.temperature} | trainer.controller.metrics()
        if trainer.rollout_batch is not None and trainer.rollout_batch is not self._logged:
            metrics |= trainer.rollout_batch.statistics()
            self._logged = trainer.rollout_batch
        for name, value in metrics.items():
            trainer._metrics["train"][name].append(value)
        last = state.global_step >= state.max_steps
        self._save_is_due = self._save_is_due or control.should_save
        if self._save_is_due:
            control.should_save = last or not trainer.inside_generation_batch
            self._save_is_due = not control.should_save
