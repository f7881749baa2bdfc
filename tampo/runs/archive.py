"""The small part of records in one compressed file: what tables, figures and claims are made of, without training.

It is a zip file with a folder for each record, as in a store: metrics.csv and times.csv of a training run,
samples.parquet of an evaluation without its texts, and the tables of measurements. Weights, rollouts and texts are left
out. Each manifest.json keeps the SHA-256 of the original files, and has that of the archived ones as "archived". The
same records give the same bytes.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tampo.config import ConfigError
from tampo.files import atomic_path
from tampo.runs.store import KEPT, MANIFEST, READ_ONLY, Record

_LEFT_OUT = ("model/", f"{KEPT}/", "rollouts.parquet")
_TEXTS = ("prompt", "gold", "completion", "answer")  # columns of samples.parquet
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def pack(records: Iterable[Record], path: Path) -> None:
    """Write the small part of `records` to the zip file `path`, atomically."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for record in sorted(records, key=lambda record: record.name):
            kept = {name: _small(record.folder / name) for name in record.manifest["files"] if _is_kept(name)}
            digests = {name: hashlib.sha256(content).hexdigest() for name, content in kept.items()}
            manifest = json.dumps(record.manifest | {"archived": digests}, sort_keys=True)
            for name, content in [(MANIFEST, manifest.encode()), *sorted(kept.items())]:
                entry = zipfile.ZipInfo(f"{record.name}/{name}", _NO_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                file.writestr(entry, content)


def unpack(path: Path, root: Path) -> None:
    """Write the records of an archive into the folder `root`, a store to which none can be added.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as file:
            file.extractall(root)  # zipfile keeps names inside of the folder
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError) as error:
        raise ConfigError(f"Cannot read the records in {path}: {error}") from error
    (root / READ_ONLY).touch()


def _is_kept(name: str) -> bool:
    return not name.startswith(_LEFT_OUT)


def _small(path: Path) -> bytes:
    if path.name != "samples.parquet":
        return path.read_bytes()
    samples = pd.read_parquet(path)
    content = io.BytesIO()
    samples.drop(columns=[name for name in _TEXTS if name in samples]).to_parquet(content, compression="zstd")
    return content.getvalue()
