"""A multiple-choice family: which of five animals has the most, or the fewest, legs.

The mini scale's stand-in for the commonsense choices of Table 5. The numbers of legs are reasoning-gym's.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

LETTERS = "ABCDE"


def make_entry(index: int) -> dict[str, Any]:
    """Question `index` as a reasoning-gym entry: question, answer (a letter), metadata. One option is correct."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    rng = random.Random(index)
    most = rng.random() < 0.5
    names = sorted(ANIMALS)
    while True:
        options = rng.sample(names, len(LETTERS))
        legs = [ANIMALS[name] for name in options]
        if legs.count(_pick(legs, most)) == 1:
            break
    offered = "\n".join(f"{letter} {name}" for letter, name in zip(LETTERS, options, strict=True))
    return {
        "question": f"Which has the {'most' if most else 'fewest'} legs?\n{offered}",
        "answer": LETTERS[legs.index(_pick(legs, most))],
        "metadata": {"options": options, "legs": legs, "most": most},
    }


def solve(metadata: Mapping[str, Any], write: Callable[[int], int]) -> tuple[str, str]:
    """The legs of each option, and the letter that follows from them; `write` may change a number."""
    legs = [abs(write(count)) for count in metadata["legs"]]
    steps = "\n".join(f"{letter}={count}" for letter, count in zip(LETTERS, legs, strict=True))
    return steps, LETTERS[legs.index(_pick(legs, metadata["most"]))]


def _pick(legs: list[int], most: bool) -> int:
    return max(legs) if most else min(legs)
