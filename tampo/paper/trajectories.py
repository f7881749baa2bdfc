"""Rollouts of a language model, and the log-probs of their tokens at any temperatures (Eqs. 2-8), without training.

Log-probs are computed from hidden states and the LM head, so that the logits of a whole batch never exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tampo.context import UnsuitableModel, check_context
from tampo.decoding import decoding_rules
from tampo.inference.engine import derive_seed
from tampo.inference.transformers_engine import sample_tokens
from tampo.likelihood import virtual_log_probs
from tampo.padding import probe_rows, relative_error, tolerance
from tampo.paper.smollm import SMOLLM_TITLE, load_smollm, smollm_available
from tampo.runs.devices import torch_device
from tampo.runs.scaled_models import scaled_model
from tampo.runs.training_data import model_folder

# Settings by which some model families scale their logits, which `token_log_probs` does not support.
_SCALED_HEADS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


@dataclass(frozen=True)
class LanguageModel:
    """A model, its tokenizer (which pads on the left), and a title for captions."""

    title: str
    model: PreTrainedModel
    tokenizer: Any


@dataclass(frozen=True)
class Trajectory:
    """One rollout.

    Attributes:
        prompt: Index of its prompt.
        prompt_ids: Tokens of the prompt.
        tokens: Tokens of the completion, including the end of sequence.
        text: The completion without special tokens.
        truncated: Whether the length limit ended it.
    """

    prompt: int
    prompt_ids: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    truncated: bool


def choose_model(model: str, scale_model: str = "mini") -> str:
    """`model`, unless it is "auto": then "smollm" if the scale has a mini model and "smollm" is installed.

    Otherwise "auto" is the scale's model.
    """
    if model != "auto":
        return model
    shipped = scale_model.startswith("mini") and "/" not in scale_model
    return "smollm" if shipped and smollm_available() else scale_model


def load_language_model(model: str, revision: str | None = None, logit_scale: float = 1.0) -> LanguageModel:
    """Load "smollm", a shipped model ("mini"), a folder or a Hugging Face id; in float32 on a CPU.

    Args:
        model: Its name.
        revision: Commit, branch or tag of a model on the hub; None: the newest.
        logit_scale: Factor of the logits (`base_logit_scale`).

    Raises:
        FileNotFoundError: "smollm" is not installed, or a shipped model is missing.
        OSError: transformers finds no such model.
        ValueError: Its family scales its logits in an unsupported way, or no token ends a completion.
        UnsuitableModel: Its log-probs cannot be computed from padded rows and its LM head.
    """
    if model == "smollm":
        network, tokenizer = load_smollm()
        title = SMOLLM_TITLE
    else:
        device = torch_device("auto", model)
        folder = scaled_model(model_folder(model, revision), logit_scale)
        dtype = torch.float32 if device == "cpu" else "auto"
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        title = "mini model" if model == "mini" else model
    scaled = [name for name in _SCALED_HEADS if getattr(network.config.get_text_config(), name, None) not in (None, 1)]
    if scaled:
        raise ValueError(f"{model} scales its logits by {scaled[0]}, which is not supported here.")
    tokenizer.padding_side = "left"
    tokenizer.pad_token_id = decoding_rules(network, tokenizer).pad
    loaded = LanguageModel(title, network, tokenizer)
    _check_log_probs(loaded)
    return loaded


def sample_trajectories(
    model: LanguageModel,
    prompts: Sequence[str],
    n: int,
    temperature: float,
    max_tokens: int,
    seed: int,
    batch: int = 256,
) -> list[Trajectory]:
    """`n` rollouts of each prompt, next to each other and in the order of the prompts.

    Args:
        model: The policy.
        prompts: Whole texts: no special token is added.
        n: Rollouts per prompt, G.
        temperature: Sampling temperature, over the whole vocabulary (top-p 1, no top-k, no penalty).
        max_tokens: Length limit of completions.
        seed: The same arguments give the same rollouts; torch's global generator is not changed.
        batch: Rollouts generated at a time.

    Raises:
        UnsuitableModel: Prompts and completions exceed the model's context.
    """
    longest = max(map(len, model.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]), default=0)
    check_context(model.model.config, longest, max_tokens, "the length limit of completions")
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # similar lengths together: less padding
    rows = [(i, sample) for i in order for sample in range(n)]
    found: list[list[Trajectory]] = [[] for _ in prompts]
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        texts = [prompts[i] for i, _ in chosen]
        seeds = [derive_seed(seed, f"{temperature:g}/{sample}/{prompts[i]}") for i, sample in chosen]
        sampled = sample_tokens(model.model, model.tokenizer, texts, temperature, max_tokens, seeds)
        prompt_ids = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
        written = model.tokenizer.batch_decode([tokens for tokens, _ in sampled], skip_special_tokens=True)
        for (i, _), ids, (tokens, truncated), text in zip(chosen, prompt_ids, sampled, written, strict=True):
            found[i].append(Trajectory(i, tuple(ids), tuple(tokens), text, truncated))
    return [trajectory for group in found for trajectory in group]


@torch.inference_mode()
def _check_log_probs(model: LanguageModel) -> None:
    """Try `token_log_probs` on two short rows. Raises UnsuitableModel where it differs from the model's own logits."""
    rows = probe_rows(model.model.config)
    found = token_log_probs(model, [Trajectory(0, row[:2], row[2:], "", False) for row in rows], [1.0])
    for row, log_probs in zip(rows, found, strict=True):
        ids = torch.tensor([row], device=model.model.device)
        own = model.model(input_ids=ids, use_cache=False).logits[0, 1:-1].float().log_softmax(dim=-1)  # (l - 2, V)
        expected = own.gather(-1, ids[0, 2:, None])[:, 0].cpu()
        error = relative_error(torch.from_numpy(log_probs[:, 0]), expected, own.std(dim=-1).cpu())
        if error > tolerance(model.model.dtype):
            raise UnsuitableModel(
                f"The log-probs of {type(model.model).__name__} cannot be computed here: those of padded rows and its "
                f"LM head are off by {error:.2g} standard deviations. Choose another model."
            )


