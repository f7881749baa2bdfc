"""Every kind of value for every parameter of every controller becomes a plain one, or is refused by name."""

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from tampo.config import ConfigError, load_params
from tampo.controllers.base import RunSettings, TemperatureController, parameter, resolved
from tampo.controllers.registry import CONTROLLERS, make_controller
from tampo.meta_policy import MetaPolicy
from tampo.values import convert, plain, to_int

NUMBERS = {
    "float32": lambda x: np.float32(x),
    "float64": lambda x: np.float64(x),
    "float16": lambda x: np.float16(x),
    "longdouble": lambda x: np.longdouble(x),
    "0-d array": lambda x: np.array(x),
    "array of one": lambda x: np.array([x]),
    "torch scalar": lambda x: torch.tensor(x),
    "torch parameter": lambda x: torch.tensor(x, requires_grad=True),
    "bfloat16": lambda x: torch.tensor(x, dtype=torch.bfloat16),
    "series": lambda x: pd.Series([x]),
    "item of a series": lambda x: pd.Series([x])[0],
    "fraction": lambda x: Fraction(x),
    "decimal": lambda x: Decimal(str(x)),
    "word": lambda x: str(x),
    "exponent": lambda x: f"{x * 10}e-1",
    "padded word": lambda x: f" {x} ",
    "numpy word": lambda x: np.str_(x),
    "object array": lambda x: np.array(str(x), dtype=object),
}
LISTS = {
    "linspace": lambda x: np.array(x),
    "float32": lambda x: np.array(x, dtype=np.float32),
    "tensor": lambda x: torch.tensor(x),
    "series": lambda x: pd.Series(x),
    "index": lambda x: pd.Index(x),
    "tuple": tuple,
    "words": lambda x: [f"{value * 10}e-1" for value in x],
    "array of words": lambda x: np.array([str(value) for value in x]),
    "tensors": lambda x: [torch.tensor(value) for value in x],
    "0-d arrays": lambda x: [np.array(value) for value in x],
    "fractions": lambda x: [Fraction(value) for value in x],
}
NOT_NUMBERS = [
    True, np.True_, torch.tensor(True), None, 1j, np.complex64(1), "", "warm", "nan", math.nan, np.float32("nan"),
    [0.5], np.array([0.5, 0.6]), np.array([]), {0.5}, {"a": 1}, datetime(2026, 1, 1), timedelta(1),
    np.datetime64(1, "ns"), np.timedelta64(1, "ns"), pd.Timestamp(1), np.array(1, dtype="m8[ns]"), 10**400, 10**5000,
    Decimal("sNaN"), np.ma.masked, torch.ones((), device="meta"), np.float32, b"1", object(), (x for x in (1,)),
]  # fmt: skip
NOT_LISTS = [
    "0.6,1.0", "1", 1.0, np.float64(1), np.array(1.0), {0.6, 1.0}, (x for x in (0.6, 1.0)), {0.6: 1.0},
    np.ones((2, 2)), torch.ones(1, 3), [[0.6], [1.0]], [0.6, True], [0.6, None], ["a"], b"12",
    np.array([1, 2], dtype="M8[ns]"), pd.DataFrame({"a": [0.6]}), range(0),
]  # fmt: skip

PARAMETERS = [(name, key) for name, controller in CONTROLLERS.items() for key in controller.parameters()]
SCALARS = [(n, k) for n, k in PARAMETERS if isinstance(CONTROLLERS[n].parameters()[k].default, float | int)]
SEQUENCES = [(n, k) for n, k in PARAMETERS if isinstance(CONTROLLERS[n].parameters()[k].default, tuple)]


