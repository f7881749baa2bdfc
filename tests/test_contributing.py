"""The controller of CONTRIBUTING.md is one that runs: registered as the page says, it keeps the contract of all."""

import importlib
import re

import pytest

from tampo.config import load_params
from tampo.controllers.base import RolloutBatch, RunSettings
from tampo.controllers.registry import CONTROLLERS, make_controller
from tampo.trainer import TAMPOConfig
from tests.controllers import test_controllers as contract
from tests.helpers import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAME = "follow-success"


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The class in a module of its own, and the line that registers it."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "controller_of_the_page.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("controller_of_the_page")
    line = re.search(r"`(CONTROLLERS\[.*?\] = \w+)`", TEXT)[1]
    exec(line, {"CONTROLLERS": CONTROLLERS, **vars(module)})
    yield
    del CONTROLLERS[NAME]


def test_it_keeps_the_contract(registered):
    contract.test_contract(NAME)
    contract.test_contract_for_batches_that_say_nothing(NAME)
    contract.test_same_seed_same_temperatures(NAME)


def test_it_does_what_it_says(registered):
    """By hand: 0.5, then a tenth of the way to 1, to 1, to 0; the candidates are 0.6 to 1.5."""
    controller = make_controller(NAME, run=RunSettings())
    for reward, success in ((1.0, 0.5), (1.0, 0.55), (0.0, 0.595), (float("nan"), 0.5355), (0.0, 0.5355)):
        assert controller.temperature(0) == pytest.approx(0.6 + 0.9 * success)
        batch: RolloutBatch = contract.rollout_batch(reward=reward)
        controller.update(batch)


def test_it_is_known_everywhere(registered):
    chosen = {"temperature_controller": NAME, "temperature_controller_kwargs": {"alpha": 0.25}}
    assert load_params("mini", chosen).identity()["temperature_controller_kwargs"] == {"alpha": 0.25}
    config = TAMPOConfig("out", **chosen, use_cpu=True, bf16=False)
    assert config.configure_controller().alpha == 0.25


def test_it_is_about_ten_lines(registered):
    """The class, without its empty lines, docstring and `def`s."""
    body = re.search(r"@dataclass\n(.*?)```", TEXT, re.DOTALL)[1].splitlines()
    lines = [line for line in body if line.strip() and not re.match(r'\s*(def |""")', line)]
    assert len(lines) <= 10
