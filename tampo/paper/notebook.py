"""The parameters and the results folder of a notebook."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, Params, check_parameter_name, default_scale, load_params
from tampo.paper.experiments import Method
from tampo.project import project_root

# Names that IPython adds to a notebook's namespace.
_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})
# The first call stores the names of the parameters here. If the cell runs again, other variables are ignored.
_SEEN = "_tampo_parameters"


def notebook_params(
    namespace: dict[str, Any], methods: Sequence[Method] = (), variants: Mapping[str, str] | None = None
) -> Params:
    """The parameters of a notebook, from the variables its cells have set so far.

    `params` names the scale or the YAML file; None, "None" or "" is the scale in the variable TAMPO_SCALE, or else
    mini. Every other plain value must be a field of `Params` and overrides the file (None does not). Names in capitals
    are constants. Call it right after the parameters cell: papermill only warns about an unknown name and uses the
    defaults. The result needs another name than `params`.

    Other runners add their own names (`upstream`, `product`, `run_id`). List these in the variable
    TAMPO_IGNORE_PARAMETERS, separated by commas.

    Args:
        namespace: The notebook's `globals()`.
        methods: The rows of the notebook. Parameters that they change cannot be given.
        variants: The parameter file by scale, if the notebook does not use that of the scale.

    Raises:
        ConfigError: An unknown parameter (the message has the nearest known one); a parameter that the methods change;
            or an error of `load_params`.
    """
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
    # Each row is trained with each of `seeds`.
    changed = {"seed"}.union(*(method.changes or {} for method in methods)) if methods else set()
    for name in sorted(changed & {name for name, value in given.items() if value is not None}):
        raise ConfigError(f"{name} cannot be given here: this notebook sets it for each of its rows.")
    source = str(given.pop("params", None)).strip()
    if variants is not None and source in ("", "None"):
        scale = default_scale()
        if scale not in variants:
            known_scales = ", ".join(variants)
            raise ConfigError(f"TAMPO_SCALE is {scale!r}, and this notebook has parameters for {known_scales} only.")
        source = variants[scale]
    return load_params(source, given)


def results_folder(params: Params) -> Path:
    """results/<scale> of the project."""
    return project_root() / "results" / params.scale
