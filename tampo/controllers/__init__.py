"""Controllers: every way to set the sampling temperature, by name. numpy only."""

from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController
from tampo.controllers.registry import CONTROLLERS, make_controller

__all__ = ["CONTROLLERS", "RolloutBatch", "RunSettings", "TemperatureController", "make_controller"]
