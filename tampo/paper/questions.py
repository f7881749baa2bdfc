"""Problems with their prompts, and groups of graded rollouts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tampo.config import EvaluationConfig
from tampo.grading.pool import Verdict, grade_math
from tampo.inference.engine import derive_seed
from tampo.paper.trajectories import LanguageModel, Trajectory, sample_trajectories
from tampo.tasks.mini import Problem
from tampo.tasks.prompts import render
from tampo.tasks.published import DATA_DIR_VARIABLE
from tampo.tasks.suites import get_suite

_EXAMPLE_BENCHMARK = "MATH-500"
_EXAMPLE_FAMILY = "products"  # a mini task that a small chat model sometimes solves


@dataclass(frozen=True)
class Questions:
    """Problems, their prompts (whole texts, in the same order), and the function that grades answers."""

    source: str
    problems: list[Problem]
    prompts: list[str]
    grade: Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]

    def correct(self, trajectories: Sequence[Trajectory]) -> NDArray[np.bool_]:
        """Whether each rollout is correct, shape (N,)."""
        problems = [self.problems[t.prompt] for t in trajectories]
        return np.array([verdict.correct for verdict in self.grade(problems, [t.text for t in trajectories])])


def suite_questions(config: EvaluationConfig, model: LanguageModel, count: int) -> Questions:
    """The first `count` problems of each of `config.benchmarks`, or of every benchmark of the suite.

    Raises:
        DataError: A published set is missing or changed.
    """
    suite = get_suite(config.suite, config.grader, config.data_dir)
    problems = [
        problem
        for name in config.benchmarks or suite.benchmarks
        for problem in suite.benchmark(name, count, config.eval_seed, config.data_dir, config.data_revisions).problems
    ]
    prompts = [render(model.tokenizer, suite.prompt(problem)) for problem in problems]
    return Questions(config.suite, problems, prompts, suite.grade)


def example_questions(config: EvaluationConfig, model: LanguageModel, count: int = 8) -> Questions:
    """A few problems for an example, the easier ones first.

    A chat model gets problems of MATH-500 if there is a data folder (`data_dir`, or TAMPO_DATA_DIR) or the suite is a
    published one, else products of digits. A model of the mini scale gets problems of its suite.

    Raises:
        DataError: A published set is missing or changed.
    """
    published = not config.suite.startswith("mini")
    if not model.tokenizer.chat_template:
        name = (config.benchmarks or get_suite(config.suite, data_dir=config.data_dir).benchmarks)[0]
        return _benchmark_questions(config, model, name, count)
    if not (published or config.data_dir or os.environ.get(DATA_DIR_VARIABLE)):
        return _products_for_chat(config, model, count)
    suite = config.suite if published else "math"
    default = _EXAMPLE_BENCHMARK if suite == "math" else get_suite(suite, data_dir=config.data_dir).benchmarks[0]
    name = config.benchmarks[0] if published and config.benchmarks else default
    found = _benchmark_questions(config.model_copy(update={"suite": suite}), model, name, 500)
    # MATH-500 has levels 1 to 5; shorter questions are quicker to read.
    easier = sorted(
        range(len(found.problems)),
        key=lambda i: (found.problems[i].metadata.get("level") or 0, len(found.prompts[i]), i),
    )[:count]
    return replace(found, problems=[found.problems[i] for i in easier], prompts=[found.prompts[i] for i in easier])


def _benchmark_questions(config: EvaluationConfig, model: LanguageModel, name: str, count: int) -> Questions:
    return replace(suite_questions(config.model_copy(update={"benchmarks": (name,)}), model, count), source=name)


def _products_for_chat(config: EvaluationConfig, model: LanguageModel, count: int) -> Questions:
    problems = get_suite("mini").benchmark(_EXAMPLE_FAMILY, count, config.eval_seed, None, {}).problems
    request = "Think step by step, then put the final answer in \\boxed{}."
    messages = [[{"role": "user", "content": f"{problem.question} {request}"}] for problem in problems]
    prompts = [render(model.tokenizer, message) for message in messages]

    # The paper's grader, which also reads answers outside of a box.
    def grade(problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        return grade_math(list(completions), [problem.answer for problem in problems])

    return Questions(_EXAMPLE_FAMILY, problems, prompts, grade)


def mixed_group(
    questions: Questions, model: LanguageModel, n: int, temperature: float, max_tokens: int, seed: int
) -> tuple[Problem, list[Trajectory], NDArray[np.bool_]]:
    """`n` rollouts of the first problem with mixed outcomes (some correct, some wrong), or else of the last problem.

    Returns:
        The problem, its rollouts, and whether each is correct, shape (n,).
    """
    for i, (problem, prompt) in enumerate(zip(questions.problems, questions.prompts, strict=True)):
        group = sample_trajectories(model, [prompt], n, temperature, max_tokens, derive_seed(seed, problem.id))
        verdicts = questions.grade([problem] * n, [t.text for t in group])
        correct = np.array([verdict.correct for verdict in verdicts])
        if 0 < correct.sum() < n or i + 1 == len(questions.problems):
            return problem, group, correct
    raise ValueError("There are no questions.")


def group_advantages(rewards: ArrayLike, group: int) -> NDArray[np.float64]:
    """Eq. 1: rewards minus the mean of their group, divided by its standard deviation.

    Args:
        rewards: Shape (N,), the rollouts of a prompt next to each other.
        group: Rollouts per prompt, G.

    Returns:
        Shape (N,); 0 if all rewards of a group are equal.

    Raises:
        ValueError: N is not a multiple of G.

    Example:
        >>> group_advantages([1, 0, 1, 1], group=2).tolist()
        [1.0, -1.0, 0.0, 0.0]
    """
    values = np.asarray(rewards, dtype=np.float64)
    if group < 1 or values.ndim != 1 or len(values) % group:
        raise ValueError(f"rewards must hold whole groups of {group}, got shape {values.shape}.")
    groups = values.reshape(-1, group)
    deviation = groups.std(axis=1, keepdims=True)
    # Rounding: the mean of equal rewards may differ from them, and the deviation of close ones may be 0.
    equal = (np.ptp(groups, axis=1, keepdims=True) == 0) | (deviation == 0)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return np.where(equal, 0.0, centred / np.where(equal, 1.0, deviation)).ravel()
