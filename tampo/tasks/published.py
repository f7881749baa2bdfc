"""Published benchmarks and training sets, from the Hugging Face hub or from local JSONL files.

The tables below give each set's source, number of rows, required columns and reader, which makes a `Problem` of a row.
Every row is checked: a set that has changed stops the run instead of changing its results. Where the publisher gives no
id, a hash of the question is the id.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tampo.files import sha256
from tampo.grading.extraction import find_boxed
from tampo.project import user_path
from tampo.tasks.hub import COMMIT, hub_commit
from tampo.tasks.mini import LETTERS, Problem

DATA_DIR_VARIABLE = "TAMPO_DATA_DIR"

_ID_COLUMNS = ("unique_id", "q_no", "id")
_KEPT = ("subject", "level", "type")  # metadata of mathematics problems, where given
_IN_PATH = re.compile(r"(?<![^\\/])[0-9a-f]{40}(?![^\\/])")


class DataError(ValueError):
    """A problem set is missing or has changed; the message names the set, the column and a solution."""


@dataclass(frozen=True)
class Loaded:
    """Problems, and their source as JSON values for a manifest.

    `source` holds: name; dataset (hub id); split; revision (the commit; None for local files, and for the hub where it
    is not known offline); rows (of the whole set); files (name: sha256; empty for the hub); stand_in (None, or a
    sentence when the files replace the set); and for ECQA letters (how they were found).
    """

    problems: list[Problem]
    source: dict[str, Any] = field(repr=False)


def load_benchmark(name: str, **options: Any) -> Loaded:
    """The problems of one of `BENCHMARKS`, in the publisher's order.

    Args:
        name: Name of the set.
        options: data_dir (folder of JSONL files to read instead of the hub; default: TAMPO_DATA_DIR, if set), revision
            (commit, branch or tag on the hub), limit (return only the first problems; every row is checked all the
            same), and check_rows (False accepts another number of rows than the published one).

    Raises:
        DataError: Unknown name, unreachable set, missing file or column, value of the wrong type, gold answer that is
            blank or cannot be found, repeated id, or wrong number of rows.
    """
    return _load(_BENCHMARKS, name, **options)


def load_training(name: str, **options: Any) -> Loaded:
    """The problems of one of `TRAINING_SETS`; options and errors as in `load_benchmark`.

    From local files "open-s1" is a stand-in, and `source` says so. The problems of "ecqa" have the task "ECQA".
    """
    return _load(_TRAINING, name, **options)


def read_jsonl(
    path: Path,
    damaged: str = "Restore the file.",
    unreadable: str = f"Add the file, or leave data_dir and {DATA_DIR_VARIABLE} unset to load from the hub.",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line of a JSONL file that is not blank.

    Args:
        damaged: The way out that an error of a line names.
        unreadable: The way out that an error of the file names.

    Raises:
        DataError: A missing file, or a line that is not one JSON object in UTF-8.
    """
    try:
        with open(path, "rb") as file:  # bytes split at \n only: texts may contain U+2028
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number}: not JSON in UTF-8 ({error}). {damaged}") from error
                if not isinstance(value, dict):
                    raise DataError(f"{path}, line {number}: expected a JSON object, found {line[:60]!r}. {damaged}")
                yield number, value
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. {unreadable}") from error


@dataclass(frozen=True)
class _Row:
    values: dict[str, Any]
    where: str  # "MATH-500: /data/math500.jsonl, line 3"
    solution: str

    def bad(self, column: str, expected: str) -> DataError:
        found = f"{self.values[column]!r:.200}" if column in self.values else f"only {sorted(self.values)}"
        return DataError(f"{self.where}, column {column!r}: expected {expected}, found {found}. {self.solution}")

    def text(self, column: str) -> str:
        value = self.values[column]
        if not isinstance(value, str) or not value.strip():
            raise self.bad(column, "text that is not blank")
        return value.strip()

    def texts(self, column: str) -> list[str]:
        value = self.values[column]
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.bad(column, "a list of texts that are not blank")
        return [v.strip() for v in value]


