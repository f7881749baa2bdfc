"""Where things are: the folder that a user works in, and the params/ and notebooks/ that travel with the package."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

MARKER = ".tampo-project"
"""The file that makes a folder a project of tampo. Others may have a params/ and a notebooks/ of their own."""

_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = ("params", "notebooks")
_LONGEST = 80  # characters of a folder's name


class BadPath(ValueError):
    """A text that a user gave as a path cannot be one."""


def project_root() -> Path:
    """The folder that results/ is in: the nearest one at or above the working directory with the marker.

    Outside of every project it is the working directory itself, with the parameters and notebooks of the package.
    """
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / MARKER).is_file()), here)


def user_path(path: str | Path, name: str) -> Path:
    """The absolute path of what a user gave as `name`, with ~ expanded.

    Raises:
        BadPath: It cannot be one, such as "~nobody/results"; the message has the name and the reason.
    """
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # no such user; a loop of links; a null character
        raise BadPath(f"{name} {str(path)[:100]!r} cannot be used: {error}") from error


def check_folder(folder: Path, name: str) -> None:
    """Refuse what cannot become a folder, before hours of work go into it.

    Args:
        folder: It need not exist.
        name: Of the parameter that it comes from.

    Raises:
        BadPath: It lies in a file, or is one, or nothing can be written there.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        reason = f"{there} is a file" if not there.is_dir() else "" if os.access(there, os.W_OK) else "it is read-only"
    except OSError as error:  # a name that is too long
        reason = str(error)
    if reason:
        raise BadPath(f"{name} {str(folder)[:100]!r} cannot be used: {reason}. Give another folder.")


def cache_folder() -> Path | None:
    """What can be made again: the folder TAMPO_CACHE, by default ~/.cache/tampo. None: the user has no home directory.

    Deleting it is safe.
    """
    folder = os.environ.get("TAMPO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tampo")
    with suppress(RuntimeError):  # no home, as in some containers
        return Path(folder).expanduser()
    return None


def scale_folder(scale: str) -> Path:
    """results/<scale> in the project."""
    return project_root() / "results" / scale


def output_folder(scale: str, changes: Mapping[str, Any], source: str | None = None) -> Path:
    """results/<scale>, or the folder in it for parameters that differ from the scale's (`folder_name`)."""
    return scale_folder(scale) / folder_name(changes, source)


def folder_name(changes: Mapping[str, Any], source: str | None = None) -> str:
    """What differs from the scale's parameters, as the name of a folder, such as "alpha=0.1,seeds=0-4".

    Args:
        changes: The values that differ; none: the name is empty.
        source: The parameter file, if it is not the usual one.
    """
    words = [f"{name}={_text(name, value)}" for name, value in sorted(changes.items())]
    whole = ",".join([f"params={source}"] * bool(source) + words)
    safe = re.sub(r"[^\w.,=+-]+", "_", whole)
    if safe == whole and len(safe) <= _LONGEST:
        return safe
    # Another text may give the same characters.
    return f"{safe[:_LONGEST]}~{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _text(name: str, value: Any) -> str:
    if name == "seeds" and len(value) > 1 and all(after - before == 1 for before, after in pairwise(value)):
        return f"{value[0]}-{value[-1]}"
    if name == "data_dir":
        return Path(str(value)).name
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)


def checkout() -> Path | None:
    """The checkout that this very package is imported from; None for an installed wheel."""
    return _PACKAGE.parent if (_PACKAGE.parent / MARKER).is_file() else None


def bundled(folder: str) -> Path:
    """The folder "params" or "notebooks" of this version: in a wheel a copy of the checkout's."""
    return (checkout() or _PACKAGE / "bundled") / folder


def parameter_folders() -> Iterator[Path]:
    """Where a scale's file is looked for: the project's params/, then those of the package."""
    yield project_root() / "params"
    if bundled("params") != project_root() / "params":
        yield bundled("params")


def notebook_folder() -> Path:
    """The project's notebooks/, or those of the package where it has none."""
    own = project_root() / "notebooks"
    return own if (project_root() / MARKER).is_file() and own.is_dir() else bundled("notebooks")


def init_project(folder: Path, version: str) -> list[Path]:
    """Write params/ and notebooks/ of this version into `folder`, and the marker that makes it a project.

    Args:
        folder: Made where it is missing.
        version: Of tampo, as written into the marker.

    Returns:
        The folders that were written.

    Raises:
        FileExistsError: One of them exists: a user's files are never overwritten.
    """
    there = [str(folder / name) for name in _FOLDERS if (folder / name).exists()]
    if there:
        raise FileExistsError(f"{' and '.join(there)} exists already. Choose a new folder, or move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    # Copied beside their place and then renamed: a folder is whole or not there.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tampo-init-") as temporary:
        for name in _FOLDERS:
            shutil.copytree(bundled(name), Path(temporary, name), ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for name in _FOLDERS:
            Path(temporary, name).rename(folder / name)
    text = f"This folder is a project of tampo: results/ is written beside this file. Files of version {version}.\n"
    (folder / MARKER).write_text(text, encoding="utf-8")
    return [folder / name for name in _FOLDERS]
