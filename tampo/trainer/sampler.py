"""The sampler of rollouts against the loss: one precision, and the gap between their log-probs.

GRPO takes rollouts as drawn from the policy whose log-probs the loss computes. A sampler in another precision, at
another temperature or with older weights breaks that without an error. So the sampler's precision is set and checked
when a trainer is built, and every generation batch is compared, token by token, at its temperature.

vLLM gives its log-probs, as does tampo's own sampler (`tampo train`). `model.generate` and transformers' continuous
batching give none: nothing is logged for them.
"""

import logging
from typing import Any, cast

import torch
from torch import Tensor
from trl import GRPOTrainer

from tampo.trainer.trl_internals import vllm_dtype

logger = logging.getLogger(__name__)

# Mean gaps per token at T = 1, in nats, that rounding explains. Logits of a language model differ by so much between
# two correct implementations: rounding of logits to bfloat16 alone gives 0.008 (0.013 at T = 0.6), other kernels in
# all layers some times that. A float16 has 8 times the resolution. A head with a wrong temperature gives 0.1 or more.
EXPLAINED = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.005, torch.bfloat16: 0.03}


def compute_dtype(trainer: GRPOTrainer) -> torch.dtype:
    """The precision of the policy's passes: that of mixed precision, or else of the weights."""
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision or "no")
    return cast(Any, trainer.model).dtype if mixed is None else mixed


def explained_gap(dtype: torch.dtype, temperature: float) -> float:
    """The largest mean gap per token, in nats, that a precision explains. Log-probs are logits / T, so it grows so."""
    return EXPLAINED.get(dtype, EXPLAINED[torch.bfloat16]) / temperature


def check_vllm_precision(trainer: GRPOTrainer) -> None:
    """Check, for a newly built trainer, that its vLLM samples in the precision of the loss.

    Raises:
        ValueError: It does not; the message says how to change it.
    """
    found, wanted = vllm_dtype(trainer), str(compute_dtype(trainer)).removeprefix("torch.")
    if found is None or found == wanted:
        return
    served = trainer.vllm_mode == "server"
    way_out = f"Start the server with --dtype {wanted}" if served else f"Install a vLLM that runs in {wanted}"
    raise ValueError(
        f"vLLM samples in {found}, and the loss is computed in {wanted}: rollouts would not be those of the policy "
        f"that is trained. {way_out}, or train in {found} (bf16 and fp16 of TAMPOConfig, `precision` of `tampo train`)."
    )


class SamplerGap:
    """Differences between the sampler's and the loss's log-probs, over one generation batch at a time.

    Attributes:
        metrics: Of the latest finished batch: "sampler/log_prob_gap_mean" and "sampler/log_prob_gap_max", absolute
            differences per token in nats, over all processes; and, where rollouts of vLLM have weights,
            "sampler/dropped", the share of weights that are 0. Empty where the sampler gives no log-probs.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._rows: list[Tensor] = []  # (b, 3) each
        self._weights: list[Tensor] = []  # (b, 2) each
        self._warned = False
        self.metrics: dict[str, float] = {}

    def start(self) -> None:
        """Forget an unfinished batch."""
        self._rows, self._weights = [], []

    def add(self, log_probs: Tensor, mask: Tensor, inputs: dict[str, Any]) -> None:
        """Add rows of the current batch.

        Args:
            log_probs: Of the loss, before any update, shape (b, C).
            mask: 1 for tokens that the sampler drew and the loss uses, shape (b, C).
            inputs: TRL's batch of these rows.
        """
        sampled = inputs.get("sampling_per_token_logps")
        if sampled is not None:
            gap = (log_probs.float() - sampled.float()).abs() * mask
            known = mask.bool() & ~gap.isnan()  # vLLM gives no number for some tokens
            gap = gap.where(known, 0.0)
            self._rows.append(torch.stack([gap.sum(dim=1), known.sum(dim=1), gap.amax(dim=1)], dim=1))
        weights = inputs.get("importance_sampling_ratio")  # (b, C) or (b, 1)
        if weights is not None:
            used = mask if weights.size(1) == mask.size(1) else torch.ones_like(weights)
            dropped = ((weights == 0) * used).sum(dim=1)
            self._weights.append(torch.stack([dropped, used.sum(dim=1)], dim=1).float())

    def finish(self, temperature: float, step: int) -> None:
        """Compute `metrics` of the batch that is complete now; every process calls it. Warns once in a run."""
        gather = self._trainer.accelerator.gather
        self.metrics = {}
        if self._rows:
            rows = gather(torch.cat(self._rows)).double()  # (N, 3)
            mean = (rows[:, 0].sum() / rows[:, 1].sum().clamp(min=1)).item()
            self.metrics = {"sampler/log_prob_gap_mean": mean, "sampler/log_prob_gap_max": rows[:, 2].max().item()}
            self._check(mean, temperature, step)
        if self._weights:
            dropped, used = gather(torch.cat(self._weights)).double().sum(dim=0).tolist()
            self.metrics["sampler/dropped"] = dropped / max(used, 1.0)
        self.start()

    def _check(self, mean: float, temperature: float, step: int) -> None:
        dtype = compute_dtype(self._trainer)
        allowed = explained_gap(dtype, temperature)
        if mean <= allowed or self._warned:
            return
        self._warned = True
        if not self._trainer.is_world_process_zero():
            return
        logger.warning(
            "Step %d, temperature %g: the log-probs of %s differ from those of the loss by %.3g nats per token "
            "(sampler/log_prob_gap_mean); %s explains %.3g. Rollouts are not drawn from the policy that is trained. "
            "%s",
            step, temperature, self._engine(), mean, str(dtype).removeprefix("torch."), allowed, self._causes(),
        )  # fmt: skip

    def _engine(self) -> str:
        trainer = self._trainer
        return f"vLLM ({trainer.vllm_mode})" if trainer.use_vllm else "the rollout function"

    def _causes(self) -> str:
        if self._trainer.use_vllm and self._trainer.vllm_mode == "server":
            return (
                "The server must run with --logprobs-mode processed_logprobs, with the dtype of the training, and must "
                "get the weights of every step."
            )
        if self._trainer.use_vllm:
            return "Look for another dtype, for weights that do not reach vLLM, and for kernels that are not exact."
        return "Look for dropout in the model (disable_dropout), and for a rollout function with its own temperature."
