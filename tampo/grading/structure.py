"""What a cleaned answer says: it is taken apart into lists, tuples, intervals, relations and single expressions."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
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
    characters,
    parse,
)
from tampo.grading.units import split_unit

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING, _CLOSING = ("(", "[", "{", r"\{", r"\begin"), (")", "]", "}", r"\}", r"\end")
_AND = re.compile(r"\\(?:text|mathrm|mbox|textrm)\s?\{\s*,?\s*(and|or)\s*,?\s*\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])")
_CONDITION = re.compile(
    r"[,;]?\s*(?:\\(?:text|mathrm|mbox|textrm)\s?\{[\s,]*\(?"
    r"(?:for|if|when|where|with|such that|provided|unless|given|as)\b"
    r"|(?<=[\s,])(?:for|if|when|where|such that)\s|\\forall"
    r"|\s\((?=[^()]{0,40}(?:[<>]|\\[lgn]eq?(?![a-z])|\\in(?![a-z])))[^()]{1,80}\)$)"
)
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", r"\lt": "<", r"\gt": ">", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=",
    r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\ne": "!=", r"\neq": "!=", r"\in": "in", r"\equiv": "==",
    r"\approx": "~", r"\to": "->", r"\rightarrow": "->", r"\Rightarrow": "->", r"\implies": "->", r"\iff": "->",
}  # fmt: skip
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_BASED = re.compile(r"([0-9A-F]{1,99})_\{?(\d{1,2})\}?")
_MATRIX = re.compile(
    r"\(?\\begin\{([pbBvV]?matrix|array|cases|aligned?)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}\)?", re.DOTALL
)
_EMPTY = re.compile(
    r"\\(?:emptyset|varnothing)|\\\{\s?\\\}|(?:\\text\s?\{)?\s?(?:no (?:real )?solutions?|none)\.?\s?\}?", re.IGNORECASE
)


def read(text: str) -> list[Value]:
    """The readings of a cleaned text, the most likely first; more than one where 1,234 may be one number or two."""
    text = _AND.sub(lambda match: " \x02 " if (match[1] or match[2]) == "or" else " , ", text)
    exact, sign, rounded = text.rpartition(r"\approx")
    if sign and not exact.strip():
        return read(rounded)
    if sign and rounded.strip():
        shown = [_read(exact), _read(rounded)]
        named = not isinstance(shown[0], Scalar) or shown[0].expression.free_symbols  # x is about 1.41
        return shown[1:] if named and "=" not in exact else shown
    readings = [_read(text)]
    if _GROUPED.search(text):
        readings.insert(0, _read(_GROUPED.sub(lambda match: match[0].replace(",", ""), text)))
    return readings


def conflicting_conditions(one: str, other: str) -> bool:
    """Whether two cleaned texts have conditions of the same form that differ in a number, letter or sign."""
    found = [match for text in (one, other) if (match := _CONDITION.search(text)) and match.start() > 0]
    if len(found) < 2:
        return False
    texts = [characters(match.string[match.start() :]) for match in found]
    forms = [re.sub(r"\d+|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|[<>]|\\[lg]eq?(?![A-Za-z])", "#", text) for text in texts]
    return texts[0] != texts[1] and forms[0] == forms[1]


def is_empty(text: str) -> bool:
    """Whether a cleaned text says that there is nothing: no solution, the empty set."""
    return bool(_EMPTY.fullmatch(text))


@lru_cache(maxsize=8192)
def _read(text: str) -> Value:
    text = _strip(text)
    if (condition := _CONDITION.search(text)) and condition.start() > 0:
        text = _strip(text[: condition.start()])
    if _EMPTY.fullmatch(text):
        return Many("union", ())
    if (matrix := _MATRIX.fullmatch(text)) and rf"\end{{{matrix[1]}}}" not in matrix[2]:
        return _read_rows(matrix[1], matrix[2])
    logic = (r"\lor", r"\vee", r"\land", r"\wedge") if re.search(r"[<>=]|\\[lgn]e", text) else ()
    for separators in ((";",), (",", "\x02", *logic)):
        parts = _split(text, separators)
        if len(parts) > 1:
            alternatives = "\x02" in text or r"\lor" in text or r"\vee" in text
            return _list([_read(part) for part, _ in parts], alternatives)
    if len(relations := _split(text, tuple(_RELATIONS))) > 1:
        return _read_relation(relations)
    if r"\pmod" in text:
        residue, _, modulus = text.partition(r"\pmod")
        return Congruence("", _read(residue), _read(modulus))
    for kind, separators in (("union", (r"\cup",)), ("difference", (r"\setminus", r"\backslash")), ("ratio", (":",))):
        parts = _split(text, separators)
        if len(parts) > 1:
            items = [_read(part) for part, _ in parts]
            return _difference(items) if kind == "difference" else Many(kind, tuple(items))
    if (inside := _bracketed(text)) is not None:
        return inside
    if r"\pm" in text or r"\mp" in text:
        signs = [text.replace(r"\pm", sign).replace(r"\mp", other) for sign, other in (("+", "-"), ("-", "+"))]
        return Many("list", tuple(map(_read, signs)))
    if based := _BASED.fullmatch(text.replace(" ", "")):
        return Based(based[1], based[2])
    return _read_scalar(text)


def _strip(text: str) -> str:
    """Without spaces, and braces around the whole."""
    text = text.strip().strip("\x02").strip()
    while text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += (match[0] in _OPENING) - (match[0] in _CLOSING)
        if depth <= 0:
            return match.end() == len(text)
    return False


def _split(text: str, separators: Sequence[str]) -> list[tuple[str, str]]:
    """Non-empty parts between separators outside of all brackets, each with the separator before it."""
    parts, depth, start, before = [], 0, 0, ""
    if not any(separator in text for separator in separators):
        return [(text, "")]
    for match in _TOKEN.finditer(text):
        if match[0] in separators and depth == 0:
            parts.append((text[start : match.start()].strip(), before))
            start, before = match.end(), match[0]
        depth = max(0, depth + (match[0] in _OPENING) - (match[0] in _CLOSING))
    parts.append((text[start:].strip(), before))
    # "<=" is "<" and "=".
    joined: list[tuple[str, str]] = []
    for part, separator in parts:
        if joined and not joined[-1][0] and joined[-1][1] in ("<", ">") and separator == "=":
            joined[-1] = (part, r"\le" if joined[-1][1] == "<" else r"\ge")
        else:
            joined.append((part, separator))
    return [(part, separator) for part, separator in joined if part]


def _list(items: list[Value], alternatives: bool) -> Value:
    if isinstance(items[0], Scalar | Relation):  # x^2, x > 0: the others are its conditions
        items = [items[0], *(item for item in items[1:] if not (isinstance(item, Interval) and item.name))]
        if len(items) == 1:
            return items[0]
    if alternatives and all(isinstance(item, Interval) or _is_union(item) for item in items):
        return Many("union", tuple(items))
    return Many("list", tuple(items))


def _is_union(value: Value) -> bool:
    return isinstance(value, Many) and value.kind == "union"


def _bracketed(text: str) -> Value | None:
    """The tuple, set or interval that the brackets around the whole text make; None without such."""
    for opening, closing in (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\{", r"\}"), ("]", "[")):
        if text.startswith(opening) and text.endswith(closing) and (opening == "]" or _closes_at_end(text)):
            inside = _read(text[len(opening) : len(text) - len(closing)])
            several = isinstance(inside, Many) and inside.kind == "list"
            if opening == r"\{":
                return Many("set", inside.items if isinstance(inside, Many) and several else (inside,))
            if several:
                assert isinstance(inside, Many)
                return Many({"]": "()"}.get(opening, opening + closing), inside.items)
            return None if isinstance(inside, Scalar) else inside
    return None


def _read_rows(environment: str, inside: str) -> Value:
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]{0,9}\])?|\\cr", inside) if row.strip()]
    if environment == "cases" or "align" in environment:
        parts = [[part.strip(" ,") for part in row.split("&") if part.strip(" ,")] for row in rows]
        if environment != "cases" or all(len(row) == 1 for row in parts):
            return _list([_read("".join(row)) for row in parts], alternatives=False)
        return Many("list", tuple(Many("()", (_read(row[0]), _condition(" ".join(row[1:])))) for row in parts))
    if environment[0] in "vV":
        return _read_scalar(rf"\begin{{{environment}}}{inside}\end{{{environment}}}")
    cells = [tuple(_read(cell) for cell in row.split("&")) for row in rows]
    if len(cells) == 1 or all(len(row) == 1 for row in cells):  # a vector
        return Many("()", tuple(cell for row in cells for cell in row))
    return Many("matrix", tuple(Many("()", row) for row in cells))


def _condition(text: str) -> Value:
    words = re.sub(r"\b(?:if|for|when|where)\b|[,.]", "", characters(text).replace(r"\text", ""))
    return Text("otherwise" if "otherwise" in words else re.sub(r"^(?:if|for|when|where)", "", words))


def _name(text: str) -> str:
    r"""The left side of a relation as a name: without spaces and kinds of letters; "" for an expression."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|operatorname)\s?\{([^{}]*)\}|\\[,;: ]|\s", r"\1", text).strip("{}")
    outside = re.sub(r"_\{[^{}]*\}|\([^()]*\)", "", text)  # of indices and arguments
    if re.match(r"\d", text) or re.search(r"[-+]|\^(?!\{?\\(?:prime|circ))", outside):
        return ""
    return text.rstrip(":")


