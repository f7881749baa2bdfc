"""What decides the content of a record, and so its name: parameters, weights, data, and the number of processes.

Paths and addresses decide nothing. A local model is known by its files and a model on the hub by its commit, so that
other weights at the same path are another record, and the same weights at another path are not.
"""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, EvaluationConfig, TrainingConfig
from tampo.runs.hashes import remembered_sha256
from tampo.runs.training_data import model_folder
from tampo.tasks.hub import hub_commit
from tampo.tasks.suites import get_suite

# What is no part of a model, though it lies in its folder: documentation, and the state of a training run.
_NO_FILES = (
    ".*", "*.md", "LICENSE*", "NOTICE*", "*.png", "*.jpg", "*.pdf", "*.lock", "build.json", "training_args.bin",
    "trainer_state.json", "*_results.json", "optimizer*", "scheduler*", "scaler.pt", "rng_state*", "events.out.*",
)  # fmt: skip
_NO_FOLDERS = (".*", "checkpoint-*", "global_step*", "runs", "onnx", "original", "completions", "__pycache__")


def training_identity(config: TrainingConfig) -> dict[str, Any]:
    """What decides a training run: its parameters, the content of model and data, and the number of processes."""
    data = get_suite(config.suite).content(True, config.data_dir, config.data_revisions)
    return config.identity() | model_identity(config.model, config.model_revision) | {"data": data}


def evaluation_identity(config: EvaluationConfig, model: str, training: TrainingConfig | None) -> dict[str, Any]:
    """What decides an evaluation: its parameters, the content of the data, and the model or the run that trained it."""
    data = get_suite(config.suite).content(False, config.data_dir, config.data_revisions)
    identity = config.identity() | {"data": data}
    if training is None:
        return identity | model_identity(model, config.model_revision)
    return identity | {"training": training_identity(training)}


def model_identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """The model's name, None for a local folder, and what its content is known by: a hash, or the commit on the hub.

    Args:
        model: As in a config: one that is shipped, a folder, or a Hugging Face id.
        revision: Commit, branch or tag of a model on the hub; None: its newest commit.

    Raises:
        ConfigError: A folder that is empty, or a model whose commit cannot be found out.
    """
    path = Path(model_folder(model)).expanduser()
    if path.exists():
        return {"model": model if str(path) != model else None, "model_content": folder_content(path)}
    try:
        return {"model": model, "model_content": f"commit {hub_commit(model, 'model', revision)}"}
    except LookupError as error:
        raise ConfigError(
            f"model {model}: no such folder, and {error}. Check the name and the network, or give model_revision a "
            "commit."
        ) from None


def folder_content(path: Path) -> str:
    """A SHA-256 over all files that transformers, peft or vLLM may load from a model's folder.

    An adapter's folder names its base model in adapter_config.json: it counts too.
    """
    files = {name: remembered_sha256(file) for name, file in model_files(path)}
    if not files:
        raise ConfigError(f"There is no model in the folder {path}: it has no weights and no configuration.")
    known: dict[str, Any] = {"files": files}
    if (adapter := path / "adapter_config.json").is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        base, revision = str(settings.get("base_model_name_or_path")), settings.get("revision")
        known["base"] = model_identity(base, revision)["model_content"]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def model_files(path: Path) -> Iterator[tuple[str, Path]]:
    """The files of a model by their path in its folder, sorted; a model may also be one file."""
    if path.is_file():
        yield path.name, path
        return
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if not _matches(name, _NO_FOLDERS))
        for name in sorted(names):
            if not _matches(name, _NO_FILES):
                file = Path(folder, name)
                yield file.relative_to(path).as_posix(), file


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
