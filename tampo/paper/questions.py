"""Problems as a language model is asked them, and groups of its rollouts that are judged."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tampo.config import EvaluationConfig
from tampo.grading.pool import Verdict, grade_math
from tampo.inference.transformers_engine import derive_seed
from tampo.paper.trajectories import LanguageModel, Trajectory, sample_trajectories
from tampo.tasks.mini import Problem
from tampo.tasks.prompts import render
from tampo.tasks.published import DATA_DIR_VARIABLE
from tampo.tasks.suites import get_suite

_EXAMPLE_BENCHMARK = "MATH-500"
_EXAMPLE_FAMILY = "products"  # of the mini tasks the one that a small chat model solves now and then


@dataclass(frozen=True)
class Questions:
    """Problems with their prompts, whole texts in the same order, and how answers to them are judged."""

    source: str
    problems: list[Problem]
    prompts: list[str]
    judge: Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]

    def correct(self, trajectories: Sequence[Trajectory]) -> NDArray[np.bool_]:
        """Whether each rollout is right, shape (N,)."""
        problems = [self.problems[t.prompt] for t in trajectories]
        return np.array([verdict.correct for verdict in self.judge(problems, [t.text for t in trajectories])])


def suite_questions(config: EvaluationConfig, model: LanguageModel, count: int) -> Questions:
    """The first `count` problems of every benchmark of the suite, or of those that `benchmarks` names.

    Raises:
        DataError: A published set that is missing or changed.
    """
    suite = get_suite(config.suite)
    problems = [
        problem
        for name in config.benchmarks or suite.benchmarks
        for problem in suite.benchmark(name, count, config.eval_seed, config.data_dir, config.data_revision).problems
    ]
    prompts = [render(model.tokenizer, suite.prompt(problem)) for problem in problems]
    return Questions(config.suite, problems, prompts, suite.grade)


def example_questions(config: EvaluationConfig, model: LanguageModel, count: int = 8) -> Questions:
    """A few problems to take an example from, the easier ones first.

    A chat model gets problems of MATH-500 where a folder of data is at hand (`data_dir`, or TAMPO_DATA_DIR) or the
    suite is a published one; without data, products of digits. A model of the mini scale gets its suite's own.

    Raises:
        DataError: A published set that is missing or changed.
    """
    chat = bool(model.tokenizer.chat_template)
    published = not config.suite.startswith("mini")
    if not chat:
        own = config.benchmarks[:1] or get_suite(config.suite).benchmarks[:1]
        return _named(suite_questions(config.model_copy(update={"benchmarks": own}), model, count), own[0])
    if not (published or config.data_dir or os.environ.get(DATA_DIR_VARIABLE)):
        return _chat_about_sums(config, model, count)
    suite = config.suite if published else "math"
    default = _EXAMPLE_BENCHMARK if suite == "math" else get_suite(suite).benchmarks[0]
    name = config.benchmarks[0] if published and config.benchmarks else default
    found = suite_questions(config.model_copy(update={"suite": suite, "benchmarks": (name,)}), model, 500)
    # Levels are 1 to 5 in MATH-500; short questions among them need little reading.
    easier = sorted(
        range(len(found.problems)),
        key=lambda i: (found.problems[i].metadata.get("level") or 0, len(found.prompts[i]), i),
    )[:count]
    problems, prompts = [found.problems[i] for i in easier], [found.prompts[i] for i in easier]
    return Questions(name, problems, prompts, found.judge)


def mixed_group(
    questions: Questions, model: LanguageModel, n: int, temperature: float, max_tokens: int, seed: int
) -> tuple[Problem, list[Trajectory], NDArray[np.bool_]]:
    """`n` rollouts of the first problem that some of them solve and some do not; else of the last problem.

    Returns:
        The problem, its rollouts, and whether each is right, shape (n,).
    """
    for i, (problem, prompt) in enumerate(zip(questions.problems, questions.prompts, strict=True)):
        group = sample_trajectories(model, [prompt], n, temperature, max_tokens, derive_seed(seed, problem.id))
        verdicts = questions.judge([problem] * n, [t.text for t in group])
        correct = np.array([verdict.correct for verdict in verdicts])
        if 0 < correct.sum() < n or i + 1 == len(questions.problems):
            return problem, group, correct
    raise ValueError("There is no question to ask.")


def group_advantages(rewards: ArrayLike, group: int) -> NDArray[np.float64]:
    """Eq. 1: rewards less their group's mean, in units of the group's standard deviation.

    Args:
        rewards: Shape (N,), the rollouts of a prompt next to each other.
        group: Rollouts a prompt, G.

    Returns:
        Shape (N,); 0 throughout a group without spread.

    Raises:
        ValueError: N is no multiple of G.

    Example:
        >>> group_advantages([1, 0, 1, 1], group=2).tolist()
        [1.0, -1.0, 0.0, 0.0]
    """
    values = np.asarray(rewards, dtype=np.float64)
    if group < 1 or values.ndim != 1 or len(values) % group:
        raise ValueError(f"rewards must hold whole groups of {group}, got shape {values.shape}.")
    groups = values.reshape(-1, group)
    centred, spread = groups - groups.mean(axis=1, keepdims=True), groups.std(axis=1, keepdims=True)
    # Equal rewards can have a mean that differs from them in the last bit, and tiny differences squares of 0.
    flat = (groups.max(axis=1, keepdims=True) == groups.min(axis=1, keepdims=True)) | (spread == 0)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, spread)).ravel()


def _named(questions: Questions, source: str) -> Questions:
    return Questions(source, questions.problems, questions.prompts, questions.judge)


def _chat_about_sums(config: EvaluationConfig, model: LanguageModel, count: int) -> Questions:
    mini = get_suite("mini")
    problems = mini.benchmark(_EXAMPLE_FAMILY, count, config.eval_seed, None, None).problems
    request = "Think step by step, then put the final answer in \\boxed{}."
    messages = [[{"role": "user", "content": f"{problem.question} {request}"}] for problem in problems]
    prompts = [render(model.tokenizer, message) for message in messages]
    # The paper's grader also reads answers outside of a box.
    return Questions(_EXAMPLE_FAMILY, problems, prompts, _grade_numbers)


def _grade_numbers(problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
    return grade_math(list(completions), [problem.answer for problem in problems])
