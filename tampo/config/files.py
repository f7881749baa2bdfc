"""Parameters from a scale's name or a YAML file, with what is given over them."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tampo.config.errors import ConfigError, explain
from tampo.config.model import Params, TrainingConfig
from tampo.controllers.registry import RENAMED_PARAMETERS
from tampo.extras import extra
from tampo.project import bundled, parameter_folders, project_root

with extra("reproduce"):
    import yaml
    from pydantic import ValidationError

# Names of earlier versions, and what is written now: where TRL has a name for a parameter, it is TRL's.
RENAMED = {
    "steps": "max_steps",
    "micro_batch": "per_device_train_batch_size",
    "scoring_batch": "scoring_batch_size",
    "engine_memory": "vllm_gpu_memory_utilization",
    "vllm_server": "vllm_server_base_url",
    "warmup_ratio": "warmup_steps",
    "controller": "temperature_controller",
    "temperatures": "temperature_candidates",
    "data_revision": "data_revisions, by set",
    **{old: f"temperature_controller_kwargs: {{{new}: ...}}" for old, new in RENAMED_PARAMETERS.items()},
}


def load_params(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Params:
    """Parameters from a scale's name ("mini": params/mini.yaml) or a YAML file, with `overrides` over them.

    A file may say `base: mini` (a scale, or a YAML file beside it), and then only what differs from that one.

    A source of None, "None" or "" is the scale in the variable TAMPO_SCALE, or else mini.
    An override of None, "None" or "" leaves the file's value: so templates and notebooks say "as in params". The
    word "null" is the value null. Lists are lists or text, "0.6,1.0" or "[0.6, 1.0]"; seeds may be a range, "0-4".

    Raises:
        ConfigError: No such scale or file, not a flat mapping, an unknown parameter (with the nearest known name),
            or a value of the wrong type or out of range.

    Example:
        >>> load_params("mini", {"alpha": 0.1, "seeds": "0-2", "eval_problems": "null"}).seeds
        (0, 1, 2)
    """
    path = _usual_path() if _as_in_params(source) else _params_path(str(source))
    values = _read(path)
    values = {name: value for name, value in values.items() if value is None or not _as_in_params(value)}
    given = {name: value for name, value in (overrides or {}).items() if not _as_in_params(value)}
    for name in [*values, *given]:
        check_parameter_name(str(name), where=f"{path}" if name in values else "the overrides")
    try:
        return Params(**(values | given))
    except ValidationError as error:
        raise ConfigError(explain(error, f"from {path}, with overrides")) from error


def refuse_idle(overrides: Mapping[str, Any], trainings: Sequence[TrainingConfig]) -> None:
    """Raise ConfigError for an override that none of `trainings` reads, which would silently change nothing."""
    idle = [training.idle() for training in trainings]
    for name, value in overrides.items():
        if not _as_in_params(value) and all(name in unread for unread in idle):
            reader = idle[0][name]
            hint = (
                " `tampo params` lists the parameters of each controller, for temperature_controller_kwargs."
                if reader.startswith("temperature_controller ")
                else ""
            )
            raise ConfigError(f"{name} would change nothing here: it is read with {reader} only.{hint}")


class _Loader(yaml.SafeLoader):
    """Refuses a name that is written twice, of which only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)

    @classmethod
    def read(cls, text: str) -> Any:
        """What a YAML document says; raises yaml.YAMLError."""
        loader = cls(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """The values in a YAML file, over those of the file that its `base` names."""
    try:
        values = _Loader.read(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:  # such as a date in month 13
        raise ConfigError(f"Cannot read the parameters in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold one flat mapping of parameters, got a {type(values).__name__}.")
    base = values.pop("base", None)
    if base is None:
        return values
    if path in above:
        raise ConfigError(f"{path} is its own base, by way of {', '.join(p.name for p in above)}.")
    beside = path.parent / str(base)
    try:
        return _read(beside if beside.is_file() else _params_path(str(base)), (*above, path)) | values
    except ConfigError as error:
        raise ConfigError(f"The base of {path}: {error}") from error


def _usual_path() -> Path:
    try:
        return _params_path(default_scale())
    except ConfigError as error:
        raise ConfigError(f"The variable TAMPO_SCALE: {error}") from error


def default_scale() -> str:
    """The scale where none is given: that in the variable TAMPO_SCALE, or else mini."""
    return os.environ.get("TAMPO_SCALE", "").strip() or "mini"


def _as_in_params(value: Any) -> bool:
    """Whether an override says nothing: what a notebook's cell or an unfilled template holds."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def check_parameter_name(name: str, where: str, also: tuple[str, ...] = ()) -> None:
    """Raise ConfigError, with the nearest known name, unless `name` is a field of `Params` or among `also`."""
    known = [*Params.model_fields, *also]
    if name in RENAMED:
        raise ConfigError(f"The parameter {name!r} in {where} is now {RENAMED[name]}.")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(sorted(known))}."
        raise ConfigError(f"Unknown parameter {name!r} in {where}.{hint}")


def _params_path(source: str | Path) -> Path:
    try:
        return _find_params(source)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{str(source)[:100]!r} cannot be a parameter file: {error}") from error


def _find_params(source: str | Path) -> Path:
    if str(source).endswith((".yaml", ".yml")):
        path = Path(source).expanduser()
        if not path.is_file() and not path.is_absolute():
            path = project_root() / path  # notebooks run in their own folder
        if not path.is_file() and Path(source).parts[:1] == ("params",):
            path = bundled("params") / Path(*Path(source).parts[1:])  # params/paper.yaml, away from a checkout
        if not path.is_file():
            raise ConfigError(
                f"No parameter file {source}. `tampo init DIR` writes those of the package into a folder."
            )
        return path
    known = {path.stem: path for folder in reversed([*parameter_folders()]) for path in folder.glob("*.yaml")}
    if str(source) not in known:
        raise ConfigError(
            f"No scale {str(source)!r}; known are {', '.join(sorted(known))}. Or give the path of a .yaml file."
        )
    return known[str(source)]
