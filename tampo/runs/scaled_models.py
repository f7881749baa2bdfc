"""Base models with flatter or sharper logits: a copy of the model whose final norm is scaled.

A factor of its logits moves the temperature that suits a model, and nothing else: at T it samples as the original does
at T / factor. So an experiment can ask whether a rule finds another temperature where another one is right.
"""

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from tampo.config import ConfigError
from tampo.project import cache_folder
from tampo.runs.identity import folder_content
from tampo.runs.model_files import checked_model
from tampo.runs.training_data import model_folder


def scaled_model(folder: str, scale: float) -> str:
    """The folder of a model whose logits are those of the model in `folder`, times `scale`.

    It is made once, in the user's cache, which may be deleted at any time.

    Raises:
        ConfigError: The model has no final norm that its LM head follows directly, so that a factor there is one of its
            logits.
    """
    if scale == 1:
        return folder
    cache = cache_folder() or Path(tempfile.gettempdir(), "tampo")
    target = cache / "models" / f"{folder_content(Path(folder))[:16]}-logits-{scale:g}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                _write(Path(folder), scale, Path(temporary, "model"))
                Path(temporary, "model").rename(target)
    return str(target)


def base_model(model: str, revision: str | None, scale: float) -> str:
    """The folder to load a base model from: found, checked, and with its logits times `scale`.

    Args:
        model: The model as a config names it.
        revision: Commit, branch or tag of a model on the hub.
        scale: Factor of the logits (`base_logit_scale`).

    Raises:
        ConfigError: As `model_folder`, `checked_model` and `scaled_model`.
    """
    return scaled_model(checked_model(model_folder(model, revision), model), scale)


def _write(folder: Path, scale: float, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    norm = getattr(model.base_model, "norm", None)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        if norm is None or getattr(norm, "weight", None) is None:
            raise ConfigError(_refused(folder, scale, "has no final norm with weights"))
        norm.weight.mul_(scale)
        if getattr(norm, "bias", None) is not None:
            norm.bias.mul_(scale)
        after = model(input_ids=ids).logits
    if not torch.allclose(after, before * scale, rtol=1e-3, atol=1e-4):  # a soft-cap, another kind of norm
        raise ConfigError(_refused(folder, scale, "does more to its logits than a product with its final norm"))
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "build.json"))
    model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)


def _refused(folder: Path, scale: float, why: str) -> str:
    return f"base_logit_scale {scale:g}: the model in {folder} {why}. Give base_logit_scale 1, or another model."
