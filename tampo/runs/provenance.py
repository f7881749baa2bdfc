"""Where a result comes from: commit, versions, machine, parameters and the records behind it."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tampo.config import Params
from tampo.files import sha256, write_json
from tampo.project import checkout
from tampo.runs.hardware import machine

MANIFEST_ENDING = ".manifest.json"
_OF_A_RECORD = ("kind", "identity", "files", "commit", "machine", "seconds", "energy_joules")
_PACKAGES = ("tampo", "torch", "transformers", "trl", "accelerate", "datasets", "numpy", "reasoning-gym")


def provenance() -> dict[str, Any]:
    """The project's commit, its lock file's SHA-256, the versions of packages, the platform and the machine."""
    lock = (checkout() or Path()) / "uv.lock"
    return {
        "commit": _commit(),
        "lock": sha256(lock) if checkout() and lock.is_file() else None,
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
    }


def write_manifest(folder: Path, name: str, params: Params, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `name`.manifest.json of a table, figure or study, atomically. Call it after all its files are written.

    Args:
        folder: Has the files, whose names begin with `name`. Their SHA-256 become the manifest's `outputs`.
        name: The notebook's.
        params: The parameters.
        records: The manifests of the records that it was made of, by name.
    """
    path = folder / f"{name}{MANIFEST_ENDING}"
    files = sorted(file for file in folder.glob(f"{name}[._]*") if file != path and file.is_file())
    write_json(
        path,
        {
            "params": params.decisive(),
            "params_hash": params_hash(params.decisive()),
            "outputs": {file.name: sha256(file) for file in files if not file.name.startswith(".")},
            "records": {
                name: {key: manifest.get(key) for key in _OF_A_RECORD} for name, manifest in sorted(records.items())
            },
            "seconds": round(sum(manifest["seconds"] for manifest in records.values()), 1),
            **provenance(),
        },
    )


def params_hash(values: Mapping[str, Any]) -> str:
    """The SHA-256 of parameters, `Params.decisive`."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _commit() -> str | None:
    """The commit of the checkout that tampo is imported from; None for an installed wheel and without git.

    It ends in "-dirty" if code, notebooks or parameters were changed since. Results do not count, because a table
    would mark itself while it is written.
    """
    folder = checkout()
    if folder is None:  # a virtual environment may lie in somebody else's repository
        return None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", "tampo", "notebooks", "params", "pyproject.toml", ".ci")
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
