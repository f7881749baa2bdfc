"""Users' own suite: a training set and benchmarks as JSONL files in a folder, without code.

`train.jsonl` is the training set, and every other `*.jsonl` is a benchmark, called by its stem. Files are read as data:
nothing in them is executed.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tampo.files import sha256
from tampo.grading import Grader, Status, Verdict, grade_math
from tampo.grading.answers import version_of
from tampo.grading.extraction import closed_boxes
from tampo.project import user_path
from tampo.tasks.mini import Problem
from tampo.tasks.prompts import Message
from tampo.tasks.published import BENCHMARKS, DATA_DIR_VARIABLE, DataError, Loaded, read_jsonl

Judge = Grader | Literal["exact"]

_TRAINING = "train"
_EXACT_VERSION = 1  # raised whenever a verdict of "exact" may change
_ROLES = ("system", "user", "assistant")
_NAME = re.compile(r"\w[\w.-]{0,39}")  # names are parts of lists, of file names and of headings
_RESERVED = ("Average", *BENCHMARKS)  # the tables' own row, and names that the paper's values belong to
_ANSWER_LENGTH = 1_000  # characters of the answer in a verdict, as in `tampo.grading.pool`


class OwnSuite:
    """Problems from the user's files, graded by `judge`.

    Args:
        judge: "tampo" or "math-verify" (`tampo.grading.grade_math`), or "exact": the text in the last box, or else the
            whole completion, must be the answer.
        data_dir: The folder. None: that in the variable TAMPO_DATA_DIR.
    """

    def __init__(self, judge: Judge, data_dir: str | None = None) -> None:
        self._judge: Judge = judge
        self._data_dir = data_dir
        self.grader: str | None = f"exact {_EXACT_VERSION}" if judge == "exact" else version_of(judge)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The stems of the benchmarks' files, sorted.

        Raises:
            DataError: There is no such folder or no benchmark in it, or a file's name cannot be a benchmark's.
        """
        folder = _folder(self._data_dir)
        try:
            files = [path for path in folder.iterdir() if path.suffix == ".jsonl" and path.is_file()]
        except OSError as error:
            raise DataError(f"Cannot read the folder {folder}: {error.strerror}. Mend data_dir.") from error
        names = sorted(path.stem for path in files if path.stem != _TRAINING and not path.name.startswith("."))
        for name in names:
            if name in _RESERVED or not _NAME.fullmatch(name):
                raise DataError(
                    f"{folder / name}.jsonl: a benchmark cannot be called {name!r}. Rename the file: at most 40 "
                    f"letters, digits, dots, dashes and underscores, and none of {', '.join(_RESERVED)}."
                )
        if not names:
            raise DataError(
                f"There is no benchmark in {folder}. Add a file such as test.jsonl; every *.jsonl but "
                f"{_TRAINING}.jsonl is a benchmark."
            )
        return tuple(names)

    def training(self, count: int | None, seed: int, data_dir: str | None, revisions: Mapping[str, str]) -> Loaded:
        """The first `count` rows of train.jsonl, or all. Every row is checked."""
        return _load(self._path(_TRAINING, data_dir), count)

    def benchmark(
        self, name: str, count: int | None, seed: int, data_dir: str | None, revisions: Mapping[str, str]
    ) -> Loaded:
        """The first `count` rows of a benchmark's file, or all. Every row is checked."""
        return _load(self._path(name, data_dir), count)

    def content(
        self, training: bool, benchmarks: Sequence[str], data_dir: str | None, revisions: Mapping[str, str]
    ) -> dict[str, str]:
        """The SHA-256 of each file that is used, by its name."""
        if revisions:
            raise DataError(
                f"data_revisions names {', '.join(sorted(revisions))}, but suite own reads files only. Leave it out."
            )
        paths = [self._path(name, data_dir) for name in (*((_TRAINING,) if training else ()), *benchmarks)]
        try:
            return {path.name: sha256(path) for path in paths}
        except OSError as error:
            raise DataError(f"Cannot read {error.filename}: {error.strerror}.") from error

    def prompt(self, problem: Problem) -> str | list[Message]:
        """The row's prompt as it is: a text, or messages for a chat template."""
        prompt: str | list[Message] = problem.metadata["prompt"]
        return prompt

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        """One verdict per completion. Never raises on text."""
        golds = [problem.answer for problem in problems]
        if self._judge == "exact":
            return [_exact(completion, gold) for completion, gold in zip(completions, golds, strict=True)]
        return grade_math(completions, golds, grader=self._judge)

    def _path(self, name: str, data_dir: str | None) -> Path:
        folder = _folder(data_dir or self._data_dir)
        path = folder / f"{name}.jsonl"
        # A name with a path in it could lead out of the folder.
        if path.parent != folder or not path.is_file():
            what = "the training set is read from it" if name == _TRAINING else "a benchmark is read from it"
            raise DataError(f"There is no file {name}.jsonl in {folder}: {what}. Add the file, or mend data_dir.")
        return path


