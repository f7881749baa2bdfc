"""The table of repairs: each does what its example says, and the page in docs/ shows the same table."""

import re
from pathlib import Path

import pytest

pytest.importorskip("math_verify", reason="math-verify is not installed")

from tampo.grading.answers import match_answer
from tampo.grading.repairs import REPAIRS, clean

PAGE = Path(__file__).parents[2] / "docs" / "grading.md"


def cell(text):
    """Text as code in a table of Markdown."""
    return f"`` {text} ``".replace("|", "\\|")


def table():
    rows = ["| | repair | before | after |", "|---|---|---|---|"]
    return [
        *rows,
        *(f"| {n} | {r.name} | {cell(r.example)} | {cell(r.result)} |" for n, r in enumerate(REPAIRS, start=1)),
    ]


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: repair.name)
def test_a_repair_does_what_its_example_says(repair):
    assert repair(repair.example) == repair.result
    assert repair.example != repair.result


def test_the_page_shows_the_table_in_its_order():
    assert "\n".join(table()) in PAGE.read_text(encoding="utf-8")


def test_the_cases_for_math_verify_are_as_the_page_says():
    lines = PAGE.read_text(encoding="utf-8").partition("## For math-verify")[2].splitlines()
    cases = [re.findall(r"`` (.*?) ``", line) + line.split(" | ")[2:] for line in lines if line.startswith("| ``")]
    assert len(cases) > 15
    for gold, completion, plain, should_be in cases:
        assert match_answer(completion, gold, grader="math-verify")[0] == plain, gold
        correct = match_answer(completion, gold)[0] == "correct"
        assert correct == (should_be.strip(" |") == "correct") != (plain == "correct"), gold


def test_names_are_distinct():
    assert len({repair.name for repair in REPAIRS}) == len(REPAIRS)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        # Where the order counts.
        ("\u221a53\u00b2", r"\sqrt{53}^{2}"),  # raised digits are no sign that would be lost
        (r"2 \bmod 5(x)", r"2  \pmod {5}(x)"),  # a modulus is no factor
        (r"1\,234\,567", "1234567"),  # thousands before thin spaces
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\frac\pi 2", r"\frac{\pi}{2}"),
        ("1e-7", r"1\times 10^{-7}"),
        (r"\$1,234.", "1,234"),
        ("", ""),
    ],
)
def test_repairs_work_together(text, cleaned):
    assert clean(text) == cleaned
