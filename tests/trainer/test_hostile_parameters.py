"""Every parameter with every kind of value: taken, or refused by its name before anything runs."""

import math

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tampo import TAMPOConfig, TAMPOTrainer
from tampo.config import ConfigError, Params, load_params
from tampo.meta_policy import MetaPolicy
from tampo.paper.notebook import notebook_params
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS, make_trainer

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1e308, -0.0, math.nan, math.inf, -math.inf, 10**400])
)
WORDS = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "nan", "1e9", "../..", "None", "\x00", "~nobody/x", "0,0", "a,b", "😀"])
)
PLAIN = st.one_of(st.booleans(), NUMBERS, WORDS)
ANYTHING = st.one_of(PLAIN, st.lists(PLAIN, max_size=4), st.dictionaries(WORDS, PLAIN, max_size=2))

# What a bad value of one parameter may be blamed on: their product has to fit.
TOGETHER = {"per_device_train_batch_size", "prompts_per_step", "num_generations"}


@given(st.sampled_from(sorted(Params.model_fields)), ANYTHING)
@settings(max_examples=1500, deadline=None)
def test_parameters_of_files_and_the_command_line(name, value):
    try:
        params = load_params("mini", {name: value})
    except ConfigError as error:
        blamed = TOGETHER if name in TOGETHER else {name}
        assert any(word in str(error) for word in blamed)
        return
    assert type(getattr(params, name)) is type(getattr(load_params("mini"), name)) or value is not None
    for temperature in (*params.temperature_candidates, params.temperature):
        assert 0 < temperature < math.inf
    assert 0 <= params.eval_temperature < math.inf, "0 is the likeliest token"
    assert params.temperature_candidates
    assert len(set(params.temperature_candidates)) == len(params.temperature_candidates)
    assert 0 <= params.alpha <= 1
    assert 0 <= params.p <= 1
    assert "/" not in params.scale, "a run stays in the folder of results"
    assert params.scale not in (".", "..")


@given(st.sampled_from(sorted(Params.model_fields)), ANYTHING)
@settings(max_examples=300, deadline=None)
def test_parameters_of_notebooks(name, value):
    """As papermill injects them, beside what the notebook itself has set."""
    try:
        notebook_params({"params": "smoke", name: value}, "overhead")
    except ConfigError as error:
        assert any(word in str(error) for word in (TOGETHER if name in TOGETHER else {name}))


@given(ANYTHING)
@settings(max_examples=200, deadline=None)
def test_the_scale_itself(value):
    try:
        load_params(value if isinstance(value, str) else str(value))
    except ConfigError as error:
        assert repr(str(value))[1:5] in str(error) or "parameter" in str(error)


OWN = [
    "temperature_controller", "temperature_controller_kwargs", "temperature_candidates", "meta_alpha", "meta_top_p",
    "meta_warmup_ratio", "meta_warmup_temperature", "meta_likelihood", "scoring_batch_size",
    "loss_temperature", "loss_importance_cap",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("out"))


@given(name=st.sampled_from(OWN), value=ANYTHING)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parameters_of_the_trainer(folder, name, value):
    try:
        config = TAMPOConfig(output_dir=folder, bf16=False, use_cpu=True, **{name: value})
    except (ValueError, TypeError) as error:
        assert name in str(error)
        return
    run = config.run_settings(10)
    assert run.temperatures
    assert all(0 < t < math.inf for t in run.temperatures)
    controller = config.configure_controller()
    controller.start(run)
    assert 0 < controller.temperature(0) < math.inf
    assert config.scoring_batch_size is None or config.scoring_batch_size >= 1


@given(ANYTHING, st.sampled_from(["temperatures", "alpha", "top_p", "likelihood"]))
@settings(max_examples=400, deadline=None)
def test_parameters_of_the_rule_alone(value, name):
    given_ = {"temperatures": [0.6, 1.0]} | {name: value}
    try:
        policy = MetaPolicy(**given_)
    except (ValueError, TypeError) as error:
        assert name in str(error)
        return
    assert policy.sample() in policy.temperatures


# Runs without anything to learn from continue, and keep their weights and their meta-policy finite.


def constant_reward(completions, **kwargs):
    return [0.5] * len(completions)


def train(model, prompts, folder, reward=digit_reward, **changes):
    args = TAMPOConfig(output_dir=str(folder), **(SETTINGS | changes))
    trainer = TAMPOTrainer(str(model), reward, args, prompts)
    trainer.train()
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    assert torch.tensor(trainer.controller.meta_policy.probabilities).isfinite().all()
    return trainer


def test_rewards_that_are_always_equal(tiny_model_path, prompts, tmp_path):
    trainer = train(tiny_model_path, prompts, tmp_path, constant_reward)
    assert len(set(trainer.controller.meta_policy.probabilities)) == 1, "nothing is preferred"


def test_completions_that_are_all_empty(tiny_model_path, prompts, tmp_path):
    """The end of the sequence is all that can be drawn."""
    only_the_end = {"suppress_tokens": [token for token in range(21) if token != 1]}
    trainer = train(tiny_model_path, prompts, tmp_path, generation_kwargs=only_the_end)
    assert trainer.rollout_batch.lengths.tolist() == [1] * 16


@pytest.mark.parametrize("masked", [False, True])
def test_completions_that_are_all_cut_off(tiny_model_path, prompts, tmp_path, masked):
    """With masking, no token counts at all."""
    trainer = train(
        tiny_model_path, prompts, tmp_path, max_completion_length=2, mask_truncated_completions=masked,
        generation_kwargs={"suppress_tokens": [1]}, scoring_batch_size=5,
    )  # fmt: skip
    assert trainer.rollout_batch.lengths.tolist() == [0 if masked else 2] * 16


def test_a_training_set_without_rows_is_refused(tiny_model_path, tmp_path):
    with pytest.raises(ValueError, match="train_dataset has no rows"):
        make_trainer(tiny_model_path, Dataset.from_dict({"prompt": []}), tmp_path)


def test_a_base_model_that_is_not_there_is_refused(prompts, tmp_path):
    with pytest.raises((OSError, ValueError), match="no-such-model"):
        make_trainer(tmp_path / "no-such-model", prompts, tmp_path)
