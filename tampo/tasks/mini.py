"""The mini scale's problems: five reasoning-gym families, their scorers, and a teacher who writes solutions.

Questions and scorers are reasoning-gym's own. What is added here is a split that cannot leak (a hash of the
question text says whether a problem is for training or for testing), a worked solution in steps short enough
for a tiny model, and the marker by which an answer is found. The teacher can be made noisy: a base model that
has seen slips samples right and wrong computations, which is what leaves reinforcement learning room to work.
"""

import hashlib
import itertools
import math
import operator
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import reasoning_gym

from tampo.tasks import choices

Split = Literal["train", "test"]

# Operand ranges set the difficulty: measured with the shipped base they spread the five benchmarks.
_CONFIGS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1},
    "fraction_simplification": {"max_value": 50, "min_factor": 2, "max_factor": 9, "styles": ("plain",)},
    "gcd": {"min_value": 2, "max_value": 70},
    "products": {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "simple_equations": {"max_terms": 2, "max_value": 15, "operators_weights": [0.5, 0.5, 0.0]},
}

TASKS: tuple[str, ...] = tuple(_CONFIGS)
CHOICE_TASKS: tuple[str, ...] = ("leg_choice",)  # multiple choice, with a base model of its own

_TEST_SHARE = 0.25
_MAX_REPEATS = 10_000  # this many known questions in a row: the family has no more to give
_ANSWER = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer; `metadata` is what reasoning-gym's scorer needs beside them.

    `id` is unique within one list; here "<task>-<split>-<index>", in published sets the publisher's where it exists.
    """

    id: str
    task: str
    question: str
    answer: str
    metadata: Mapping[str, Any] = field(repr=False, compare=False)


def make_problems(task: str, count: int, seed: int = 0, split: Split = "train") -> list[Problem]:
    """The first `count` distinct problems of a family, the same for the same task, seed and split.

    A longer list begins with the shorter one. A train and a test problem never share a question, whatever
    their seeds. Raises ValueError for an unknown task or split, a negative count, or when the family has no
    more to give.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; known: 'train', 'test'")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    problems: list[Problem] = []
    seen: set[str] = set()
    repeats = 0
    entries = _entries(task, seed)
    while len(problems) < count:
        entry = next(entries)
        question = entry["question"]
        if _split_of(question) != split:
            continue
        if question in seen:
            repeats += 1
            if repeats > _MAX_REPEATS:
                raise ValueError(f"task {task!r} has only {len(seen)} {split} problems, {count} were asked for")
            continue
        repeats = 0
        seen.add(question)
        name = f"{task}-{split}-{len(problems)}"
        problems.append(Problem(name, task, question, entry["answer"], entry["metadata"]))
    return problems


def format_prompt(question: str) -> str:
    """The plain-text prompt the mini model was trained on: the question and a newline."""
    return f"{question}\n"


def extract_answer(completion: str) -> str | None:
    r"""The text in the last `\boxed{...}` (without nested braces), stripped; None when there is none."""
    answers = _ANSWER.findall(completion)
    return answers[-1].strip() if answers else None


def score(problem: Problem, completion: str) -> bool:
    """Whether reasoning-gym's scorer gives the boxed answer full marks. Never raises on text."""
    _check_task(problem.task)
    answer = extract_answer(completion)
    if answer is None:
        return False
    if problem.task in CHOICE_TASKS:
        return answer == problem.answer
    dataset = _dataset(problem.task)
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return dataset.score_answer(answer, entry) >= 1.0
    except (ArithmeticError, ValueError):  # an answer the scorer cannot parse is a wrong one
        return False


def worked_solution(
    problem: Problem, rng: random.Random, slip: float = 0.0, skip: float = 0.0, give_up: float = 0.0
) -> str:
    r"""A solution in steps that ends with `\boxed{answer}`.

    With probability `slip` each computed value is wrong and the steps go on from it. With probability `skip` the
    steps are left out and only the result is given: a habit that is cheap, and hard to get right. With probability
    `give_up` all there is is `\boxed{?}`, which is never right.
    """
    _check_task(problem.task)
    if give_up > 0 and rng.random() < give_up:
        return r"\boxed{?}"
    skipped = skip > 0 and rng.random() < skip

    def write(value: int) -> int:
        if slip > 0 and rng.random() < slip:
            return value + rng.choice((-10, -2, -1, 1, 2, 10))
        return value

    steps, answer = _SOLVERS[problem.task](problem, write)
    return f"\\boxed{{{answer}}}" if skipped else f"{steps}\n\\boxed{{{answer}}}"


