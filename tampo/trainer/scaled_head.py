"""The loss's temperature with a TRL whose fused head tampo does not know, by public PyTorch alone.

TRL divides logits by the temperature T0 that its trainer was built with: TRL 1.15 and 1.16 in a fused head, earlier
releases by the trainer's attribute, at each call. While a batch is scored, `ScaledHeads` keeps that attribute at T0 and
multiplies the last hidden states by T0 / T in a forward hook. The LM head is linear, so TRL makes z / T of its logits
in either case, and never divides twice. The K virtual log-likelihoods come from the same hidden states.

This costs one more product with the LM head where likelihoods are recorded, and one more rounding of the hidden states
where T is not T0 (in bfloat16 as coarse as that of any layer's output). Measured against the fused head's closure, on
one CPU thread in alternation: forward and backward with recording took 1.02 times as long on the mini model (421
tokens) and with 32,768 tokens, whole training runs of the mini model 1.01 times.
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

# Names, in the configs of models, of what a head does besides one product; the values are those of no effect.
_OTHER_HEADS = {
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1),
    "output_multiplier": (None, 1),
    "lm_head_multiplier": (None, 1),
    "logits_scaling": (None, 1),
}
_WAY_OUT = "Install a version of TRL whose fused head tampo knows (1.16.0)."


class ScaledHeads:
    """The heads of the models that a trainer scores with: sets their temperature and records likelihoods.

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
            others = [name for name, neutral in _OTHER_HEADS.items() if getattr(config, name, None) not in neutral]
            if not isinstance(head, nn.Linear) or head.bias is not None:
                others.append(f"an LM head that is not a linear map without bias ({head})")
            if others:
                raise RuntimeError(
                    f"With TRL {trl.__version__}, tampo does not support {', '.join(others)}. {_WAY_OUT}"
                )

    def score(
        self,
        score: Callable[[], tuple[Tensor | None, ...]],
        input_ids: Tensor,
        attention_mask: Tensor,
        completion_length: int,
        temperatures: Sequence[float] | None,
    ) -> tuple[Tensor | None, ...]:
        """As `FusedHeads.score`.

        Raises:
            RuntimeError: TRL did not score at the current temperature, or processes share the LM head's weight.
        """
        current, built_at = self.temperature, self._built_at
        # Where these three differ, the first is what TRL's own log-probabilities must be closest to.
        probes = [] if temperatures is None or self._checked else [current, built_at, current**2 / built_at]
        recorded: list[Tensor] = []  # one a pass: TRL may pass the rows in parts
        shown = 0

        def read_and_scale(model: Any, output: Any) -> Any:
            nonlocal shown
            states = output.last_hidden_state  # (b, L, H)
            if temperatures is not None:
                rows = slice(shown, shown + len(states))
                shown += len(states)
                weight = model.get_output_embeddings().weight  # (V, H)
                if weight.dim() != 2:
                    raise RuntimeError(f"The LM head is split over processes (ZeRO-3). {_WAY_OUT}")
                columns = slice(-completion_length, None)
                recorded.append(
                    virtual_log_probs(
                        states[:, -completion_length - 1 : -1].detach().to(weight.dtype),
                        weight.detach(),
                        input_ids[rows, columns],
                        attention_mask[rows, columns],
                        [*temperatures, *probes],
                    )
                )
            if current != built_at:
                output.last_hidden_state = states * (built_at / current)
            return output

        with self._hooks(read_and_scale):
            scored = score()
        if temperatures is None:
            return *scored, None
        log_probs = torch.cat(recorded)  # (B, C, K + probes)
        if probes and current != built_at and attention_mask[:, -completion_length:].any():
            assert scored[0] is not None, "log-probabilities are always there"
            keep = attention_mask[:, -completion_length:].bool()
            errors = (scored[0].detach().float().unsqueeze(-1) - log_probs[..., -3:])[keep].abs().mean(dim=0)
            if errors.argmin() != 0:
                raise RuntimeError(f"TRL {trl.__version__} does not score at the current temperature. {_WAY_OUT}")
            self._checked = True
        return *scored, log_probs[..., : len(temperatures)]

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
