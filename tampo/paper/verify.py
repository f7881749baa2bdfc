"""Are these results those of the reference? `tampo verify`, and `tampo diff` for any two folders of results."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, load_params
from tampo.files import write_json, write_text
from tampo.paper.comparison import Comparison, Item, Status, check_files, compare_notebook, equal_records
from tampo.paper.experiments import EXPERIMENTS
from tampo.paper.outputs import differing_parameters, read_about, read_manifests
from tampo.paper.reproduce import archived_store, choose, execute, usual_folder
from tampo.project import project_root, scale_folder
from tampo.runs.hashes import read_all
from tampo.runs.jobs import print_line
from tampo.runs.provenance import MANIFEST_ENDING
from tampo.runs.store import MissingRecord, RunStore

_SEEDS = ("seed", "seeds")
_SHOWN = 10  # differing rows of one file that are listed


def verify(
    folder: Path,
    reference: Path,
    only: Sequence[str] = (),
    full: bool = False,
    allow_version: bool = False,
    log: Callable[[str], None] = print_line,
) -> Comparison:
    """Compare the results in `folder` with a reference; writes verify.md and verify.json into `folder`.

    Results of some of the reference's training seeds are compared with the same tables and figures made of those seeds'
    records in the reference; the intervals are those of all its seeds.

    Args:
        folder: A folder of results.
        reference: A reference, such as results/reference/mini.
        only: Names of notebooks; by default all.
        full: Read every file of the records behind the results, and believe no remembered hash.
        allow_version: Compare with a reference that another version of tampo made.
        log: Receives progress messages.

    Raises:
        ConfigError: No reference or no results there, an unknown notebook, another version's reference, or other
            parameters than the reference's in all results.
    """
    here = read_manifests(folder)
    if not here:
        near = [folder.parent, *folder.parent.glob("*"), *folder.glob("*")]
        others = sorted(path for path in near if read_manifests(path))
        named = f" Is it {' or '.join(map(os.path.relpath, others))}?" if others else ""
        raise ConfigError(f"There are no results in {folder}. `tampo reproduce` and the notebooks make them.{named}")
    if folder.resolve().is_relative_to(project_root() / "results" / "reference"):
        raise ConfigError(f"{folder} is the reference itself; give your own results.")
    about, there = read_about(reference), read_manifests(reference)
    made_by, this = about["versions"]["tampo"], metadata.version("tampo")
    if made_by != this and not allow_version:
        raise ConfigError(
            f"The reference in {reference} was made by tampo {made_by}, and this is {this}: "
            "compare with --allow-version."
        )
    found = Comparison()
    with read_all() if full else nullcontext():
        for experiment in choose(about["scale"], only, log=lambda line: None):
            name = experiment.notebook
            if name not in there:
                continue
            if name not in here:
                found.items.append(Item(name, "", "", Status.MISSING))
                continue
            broken = [
                *check_files(name, folder, here[name], "here"),
                *check_files(name, reference, there[name], "there"),
            ]
            found.items += broken
            if not any(item.file.endswith(MANIFEST_ENDING) for item in broken):
                _compare(found, name, folder, reference, here[name], there[name], about, log)
                if full:
                    _read_records(found, name, about["scale"], here[name])
    if not found.compared:
        raise ConfigError("Nothing to compare. " + " ".join(found.notes or [f"{folder} has none of these results."]))
    _write(found, folder, reference)
    return found


def diff(one: Path, other: Path) -> Comparison:
    """Compare two folders of results as they are; `one` is the reference of the two.

    Raises:
        ConfigError: One of them has no results, or they have none in common.
    """
    manifests = [read_manifests(folder) for folder in (one, other)]
    for folder, there in zip((one, other), manifests, strict=True):
        if not there:
            raise ConfigError(f"There are no results in {folder}: no tables/, figures/ or studies/ with a manifest.")
    found = Comparison()
    for name in EXPERIMENTS:
        if name not in manifests[0] and name not in manifests[1]:
            continue
        if name not in manifests[0] or name not in manifests[1]:
            found.items.append(Item(name, "", "", Status.MISSING))
            continue
        theirs, ours = (folder[name] for folder in manifests)
        broken = [*check_files(name, other, ours, f"in {other}"), *check_files(name, one, theirs, f"in {one}")]
        found.items += broken
        if any(item.file.endswith(MANIFEST_ENDING) for item in broken):
            continue
        differing = differing_parameters(ours["params"], theirs["params"])
        if differing:
            found.notes.append(f"{name}: the parameters differ: {_values(differing, ours, theirs)}.")
        _tables(found, name, other, one, None, ours, theirs)
    if not found.compared:
        raise ConfigError(f"{one} and {other} have no results in common.")
    return found


def report(found: Comparison) -> str:
    """The comparison for a terminal: counts by notebook, what differs, remarks, and a sentence for each table."""
    lines = [found.summary().to_string(index=False)]
    by_file: dict[str, list[Item]] = {}
    for item in found.different:
        by_file.setdefault(item.file or item.notebook, []).append(item)
    for file, items in by_file.items():
        lines.append(f"\n{file}:")
        for item in items[:_SHOWN]:
            what = f"{item.here} here, {item.reference} in the reference" if item.reference else item.here
            lines.append(f"  {item.row + ': ' if item.row else ''}{what}")
        if len(items) > _SHOWN:
            lines.append(f"  and {len(items) - _SHOWN} more rows")
    lines += ["", *found.notes]
    if found.records:
        equal = sum(found.records.values())
        lines.append(f"{equal} of {len(found.records)} runs and evaluations in common are equal to the bit.")
    return "\n".join([*lines, *(f"{sentence}." for sentence in found.sentences())])


def _compare(
    found: Comparison,
    name: str,
    folder: Path,
    reference: Path,
    here: dict[str, Any],
    there: dict[str, Any],
    about: dict[str, Any],
    log: Callable[[str], None],
) -> None:
    experiment, seeds = EXPERIMENTS[name], here["params"]["seeds"]
    differing = differing_parameters(here["params"], there["params"])
    if others := [parameter for parameter in differing if parameter not in _SEEDS]:
        found.notes.append(f"{name} is not compared: other parameters, {_values(others, here, there)}.")
        return
    by_seeds = bool(experiment.methods) and not experiment.alone
    if not differing or not by_seeds:
        _tables(found, name, folder, reference, None, here, there)
    elif set(seeds) <= set(about["seeds"]) and not experiment.needs_texts:
        log(f"{name} has the seeds {_list(seeds)}: making it of the reference's records of these seeds.")
        given = {"params": experiment.source(about["scale"]), "seeds": list(seeds)}
        with tempfile.TemporaryDirectory(prefix="tampo-") as made, archived_store(reference, about["scale"]):
            try:
                execute({name: given}, Path(made), log=lambda line: None)
            except MissingRecord:  # of a run that depends on all seeds
                found.notes.append(
                    f"{name} is not compared: the reference lacks a run that the seeds {_list(seeds)} need."
                )
                return
            _tables(found, name, folder, Path(made), reference, here, there)
    else:
        found.notes.append(f"{name} is not compared: the reference has no runs of the seeds {_list(seeds)}.")


def _tables(
    found: Comparison,
    name: str,
    here: Path,
    there: Path,
    intervals: Path | None,
    ours: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    found.items += compare_notebook(name, here, there, intervals)
    found.records |= equal_records(ours["records"], theirs["records"])


def _read_records(found: Comparison, name: str, scale: str, manifest: dict[str, Any]) -> None:
    """Read every file of the records in the store."""
    store = RunStore.named(scale)
    for record, entry in manifest["records"].items():
        there = store.load(entry["kind"], entry["identity"])
        if there is None or there.manifest["files"] != entry["files"]:
            what = "damaged or missing in the store" if there is None else "another run than that of the results"
            found.items.append(Item(name, f"runs/{record}", "", Status.DIFFERENT, what))


def _values(names: Sequence[str], here: dict[str, Any], there: dict[str, Any]) -> str:
    one, other = here["params"], there["params"]
    return ", ".join(f"{name} {one.get(name)!r} here and {other.get(name)!r} there" for name in names)


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _write(found: Comparison, folder: Path, reference: Path) -> None:
    write_text(folder / "verify.md", f"# Compared with {reference.name}\n\n```\n{report(found)}\n```\n")
    values = {
        "reference": reference.name,
        "counts": {status: sum(item.status is status for item in found.items) for status in Status},
        "records": found.records,
        "notes": found.notes,
        "items": [asdict(item) for item in found.items if item.status is not Status.EQUAL],
    }
    write_json(folder / "verify.json", values)


def results_of(where: str, seeds: str | None = None) -> Path:
    """The folder of results that a word names: a scale's results/<scale>, or the path of a folder.

    Args:
        where: A scale's name, or a path.
        seeds: The folder in the scale's in which `tampo reproduce --seeds` puts these.

    Raises:
        ConfigError: Seeds that are none, or seeds and a path.
    """
    if seeds is not None:
        return usual_folder(where, load_params(where, {"seeds": seeds}))
    usual = scale_folder(where)
    return usual if usual.is_dir() or not Path(where).is_dir() else Path(where)
