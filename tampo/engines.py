"""Engines that sample completions from a model, behind one call."""

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

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
    """Samples from one model. Prompts are whole texts: no special token is added to them."""

    tokenizer: Any

    def generate(
        self, prompts: list[str], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """`samples` completions for each prompt, in order. The same arguments give the same completions."""


class TransformersEngine:
    """`model.generate` over batches of prompts of like length.

    Samples come from torch's generator, seeded for each batch: they depend on `seed` and on which prompts share a
    batch, so `batch` belongs to what an evaluation is known by.

    Args:
        model: A folder or a Hugging Face id.
        batch: Completions generated at a time.
        device: Where to run; by default a GPU where there is one.
    """

    def __init__(self, model: str, batch: int = 512, device: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        dtype = torch.float32 if device == "cpu" else "auto"  # half precision is slow and coarse on a CPU
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map=device).eval()
        self._batch = batch

    @torch.inference_mode()
    def generate(
        self, prompts: list[str], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # like lengths together: less padding
        rows = [i for i in order for _ in range(samples)]
        result: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(rows), self._batch):
            chosen = rows[start : start + self._batch]
            completions = self._generate_batch(
                [prompts[i] for i in chosen], temperature, max_tokens, derive_seed(seed, start)
            )
            for i, completion in zip(chosen, completions, strict=True):
                result[i].append(completion)
        return result

    def _generate_batch(self, prompts: list[str], temperature: float, max_tokens: int, seed: int) -> list[Completion]:
        sampled = sample_tokens(self._model, self.tokenizer, prompts, temperature, max_tokens, seed)
        texts = self.tokenizer.batch_decode([tokens for tokens, _ in sampled], skip_special_tokens=True)
        return [
            Completion(text, len(tokens), truncated) for text, (tokens, truncated) in zip(texts, sampled, strict=True)
        ]


@torch.inference_mode()
def sample_tokens(
    model: PreTrainedModel, tokenizer: Any, prompts: list[str], temperature: float, max_tokens: int, seed: int
) -> list[tuple[list[int], bool]]:
    """The tokens of one completion for each prompt, all sampled in one batch by `model.generate` (Eq. 2).

    Args:
        model: The policy.
        tokenizer: Its tokenizer, padding on the left.
        prompts: Whole texts: no special token is added.
        temperature: Sampling temperature; nothing else (top-p, top-k, penalties) shapes the distribution.
        max_tokens: Tokens a completion may have.
        seed: Seed of torch's generator, whose state is left as it was.

    Returns:
        For each prompt its token ids, the end of sequence included, and whether the length limit cut it.
    """
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(  # type: ignore[operator]  # transformers' mixin is not typed
            **inputs,
            do_sample=True,
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,  # some models' generation_config.json sets another
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    ids = output[:, inputs.input_ids.shape[1] :]  # (b, C)
    # Whatever the model counts as an end, at its first place; the pad token may be one of them.
    ends = model.generation_config.eos_token_id  # type: ignore[union-attr]
    ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=ids.device)
    ended = torch.isin(ids, ends)  # (b, C)
    lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, ids.shape[1])  # (b,)
    return [
        (row[:length].tolist(), not bool(done))
        for row, length, done in zip(ids, lengths, ended.any(dim=1), strict=True)
    ]
