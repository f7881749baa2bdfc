"""What the notebooks share: their parameters, their folder of results, and how they show a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tampo.config import Params, check_parameter_name, load_params, project_root

# Names that IPython itself puts into a notebook's namespace.
_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


def notebook_params(namespace: Mapping[str, Any]) -> Params:
    """The parameters of a notebook, from the names its cells have set so far.

    `params` names the scale or the YAML file; every other plain value must be a field of `Params` and overrides
    what the file says (None does not). Call it right after the parameters: papermill only warns about a name it
    does not know, and would go on with the defaults.

    Args:
        namespace: The notebook's `globals()`.

    Raises:
        ConfigError: A name that is no parameter, with the nearest that is; or what `load_params` raises.
    """
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    given = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _IPYTHON and isinstance(value, plain)
    }
    for name in given:
        check_parameter_name(name, where="the notebook's parameters", also=("params",))
    source = given.pop("params", "mini")
    return load_params(str(source), given)


def results_folder(params: Params) -> Path:
    """results/<scale> of the project."""
    return project_root() / "results" / params.scale
