"""Names in the pages for readers exist: links, targets of make, commands, options, notebooks, parameters, variables.

What the data cards say of a set is what `tampo.tasks` reads and checks.
"""

import argparse
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

import release_check
from tampo import TAMPOConfig
from tampo.cli import build_parser
from tampo.config import Params, load_params
from tampo.options import add_parameters
from tampo.paper.experiments import EXPERIMENTS
from tampo.tasks import mini, published
from tampo.tasks.mini_assets import RECIPES
from tampo.tasks.overlaps import overlaps
from tests.helpers import ROOT

PAGES = release_check.pages(ROOT)

OTHER_PROGRAMS = {"--torch-backend"}  # options of uv, in running text

SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tampo").rglob("*.py")))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block; lines that end in a backslash are joined."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    return [(language, text.replace("\\\n", " ")) for language, text in found]


def spans(page: Path) -> list[str]:
    """Inline code."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]


def commands(page: Path) -> list[str]:
    """Lines of code that are not Python, without comments, one command each."""
    lines = [line for language, text in blocks(page) if language != "python" for line in text.splitlines()]
    lines = [part for line in [*lines, *spans(page)] for part in re.split(r"&&|;", re.sub(r"(^|\s)#.*", "", line))]
    return [line.strip() for line in lines if not re.match(r"\s*(from|import)\s", line)]


def notebook_parameters(notebook: str) -> set[str]:
    """Names in the notebook's cell of parameters."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    return set(re.findall(r"^(\w+) = ", "\n".join(tagged), re.MULTILINE))


def subcommands() -> dict[str, set[str]]:
    """Every subcommand of tampo with its options."""
    parser = build_parser()
    chosen = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in chosen.choices.values():
        if getattr(command, "_parameters", False):  # its options are added when it parses
            add_parameters(command)
    return {name: {*command._option_string_actions} for name, command in chosen.choices.items()}


SUBCOMMANDS = subcommands()
SETS = published._BENCHMARKS | published._TRAINING
COLUMNS = {column for known in SETS.values() for form in (known.hub, known.local) for column in form.columns}


@pages
def test_links_lead_somewhere(page):
    assert release_check.broken_links(page) == []


@pages
def test_paths_exist(page):
    code = "\n".join([*commands(page), *(text for _, text in blocks(page))])
    rooms = r"(?:params|tampo|notebooks|tests|docs|\.ci|results/reference)/[\w./-]*"
    for path in re.findall(rf"(?<![\w/.<>-])({rooms})", code):
        path = path.removesuffix("NAME.ipynb")  # any notebook
        assert (ROOT / path).exists(), path


@pages
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in commands(page):
        for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", line):
            assert target in targets, line


@pages
def test_commands_and_options_exist(page):
    unknown = []
    for line in commands(page):
        words = re.split(r"[\s\[\]|]+", line)
        if words[0].startswith("--"):  # an option by itself
            options, given = OTHER_PROGRAMS.union(*SUBCOMMANDS.values()), words
        elif found := re.search(r"(?:^|[\s/])tampo ([a-z][\w-]*)(.*)", line):
            if found[1] not in SUBCOMMANDS:
                unknown.append(f"tampo {found[1]}")
                continue
            options, given = SUBCOMMANDS[found[1]], re.split(r"[\s\[\]|]+", found[2])
        else:
            continue
        names = [word.partition("=")[0] for word in given if word.startswith("--")]
        unknown += [f"{line}: {name}" for name in names if name not in options]
    assert not unknown


@pages
def test_notebooks_exist(page):
    named = set(re.findall(r"notebooks/([\w-]+)\.ipynb", text_of(page)))
    for line in commands(page):
        for words in re.findall(r"--only((?: [\w.]+)+)", line):
            named |= {word for word in words.split() if word != "..."}
    unknown = {name for name in named if not name.isupper()} - EXPERIMENTS.keys()  # NOTEBOOK stands for any
    assert not unknown


@pages
def test_parameters_exist(page):
    for line in commands(page):
        if "papermill" not in line:
            continue
        notebook = re.search(r"notebooks/([\w-]+)\.ipynb", line)
        known = set(Params.model_fields) | (notebook_parameters(notebook[1]) if notebook else set())
        given = re.findall(r"\s-[pr] (\w+)", line) + re.findall(r"\s-y ['\"]?(\w+):", line)
        assert not set(given) - known, line
    for language, text in blocks(page):
        if language in ("yaml", "yml"):
            for name in re.findall(r"^(\w+):", text, re.MULTILINE):
                assert name == "base" or name in Params.model_fields, name


