"""Commits of models and data sets on the Hugging Face hub: a branch moves, a commit does not."""

import re
from functools import cache
from pathlib import Path
from typing import Literal

COMMIT = re.compile("[0-9a-f]{40}")


@cache
def hub_commit(repository: str, kind: Literal["model", "dataset"], revision: str | None = None) -> str:
    """The commit of a repository: the one given, or what the hub says, or what the local cache has.

    Args:
        repository: Id on the hub, such as "HuggingFaceH4/MATH-500".
        kind: What it holds.
        revision: Commit, branch or tag; None: the newest commit.

    Raises:
        LookupError: The hub cannot be reached, or does not know it, and the cache does not have it.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub

    reason: Exception | str = "HF_HUB_OFFLINE is set"
    if not huggingface_hub.is_offline_mode():
        try:
            if commit := huggingface_hub.HfApi().repo_info(repository, repo_type=kind, revision=revision).sha:
                return commit
        except Exception as error:  # errors of huggingface_hub, httpx and the OS have no common class
            reason = error
    folder = f"{kind}s--{repository.replace('/', '--')}"
    try:
        text = Path(huggingface_hub.constants.HF_HUB_CACHE, folder, "refs", revision or "main").read_text()
    except OSError:
        raise LookupError(f"the commit of {repository}, {revision or 'main'}, cannot be found out ({reason})") from None
    return text.strip()
