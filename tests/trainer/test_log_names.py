"""Names in the log and in the table of completions: tampo's are never mixed with those of a reward function."""

import re
from dataclasses import dataclass

import pandas as pd
import pytest

from tampo.controllers.base import TemperatureController
from tampo.controllers.registry import CONTROLLERS
from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS

TABLE = {"log_completions": True, "num_completions_to_print": 0}
EVALUATION = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 8}


def train(model, data, folder, rewards=digit_reward, **changes):
    args = TAMPOConfig(output_dir=str(folder), **(SETTINGS | {"max_steps": 2} | changes))
    evaluation = data.select(range(1)) if "eval_strategy" in changes or "eval_on_start" in changes else None
    trainer = TAMPOTrainer(str(model), rewards, args, data, evaluation)
    trainer.train()
    return trainer


def metric_reward(name, value=7.0):
    def reward(completions, log_metric, **columns):
        log_metric(name, value)
        return digit_reward(completions)

    return reward


def column_reward(name, times=1):
    def reward(completions, log_extra, **columns):
        for _ in range(times):
            log_extra(name, ["mine"] * len(completions))
        return digit_reward(completions)

    return reward


OURS = [
    "temperature", "meta_policy/entropy", "meta_policy/p(0.6)", "meta_policy/mine", "controller/target_entropy",
    "controller/p(0.6)", "optimal_temperature/positive_mean", "reward", "sampler/mine", "skipped_steps",
    "loss/importance_weight_mean",
]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_a_metric_with_a_name_of_tampo_is_refused_before_an_update(tiny_model_path, prompts, tmp_path, name):
    """Whatever the controller: a log of another one is read by the same names. `reward` is what bandits learn from."""
    with pytest.raises(ValueError, match="logs the metric '.*' .*Rename it, for example to 'my_") as caught:
        train(tiny_model_path, prompts, tmp_path, metric_reward(name), temperature_controller="fixed")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"eval_on_start": True} | EVALUATION])
@pytest.mark.parametrize("name", ["temperature", "log_likelihoods"])
def test_a_column_with_a_name_of_tampo_is_refused(tiny_model_path, prompts, tmp_path, name, settings):
    with pytest.raises(ValueError, match=f"logs the column '{name}' .*Rename it, for example to 'my_{name}'"):
        train(tiny_model_path, prompts, tmp_path, column_reward(name), **TABLE, **settings)
    assert not list(tmp_path.rglob("*.parquet"))


async def asynchronous(completions, log_metric, **columns):
    log_metric("temperature", 3.0)
    return digit_reward(completions)


def test_rewards_that_are_awaited_or_in_second_place_are_checked_too(tiny_model_path, prompts, tmp_path):
    for reward in (asynchronous, metric_reward("temperature")):
        with pytest.raises(ValueError, match="logs the metric 'temperature'"):
            train(tiny_model_path, prompts, tmp_path, [digit_reward, reward])


@pytest.mark.parametrize("name", ["temperature", "log_likelihoods"])
def test_a_reward_function_with_the_name_of_a_column_is_refused_with_the_table(
    tiny_model_path, prompts, tmp_path, name
):
    def reward(completions, **columns):
        return digit_reward(completions)

    reward.__name__ = name
    with pytest.raises(ValueError, match=f"A reward function is called '{name}'.*another __name__"):
        train(tiny_model_path, prompts, tmp_path, reward, **TABLE)
    log = train(tiny_model_path, prompts, tmp_path, reward, meta_warmup_ratio=1).state.log_history
    assert [row["temperature"] for row in log[:2]] == [1.0, 1.0]
    assert 0 <= log[0][f"rewards/{name}/mean"] <= 1


@pytest.mark.parametrize("settings", [{}, {"eval_on_start": True} | EVALUATION])
def test_a_column_of_two_reward_functions_is_refused(tiny_model_path, prompts, tmp_path, settings):
    """As `problem_id` of tampo's own accuracy reward and of another reward."""
    rewards = [column_reward("problem_id"), column_reward("problem_id")]
    with pytest.raises(ValueError, match=r"log \d+ values of the column 'problem_id' .*two reward functions two names"):
        train(tiny_model_path, prompts, tmp_path, rewards, **TABLE, **settings)


def test_a_column_with_the_name_of_a_reward_function_is_refused(tiny_model_path, prompts, tmp_path):
    with pytest.raises(ValueError, match="logs the column 'digit_reward'"):
        train(tiny_model_path, prompts, tmp_path, [digit_reward, column_reward("digit_reward")], **TABLE)


