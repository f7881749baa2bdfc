"""Whether two expressions of sympy have the same value: by numbers at fixed points, not by rewriting.

The points are exactly rational, of both signs, and whole. So a verdict takes milliseconds and does not depend on what
sympy can simplify in a given time.
"""

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

_FLOAT_TOLERANCE = 1.01e-6  # relative: 0.333333 is 1/3, 0.333 is not
_EXACT_TOLERANCE = 1e-18  # relative, of values computed to 30 digits; then the difference is computed by itself
_DIFFERENCE_TOLERANCE = 1e-100
_LARGEST_EXACT = 3_000  # digits
_PROPORTIONAL = 1e-15
_FEWEST_POINTS = 3


def same_value(one: Any, other: Any, tolerance: float | None = None) -> bool:
    """Whether two expressions (or matrices) have the same value, wherever both have one.

    Args:
        tolerance: Absolute, for two numbers.
    """
    from sympy import Float

    if getattr(one, "is_Matrix", False) or getattr(other, "is_Matrix", False):
        return _same_matrix(one, other)
    if isinstance(one, Float) and isinstance(other, Float) and not tolerance:
        return _same_decimals(one, other)
    rounded = one.has(Float) or other.has(Float)
    one, other = _without_functions(one), _without_functions(other)
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return _same_number(one, other, tolerance, rounded)
    compared = 0
    for point in _whole_points(symbols) if _counts(one) or _counts(other) else _points(symbols):
        values = _at(one, point), _at(other, point)
        if None in values or (min(point.values()) < 0 and not all(value.is_real for value in values)):
            continue  # outside of a domain
        if not _close(*values, _FLOAT_TOLERANCE if rounded else _EXACT_TOLERANCE):
            return False
        if compared == 0 and not rounded and not _no_difference(one, other, point, values[0]):
            return False
        compared += 1
    return compared >= _FEWEST_POINTS


def _same_decimals(one: Any, other: Any) -> bool:
    """Two decimal numbers: equal to the last digit of the shorter one, which must be close."""
    numbers = [Decimal(str(number)) for number in (one, other)]
    digits = min(-int(number.normalize().as_tuple().exponent) for number in numbers)
    step = Decimal(1).scaleb(-digits)
    same = abs(numbers[0] - numbers[1]) <= step / 2
    return same and bool(abs(numbers[0] - numbers[1]) <= Decimal(_FLOAT_TOLERANCE) * max(map(abs, numbers)))


def _same_number(one: Any, other: Any, tolerance: float | None, rounded: bool) -> bool:
    values = _at(one, {}), _at(other, {})
    if None in values:
        return bool(one == other)
    if tolerance and abs(values[0] - values[1]) <= max(tolerance, _FLOAT_TOLERANCE * _size(values)):
        return True
    if not _close(*values, _FLOAT_TOLERANCE if rounded else _EXACT_TOLERANCE):
        return False
    return rounded or _no_difference(one, other, {}, values[0])


def _close(one: Any, other: Any, allowed: float) -> bool:
    if one.is_Rational and other.is_Rational and allowed == _EXACT_TOLERANCE:
        return bool(one == other)
    return bool(abs(one - other) <= allowed * _size((one, other)))


def _no_difference(one: Any, other: Any, point: dict[Any, Any], value: Any) -> bool:
    """Whether the difference of two close values is zero, to a hundred digits of them: 2^100 x hides a small term."""
    if one == other or value == 0:
        return True
    try:
        difference = (one - other).subs(point, simultaneous=True) if point else one - other
        if abs(value) < 10**_LARGEST_EXACT and not difference.has(*_series()):
            difference = difference.doit()
            if difference.is_Rational:
                return bool(difference == 0)
        return bool(abs(difference.evalf(15, maxn=400)) <= _DIFFERENCE_TOLERANCE * abs(value))
    except Exception:  # sympy cannot tell a difference of this size from zero
        return True


def _size(values: Sequence[Any]) -> Any:
    return max(abs(value) for value in values)


