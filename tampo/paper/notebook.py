"""The parameters of a notebook, and the folder of its results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, Params, check_parameter_name, default_scale, load_params
from tampo.paper.experiments import EXPERIMENTS, Experiment, Method
from tampo.paper.outputs import (
    OUTPUT_VARIABLE,
    refuse_other_parameters,
    results_folder,
)
from tampo.project import check_folder, output_folder, user_path
from tampo.runs.training_data import check_problem_count

__all__ = ["notebook_params", "results_folder"]

# Names that IPython adds to a notebook's namespace.
_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})
# The first call stores the names of the parameters here. If the cell runs again, other variables are ignored.
_SEEN = "_tampo_parameters"


def notebook_params(namespace: dict[str, Any], notebook: str) -> Params:
    """The parameters of a notebook, from the variables its cells have set so far.

    `params` names the scale or the YAML file; None, "None" or "" is the scale in the variable TAMPO_SCALE, or else
    mini. Every other plain value must be a field of `Params` and overrides the file (None does not). Names in capitals
    are constants. Call it right after the parameters cell: papermill only warns about an unknown name and uses the
    defaults. The result needs another name than `params`.

    `output_dir` of the result is the folder for results: as given, or the variable TAMPO_OUTPUT_DIR, or
    results/<scale>, with a folder in it for parameters that differ from the scale's (`tampo.paper.outputs`).

    Other runners add their own names (`upstream`, `product`, `run_id`). List these in the variable
    TAMPO_IGNORE_PARAMETERS, separated by commas.

    Args:
        namespace: The notebook's `globals()`.
        notebook: Its name, a key of `EXPERIMENTS`, which has its rows: parameters that they change cannot be given.

    Raises:
        ConfigError: An unknown parameter (the message has the nearest known one); a parameter that the rows change;
            a folder with results of other parameters; fewer training problems than one step; or an error of
            `load_params`.
    """
    experiment = EXPERIMENTS[notebook]
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    ignored = _IPYTHON | {name.strip() for name in os.environ.get("TAMPO_IGNORE_PARAMETERS", "").split(",")}
    known = namespace.get(_SEEN, set(namespace)) | set(Params.model_fields)
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and name in known - ignored and not (name.startswith("_") or name.isupper())
    }
    for name in given:
        check_parameter_name(name, where="the notebook's parameters", also=("params",))
    namespace[_SEEN] = set(given)
    _refuse_changed(given, experiment.methods)
    source = str(given.pop("params", None)).strip()
    if source in ("", "None"):
        source = _default_source(experiment)
    usual = load_params(source)
    given = {name: value for name, value in given.items() if value is not None}
    params = load_params(source, given)
    check_problem_count(params.training())
    params = params.model_copy(update={"output_dir": str(_output_folder(params, usual, source, experiment))})
    check_folder(Path(str(params.output_dir)), "output_dir")
    refuse_other_parameters(params, notebook)
    return params


def _refuse_changed(given: dict[str, Any], methods: Sequence[Method]) -> None:
    # Each row is trained with each of `seeds`.
    changed = {"seed"}.union(*(method.changes or {} for method in methods)) if methods else set()
    for name in sorted(changed & {name for name, value in given.items() if value is not None}):
        raise ConfigError(f"{name} cannot be given here: this notebook sets it for each of its rows.")


def _default_source(experiment: Experiment) -> str:
    scale = default_scale()
    if experiment.variants and scale not in experiment.variants:
        known = ", ".join(experiment.variants)
        raise ConfigError(f"TAMPO_SCALE is {scale!r}, and this notebook has parameters for {known} only.")
    return experiment.source(scale)


def _output_folder(params: Params, usual: Params, source: str, experiment: Experiment) -> Path:
    if given := params.output_dir or os.environ.get(OUTPUT_VARIABLE):
        return user_path(given, f"output_dir, or {OUTPUT_VARIABLE}")
    stem = Path(source).stem
    return output_folder(params.scale, params.changes(usual), None if _is_usual(stem, params, experiment) else stem)


def _is_usual(stem: str, params: Params, experiment: Experiment) -> bool:
    return stem == (experiment.variants or {}).get(params.scale, params.scale)
