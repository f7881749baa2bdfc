"""SHA-256 of large files, remembered: weights of gigabytes are read once, and not again by every notebook.

A file counts as unchanged while its size, its times and its inode are. Within `read_all` every file is read, as
`tampo verify --full` does.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tampo.files import sha256, write_json
from tampo.project import cache_folder

_LARGE = 1_000_000  # bytes; smaller files are read each time
_FRESH = 2.0  # seconds: a file this young can change again within the clock's resolution
_read_all = False


@contextmanager
def read_all() -> Iterator[None]:
    """Within this, believe no remembered hash in this process."""
    global _read_all
    before, _read_all = _read_all, True
    try:
        yield
    finally:
        _read_all = before


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, from the cache if the file is large and has not changed since.

    The cache is a JSON file in `tampo.project.cache_folder`.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    if status.st_size < _LARGE:
        return sha256(path)
    key, cache = str(path.resolve()), _cache_file()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    # Before the reading, which takes longer than that.
    fresh = time.time() - max(status.st_mtime, status.st_ctime) <= _FRESH
    if not _read_all and (known := _read(cache).get(key)) and known["state"] == state:
        return str(known["sha256"])
    digest = sha256(path)
    if not fresh and cache is not None:
        with suppress(OSError):  # a full disk or a home that cannot be written costs time only
            write_json(cache, _read(cache) | {key: {"state": state, "sha256": digest}})
    return digest


def _cache_file() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "hashes.json"


def _read(cache: Path | None) -> dict[str, dict]:
    """The whole entries of the cache; none if it is missing or damaged."""
    try:
        value = json.loads(cache.read_text(encoding="utf-8")) if cache else None
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(entry, dict) and _is_whole(entry)}


def _is_whole(entry: dict) -> bool:
    state, digest = entry.get("state"), entry.get("sha256")
    whole = isinstance(state, list) and all(type(number) is int for number in state)
    return whole and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
