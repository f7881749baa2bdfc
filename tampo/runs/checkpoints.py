"""Complete checkpoints: the last file written to each one lists the other files with their checksums.

Several processes write one checkpoint, each its own shards, and on several machines they may write to several disks. It
is sealed when the shards of all processes are there; the first process chooses the one to resume from, and the others
check that they see the same files.
"""

import json
import re
import socket
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tampo.config import ConfigError
from tampo.files import checksums, sha256, write_json
from tampo.runs.processes import by_first, gather, process_count, process_index

SEAL = "files.json"

# Files of which each process writes one, by its number: random states, DeepSpeed's shards, rollouts. Of FSDP's, a
# process may have none; torch writes .metadata last.
_SHARD = re.compile(r"(rng_state_|zero_pp_rank_|rollouts_)(\d+)(?=\.|_mp_rank_)")
_VISIBLE = 20.0  # seconds: a network's disk shows new files of another machine late

_SHARED = (
    "All processes must write to one disk: on several machines, one that they share. The variable TAMPO_STORE names "
    "a folder on it for the records."
)


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing or changed; the message names it and what to remove."""


def seal_checkpoint(folder: Path, count: int = 1) -> None:
    """Mark a checkpoint as complete, after all `count` processes have written their files.

    Raises:
        DamagedCheckpoint: Shards of some processes are not there; it is not sealed, and no run resumes from it.
    """
    (folder / SEAL).unlink(missing_ok=True)  # it does not list itself
    deadline = time.monotonic() + _VISIBLE
    while missing := _missing_shards(folder, count):
        if time.monotonic() > deadline:
            raise DamagedCheckpoint(f"{folder} lacks {', '.join(missing[:3])}, of {count} processes. {_SHARED}")
        time.sleep(0.2)
    write_json(folder / SEAL, {"processes": count, "files": checksums(folder)})


def _missing_shards(folder: Path, count: int) -> list[str]:
    """Shards of a checkpoint of `count` processes that are not there, by their paths in it."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {_SHARD.sub(rf"\g<1>{i}", name) for name in there if _SHARD.search(name) for i in range(count)}
    if count > 1:  # transformers' and TRL's runs of several processes have these at least
        wanted |= {f"rng_state_{i}.pth" for i in range(count)}
    shards = {Path(name).parent / ".metadata" for name in there if name.endswith(".distcp")}
    return sorted((wanted | {path.as_posix() for path in shards}) - there)


def last_whole_checkpoint(folder: Path, count: int | None = None) -> str | None:
    """The path of the newest complete checkpoint in `folder`, or None. Incomplete checkpoints are ignored.

    `count` is the number of processes that would resume from it; None: any.

    Raises:
        DamagedCheckpoint: Its files were changed.
        ConfigError: Another number of processes saved it.
    """
    sealed = sorted(folder.glob(f"checkpoint-*/{SEAL}"), key=lambda path: int(path.parent.name.split("-")[1]))
    if not sealed:
        return None
    newest = sealed[-1].parent
    rest = f"resume from {sealed[-2].parent.name}" if len(sealed) > 1 else "start from the beginning"
    remedy = f"Remove the folder {newest} to {rest}."
    try:
        files, saved = _read_seal(newest)
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(f"{sealed[-1]} cannot be read ({error}). {remedy}") from error
    if None not in (count, saved) and count != saved:
        raise ConfigError(
            f"{newest} was saved by {saved} processes, and {count} were started. Start {saved} (accelerate launch "
            f"--num_processes {saved}, and --processes {saved}), or remove the folder {folder} to start from the "
            "beginning."
        )
    for name, digest in files.items():
        path = newest / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path} is missing. {remedy}")
        if sha256(path) != digest:
            raise DamagedCheckpoint(f"{path} was changed after it was written. {remedy}")
    return str(newest)


def agreed_checkpoint(folder: Path) -> str | None:
    """`last_whole_checkpoint` of the first process, for all of them; every process calls it.

    Each checks that it sees the same files, by name and size. Only the first one reads them all. Without a checkpoint,
    each checks that it sees the folder that they will write to.

    Raises:
        DamagedCheckpoint: In all processes, if one of them does not see a file, or as `last_whole_checkpoint`.
        ConfigError: In all processes, if one of them does not see the folder, or as `last_whole_checkpoint`.
    """
    chosen = by_first(lambda: last_whole_checkpoint(folder, process_count()))
    if chosen is None:
        _check_shared(folder)
        return None
    sizes = by_first(lambda: _sizes(Path(chosen), [*_read_seal(Path(chosen))[0], SEAL]))
    here = _sizes(Path(chosen), sizes)
    missing = next((name for name, size in sizes.items() if here.get(name) != size), None)
    told = gather(missing and f"process {process_index()} on {socket.gethostname()} not {missing}")
    if wrong := [text for text in told if text]:
        raise DamagedCheckpoint(
            f"The first process resumes from {chosen} and sees all its files; {'; '.join(wrong[:3])}. {_SHARED}"
        )
    return chosen


def _check_shared(folder: Path) -> None:
    """Refuse a folder that not all processes see, before hours of training end at the first checkpoint."""
    if process_count() == 1:
        return
    mark = by_first(lambda: _write_mark(folder))
    deadline = time.monotonic() + _VISIBLE
    while not (there := mark.is_file()) and time.monotonic() < deadline:
        time.sleep(0.2)
    told = gather(None if there else f"process {process_index()} on {socket.gethostname()}")
    by_first(mark.unlink)
    if blind := [text for text in told if text]:
        raise ConfigError(f"{'; '.join(blind[:3])} cannot see {folder} of the first process. {_SHARED}")


def _write_mark(folder: Path) -> Path:
    """A file that no other run has written."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"seen-by-all-{uuid.uuid4().hex}"
    mark.touch()
    return mark


def _read_seal(folder: Path) -> tuple[dict[str, str], int | None]:
    """The files of a checkpoint with their checksums, and how many processes saved it (None: by an earlier version)."""
    value = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    if isinstance(value.get("files"), dict):
        return value["files"], value.get("processes")
    return value, None


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """The sizes in bytes of those of the files that are there."""
    sizes = {}
    for name in names:
        with suppress(OSError):
            sizes[name] = (folder / name).stat().st_size
    return sizes
