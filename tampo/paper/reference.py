"""The committed results, results/reference/<scale>: written by one command, all of it or nothing.

It has the sections of every folder of results (`tampo.paper.outputs`), records.zip (`tampo.runs.archive`),
reference.json, and the pages that show it (`tampo.paper.pages`). It is made beside its place and then renamed: whatever
happens in between, the present one stays whole.
"""

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from tampo.config import ConfigError, Params, load_params
from tampo.files import write_json, write_text
from tampo.paper.experiments import EXPERIMENTS
from tampo.paper.outputs import (
    ABOUT,
    ARCHIVE,
    manifest_name,
    read_about,
    read_manifests,
    reference_folder,
    replaced,
    restore,
)
from tampo.paper.pages import write_pages
from tampo.paper.reproduce import choose, from_reference, needed_jobs, reproduce
from tampo.project import checkout, project_root
from tampo.runs.archive import pack
from tampo.runs.jobs import print_line, run_jobs
from tampo.runs.provenance import MANIFEST_ENDING, provenance
from tampo.runs.store import Record, RunStore


def write_reference(
    scale: str,
    seeds: Sequence[int] | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
    log: Callable[[str], None] = print_line,
) -> Path:
    """Make the missing runs and all notebooks, and replace results/reference/<scale>.

    Args:
        scale: A scale's name.
        seeds: Training seeds; by default those of the present reference, or of the scale.
        workers: Runs at a time.
        only: Names of notebooks, for a part of it; by default all.
        log: Receives progress messages.

    Returns:
        The folder.

    Raises:
        ConfigError: Not in a git checkout, or files that are not committed, or records of several commits or of code
            that was not committed. The present reference is unchanged.
    """
    target = reference_folder(scale)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        restore(target)
        _refuse_dirty_tree()
        if seeds is None and (target / ABOUT).exists():
            seeds = read_about(target)["seeds"]
        params = load_params(scale, {"seeds": seeds, "workers": workers})
        jobs, store = needed_jobs(choose(scale, only), scale, params), RunStore.of(params)
        run_jobs(store, jobs, workers, log)
        _one_commit(record for job in jobs for record in job.find(store) or () if record)  # before hours of notebooks
        new = _empty(target)
        made = reproduce(scale, params.seeds, only, workers, new, log)
        _complete(new, target.name, made, params, store)
        swap(new, target)
    log(f"Written: {target.relative_to(project_root())}, of {len(made)} notebooks.")
    return target


def rewrite_reference(scale: str, log: Callable[[str], None] = print_line) -> Path:
    """Make results/reference/<scale> anew from its own records, by the present code and without training.

    For other words, figures or statistics of the same runs. What needs texts or weights, which records have not, stays
    as it is.

    Returns:
        The folder.

    Raises:
        ConfigError: Not in a git checkout, or files that are not committed, or there is no reference. The present one
            is unchanged.
    """
    target = reference_folder(scale)
    with FileLock(target.with_name(f".{target.name}.lock")):
        about = read_about(target)
        _refuse_dirty_tree()
        new = _empty(target)
        there = read_manifests(target)
        chosen = [
            e.notebook for e in EXPERIMENTS.values() if not e.needs_texts and (e.notebook in there or not e.needs_runs)
        ]
        made = from_reference(scale, about["seeds"], chosen, new, log=log)
        _keep_others(target, new, {path.stem for path in made})
        _finish(new, target.name, made, about | provenance())
        swap(new, target)
    log(f"Written: {target.relative_to(project_root())}, {len(made)} notebooks anew.")
    return target


def _keep_others(target: Path, new: Path, made: Collection[str]) -> None:
    """Copy all that does not belong to the notebooks `made`, whose older files may have other names."""
    for path in (path for path in target.rglob("*") if path.is_file()):
        place = path.relative_to(target)
        if manifest_name(path.name).removesuffix(MANIFEST_ENDING) not in made:
            (new / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, new / place)


def _empty(target: Path) -> Path:
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    return new


def _complete(new: Path, name: str, notebooks: Sequence[Path], params: Params, store: RunStore) -> None:
    """Add what is not made by notebooks: the archive, what the reference is, and its pages."""
    used = {record for manifest in read_manifests(new).values() for record in manifest["records"]}
    records = [record for record in store.records() if record.name in used]
    about = {
        "scale": params.scale,
        "seeds": list(params.seeds),
        "records": len(records),
        "records_commit": _one_commit(records),
        "hours": round(sum(record.manifest["seconds"] for record in records) / 3600, 2),
        **provenance(),
    }
    pack(records, new / ARCHIVE)
    _finish(new, name, notebooks, about)


def _finish(new: Path, name: str, notebooks: Sequence[Path], about: dict[str, Any]) -> None:
    for path in notebooks:  # papermill writes where it wrote to
        write_text(path, path.read_text(encoding="utf-8").replace(f"/{new.name}/", f"/{name}/"))
    write_json(new / ABOUT, about)
    write_pages(new, about)


def swap(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`. Killed at any moment, one of the two is whole (`restore`)."""
    old = replaced(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _refuse_dirty_tree() -> None:
    folder = checkout()
    if folder is None or folder != project_root():
        raise ConfigError("A reference is written in a git checkout of tampo only, so that its commit is known.")
    status = subprocess.run(["git", "-C", str(folder), "status", "--porcelain"], capture_output=True, text=True)
    if status.returncode or status.stdout.strip():
        named = ", ".join(line[3:] for line in status.stdout.splitlines()[:5])
        raise ConfigError(f"A reference needs a clean checkout; commit or remove: {named or status.stderr.strip()}.")


def _one_commit(records: Iterable[Record]) -> str:
    """The commit that made all records. Raises ConfigError for several, or for code that was not committed."""
    by_commit = Counter(str(record.manifest.get("commit")) for record in records)
    commit = max(by_commit)
    if len(by_commit) > 1 or commit == "None" or commit.endswith("-dirty"):
        named = ", ".join(f"{count} of {name}" for name, count in sorted(by_commit.items()))
        raise ConfigError(
            f"The runs of a reference must come from one commit, without changes; here are {named}. Make them again "
            "in a new folder: set TAMPO_STORE."
        )
    return commit
