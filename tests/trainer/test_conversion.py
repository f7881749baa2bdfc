"""Values of `TAMPOConfig` become plain ones: a run is logged, saved and resumed whatever they were given as."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import HfArgumentParser
from trl import TrlParser

from tampo import TAMPOConfig
from tampo.controllers.registry import CONTROLLERS, NAMED
from tests.controllers.test_values import LISTS, NOT_LISTS, NOT_NUMBERS, NUMBERS, assert_plain
from tests.trainer.helpers import make_trainer

PLAIN = {"use_cpu": True, "bf16": False}
FLOATS = ["temperature", "meta_alpha", "meta_top_p", "meta_warmup_ratio", "meta_warmup_temperature"]
TEXTS = {"temperature_controller": "linear", "meta_likelihood": "mean", "loss_temperature": "one"}
OWN = [name for name in TAMPOConfig.__annotations__ if name in TAMPOConfig.__dataclass_fields__]
KWARGS = [(n, k) for n, c in CONTROLLERS.items() for k in c.parameters() if k not in NAMED.get(n, ())]


def own(config):
    return {name: getattr(config, name) for name in (*OWN, "temperature")}


def check(config, expected):
    """It has the values of `expected`, as plain types, and so has every copy of it."""
    assert own(config) == own(expected)
    assert_plain(own(config))
    assert json.loads(config.to_json_string()) == json.loads(expected.to_json_string())
    assert_plain({name: config.to_dict()[name] for name in own(config)})
    copies = [copy.deepcopy(config), pickle.loads(pickle.dumps(config))]
    for each in (*copies, dataclasses.replace(config, generation_batch_size=None)):
        assert own(each) == own(expected)
        assert_plain(own(each))
        assert repr(each.configure_controller()) == repr(expected.configure_controller())


def config(folder, **values):
    return TAMPOConfig(str(folder), **PLAIN, **values)


def test_every_parameter_is_tested():
    listed = {*FLOATS, *TEXTS, "temperature_candidates", "temperature_controller_kwargs", "scoring_batch_size"}
    listed |= {"loss_importance_cap"}
    assert listed == {*OWN, "temperature"}


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers(tmp_path, name, kind):
    check(config(tmp_path, **{name: NUMBERS[kind](0.75)}), config(tmp_path, **{name: 0.75}))


@pytest.mark.parametrize("kind", LISTS)
def test_candidates(tmp_path, kind):
    given = config(tmp_path, temperature_candidates=LISTS[kind]([0.75, 1.25]))
    check(given, config(tmp_path, temperature_candidates=[0.75, 1.25]))


def test_whole_numbers_words_and_none(tmp_path):
    for value in (4, np.int64(4), np.float64(4), torch.tensor(4), "4", " 4 ", 4.0, np.array([4])):
        check(config(tmp_path, scoring_batch_size=value), config(tmp_path, scoring_batch_size=4))
    assert config(tmp_path, scoring_batch_size=None).scoring_batch_size is None
    for value in (np.float32(1.5), torch.tensor(1.5), pd.Series([1.5]), "15e-1", " 1.5 "):  # at least 1: no 0.75
        check(config(tmp_path, loss_importance_cap=value), config(tmp_path, loss_importance_cap=1.5))
    for name, word in TEXTS.items():
        for value in (np.str_(word), np.array(word), pd.Series([word])):
            check(config(tmp_path, **{name: value}), config(tmp_path, **{name: word}))
    for value in (1, np.int32(1), "1"):
        check(config(tmp_path, meta_alpha=value), config(tmp_path, meta_alpha=1.0))


@pytest.mark.parametrize(("controller", "key"), KWARGS)
def test_parameters_of_every_controller(tmp_path, controller, key):
    default = CONTROLLERS[controller].parameters()[key].default
    kinds, usual = (LISTS, [0.75, 1.25]) if isinstance(default, tuple) else (NUMBERS, 0.75)
    if isinstance(default, str):  # one of some words
        kinds, usual = {"numpy": np.str_, "array": np.array, "pandas": lambda word: pd.Series([word])}, "relative"
    expected = config(tmp_path, temperature_controller=controller, temperature_controller_kwargs={key: usual})
    for make in kinds.values():
        given = {key: make(usual)}
        made = config(tmp_path, temperature_controller=controller, temperature_controller_kwargs=given)
        check(made, expected)
        assert given[key] is not made.temperature_controller_kwargs[key], "the user's own is not changed"
    other = "75e-2" if usual == 0.75 else [*map(str, usual)] if isinstance(usual, list) else usual
    for text in (json.dumps({key: usual}), json.dumps({key: other})):
        made = config(tmp_path, temperature_controller=controller, temperature_controller_kwargs=text)
        check(made, expected)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number, got "):
        config(tmp_path, **{name: value})


@pytest.mark.parametrize("value", NOT_LISTS, ids=lambda value: type(value).__name__)
def test_what_is_no_list_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="temperature_candidates must be a "):
        config(tmp_path, temperature_candidates=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scoring_batch_size", True),
        ("scoring_batch_size", 1.5),
        ("scoring_batch_size", "many"),
        ("scoring_batch_size", np.array([1, 2])),
        ("scoring_batch_size", "0"),
        ("temperature_controller", ["tampo"]),
        ("temperature_controller", None),
        ("meta_likelihood", True),
        ("temperature_controller_kwargs", [1]),
        ("temperature_controller_kwargs", np.ones(2)),
    ],
)
def test_other_values_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        config(tmp_path, **{name: value})


def test_parameters_of_grpo_that_are_of_numpy_or_torch(tmp_path):
    given = config(
        tmp_path, learning_rate=np.float32(0.5), seed=np.int64(3), beta=torch.tensor(0.5), max_steps=np.array(4)
    )
    expected = config(tmp_path, learning_rate=0.5, seed=3, beta=0.5, max_steps=4)
    assert json.loads(given.to_json_string()) == json.loads(expected.to_json_string())


def test_command_line_and_yaml(tmp_path):
    words = ["--output_dir", str(tmp_path), "--bf16", "False", "--use_cpu", "True", "--meta_alpha", "6e-1"]
    words += ["--temperature_candidates", "6e-1", "1e0", "--scoring_batch_size", "4"]
    words += ["--temperature_controller", "staged", "--temperature_controller_kwargs", '{"stages": ["9e-1", 1]}']
    expected = config(
        tmp_path, meta_alpha=0.6, temperature_candidates=[0.6, 1.0], scoring_batch_size=4,
        temperature_controller="staged", temperature_controller_kwargs={"stages": [0.9, 1.0]},
    )  # fmt: skip
    (made,) = HfArgumentParser([TAMPOConfig]).parse_args_into_dataclasses(words)
    check(made, expected)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\nbf16: false\nuse_cpu: true\nmeta_alpha: 6e-1\ntemperature_candidates: [6e-1, 1e0]\n"
        "scoring_batch_size: 4\ntemperature_controller: staged\ntemperature_controller_kwargs: {stages: [9e-1, 1]}\n"
    )
    for parse in (HfArgumentParser([TAMPOConfig]).parse_yaml_file, None):
        if parse is None:
            (made,) = TrlParser([TAMPOConfig]).parse_args_and_config(["--config", str(path)])
        else:
            (made,) = parse(str(path))
        check(made, expected)


# Of every kind of state; the conversion of each controller's parameters is tested above.
@pytest.mark.parametrize("name", ["tampo", "staged", "entropy-target", "exp3"])
def test_a_run_with_values_of_numpy_is_saved_and_resumed_as_with_plain_ones(tiny_model_path, prompts, tmp_path, name):
    """Its log, its checkpoints' JSON and its pickled arguments; integers as the stages of a controller."""
    usual = {"temperature_candidates": [0.75, 1.0, 1.5], "meta_alpha": 0.5, "meta_top_p": 1.0, "temperature": 1.0}
    odd = {"temperature_candidates": np.float32([0.75, 1.0, 1.5]), "meta_alpha": np.float32(0.5), "meta_top_p": "1e0"}
    odd["temperature"] = torch.tensor(1)
    keys = {key: CONTROLLERS[name].parameters()[key].default for n, key in KWARGS if n == name}
    kwargs = {
        key: [1, 2] if isinstance(value, tuple) else value if isinstance(value, str) else 1
        for key, value in keys.items()
    }
    usual["temperature_controller_kwargs"] = kwargs
    odd["temperature_controller_kwargs"] = {key: np.array(value) for key, value in kwargs.items()}
    common = {"temperature_controller": name, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    states = []
    for values, folder in ((usual, "usual"), (odd, "odd")):
        trainer = make_trainer(tiny_model_path, prompts, tmp_path / folder, **common, **values)
        trainer.train()
        saved = json.loads((tmp_path / folder / "checkpoint-1/temperature_controller.json").read_text())
        log = [row["temperature"] for row in trainer.state.log_history if "temperature" in row]
        args = torch.load(tmp_path / folder / "checkpoint-2/training_args.bin", weights_only=False)
        assert own(args) == own(trainer.args)
        resumed = make_trainer(tiny_model_path, prompts, tmp_path / folder, **common, **values)
        resumed.train(resume_from_checkpoint=str(tmp_path / folder / "checkpoint-1"))
        assert resumed.controller.state_dict() == trainer.controller.state_dict()
        states.append((saved, log, trainer.controller.state_dict()))
    assert states[0] == states[1]