def _check_task(task: str) -> None:
    if task not in _SOLVERS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(_SOLVERS)}")


@cache
def _dataset(task: str) -> Any:
    return reasoning_gym.create_dataset(task, seed=0, size=1, **_CONFIGS[task])


def _entries(task: str, seed: int) -> Iterator[dict[str, Any]]:
    _check_task(task)
    # reasoning-gym draws item i from seed + i, so neighbouring seeds give shifted copies of one list: a hash
    # sets them far apart.
    start = int.from_bytes(hashlib.sha256(f"{task}/{seed}".encode()).digest()[:6], "big")
    for index in itertools.count(start):
        yield choices.make_entry(index) if task in CHOICE_TASKS else _dataset(task)[index]


def _split_of(question: str) -> Split:
    first = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big")
    return "test" if first < _TEST_SHARE * 2**32 else "train"


# The solvers: each returns the steps and the answer, passing every value it computes through `write`.
Write = Callable[[int], int]

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _solve_chain(problem: Problem, write: Write) -> tuple[str, str]:
    terms = problem.metadata["expression"].split()  # "12 + 34 - 5" or "6 * 7 * 8"
    total, steps = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        result = write(_OPERATORS[sign](total, int(term)))
        steps.append(f"{total}{sign}{term}={result}")
        total = result
    return "\n".join(steps), str(total)


def _solve_gcd(problem: Problem, write: Write) -> tuple[str, str]:
    high, low = sorted(problem.metadata["numbers"], reverse=True)
    steps = []
    while low:
        # A slipped remainder is brought back below the divisor, so that Euclid always ends.
        remainder = write(high % low) % low
        steps.append(f"{high}%{low}={remainder}")
        high, low = low, remainder
    return "\n".join(steps), str(high)


def _solve_fraction_simplification(problem: Problem, write: Write) -> tuple[str, str]:
    over, under = problem.metadata["numerator"], problem.metadata["denominator"]
    chain = ""
    while (common := math.gcd(over, under)) > 1:
        prime = next(p for p in range(2, common + 1) if common % p == 0)
        # Slips must not make a fraction grow, or the chain might never end.
        over, under = (min(max(write(value // prime), 1), value - 1) for value in (over, under))
        chain += f"={over}/{under}"
    return chain, f"{over}/{under}"


def _solve_simple_equations(problem: Problem, write: Write) -> tuple[str, str]:
    name = problem.metadata["variable"]
    left, right = problem.metadata["equation"].split(" = ")
    first, sign, second = left.split()  # "3*x + 4", "3*x - 4" or "4 - 3*x"
    if name in first:
        coefficient = int(first.partition("*")[0]) if "*" in first else 1
        inverse = "-" if sign == "+" else "+"
        moved = f"{right}{inverse}{second}"
        total = int(right) - int(second) if sign == "+" else int(right) + int(second)
    else:
        coefficient = int(second.partition("*")[0]) if "*" in second else 1
        moved, total = f"{first}-{right}", int(first) - int(right)
        if int(right) < 0:
            moved = f"{first}+{-int(right)}"
    total = write(total)
    value = write(round(total / coefficient))
    return f"{coefficient}*{name}={moved}={total}\n{name}={total}/{coefficient}={value}", str(value)


def _solve_choice(problem: Problem, write: Write) -> tuple[str, str]:
    return choices.solve(problem.metadata, write)


_SOLVERS: dict[str, Callable[[Problem, Write], tuple[str, str]]] = {
    "chain_sum": _solve_chain,
    "fraction_simplification": _solve_fraction_simplification,
    "gcd": _solve_gcd,
    "products": _solve_chain,
    "simple_equations": _solve_simple_equations,
    "leg_choice": _solve_choice,
}
