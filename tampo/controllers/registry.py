"""Every controller by name, and how one is made from a configuration.

A new controller is one class (`tampo.controllers.base.TemperatureController`) and one line in `CONTROLLERS`. Then
`temperature_controller: its-name` in a file of params/, or `TAMPOConfig(temperature_controller="its-name")`, uses it,
and `temperature_controller_kwargs` sets its parameters.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from tampo.controllers.bandits import EXP3, UCB
from tampo.controllers.base import RunSettings, TemperatureController
from tampo.controllers.entropy import E3, EntropyMatch, EntropyTarget
from tampo.controllers.learning_signal import LearningSignal, ScoreFunction
from tampo.controllers.schedules import Cosine, Fixed, Linear, Random, Staged
from tampo.controllers.tampo import TAMPO

CONTROLLERS: dict[str, type[TemperatureController]] = {
    "tampo": TAMPO,
    "fixed": Fixed,
    "linear": Linear,
    "cosine": Cosine,
    "staged": Staged,
    "entropy-target": EntropyTarget,
    "entropy-match": EntropyMatch,
    "e3": E3,
    "exp3": EXP3,
    "ucb": UCB,
    "random": Random,
    "score-function": ScoreFunction,
    "learning-signal": LearningSignal,
}

# Parameters that GRPO or the paper has names for: configurations give them by these, not among the other parameters.
NAMED = {"tampo": frozenset({"alpha", "top_p", "likelihood"}), "fixed": frozenset({"value"})}

# Names that parameters of controllers had in earlier versions.
RENAMED_PARAMETERS = {
    "temperature_start": "start_temperature",
    "temperature_end": "end_temperature",
    "temperature_stages": "stages",
    "target_entropy": "target",
    "entropy_gain": "gain",
    "exp3_exploration": "exploration",
    "ucb_exploration": "exploration",
}


def make_controller(
    name: str, parameters: Mapping[str, Any] | None = None, run: RunSettings | None = None
) -> TemperatureController:
    """The controller that `CONTROLLERS` calls `name`, ready for a training run.

    Args:
        name: A key of `CONTROLLERS`.
        parameters: Those that differ from the controller's defaults.
        run: The run it belongs to; by default one of a single step.

    Raises:
        ValueError: An unknown name or parameter, or a value out of range; the message names it.

    Example:
        >>> cosine = make_controller("cosine", {"end_temperature": 1.4}, RunSettings(total_steps=5))
        >>> [round(cosine.temperature(step), 2) for step in range(5)]
        [0.9, 0.97, 1.15, 1.33, 1.4]
    """
    controller = configure(name, parameters or {})
    controller.start(run or RunSettings())
    return controller


def configure(
    name: str, parameters: Mapping[str, Any], named: Mapping[str, Any] | None = None
) -> TemperatureController:
    """The controller with its parameters, before a run; raises as `make_controller`.

    Args:
        name: A key of `CONTROLLERS`.
        parameters: Those that differ from the controller's defaults.
        named: The values of all parameters in `NAMED`, where a configuration has names of its own for them.
    """
    if name not in list(CONTROLLERS):  # a list compares what cannot be hashed, too
        raise ValueError(f"Unknown temperature controller {name!r}; known are {', '.join(CONTROLLERS)}.")
    if not isinstance(parameters, Mapping):
        raise ValueError(f"The parameters of a controller must be a mapping, got {parameters!r}.")
    known = [*CONTROLLERS[name].parameters()]
    own = NAMED.get(name, frozenset()) if named is not None else frozenset()
    for parameter in own & set(parameters):
        raise ValueError(f"{parameter} of the controller {name!r} is a parameter by itself: it is not set here.")
    for parameter in parameters:
        if parameter not in known:
            near = difflib.get_close_matches(str(parameter), known, n=1)
            listed = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
            hint = f"did you mean {near[0]!r}?" if near else f"{listed}."
            raise ValueError(f"The controller {name!r} does not know {parameter!r}: {hint}")
    given = {**parameters, **{parameter: (named or {})[parameter] for parameter in own}}
    return CONTROLLERS[name](**CONTROLLERS[name].convert(given))


def describe_controllers() -> str:
    """One line a controller: its name, and its parameters with their defaults."""
    lines = []
    for name, controller in CONTROLLERS.items():
        own = {key: field for key, field in controller.parameters().items() if key not in NAMED.get(name, ())}
        listed = "; ".join(f"{key} = {field.default}: {field.metadata['help']}" for key, field in own.items())
        lines.append(f"{name}: {listed}" if own else name)
    return "\n".join(lines)