# A reader makes question, gold answer and metadata of a row.
_Parts = tuple[str, str, dict[str, Any]]


def _plain(row: _Row) -> _Parts:
    return row.text("problem"), row.text("answer"), {k: v for k, v in row.values.items() if k in _KEPT}


def _whole_number(row: _Row) -> _Parts:
    """AIME and AMC: "033", 33 and 33.0 are the same answer; the gold answer is "33"."""
    value = row.values["answer"]
    try:
        if isinstance(value, bool) or float(value) != int(float(value)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise row.bad("answer", "a whole number") from None
    return row.text("problem"), str(int(float(value))), {}


def _in_solution(row: _Row) -> _Parts:
    gold = find_boxed(row.text("solution"))
    if not gold:
        raise row.bad("solution", r"a solution with its answer in \boxed{}")
    return row.text("problem"), gold, {}


def _olympiad(row: _Row, question: str) -> _Parts:
    answers, tolerance = row.texts("final_answer"), row.values.get("error")
    try:
        error = float(tolerance) if tolerance not in (None, "") else None
    except (TypeError, ValueError):
        raise row.bad("error", "a number or nothing") from None
    metadata: dict[str, Any] = {"final_answer": answers, "error": error}
    for name, kind in (("is_multiple_answer", bool), ("unit", str), ("answer_type", str)):
        metadata[name] = row.values.get(name)  # None where the publisher gives none
        if not isinstance(metadata[name], kind | None):
            raise row.bad(name, f"{kind.__name__} or nothing")
    return row.text(question), ", ".join(answers), metadata


def _ecqa_by_text(row: _Row) -> _Parts:
    """The hub gives the text of the gold option. Where two options have it, the letter is that of the first."""
    choices, gold = [row.text(f"q_op{i}") for i in range(1, 6)], row.text("q_ans")
    if gold not in choices:
        raise row.bad("q_ans", f"one of the options {choices}")
    return _choice(row.text("q_text"), choices, LETTERS[choices.index(gold)], gold)


def _ecqa_by_letter(row: _Row) -> _Parts:
    choices, letter, gold = row.texts("choices"), row.text("answer"), row.text("answer_text")
    if len(choices) != len(LETTERS):
        raise row.bad("choices", "five options")
    if letter not in tuple(LETTERS) or choices[LETTERS.index(letter)] != gold:
        raise row.bad("answer", f"the letter of {gold!r} among {choices}")
    return _choice(row.text("problem"), choices, letter, gold)


def _choice(question: str, choices: list[str], letter: str, gold: str) -> _Parts:
    return question, letter, {"choices": choices, "letter": letter, "answer_text": gold}


@dataclass(frozen=True)
class _Form:
    rows: tuple[int, ...]  # accepted numbers of rows
    read: Callable[[_Row], _Parts]
    columns: tuple[str, ...] = ("problem", "answer")  # required in every row


@dataclass(frozen=True)
class _Set:
    dataset: str
    revision: str | None  # the commit on the hub; None: its newest
    split: str
    hub: _Form
    files: tuple[str, ...]
    local: _Form
    stand_in: str | None = None


def _ecqa(split: str, file: str, rows: int) -> _Set:
    hub = _Form((rows,), _ecqa_by_text, ("q_text", *(f"q_op{i}" for i in range(1, 6)), "q_ans"))
    local = _Form((rows,), _ecqa_by_letter, ("id", "problem", "choices", "answer", "answer_text"))
    return _Set("tasksource/ecqa", None, split, hub, (file,), local)


_AIME, _AMC = _Form((30,), _whole_number), _Form((40,), _whole_number)
_MATH = _Form((500,), _plain, ("problem", "answer", "subject", "level", "unique_id"))
_MATH_LOCAL = _Form((500,), _plain, ("problem", "answer", "subject", "level", "id"))
_MINERVA = _Form((272,), _in_solution, ("problem", "solution"))
_OLYMPIAD = _Form((674, 675), partial(_olympiad, question="question"), ("question", "final_answer"))
_OLYMPIAD_LOCAL = _Form((675,), partial(_olympiad, question="problem"), ("problem", "final_answer", "error", "unit"))
_OPEN_S1, _STAND_IN = _Form((18_615,), _plain), _Form((15_625,), _plain)
_STAND_IN_FILES = ("train_math7k.jsonl", "train_aime_1983_2023.jsonl", "train_amc.jsonl", "train_omni_math.jsonl")
_STAND_IN_NOTE = "Not knoveleng/open-s1 but a stand-in: MATH train, AIME 1983-2023, AMC before 2023 and Omni-MATH"

# Commits that many other projects pin too. None: no commit is known here, and the newest one is resolved and recorded.
_AIME_COMMIT, _MATH_COMMIT = "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
_OLYMPIAD_FILES = ("olympiadbench.jsonl",)

_BENCHMARKS: dict[str, _Set] = {
    "AIME24": _Set("HuggingFaceH4/aime_2024", _AIME_COMMIT, "train", _AIME, ("aime24.jsonl",), _AIME),
    "MATH-500": _Set("HuggingFaceH4/MATH-500", _MATH_COMMIT, "test", _MATH, ("math500.jsonl",), _MATH_LOCAL),
    "AMC23": _Set("knoveleng/AMC-23", None, "train", _AMC, ("amc23.jsonl",), _AMC),
    "Minerva": _Set("knoveleng/Minerva-Math", None, "train", _MINERVA, ("minerva_math.jsonl",), _Form((272,), _plain)),
    "OlympiadBench": _Set("knoveleng/OlympiadBench", None, "train", _OLYMPIAD, _OLYMPIAD_FILES, _OLYMPIAD_LOCAL),
    "ECQA": _ecqa("test", "ecqa_test.jsonl", 2_194),
}
_TRAINING: dict[str, _Set] = {
    "open-s1": _Set("knoveleng/open-s1", None, "train", _OPEN_S1, _STAND_IN_FILES, _STAND_IN, _STAND_IN_NOTE),
    "ecqa": _ecqa("train", "ecqa_train.jsonl", 7_598),
}
BENCHMARKS: tuple[str, ...] = tuple(_BENCHMARKS)
TRAINING_SETS: tuple[str, ...] = tuple(_TRAINING)


def _load(
    table: dict[str, _Set],
    name: str,
    data_dir: str | Path | None = None,
    revision: str | None = None,
    limit: int | None = None,
    check_rows: bool = True,
) -> Loaded:
    if name not in table:
        raise DataError(f"No problem set {name!r} here; known are {', '.join(table)}.")
    if limit is not None and limit < 1:
        raise DataError(f"{name}: limit must be at least 1, got {limit}.")
    entry, folder = table[name], data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if folder and revision:
        raise DataError(
            f"{name}: revision {revision!r} is one on the hub, but data_dir or {DATA_DIR_VARIABLE} selects {folder}. "
            "Leave one of the two out."
        )
    form, where = (entry.local, f"{folder}") if folder else (entry.hub, f"{entry.dataset} [{entry.split}]")
    rows, files, commit = _from_files(name, entry, Path(folder)) if folder else _from_hub(name, entry, revision)
    problems = _problems(rows, form, "ECQA" if name == "ecqa" else name)
    if check_rows and len(rows) not in form.rows:
        raise DataError(
            f"{name}: expected {' or '.join(map(str, form.rows))} rows, found {len(rows)} in {where}. Restore the "
            "files or name another revision; check_rows=False accepts the set as it is."
        )
    source: dict[str, Any] = {"name": name, "dataset": entry.dataset, "split": entry.split, "revision": commit}
    source |= {"rows": len(rows), "files": files, "stand_in": entry.stand_in if folder else None}
    if entry.dataset == "tasksource/ecqa":
        twice = sum(p.metadata["choices"].count(p.metadata["answer_text"]) > 1 for p in problems)
        how = "the files give them" if folder else "the first option that has the gold text"
        source["letters"] = f"{how}; two options have the gold text in {twice} rows"
    return Loaded(problems[:limit], source)


_Rows = tuple[list[_Row], dict[str, str], str | None]  # rows, sha256 of files, commit


def _from_files(name: str, entry: _Set, folder: Path) -> _Rows:
    paths = [user_path(folder, "data_dir") / file for file in entry.files]
    rows = [_Row(v, f"{name}: {path}, line {n}", "Restore the file.") for path in paths for n, v in read_jsonl(path)]
    return rows, {path.name: sha256(path) for path in paths}, None


def _from_hub(name: str, entry: _Set, revision: str | None) -> _Rows:
    import datasets

    asked = revision or entry.revision
    # Load by commit, so that a push in between changes nothing. load_dataset gives better errors, or finds a copy in
    # its cache.
    with suppress(LookupError):
        asked = hub_commit(entry.dataset, "dataset", asked)
    try:
        data = datasets.load_dataset(entry.dataset, split=entry.split, revision=asked)
    except Exception as error:  # errors of datasets, huggingface_hub, httpx and the OS have no common class
        raise DataError(
            f"{name}: cannot load {entry.dataset} [{entry.split}], revision {asked or 'main'} ({error}). Check the "
            f"network, or set data_dir or {DATA_DIR_VARIABLE} to a folder with {', '.join(entry.files)}."
        ) from error
    # Offline, `datasets` loads its latest copy whatever the revision; the path of the copy contains its commit.
    commit = next((c for file in data.cache_files for c in reversed(_IN_PATH.findall(file["filename"]))), None)
    exact = asked if asked and COMMIT.fullmatch(asked) else None
    if commit and exact and commit != exact:
        raise DataError(
            f"{name}: revision {exact} of {entry.dataset} is not in the cache (which has {commit}) and the hub cannot "
            f"be reached. Load it once with a network, or give data_revisions {{{name}: {commit}}} to use the copy."
        )
    solution = "If the set changed, pass revision= with an earlier commit, or data_dir= with local files."
    where = f"{name}: {entry.dataset} [{entry.split}], row"
    return [_Row(v, f"{where} {n}", solution) for n, v in enumerate(data.to_list())], {}, commit or exact


def _problems(rows: list[_Row], form: _Form, task: str) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for row in rows:
        for column in form.columns:
            if column not in row.values:
                raise row.bad(column, "such a column")
        question, answer, metadata = form.read(row)
        given = next((c for c in _ID_COLUMNS if row.values.get(c) not in (None, "")), None)
        name = str(row.values[given]) if given else hashlib.sha256(question.encode()).hexdigest()[:12]
        if given is None or name.isdigit():
            name = f"{task.lower()}-{name}"
        if given is None and name in problems:  # the same question twice
            name = next(other for i in itertools.count(2) if (other := f"{name}-{i}") not in problems)
        if given and name in problems:
            raise row.bad(given, "a unique id")
        problems[name] = Problem(name, task, question, answer, metadata)
    return list(problems.values())


def published_content(
    names: Iterable[str], data_dir: str | Path | None, revisions: Mapping[str, str]
) -> dict[str, str]:
    """What these sets are known by: the SHA-256 of each local file by its name, or the commit of each set on the hub.

    Raises:
        DataError: A file is missing, or a commit cannot be found out.
    """
    table, folder = _BENCHMARKS | _TRAINING, data_dir or os.environ.get(DATA_DIR_VARIABLE)
    try:
        if folder:
            files = [file for name in names for file in table[name].files]
            return {file: sha256(user_path(folder, "data_dir") / file) for file in files}
        asked = {name: revisions.get(name) or table[name].revision for name in names}
        return {name: f"commit {hub_commit(table[name].dataset, 'dataset', asked[name])}" for name in asked}
    except OSError as error:
        raise DataError(
            f"Cannot read {error.filename}: {error.strerror}. Add the file to data_dir, {folder}, or leave data_dir "
            f"and {DATA_DIR_VARIABLE} unset to load from the Hugging Face hub."
        ) from error
    except LookupError as error:
        raise DataError(
            f"{error}. Check the network, give data_revisions a commit, or set data_dir or {DATA_DIR_VARIABLE} to a "
            "folder of JSONL files."
        ) from None
