"""Prompts of each kind of model, graded rollouts as in an evaluation, and advantages against numpy."""

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tampo.config import EvaluationConfig
from tampo.grading.pool import Verdict
from tampo.paper.questions import Questions, example_questions, group_advantages, mixed_group, suite_questions
from tampo.paper.trajectories import LanguageModel, Trajectory, load_language_model
from tampo.tasks.mini import TASKS, Problem, is_correct

CONFIG = EvaluationConfig(suite="mini")
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def tiny(tiny_model_path):
    return load_language_model(str(tiny_model_path))


class ChatTokenizer:
    """The tiny model's tokenizer with a chat template."""

    def __init__(self, tokenizer):
        self._tokenizer, self.chat_template = tokenizer, TEMPLATE

    def apply_chat_template(self, messages, **options):
        return self._tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, **options)


@pytest.fixture
def chat(tiny):
    return LanguageModel("chat", tiny.model, ChatTokenizer(tiny.tokenizer))


def test_questions_of_a_suite(tiny):
    questions = suite_questions(CONFIG, tiny, 2)
    assert [p.task for p in questions.problems] == [task for task in TASKS for _ in range(2)]
    assert questions.prompts == [f"{p.question}\n" for p in questions.problems]
    answers = [f"\\boxed{{{questions.problems[i].answer}}}" if i % 2 else "\\boxed{77}" for i in range(10)]
    rollouts = [Trajectory(i, (), (1,), text, False) for i, text in enumerate(answers)]
    expected = [is_correct(p, text) for p, text in zip(questions.problems, answers, strict=True)]
    assert questions.correct(rollouts).tolist() == expected
    assert sum(expected) >= 5


def test_an_example_of_the_mini_scale(tiny):
    assert example_questions(CONFIG, tiny).source == "chain_sum"
    chosen = example_questions(EvaluationConfig(benchmarks=("gcd",)), tiny, 3)
    assert chosen.source == "gcd"
    assert len(chosen.problems) == 3


def test_a_chat_model_without_data_is_asked_products(chat, monkeypatch):
    monkeypatch.delenv("TAMPO_DATA_DIR", raising=False)
    questions = example_questions(CONFIG, chat, 2)
    assert questions.source == "products"
    first = questions.problems[0]
    assert questions.prompts[0].startswith(f"<user>{first.question}")
    assert questions.prompts[0].endswith("<assistant>")
    texts = [f"The answer is \\boxed{{{first.answer}}}", "I do not know."]
    assert [v.status for v in questions.grade([first, first], texts)] == ["correct", "unparseable"]


@pytest.mark.skipif(not os.environ.get("TAMPO_DATA_DIR"), reason="TAMPO_DATA_DIR does not name a folder")
def test_a_chat_model_with_data_is_asked_real_problems(chat):
    questions = example_questions(CONFIG, chat, 5)
    assert questions.source == "MATH-500"
    assert [p.metadata["level"] for p in questions.problems] == [1] * 5
    assert all("\\boxed{}" in prompt for prompt in questions.prompts)
    gold = f"\\boxed{{{questions.problems[0].answer}}}"
    assert questions.grade(questions.problems[:1], [gold])[0].correct


def test_the_first_problem_with_right_and_wrong_rollouts(tiny):
    problems = [Problem(f"p{i}", "task", "1+2=", "3", {}) for i in range(4)]

    def grade(asked, texts):
        right = {"p0": [0, 0, 0], "p1": [1, 1, 1], "p2": [0, 1, 0], "p3": [0, 0, 1]}[asked[0].id]
        return [Verdict(bool(x), "correct" if x else "wrong", "") for x in right]

    questions = Questions("made up", problems, ["1+2="] * 4, grade)
    problem, rollouts, correct = mixed_group(questions, tiny, 3, 1.0, 4, seed=0)
    assert (problem.id, correct.tolist()) == ("p2", [False, True, False])
    assert len(rollouts) == 3
    assert mixed_group(questions, tiny, 3, 1.0, 4, seed=0)[1] == rollouts
    # None of these is mixed: the last it is.
    unmixed = dataclasses.replace(questions, problems=problems[:2], prompts=["1+2="] * 2)
    assert mixed_group(unmixed, tiny, 3, 1.0, 4, seed=0)[0].id == "p1"
    with pytest.raises(ValueError, match="no questions"):
        mixed_group(dataclasses.replace(questions, problems=[], prompts=[]), tiny, 3, 1.0, 4, seed=0)


@given(st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=1, max_size=5))
def test_advantages_are_standard_scores_of_each_group(groups):
    ours = group_advantages(np.ravel(groups), 4).reshape(-1, 4)
    for rewards, advantages in zip(np.array(groups), ours, strict=True):
        if np.ptp(rewards) == 0:
            assert (advantages == 0).all()
        elif np.ptp(rewards) > 1e-3:
            np.testing.assert_allclose(advantages, (rewards - rewards.mean()) / rewards.std(), atol=1e-9)


def test_advantages_of_equal_rewards_are_zero_to_the_last_bit():
    assert group_advantages([0.1] * 6, 3).tolist() == [0.0] * 6  # the mean of three 0.1 is not 0.1
    with pytest.raises(ValueError, match="groups of 4"):
        group_advantages([1, 0, 1], 4)