def _read_relation(parts: list[tuple[str, str]]) -> Value:
    operators = [_RELATIONS[separator] for _, separator in parts[1:]]
    sides = [part for part, _ in parts]
    if parts[0][1]:  # nothing before the first sign: "= 5"
        return _read(sides[-1])
    if "->" in operators:
        last = len(operators) - operators[::-1].index("->")
        return _read_relation([(sides[last], ""), *parts[last + 1 :]]) if len(parts) > last + 1 else _read(sides[-1])
    if operators == ["=="] or (operators == ["="] and r"\pmod" in sides[1]):
        residue, _, modulus = sides[1].partition(r"\pmod")
        if modulus:
            return Congruence(_name(sides[0]), _read(residue), _read(modulus))
    if operators == ["in"] or all(operator in ("=", "~", "==") for operator in operators):
        return _equation(sides, operators)
    if all(operator in ("<", "<=") for operator in operators):
        return _inequality(sides, operators)
    if all(operator in (">", ">=") for operator in operators):
        return _inequality(sides[::-1], [operator.replace(">", "<") for operator in operators[::-1]])
    if operators == ["!="]:
        value, name = _read(sides[1]), _name(sides[0])
        if isinstance(value, Scalar) and name:
            return _without(name, [value.expression])
    return Text(characters(" ".join(part for pair in parts for part in pair)))


