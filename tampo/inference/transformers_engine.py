"""The engine for transformers models."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tampo.decoding import decoding_rules
from tampo.inference.engine import Completion, derive_seed
from tampo.inference.sampling import sample_completions


class TransformersEngine:
    """`tampo.inference.sampling` over batches of prompts of similar length.

    The random numbers of a sample depend on the seed, its prompt and its index only. (The batch can still change the
    last bits of the logits, and so, once in millions of tokens, a token.)

    Args:
        model: A folder or a Hugging Face id.
        batch: Completions per batch.
        device: By default a GPU if there is one.
        dtype: Precision of weights and passes, such as "bfloat16"; by default that of the checkpoint, and float32 on
            a CPU.

    Raises:
        ValueError: No token ends a completion (`tampo.decoding.decoding_rules`).
    """

    seeded_by = "sample"
    engine_limit: tuple[int, str] | None = None

    def __init__(self, model: str, batch: int = 512, device: str | None = None, dtype: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        dtype = dtype or ("float32" if device == "cpu" else "auto")  # half precision is slow and coarse on a CPU
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
