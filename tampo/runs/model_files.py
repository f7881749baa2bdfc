"""What a model's folder must hold, checked before a library stumbles over it."""

import json
from collections.abc import Mapping
from pathlib import Path

from tampo.config import ConfigError

_TOKENIZER = ("tokenizer*", "vocab*", "*.model", "merges.txt")  # all that transformers' tokenizers read

# Sizes in config.json that every model here has.
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


def wrong_size(config: Mapping[str, object]) -> str | None:
    """What is wrong with a size in a config.json, if anything: a model cannot be built from it."""
    for name in _SIZES:
        value = config.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            return f"{name} in config.json must be a whole number above 0, not {str(value)[:40]!r}"
    return None


def checked_model(path: str, name: str) -> str:
    """`path`, the folder of a model in Hugging Face's form, if a model can be loaded from it.

    An adapter's folder is not checked, because its base model is elsewhere.

    Args:
        path: The folder.
        name: The model as the user gave it.

    Raises:
        ConfigError: A file is missing or damaged; the message names it.
    """
    folder = Path(path)
    if (folder / "adapter_config.json").is_file():
        return path

    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"model {name!r} cannot be loaded: {reason}. Save it again, or give another model.")

    config = _read(folder / "config.json")
    if not isinstance(config, dict):
        raise refuse("config.json is missing" if not (folder / "config.json").is_file() else "config.json is damaged")
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(config.get("model_type"), str):
        raise refuse("config.json must have model_type and architectures, such as [Qwen2ForCausalLM]")
    if wrong := wrong_size(config):
        raise refuse(wrong)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not any(folder.glob("*.bin")):
        raise refuse("there is no file of weights, such as model.safetensors")
    for file in weights:
        if not _is_whole(file):
            raise refuse(f"{file.name} is damaged")
    if not any(file for pattern in _TOKENIZER for file in folder.glob(pattern)):
        raise refuse("there is no tokenizer, such as tokenizer.json")
    for file in folder.glob("tokenizer*.json"):
        if not isinstance(_read(file), dict):
            raise refuse(f"{file.name} is damaged")
    return path


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _is_whole(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False
