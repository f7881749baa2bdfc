"""Where a result comes from: commit, versions, parameters and the records behind it."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tampo.config import Params
from tampo.files import write_json
from tampo.project import checkout

_PACKAGES = ("tampo", "torch", "transformers", "trl", "accelerate", "datasets", "numpy", "reasoning-gym")


def provenance() -> dict[str, Any]:
    """Where a result comes from: commit of the project, versions, machine."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
    }


def write_manifest(path: Path, params: Params, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest of a table or figure, atomically.

    Args:
        path: Where to.
        params: The parameters it was made with.
        records: The manifest of each record it was made from, by the record's name.
    """
    values = params.model_dump(mode="json", exclude={"workers"})
    write_json(
        path,
        {
            "params": values,
            "params_hash": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest(),
            "records": {
                name: {key: manifest[key] for key in ("identity", "files", "commit", "seconds")}
                for name, manifest in sorted(records.items())
            },
            **provenance(),
        },
    )


def _commit() -> str | None:
    """The commit of the checkout that tampo runs from; None for an installed wheel, and outside of git.

    Marked "-dirty" where code, notebooks or parameters were changed since. Results are not looked at: a table that is
    being written would mark itself.
    """
    folder = checkout()
    if folder is None:  # a virtual environment may lie in a repository of somebody else
        return None
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "tampo", "notebooks", "params", "pyproject.toml", ".ci"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
