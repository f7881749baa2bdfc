"""The context length of a model, and which prompts and completions fit into it."""

import warnings
from typing import Any


class UnsuitableModel(ValueError):
    """A model cannot do what is asked of it; the message names what, and the way out."""


# In order: the first that a config has counts. GPT-2 and others name theirs by `attribute_map`.
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "context_length", "n_ctx")


def context_limit(config: Any) -> tuple[int, str] | None:
    """The context length in tokens and its name in the model's config; None where the config states none.

    Args:
        config: A transformers config; of a multimodal model, its text part counts.
    """
    text = config.get_text_config()
    for name in _LIMITS:
        limit = getattr(text, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit, getattr(text, "attribute_map", {}).get(name, name)
    return None


def has_rotary_positions(config: Any) -> bool:
    """Whether positions are computed for any length; else there is a table with one row per position."""
    return any(name.startswith("rope_") for name in vars(config.get_text_config()))


def check_context(
    config: Any,
    prompt_tokens: int,
    completion_tokens: int,
    completion_name: str,
    prompt_name: str | None = None,
    engine_limit: tuple[int, str] | None = None,
    warn: bool = True,
) -> None:
    """Check that the longest prompt and the longest completion fit into the context of a model.

    Args:
        config: The model's config; None where only the engine's limit is known.
        prompt_tokens: Tokens of the longest prompt.
        completion_tokens: Maximum tokens of a completion.
        completion_name: The parameter that sets them.
        prompt_name: The parameter that leaves out long prompts, if there is one.
        engine_limit: Limit of the engine in tokens, and its name; it is exact for every kind of model.
        warn: Whether to warn where a model with rotary positions is taken beyond its context.

    Raises:
        UnsuitableModel: They do not fit. Rotary positions exist for every length, so there it is a UserWarning.
    """
    needed = prompt_tokens + completion_tokens
    stated = None if config is None else context_limit(config)
    for found, computed in ((engine_limit, False), (stated, stated is not None and has_rotary_positions(config))):
        if found is None or needed <= found[0]:
            continue
        limit, name = found
        room = limit - prompt_tokens
        longest = f"The longest prompt has {prompt_tokens} tokens and {completion_name} is {completion_tokens}"
        shorter = f"leave out long prompts{f' ({prompt_name})' if prompt_name else ''}"
        ways = [f"lower {completion_name} to {room} or less"] if room > 0 else []
        message = (
            f"{longest}: together {needed} tokens, more than the context of {limit} tokens ({name}). "
            f"To fit, {', or '.join([*ways, shorter])}, or choose a model with a longer context."
        )
        if not computed:
            raise UnsuitableModel(message)
        if warn:
            warnings.warn(f"{message} The model was not trained for longer texts.", UserWarning, stacklevel=3)
