"""Suites of tasks: the mini scale's, competition mathematics, commonsense choices, and the user's own.

A suite has problems, makes prompts of them and grades completions. Training, rewards and evaluation use suites only
through this protocol.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from tampo.grading import Grader, Status, Verdict, grade_math
from tampo.grading.answers import version_of
from tampo.tasks import mini
from tampo.tasks.mini import LETTERS, Problem
from tampo.tasks.own import Judge, OwnSuite
from tampo.tasks.prompts import Message, problem_messages
from tampo.tasks.published import DataError, Loaded, load_benchmark, load_training, published_content

Prompt = str | list[Message]
Revisions = Mapping[str, str]


class Suite(Protocol):
    """A training set and benchmarks. `data_dir` and `revisions` (by name) select the source of published sets."""

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The names of the benchmarks."""

    grader: str | None  # what a result depends on beside the data: rules and library with their versions

    def training(self, count: int | None, seed: int, data_dir: str | None, revisions: Revisions) -> Loaded:
        """The training set: its first `count` problems (of each family), or all."""

    def benchmark(self, name: str, count: int | None, seed: int, data_dir: str | None, revisions: Revisions) -> Loaded:
        """The first `count` problems of one of `benchmarks`, or all."""

    def content(
        self, training: bool, benchmarks: Sequence[str], data_dir: str | None, revisions: Revisions
    ) -> dict[str, str]:
        """What the training set, if `training`, and benchmarks are known by: SHA-256 by file, or commit by set."""

    def prompt(self, problem: Problem) -> Prompt:
        """The prompt: a text, or messages for a chat template."""

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        """One verdict per completion; `problems` holds the problem of each. Never raises on text."""


class _Mini:
    """Families of `tampo.tasks.mini`; each is a benchmark and a part of the training set."""

    def __init__(self, families: tuple[str, ...]) -> None:
        self.benchmarks = families
        self.grader: str | None = None

    def training(self, count: int | None, seed: int, data_dir: str | None, revisions: Revisions) -> Loaded:
        families = [mini.make_problems(task, count or 2000, seed, "train") for task in self.benchmarks]
        return Loaded([p for family in families for p in family], {"name": "mini", "seed": seed})

    def benchmark(self, name: str, count: int | None, seed: int, data_dir: str | None, revisions: Revisions) -> Loaded:
        return Loaded(mini.make_problems(name, count or 200, seed, "test"), {"name": name, "seed": seed})

    def content(
        self, training: bool, benchmarks: Sequence[str], data_dir: str | None, revisions: Revisions
    ) -> dict[str, str]:
        return {}  # made from seeds

    def prompt(self, problem: Problem) -> Prompt:
        return mini.format_prompt(problem.question)

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        verdicts = []
        for problem, completion in zip(problems, completions, strict=True):
            answer, correct = mini.extract_answer(completion), mini.is_correct(problem, completion)
            status: Status = "unparseable" if answer is None else "correct" if correct else "wrong"
            verdicts.append(Verdict(correct, status, answer))
        return verdicts


class _Published:
    """Problems of `tampo.tasks.published`, graded by `tampo.grading`."""

    def __init__(self, training_set: str, benchmarks: tuple[str, ...], grader: Grader) -> None:
        self._training_set, self.benchmarks, self._grader = training_set, benchmarks, grader
        self.grader: str | None = version_of(grader)

    def training(self, count: int | None, seed: int, data_dir: str | None, revisions: Revisions) -> Loaded:
        revision = revisions.get(self._training_set)
        return load_training(self._training_set, data_dir=data_dir, revision=revision, limit=count)

    def benchmark(self, name: str, count: int | None, seed: int, data_dir: str | None, revisions: Revisions) -> Loaded:
        return load_benchmark(name, data_dir=data_dir, revision=revisions.get(name), limit=count)

    def content(
        self, training: bool, benchmarks: Sequence[str], data_dir: str | None, revisions: Revisions
    ) -> dict[str, str]:
        known = (self._training_set, *self.benchmarks)
        if unknown := sorted(set(revisions) - set(known)):
            raise DataError(f"data_revisions names {', '.join(unknown)}; the sets here are {', '.join(known)}.")
        names = (*((self._training_set,) if training else ()), *benchmarks)
        return published_content(names, data_dir, revisions)

    def prompt(self, problem: Problem) -> Prompt:
        return problem_messages(problem)

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        golds = [problem.answer for problem in problems]
        tolerances = [problem.metadata.get("error") for problem in problems]
        verdicts = grade_math(completions, golds, tolerances, grader=self._grader)
        return [_same_option(problem, verdict) for problem, verdict in zip(problems, verdicts, strict=True)]


def _same_option(problem: Problem, verdict: Verdict) -> Verdict:
    """In some ECQA questions two options have the gold text: both letters are correct."""
    choices, letter = problem.metadata.get("choices", ()), verdict.answer
    named = choices[LETTERS.index(letter)] if choices and letter in tuple(LETTERS) else None
    if verdict.status == "wrong" and named is not None and named == problem.metadata["answer_text"]:
        return Verdict(True, "correct", letter)
    return verdict


_MINI = {"mini": mini.TASKS, "mini-choice": mini.CHOICE_TASKS, "mini-facts": mini.FACT_TASKS}
_PUBLISHED = {
    "math": ("open-s1", ("AIME24", "MATH-500", "AMC23", "Minerva", "OlympiadBench")),
    "ecqa": ("ecqa", ("ECQA",)),
}


def get_suite(name: str, grader: Judge = "tampo", data_dir: str | None = None) -> Suite:
    """The suite called `name`: "mini", "mini-choice", "mini-facts", "math", "ecqa" or "own".

    Args:
        grader: Judges the answers of "math", "ecqa" and "own" (`tampo.grading.grade_math`); "exact" is for "own" only.
        data_dir: The folder that "own" finds its benchmarks in.

    Raises:
        ValueError: Another name, or another grader than the suite has; tasks of a mini suite judge their answers
            themselves.
    """
    if name not in {*_MINI, *_PUBLISHED, "own"}:
        raise ValueError(f"Unknown suite {name!r}; known are {', '.join([*_MINI, *_PUBLISHED, 'own'])}.")
    if name == "own":
        return OwnSuite(grader, data_dir)
    if grader == "exact":
        raise ValueError(f"grader 'exact' judges the suite own only, not {name}.")
    if name in _PUBLISHED:
        return _Published(*_PUBLISHED[name], grader)
    if grader != "tampo":
        raise ValueError(f"grader {grader!r} judges the suites math, ecqa and own only; {name} has judges of its own.")
    return _Mini(_MINI[name])