def assert_plain(value):
    """Of exactly the types that JSON has."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str
            assert_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in (float, int, str, bool, type(None)), type(value)


def both_ways(name, key, value):
    """Made by name, as from a configuration, and by the class itself."""
    yield make_controller(name, {key: value})
    made = CONTROLLERS[name](**{key: value})
    made.start(RunSettings())
    yield made


def test_every_parameter_is_of_a_kind_that_is_tested():
    words = [(n, k) for n, k in PARAMETERS if isinstance(CONTROLLERS[n].parameters()[k].default, str)]
    assert sorted(SCALARS + SEQUENCES + words) == sorted(PARAMETERS)


@pytest.mark.parametrize(("name", "key"), SCALARS)
@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers(name, key, kind):
    for controller in both_ways(name, key, NUMBERS[kind](0.75)):
        value = getattr(controller, key)
        assert (type(value), value) == (float, 0.75)
        assert type(controller.temperature(0)) is float
        assert_plain(resolved(controller))
        assert_plain(controller.state_dict())
        usual = make_controller(name, {key: 0.75})
        usual.temperature(0)
        assert usual.state_dict() == json.loads(json.dumps(controller.state_dict()))


@pytest.mark.parametrize(("name", "key"), SCALARS)
def test_a_whole_number_is_a_float(name, key):
    for one in (1, np.int64(1), np.uint8(1), torch.tensor(1), "1", " 1 ", "1e0", Fraction(1), pd.Series([1])[0]):
        for controller in both_ways(name, key, one):
            assert (type(getattr(controller, key)), getattr(controller, key)) == (float, 1.0)


@pytest.mark.parametrize(("name", "key"), SCALARS)
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_refused_by_name(name, key, value):
    for make in (lambda: make_controller(name, {key: value}), lambda: CONTROLLERS[name](**{key: value})):
        with pytest.raises(ValueError, match=f"({key}|temperature) must be a number, got "):
            make()


@pytest.mark.parametrize(("name", "key"), SEQUENCES)
@pytest.mark.parametrize("kind", LISTS)
def test_lists(name, key, kind):
    for controller in both_ways(name, key, LISTS[kind]([0.75, 1.25, 0.75])):
        assert getattr(controller, key) == (0.75, 1.25, 0.75)
        assert_plain(getattr(controller, key))
        assert type(controller.temperature(0)) is float


@pytest.mark.parametrize(("name", "key"), SEQUENCES)
def test_whole_numbers_and_ranges_are_lists_of_floats(name, key):
    for value in ([1, 2], range(1, 3), np.arange(1, 3), ["1", 2], torch.arange(1, 3)):
        for controller in both_ways(name, key, value):
            assert getattr(controller, key) == (1.0, 2.0)
            assert_plain(getattr(controller, key))
            controller.start(RunSettings(total_steps=2))
            assert [type(controller.temperature(step)) for step in range(2)] == [float, float]


@pytest.mark.parametrize(("name", "key"), SEQUENCES)
@pytest.mark.parametrize("value", NOT_LISTS, ids=lambda value: type(value).__name__)
def test_what_is_no_list_is_refused_by_name(name, key, value):
    for make in (lambda: make_controller(name, {key: value}), lambda: CONTROLLERS[name](**{key: value})):
        with pytest.raises(ValueError, match=f"{key} must be a "):
            make()


def test_words():
    for value in (np.str_("mean"), np.array("mean"), pd.Series(["mean"])):
        for controller in both_ways("tampo", "likelihood", value):
            assert (type(controller.likelihood), controller.likelihood) == (str, "mean")
    for value in (1, None, True, b"sum", ["sum"], np.array(["sum", "mean"])):
        with pytest.raises(ValueError, match="likelihood must be a text"):
            make_controller("tampo", {"likelihood": value})


@dataclass
class Mine(TemperatureController):
    """Parameters of all types, without a check of its own."""

    low: float = parameter(1, "Its default is an int.")
    teeth: int = parameter(3, "Steps of a tooth.")
    wild: bool = parameter(False, "Whether it is.")
    shape: str = parameter("saw", "Name.")
    rest: int | None = parameter(None, "Steps between two teeth.")
    ends: list[int] = parameter((1, 2), "Where it ends.")
    extra: object = parameter(None, "Anything.")

    def temperature(self, step):
        return np.float32(self.low)


def test_a_controller_of_ones_own_gets_plain_values(monkeypatch):
    monkeypatch.setitem(CONTROLLERS, "mine", Mine)
    given = {
        "low": "6e-1", "teeth": np.int64(4), "wild": np.True_, "shape": np.str_("sine"), "rest": "1e1",
        "ends": np.arange(3.0), "extra": {"a": np.ones(2), "b": (Fraction(1, 2), np.int8(3))},
    }  # fmt: skip
    expected = {
        "low": 0.6, "teeth": 4, "wild": True, "shape": "sine", "rest": 10, "ends": [0, 1, 2],
        "extra": {"a": [1.0, 1.0], "b": (0.5, 3)},
    }  # fmt: skip
    values = resolved(make_controller("mine", given))
    assert values == expected
    assert_plain(values)
    assert resolved(make_controller("mine", {"rest": None, "wild": " True "}))["wild"] is True
    for name, value in (("teeth", 1.5), ("teeth", True), ("wild", 1), ("shape", 1), ("rest", "x"), ("ends", [0.5])):
        with pytest.raises(ValueError, match=f"{name} must be "):
            make_controller("mine", {name: value})


@pytest.mark.parametrize("kind", NUMBERS)
def test_the_meta_policy_and_the_settings_of_a_run(kind):
    number = NUMBERS[kind]
    made = [
        MetaPolicy(temperatures, number(0.75), number(0.5), np.str_("mean"), np.int64(3), warmup_updates=number(1.0),
                   warmup_temperature=number(1.25))
        for temperatures in (LISTS[name]([0.75, 1.5]) for name in LISTS)
    ]  # fmt: skip
    usual = MetaPolicy([0.75, 1.5], 0.75, 0.5, "mean", 3, warmup_updates=1, warmup_temperature=1.25)
    for policy in (*made, usual):
        assert_plain([policy.alpha, policy.top_p, policy.likelihood, policy.warmup_updates, policy.sample()])
        policy.update([[-1, -2], [-3, -1]], [1, -1], [3, 4])
        assert_plain(policy.state_dict())
        assert policy.probabilities.tolist() == made[0].probabilities.tolist()
        assert type(policy.sample()) is float
    run = RunSettings(
        LISTS["float32"]([0.75, 1.5]), number(0.5), number(1.25), seed=np.int64(1), total_steps=np.int32(10),
        total_batches="10", vocabulary_size=np.array(100),
    )  # fmt: skip
    assert run == RunSettings((0.75, 1.5), 0.5, 1.25, 1, 10, 10, 100)
    for value in (run.temperatures, run.warmup_ratio, run.warmup_temperature, run.seed, run.total_steps):
        assert_plain(value)


NOT_INTEGERS = [value for value in NOT_NUMBERS if type(value) is not int]  # int has no limit


@pytest.mark.parametrize("value", NOT_INTEGERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["alpha", "top_p", "warmup_updates", "warmup_temperature", "seed"])
def test_the_meta_policy_refuses_what_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a (whole )?number"):
        MetaPolicy(**{name: value})


@pytest.mark.parametrize("value", NOT_LISTS, ids=lambda value: type(value).__name__)
def test_the_meta_policy_refuses_what_is_no_list(value):
    with pytest.raises(ValueError, match="temperatures must be a "):
        MetaPolicy(value)


@pytest.mark.parametrize("kind", LISTS)
def test_virtual_temperatures(kind):
    from tampo.likelihood import virtual_log_likelihoods, virtual_log_probs

    logits, tokens, mask = torch.randn(2, 3, 5), torch.randint(5, (2, 3)), torch.ones(2, 3)
    temperatures = LISTS[kind]([0.75, 1.5])
    expected = virtual_log_likelihoods(logits, tokens, mask, [0.75, 1.5])
    assert torch.equal(virtual_log_likelihoods(logits, tokens, mask, temperatures), expected)
    states, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    expected = virtual_log_probs(states, weight, tokens, mask, [0.75, 1.5])
    assert torch.equal(virtual_log_probs(states, weight, tokens, mask, temperatures), expected)
    for bad in ([0.0], [-1.0], [math.nan], ["a"], 1.0, {1.0}):
        with pytest.raises(ValueError, match="temperatures must be "):
            virtual_log_likelihoods(logits, tokens, mask, bad)


NUMERIC = ["alpha", "p", "learning_rate", "temperature", "eval_temperature", "meta_warmup_ratio", "reward_accuracy"]


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("kind", NUMBERS)
def test_parameters_of_an_experiment(name, kind):
    params = load_params("mini", {name: NUMBERS[kind](0.75)})
    assert (type(getattr(params, name)), getattr(params, name)) == (float, 0.75)
    assert params.identity() == load_params("mini", {name: 0.75}).identity()
    assert_plain(params.decisive())


@pytest.mark.parametrize("kind", LISTS)
def test_lists_and_parameters_of_controllers_of_an_experiment(kind):
    given = LISTS[kind]([0.75, 1.25])
    params = load_params("mini", {"temperature_candidates": given})
    assert params == load_params("mini", {"temperature_candidates": [0.75, 1.25]})
    assert_plain(params.decisive())
    staged = {"temperature_controller": "staged", "temperature_controller_kwargs": {"stages": given}}
    params = load_params("mini", staged)
    assert params.temperature_controller_kwargs == {"stages": [0.75, 1.25]}
    assert_plain(params.decisive())


def test_whole_numbers_of_an_experiment():
    for value in (np.int64(3), np.uint8(3), torch.tensor(3), "3", " 3 ", np.array([3])[0], 3.0):
        params = load_params("mini", {"max_steps": value, "seeds": [value] if value != 3.0 else 3})
        assert (type(params.max_steps), params.max_steps, params.seeds) == (int, 3, (3,))
    assert (
        load_params("mini", {"seeds": np.arange(3)}).seeds
        == (0, 1, 2)
        == load_params("mini", {"seeds": range(3)}).seeds
    )
    linear = {"temperature_controller": "linear", "temperature_controller_kwargs": {"start_temperature": 1}}
    kept = load_params("mini", linear).temperature_controller_kwargs["start_temperature"]
    assert type(kept) is int, "folders of results are named by what was given"
    assert load_params("mini", linear).identity()["temperature_controller_kwargs"]["start_temperature"] == 1.0


@pytest.mark.parametrize("name", [*NUMERIC, "max_steps", "seed", "eval_problems", "temperature_candidates", "seeds"])
@pytest.mark.parametrize("value", [True, np.True_, 1j, "warm", {1.0}, (x for x in (1,)), np.timedelta64(1, "ns")])
def test_an_experiment_refuses_what_is_no_number(name, value):
    with pytest.raises(ConfigError, match=name):
        load_params("mini", {name: value})


def test_values():
    assert plain([np.float32(0.5), {"a": (np.int8(1), "x")}, None, True]) == [0.5, {"a": (1, "x")}, None, True]
    assert plain(Fraction(10**400)) == Fraction(10**400)
    assert to_int("n", "9" * 30) == int("9" * 30)
    for value in ("1e999999999", Decimal("1e999999999"), "1.5", "9" * 5000):
        with pytest.raises(ValueError, match="n must be a whole number"):
            to_int("n", value)
    assert convert("x", None, float | None) is None
    with pytest.raises(ValueError, match="x must be a number, got None"):
        convert("x", None, float)
