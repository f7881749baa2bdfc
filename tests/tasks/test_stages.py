from collections import Counter

import pytest

from tampo.tasks.mini import make_problems
from tampo.tasks.stages import staged

PROBLEMS = make_problems("lookups", 300)


def tables(problems):
    return {name for problem in problems for name in problem.metadata["tables"]}


def test_each_stage_unlocks_further_tables_and_keeps_the_older_ones():
    course = staged(PROBLEMS, stages=3, steps=10, prompts_per_step=8, seed=0)
    assert len(course) == 80
    assert tables(course[:24]) == set("ab")  # steps 1 to 3
    assert tables(course[24:48]) == set("abcd")
    assert tables(course[48:]) == set("abcdef")  # the last stage takes the steps that are left


def test_a_step_has_no_problem_twice_and_a_stage_asks_all_of_its_problems():
    course = staged(PROBLEMS, stages=3, steps=60, prompts_per_step=8, seed=0)
    steps = [[problem.id for problem in course[start : start + 8]] for start in range(0, len(course), 8)]
    assert all(len(set(step)) == 8 for step in steps)
    first = [problem for problem in PROBLEMS if tables([problem]) <= set("ab")]
    counts = Counter(problem.id for problem in course[:160])
    assert counts.keys() == {problem.id for problem in first}
    assert max(counts.values()) <= 5  # 160 of 39 problems: rounds of four whole steps


def test_the_seed_decides_the_order():
    first, again, other = (staged(PROBLEMS, 3, 12, 8, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_stage_that_cannot_fill_a_step_is_refused():
    with pytest.raises(ValueError, match=r"stage 1 has \d+ problems, a step needs 64"):
        staged(make_problems("lookups", 100), 3, 3, 64, 0)
