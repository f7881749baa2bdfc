"""Checks, before the first rollouts, that TRL's log-probs do not depend on the padding of a batch.

TRL 1.16 passes an attention mask and no position ids. A model with learned absolute positions, such as GPT-2, then
counts padding on the left as positions in the loss, but not when it samples. Grouping by length trims padding and so
moves every position. `check_padding` measures this on two short rows, adds positions where they help, and refuses the
rest.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import GRPOTrainer

from tampo.context import UnsuitableModel
from tampo.padding import (
    NEGLIGIBLE,
    add_position_ids,
    probe_rows,
    relative_error,
    takes_position_ids,
    tolerance,
)

logger = logging.getLogger(__name__)

_COLUMNS = 3  # completion tokens of the probe
_CHANGING_ROPE = ("dynamic", "longrope")


# TRL's log-probs of completions: input_ids (b, l), attention_mask (b, l), completion length c -> (b, c).
LogProbs = Callable[[Tensor, Tensor, int], Tensor]


def check_padding(
    trainer: GRPOTrainer,
    models: Sequence[PreTrainedModel],
    log_probs: LogProbs,
    temperature: float,
    grouped: bool,
) -> None:
    """Make TRL's log-probs independent of padding, or refuse the model by its name.

    Takes a few passes over at most 32 tokens, and no random numbers.

    Args:
        trainer: Ready to train.
        models: The policy and, if there is one, the reference model; both get position ids where these are needed.
        log_probs: TRL's log-probs of the policy.
        temperature: That of `log_probs`.
        grouped: Whether `scoring_batch_size` is set.

    Raises:
        UnsuitableModel: TRL's log-probs are not those of the model's own logits; or they depend on padding, even with
            position ids, and `grouped`. Without groups the second is a warning: padding is then the same in every pass
            over a batch, as in TRL.
    """
    if models[0].config is not models[0].config.get_text_config():
        return  # a multimodal model has positions of its own
    model = cast(nn.Module, trainer.model)
    training = model.training
    model.eval()  # dropout would draw random numbers
    try:
        with torch.no_grad():
            _check_padding(trainer, models, log_probs, temperature, grouped)
    finally:
        model.train(training)


def _check_padding(
    trainer: GRPOTrainer,
    models: Sequence[PreTrainedModel],
    log_probs: LogProbs,
    temperature: float,
    grouped: bool,
) -> None:
    policy, name, device = models[0], type(models[0]).__name__, trainer.accelerator.device
    alone, spread = [], []
    long, short = (torch.tensor([row], device=device) for row in probe_rows(policy.config))
    columns = min(_COLUMNS, short.size(1) - 1)
    error = 0.0
    for row in (long, short):
        with trainer.accelerator.autocast():
            logits = cast(Any, trainer.model)(input_ids=row, attention_mask=torch.ones_like(row)).logits
        own = torch.log_softmax(logits[:, -columns - 1 : -1].float() / temperature, dim=-1)  # (1, c, V)
        alone.append(log_probs(row, torch.ones_like(row), columns))
        spread.append(own.std(dim=-1))
        expected = own.gather(-1, row[:, -columns:, None])[..., 0]
        error = max(error, relative_error(alone[-1], expected, spread[-1]))
    half = trainer.args.bf16 or trainer.args.fp16
    allowed = tolerance(torch.bfloat16 if half else policy.dtype)
    if error > allowed:
        raise UnsuitableModel(
            f"{name} cannot be trained: TRL's log-probs differ from those of the model's own logits, by {error:.2g} "
            "standard deviations. Its LM head is more than a product with the last hidden states, or it keeps a state "
            "between calls. Choose another model."
        )
    padding = long.size(1) - short.size(1)
    ids = torch.cat([long, torch.nn.functional.pad(short, (padding, 0), value=int(short[0, 0]))])
    mask = torch.ones_like(ids)
    mask[1, :padding] = 0

    def padded_error() -> float:
        return relative_error(log_probs(ids, mask, columns)[1:], alone[1], spread[1])

    error = padded_error()
    # With 16 bits, the rounding of rotary positions is larger than the effect of some learned ones.
    rotary = any(name.startswith(("rope_", "rotary_")) for name in vars(policy.config))
    if error > (allowed if rotary else NEGLIGIBLE) and takes_position_ids(policy):
        with ExitStack() as handles:
            for model in models:
                handles.callback(add_position_ids(model.base_model).remove)
            with_positions = padded_error()
            if with_positions < error / 4:  # else both are rounding
                error = with_positions
                handles.pop_all()
                logger.info("%s counts padding as positions; log-probs are computed with position ids.", name)
    if error > allowed:
        problem = f"The log-probs of {name} depend on padding, by {error:.2g} standard deviations"
        if grouped:
            raise UnsuitableModel(
                f"{problem}, which scoring_batch_size changes: ratios would be wrong. Set scoring_batch_size=None, or "
                "choose another model."
            )
        logger.warning("%s, and so on the other prompts of a batch, as in TRL.", problem)


def rope_limit(config: Any) -> int | None:
    """Tokens beyond which rotary frequencies depend on the longest row of a batch; None where they never do."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) not in _CHANGING_ROPE:
        return None
    return rope.get("original_max_position_embeddings") or getattr(text, "max_position_embeddings", None)


def check_grouping(config: Any, longest: int) -> None:
    """Refuse groups of rows for models whose positions depend on the longest row of a batch.

    Args:
        config: The model's config.
        longest: Tokens of the longest prompt and completion together.

    Raises:
        UnsuitableModel: Rotary frequencies change within this length.
    """
    limit = rope_limit(config)
    if limit is not None and longest > limit:
        raise UnsuitableModel(
            f"The rotary positions of this model ({config.model_type}) depend on the longest row of a batch beyond "
            f"{limit} tokens, which scoring_batch_size changes: ratios would be wrong. Set scoring_batch_size=None."
        )