def _equation(sides: list[str], operators: list[str]) -> Value:
    name, value = _name(sides[0]), _read(sides[-1])
    if len(sides) == 2 and operators != ["in"]:
        if _bracketed_names(sides[0]) and isinstance(value, Many) and value.kind in ("()", "[]"):
            names = _bracketed_names(sides[0])
            if len(names) == len(value.items):
                pairs = zip(names, value.items, strict=True)
                return Many("()", tuple(Relation(one, item, None, None) for one, item in pairs))
        left, right = (parse(_strip(side)) for side in sides)
        if None not in (left, right) and not left.free_symbols and not right.free_symbols:
            # 80 + 150 = 230, or rounded
            return value if _nearly(left, right) else Text(characters("=".join(sides)))
        return Relation(name, value, left, right)
    return Relation(name or "?", value, None, None)  # a = b = c states the value of a


def _nearly(one: Any, other: Any) -> bool:
    try:
        return bool(abs((one - other).evalf()) <= 0.01 * abs(one.evalf()))
    except Exception:  # not numbers: infinities, matrices
        return False


def _bracketed_names(text: str) -> list[str]:
    match = re.fullmatch(r"\(([^()]{1,99})\)", text)
    return [part.strip() for part in match[1].split(",")] if match and "," in match[1] else []


