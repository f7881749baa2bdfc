"""What the wheel and the sdist must hold: all of their folders that git does not ignore, and nothing else."""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Never left out, even where git does not have them.
NEEDED = (
    "LICENSE",
    "tampo/py.typed",
    "tampo/assets/mini/model.safetensors",
    "params/mini.yaml",
    "notebooks/table1.ipynb",
)
NEEDED_IN_SDIST = (
    *("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "PKG-INFO"),
    *(".ci/constraints.txt", ".gitignore", ".tampo-project"),
)
NEVER = re.compile(r"(^|/)(results|\.venv\S*|__pycache__|\.ipynb_checkpoints)/|\.(jsonl|zip|parquet|log|pyc)$")


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads(read(root / "pyproject.toml"))


def source_version(root: Path) -> str:
    """The one place of the version, which hatchling reads too."""
    file = root / pyproject(root)["tool"]["hatch"]["version"]["path"]
    found = re.search(r'^__version__ = "(.+)"$', read(file), re.MULTILINE)
    return found[1] if found else ""


def unlike(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Files of an archive that are missing, that nobody put there, or that are never shipped."""
    there, wanted = {*names}, {*expected}
    problems = [f"lacks {name}" for name in sorted(wanted - there)]
    return problems + [f"has {name}" for name in sorted(there) if name not in wanted or NEVER.search(name)]


def expected(root: Path, kind: str) -> set[str]:
    """What git does not ignore of the folders that an archive is made of, and what may never be missing."""
    files = {*git(root, "ls-files", "--cached", "--others", "--exclude-standard").splitlines(), *NEEDED}
    if kind == "sdist":
        included = pyproject(root)["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
        found = {name for name in files if f"/{name}".startswith(tuple(f"{path}/" for path in included))}
        single = {path[1:] for path in included if not (root / path[1:]).is_dir()}
        return found | single | {*NEEDED, *NEEDED_IN_SDIST}
    about = f"tampo-{source_version(root)}.dist-info"
    bundled = {f"tampo/bundled/{name}" for name in files if name.startswith(("params/", "notebooks/"))}
    own = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    return own | bundled | {name for name in files if name.startswith("tampo/")}


def build(root: Path, kind: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return next(folder.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind]))


def archive(root: Path, kind: str, path: Path) -> list[str]:
    """What is wrong with the files of a wheel or an sdist."""
    if kind == "sdist":
        with tarfile.open(path) as file:
            return unlike((name.partition("/")[2] for name in file.getnames()), expected(root, kind))
    with zipfile.ZipFile(path) as wheel:
        notebooks = [name for name in wheel.namelist() if name.endswith(".ipynb")]
        ran = [name for name in notebooks if any(c.get("outputs") for c in json.loads(wheel.read(name))["cells"])]
        return unlike(wheel.namelist(), expected(root, kind)) + [f"{name} has outputs" for name in ran]


def built(root: Path, kind: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return archive(root, kind, build(root, kind, Path(folder)))
