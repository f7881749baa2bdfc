"""How every completion is sampled: where it ends, and from which distribution. Training and evaluation agree on both.

A completion ends where TRL's rollouts end: at an end token of the model's generation_config or of its tokenizer. They
need not be the same tokens, and one of the two may have none.

Tokens are drawn from softmax(logits / temperature) (Eq. 2), because the loss and every score assume it. What a model's
generation_config says beside (top_p, top_k, min_p, repetition_penalty, suppress_tokens, ...) is advice for its users;
`plain_generation` keeps it out of transformers' `generate`, which takes it for each setting that a call leaves open.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tampo.extras import extra

with extra("trl"):
    from transformers import AutoConfig, GenerationConfig

# What `plain_generation` keeps of a model's generation_config: special tokens, and what changes the speed only.
_KEPT = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"}
_KEPT |= {"use_cache", "cache_implementation", "cache_config"}
# What TRL always sets itself, or what is no setting.
_WITHOUT_EFFECT = {"do_sample", "temperature", "max_length", "max_new_tokens", "transformers_version"} | _KEPT
_NEUTRAL_AT_ONE = {"num_beams", "num_return_sequences", "typical_p", "length_penalty", "encoder_repetition_penalty"}


class NonFiniteLogits(FloatingPointError):
    """A model's logits are NaN or infinite: there is no distribution to sample from.

    Attributes:
        rows: Indices of the prompts that they belong to, within the call.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


@dataclass(frozen=True)
class DecodingRules:
    """Tokens of a model with a meaning for sampling.

    Attributes:
        ends: Each of these tokens ends a completion, which includes it; at least one.
        pad: Fills up rows of a batch; may be one of `ends`.
    """

    ends: tuple[int, ...]
    pad: int

    def truncated(self, tokens: Sequence[int]) -> bool:
        """Whether the length limit ended a completion: its last token is neither an end token nor, as in TRL, `pad`."""
        return not tokens or tokens[-1] not in (*self.ends, self.pad)


def decoding_rules(model: Any, tokenizer: Any) -> DecodingRules:
    """The rules of a model with its tokenizer.

    End tokens are the tokenizer's and those of the model's generation_config; if neither has one, those of its config.
    Ids outside the vocabulary are left out, because the model never samples them. Without a padding token, the first
    end token is used.

    Args:
        model: A transformers model, or a folder or Hugging Face id, of which only the configs are read.
        tokenizer: Its tokenizer.

    Raises:
        ValueError: No token ends a completion: every one would run to the length limit.
    """
    model = _configs(model) if isinstance(model, (str, Path)) else model
    config, generation = model.config, getattr(model, "generation_config", None)
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)

    def known(ids: Any) -> list[int]:
        return [token for token in token_ids(ids) if token >= 0 and (vocabulary is None or token < vocabulary)]

    first = getattr(tokenizer, "eos_token_id", None)
    ends = known(first) + known(getattr(generation, "eos_token_id", None))
    ends = list(dict.fromkeys(ends or known(getattr(config.get_text_config(), "eos_token_id", None))))
    if not ends:
        raise ValueError(
            f"{config.name_or_path or 'The model'} has no end token: neither its tokenizer (eos_token_id {first}) nor "
            f"its generation_config (eos_token_id {getattr(generation, 'eos_token_id', None)}) names one of its "
            f"vocabulary of {vocabulary} tokens, so no completion would end. Set eos_token_id in the model's "
            "generation_config.json, or eos_token of its tokenizer."
        )
    return DecodingRules(tuple(ends), (known(getattr(tokenizer, "pad_token_id", None)) or ends)[0])


def token_ids(ids: Any) -> list[int]:
    """Token ids given as None, an id, a sequence of ids or a tensor, as a list without None."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    ids = [ids] if ids is None or isinstance(ids, int) else ids
    return [int(token) for token in ids if token is not None]


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Inside, `model.generate` does what its arguments say and takes nothing but special tokens from the model.

    Settings given to `generate` stay in force. The model has its own generation_config again afterwards, and is saved
    with it.
    """
    original = model.generation_config
    kept = {name: getattr(original, name) for name in _KEPT if getattr(original, name, None) is not None}
    model.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        model.generation_config = original


def unused_settings(model: Any, settings: GenerationConfig) -> list[str]:
    """What `generate(generation_config=settings)` would take from the model's generation_config, were it not plain."""

    def changes_samples(name: str, value: Any) -> bool:
        if name[0] == "_" or name in _WITHOUT_EFFECT or (value == 1 and name in _NEUTRAL_AT_ONE):
            return False
        return value not in (None, False, []) or (name.endswith("token_id") and value == 0 and value is not False)

    found = model.generation_config.to_dict() if model.generation_config is not None else {}
    return sorted(
        name for name, value in found.items() if changes_samples(name, value) and getattr(settings, name, None) is None
    )


def _configs(model: str | Path) -> Any:
    """The configs of a model's folder or Hugging Face id, as a loaded model would have them."""
    config = AutoConfig.from_pretrained(model)
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # it has no such file
        generation = GenerationConfig.from_model_config(config)
    return SimpleNamespace(config=config, generation_config=generation)
