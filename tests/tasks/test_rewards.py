"""Rewards: right, wrong and unscorable answers; as plain TRL reward functions too."""

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tampo.config import ConfigError, load_params
from tampo.runs.training_data import load_training_data, reward_functions
from tampo.tasks.mini import Problem
from tampo.tasks.rewards import accuracy_reward, completion_text, format_reward
from tampo.tasks.suites import get_suite
from tests.trainer.helpers import SETTINGS

MATH = [
    Problem("a", "MATH-500", "1 + 1?", "2", {}),
    Problem("b", "MATH-500", "Half?", r"\frac{1}{2}", {}),
    Problem("c", "MATH-500", "Broken gold", r"\[", {}),
    Problem("e", "MATH-500", "What nobody guesses", "123456", {}),
    Problem("d", "OlympiadBench", "About pi?", "3.14", {"error": 0.01}),
]
COMPLETIONS = [r"So \boxed{2}.", r"<answer>\boxed{0.5}</answer>", r"\boxed{7}", r"\boxed{3.145}"]


def test_accuracy_of_mathematics():
    logged = {}
    reward = accuracy_reward(get_suite("math"), MATH)
    values = reward(completions=COMPLETIONS, problem_id=list("abcd"), log_metric=logged.__setitem__, extra=[0] * 4)
    assert values == [1.0, 1.0, None, 1.0]
    assert logged == {"accuracy/unparseable": 0.0, "accuracy/timeout": 0.0, "accuracy/gold_unparseable": 0.25}
    assert reward(completions=["nothing", r"\boxed{3}"], problem_id=["a", "a"]) == [0.0, 0.0]
    assert reward.__name__ == "accuracy"


def test_messages_are_read_like_texts():
    chats = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    reward = accuracy_reward(get_suite("math"), MATH)
    assert reward(completions=chats, problem_id=list("abcd")) == [1.0, 1.0, None, 1.0]
    assert completion_text([{"role": "assistant", "content": None}]) == ""


def test_choices():
    question = Problem(
        "q", "ECQA", "Where?", "B", {"choices": ["a", "b", "c", "d", "e"], "letter": "B", "answer_text": "b"}
    )
    reward = accuracy_reward(get_suite("ecqa"), [question])
    answers = [r"\boxed{B}", r"\boxed{b}", r"\boxed{A}", "B or C"]
    assert reward(completions=answers, problem_id=["q"] * 4)[::2] == [1.0, 0.0]


def test_either_of_two_equal_options_is_right():
    metadata = {"choices": ["sea", "park", "lake", "park", "home"], "letter": "B", "answer_text": "park"}
    question = Problem("q", "ECQA", "Where?", "B", metadata)
    reward = accuracy_reward(get_suite("ecqa"), [question])
    answers = [f"\\boxed{{{letter}}}" for letter in "ABCDE"]
    assert reward(completions=answers, problem_id=["q"] * 5) == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_accuracy_of_the_mini_tasks():
    config = load_params("smoke").training()
    suite, loaded = get_suite("mini"), load_training_data(config)
    problem = loaded.problems[0]
    reward = accuracy_reward(suite, loaded.problems)
    texts = [f"\\boxed{{{problem.answer}}}", "\\boxed{x}", "none"]
    assert reward(completions=texts, problem_id=[problem.id] * 3) == [1.0, 0.0, 0.0]
    assert [v.status for v in suite.grade([problem] * 3, texts)] == ["correct", "wrong", "unparseable"]


def test_format():
    good = r"<think>one and one</think><answer>\boxed{2}</answer>"
    assert format_reward(False)(completions=[good, r"\boxed{2}"]) == [1.0, 0.0]
    assert format_reward(True)(completions=[good.removeprefix("<think>"), good]) == [1.0, 0.0]
    assert format_reward(False).__name__ == "format"


def test_only_weighted_rewards_are_used():
    suite, config = get_suite("mini"), load_params("smoke").training()
    functions, weights = reward_functions(config, suite, load_training_data(config), None)
    assert [f.__name__ for f in functions] == ["accuracy"]
    assert weights == [1.0]
    with pytest.raises(ConfigError, match="reward_accuracy and reward_format are both 0"):
        nothing = load_params("smoke", {"reward_accuracy": 0}).training()
        reward_functions(nothing, suite, load_training_data(nothing), None)


def test_in_a_plain_grpo_trainer(tiny_model_path, tmp_path):
    """A gold that cannot be parsed counts for nothing; the rest is learnt from."""
    data = Dataset.from_dict({"prompt": ["1+1=", "2="] * 4, "problem_id": ["e", "c"] * 4})
    args = GRPOConfig(output_dir=str(tmp_path), **(SETTINGS | {"max_steps": 1}))
    functions = [accuracy_reward(get_suite("math"), MATH), format_reward(False)]
    trainer = GRPOTrainer(str(tiny_model_path), functions, args, data)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["rewards/accuracy/mean"] == 0.0
    assert row["rewards/format/mean"] == 0.0
    assert row["accuracy/gold_unparseable"] == 0.5
    assert row["frac_reward_zero_std"] == 1.0