def _inequality(sides: list[str], operators: list[str]) -> Value:
    """left < right, or left < middle < right."""
    from sympy import oo

    readings = [_read(side) for side in sides]
    values: list[Any] = [reading.expression if isinstance(reading, Scalar) else None for reading in readings]
    are_open = [operator == "<" for operator in operators]
    if len(sides) == 3 and _name(sides[1]) and values[0] is not None and values[2] is not None:
        return Interval(_name(sides[1]), values[0], values[2], *are_open)
    if len(sides) > 2:
        return Text(characters(operators[0].join(sides)))
    one, other = values
    if (
        None not in values
        and not one.is_Symbol
        and not other.is_Symbol
        and (bound := _linear(one - other, are_open[0]))
    ):
        return bound
    if _name(sides[0]) and _is_bound(other, one):
        return Interval(_name(sides[0]), -oo, other, True, are_open[0])
    if _name(sides[1]) and _is_bound(one, other):
        return Interval(_name(sides[1]), one, oo, are_open[0], True)
    if None in values:
        return Text(characters(operators[0].join(sides)))
    return Interval("?", one, other, are_open[0], are_open[0])


def _is_bound(value: Any, bounded: Any) -> bool:
    """Whether a value is a number, or a symbol is what it bounds."""
    if value is None:
        return False
    return not value.free_symbols or bool(
        bounded is not None and bounded.is_Symbol and bounded not in value.free_symbols
    )


def _linear(below: Any, is_open: bool) -> Interval | None:
    """The values of the only symbol for which a linear expression is below zero."""
    from sympy import oo

    if len(below.free_symbols) != 1:
        return None
    [symbol] = below.free_symbols
    slope = below.diff(symbol)
    if not slope.is_number or not slope.is_nonzero:
        return None
    root = -below.subs(symbol, 0) / slope
    rising = slope > 0
    low, high = (-oo, root) if rising else (root, oo)
    return Interval(str(symbol), low, high, rising or is_open, not rising or is_open)


def _without(name: str, points: list[Any]) -> Value:
    """All real numbers but some points, as a union of intervals."""
    from sympy import oo

    try:
        ordered = sorted(points, key=lambda point: float(point))
    except TypeError:
        return Text(f"{name}!={points}")
    ends = [-oo, *ordered, oo]
    return Many("union", tuple(Interval(name, a, b, True, True) for a, b in pairwise(ends)))


def _difference(items: list[Value]) -> Value:
    whole, *holes = items
    if isinstance(whole, Interval) and len(holes) == 1 and isinstance(holes[0], Many):
        points = [item.expression for item in holes[0].items if isinstance(item, Scalar)]
        if len(points) == len(holes[0].items):
            return _without("", points)
    return Many("difference", tuple(items))


def _read_scalar(text: str) -> Value:
    from sympy import oo

    if text.replace(" ", "") in (r"\mathbb{R}", r"\mathbf{R}", r"\R", r"\Reals"):
        return Interval("", -oo, oo, True, True)
    number, unit = split_unit(text)
    expression = parse(number)
    if expression is None and unit:
        expression, unit = parse(text), ""
    if expression is None:
        return Text(characters(text))
    return Scalar(expression / 100 if unit == "%" else expression, unit)
