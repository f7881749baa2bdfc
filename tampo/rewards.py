"""Reward functions for TRL's `reward_funcs`."""

from collections.abc import Callable, Iterable

from tampo.tasks import Problem, score

RewardFunction = Callable[..., list[float]]


def task_accuracy(problems: Iterable[Problem]) -> RewardFunction:
    """A reward of 1 for a completion that reasoning-gym's scorer gives its full mark, else 0.

    Args:
        problems: Every problem of the training set.

    Returns:
        A function of `completions` (texts) and `problem_id` (a column of the training set), named "accuracy".
    """
    by_id = {problem.id: problem for problem in problems}

    def accuracy(completions: list[str], problem_id: list[str], **columns: object) -> list[float]:
        return [float(score(by_id[name], text)) for name, text in zip(problem_id, completions, strict=True)]

    return accuracy
