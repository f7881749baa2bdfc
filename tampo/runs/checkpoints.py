"""Complete checkpoints: the last file written to each one lists the other files with their checksums."""

import json
from pathlib import Path

from tampo.files import checksums, sha256, write_json

SEAL = "files.json"


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing or changed; the message names it and what to remove."""


def seal_checkpoint(folder: Path) -> None:
    """Mark a checkpoint as complete, after all processes have written their files."""
    (folder / SEAL).unlink(missing_ok=True)  # it does not list itself
    write_json(folder / SEAL, checksums(folder))


def last_whole_checkpoint(folder: Path) -> str | None:
    """The path of the newest complete checkpoint in `folder`, or None. Incomplete checkpoints are ignored.

    Raises:
        DamagedCheckpoint: Its files were changed.
    """
    sealed = sorted(folder.glob(f"checkpoint-*/{SEAL}"), key=lambda path: int(path.parent.name.split("-")[1]))
    if not sealed:
        return None
    newest = sealed[-1].parent
    rest = f"resume from {sealed[-2].parent.name}" if len(sealed) > 1 else "start from the beginning"
    remedy = f"Remove the folder {newest} to {rest}."
    try:
        files = json.loads(sealed[-1].read_text(encoding="utf-8")).items()
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(f"{sealed[-1]} cannot be read ({error}). {remedy}") from error
    for name, digest in files:
        path = newest / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path} is missing. {remedy}")
        if sha256(path) != digest:
            raise DamagedCheckpoint(f"{path} was changed after it was written. {remedy}")
    return str(newest)
