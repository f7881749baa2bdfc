"""The store of records: each is made once, and kept. It knows nothing of training or evaluation.

A record is a folder results/<scale>/runs/<kind>-<hash>, named by the hash of everything that decides its content.
It is finished when its manifest.json is there, which is written last and lists the other files with their
checksums. Finished records are reused by every notebook, interrupted ones are resumed. A file lock lets one process
make a record while others wait, and is released by the system when its holder dies.

`tampo.runs.pipeline` makes records of configs, and `tampo.runs.jobs` several side by side.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from tampo.config import Params
from tampo.files import checksums, sha256, write_json
from tampo.project import project_root
from tampo.runs.provenance import provenance

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
PARAMETERS = "params.json"  # the identity of a training that is under way
LIVE_LOG = "log.jsonl"  # of a training that is under way; a step that was taken again is there twice

# Raised when the code changes what a config produces, so that records of older code are not taken for new ones.
RECORD_VERSION = 2


@dataclass(frozen=True)
class Record:
    """A finished run: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    def metrics(self) -> pd.DataFrame:
        """TRL's log of a training, one row a step (without wall times)."""
        return pd.read_csv(self.folder / "metrics.csv")

    def rollouts(self, step: int) -> pd.DataFrame:
        """The rollouts of one step of a training (from 1): TRL's table of completions, with the columns of tampo.

        Among others prompt, completion, accuracy, verdict, advantage, temperature, log_likelihoods (K numbers, Eq. 8).

        Raises:
            FileNotFoundError: The training was made by a version that did not keep rollouts.
        """
        return pd.read_parquet(self.folder / "rollouts.parquet", filters=[("step", "==", step)])

    def samples(self) -> pd.DataFrame:
        """The judged samples of an evaluation, one row a sample (`tampo.inference.evaluate.evaluate`)."""
        return pd.read_parquet(self.folder / "samples.parquet")


class RunStore:
    """The records of one scale.

    Args:
        root: Folder of the records; made when the first one is.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @classmethod
    def of(cls, params: Params) -> "RunStore":
        """The store of a scale: results/<scale>/runs in the project."""
        return cls(project_root() / "results" / params.scale / "runs")

    def folder(self, kind: str, identity: dict[str, Any]) -> Path:
        """Where the record of `identity` is, or will be."""
        canonical = json.dumps({"version": RECORD_VERSION, **identity}, sort_keys=True, allow_nan=False)
        return self.root / f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"

    def load(self, kind: str, identity: dict[str, Any]) -> Record | None:
        """The finished record of `identity`, or None. One whose files were changed does not count as finished."""
        folder = self.folder(kind, identity)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            whole = all(sha256(folder / name) == digest for name, digest in manifest["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Record(folder, manifest) if whole else None

    def forget(self, kind: str, identity: dict[str, Any]) -> None:
        """Remove the record of `identity`, if there is one."""
        folder = self.folder(kind, identity)
        if folder.exists():
            with FileLock(f"{folder}.lock"):
                shutil.rmtree(folder, ignore_errors=True)

    def make(self, kind: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Record:
        """The record of `identity`, made by `build` unless it is there.

        Args:
            kind: First part of the folder's name.
            identity: Everything that decides the result; plain JSON types.
            build: Called with the record's folder, which may hold what an interrupted call left; writes the
                record's files there (what it puts into checkpoints/ is removed in the end) and returns entries for
                the manifest.
        """
        folder = self.folder(kind, identity)
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            record = self.load(kind, identity)
            if record is not None:
                return record
            if (folder / MANIFEST).exists():
                _set_aside(folder)
            folder.mkdir(exist_ok=True)
            start = time.time()
            extra = build(folder)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            for name in (PROGRESS, PARAMETERS, LIVE_LOG):
                (folder / name).unlink(missing_ok=True)
            manifest = {
                "kind": kind,
                "identity": identity,
                "files": checksums(folder),
                "seconds": round(time.time() - start, 1),
                **provenance(),
                **extra,
            }
            write_json(folder / MANIFEST, manifest)
        return Record(folder, manifest)


def _set_aside(folder: Path) -> None:
    """Move a record that is not what its manifest says out of the way, without losing it."""
    for number in range(1, 1000):
        target = folder.with_name(f"{folder.name}.damaged-{number}")
        if not target.exists():
            folder.rename(target)
            print(f"{folder} does not match its manifest; moved to {target.name}, making it again.", file=sys.stderr)
            return
