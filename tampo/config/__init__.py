"""Config: the parameters of an experiment, the same in YAML files, on the command line and in notebooks."""

from tampo.config.errors import ConfigError
from tampo.config.files import RENAMED, check_parameter_name, default_scale, load_params, refuse_idle
from tampo.config.model import EvaluationConfig, EvaluationEngine, Params, TrainingConfig

__all__ = [
    "RENAMED",
    "ConfigError",
    "EvaluationConfig",
    "EvaluationEngine",
    "Params",
    "TrainingConfig",
    "check_parameter_name",
    "default_scale",
    "load_params",
    "refuse_idle",
]
