"""TRL's GRPO with a sampling temperature that changes during training.

TRL 1.16 fixes the temperature when the trainer is built: it is copied into the generation settings and captured in
the closure of a fused LM head, which computes every log-probability of the loss. `TAMPOTrainer.set_temperature`
changes all of those places together, so that sampling, loss and reference model never disagree. Each generation
batch carries the temperature it was sampled at, and is scored at it for as long as it is used.

The K virtual log-likelihoods of a batch come from the first pass of the policy that generated it, through a hook
on the backbone: one more product with the LM head, no further forward pass.
"""

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CellType
from typing import Any, cast

import torch
import trl
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import maybe_gather_lm_head_ctx

from tampo.controllers import CONTROLLERS, ControllerSettings, Observation, TemperatureController, make_controller
from tampo.files import write_json
from tampo.likelihood import virtual_log_probs
from tampo.meta_policy import DEFAULT_TEMPERATURES, check_fraction, check_temperatures

CONTROLLER_STATE_NAME = "temperature_controller.json"


@dataclass
class TAMPOConfig(GRPOConfig):
    """`GRPOConfig` and the parameters of the temperature's controller.

    `temperature`, GRPO's own, is what the "fixed" controller samples at, and the temperature of evaluations during
    training under every controller. A parameter out of its range raises a ValueError that names it.
    """

    temperature_controller: str = field(
        default="tampo",
        metadata={
            "help": f"Rule that sets the sampling temperature of each generation batch: {', '.join(CONTROLLERS)}."
        },
    )
    temperature_candidates: list[float] = field(
        default_factory=lambda: list(DEFAULT_TEMPERATURES),
        metadata={"help": "Candidate (and virtual) temperatures T_1 ... T_K of the meta-policy; section 4.1."},
    )
    temperature_start: float = field(default=0.9, metadata={"help": "First temperature of the linear controller."})
    temperature_end: float = field(default=1.5, metadata={"help": "Last temperature of the linear controller."})
    meta_alpha: float = field(
        default=0.05, metadata={"help": "Weight of the newest batch in the moving average of Eq. 11, in [0, 1]."}
    )
    meta_top_p: float = field(
        default=0.7, metadata={"help": "Nucleus mass for drawing temperatures, in [0, 1]; 0 is greedy. Section 4.3."}
    )
    meta_warmup_ratio: float = field(
        default=0.1,
        metadata={"help": "Share of the run that samples at meta_warmup_temperature while the meta-policy learns."},
    )
    meta_warmup_temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of the warm-up."})
    meta_likelihood: str = field(
        default="sum",
        metadata={"help": "Compare log-likelihoods by their 'sum' (Eq. 8) or 'mean' (Eq. 6) over tokens."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature_controller not in CONTROLLERS:
            raise ValueError(
                f"temperature_controller must be one of {', '.join(CONTROLLERS)}, got {self.temperature_controller!r}."
            )
        check_temperatures("temperature_candidates", self.temperature_candidates)
        for name in ("temperature", "temperature_start", "temperature_end", "meta_warmup_temperature"):
            check_temperatures(name, [getattr(self, name)])
        for name in ("meta_alpha", "meta_top_p", "meta_warmup_ratio"):
            check_fraction(name, getattr(self, name))
        if self.meta_likelihood not in ("sum", "mean"):
            raise ValueError(f"meta_likelihood must be 'sum' or 'mean', got {self.meta_likelihood!r}.")
        if isinstance(self.generation_kwargs, dict) and "temperature" in self.generation_kwargs:
            raise ValueError(
                "generation_kwargs must not hold a temperature: the loss would not know of it. Set `temperature` and "
                "temperature_controller='fixed' instead."
            )

    @property
    def passes_per_batch(self) -> int:
        """Micro-batches that one generation batch serves."""
        assert self.steps_per_generation is not None, "GRPOConfig sets it"
        return self.steps_per_generation * self.num_iterations

    def controller_settings(self, total_steps: int) -> ControllerSettings:
        """The controllers' parameters for a run of `total_steps` optimizer steps."""
        batches = total_steps * self.gradient_accumulation_steps / self.passes_per_batch
        return ControllerSettings(
            temperature=self.temperature,
            temperature_start=self.temperature_start,
            temperature_end=self.temperature_end,
            candidates=tuple(self.temperature_candidates),
            alpha=self.meta_alpha,
            top_p=self.meta_top_p,
            likelihood=cast(Any, self.meta_likelihood),
            warmup_ratio=self.meta_warmup_ratio,
            warmup_temperature=self.meta_warmup_temperature,
            seed=self.seed,
            total_steps=total_steps,
            total_batches=round(batches),
        )


class TAMPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose sampling temperature is set by a controller, by default TAMPO's meta-policy (Algorithm 1).

    Takes the arguments of `GRPOTrainer`, with a `TAMPOConfig` as `args`. With `temperature_controller="fixed"` it
    trains as `GRPOTrainer` does, to the last bit, and logs the same quantities about temperatures.

    Attributes:
        controller: The rule in use; made anew by every `train()`, None before the first.
        temperature: The temperature in force.
        observation: What the latest finished generation batch said about temperatures, or None.

    Raises:
        TypeError: `args` is not a `TAMPOConfig`.
        RuntimeError: This version of TRL keeps the loss's temperature where tampo does not find it.
    """

    _tag_names = ["trl", "grpo", "tampo"]  # noqa: RUF012 (as in TRL)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(GRPOTrainer.__init__).bind(self, *args, **kwargs)
        config = bound.arguments.get("args")
        if config is not None and not isinstance(config, TAMPOConfig):
            raise TypeError(f"TAMPOTrainer needs a TAMPOConfig as `args`, got {type(config).__name__}.")
        if config is None:
            bound.arguments["args"] = TAMPOConfig("tampo-output")
        super().__init__(*bound.args[1:], **bound.kwargs)
        self.args: TAMPOConfig
        self.controller: TemperatureController | None = None
        self.observation: Observation | None = None
        self._heads = [FusedHead(self._policy())]  # the policy's first
        if self.ref_model is not None:
            self._heads.append(FusedHead(self.accelerator.unwrap_model(self.ref_model)))
        # TRL scores a whole generation batch at once, before any update, when an update falls inside the batch's use.
        self._scored_at_generation = self.args.gradient_accumulation_steps % self.args.passes_per_batch != 0 or (
            self.use_vllm and self.vllm_importance_sampling_correction
        )
        self._record_next_pass = False
        self._recorded: list[Tensor] = []  # (b, C, K) each, the recorded pass in chunks
        self._unobserved = 0  # local rows of the current generation batch whose likelihoods are still to come
        self._observed: list[Tensor] = []  # (b, K + 2) each: log-likelihoods, advantage, length
        self.add_callback(MetaPolicyCallback(self))

    @property
    def inside_generation_batch(self) -> bool:
        """Whether the latest generation batch is still in use, so that a checkpoint could not be resumed exactly."""
        return self._step % self.args.passes_per_batch != 0

    def _policy(self) -> PreTrainedModel:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def set_temperature(self, temperature: float) -> None:
        """Make `temperature` the one in force, for sampling and for every log-probability computed from now on."""
        self.temperature = temperature
        for head in self._heads:
            head.temperature = temperature
        if self.use_vllm:
            self.vllm_generation.temperature = temperature
        else:
            self.generation_config.temperature = temperature
            self.generation_kwargs["temperature"] = temperature

    # The number of steps is known here, and the checkpoint is loaded after.
    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        settings = self.args.controller_settings(num_training_steps)
        self.controller = make_controller(self.args.temperature_controller, settings)
        self._unobserved, self._observed = 0, []
        return super().create_scheduler(num_training_steps, optimizer)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        training = self._policy().training
        if training:
            assert self.controller is not None, "train() makes the controller"
            temperature = self.controller.temperature(self.state.global_step)
        else:
            temperature = self.args.temperature
        self.set_temperature(temperature)
        self._record_next_pass = training and self._scored_at_generation
        output = super()._generate_and_score_completions(inputs)
        output["temperature"] = torch.tensor(temperature, dtype=torch.float64)
        if training:
            if self._scored_at_generation != ("old_per_token_logps" in output):
                raise RuntimeError(f"TRL {trl.__version__} scores rollouts at another point than tampo expects.")
            self._unobserved, self._observed = len(output["advantages"]), []
            if self._scored_at_generation:
                self._observe(output)
        return output

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        self.set_temperature(inputs["temperature"].item())
        observing = self._policy().training and self._unobserved > 0
        self._record_next_pass = observing
        loss = super()._compute_loss(model, inputs)
        if observing:
            self._observe(inputs)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        score = super()._get_per_token_logps_and_entropies
        if not self._record_next_pass:
            return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._record_next_pass = False
        with self._recording(logits_to_keep):
            return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    @contextmanager
    def _recording(self, logits_to_keep: int) -> Iterator[None]:
        """Keep the virtual log-probabilities of the completions that pass through the policy's backbone."""
        policy, head = self._policy(), self._heads[0]
        self._recorded = []

        def record(backbone: nn.Module, args: Any, inputs: dict[str, Tensor], output: Any) -> None:
            tokens = inputs["input_ids"][:, -logits_to_keep:]  # (b, C)
            mask = inputs["attention_mask"][:, -logits_to_keep:]  # (b, C)
            states = output.last_hidden_state[:, -logits_to_keep - 1 : -1].detach()  # (b, C, H)
            self._recorded.append(
                head.virtual_log_probs(policy, states, tokens, mask, self.args.temperature_candidates)
            )

        handle = policy.base_model.register_forward_hook(record, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _observe(self, inputs: dict[str, Any]) -> None:
        """Take in the recorded likelihoods of some rows; when the generation batch is complete, tell the controller."""
        assert self.controller is not None, "train() makes the controller"
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)  # (b, C)
        log_likelihoods = (torch.cat(self._recorded) * mask.unsqueeze(-1)).sum(dim=1)  # (b, K), Eq. 8
        self._recorded = []
        advantages, lengths = inputs["advantages"], mask.sum(dim=1)  # (b,), (b,)
        rows = torch.cat([log_likelihoods, advantages[:, None], lengths[:, None]], dim=1)
        self._observed.append(rows)
        self._unobserved -= len(rows)
        if self._unobserved == 0:
            batch = self.accelerator.gather(torch.cat(self._observed)).double().cpu().numpy()  # (N, K + 2)
            self.observation = Observation(
                temperatures=check_temperatures("temperature_candidates", self.args.temperature_candidates),
                log_likelihoods=batch[:, :-2],
                advantages=batch[:, -2],
                lengths=batch[:, -1],
            )
            self.controller.update(self.observation)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save and self.controller is not None:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            state = {"controller": self.args.temperature_controller, "state": self.controller.state_dict()}
            # Written last: a checkpoint that has this file is whole.
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
        self._logged: Observation | None = None
        self._save_is_due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        assert trainer.controller is not None, "train() makes the controller"
        metrics = {"temperature": trainer.temperature} | trainer.controller.metrics()
        if trainer.observation is not None and trainer.observation is not self._logged:
            metrics |= trainer.observation.statistics()
            self._logged = trainer.observation
        for name, value in metrics.items():
            trainer._metrics["train"][name].append(value)
        last = state.global_step >= state.max_steps
        self._save_is_due = self._save_is_due or control.should_save
        if self._save_is_due:
            control.should_save = last or not trainer.inside_generation_batch
            self._save_is_due = not control.should_save


class FusedHead:
    """The settings that TRL's `add_fused_lm_head` captured for one model, among them the loss's temperature.

    TRL offers no way to change the temperature of a fused head. Its cell in the closure of the model's forward is
    the one place that all log-probabilities read, and writing there keeps whatever accelerate wrapped around the
    forward meanwhile (building the head anew would drop it).

    Args:
        model: A model that `add_fused_lm_head` was called on.

    Raises:
        RuntimeError: There is no such closure, as in a version of TRL that tampo does not know.
    """

    def __init__(self, model: nn.Module) -> None:
        forward = inspect.unwrap(cast(Any, model).forward, stop=lambda f: "temperature" in _free_variables(f))
        self._cells = _free_variables(forward)
        if not {"temperature", "logit_scale", "final_logit_softcapping", "cast_lm_head_to_fp32"} <= self._cells.keys():
            raise RuntimeError(
                f"TRL {trl.__version__} does not keep the temperature of its fused LM head where tampo expects it. "
                "Install the version of TRL that tampo pins (1.16.0)."
            )

    @property
    def temperature(self) -> float:
        return self._cells["temperature"].cell_contents

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._cells["temperature"].cell_contents = value

    @torch.no_grad()
    def virtual_log_probs(
        self, model: PreTrainedModel, hidden_states: Tensor, tokens: Tensor, mask: Tensor, temperatures: list[float]
    ) -> Tensor:
        """`tampo.likelihood.virtual_log_probs` with this head's scale, soft-cap and precision, shape (b, C, K)."""
        head = model.get_output_embeddings()
        settings = {name: cell.cell_contents for name, cell in self._cells.items() if name != "self"}
        weight, bias = head.weight, getattr(head, "bias", None)
        in_fp32 = settings["cast_lm_head_to_fp32"]
        # As TRL's kernel: DeepSpeed casts the whole model to half precision, a head of cast_lm_head_to_fp32 as well.
        dtype = torch.float32 if in_fp32 else hidden_states.dtype
        autocast = torch.autocast(
            weight.device.type, enabled=torch.is_autocast_enabled(weight.device.type) and not in_fp32
        )
        with autocast, maybe_gather_lm_head_ctx(*(x for x in (weight, bias) if x is not None)):
            return virtual_log_probs(
                hidden_states.to(weight.device, dtype),
                weight.to(dtype),
                tokens.to(weight.device),
                mask.to(weight.device),
                temperatures,
                bias=None if bias is None else bias.to(dtype),
                logit_scale=settings["logit_scale"],
                softcap=settings["final_logit_softcapping"],
            )


def _free_variables(function: Any) -> dict[str, CellType]:
    code = getattr(function, "__code__", None)
    return dict(zip(code.co_freevars, function.__closure__ or (), strict=True)) if code else {}
