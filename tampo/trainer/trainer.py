"""TRL's GRPO with a sampling temperature that changes during training.

TRL 1.16 copies the temperature into the generation settings when the trainer is built, and captures it in the closure
of the fused LM head that computes all log-probabilities of the loss. `TAMPOTrainer.set_temperature` changes both, so
that sampling, loss and reference model agree. Where tampo does not know TRL's head, it scales hidden states instead
(`tampo.trainer.scaled_head`). Each generation batch carries its sampling temperature, and all its log-probabilities
are computed at it. With `loss_temperature="one"`, only the sampler's temperature changes: the loss and the reference
model stay at 1, and rollouts get importance weights (`tampo.trainer.importance_weights`).

The K virtual log-likelihoods of a batch come from the logits of the first pass of the policy that generated it. They
need no further forward pass and no further product with the LM head. The same holds for importance weights.
"""

import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import trl
from accelerate.utils import gather_object, set_seed
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from trl import GRPOTrainer

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController
from tampo.decoding import NonFiniteLogits, plain_generation
from tampo.files import write_json
from tampo.meta_policy import check_temperature, check_temperatures
from tampo.trainer.callback import MetaPolicyCallback, print_briefly
from tampo.trainer.collection import Collection, Recorded, rollout_batch
from tampo.trainer.config import TAMPOConfig
from tampo.trainer.importance_weights import ImportanceWeights
from tampo.trainer.length_grouping import compute_by_length
from tampo.trainer.log_names import LogNames
from tampo.trainer.model_card import PAPER, add_temperature
from tampo.trainer.positions import check_padding
from tampo.trainer.prompt_lengths import check_batch, check_datasets
from tampo.trainer.resume import CONTROLLER_STATE_NAME, check_processes, load_state, resumable_state, save_rollouts
from tampo.trainer.rollout_rules import readable_by_trl, set_rollout_rules
from tampo.trainer.rollout_server import prepare_server
from tampo.trainer.sampler import SamplerGap, check_vllm_precision, compute_dtype
from tampo.trainer.scaled_head import ScaledHeads
from tampo.trainer.trl_internals import (
    FusedHeads,
    Heads,
    Rows,
    check_not_compiled,
    checkpoint_folder,
    extra_columns,
    micro_batches,
    sampled_prompts,
    set_rollouts_in_use,
    set_sampling_temperature,
    training_metrics,
    vllm_built_in,
)

logger = logging.getLogger(__name__)


class NonFiniteLoss(FloatingPointError):
    """The loss or logits are NaN or infinite; the message names the step, the prompts and the newest checkpoint."""


class TAMPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose sampling temperature is set by a controller, by default TAMPO's meta-policy (Algorithm 1).

    Takes the arguments of `GRPOTrainer`, with a `TAMPOConfig` as `args`. With `temperature_controller="fixed"` it
    equals `GRPOTrainer` to the last bit, with three exceptions: for models like GPT-2, TRL's loss counts padding as
    positions; settings of the model's generation_config that change the sampling without the loss's knowledge, such
    as min_p, are not used (those of the `TAMPOConfig` are); and a colocated vLLM samples in the precision of the loss,
    where TRL's has that of the checkpoint. With `log_completions`, TRL's table of completions has two
    more columns: the sampling temperature of a completion, and its K log-likelihoods (Eq. 8). A reward function that
    logs a metric or a column of a name that tampo uses, such as "temperature", is refused by a ValueError.

    Attributes:
        controller: The controller of the current training run; None before the first `train()`.
        temperature: The current sampling temperature.
        rollout_batch: Likelihoods, advantages and lengths of the latest finished generation batch, or None.
        sampler_gap: How far the sampler's log-probs are from the loss's (`tampo.trainer.sampler`).
        importance_weights: Those of a loss at temperature 1 (`tampo.trainer.importance_weights`).
        skipped_steps: Steps without an update, because gradients overflowed in fp16. Controllers count the others.

    Raises:
        TypeError: `args` is not a `TAMPOConfig`.
        ValueError: `train_dataset` has fewer rows than one generation batch has prompts, or no token ends a completion
            (`tampo.decoding`), vLLM samples in another precision than the loss has, or the model is compiled.
        UnsuitableModel: Prompts and completions exceed the model's context.
        RuntimeError: With this version of TRL, tampo supports plain LM heads only (see `tampo.trainer.scaled_head`).

    `train` raises NonFiniteLoss before an update with a loss, or with logits, that are NaN or infinite; a ValueError
    where a stream as `train_dataset` has too few rows; and UnsuitableModel before the first rollouts where log-probs
    would not be those of the model, or change with `scoring_batch_size` (`tampo.trainer.positions`).

    A checkpoint inside a generation batch (`num_iterations` or `steps_per_generation` above one step) has the batch's
    rollouts, so that a run resumes exactly from every checkpoint, with a greater `max_steps`, too.

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

    _known_policy: tuple[Any, PreTrainedModel] | None = None  # the model, and what it wraps

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: TAMPOConfig | None = None,
        train_dataset: Any = None,
        *others: Any,
        **kwargs: Any,
    ) -> None:
        args = TAMPOConfig("tampo-output") if args is None else args
        if not isinstance(args, TAMPOConfig):
            raise TypeError(f"TAMPOTrainer needs a TAMPOConfig as `args`, got {type(args).__name__}.")
        if train_dataset is not None and hasattr(train_dataset, "__len__"):
            if not len(train_dataset):
                raise ValueError("train_dataset has no rows: there is nothing to train on.")
            if len(train_dataset) < args.prompts_per_batch:  # TRL drops them, and trains no step
                raise ValueError(f"train_dataset has too few rows: {len(train_dataset)}. {args.describe_batch()}")
        readable_by_trl(model)
        with vllm_built_in(lambda: compute_dtype(self)):
            super().__init__(model, reward_funcs, args, train_dataset, *others, **kwargs)
        self.args: TAMPOConfig
        check_not_compiled(self)
        check_vllm_precision(self)
        set_rollout_rules(self, self._policy())
        check_datasets(self, self._policy().config)
        self._padding_is_checked = False
        self.controller: TemperatureController | None = None
        self.rollout_batch: RolloutBatch | None = None
        if self.use_vllm and self.vllm_mode == "colocate":
            # vLLM samples from torch's global generator, which TRL 1.16 has just seeded with the process index:
            # without this, training runs with different seeds would have the same rollouts.
            set_seed(self.args.seed + self.accelerator.process_index // self.args.vllm_tensor_parallel_size)
        elif self.use_vllm:
            prepare_server(self)
        self.log_names = LogNames(self)
        self._heads = self._find_heads()
        # Where an update falls inside a generation batch, TRL computes the batch's log-probs once, before any update.
        self._log_probs_at_generation = self.args.gradient_accumulation_steps % self.args.passes_per_batch != 0 or (
            self.use_vllm and self.vllm_importance_sampling_correction
        )
        self.sampler_gap = SamplerGap(self)
        self.importance_weights = ImportanceWeights(self, self.args.loss_importance_cap)
        self.skipped_steps = 0
        self.problems: tuple[str, list[str]] = "prompt", []  # a column and its values, of the latest generation batch
        self._row_problems: list[str] = []  # of each local row of the latest generation batch
        self._train_sampler: Iterable[int] | None = None  # None for a stream
        self._record_next_pass = False
        self._recorded: Recorded  # of the latest recorded pass
        self._unweighted: Tensor | None = None  # advantages (b, C) of a loss that wait for its pass, for their weights
        self._reward = math.nan  # mean of the latest generation batch
        self._rewards: NDArray[np.float64] = np.empty(0)  # (N,), of its rollouts, over all processes
        self._collection = Collection()
        self.add_callback(MetaPolicyCallback(self))
        print_briefly(self.callback_handler.callbacks)

    @property
    def inside_generation_batch(self) -> bool:
        """Whether the latest generation batch is still in use: a checkpoint has its rollouts (tampo.trainer.resume)."""
        return micro_batches(self) % self.args.passes_per_batch != 0

    def _policy(self) -> PreTrainedModel:
        # Kept, because accelerate reads the metadata of packages whenever it unwraps a model: milliseconds.
        if self._known_policy is None or self._known_policy[0] is not self.model:
            model = self.accelerator.unwrap_model(self.model)
            self._known_policy = self.model, model.get_base_model() if hasattr(model, "get_base_model") else model
        return self._known_policy[1]

    def _find_heads(self) -> Heads:
        models = [self._policy()]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))
        heads: Heads
        try:
            heads, method = FusedHeads(models), "in the closure of TRL's fused head"
        except RuntimeError as unknown:
            if getattr(self.args, "use_liger_kernel", False):  # its loss does not use TRL's log-probabilities
                raise RuntimeError(f"{unknown} With this one, tampo does not support use_liger_kernel.") from unknown
            heads, method = ScaledHeads(models, self), "by scaling hidden states"
        if self.is_world_process_zero():
            logger.info("TRL %s: the temperature is set %s; cost: %s.", trl.__version__, method, heads.cost)
        return heads

    def set_temperature(self, temperature: float) -> None:
        """Set the current temperature, of sampling and of every log-probability computed from now on.

        With `loss_temperature="one"`, log-probabilities of the training are at 1.
        """
        self.temperature = check_temperature("temperature", temperature)
        self._heads.temperature = 1.0 if self._weighs_rollouts() else self.temperature
        set_sampling_temperature(self, self.temperature)

    def _weighs_rollouts(self) -> bool:
        """Whether the loss is at temperature 1, with weights. Evaluations are at their own temperature throughout."""
        return self.args.loss_temperature == "one" and self._policy().training

    def _run_settings(self, steps: int) -> RunSettings:
        return self.args.run_settings(steps, self._policy().config.get_text_config().vocab_size)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL, but refuses a checkpoint of another number of processes by name (`tampo.trainer.resume`)."""
        folder = resume_from_checkpoint
        if folder is True and os.path.isdir(str(self.args.output_dir)):
            folder = get_last_checkpoint(self.args.output_dir)
        if folder and folder is not True:
            check_processes(self, Path(folder))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # Here the number of steps is known, and the checkpoint is not loaded yet.
    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        self.controller = self.args.configure_controller()
        self.controller.start(self._run_settings(num_training_steps))
        self._collection.start(0)
        self.skipped_steps = 0
        set_rollouts_in_use(self, 0, None)  # of an earlier train()
        self.callback_handler.callbacks.sort(key=lambda callback: isinstance(callback, MetaPolicyCallback))
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers would take one more step in a run that is resumed after its last one.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if kwargs["resume_from_checkpoint"] is not None and kwargs["epoch"] == kwargs["epochs_trained"]:
            self._find_prompts(kwargs["epoch"])
        before = micro_batches(self)
        super()._run_epoch(*args, **kwargs)
        if micro_batches(self) == before and not kwargs["steps_trained_in_current_epoch"]:
            raise ValueError(f"train_dataset has too few rows: no step was trained. {self.args.describe_batch()}")

    def _find_prompts(self, epoch: int) -> None:
        """Have a resumed run continue with the prompts of its epoch; TRL would start with those of the first one."""
        if self._train_sampler is not None:
            for _ in range(epoch):
                next(iter(self._train_sampler), None)  # it draws an order
        elif self.state.epoch > 1:
            raise ValueError(
                "Cannot resume: the checkpoint is from the second pass over a stream as train_dataset or later, and "
                "where that pass was is not known. Resume from a checkpoint of the first pass, or use a Dataset."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL, but does not replace a table of completions by an empty one where nothing was sampled."""
        wanted, self.log_completions = self.log_completions, self.log_completions and bool(sampled_prompts(self))
        try:
            super().log(logs, start_time)
        finally:
            self.log_completions = wanted

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        training = self._policy().training
        if training:
            assert self.controller is not None, "train() makes the controller"
            temperature = self.controller.temperature(self.state.global_step - self.skipped_steps)
        else:
            temperature = self.args.temperature
        self.set_temperature(temperature)
        temperature = self.temperature
        if not self._padding_is_checked:
            self._check_padding()
            self._padding_is_checked = True
        check_batch(self, self._policy().config, inputs)
        self._record_next_pass = training and self._log_probs_at_generation
        if training:
            column = "problem_id" if "problem_id" in inputs[0] else "prompt"
            self._row_problems = [str(example[column]) for example in inputs]
            self.problems = column, list(dict.fromkeys(self._row_problems))
        try:
            with plain_generation(self._policy()):
                output = super()._generate_and_score_completions(inputs)
        except (NonFiniteLogits, RuntimeError) as error:
            rows = getattr(error, "rows", None)  # tampo's sampler names them; torch.multinomial of `generate` does not
            if rows is None and not str(error).startswith("probability tensor contains"):
                raise
            raise NonFiniteLoss(self._describe("Logits of the sampler are not finite", rows or ())) from error
        rows = len(output["advantages"])
        output["temperature"] = torch.tensor(temperature, dtype=torch.float64)
        # TRL shuffles the rows before their likelihoods are known; its table of completions keeps this order.
        output["rollout"] = torch.arange(rows, device=self.accelerator.device)
        self._log_rollouts(temperature=[temperature] * rows, log_likelihoods=[None] * rows)
        if training:
            if self._log_probs_at_generation != ("old_per_token_logps" in output):
                raise RuntimeError(f"TRL {trl.__version__} computes log-probs at another point than tampo expects.")
            self._collection.start(rows)
            self.sampler_gap.start()
            self._reward = training_metrics(self)["reward"][-1]
            self.importance_weights.start()
            if self._log_probs_at_generation:
                if self._recorded.log_ratios is not None:
                    output["old_per_token_logps"] = self._recorded.loss
                    output["importance_weights"] = self.importance_weights.weights(self._recorded.log_ratios)
                self._collect_likelihoods(output)
        return output

    def _check_padding(self) -> None:
        compute, models = super()._get_per_token_logps_and_entropies, [self._policy()]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))

        def log_probs(*rows: Any) -> Tensor:
            return cast(Tensor, self._heads.log_probs(lambda: compute(self.model, *rows), Rows(*rows), None)[0])

        check_padding(self, models, log_probs, self._heads.temperature, self.args.scoring_batch_size is not None)

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, *args, **kwargs)  # (N, functions), NaN where there is none
        self.log_names.check_rewards(len(inputs))
        if not self._policy().training:
            return rewards
        weighted = rewards * self.reward_weights.to(rewards.device)
        total = torch.where(rewards.isnan().all(dim=1), torch.nan, weighted.nansum(dim=1))
        self._rewards = total.double().cpu().numpy()
        return rewards

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        self.set_temperature(inputs["temperature"].item())
        collecting = self._policy().training and self._collection.missing > 0
        self._record_next_pass = collecting
        loss = super()._compute_loss(model, self._with_weights(inputs) if self._weighs_rollouts() else inputs)
        if self._policy().training and not torch.isfinite(loss):
            raise NonFiniteLoss(self._describe(f"The loss is {loss.item()}"))
        if collecting:
            self._collect_likelihoods(inputs)
        return loss

    def _with_weights(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """TRL's batch with an advantage for each token, (b, C), multiplied by its weight.

        TRL multiplies each token's loss by the advantage and adds the KL term later. A weight is positive, so it
        changes no clipping either: min(ratio A w, clipped ratio A w) = w min(ratio A, clipped ratio A).
        """
        advantages = inputs["advantages"].unsqueeze(1).repeat(1, inputs["completion_ids"].size(1))
        if "importance_weights" in inputs:
            advantages *= inputs["importance_weights"]
        else:
            # The first pass of the loss is the generating policy's: no further pass at generation is needed. TRL has
            # this tensor before that pass, which multiplies it by the weights, and uses it afterwards.
            self._unweighted = advantages
        return inputs | {"advantages": advantages}

    def _describe(self, problem: str, rows: Sequence[int] = ()) -> str:
        """A message about local rows of the latest generation batch; about all of them, if none are given."""
        column, prompts = self.problems
        if rows:
            prompts = list(dict.fromkeys(self._row_problems[row] for row in rows))
        shown = "; ".join(prompt[:80] for prompt in prompts[:8]) + ("; ..." if len(prompts) > 8 else "")
        newest = get_last_checkpoint(self.args.output_dir) if os.path.isdir(str(self.args.output_dir)) else None
        return (
            f"{problem} in step {self.state.global_step + 1}, at temperature {self.temperature:g}. "
            f"Prompts ({column}): {shown}. Newest checkpoint: {newest or 'none'}. "
            "Resume from it with a lower learning_rate or max_grad_norm, or in another precision."
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
        compute = super()._get_per_token_logps_and_entropies
        if recording:
            kwargs["compute_entropy"] = True  # the head computes it anyway
        others = {name: value for name, value in kwargs.items() if name not in ("batch_size", "compute_entropy")}

        def compute_rows(*rows: Any) -> tuple[Tensor | None, ...]:
            temperatures, asked = (self._recorded_at(), self._uses_virtual_entropies()) if recording else (None, False)
            return self._heads.log_probs(
                lambda: compute(model, *rows, *args, **kwargs), Rows(*rows), temperatures, asked
            )

        size = self.args.scoring_batch_size
        # TRL maps images to rows itself, and an auxiliary loss belongs to a whole micro-batch: no groups for these.
        if size is None or any(value is not None and value is not False for value in others.values()):
            computed = compute_rows(input_ids, attention_mask, logits_to_keep)
        else:
            size = min(size, kwargs.get("batch_size") or size)
            computed = compute_by_length(compute_rows, input_ids, attention_mask, logits_to_keep, size)
        log_probs, entropies, *auxiliary_loss, recorded = computed  # no such loss before TRL 1.7
        assert log_probs is not None, "never None"
        if recorded is not None:
            assert entropies is not None, "compute_entropy is set"
            self._recorded = self._split(recorded, entropies.detach().float(), log_probs.detach())
            log_ratios = self._recorded.log_ratios
            if self._unweighted is not None and log_ratios is not None:
                self._unweighted *= self.importance_weights.weights(log_ratios)
                self._unweighted = None
            if log_ratios is not None and self._log_probs_at_generation:
                # TRL compares these with vLLM's, which are at the sampling temperature. The loss gets those at 1.
                return self._recorded.sampled, entropies, *auxiliary_loss
        return log_probs, entropies, *auxiliary_loss

    def _recorded_at(self) -> Sequence[float]:
        """The K virtual temperatures, and the two of importance weights where there are some.

        Both of these are recorded, from the same logits in float32, so that weights at T = 1 are exactly 1.
        """
        return [*self._scored_at(), *((self.temperature, 1.0) if self._weighs_rollouts() else ())]

    def _split(self, recorded: Tensor, entropies: Tensor, log_probs: Tensor) -> Recorded:
        """Values at `_recorded_at`, (b, C, ...), and entropies and log-probs at the loss's temperature, (b, C)."""
        if not self._weighs_rollouts():
            return Recorded(recorded, entropies, log_probs, log_probs, None)
        k, scored = len(self._scored_at()), len(self._recorded_at())  # K, K + 2
        sampled, at_one = recorded[..., k], recorded[..., k + 1]
        virtual = torch.cat(
            [recorded[..., :k], recorded[..., scored : scored + k]], dim=-1
        )  # entropies, if any, behind
        return Recorded(virtual, entropies, sampled, log_probs, at_one - sampled)

    def _scored_at(self) -> Sequence[float]:
        """The K virtual temperatures of the current generation batch."""
        assert self.controller is not None, "train() makes the controller"
        return self.controller.scored_at(self.temperature) or self.args.temperature_candidates

    def _uses_virtual_entropies(self) -> bool:
        assert self.controller is not None, "train() makes the controller"
        return self.controller.uses_virtual_entropies

    def _collect_likelihoods(self, inputs: dict[str, Any]) -> None:
        """Keep the recorded likelihoods of some rows; update the controller when the generation batch is complete."""
        assert self.controller is not None, "train() makes the controller"
        if self._record_next_pass:
            raise RuntimeError(f"TRL {trl.__version__} computes the loss without the log-probabilities tampo expects.")
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)  # (b, C)
        log_ratios = self._recorded.log_ratios
        self.sampler_gap.add(self._recorded.sampled, mask, inputs)
        if log_ratios is not None:
            self.importance_weights.add(log_ratios, mask)
            if not self._log_probs_at_generation:  # for the next iterations over these rows
                inputs["importance_weights"] = self.importance_weights.weights(log_ratios)
        self._collection.add(self._recorded, mask, inputs)
        if self._collection.missing == 0:
            own = self._collection.in_order()
            batch = self.accelerator.gather(own).double().cpu().numpy()  # (N, K + 4) or (N, 2 K + 4)
            scored_at = np.array(self._scored_at())
            k = len(scored_at)
            self._check_likelihoods(batch[:, :k], own[:, :k])
            self.sampler_gap.finish(self.temperature, self.state.global_step + 1)
            self.importance_weights.finish()
            self.rollout_batch = rollout_batch(
                batch,
                scored_at,
                temperatures=check_temperatures("temperature_candidates", self.args.temperature_candidates),
                reward=self._reward,
                temperature=self.temperature,
                rewards=self._rewards,
                groups=np.arange(len(batch)) // (self.num_generations or 1),
            )
            self.controller.update(self.rollout_batch)
            self._log_rollouts(log_likelihoods=own[:, :k].tolist())

    def _check_likelihoods(self, batch: NDArray[np.float64], own: Tensor) -> None:
        """Refuse log-likelihoods (N, K) that are not finite; `own` are those of this process's rows, in order.

        All processes see the batch, and stop.
        """
        if not np.isfinite(batch).all():
            bad = (~own.isfinite()).any(dim=1).nonzero()[:, 0].tolist()
            where = "" if bad else " (of another process's prompts)"
            raise NonFiniteLoss(self._describe(f"Log-likelihoods are not finite{where}", bad))

    def _log_rollouts(self, **columns: list[Any]) -> None:
        """Add columns, one value per local row of the latest generation batch, to TRL's table of completions."""
        if self.log_completions:
            for name, values in columns.items():
                extra_columns(self)[name].extend(gather_object(values))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's model card, with the temperature controller and its parameters."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            name, path = self.args.temperature_controller, Path(str(self.args.output_dir), "README.md")
            run = self._run_settings(max(self.state.max_steps, 1))
            add_temperature(path, name, self.args.configure_controller(), run)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.controller is not None:
            folder = checkpoint_folder(self, trial) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            save_rollouts(self, folder)
            if self.args.should_save:
                write_json(folder / CONTROLLER_STATE_NAME, resumable_state(self))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_state(self, Path(checkpoint))
