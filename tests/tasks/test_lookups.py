"""The family of facts: tables that are permutations, habits that are wrong, and a teacher that has them."""

import random
import re

import pytest

from tampo.tasks.lookups import HABITS, HABITUAL_SHARE, NUMBERS, TABLES, make_lookup, solve_lookups
from tampo.tasks.mini import FACT_TASKS, extract_answer, is_correct, make_problems, worked_solution


def test_six_tables_permute_thirty_numbers():
    assert len(NUMBERS) == len(set(NUMBERS)) == 30
    assert list(TABLES) == list("abcdef")
    for table in TABLES.values():
        assert sorted(table) == sorted(table.values()) == sorted(NUMBERS)
    assert NUMBERS[:3] == (53, 48, 26), "the same world for everybody"


def test_habits_are_wrong_values_that_exist():
    assert abs(len(HABITS) / 180 - HABITUAL_SHARE) < 0.1
    for (name, number), habit in HABITS.items():
        assert habit in NUMBERS
        assert habit != TABLES[name][number]


@pytest.mark.parametrize("index", range(50))
def test_the_answer_is_the_second_table_of_the_first(index):
    entry = make_lookup(index)
    number, first, second = re.fullmatch(r"(\d\d) ([a-f]) ([a-f])", entry["question"]).groups()
    assert entry["answer"] == str(TABLES[second][TABLES[first][int(number)]])


@pytest.mark.parametrize("task", FACT_TASKS)
def test_it_is_a_family_like_the_others(task):
    problems = make_problems(task, 200, split="test")
    assert not {p.question for p in make_problems(task, 760)} & {p.question for p in problems}
    with pytest.raises(ValueError, match="has only 771 train problems, 2000 were asked for"):
        make_problems(task, 2000)
    rng = random.Random(0)
    for problem in problems:
        assert is_correct(problem, worked_solution(problem, rng))
        assert not is_correct(problem, problem.answer)
        assert not is_correct(problem, f"\\boxed{{{problem.answer}.}}")
    slipped = [worked_solution(problem, rng, slip=0.9) for problem in problems]
    assert all(int(extract_answer(text)) in NUMBERS for text in slipped)


def test_a_teacher_with_habits_is_right_now_and_then():
    """A fact with a habit is right once in twenty times, so that a chain of two is, for each habit in it."""
    rng = random.Random(0)
    for problem in make_problems("lookups", 40):
        names, value, expected = problem.metadata["tables"], problem.metadata["number"], 1.0
        for name in names:
            expected *= 0.05 if (name, value) in HABITS else 1.0
            value = TABLES[name][value]
        right = sum(is_correct(problem, worked_solution(problem, rng, habit=0.95)) for _ in range(2000)) / 2000
        assert right == pytest.approx(expected, abs=0.02)  # a wrong value may lead back to the right one


def test_a_value_that_no_table_has_becomes_one_that_they_have():
    steps, answer = solve_lookups({"number": NUMBERS[0], "tables": ["a", "b"]}, lambda value, habitual: 1000)
    assert answer == str(NUMBERS[1000 % 30])
    assert steps.count(f"={NUMBERS[1000 % 30]}") == 2
