r"""Single expressions, and what else an answer may consist of.

The parser of math-verify (latex2sympy2) reads single expressions only here (`tampo.grading.structure` takes answers
apart first): given a whole answer, it drops what it does not know, such as the modulus of a congruence, the base of a
number, dots, and equal items. An expression that lost a letter in parsing counts as not read.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_INTEGER = re.compile(r"[+-]?\d{1,4000}")
_DECIMAL = re.compile(r"[+-]?(?:\d{1,400}\.\d{1,400}|\.\d{1,400})")
_SCIENTIFIC = re.compile(r"([+-]?\d{1,99}(?:\.\d{1,99})?)\s?\\(?:times|cdot)\s?10\s?\^\s?\{?\s?([+-]?\d{1,4})\s?\}?")
_FRACTION = re.compile(r"([+-]?)(?:\\frac\{([+-]?\d{1,99})\}\{([+-]?\d{1,99})\}|(\d{1,99}) ?/ ?(\d{1,99}))")
# A word, or digits that a space parts: the parser reads products of letters, and one number.
_PROSE = re.compile(r"(?<![\\A-Za-z_{])(?=[a-z]*[aeiou])[a-z]{4,}(?![A-Za-z])|\d \d")


@dataclass(frozen=True)
class Scalar:
    """One expression of sympy, with the unit that followed it ("" for none, "%" for percent)."""

    expression: Any
    unit: str = ""


@dataclass(frozen=True)
class Text:
    """What is not read as mathematics: equal to the same characters only."""

    text: str


@dataclass(frozen=True)
class Many:
    """Several values. `kind` is "list", "set", "union", "ratio", "matrix", or a tuple's brackets: "()", "[)"."""

    kind: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, which may be infinite; `name` is the variable, "" where none was given."""

    name: str
    low: Any
    high: Any
    open_low: bool
    open_high: bool


@dataclass(frozen=True)
class Relation:
    """left = right. `name` is the left side if it only names the value: x, f(x), |AB|, the area; else ""."""

    name: str
    value: "Value"
    left: Any  # of sympy; None: not read
    right: Any


@dataclass(frozen=True)
class Congruence:
    """name = residue modulo modulus."""

    name: str
    residue: "Value"
    modulus: "Value"


@dataclass(frozen=True)
class Based:
    """A number written in a base, such as 4343_6."""

    digits: str
    base: str


Value = Scalar | Text | Many | Interval | Relation | Congruence | Based


def is_read(value: Value) -> bool:
    """Whether every part of a value was read as mathematics."""
    if isinstance(value, Many):
        return all(map(is_read, value.items))
    if isinstance(value, Relation):
        return is_read(value.value)
    return not isinstance(value, Text)


def characters(text: str) -> str:
    """What two texts that are not read are compared by."""
    return re.sub(r"\\(?:text|mathrm|mathbf|operatorname)\s?\{([^{}]*)\}|\\[,;: ]|[\s{}]", r"\1", text)


@lru_cache(maxsize=8192)
def parse(text: str) -> Any:
    """One expression of sympy; None if the text is not one, or if a letter of it is lost in parsing."""
    from sympy import Derivative, Float, I, Integer, Rational, Symbol
    from sympy.core.function import AppliedUndef

    if _INTEGER.fullmatch(text):
        return Integer(int(text))
    if _DECIMAL.fullmatch(text):
        return Float(text, 30)
    if (match := _SCIENTIFIC.fullmatch(text)) and "." in match[1]:
        return Float(f"{match[1]}e{match[2]}", 30)
    if (match := _FRACTION.fullmatch(text)) and int(match[3] or match[5]):
        value = Rational(int(match[2] or match[4]), int(match[3] or match[5]))
        return -value if match[1] == "-" else value
    if not text or len(text) > 2_000 or _PROSE.search(text):
        return None
    try:
        expression = _latex2sympy()(text)
        free = expression.free_symbols
    except Exception:  # the parser raises plain exceptions, and those of sympy
        return None
    if isinstance(expression, str | bool) or not (hasattr(expression, "is_Matrix") or hasattr(expression, "evalf")):
        return None
    letters = set(re.findall(r"[A-Za-z]", re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+|_\{[^{}]*\}|_.", "", text)))
    names = "".join(str(item) for item in expression.atoms(Symbol, AppliedUndef))  # the expression's own is evaluated
    if not letters - set("deiIE") <= set(names):
        return None
    # A derivative would be evaluated: that of y by x is zero.
    renamed: dict[Any, Any] = {found: Symbol(str(found)) for found in expression.atoms(Derivative)}
    if {str(symbol) for symbol in free} == {"i"}:  # beside other letters it may be a current or an index
        renamed |= {symbol: I for symbol in free}
    return expression.xreplace(renamed) if renamed else expression


@lru_cache(maxsize=1)
def _latex2sympy() -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    settings = ConversionConfig(lowercase_symbols=False, interpret_as_mixed_fractions=False)
    return lambda text: latex2sympy(text, is_real=True, normalization_config=None, conversion_config=settings)
