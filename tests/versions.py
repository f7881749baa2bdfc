"""Run the contract tests at the ends of the version ranges in pyproject.toml: `make test-versions`.

Makes one environment per combination below in .versions/, or reuses it. It holds the packages that differ from the
environment that runs this script; all others come from there. Prints a Markdown table, and fails where a combination
fails. Usage: python tests/versions.py [--only NAME] [pytest's options]
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import time
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".versions"

# Packages that are not named have the versions of the environment that runs this.
LOWEST = {"trl": "1.0.0", "transformers": "5.3.0", "accelerate": "1.10.1", "torch": "2.6.0"}
HIGHEST = {"trl": "1.16.0", "transformers": "5.24.0", "accelerate": "1.15.0", "torch": "2.14.1"}
COMBINATIONS: dict[str, dict[str, str]] = {
    "as locked": {},
    **{f"lowest {name}": {name: LOWEST[name]} for name in LOWEST},
    **{f"highest {name}": {name: HIGHEST[name]} for name in HIGHEST},
    "last TRL without a fused head": {"trl": "1.14.2"},
    "first TRL with a fused head": {"trl": "1.15.0"},
    "all lowest": LOWEST,
    "all highest": HIGHEST,
    "lowest TRL, others highest": HIGHEST | {"trl": LOWEST["trl"]},
    "highest TRL, others lowest": LOWEST | {"trl": HIGHEST["trl"]},
}


def installed(package: str) -> str:
    return version(package).split("+")[0]


def environment(versions: dict[str, str]) -> Path:
    """The folder of an environment with these versions."""
    folder = FOLDER / ("_".join(f"{name}-{versions[name]}" for name in sorted(versions)) or "locked")
    ready = folder / ".ready"
    if not ready.exists():
        new, paths = dict(versions), [sysconfig.get_path("purelib")]
        if "torch" in versions and len(versions) > 1:  # gigabytes, which several environments share
            paths.insert(0, packages(environment({"torch": new.pop("torch")})))
        venv.create(folder, with_pip=False, symlinks=True, clear=True)
        Path(packages(folder), "other_packages.pth").write_text("\n".join(paths) + "\n")
        if new:
            pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *(f"{name}=={new[name]}" for name in new)], check=True)
        ready.touch()
    return folder


def packages(folder: Path) -> str:
    return sysconfig.get_path("purelib", vars={"base": str(folder)})


def run(versions: dict[str, str], options: list[str]) -> dict[str, int]:
    """Run the tests with these versions: how many passed, failed and were skipped, and the seconds they took."""
    folder = environment(versions)
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    # Only these are imported: others may need what these versions do not have.
    files = [str(path) for path in sorted(ROOT.glob("tests/*/test_*.py")) if "mark.contract" in path.read_text("utf-8")]
    command = [
        str(folder / "bin/python"),
        "-m",
        "pytest",
        *files,
        "-m",
        "contract",
        f"--junitxml={report}",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    seconds = time.monotonic() - start
    if not report.exists():
        return {"passed": 0, "failed": 1, "skipped": 0, "seconds": round(seconds)}
    suite = ElementTree.parse(report).getroot()[0]
    tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped, "seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(COMBINATIONS), help="may be given more than once")
    arguments, options = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    seen: list[dict[str, str]] = []
    for name in arguments.only or COMBINATIONS:
        versions = {package: installed(package) for package in LOWEST} | COMBINATIONS[name]
        if versions not in seen:
            seen.append(versions)
            changed = {package: v for package, v in versions.items() if v != installed(package)}
            rows.append({"combination": name, **versions, **run(changed, options)})
            print(rows[-1], flush=True)
    print()
    for cells in [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]:
        print("|", " | ".join(str(cell) for cell in cells), "|")
    sys.exit(any(row["failed"] or not row["passed"] for row in rows))


if __name__ == "__main__":
    main()
