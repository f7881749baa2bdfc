"""The interface of engines, which sample completions from a model, and the engine for transformers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tampo.decoding import decoding_rules
from tampo.inference.sampling import sample_completions

DEFAULT_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Completion:
    """One completion: its text without special tokens, its number of tokens, and whether the limit truncated it."""

    text: str
    tokens: int
    truncated: bool


def derive_seed(seed: int, part: int | str) -> int:
    """A seed for one part of the sampling (a benchmark, batch or prompt), different for each part."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:7], "big")


class Engine(Protocol):
    """Samples from one model. Prompts are complete texts: no special token is added.

    Attributes:
        tokenizer: The model's tokenizer.
        seeded_by: What has its own random numbers, independent of the batch: "sample" or "prompt".
        config: The config of the model that sets its context length, or None.
        engine_limit: The engine's own limit of prompt and completion in tokens, and its name, or None.
    """

    tokenizer: Any
    seeded_by: str
    config: Any
    engine_limit: tuple[int, str] | None

    def generate(
        self,
        prompts: list[str],
        samples: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """`samples` completions per prompt, in order. The same arguments give the same completions.

        Args:
            indices: Number of each prompt in a larger list of which these are a part, by default 0, 1, ...; with it
                the completions are those that the prompt has there. Engines that seed by prompt need it.
        """

    def close(self) -> None:
        """Free memory and stop processes; the engine cannot be used afterwards."""


class TransformersEngine:
    """`tampo.inference.sampling` over batches of prompts of similar length.

    The random numbers of a sample depend on the seed, its prompt and its index only. (The batch can still change the
    last bits of the logits, and so, once in millions of tokens, a token.)

    Args:
        model: A folder or a Hugging Face id.
        batch: Completions per batch.
        device: By default a GPU if there is one.

    Raises:
        ValueError: No token ends a completion (`tampo.decoding.decoding_rules`).
    """

    seeded_by = "sample"
    engine_limit: tuple[int, str] | None = None

    def __init__(self, model: str, batch: int = 512, device: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        dtype = torch.float32 if device == "cpu" else "auto"  # half precision is slow and coarse on a CPU
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map=device).eval()
        decoding_rules(self.model, self.tokenizer)  # raises
        self.config = self.model.config
        self._batch = batch

    def generate(
        self,
        prompts: list[str],
        samples: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # less padding
        rows = [(i, sample) for i in order for sample in range(samples)]
        result: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(rows), self._batch):
            chosen = rows[start : start + self._batch]
            texts = [prompts[i] for i, _ in chosen]
            seeds = [derive_seed(seed, f"{sample}/{prompts[i]}") for i, sample in chosen]
            sampled = sample_tokens(self.model, self.tokenizer, texts, temperature, max_tokens, seeds)
            decoded = self.tokenizer.batch_decode([tokens for tokens, _ in sampled], skip_special_tokens=True)
            for (i, _), text, (tokens, truncated) in zip(chosen, decoded, sampled, strict=True):
                result[i].append(Completion(text, len(tokens), truncated))
        return result

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.inference_mode()
def sample_tokens(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: list[str],
    temperature: float,
    max_tokens: int,
    seeds: Sequence[int],
) -> list[tuple[list[int], bool]]:
    """One completion per prompt, all in one batch (`sample_completions`), each with its own seed.

    Prompts are complete texts: no special token is added. torch's global generator is not used. Completions end at
    the `decoding_rules` of the model and its tokenizer.

    Returns:
        For each prompt its token ids, with the end token, and whether the limit truncated it.

    Raises:
        ValueError: No token ends a completion.
    """
    rules = decoding_rules(model, tokenizer)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    uniforms = [torch.rand(max_tokens, dtype=torch.double, generator=generator) for generator in generators]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    sampled = sample_completions(model, ids, temperature, max_tokens, rules.ends, torch.stack(uniforms))
    return [(tokens, rules.truncated(tokens)) for tokens in sampled]
