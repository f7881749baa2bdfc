"""The temperature of the loss where tampo does not know TRL's fused head, with public PyTorch only.

TRL divides logits by the temperature T0 that its trainer was built with: TRL 1.15 and 1.16 in a fused head, earlier
releases at each call by the trainer's attribute. During log-prob computation, `ScaledHeads` keeps that attribute at T0
and multiplies the last hidden states by T0 / T in a forward hook. The LM head is linear, so the result is z / T in both
cases. The K virtual log-likelihoods come from the same hidden states.

Cost: one more product with the LM head where likelihoods are recorded, and one more rounding of the hidden states where
T differs from T0. Against the fused head's closure, on one CPU thread in alternation: forward and backward with
recording took 1.02 times as long on the mini model (421 tokens) and with 32,768 tokens, whole training runs 1.01 times.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import trl
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import GRPOTrainer

from tampo.likelihood import virtual_log_probs
from tampo.trainer.trl_internals import OTHER_HEADS, Heads, Rows

_SOLUTION = "Install a version of TRL whose fused head tampo knows (1.16.0)."


class ScaledHeads(Heads):
    """Plain LM heads, with scaled hidden states.

    Args:
        models: The policy and, if there is one, the reference model.
        trainer: Newly built. Its `temperature` is T0.

    Raises:
        RuntimeError: A head is more than one product: it has a bias, an adapter, a scale or a soft-cap.
    """

    cost = "one more product with the LM head where likelihoods are recorded, 1 to 2 % of a step on a CPU"

    def __init__(self, models: Sequence[PreTrainedModel], trainer: GRPOTrainer) -> None:
        self._models = models
        self._trainer = trainer
        self._built_at = self.temperature = trainer.temperature
        self._checked = False
        for model in self._models:
            head, config = model.get_output_embeddings(), model.config.get_text_config()
            others = [name for name, neutral in OTHER_HEADS.items() if getattr(config, name, None) not in neutral]
            if not isinstance(head, nn.Linear) or head.bias is not None:
                others.append(f"an LM head that is not a linear map without bias ({head})")
            if others:
                raise RuntimeError(
                    f"With TRL {trl.__version__}, tampo does not support {', '.join(others)}. {_SOLUTION}"
                )

    def log_probs(
        self,
        compute: Callable[[], tuple[Tensor | None, ...]],
        rows: Rows,
        temperatures: Sequence[float] | None,
        entropies: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """As `Heads.log_probs`.

        Raises:
            RuntimeError: TRL's log-probabilities are not those of the current temperature, or processes share the LM
                head's weight.
        """
        current, built_at = self.temperature, self._built_at
        # Where these three differ, TRL's log-probabilities must be closest to the first.
        probes = [] if temperatures is None or self._checked else [current, built_at, current**2 / built_at]
        recorded: list[Tensor] = []  # one per forward pass: TRL may split the rows
        seen = 0
        completion = slice(-rows.completion_length, None)

        def read_and_scale(model: Any, output: Any) -> Any:
            nonlocal seen
            states = output.last_hidden_state  # (b, L, H)
            if temperatures is not None:
                part = slice(seen, seen + len(states))
                seen += len(states)
                weight = model.get_output_embeddings().weight  # (V, H)
                if weight.dim() != 2:
                    raise RuntimeError(f"The LM head is split over processes (ZeRO-3). {_SOLUTION}")
                recorded.append(
                    virtual_log_probs(
                        states[:, -rows.completion_length - 1 : -1].detach().to(weight.dtype),
                        weight.detach(),
                        rows.input_ids[part, completion],
                        rows.attention_mask[part, completion],
                        [*temperatures, *probes],
                        entropies=entropies,
                    )
                )
            if current != built_at:
                output.last_hidden_state = states * (built_at / current)
            return output

        with self._hooks(read_and_scale):
            computed = compute()
        if temperatures is None:
            return *computed, None
        values, scored = torch.cat(recorded), len(temperatures) + len(probes)
        log_probs = values[..., :scored]  # (B, C, K + probes); entropies, as many, are behind
        keep = rows.attention_mask[:, completion].bool()
        if probes and current != built_at and keep.any():
            assert computed[0] is not None, "log-probabilities are never None"
            errors = (computed[0].detach().float().unsqueeze(-1) - log_probs[..., -3:])[keep].abs().mean(dim=0)
            if errors.argmin() != 0:
                raise RuntimeError(
                    f"TRL {trl.__version__} does not compute log-probs at the current temperature. {_SOLUTION}"
                )
            self._checked = True
        asked = log_probs[..., : len(temperatures)]
        if entropies:
            asked = torch.cat([asked, values[..., scored : scored + len(temperatures)]], dim=-1)
        return *computed, asked

    @contextmanager
    def _hooks(self, hook: Callable[[Any, Any], Any]) -> Iterator[None]:
        with ExitStack() as stack:
            for model in self._models:
                handle = model.base_model.register_forward_hook(
                    lambda _, args, output, model=model: hook(model, output)
                )
                stack.callback(handle.remove)
            current, self._trainer.temperature = self._trainer.temperature, self._built_at
            stack.callback(setattr, self._trainer, "temperature", current)
            yield