def test_names_of_ones_own_are_logged_beside_those_of_tampo(tiny_model_path, prompts, tmp_path):
    def reward(completions, log_metric, log_extra, **columns):
        log_metric("my_temperature", 7.0)
        log_extra("my_temperature", [f"{len(text)} characters" for text in completions])
        return digit_reward(completions)

    trainer = train(tiny_model_path, prompts, tmp_path, reward, **TABLE, **EVALUATION)
    trained = [row for row in trainer.state.log_history if "temperature" in row]
    assert [(row["temperature"], row["my_temperature"]) for row in trained] == [
        (row["temperature"], 7.0) for row in trained
    ]
    assert all(0.6 <= row["temperature"] <= 1.5 for row in trained)
    assert {row["eval_my_temperature"] for row in trainer.state.log_history if "eval_loss" in row} == {7.0}
    table = pd.read_parquet(sorted(tmp_path.rglob("*.parquet"))[-1])
    for _, row in table.iterrows():
        assert row["my_temperature"] == f"{len(row['completion'])} characters"
        assert row["log_likelihoods"] is None or len(row["log_likelihoods"]) == 10


def test_without_the_table_its_names_are_free(tiny_model_path, prompts, tmp_path):
    """tampo then writes no columns."""
    trainer = train(tiny_model_path, prompts, tmp_path, column_reward("temperature", times=2), **EVALUATION)
    assert trainer.controller.meta_policy.updates == 2


COLUMNS = ["temperature", "rollout", "problem_id", "verdict", "log_likelihoods", "advantages", "reward", "step"]


def test_columns_of_the_data_set_reach_the_reward_and_nothing_else(tiny_model_path, prompts, tmp_path):
    seen = {name: [] for name in COLUMNS}

    def reward(completions, prompts, **columns):
        for name in COLUMNS:
            seen[name] += zip(prompts, columns[name], strict=True)
        return digit_reward(completions)

    reward.__name__ = "digit_reward"
    data = prompts
    for name in COLUMNS:
        data = data.add_column(name, [f"{name} of {prompt}" for prompt in prompts["prompt"]])
    marked = train(tiny_model_path, data, tmp_path / "marked", reward, **TABLE, meta_warmup_ratio=0)
    for name in COLUMNS:
        assert seen[name]
        assert all(value == f"{name} of {prompt}" for prompt, value in seen[name])
    plain = train(tiny_model_path, prompts, tmp_path / "plain", **TABLE, meta_warmup_ratio=0)
    assert marked.controller.state_dict() == plain.controller.state_dict()
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "step_time"}
    marked_log, plain_log = (
        [{k: v for k, v in row.items() if k not in timed} for row in t.state.log_history] for t in (marked, plain)
    )
    assert marked_log == plain_log


@dataclass
class Talkative(TemperatureController):
    """A controller that logs a metric of any name."""

    name = "mine"

    def temperature(self, step):
        return 1.0

    def metrics(self):
        return {self.name: 1.0}


@pytest.mark.parametrize("name", ["mine", "entropy", "reward"])
def test_a_metric_of_a_controller_that_others_log_is_refused(tiny_model_path, prompts, tmp_path, monkeypatch, name):
    """By a reward function (before or after the controller), or by TRL."""
    monkeypatch.setitem(CONTROLLERS, "talkative", Talkative)
    monkeypatch.setattr(Talkative, "name", name)
    chosen = {"temperature_controller": "talkative"}
    if name == "mine":
        calls = []

        def late(completions, log_metric, **columns):
            calls.append(1)
            if len(calls) > 1:
                log_metric("mine", 3.0)
            return digit_reward(completions)

        with pytest.raises(ValueError, match="reward function logs the metric 'mine'"):
            train(tiny_model_path, prompts, tmp_path, late, **chosen)
        with pytest.raises(ValueError, match="The controller logs the metric 'mine'"):
            train(tiny_model_path, prompts, tmp_path, metric_reward("mine"), **chosen)
        assert train(tiny_model_path, prompts, tmp_path, **chosen).state.log_history[0]["mine"] == 1.0
    else:
        with pytest.raises(ValueError, match=f"The controller logs the metric '{name}', and so does TRL"):
            train(tiny_model_path, prompts, tmp_path, **chosen)


@pytest.mark.parametrize("tqdm", [True, False])
def test_a_terminal_shows_few_of_them(tiny_model_path, prompts, tmp_path, tqdm, capsys):
    trainer = train(tiny_model_path, prompts, tmp_path, disable_tqdm=not tqdm)
    printed, logged = capsys.readouterr().out, set(trainer.state.log_history[1])
    whole = {"temperature", "reward", "meta_policy/entropy", "optimal_temperature/positive_mean"}
    parts = {"meta_policy/p(0.6)", "meta_policy/p(1)", "optimal_temperature/negative(1.5)", "reward_at/1_samples"}
    assert whole | parts <= logged
    assert all(f"'{name}': " in printed for name in whole)
    assert not any(f"'{name}'" in printed for name in parts)
    rows = [line for line in printed.splitlines() if "'temperature'" in line]
    assert rows and all(len(re.findall(r"'\S+': ", line)) < 50 < len(logged) for line in rows)
