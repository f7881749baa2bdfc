"""Commits of models and data sets on the Hugging Face hub, and a model's files: a branch moves, a commit does not."""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

COMMIT = re.compile("[0-9a-f]{40}")

# What transformers and vLLM load. Folders hold the same weights for other programs, or states of training runs.
_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_PICKLED_WEIGHTS = ["pytorch_model*.bin"]
_OTHER_FOLDERS = ["onnx/*", "original/*", "checkpoint-*/*", "runs/*"]


@cache
def hub_commit(repository: str, kind: Literal["model", "dataset"], revision: str | None = None) -> str:
    """The commit of a repository: the one given, or what the hub says, or what the local cache has.

    Args:
        repository: Id on the hub, such as "HuggingFaceH4/MATH-500".
        kind: What it holds.
        revision: Commit, branch or tag; None: the newest commit.

    The answer is kept, so that one process uses one commit; a failure is not, and the next call asks again.

    Raises:
        LookupError: The hub cannot be reached, or does not know it, and the cache does not have it.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub

    reason: Exception | str = "HF_HUB_OFFLINE is set"
    if not huggingface_hub.is_offline_mode():
        try:
            info = huggingface_hub.HfApi().repo_info(
                repository,
                repo_type=kind,
                revision=revision,
                # By default it waits for ever where a firewall drops packets.
                timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT,
            )
            if info.sha:
                return info.sha
            reason = "the hub gives none"
        except Exception as error:  # errors of huggingface_hub, httpx and the OS have no common class
            reason = error
    folder = f"{kind}s--{repository.replace('/', '--')}"
    try:
        text = Path(huggingface_hub.constants.HF_HUB_CACHE, folder, "refs", revision or "main").read_text().strip()
    except (OSError, ValueError):
        text = ""
    if not COMMIT.fullmatch(text):
        raise LookupError(f"the commit of {repository}, {revision or 'main'}, cannot be found out ({reason})")
    return text


def hub_snapshot(repository: str, commit: str) -> Path:
    """The local folder with a model's files at a commit, downloaded unless the cache has them.

    Every process of a training run may call it: the hub's library locks each file.

    Raises:
        LookupError: The hub cannot be reached, or does not know the commit, and the cache does not have it; or it has
            no weights.
    """
    try:
        folder = _snapshot(repository, commit, _MODEL_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = _snapshot(repository, commit, _PICKLED_WEIGHTS)
    except Exception as error:  # errors of huggingface_hub, httpx and the OS have no common class
        raise LookupError(f"commit {commit} of {repository} cannot be loaded ({error})") from error
    if not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", *_PICKLED_WEIGHTS)):
        raise LookupError(f"commit {commit} of {repository} has no weights, *.safetensors or pytorch_model*.bin")
    return folder


def _snapshot(repository: str, commit: str, patterns: list[str]) -> Path:
    import huggingface_hub

    options: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": _OTHER_FOLDERS}
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=commit, **options))
    except Exception:
        # Some versions ask the hub for its list of files even where the cache has the commit.
        with suppress(Exception):
            return Path(
                huggingface_hub.snapshot_download(repository, revision=commit, local_files_only=True, **options)
            )
        raise
