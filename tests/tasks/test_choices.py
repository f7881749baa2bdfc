"""The multiple-choice family: one right letter, and knowledge that agrees with reasoning-gym's."""

import random

import pytest
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from tampo.tasks.mini import (
    CHOICE_TASKS,
    LETTERS,
    extract_answer,
    is_correct,
    make_choice,
    make_problems,
    solve_choice,
    worked_solution,
)


@pytest.mark.parametrize("index", range(200))
def test_exactly_one_option_is_right(index):
    entry = make_choice(index)
    assert entry == make_choice(index)
    header, *lines = entry["question"].split("\n")
    offered = {line[0]: ANIMALS[line[2:]] for line in lines}
    assert tuple(offered) == tuple(LETTERS)
    extreme = (max if "most" in header else min)(offered.values())
    assert [letter for letter, legs in offered.items() if legs == extreme] == [entry["answer"]]


def test_both_questions_and_all_letters_occur_about_equally():
    entries = [make_choice(index) for index in range(1000)]
    assert 0.45 < sum(entry["metadata"]["most"] for entry in entries) / 1000 < 0.55
    for letter in LETTERS:
        assert 0.15 < sum(entry["answer"] == letter for entry in entries) / 1000 < 0.25


def test_the_steps_lead_to_the_letter_and_slips_lead_astray():
    entry = make_choice(3)
    steps, letter = solve_choice(entry["metadata"], lambda count: count)
    assert letter == entry["answer"]
    assert steps == "\n".join(f"{x}={n}" for x, n in zip(LETTERS, entry["metadata"]["legs"], strict=True))
    astray = [solve_choice(entry["metadata"], lambda count: 7)[1] for _ in range(1)]
    assert astray == ["A"], "where all counts are equal the first option is taken"


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_it_is_a_family_like_the_others(task):
    problems = make_problems(task, 200, split="test")
    assert not {p.question for p in make_problems(task, 1000)} & {p.question for p in problems}
    rng = random.Random(0)
    for problem in problems:
        assert is_correct(problem, worked_solution(problem, rng))
        assert not is_correct(problem, problem.answer)
    slipped = [worked_solution(problem, rng, slip=0.9) for problem in problems]
    assert all(extract_answer(text) in tuple(LETTERS) for text in slipped)
    assert sum(is_correct(p, text) for p, text in zip(problems, slipped, strict=True)) < 150
