"""What the notebooks share: their parameters, their folder of results, and how they show a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tampo.config import ConfigError, Params, check_parameter_name, load_params, project_root
from tampo.experiments import Method

# Names that IPython itself puts into a notebook's namespace.
_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


# Where the first call keeps which names are parameters, so that a cell run again does not take the reader's own
# variables for misspelt ones.
_SEEN = "_tampo_parameters"


def notebook_params(namespace: dict[str, Any], methods: Sequence[Method] = ()) -> Params:
    """The parameters of a notebook, from the names its cells have set so far.

    `params` names the scale or the YAML file; every other plain value must be a field of `Params` and overrides
    what the file says (None does not); names in capitals are constants. Call it right after the parameters:
    papermill only warns about a name it does not know, and would go on with the defaults. The result needs another
    name than `params`.

    Args:
        namespace: The notebook's `globals()`.
        methods: The rows or curves of the notebook. What they set themselves cannot be given.

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
    for name in given:
        check_parameter_name(name, where="the notebook's parameters", also=("params",))
    namespace[_SEEN] = set(given)
    # Each row is trained with each of `seeds`.
    decided = {"seed"}.union(*(method.changes or {} for method in methods)) if methods else set()
    for name in sorted(decided & {name for name, value in given.items() if value is not None}):
        raise ConfigError(f"{name} cannot be given here: this notebook sets it for each of its rows.")
    source = given.pop("params", "mini")
    return load_params(str(source), given)


def results_folder(params: Params) -> Path:
    """results/<scale> of the project."""
    return project_root() / "results" / params.scale
