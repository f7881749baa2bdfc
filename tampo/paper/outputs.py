"""Where results go: results/<scale>/ for the parameters of the scale, a folder in it for any others, none over another.

A folder of results has tables/, figures/, studies/ and notebooks/. What a notebook writes is named after it, and its
manifest, `<notebook>.manifest.json`, is written last and lists the files.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, Params
from tampo.paper.experiments import EXPERIMENTS
from tampo.project import project_root, scale_folder
from tampo.runs.provenance import MANIFEST_ENDING
from tampo.runs.store import read_json

DPI = 200  # dots per inch of the pictures
OUTPUT_VARIABLE = "TAMPO_OUTPUT_DIR"
# Of a reference, beside its sections: the small part of its records, and what it is.
ARCHIVE, ABOUT = "records.zip", "reference.json"
SECTIONS = ("tables", "figures", "studies")


def results_folder(params: Params, notebook: str) -> Path:
    """The folder that a notebook writes to: tables/, figures/ or studies/ in `output_dir`.

    Args:
        params: From `notebook_params`, which sets `output_dir`; without one it is results/<scale> in the project.
        notebook: Key of `EXPERIMENTS`.
    """
    root = Path(params.output_dir).expanduser() if params.output_dir else scale_folder(params.scale)
    return root / EXPERIMENTS[notebook].section


def reference_folder(scale: str) -> Path:
    """results/reference/<scale> in the project: the committed results, which only one command writes."""
    return project_root() / "results" / "reference" / scale


def read_about(reference: Path) -> dict[str, Any]:
    """What a reference is: scale, seeds, commit, versions, machine, hours.

    Raises:
        ConfigError: There is none in this folder.
    """
    if reference.name:
        restore(reference)
    about = read_json(reference / ABOUT)
    if not about and not (reference / ABOUT).exists():
        raise ConfigError(f"There is no reference in {reference}. The repository has one for the scale mini.")
    seeds, versions = about.get("seeds"), about.get("versions")
    named = isinstance(about.get("scale"), str) and isinstance(versions, dict) and "tampo" in versions
    if not named or not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"{reference / ABOUT} is damaged: it must have scale, seeds and versions.")
    return about


def restore(reference: Path) -> None:
    """Bring a reference back if the command that replaced it was killed between its two renames."""
    old = replaced(reference)
    if old.exists() and not reference.exists():
        old.rename(reference)


def replaced(reference: Path) -> Path:
    """Where a reference is while a new one takes its place."""
    return reference.with_name(f".{reference.name}.old")


def manifest_name(name: str) -> str:
    """The file name of the manifest that covers what is called `name`, such as "controllers_scores"."""
    owners = [notebook for notebook in EXPERIMENTS if re.match(rf"{notebook}([._]|$)", name)]
    return f"{max(owners, key=len, default=name)}{MANIFEST_ENDING}"


def read_manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifests in a folder of results, by notebook in the order of the registry; {} for one that is damaged."""
    return {
        name: read_json(path)
        for name, experiment in EXPERIMENTS.items()
        if (path := folder / experiment.section / f"{name}{MANIFEST_ENDING}").exists()
    }


def refuse_other_parameters(params: Params, notebook: str) -> None:
    """Refuse a folder that has the same notebook's results with other parameters.

    Raises:
        ConfigError: The message names the parameters.
    """
    path = results_folder(params, notebook) / f"{notebook}{MANIFEST_ENDING}"
    now = params.decisive()
    there: dict[str, Any] = read_json(path).get("params") or now
    if differing := differing_parameters(now, there):
        named = ", ".join(f"{name} {there.get(name)!r} there, {now.get(name)!r} now" for name in differing)
        raise ConfigError(
            f"{path} was made with other parameters ({named}), and its results are kept. Give another output_dir, or "
            "move that file and the results beside it away."
        )


def differing_parameters(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names whose values differ. A parameter that one of the two does not have yet counts with its default."""
    defaults = Params.model_validate({}).decisive()
    names = sorted({*one, *other})
    return [name for name in names if one.get(name, defaults.get(name)) != other.get(name, defaults.get(name))]