@torch.inference_mode()
def token_log_probs(
    model: LanguageModel, trajectories: Sequence[Trajectory], temperatures: Sequence[float], batch: int = 32
) -> list[NDArray[np.float32]]:
    """Log-probability of each token of N rollouts at K temperatures: log softmax(z / T_k), Eq. 2, in nats.

    The result does not depend on `batch`, the number of rollouts in a forward pass.

    Returns:
        N arrays of shape (tokens of the rollout, K).
    """
    result: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i].prompt_ids + trajectories[i].tokens))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = _padded([trajectories[i] for i in chosen], model.model.device)
        positions = torch.arange(ids.size(1), device=ids.device)  # padding is on the right, so positions start at 0
        states = model.model.base_model(input_ids=ids, position_ids=positions[None], use_cache=False).last_hidden_state
        head: Any = model.model.get_output_embeddings()
        softcap = getattr(model.model.config.get_text_config(), "final_logit_softcapping", None)
        log_probs = virtual_log_probs(
            states[:, :-1], head.weight, ids[:, 1:], mask[:, 1:], list(temperatures), bias=head.bias, softcap=softcap
        )  # (b, S - 1, K)
        for i, row, keep in zip(chosen, log_probs, mask[:, 1:].bool(), strict=True):
            result[i] = row[keep].float().cpu().numpy()
    return [result[i] for i in range(len(trajectories))]


def _padded(trajectories: Sequence[Trajectory], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of prompt and completion, padded on the right, and the mask of the completion; both (b, S)."""
    ids = [torch.tensor(t.prompt_ids + t.tokens) for t in trajectories]
    mask = [torch.tensor([0] * len(t.prompt_ids) + [1] * len(t.tokens)) for t in trajectories]
    return pad_sequence(ids, batch_first=True).to(device), pad_sequence(mask, batch_first=True).to(device)


def likelihood_curves(
    model: LanguageModel, trajectories: Sequence[Trajectory], correct: Sequence[bool], temperatures: Sequence[float]
) -> pd.DataFrame:
    """Likelihood of each of N rollouts at K temperatures; `correct` says whether each is correct, shape (N,).

    Returns:
        N * K rows: rollout (from 1), tokens, correct, temperature, log_likelihood (sum over tokens in nats, Eq. 8),
        mean_log_likelihood (nats per token, Eq. 6).
    """
    parts = []
    rollouts = zip(token_log_probs(model, trajectories, temperatures), correct, strict=True)
    for number, (log_probs, right) in enumerate(rollouts, start=1):
        total = log_probs.sum(axis=0, dtype=np.float64)  # (K,)
        curve = {"rollout": number, "tokens": len(log_probs), "correct": bool(right), "temperature": list(temperatures)}
        curve |= {"log_likelihood": total, "mean_log_likelihood": total / len(log_probs)}
        parts.append(pd.DataFrame(curve))
    return pd.concat(parts, ignore_index=True)
