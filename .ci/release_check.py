"""Is this checkout ready to be released? Run it by `make release-check`.

It prints a line for each check (ok, FAILED, not run), with what is wrong and the way out, and exits with 1 where one
failed. Nothing is uploaded or tagged, and what it builds is thrown away. Each check is a function that returns what is
wrong, as sentences; `tests/test_release.py` gives them broken inputs.
"""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from archives import built, git, pyproject, read, source_version

ROOT = Path(__file__).resolve().parents[1]


class NotRun(Exception):
    """There is nothing to check; the message says why."""


def clean_tree(root: Path) -> list[str]:
    return [f"not committed: {line[3:]}" for line in git(root, "status", "--porcelain").splitlines()]


def newest_entry(root: Path) -> tuple[str, str]:
    """Version and date of the newest heading of CHANGELOG.md."""
    found = re.search(r"^## \[(.+?)\](?: - (.*))?$", read(root / "CHANGELOG.md"), re.MULTILINE)
    return (found[1], found[2] or "") if found else ("", "")


def versions(root: Path) -> list[str]:
    version = source_version(root)
    others = {"CITATION.cff": str(yaml.safe_load(read(root / "CITATION.cff")).get("version"))}
    others["CHANGELOG.md's newest heading"] = newest_entry(root)[0]
    return [f"{name} has {other!r}, tampo {version!r}" for name, other in others.items() if other != version]


def release_fields(root: Path) -> list[str]:
    """What is known at a release only."""
    citation, (_, date) = yaml.safe_load(read(root / "CITATION.cff")), newest_entry(root)
    problems = []
    if not str(citation.get("repository-code", "")).startswith("https://"):
        problems.append("repository-code: missing in CITATION.cff, set it before a release")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        problems.append(f"date: CHANGELOG.md's newest heading has {date!r} in place of one such as 2026-12-31")
    return problems


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Links of a page to files and headings that do not exist. Addresses on the web are not looked up."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        headings = re.findall(r"^#+ (.*)$", read(target), re.MULTILINE) if anchor and target.is_file() else []
        if not target.exists() or (anchor and anchor not in map(slug, headings)):
            broken.append(link)
    return broken


def pages(root: Path) -> list[Path]:
    return [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(root.glob("docs/*.md"))


def links(root: Path) -> list[str]:
    return [f"{page.relative_to(root)}: {link}" for page in pages(root) for link in broken_links(page)]


def licences(root: Path) -> list[str]:
    """Each folder of tampo/assets has a row with a licence in its README.md, and so has each file by others."""
    page = read(root / "tampo/assets/README.md")
    stated = dict(re.findall(r"^\| `(.+?)` \| *([^|]*?) *\|", page, re.MULTILINE))
    folders = sorted(path.name for path in (root / "tampo/assets").iterdir() if path.is_dir())
    problems = [f"tampo/assets/{name} has no licence" for name in folders if not stated.get(name)]
    marks = r"copyright (\(c\) )?[0-9]{4}|spdx-license-identifier[:]"  # of a file that was taken over from others
    found = subprocess.run(["git", "-C", str(root), "grep", "-IliE", marks], capture_output=True, text=True).stdout
    others = [name for name in found.splitlines() if not stated.get(name)]
    return problems + [f"{name} names an owner, and no licence is stated" for name in others]


def locks(root: Path) -> list[str]:
    """pyproject.toml agrees with uv.lock, its exports, and the constraints of the environment with vLLM."""
    done = subprocess.run([sys.executable, str(root / ".ci/lock.py"), "--check"], capture_output=True, text=True)
    said = done.stderr.partition("Traceback")[0].strip().splitlines() or ["uv.lock is not that of pyproject.toml"]
    problems = said[-1:] if done.returncode else []
    lines = read(root / ".ci/constraints-vllm.txt").splitlines()
    pins = (Requirement(line) for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    project = pyproject(root)["project"]
    for need in map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values())):
        version = pinned.get(canonicalize_name(need.name))
        if version and not need.specifier.contains(version):
            problems.append(f".ci/constraints-vllm.txt has {need.name} {version}, pyproject.toml asks for {need}")
    return problems


def reference(root: Path, folder: Path) -> list[str]:
    """One commit made all records; it is part of this history; nothing was edited since; this version made it."""
    from tampo.paper.comparison import check_files
    from tampo.paper.outputs import ARCHIVE, read_about, read_manifests

    about, manifests = read_about(folder), read_manifests(folder)
    made, version = about["versions"]["tampo"], source_version(root)
    problems = [f"made by tampo {made}, and this is {version}"] if made != version else []
    edited = chain.from_iterable(check_files(name, folder, m, "here") for name, m in manifests.items())
    problems += [f"{item.file}: {item.here}" for item in edited]
    commits = {name: record["commit"] for m in manifests.values() for name, record in m["records"].items()}
    with zipfile.ZipFile(folder / ARCHIVE) as archive:
        for path in (name for name in archive.namelist() if name.endswith("/manifest.json")):
            record, manifest = path.split("/")[0], json.loads(archive.read(path))
            commits[record] = manifest["commit"]
            for name, digest in manifest["archived"].items():
                if hashlib.sha256(archive.read(f"{record}/{name}")).hexdigest() != digest:
                    problems.append(f"{ARCHIVE}: {record}/{name} changed after it was made")
    commit = about["records_commit"]
    problems += [f"{name} is of commit {other}, not {commit}" for name, other in commits.items() if other != commit]
    ancestor = ["git", "-C", str(root), "merge-base", "--is-ancestor", commit, "HEAD"]
    if subprocess.run(ancestor, capture_output=True).returncode:
        problems.append(f"its commit {commit} is not in the history of HEAD")
    return problems if manifests else ["it has no manifests"]


def verified(root: Path) -> list[str]:
    if not any(root.glob("results/mini/seeds=0-4/*/*.manifest.json")):
        raise NotRun("there are no results in results/mini/seeds=0-4; `make reproduce` makes them")
    command = [sys.executable, "-m", "tampo", "verify", "mini", "--seeds", "0-4"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[-10:] if done.returncode else []


CHECKS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "everything is committed": (clean_tree, "commit or remove it"),
    "versions agree": (versions, "tampo/__init__.py has the version; write it into the other files"),
    "fields of a release": (release_fields, "see CONTRIBUTING.md, A release"),
    "links of the pages": (links, "correct them, or bring the file or heading back"),
    "licences of assets and of files by others": (licences, "state them in tampo/assets/README.md"),
    "lock and constraints": (locks, "make lock; it needs a package index"),
    "results/reference/mini": (
        lambda root: reference(root, root / "results/reference/mini"),
        "tampo reproduce mini --reference, with --from-reference for a new version",
    ),
    "make verify": (verified, "see results/mini/seeds=0-4/verify.md"),
    "wheel": (lambda root: built(root, "wheel"), "see [tool.hatch.build] in pyproject.toml, and git status"),
    "sdist": (lambda root: built(root, "sdist"), "see [tool.hatch.build] in pyproject.toml, and git status"),
}


def main(root: Path = ROOT) -> int:
    failed = False
    for title, (check, way_out) in CHECKS.items():
        try:
            problems = check(root)
        except NotRun as reason:
            print(f"not run  {title}: {reason}", flush=True)
            continue
        except Exception as error:  # a damaged or missing file is a finding, and the other checks still run
            problems = [f"{type(error).__name__}: {error}"]
        failed = failed or bool(problems)
        print(f"FAILED   {title}: {way_out}" if problems else f"ok       {title}", flush=True)
        print("".join(f"         - {problem}\n" for problem in problems), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
