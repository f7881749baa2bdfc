"""Resolves pyproject.toml into uv.lock, and exports from it what pip and conda read. Run it by `make lock`.

One lock file has the exact versions and hashes; .ci/constraints.txt and the pip parts of the two environment files are
exports of it. uv.lock is kept without addresses: they name an index, and everybody may have another. What is left
(versions, markers, file names, hashes) is all that `uv export --frozen` and `uv lock --check` read.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LINUX, ANYWHERE = ("linux",), ("linux", "darwin", "win32")
ENVIRONMENTS = {
    "environment.yml": (["reproduce", "slurm", "gpu", "tracking", "dev"], LINUX, ()),
    # On Linux, PyPI's torch is built for CUDA: the environment of a laptop takes conda's build for a CPU.
    ".binder/environment.yml": (["reproduce"], ANYWHERE, ("torch", "triton", "nvidia-", "cuda-")),
}
MACHINES = {"linux": "x86_64", "darwin": "arm64", "win32": "AMD64"}
MARK = "      # exported from uv.lock by `make lock`:\n"


def uv(*arguments: str) -> str:
    """What `uv` prints, without this machine's own settings of indexes and wheels on its disk."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    command = [sys.executable, "-m", "uv", *arguments, "--no-config", "--project", str(ROOT)]
    return subprocess.run(command, env=kept, check=True, stdout=subprocess.PIPE, text=True).stdout


def without_addresses(lock: str) -> str:
    """A lock file's text with file names in place of addresses."""
    lock = re.sub(r'url = "[^"]*/([^"/]+)"', r'filename = "\1"', lock)
    lock = re.sub(r', upload-time = "[^"]*"', "", lock)
    return re.sub(r'registry = "[^"]*"', 'registry = "index"', lock)


def exported(extras: list[str]) -> list[Requirement]:
    """Pins of everything that these extras need."""
    chosen = [word for extra in extras for word in ("--extra", extra)] or ["--all-extras"]
    plain = ["--frozen", "--no-hashes", "--no-emit-project", "--no-annotate", "--no-header", "--quiet"]
    return [Requirement(line) for line in uv("export", *plain, *chosen).splitlines()]


def constraints() -> str:
    """All pins, for `pip install -c`. A marker is kept only where machines differ in the version."""
    pins = exported([])
    several = {pin.name for pin in pins if len({p.specifier for p in pins if p.name == pin.name}) > 1}
    return "".join(f"{pin}\n" if pin.name in several else f"{pin.name}{pin.specifier}\n" for pin in pins)


def environment(name: str) -> str:
    """The text of an environment file with its pip part exported anew: Python 3.11 on its systems."""
    extras, systems, left_out = ENVIRONMENTS[name]
    head, mark, _ = (ROOT / name).read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{name} lacks the line {MARK.strip()!r}.")
    where: dict[str, list[str]] = {}
    for pin in exported(extras):
        for system in systems:
            machine = {"sys_platform": system, "platform_machine": MACHINES[system], "python_full_version": "3.11.9"}
            if pin.marker is None or pin.marker.evaluate(machine | {"python_version": "3.11"}):
                where.setdefault(f"{pin.name}{pin.specifier}", []).append(system)
    lines = []
    for pin, found in where.items():
        if not pin.startswith(left_out):
            limited = [f"{pin}; sys_platform == '{system}'" for system in found]
            lines += [pin] if len(found) == len(systems) else limited
    return head + mark + "".join(f"      - {line}\n" for line in lines)


def exports() -> dict[str, str]:
    """The text of every exported file, by its path."""
    return {".ci/constraints.txt": constraints()} | {name: environment(name) for name in ENVIRONMENTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where an export is out of date")
    options = parser.parse_args()
    lock = ROOT / "uv.lock"
    if options.check:
        uv("lock", "--check", "--quiet")
    else:
        uv("lock", "--quiet", *(["--upgrade"] if options.upgrade else []))
        lock.write_text(without_addresses(lock.read_text(encoding="utf-8")), encoding="utf-8")
    stale = []
    for name, text in exports().items():
        if (ROOT / name).read_text(encoding="utf-8") != text:
            stale.append(name)
            if not options.check:
                (ROOT / name).write_text(text, encoding="utf-8")
    if options.check and stale:
        raise SystemExit(f"Out of date: {', '.join(stale)}. Run `make lock`.")
    print(
        "uv.lock and its exports agree." if options.check else f"Written: uv.lock, {', '.join(stale) or 'no export'}."
    )


if __name__ == "__main__":
    main()
