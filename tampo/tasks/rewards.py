"""Reward functions for TRL's `reward_funcs`, in `TAMPOTrainer` and `GRPOTrainer`.

Each takes TRL's `completions` (texts, or lists of messages for conversational prompts) and columns of the data set by
keyword, and returns one number per completion, or None for no reward.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tampo.tasks.mini import Problem
from tampo.tasks.prompts import format_ok
from tampo.tasks.suites import Suite

RewardFunction = Callable[..., list[float | None]]


def accuracy_reward(suite: Suite, problems: Iterable[Problem]) -> RewardFunction:
    """1 for a correct completion, 0 for a wrong, unparseable or late one; a function of the column `problem_id`.

    A gold answer that cannot be parsed gives None: TRL leaves such completions out of the group's baseline. Logs the
    shares of other verdicts as accuracy/<status>, and adds problem and verdict to TRL's table of completions.

    Args:
        suite: Grades the completions.
        problems: Every problem of the training set.
    """
    by_id = {problem.id: problem for problem in problems}

    def accuracy(
        completions: Sequence[Any],
        problem_id: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[str]], None] | None = None,
        **columns: object,
    ) -> list[float | None]:
        verdicts = suite.grade([by_id[name] for name in problem_id], [completion_text(c) for c in completions])
        if log_metric is not None:
            counts = Counter(verdict.status for verdict in verdicts)
            for status in ("unparseable", "timeout", "gold_unparseable"):
                log_metric(f"accuracy/{status}", counts[status] / len(verdicts))
        if log_extra is not None:
            log_extra("problem_id", list(problem_id))
            log_extra("verdict", [verdict.status for verdict in verdicts])
        return [None if v.status == "gold_unparseable" else float(v.correct) for v in verdicts]

    return accuracy


def format_reward(opened_think: bool) -> RewardFunction:
    """1 for a completion in the format that `tampo.tasks.prompts` asks for, else 0; the function's name is "format".

    Args:
        opened_think: Whether the chat template opens the think block (`tampo.tasks.prompts.think_opened`).
    """

    def form(completions: Sequence[Any], **columns: object) -> list[float | None]:
        return [float(format_ok(completion_text(completion), opened_think)) for completion in completions]

    form.__name__ = "format"
    return form


def completion_text(completion: str | Sequence[dict[str, str]]) -> str:
    """The text of a completion of a reward function: itself, or the contents of its messages."""
    return completion if isinstance(completion, str) else "".join(m.get("content") or "" for m in completion)
