"""The mini scale's problems: reasoning-gym families, answer matching, and a teacher that writes solutions.

Questions and answer checks are reasoning-gym's, except those of "leg_choice", a multiple-choice family in place of
Table 5's commonsense questions, and of "lookups" (`tampo.tasks.lookups`). This module adds a train/test split by a hash
of the question, worked solutions in steps short enough for a tiny model, and the marker of an answer. The teacher can
make mistakes: a base model trained on them samples right and wrong computations, so reinforcement learning has
something to improve.
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

from tampo.tasks.lookups import make_lookup, solve_lookups

Split = Literal["train", "test"]

# Operand ranges set the difficulty; with the shipped base model the five benchmarks differ in it.
_CONFIGS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1},
    "fraction_simplification": {"max_value": 50, "min_factor": 2, "max_factor": 9, "styles": ("plain",)},
    "gcd": {"min_value": 2, "max_value": 70},
    "products": {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "simple_equations": {"max_terms": 2, "max_value": 15, "operators_weights": [0.5, 0.5, 0.0]},
}

TASKS: tuple[str, ...] = tuple(_CONFIGS)
CHOICE_TASKS: tuple[str, ...] = ("leg_choice",)  # multiple choice; has a separate base model
FACT_TASKS: tuple[str, ...] = ("lookups",)  # facts to know by heart; has a separate base model

LETTERS = "ABCDE"

_TEST_SHARE = 0.25
_MAX_REPEATS = 10_000  # known questions in a row, then the family counts as exhausted
_ANSWER = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer, and `metadata` for answer matching.

    `id` is unique within one list: "<task>-<split>-<index>" here, in published sets the publisher's if there is one.
    """

    id: str
    task: str
    question: str
    answer: str
    metadata: Mapping[str, Any] = field(repr=False, compare=False)