def _without_functions(expression: Any) -> Any:
    """With unknown functions, such as f(x), as symbols."""
    from sympy import Symbol
    from sympy.core.function import AppliedUndef

    return expression.xreplace({f: Symbol(str(f), real=True) for f in expression.atoms(AppliedUndef)})


def _points(symbols: Sequence[Any]) -> list[dict[Any, Any]]:
    """Fixed values for symbols: two positive points, two of both signs, three of whole numbers."""
    from sympy import Rational

    n = range(len(symbols))
    rows: list[list[Any]] = [
        [Rational(37 + 17 * i**2, 29 + 11 * i) for i in n],
        [Rational(5 + 3 * i, 13 + 2 * i**2) for i in n],
        [Rational(31 + 7 * i, 19 + 5 * i) * (-1) ** (i + 1) for i in n],
        [Rational(11 + 13 * i, 27 + i) * (-1) ** i for i in n],
    ]
    return [dict(zip(symbols, row, strict=True)) for row in rows] + _whole_points(symbols)


def _whole_points(symbols: Sequence[Any]) -> list[dict[Any, Any]]:
    from sympy import Integer

    n = range(len(symbols))
    rows = [[6 + 5 * i for i in n], [7 + 3 * i for i in n], [12 + i for i in n]]
    return [dict(zip(symbols, map(Integer, row), strict=True)) for row in rows]


def _series() -> tuple[Any, ...]:
    from sympy import Integral, Limit, Product, Sum

    return Sum, Product, Integral, Limit


def _counts(expression: Any) -> bool:
    """Whether a symbol is a limit of a sum or product, and so a whole number."""
    return any(
        limit.free_symbols
        for item in expression.atoms(*_series()[:2])
        for _, *limits in item.limits
        for limit in limits
    )


def _at(expression: Any, point: dict[Any, Any]) -> Any:
    """The value at a point, exact if it is rational, else to 30 digits; None if it has none."""
    try:
        value = expression.subs(point, simultaneous=True) if point else expression
        if value.has(*_series()):
            value = value.doit()
        value = value if value.is_Rational else value.evalf(30)
        if value.is_number and value.is_finite:
            return value
    except Exception:  # sympy raises many kinds: outside of a domain, not implemented, ...
        pass
    return None


def _same_matrix(one: Any, other: Any) -> bool:
    if getattr(one, "shape", None) != getattr(other, "shape", None):
        return False
    one, other = (matrix.doit() for matrix in (one, other))
    return all(same_value(a, b) for a, b in zip(one, other, strict=True))


def same_zeros(one: Any, other: Any) -> bool:
    """Whether two expressions are zero at the same places: one is a multiple of the other, or solutions agree."""
    one, other = _without_functions(one), _without_functions(other)
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols or one.free_symbols != other.free_symbols:
        return False
    pairs = [(_at(one, point), _at(other, point)) for point in _points(symbols)]
    pairs = [pair for pair in pairs if None not in pair and 0 not in pair]
    if len(pairs) >= _FEWEST_POINTS and all(_close(a * d, b * c, _PROPORTIONAL) for (a, b), (c, d) in pairwise(pairs)):
        exact = all(value.is_Rational for pair in pairs for value in pair)
        if not exact or all(a * d == b * c for (a, b), (c, d) in pairwise(pairs)):
            return True
    return _solves(one, other, symbols) and _solves(other, one, symbols)


def _solves(equation: Any, other: Any, symbols: Sequence[Any]) -> bool:
    """Whether solutions of `other` = 0, where it is linear in a symbol, are solutions of `equation` = 0."""
    for symbol in symbols:
        slope = other.diff(symbol)
        if slope == 0 or slope.has(symbol):
            continue
        found = 0
        for point in _points(symbols):
            rest = {name: value for name, value in point.items() if name != symbol}
            root = _at(-other.subs(symbol, 0) / slope, rest)
            if root is None or root == 0:  # zero may solve both whatever they say
                continue
            value, beside = _at(equation, rest | {symbol: root}), _at(equation, rest | {symbol: root * 2})
            if value is None or beside is None:
                continue
            if abs(value) > _PROPORTIONAL * abs(beside):
                return False
            found += 1
        if found >= _FEWEST_POINTS:
            return True
    return False
