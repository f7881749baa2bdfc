"""The family "lookups": two look-ups in tables that a model has to know by heart, and a teacher with wrong habits.

Six tables, a to f, permute thirty numbers. A question names a number and two tables: "47 a c" asks for c(a(47)). Each
of the 180 facts is learnt by itself, so that a base model can be wrong about many of them by habit and right now and
then: reinforcement learning has many rare discoveries to make, unlike in arithmetic, where a rule serves all questions.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

TABLE_NAMES = "abcdef"

# The share of facts that the teacher has a wrong habit about.
HABITUAL_SHARE = 0.75

_world = random.Random("lookups")
NUMBERS: tuple[int, ...] = tuple(_world.sample(range(10, 100), 30))
TABLES: dict[str, dict[int, int]] = {
    name: dict(zip(NUMBERS, _world.sample(NUMBERS, len(NUMBERS)), strict=True)) for name in TABLE_NAMES
}
# The wrong value that the teacher is used to write, by table and number.
HABITS: dict[tuple[str, int], int] = {
    (name, number): _world.choice([other for other in NUMBERS if other != value])
    for name, table in TABLES.items()
    for number, value in table.items()
    if _world.random() < HABITUAL_SHARE
}


def make_lookup(index: int) -> dict[str, Any]:
    """Question `index`, as a reasoning-gym entry. There are 1,080 of them: thirty numbers and two of six tables."""
    rng = random.Random(index)
    number, names = rng.choice(NUMBERS), [rng.choice(TABLE_NAMES) for _ in range(2)]
    value = number
    for name in names:
        value = TABLES[name][value]
    question = f"{number} {' '.join(names)}"
    return {"question": question, "answer": str(value), "metadata": {"number": number, "tables": names}}


def unlocking_stage(metadata: Mapping[str, Any], stages: int) -> int:
    """The stage, from 0, that unlocks the last table of a question, if each of `stages` unlocks as many tables."""
    return max(TABLE_NAMES.index(name) for name in metadata["tables"]) * stages // len(TABLE_NAMES)


def solve_lookups(metadata: Mapping[str, Any], write: Callable[..., int]) -> tuple[str, str]:
    """The look-ups of a question, one a line, and the last value.

    `write` takes the value of a look-up and the one that the teacher is used to, or None. What it returns may be any
    number; one that no table has becomes one that they have.
    """
    value, steps = metadata["number"], []
    for name in metadata["tables"]:
        found = write(TABLES[name][value], HABITS.get((name, value)))
        found = found if found in TABLES[name] else NUMBERS[found % len(NUMBERS)]
        steps.append(f"{value}{name}={found}")
        value = found
    return "\n".join(steps), str(value)