def make_problems(task: str, count: int, seed: int = 0, split: Split = "train") -> list[Problem]:
    """The first `count` distinct problems of a family, a function of task, seed and split.

    A longer list begins with the shorter one. Train and test problems never share a question, whatever their seeds.
    Raises ValueError for an unknown task or split, a negative count, or an exhausted family.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; known: 'train', 'test'")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    found: dict[str, Problem] = {}  # by question
    repeats, entries = 0, _entries(task, seed)
    while len(found) < count:
        entry = next(entries)
        question = entry["question"]
        if _split_of(question) != split:
            continue
        if question not in found:
            name = f"{task}-{split}-{len(found)}"
            found[question] = Problem(name, task, question, entry["answer"], entry["metadata"])
            repeats = 0
        elif (repeats := repeats + 1) > _MAX_REPEATS:
            raise ValueError(f"task {task!r} has only {len(found)} {split} problems, {count} were asked for")
    return list(found.values())


def format_prompt(question: str) -> str:
    """The prompt that the mini model was trained on: the question and a newline."""
    return f"{question}\n"


def extract_answer(completion: str) -> str | None:
    r"""The stripped text in the last `\boxed{...}` (without nested braces); None without one."""
    answers = _ANSWER.findall(completion)
    return answers[-1].strip() if answers else None


def is_correct(problem: Problem, completion: str) -> bool:
    """Whether reasoning-gym gives the boxed answer full marks. Never raises on text."""
    _check_task(problem.task)
    answer = extract_answer(completion)
    if answer is None:
        return False
    if problem.task in _MAKERS:
        return answer == problem.answer
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return _dataset(problem.task).score_answer(answer, entry) >= 1.0
    except (ArithmeticError, ValueError):  # an answer that reasoning-gym cannot parse
        return False


def worked_solution(
    problem: Problem,
    rng: random.Random,
    slip: float = 0.0,
    skip: float = 0.0,
    give_up: float = 0.0,
    habit: float = 0.0,
) -> str:
    r"""A solution in steps that ends with `\boxed{answer}`.

    Args:
        problem: What to solve.
        rng: Source of the mistakes.
        slip: Probability that a computed value is wrong; later steps use it.
        skip: Probability that there are no steps, only the result: cheap, but often wrong for a model.
        give_up: Probability that the solution is only `\boxed{?}`, which is never correct.
        habit: Probability of the habitual value, where the family has wrong habits ("lookups").
    """
    _check_task(problem.task)
    if give_up > 0 and rng.random() < give_up:
        return r"\boxed{?}"
    skipped = skip > 0 and rng.random() < skip

    def write(value: int, habitual: int | None = None) -> int:
        if habitual is not None and habit > 0 and rng.random() < habit:
            return habitual
        if slip > 0 and rng.random() < slip:
            return value + rng.choice((-10, -2, -1, 1, 2, 10))
        return value

    steps, answer = _SOLVERS[problem.task](problem.metadata, write)
    return f"\\boxed{{{answer}}}" if skipped else f"{steps}\n\\boxed{{{answer}}}"


def _check_task(task: str) -> None:
    if task not in _SOLVERS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(_SOLVERS)}")


@cache
def _dataset(task: str) -> Any:
    import reasoning_gym  # takes a second, and a notebook that reads results needs no problems

    return reasoning_gym.create_dataset(task, seed=0, size=1, **_CONFIGS[task])


def _entries(task: str, seed: int) -> Iterator[dict[str, Any]]:
    _check_task(task)
    # reasoning-gym draws item i from seed + i: neighbouring seeds would give shifted copies of one list.
    start = int.from_bytes(hashlib.sha256(f"{task}/{seed}".encode()).digest()[:6], "big")
    for index in itertools.count(start):
        yield _MAKERS[task](index) if task in _MAKERS else _dataset(task)[index]


def make_choice(index: int) -> dict[str, Any]:
    """Question `index`, which of five animals has the most, or the fewest, legs, as a reasoning-gym entry.

    One option is correct. The numbers of legs are reasoning-gym's.
    """
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    rng = random.Random(index)
    most = rng.random() < 0.5
    names = sorted(ANIMALS)
    while True:
        options = rng.sample(names, len(LETTERS))
        legs = [ANIMALS[name] for name in options]
        if legs.count(_pick(legs, most)) == 1:
            break
    offered = "\n".join(f"{letter} {name}" for letter, name in zip(LETTERS, options, strict=True))
    return {
        "question": f"Which has the {'most' if most else 'fewest'} legs?\n{offered}",
        "answer": LETTERS[legs.index(_pick(legs, most))],
        "metadata": {"options": options, "legs": legs, "most": most},
    }


def _split_of(question: str) -> Split:
    first = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big")
    return "test" if first < _TEST_SHARE * 2**32 else "train"


# Solvers return the steps and the answer of a problem's metadata; every computed value passes through `write`.
Write = Callable[..., int]
Metadata = Mapping[str, Any]

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _solve_chain(metadata: Metadata, write: Write) -> tuple[str, str]:
    terms = metadata["expression"].split()  # "12 + 34 - 5" or "6 * 7 * 8"
    total, steps = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        result = write(_OPERATORS[sign](total, int(term)))
        steps.append(f"{total}{sign}{term}={result}")
        total = result
    return "\n".join(steps), str(total)


def _solve_gcd(metadata: Metadata, write: Write) -> tuple[str, str]:
    high, low = sorted(metadata["numbers"], reverse=True)
    steps = []
    while low:
        # A wrong remainder is reduced below the divisor, so that the algorithm ends.
        remainder = write(high % low) % low
        steps.append(f"{high}%{low}={remainder}")
        high, low = low, remainder
    return "\n".join(steps), str(high)


def _solve_fraction_simplification(metadata: Metadata, write: Write) -> tuple[str, str]:
    over, under = metadata["numerator"], metadata["denominator"]
    chain = ""
    while (common := math.gcd(over, under)) > 1:
        prime = next(p for p in range(2, common + 1) if common % p == 0)
        # Mistakes must not make the fraction larger, so that the chain ends.
        over, under = (min(max(write(value // prime), 1), value - 1) for value in (over, under))
        chain += f"={over}/{under}"
    return chain, f"{over}/{under}"


def _solve_simple_equations(metadata: Metadata, write: Write) -> tuple[str, str]:
    name = metadata["variable"]
    left, right = metadata["equation"].split(" = ")
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


def solve_choice(metadata: Metadata, write: Write) -> tuple[str, str]:
    legs = [abs(write(count)) for count in metadata["legs"]]
    steps = "\n".join(f"{letter}={count}" for letter, count in zip(LETTERS, legs, strict=True))
    return steps, LETTERS[legs.index(_pick(legs, metadata["most"]))]


def _pick(legs: list[int], most: bool) -> int:
    return max(legs) if most else min(legs)


_SOLVERS: dict[str, Callable[[Metadata, Write], tuple[str, str]]] = {
    "chain_sum": _solve_chain,
    "fraction_simplification": _solve_fraction_simplification,
    "gcd": _solve_gcd,
    "products": _solve_chain,
    "simple_equations": _solve_simple_equations,
    "leg_choice": solve_choice,
    "lookups": solve_lookups,
}

# Of the families that are not reasoning-gym's.
_MAKERS: dict[str, Callable[[int], dict[str, Any]]] = {"leg_choice": make_choice, "lookups": make_lookup}
