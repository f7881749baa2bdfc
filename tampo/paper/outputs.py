"""Where results go: results/<scale>/ for the parameters of the scale, a folder in it for any others, none over another.

A folder of results has tables/, figures/, studies/ and notebooks/. What a notebook writes is named after it, and its
manifest, `<notebook>.manifest.json`, is written last and lists the files.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, Params
from tampo.paper.experiments import EXPERIMENTS
from tampo.project import project_root
from tampo.runs.provenance import MANIFEST_ENDING
from tampo.runs.store import read_json

OUTPUT_VARIABLE = "TAMPO_OUTPUT_DIR"
# Of a reference, beside its sections: the small part of its records, and what it is.
ARCHIVE, ABOUT = "records.zip", "reference.json"
SECTIONS = ("tables", "figures", "studies")
_LONGEST = 80  # characters of a folder's name


def results_folder(params: Params, notebook: str) -> Path:
    """The folder that a notebook writes to: tables/, figures/ or studies/ in `output_dir`.

    Args:
        params: From `notebook_params`, which sets `output_dir`; without one it is results/<scale> in the project.
        notebook: Key of `EXPERIMENTS`.
    """
    root = Path(params.output_dir).expanduser() if params.output_dir else scale_folder(params.scale)
    return root / EXPERIMENTS[notebook].section


def scale_folder(scale: str) -> Path:
    """results/<scale> in the project."""
    return project_root() / "results" / scale


def reference_folder(scale: str) -> Path:
    """results/reference/<scale> in the project: the committed results, which only one command writes."""
    return project_root() / "results" / "reference" / scale


def read_about(reference: Path) -> dict[str, Any]:
    """What a reference is: scale, seeds, commit, versions, machine, hours.

    Raises:
        ConfigError: There is none in this folder.
    """
    about = read_json(reference / ABOUT)
    if not about:
        raise ConfigError(
            f"There is no reference in {reference}. The repository has one for the scale mini; name another by "
            "--reference."
        )
    return about


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
    if name == "seeds" and len(value) > 1 and list(value) == list(range(value[0], value[-1] + 1)):
        return f"{value[0]}-{value[-1]}"
    if name == "data_dir":
        return Path(str(value)).name
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)


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