@pages
def test_names_of_code_exist(page):
    """Parameters, columns and variables in running text: `snake_case` and TAMPO_... are names in the source."""
    for name in spans(page):
        if re.fullmatch(r"[a-z]+[a-z0-9]*(_[a-z0-9]+)+", name):
            known = name in COLUMNS | Params.model_fields.keys() | TAMPOConfig.__dataclass_fields__.keys()
            assert known or re.search(rf"\b{name}\b", SOURCE), name
    for name in re.findall(r"\bTAMPO_[A-Z_]+\b", text_of(page)):
        assert f'"{name}"' in SOURCE, name


def table(page: str, *header: str) -> list[list[str]]:
    """The cells of the table in this page whose header begins with these words."""
    pattern = rf"^\| {re.escape(' | '.join(header))} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)"
    rows = re.search(pattern, text_of(ROOT / "docs" / page), re.MULTILINE)
    assert rows, header
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in rows[1].splitlines()]


def whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text))


def test_the_appendix_has_every_table_and_figure_and_every_claim():
    rows = table("artifact.md", "NAME")
    shown = [name for names, *_ in rows for name in re.findall(r"`(\w+)`", names)]
    paper = [f"table{i}" for i in range(1, 6)] + [f"fig{i}" for i in range(2, 7)]
    assert shown == [*paper, "overhead", "claims"]
    claims = [claim for _, cell, *_ in rows for claim in cell.split("; ") if not claim.startswith(("none", "all 15"))]
    assert len(claims) == 15


DATA = " ".join(text_of(ROOT / "docs" / "data.md").split())


def test_data_cards_of_published_sets():
    cards = table("data.md", "set", "hub id")
    assert sorted(name for name, *_ in cards) == sorted(SETS)
    columns_above = ""
    for name, hub, split, rows, revision, columns, _ in cards:
        known = SETS[name]
        assert hub == f"[{known.dataset}](https://huggingface.co/datasets/{known.dataset})"
        assert split == known.split
        assert whole_numbers(rows) == known.hub.rows
        assert revision == (known.revision or "newest")
        columns_above = columns_above if columns == "the same" else columns
        assert tuple(re.findall(r"`(\w+)`", columns_above)) == known.hub.columns
    licensed = [name for names, *_ in table("data.md", "set", "used for") for name in names.split(", ")]
    assert sorted(licensed) == sorted(SETS)
    assert f"{published._TRAINING['open-s1'].local.rows[0]:,} problems" in DATA


def test_data_cards_of_made_families():
    rows = table("data.md", "family")
    cards = {name.strip("`"): (whole_numbers(train), whole_numbers(test)) for name, _, train, test, _ in rows}
    assert tuple(cards) == mini.TASKS + mini.CHOICE_TASKS + mini.FACT_TASKS
    others = dict.fromkeys(mini.CHOICE_TASKS, "mini-choice") | dict.fromkeys(mini.FACT_TASKS, "mini-facts")
    for name, numbers in cards.items():
        params = load_params(others.get(name, "mini"))
        assert numbers == ((params.train_problems,), (params.eval_problems,))
        mini.make_problems(name, params.train_problems, 0, "train")  # raises where there are fewer
    assert f"at most {load_params('mini').max_completion_length} tokens" in DATA


@pytest.mark.heavy
@pytest.mark.parametrize(("task", "share"), [("gcd", "99 % in `gcd`"), ("chain_sum", "11 % in `chain_sum`")])
def test_share_of_questions_that_the_base_model_has_seen(task, share):
    seen = {problem.question for problem in mini.make_problems(task, RECIPES["mini"].problems_per_task, 0)}
    again = [problem.question in seen for problem in mini.make_problems(task, 2000, seed=1)]
    assert f"{100 * sum(again) / len(again):.0f} % in `{task}`" == share
    assert share in DATA


@pytest.mark.heavy
def test_counts_of_the_data_cards(monkeypatch):
    folder = os.environ.get(published.DATA_DIR_VARIABLE)
    if not folder:
        pytest.skip(f"{published.DATA_DIR_VARIABLE} names no folder with the real files")
    training = {name: published.load_training(name, data_dir=folder) for name in published.TRAINING_SETS}
    for training_set, benchmark, equal, near in table("data.md", "training set", "benchmark"):
        problems = training["ecqa" if training_set == "ecqa" else "open-s1"].problems
        pairs = overlaps(problems, published.load_benchmark(benchmark, data_dir=folder).problems)
        counts = Counter(how.split()[0] for *_, how in pairs)
        assert (counts["equal"], counts["near"]) == (int(equal), int(near)), benchmark
    letters = [training["ecqa"].source["letters"], published.load_benchmark("ECQA", data_dir=folder).source["letters"]]
    twice = [int(re.search(r"(\d+) rows", text)[1]) for text in letters]
    assert f"in {twice[0]} training and {twice[1]} test problems" in DATA
