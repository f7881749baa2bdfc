"""What the notebooks share: their parameters, their folder of results, and how they show a table."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, Params, check_parameter_name, default_scale, load_params
from tampo.paper.experiments import Method
from tampo.project import project_root

# Names that IPython itself puts into a notebook's namespace.
_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


# Where the first call keeps which names are parameters, so that a cell run again does not take the reader's own
# variables for misspelt ones.
_SEEN = "_tampo_parameters"


def notebook_params(
    namespace: dict[str, Any], methods: Sequence[Method] = (), variants: Mapping[str, str] | None = None
) -> Params:
    """The parameters of a notebook, from the names its cells have set so far.

    `params` names the scale or the YAML file; None, "None" or "" is the scale in the variable TAMPO_SCALE, or else
    mini. Every other plain value must be a field of `Params` and overrides what the file says (None does not); names
    in capitals are constants. Call it right after the parameters: papermill only warns about a name it does not know,
    and would go on with the defaults. The result needs another name than `params`.

    Other runners add names of their own (`upstream`, `product`, `run_id`): list them in the variable
    TAMPO_IGNORE_PARAMETERS, with commas between, and they are let through.

    Args:
        namespace: The notebook's `globals()`.
        methods: The rows or curves of the notebook. What they set themselves cannot be given.
        variants: For a notebook with parameters of its own: the file's name by scale.

    Raises:
        ConfigError: A name that is no parameter, with the nearest that is; one that the methods set themselves; or
            what `load_params` raises.
    """
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and not (name.startswith("_") or name.isupper() or name in _IPYTHON)
    }
    if _SEEN in namespace:
        given = {name: value for name, value in given.items() if name in namespace[_SEEN] | set(Params.model_fields)}
    ignored = {name.strip() for name in os.environ.get("TAMPO_IGNORE_PARAMETERS", "").split(",")}
    given = {name: value for name, value in given.items() if name not in ignored}
    for name in given:
        check_parameter_name(name, where="the notebook's parameters", also=("params",))
    namespace[_SEEN] = set(given)
    # Each row is trained with each of `seeds`.
    decided = {"seed"}.union(*(method.changes or {} for method in methods)) if methods else set()
    for name in sorted(decided & {name for name, value in given.items() if value is not None}):
        raise ConfigError(f"{name} cannot be given here: this notebook sets it for each of its rows.")
    source = str(given.pop("params", None)).strip()
    if variants is not None and source in ("", "None"):
        source = _variant(variants)
    return load_params(source, given)


def _variant(variants: Mapping[str, str]) -> str:
    """The parameters of a notebook that has its own, for the default scale."""
    scale = default_scale()
    if scale not in variants:
        raise ConfigError(f"TAMPO_SCALE is {scale!r}, and this notebook has parameters for {', '.join(variants)} only.")
    return variants[scale]


def results_folder(params: Params) -> Path:
    """results/<scale> of the project."""
    return project_root() / "results" / params.scale
