"""What decides the content of a record, and so its name: parameters, weights, data, and the number of processes.

Paths and addresses decide nothing. A local model is known by its files and a model on the hub by its commit, so that
other weights at the same path are another record, and the same weights at another path are not.
"""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, EvaluationConfig, TrainingConfig
from tampo.inference.evaluate import chosen_benchmarks
from tampo.runs.devices import unusual_device
from tampo.runs.hashes import remembered_sha256
from tampo.runs.training_data import local_model, model_commit
from tampo.tasks.hub import hub_commit
from tampo.tasks.mini_assets import RECIPES
from tampo.tasks.suites import Suite, get_suite

# What is no part of a model, though it lies in its folder: documentation, and the state of a training run.
_NO_FILES = (
    ".*", "*.md", "LICENSE*", "NOTICE*", "*.png", "*.jpg", "*.pdf", "*.lock", "build.json", "training_args.bin",
    "trainer_state.json", "*_results.json", "optimizer*", "scheduler*", "scaler.pt", "rng_state*", "events.out.*",
)  # fmt: skip
_NO_FOLDERS = (".*", "checkpoint-*", "global_step*", "runs", "onnx", "original", "completions", "__pycache__")


def training_identity(config: TrainingConfig) -> dict[str, Any]:
    """What decides a training run: its parameters, the content of model and data, and the number of processes.

    Raises:
        ConfigError: The model cannot be found, or its folder holds none.
        DataError: A data set cannot be found.
    """
    suite = get_suite(config.suite, config.grader, config.data_dir)
    benchmarks = suite.benchmarks if config.drop_overlaps else ()  # they decide which problems are left out
    data = suite.content(True, benchmarks, config.data_dir, config.data_revisions)
    model = model_identity(config.model, config.model_revision)
    device = unusual_device(config.device, config.model, config.rollout_engine)
    return config.identity() | device | model | _grader(suite) | {"data": data}


def evaluation_identity(config: EvaluationConfig, model: str, training: TrainingConfig | None) -> dict[str, Any]:
    """What decides an evaluation: its parameters, the content of the data, and the model or the run that trained it.

    Raises:
        ConfigError: An unknown benchmark, or a model that cannot be found.
        DataError: A data set cannot be found.
    """
    suite = get_suite(config.suite, config.grader, config.data_dir)
    data = suite.content(False, chosen_benchmarks(config), config.data_dir, config.data_revisions)
    device = unusual_device(config.device, training.model if training else model, config.eval_engine)
    identity = config.identity() | device | _grader(suite) | {"data": data}
    if training is None:
        return identity | model_identity(model, config.model_revision)
    return identity | {"training": training_identity(training)}


def _grader(suite: Suite) -> dict[str, str]:
    return {"grader": suite.grader} if suite.grader else {}


def model_identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """The model's name, None for a local folder, and what its content is known by: a hash, or the commit on the hub.

    Args:
        model: As in a config: one that is shipped, a folder, or a Hugging Face id.
        revision: Commit, branch or tag of a model on the hub; None: its newest commit.

    Raises:
        ConfigError: A folder without a model, a file that cannot be read, or a commit that cannot be found out.
    """
    path = local_model(model)
    if path is None:
        return {"model": model, "model_content": f"commit {model_commit(model, revision)}"}
    return {"model": model if model in RECIPES else None, "model_content": folder_content(path)}


def folder_content(path: Path) -> str:
    """A SHA-256 over all files that transformers, peft or vLLM may load from a model's folder.

    An adapter's folder names its base model in adapter_config.json: it counts too.

    Raises:
        ConfigError: The folder holds no model, a file cannot be read, or the base model cannot be found.
    """
    try:
        known: dict[str, Any] = {"files": {name: remembered_sha256(file) for name, file in model_files(path)}}
        if not _holds_a_model(known["files"]):
            raise ConfigError(
                f"There is no model in the folder {path}: it has neither config.json nor adapter_config.json. Give "
                "`model` the folder that save_pretrained wrote."
            )
        if "adapter_config.json" in known["files"] and "config.json" not in known["files"]:
            known["base"] = _base_content(path / "adapter_config.json")
    except OSError as error:
        raise ConfigError(f"Cannot read {error.filename} of the model {path}: {error.strerror}.") from error
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _holds_a_model(names: Iterable[str]) -> bool:
    return any(name in ("config.json", "adapter_config.json") or name.endswith(".gguf") for name in names)


def _base_content(adapter: Path) -> Any:
    """What the base model of an adapter is known by.

    transformers reads its name as a folder or as an id on the hub, and there it loads the newest commit.
    """
    try:
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{adapter} names no base_model_name_or_path ({error!r}): restore the file.") from error
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{adapter} has base_model_name_or_path {base!r}: give it a folder or a Hugging Face id.")
    if Path(base).exists():
        return {name: remembered_sha256(file) for name, file in model_files(Path(base))}
    try:
        return f"commit {hub_commit(base, 'model')}"
    except LookupError as error:
        raise ConfigError(
            f"{adapter}: the base model {base!r} is no folder, and {error}. Check the network, or give "
            "base_model_name_or_path a folder."
        ) from None


def model_files(path: Path) -> Iterator[tuple[str, Path]]:
    """The files of a model by their path in its folder, sorted; a model may also be one file.

    Raises:
        OSError: A folder cannot be read.
    """
    if path.is_file():
        yield f"model{path.suffix}", path  # its name decides nothing
        return

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(path, followlinks=True, onerror=fail):
        here = Path(folder).resolve()
        # A link to a folder that it lies in would be followed without end.
        folders[:] = sorted(
            name
            for name in folders
            if not _matches(name, _NO_FOLDERS) and not here.is_relative_to((here / name).resolve())
        )
        for name in sorted(names):
            if not _matches(name, _NO_FILES):
                file = Path(folder, name)
                yield file.relative_to(path).as_posix(), file


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
