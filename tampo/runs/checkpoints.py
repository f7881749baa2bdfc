"""Checkpoints that are known to be whole: the last file of each lists the others with their checksums."""

import json
from pathlib import Path

from tampo.files import checksums, sha256, write_json

SEAL = "files.json"


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is not what was written; the message names it and the ways out."""


def seal_checkpoint(folder: Path) -> None:
    """Mark a checkpoint as whole. Call it when all processes have written their files."""
    (folder / SEAL).unlink(missing_ok=True)  # it does not list itself
    write_json(folder / SEAL, checksums(folder))


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in `folder` that was written to its end, or None. One that was cut off does not count.

    Raises:
        DamagedCheckpoint: Its files changed since.
    """
    sealed = sorted(folder.glob(f"checkpoint-*/{SEAL}"), key=lambda path: int(path.parent.name.split("-")[1]))
    if not sealed:
        return None
    newest = sealed[-1].parent
    for name, digest in _read_seal(newest, sealed).items():
        path = newest / name
        if not path.is_file() or sha256(path) != digest:
            raise _damaged(path, sealed, "is missing" if not path.is_file() else "is not what was written")
    return str(newest)


def _read_seal(checkpoint: Path, sealed: list[Path]) -> dict[str, str]:
    try:
        files = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(checkpoint / SEAL, sealed, f"cannot be read ({error})") from error


def _damaged(path: Path, sealed: list[Path], what: str) -> DamagedCheckpoint:
    newest = sealed[-1].parent
    rest = f"go on from {sealed[-2].parent.name}" if len(sealed) > 1 else "start anew"
    return DamagedCheckpoint(f"{path} {what}. Remove the folder {newest} to {rest}.")
