"""Engines that sample completions from a model, behind one call."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tampo.inference.sampling import sample_completions

DEFAULT_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Completion:
    """One sampled completion: its text without special tokens, its tokens, and whether the length limit cut it."""

    text: str
    tokens: int
    truncated: bool


def derive_seed(seed: int, part: int | str) -> int:
    """A seed for one part of a sampling (a benchmark, batch or prompt), far from those of other parts."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:7], "big")


class Engine(Protocol):
    """Samples from one model. Prompts are whole texts: no special token is added to them.

    Attributes:
        tokenizer: The model's.
        seeded_by: What has random numbers of its own, whatever it is sampled with: "sample" or "prompt".
    """

    tokenizer: Any
    seeded_by: str

    def generate(
        self, prompts: list[str], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """`samples` completions for each prompt, in order. The same arguments give the same completions."""


class TransformersEngine:
    """`tampo.inference.sampling` over batches of prompts of like length.

    The random numbers of a sample follow from the seed, its prompt and its number, whatever else is sampled. (Which
    prompts share a batch can still change the last bits of the logits, and so, once in millions of tokens, a token.)

    Args:
        model: A folder or a Hugging Face id.
        batch: Completions generated at a time.
        device: Where to run; by default a GPU where there is one.
    """

    seeded_by = "sample"

    def __init__(self, model: str, batch: int = 512, device: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        dtype = torch.float32 if device == "cpu" else "auto"  # half precision is slow and coarse on a CPU
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map=device).eval()
        self._batch = batch

    @torch.inference_mode()
    def generate(
        self, prompts: list[str], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # like lengths together: less padding
        rows = [(i, sample) for i in order for sample in range(samples)]
        result: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(rows), self._batch):
            chosen = rows[start : start + self._batch]
            texts = [prompts[i] for i, _ in chosen]
            seeds = [derive_seed(seed, f"{sample}/{prompts[i]}") for i, sample in chosen]
            sampled = sample_tokens(self.model, self.tokenizer, texts, temperature, max_tokens, seeds)
            written = self.tokenizer.batch_decode([tokens for tokens, _ in sampled], skip_special_tokens=True)
            for (i, _), text, (tokens, truncated) in zip(chosen, written, sampled, strict=True):
                result[i].append(Completion(text, len(tokens), truncated))
        return result


@torch.inference_mode()
def sample_tokens(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: list[str],
    temperature: float,
    max_tokens: int,
    seeds: Sequence[int],
) -> list[tuple[list[int], bool]]:
    """The tokens of one completion for each prompt, all sampled in one batch (Eq. 2).

    Args:
        model: The policy.
        tokenizer: Its tokenizer.
        prompts: Whole texts: no special token is added.
        temperature: Sampling temperature; nothing else (top-p, top-k, penalties) shapes the distribution.
        max_tokens: Tokens a completion may have.
        seeds: Seed of each completion; torch's own generator is left as it was.

    Returns:
        For each prompt its token ids, the end of sequence included, and whether the length limit cut it.
    """
    ends = model.generation_config.eos_token_id  # type: ignore[union-attr]  # whatever the model counts as an end
    ends = ends if isinstance(ends, list) else [ends]
    uniforms = [torch.rand(max_tokens, dtype=torch.double, generator=_generator(seed)) for seed in seeds]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    sampled = sample_completions(model, ids, temperature, max_tokens, ends, torch.stack(uniforms))
    return [(tokens, tokens[-1] not in ends) for tokens in sampled]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
