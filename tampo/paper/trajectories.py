"""Rollouts of a language model with their tokens, and how likely every token is at every temperature (Eqs. 2-8).

For figures and studies that look at rollouts outside of a training. The log-probabilities are those of the model
that sampled; from hidden states and the LM head, so that logits of a whole batch never exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tampo.inference.transformers_engine import derive_seed, sample_tokens
from tampo.likelihood import virtual_log_probs
from tampo.paper.smollm import SMOLLM_TITLE, load_smollm, smollm_available
from tampo.runs.training_data import model_folder

# Settings by which some families scale their logits; the head below would leave that out.
_SCALED_HEADS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer, which pads on the left, and a title for captions."""

    title: str
    model: PreTrainedModel
    tokenizer: Any


@dataclass(frozen=True)
class Trajectory:
    """One rollout.

    Attributes:
        prompt: Which prompt it answers, counted from 0.
        prompt_ids: Tokens of the prompt.
        tokens: Tokens of the completion, the end of sequence included.
        text: The completion without special tokens.
        truncated: The length limit cut it.
    """

    prompt: int
    prompt_ids: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    truncated: bool


def choose_model(model: str, scale_model: str = "mini") -> str:
    """The model that `model` means: itself, or for "auto" the best that is at hand.

    "auto" is the scale's own model where that is a real one; in place of a shipped mini model it is "smollm" where
    that is installed.
    """
    if model != "auto":
        return model
    shipped = scale_model.startswith("mini") and "/" not in scale_model
    return "smollm" if shipped and smollm_available() else scale_model


def load_language_model(model: str) -> LanguageModel:
    """Load "smollm", a model that is shipped ("mini"), a folder or a Hugging Face id; float32 on a CPU.

    Raises:
        FileNotFoundError: "smollm" is not installed, or a shipped model is not there.
        OSError: transformers finds no such model.
        ValueError: Its family scales its logits in a way that is not known here.
    """
    if model == "smollm":
        network, tokenizer = load_smollm()
        title = SMOLLM_TITLE
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        folder, dtype = model_folder(model), torch.float32 if device == "cpu" else "auto"
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        title = "mini model" if model == "mini" else model
    scaled = [name for name in _SCALED_HEADS if getattr(network.config.get_text_config(), name, None) not in (None, 1)]
    if scaled:
        raise ValueError(f"{model} scales its logits by {scaled[0]}, which trajectories cannot be scored with.")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(title, network, tokenizer)


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
        n: Rollouts a prompt, G.
        temperature: Sampling temperature; the whole vocabulary can be drawn (top-p 1, no top-k, no penalty).
        max_tokens: Tokens a completion may have.
        seed: The same arguments give the same trajectories; torch's own generator is left as it was.
        batch: Rollouts generated at a time.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # like lengths together: less padding
    rows = [(i, sample) for i in order for sample in range(n)]
    found: list[list[Trajectory]] = [[] for _ in prompts]
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        texts = [prompts[i] for i, _ in chosen]
        seeds = [derive_seed(seed, f"{temperature:g}/{sample}/{prompts[i]}") for i, sample in chosen]
        sampled = sample_tokens(model.model, model.tokenizer, texts, temperature, max_tokens, seeds)
        asked = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
        written = model.tokenizer.batch_decode([tokens for tokens, _ in sampled], skip_special_tokens=True)
        for (i, _), ids, (tokens, truncated), text in zip(chosen, asked, sampled, written, strict=True):
            found[i].append(Trajectory(i, tuple(ids), tuple(tokens), text, truncated))
    return [trajectory for group in found for trajectory in group]


@torch.inference_mode()
def token_log_probs(
    model: LanguageModel, trajectories: Sequence[Trajectory], temperatures: Sequence[float], batch: int = 32
) -> list[NDArray[np.float32]]:
    """Log-probability of each token of each rollout at K temperatures: log softmax(z / T_k), Eq. 2, in nats.

    Args:
        model: The policy that sampled.
        trajectories: N rollouts.
        temperatures: The K virtual temperatures.
        batch: Rollouts in one forward pass; the result does not depend on it.

    Returns:
        N arrays of shape (tokens of the rollout, K).
    """
    result: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i].prompt_ids + trajectories[i].tokens))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = _padded([trajectories[i] for i in chosen], model.model.device)
        known = torch.arange(ids.size(1), device=ids.device)  # no padding before a token, so places count from 0
        states = model.model.base_model(input_ids=ids, position_ids=known[None], use_cache=False).last_hidden_state
        head: Any = model.model.get_output_embeddings()
        softcap = getattr(model.model.config.get_text_config(), "final_logit_softcapping", None)
        scored = virtual_log_probs(
            states[:, :-1], head.weight, ids[:, 1:], mask[:, 1:], list(temperatures), bias=head.bias, softcap=softcap
        )  # (b, S - 1, K)
        for i, row, keep in zip(chosen, scored, mask[:, 1:].bool(), strict=True):
            result[i] = row[keep].float().cpu().numpy()
    return [result[i] for i in range(len(trajectories))]


def likelihood_curves(
    model: LanguageModel, trajectories: Sequence[Trajectory], correct: Sequence[bool], temperatures: Sequence[float]
) -> pd.DataFrame:
    """Likelihood of each rollout against temperature.

    Args:
        model: The policy that sampled.
        trajectories: N rollouts.
        correct: Whether each was right, shape (N,).
        temperatures: The K virtual temperatures.

    Returns:
        N * K rows: rollout (from 1), tokens, correct, temperature, log_likelihood (sum over tokens in nats, Eq. 8),
        mean_log_likelihood (nats a token, Eq. 6).
    """
    scored = token_log_probs(model, trajectories, temperatures)
    parts = []
    for number, (log_probs, right) in enumerate(zip(scored, correct, strict=True), start=1):
        total = log_probs.sum(axis=0, dtype=np.float64)  # (K,)
        parts.append(
            pd.DataFrame(
                {
                    "rollout": number,
                    "tokens": len(log_probs),
                    "correct": bool(right),
                    "temperature": list(temperatures),
                    "log_likelihood": total,
                    "mean_log_likelihood": total / len(log_probs),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _padded(trajectories: Sequence[Trajectory], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompt and completion in rows of one length, padded on the right, where a causal model does not look.

    Returns:
        Token ids and 1 where a token belongs to a completion, both (b, S).
    """
    length = max(len(t.prompt_ids) + len(t.tokens) for t in trajectories)
    ids = torch.zeros(len(trajectories), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, trajectory in enumerate(trajectories):
        start, end = len(trajectory.prompt_ids), len(trajectory.prompt_ids) + len(trajectory.tokens)
        ids[row, :end] = torch.tensor(trajectory.prompt_ids + trajectory.tokens)
        mask[row, start:end] = 1
    return ids.to(device), mask.to(device)
