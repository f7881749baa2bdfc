"""Plain Python values of parameters, whatever a user gives them as: a word, a fraction, a scalar or array of a library.

numpy, torch, pandas and others are not imported: all of their scalars and arrays have `tolist`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def convert(name: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated type of the parameter `name`, in plain Python types.

    Args:
        name: The parameter's name, for the message.
        value: As the user gave it.
        kind: bool, int, float, str, a Literal, a list or tuple of these, or one of these or None. For other types the
            value is that of `plain`.

    Raises:
        ValueError: The value is not of this type.

    Example:
        >>> convert("stages", ["6e-1", 1], tuple[float, ...])
        (0.6, 1.0)
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        others = [other for other in arguments if other is not NoneType]
        if (value is None and len(others) < len(arguments)) or len(others) > 1:
            return plain(value)
        return convert(name, value, others[0])
    if origin is Literal:
        return convert(name, value, type(arguments[0]))
    if kind in _SCALARS:
        return _SCALARS[kind](name, value)
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        return origin(convert(name, item, arguments[0]) for item in to_list(name, value))
    return plain(value)


def plain(value: Any) -> Any:
    """`value` with all numbers, arrays, lists and mappings in it as plain Python types; anything else is unchanged.

    Dates and durations of numpy and pandas become texts.
    """
    value = _listed(value)
    if isinstance(value, bool):
        return value
    if _is_time(value):
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = (plain(item) for item in value)
        return [*items] if isinstance(value, list) else tuple(items)
    if isinstance(value, Integral):
        return int(value)
    number = _float(value) if isinstance(value, Real | Decimal) else None
    return value if number is None else number


def single(value: Any) -> Any:
    """The only item of an array; any other value is unchanged."""
    item = _listed(value)
    while item is not value and isinstance(item, list) and len(item) == 1:
        item = item[0]
    return item


def to_float(name: str, value: Any) -> float:
    """`value` as a float. Raises ValueError if it is no number: also a bool, NaN, several values."""
    number = _float(single(value))
    if number is None or math.isnan(number):
        raise ValueError(f"{name} must be a number, got {shown(value)}.")
    return number


def to_int(name: str, value: Any) -> int:
    """`value` as an int. Raises ValueError if it is no whole number: also a bool, several values."""
    item = single(value)
    if isinstance(item, str):
        with suppress(ValueError):  # perhaps 1e3
            item = int(item)
    if isinstance(item, Integral) and not isinstance(item, bool) and not _is_time(item):
        return int(item)
    number = _float(item)
    if number is None or not number.is_integer():  # which NaN and infinity are not
        raise ValueError(f"{name} must be a whole number, got {shown(value)}.")
    return int(number)


def to_bool(name: str, value: Any) -> bool:
    """`value` as a bool, which may be a word. Raises ValueError if it is neither true nor false."""
    item = single(value)
    if isinstance(item, str):
        item = {"true": True, "false": False}.get(item.strip().lower())
    if not isinstance(item, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}.")
    return item


def to_str(name: str, value: Any) -> str:
    """`value` as a str. Raises ValueError if it is no text."""
    item = single(value)
    if not isinstance(item, str):
        raise ValueError(f"{name} must be a text, got {shown(value)}.")
    return str.__str__(item)


def to_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` if it is one of these words. Raises ValueError if it is not."""
    word = to_str(name, value)
    if word not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}.")
    return word


def to_list(name: str, value: Any) -> list[Any]:
    """The items of a list, tuple, range or array with one dimension, which may be a Series of pandas.

    Raises:
        ValueError: It is something else: a text, one value, a set (which has no order), a generator.
    """
    items = _listed(value)
    if not isinstance(items, Sequence) or isinstance(items, str | bytes | bytearray):
        raise ValueError(f"{name} must be a list, got {shown(value)}.")
    return list(items)


def shown(value: Any) -> str:
    """`value` in a message, on one line of at most 200 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + "..."


_SCALARS: dict[Any, Callable[[str, Any], Any]] = {bool: to_bool, int: to_int, float: to_float, str: to_str}


def _is_time(value: Any) -> bool:
    """Whether it is a date or a duration of numpy or pandas, which `tolist` may turn into a number."""
    return getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M")


def _listed(value: Any) -> Any:
    """An array as a list, a scalar of a library as one of Python; anything else is unchanged."""
    if _is_time(value) or isinstance(value, type) or not callable(getattr(value, "tolist", None)):
        return value
    try:
        return value.tolist()
    except (RuntimeError, TypeError, ValueError):  # a tensor without data
        return value


def _float(value: Any) -> float | None:
    """A number or a word as a float, or None."""
    if not isinstance(value, Real | Decimal | str) or isinstance(value, bool) or _is_time(value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):  # another word; an integer of 400 digits
        return None
