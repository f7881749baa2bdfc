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
    """The commit of the checkout tampo runs from, marked "-dirty" where it was changed; None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
        )
    except OSError:
        return None
    return described.stdout.strip() or None
