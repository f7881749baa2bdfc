"""The task families: splits never overlap, the flawless teacher is right, answer matching never raises."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tampo.tasks.mini import TASKS, extract_answer, format_prompt, is_correct, make_problems, worked_solution


def test_there_are_five_families():
    assert len(TASKS) == len(set(TASKS)) == 5


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_question(task):
    train = {p.question for seed in (0, 1) for p in make_problems(task, 1000, seed, "train")}
    test = {p.question for seed in (0, 2) for p in make_problems(task, 300, seed, "test")}
    assert not train & test


@pytest.mark.parametrize("task", TASKS)
def test_lists_are_deterministic_distinct_and_grow_at_the_end(task):
    long = make_problems(task, 120, 7, "test")
    assert make_problems(task, 50, 7, "test") == long[:50]
    assert make_problems(task, 120, 7, "test") == long
    assert len({p.question for p in long}) == len({p.id for p in long}) == 120
    assert long[17].id == f"{task}-test-17"


@pytest.mark.parametrize("task", TASKS)
def test_neighbouring_seeds_give_other_problems(task):
    first = {p.question for p in make_problems(task, 50, 0)}
    second = {p.question for p in make_problems(task, 50, 1)}
    assert len(first & second) < 25


@pytest.mark.parametrize("task", TASKS)
def test_every_gold_answer_is_correct(task):
    for problem in make_problems(task, 200):
        assert is_correct(problem, f"\\boxed{{{problem.answer}}}")
        assert not is_correct(problem, f"\\boxed{{{problem.answer}7}}")
        assert not is_correct(problem, problem.answer)  # no marker, no answer


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_a_flawless_solution_is_correct(task, skip):
    rng = random.Random(0)
    for problem in make_problems(task, 200, 3, "test"):
        solution = worked_solution(problem, rng, skip=skip)
        assert is_correct(problem, solution), (problem, solution)
        assert len(solution) <= 90


@pytest.mark.parametrize("task", TASKS)
def test_a_slipping_solution_is_often_wrong_but_always_answers(task):
    rng = random.Random(0)
    problems = make_problems(task, 200)
    solutions = [worked_solution(p, rng, slip=0.9) for p in problems]
    assert all(extract_answer(s) for s in solutions)
    assert sum(is_correct(p, s) for p, s in zip(problems, solutions, strict=True)) < 100


def test_skipping_leaves_the_answer_alone():
    problem = make_problems("products", 1)[0]
    assert worked_solution(problem, random.Random(0), skip=1.0) == f"\\boxed{{{problem.answer}}}"


def test_who_gives_up_is_never_right():
    rng = random.Random(0)
    for task in TASKS:
        for problem in make_problems(task, 20):
            assert not is_correct(problem, worked_solution(problem, rng, give_up=1.0))
            assert is_correct(problem, worked_solution(problem, rng, give_up=0.0))


def test_worked_solutions_depend_on_the_generator_only():
    problem = make_problems("gcd", 1)[0]
    draws = [[worked_solution(problem, random.Random(s), 0.5, 0.5) for s in range(20)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_the_last_box_counts():
    assert extract_answer("\\boxed{1} no, \\boxed{ 2/3 }") == "2/3"
    assert extract_answer("no box 12") is None
    assert extract_answer("\\boxed{12") is None
    assert extract_answer("\\boxed{}") == ""


@settings(max_examples=200, deadline=None)
@given(text=st.text(), boxed=st.booleans())
def test_reading_and_scoring_never_raise(text, boxed):
    completion = f"\\boxed{{{text}}}" if boxed else text
    assert extract_answer(completion) is None or isinstance(extract_answer(completion), str)
    for task in TASKS:
        assert is_correct(make_problems(task, 1)[0], completion) in (True, False)


@pytest.mark.parametrize("answer", ["9" * 5000, "1e999999999", "NaN", "sNaN", "Infinity", "1/0", "-0/-0", "²"])
def test_odd_numbers_are_wrong_answers(answer):
    for task in TASKS:
        assert not is_correct(make_problems(task, 1)[0], f"\\boxed{{{answer}}}")


def test_prompts_are_plain_text():
    assert format_prompt("1 + 1 =") == "1 + 1 =\n"


def test_problems_are_frozen_and_hashable():
    problem = make_problems("gcd", 1)[0]
    assert {problem: 1}[problem] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.answer = "1"


def test_clear_errors():
    with pytest.raises(ValueError, match=r"unknown task 'sudoku'; known: chain_sum, .*simple_equations"):
        make_problems("sudoku", 1)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        make_problems("gcd", 1, split="dev")
    with pytest.raises(ValueError, match="negative"):
        make_problems("gcd", -1)
    with pytest.raises(ValueError, match="task 'products' has only"):
        make_problems("products", 10_000, split="test")
    stranger = dataclasses.replace(make_problems("gcd", 1)[0], task="sudoku")
    with pytest.raises(ValueError, match="unknown task 'sudoku'"):
        worked_solution(stranger, random.Random(0))
    with pytest.raises(ValueError, match="unknown task 'sudoku'"):
        is_correct(stranger, "\\boxed{1}")
