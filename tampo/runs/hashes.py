"""SHA-256 of large files, remembered: weights of gigabytes are read once, and not again by every notebook.

A file counts as unchanged while its size, its times and its inode are. `read_all` makes this process read every file,
which `tampo verify --full` does.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from tampo.files import sha256, write_json

_LARGE = 1_000_000  # bytes; smaller files are read each time
_FRESH = 2.0  # seconds: a file this young can change again within the clock's resolution
_read_all = False


def read_all() -> None:
    """From now on, believe no remembered hash in this process."""
    global _read_all
    _read_all = True


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, from the cache if the file is large and has not changed since.

    The cache is a JSON file in the folder TAMPO_CACHE, by default ~/.cache/tampo. Deleting it is safe.
    """
    status = path.stat()
    if status.st_size < _LARGE:
        return sha256(path)
    key, cache = str(path.resolve()), _cache_file()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known = {} if _read_all else _read(cache)
    if known.get(key, {}).get("state") == state:
        return str(known[key]["sha256"])
    digest = sha256(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > _FRESH:
        with suppress(OSError):  # a full disk or a home that cannot be written costs time only
            write_json(cache, _read(cache) | {key: {"state": state, "sha256": digest}})
    return digest


def _cache_file() -> Path:
    folder = os.environ.get("TAMPO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tampo")
    return Path(folder).expanduser() / "hashes.json"


def _read(cache: Path) -> dict[str, dict]:
    try:
        value = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
