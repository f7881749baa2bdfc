"""The store of records: each is made once and kept. It does not depend on training or evaluation.

A record is a folder results/<scale>/runs/<kind>-<hash>; the hash covers everything that determines its content
(`tampo.runs.identity`). It is finished when it has a manifest.json, which is written last and lists the other files
with their checksums. Notebooks share finished records; interrupted ones resume. A file lock lets one process make a
record while others wait. The variable TAMPO_STORE names another folder for the records of all scales.

`tampo.runs.pipeline` makes records from configs, and `tampo.runs.jobs` makes several in parallel.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from tampo.config import ConfigError, Params
from tampo.config.model import SCALE_NAME
from tampo.files import checksums, write_json
from tampo.project import scale_folder, user_path
from tampo.runs.hardware import EnergyMeter
from tampo.runs.hashes import remembered_sha256
from tampo.runs.provenance import provenance

STORE_VARIABLE = "TAMPO_STORE"

# Files of a record; the last three exist only while it is being made.
MANIFEST = "manifest.json"
TIMES = "times.csv"  # of a training run: what differs between reruns, apart from what is equal to the bit
PROGRESS = "progress.json"
PARAMETERS = "params.json"  # what determines a training run
KEPT = "kept"  # folder of a training run: the weights of each step that keep_steps asks for
LIVE_LOG = "log.jsonl"  # of a training run; a step repeated after an interruption appears twice

# A store with this file has the records of an archive (`tampo.runs.archive`): none can be added.
READ_ONLY = ".read-only"

_OWN = re.compile(r"[a-z-]+-[0-9a-f]{16}(\.\w+)*$|\.read-only$")  # names of records, and of their logs and locks

# Increased when the code changes what a config produces, so that records of older code are not reused.
RECORD_VERSION = 3


@dataclass(frozen=True)
class Record:
    """A finished run: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    def metrics(self) -> pd.DataFrame:
        """TRL's log of a training run, one row per step (without wall times)."""
        # As a copy its columns lie in one block, else pandas warns of hundreds of them at every new column.
        return pd.read_csv(self.folder / "metrics.csv").copy()

    def times(self) -> pd.DataFrame:
        """Wall times of a training run in seconds, one row per step: step, step_time."""
        return pd.read_csv(self.folder / TIMES)

    def rollouts(self, step: int) -> pd.DataFrame:
        """The rollouts of one step (from 1) of a training run: TRL's table of completions, with tampo's columns.

        Among others prompt, completion, accuracy, verdict, advantage, temperature, log_likelihoods (K values, Eq. 8).

        Raises:
            FileNotFoundError: The record was made by an early version, which did not keep rollouts.
        """
        return pd.read_parquet(self.folder / "rollouts.parquet", filters=[("step", "==", step)])

    def samples(self) -> pd.DataFrame:
        """The graded samples of an evaluation, one row per sample (`tampo.inference.evaluate.evaluate`)."""
        return pd.read_parquet(self.folder / "samples.parquet")


class MissingRecord(LookupError):
    """A store that only has the records of an archive lacks the one that was asked for."""


class RunStore:
    """The records of one scale, in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @classmethod
    def of(cls, params: Params) -> "RunStore":
        """The store of a scale: results/<scale>/runs in the project, or <scale> in the folder TAMPO_STORE."""
        return cls.named(params.scale)

    @classmethod
    def named(cls, scale: str) -> "RunStore":
        """As `of`, by the scale's name. Raises ConfigError for what cannot be one, such as a path."""
        if not re.match(SCALE_NAME, scale) or scale == "reference":
            raise ConfigError(f"{scale!r} is not the name of a scale, such as mini.")
        if elsewhere := os.environ.get(STORE_VARIABLE):
            return cls(user_path(elsewhere, STORE_VARIABLE) / scale)
        return cls(scale_folder(scale) / "runs")

    @property
    def read_only(self) -> bool:
        """Whether none can be added: it has the records of an archive."""
        return (self.root / READ_ONLY).exists()

    def folder(self, kind: str, identity: dict[str, Any]) -> Path:
        """The folder of a record, which need not exist."""
        canonical = json.dumps({"version": RECORD_VERSION, **identity}, sort_keys=True, allow_nan=False)
        return self.root / f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"

    def load(self, kind: str, identity: dict[str, Any]) -> Record | None:
        """The finished record, or None. A record with changed files does not count as finished."""
        folder = self.folder(kind, identity)
        manifest = read_json(folder / MANIFEST)
        try:
            files = manifest.get("archived", manifest["files"])
            whole = all(remembered_sha256(folder / name) == digest for name, digest in files.items())
        except (OSError, KeyError, TypeError, AttributeError):
            return None
        return Record(folder, manifest) if whole else None

    def records(self) -> Iterator[Record]:
        """All finished records, sorted by name. Their files are not checked."""
        for path in sorted(self.root.glob(f"*/{MANIFEST}")):
            if manifest := read_json(path):
                yield Record(path.parent, manifest)

    def delete(self) -> None:
        """Remove all runs, finished and others, with their logs and locks; nothing else that lies in the folder."""
        for path in list(self.root.iterdir()):
            if _OWN.match(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if not (self.root.is_symlink() or any(self.root.iterdir())):
            self.root.rmdir()

    def forget(self, kind: str, identity: dict[str, Any]) -> None:
        """Remove the record if it exists."""
        folder = self.folder(kind, identity)
        if folder.exists():
            with FileLock(f"{folder}.lock"):
                shutil.rmtree(folder, ignore_errors=True)

    def make(self, kind: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Record:
        """The record of `identity`, made by `build` unless it exists.

        Args:
            kind: First part of the folder's name.
            identity: Everything that determines the result, in plain JSON types.
            build: Called with the record's folder, which may hold files of an interrupted call; writes the record's
                files and returns entries for the manifest. The subfolder checkpoints is removed afterwards.
        """
        folder = self.folder(kind, identity)
        if self.read_only and self.load(kind, identity) is None:
            raise MissingRecord(f"The archive in {self.root} has no record {folder.name}, and nothing is made in it.")
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            record = self.load(kind, identity)
            if record is not None:
                return record
            if (folder / MANIFEST).exists():
                _set_aside(folder)
            folder.mkdir(exist_ok=True)
            start, energy = time.time(), EnergyMeter()
            extra = build(folder)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            for name in (PROGRESS, PARAMETERS, LIVE_LOG):
                (folder / name).unlink(missing_ok=True)
            manifest = {
                "kind": kind,
                "identity": identity,
                "files": checksums(folder),
                "seconds": round(time.time() - start, 1),  # since the last interruption
                "energy_joules": energy.joules(),
                **provenance(),
                **extra,
            }
            write_json(folder / MANIFEST, manifest)
        return Record(folder, manifest)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _set_aside(folder: Path) -> None:
    """Rename the folder of a damaged record, so that nothing is lost."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    folder.rename(target)
    print(f"{folder} does not match its manifest; moved to {target.name} and made again.", file=sys.stderr)