def _folder(data_dir: str | None) -> Path:
    given = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not given:
        raise DataError(f"Suite own needs a folder of JSONL files: set data_dir, or the variable {DATA_DIR_VARIABLE}.")
    folder = user_path(given, "data_dir")
    if not folder.is_dir():
        raise DataError(f"data_dir {given}: there is no such folder. Set data_dir to the folder of your JSONL files.")
    return folder


def _load(path: Path, count: int | None) -> Loaded:
    problems: dict[str, Problem] = {}
    lines: dict[str, int] = {}
    kind: type | None = None  # of the first prompt
    for number, row in read_jsonl(path, "Mend the line.", "Mend data_dir or the file's permissions."):
        where = f"{path}, line {number}"
        prompt = _prompt(row, where)
        kind = kind or type(prompt)
        if type(prompt) is not kind:  # a training set has one form: TRL looks at its first row
            raise _bad(row, "prompt", where, f"{_FORMS[kind]}, as in the rows before")
        name = _id(row, where) or f"{path.stem}-{number}"
        if name in problems:
            raise DataError(f"{where}, column 'id': {name!r} is the id of line {lines[name]} too. Give unique ids.")
        lines[name] = number
        problems[name] = Problem(name, path.stem, _question(prompt), _answer(row, where), {"prompt": prompt})
    if not problems:
        raise DataError(f"{path} is empty. Write one JSON object a line, with prompt and answer.")
    source = {"name": path.stem, "dataset": "own", "rows": len(problems), "files": {path.name: sha256(path)}}
    return Loaded(list(problems.values())[:count], source)


_FORMS: dict[type, str] = {str: "a text", list: "a list of messages"}


def _prompt(row: Mapping[str, Any], where: str) -> str | list[Message]:
    value = row.get("prompt")
    if _is_text(value):
        return str(value)
    if not isinstance(value, list) or not value:
        raise _bad(row, "prompt", where, "a text that is not blank, or a list of messages")
    messages = []
    for item in value:
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if role not in _ROLES or not _is_text(content):
            raise _bad(
                row, "prompt", where, f"messages with a role ({', '.join(_ROLES)}) and a content that is not blank"
            )
        messages.append({"role": str(role), "content": str(content)})
    if messages[-1]["role"] != "user":  # a template would end another turn in training than in an evaluation
        raise _bad(row, "prompt", where, "messages of which the last is the user's")
    return messages


def _question(prompt: str | list[Message]) -> str:
    """What `tampo.tasks.overlaps` compares: without the system prompt, which all problems share."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message["role"] == "user")


def _answer(row: Mapping[str, Any], where: str) -> str:
    value = row.get("answer")
    if type(value) is int or (type(value) is float and math.isfinite(value)):  # JSON's true is no number
        return str(value)
    if not _is_text(value):
        raise _bad(row, "answer", where, "a text that is not blank, or a number")
    return str(value).strip()


def _id(row: Mapping[str, Any], where: str) -> str | None:
    value = row.get("id")
    if value is not None and not _is_text(value):
        raise _bad(row, "id", where, "a text that is not blank, or no id")
    return value


def _is_text(value: Any) -> bool:
    # JSON can hold halves of surrogate pairs, which no tokenizer and no file takes.
    return isinstance(value, str) and bool(value.strip()) and not re.search(r"[\ud800-\udfff]", value)


def _bad(row: Mapping[str, Any], column: str, where: str, expected: str) -> DataError:
    found = f"{row[column]!r:.200}" if column in row else f"only {sorted(row)}"
    return DataError(f"{where}, column {column!r}: expected {expected}, found {found}. Mend the line.")


def _exact(completion: str, gold: str) -> Verdict:
    text, boxed = completion.strip(), _last_box(completion)
    if not text:
        return Verdict(False, "unparseable", None)
    answer = text if boxed is None else boxed
    status: Status = "correct" if answer == gold else "wrong"
    return Verdict(answer == gold, status, answer[:_ANSWER_LENGTH])


def _last_box(text: str) -> str | None:
    r"""The stripped text in the last closed `\boxed{...}`, in linear time; None without one."""
    boxes = (box for box in closed_boxes(text) if "boxed" in box[0][0])  # no other kind of box
    last = max(boxes, key=lambda box: box[0].start(), default=None)
    return text[last[0].end() : last[1].start()].strip() if last else None
