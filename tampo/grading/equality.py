"""Whether two answers that were read (`tampo.grading.structure`) are equal, part by part."""

from collections.abc import Sequence
from typing import Any

from tampo.grading.expressions import (
    Based,
    Congruence,
    Interval,
    Many,
    Relation,
    Scalar,
    Text,
    Value,
)
from tampo.grading.units import same_unit
from tampo.grading.values import same_value, same_zeros

_BRACKETS = ("()", "[]", "(]", "[)")


def equal(gold: Value, answer: Value, tolerance: float | None = None) -> bool:
    """Whether an answer equals the gold answer.

    Args:
        tolerance: Absolute tolerance of a single number, or None.
    """
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _relations(gold, answer, tolerance)
    gold, answer = _entries(gold, answer), _entries(answer, gold)
    if isinstance(gold, Scalar) and isinstance(answer, Scalar):
        return _scalars(gold, answer, tolerance)
    if isinstance(gold, Text) or isinstance(answer, Text):
        return gold == answer
    if isinstance(gold, Congruence) or isinstance(answer, Congruence):
        return _congruences(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _based(gold, answer)
    if _is_set(gold) and _is_set(answer):
        one, other = _pieces(gold), _pieces(answer)
        if one is not None and other is not None:
            return _same_pieces(one, other)
    if isinstance(gold, Many) and isinstance(answer, Many):
        return _many(gold, answer)
    ratio, scalar = (gold, answer) if isinstance(gold, Many) else (answer, gold)
    if isinstance(ratio, Many) and ratio.kind == "ratio" and len(ratio.items) == 2 and isinstance(scalar, Scalar):
        from sympy import Integer

        return _ratio([*ratio.items], [scalar, Scalar(Integer(1))])
    return False


def _entries(value: Value, other: Value) -> Value:
    """A product or sum of matrices, entry by entry, where the other side is a matrix or tuple."""
    if not (isinstance(value, Scalar) and getattr(value.expression, "is_Matrix", False) and isinstance(other, Many)):
        return value
    rows = [Many("()", tuple(map(Scalar, row))) for row in value.expression.doit().tolist()]
    if len(rows) == 1 or all(len(row.items) == 1 for row in rows):
        return Many("()", tuple(item for row in rows for item in row.items))
    return Many("matrix", tuple(rows))


def _scalars(gold: Scalar, answer: Scalar, tolerance: float | None) -> bool:
    if not same_unit(gold.unit, answer.unit):
        return False
    pairs = [(gold.expression, answer.expression)]
    if (gold.unit == "%") != (answer.unit == "%"):  # 62.5% is 0.625, and 62.5 where the other side has no percent sign
        pairs.append(
            (gold.expression * (100 if gold.unit == "%" else 1), answer.expression * (100 if answer.unit == "%" else 1))
        )
    return any(same_value(one, other, tolerance) for one, other in pairs)


def _relations(gold: Value, answer: Value, tolerance: float | None) -> bool:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.name == answer.name and gold.name and equal(gold.value, answer.value, tolerance):
            return True
        return _same_equation(gold, answer)
    relation, bare = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if not relation.name:
        return False
    return equal(gold, relation.value, tolerance) if relation is answer else equal(relation.value, bare, tolerance)


def _same_equation(gold: Relation, answer: Relation) -> bool:
    sides = (gold.left, gold.right, answer.left, answer.right)
    if any(side is None or getattr(side, "is_Matrix", False) for side in sides):
        return False
    return same_zeros(gold.left - gold.right, answer.left - answer.right)


def _congruences(gold: Value, answer: Value) -> bool:
    if isinstance(gold, Congruence) and isinstance(answer, Congruence):
        same_name = gold.name == answer.name or "" in (gold.name, answer.name)
        return same_name and equal(gold.modulus, answer.modulus) and _same_residue(gold, answer)
    if isinstance(answer, Congruence) and isinstance(gold, Scalar):  # 2, and 2 (mod 5)
        return equal(gold, answer.residue)
    if isinstance(gold, Congruence) and not gold.name and isinstance(answer, Scalar):
        return equal(gold.residue, answer)
    return False


def _same_residue(gold: Congruence, answer: Congruence) -> bool:
    values = [side.expression for side in (gold.residue, answer.residue, gold.modulus) if isinstance(side, Scalar)]
    if len(values) == 3 and all(value.is_Integer for value in values) and values[2] != 0:
        return bool((values[0] - values[1]) % values[2] == 0)
    return equal(gold.residue, answer.residue)


def _based(gold: Value, answer: Value) -> bool:
    """4343_6 equals 4343_6, and 4343 where one side leaves the base out."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold == answer
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    assert isinstance(based, Based)
    return isinstance(other, Scalar) and other.unit == "" and str(other.expression) == based.digits.lstrip("0")


def _is_set(value: Value) -> bool:
    if isinstance(value, Many):
        return value.kind == "union" or (value.kind in _BRACKETS and len(value.items) == 2)
    return isinstance(value, Interval)


def _pieces(value: Value) -> list[Any] | None:
    """The intervals and points of a set of numbers; None for another set."""
    if isinstance(value, Interval):
        return [value]
    if not isinstance(value, Many):
        return None
    if value.kind in _BRACKETS and len(value.items) == 2:
        ends = [item.expression for item in value.items if isinstance(item, Scalar)]
        if len(ends) < 2:
            return None
        return [Interval("", ends[0], ends[1], value.kind[0] == "(", value.kind[1] == ")")]
    if value.kind == "union":
        parts = [_pieces(item) for item in value.items]
        return None if None in parts else [piece for part in parts for piece in part or []]
    if value.kind in ("list", "set") and all(isinstance(item, Scalar) for item in value.items):
        points = [item.expression for item in value.items if isinstance(item, Scalar)]
        return [Interval("", point, point, False, False) for point in points]
    return None


def _same_pieces(one: list[Interval], other: list[Interval]) -> bool:
    return len(one) == len(other) and _matched(one, other, _same_interval)


def _same_interval(one: Interval, other: Interval) -> bool:
    return (
        (one.name == other.name or "" in (one.name, other.name))
        and (one.open_low, one.open_high) == (other.open_low, other.open_high)
        and _same_end(one.low, other.low)
        and _same_end(one.high, other.high)
    )


def _same_end(one: Any, other: Any) -> bool:
    if one.is_infinite or other.is_infinite:
        return bool(one == other)
    return same_value(one, other)


def _many(gold: Many, answer: Many) -> bool:
    if "ratio" in (gold.kind, answer.kind):
        return gold.kind == answer.kind and (gold.items == answer.items or _ratio([*gold.items], [*answer.items]))
    if all(isinstance(item, Many) for item in (*gold.items, *answer.items)):  # a point that is named twice is one point
        gold, answer = (Many(side.kind, _distinct(side.items)) for side in (gold, answer))
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.kind, answer.kind}
    if kinds <= {"list", "set", "union"}:
        return _matched(gold.items, answer.items, equal)
    if len(kinds) > 1 and kinds & {"matrix", "difference", "set", "union"}:
        return False
    # Tuples; or a list beside a tuple, such as a = 1, b = 2 and (1, 2).
    return all(map(equal, gold.items, answer.items))


def _distinct(items: Sequence[Value]) -> tuple[Value, ...]:
    kept: list[Value] = []
    for item in items:
        if not any(equal(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)


def _ratio(one: list[Value], other: list[Value]) -> bool:
    values = [item.expression for item in (*one, *other) if isinstance(item, Scalar)]
    if len(one) != len(other) or len(values) != len(one) + len(other) or any(value == 0 for value in values):
        return False
    first, second = values[: len(one)], values[len(one) :]
    return all(same_value(a * second[0], b * first[0]) for a, b in zip(first, second, strict=True))


def _matched(one: Sequence[Any], other: Sequence[Any], same: Any) -> bool:
    """Whether each item of one has its own equal item in the other; equality is taken to be transitive."""
    left = list(other)
    for item in one:
        index = next((i for i, candidate in enumerate(left) if same(item, candidate)), None)
        if index is None:
            return False
        del left[index]
    return not left
