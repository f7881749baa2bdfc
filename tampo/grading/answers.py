r"""Answer matching: compare one final answer with the gold answer, by math-verify.

A completion is parsed, never executed; but parsing can hang or use all memory, so only the workers of
`tampo.grading.pool` call this. In addition to math-verify: golds and answers are cleaned of what its LaTeX parser does
not read (`_clean`), integers and equal strings skip sympy, text answers are compared as text, and numbers that
math-verify rounds to equal are compared again relative to their size (it takes 7e-12 for 0).
"""

import contextlib
import re
from functools import lru_cache
from typing import Any, Literal

Status = Literal["correct", "wrong", "unparseable", "timeout", "gold_unparseable"]

_TAIL = 2_000  # characters searched for an answer where none is boxed
_FLOAT_TOLERANCE = 1.01e-6  # relative: 0.333333 is 1/3, 0.333 is not
# Bounded repeats: a megabyte of backslashes or braces must not cost quadratic time.
_BRACE = re.compile(r"(?P<box>\\{1,4}(?:boxed|fbox|framebox)\s{0,9}\{)|\\\\|\\[{}]|[{}]")
_JOINT = re.compile(r"[\s$.*\\()\[\]]{0,12}(?:,|;|and|or|&|\\text\{ ?(?:and|or) ?\})[\s$*\\()\[\]]{0,12}")
_MINUS = re.compile(r"[=$(]\s?-\s?$")  # a = -\boxed{256}
_STATED = re.compile(r"(?i)\banswer(?: is)?[:\s]\s{0,9}([^\n]{1,200})")  # a text answer without a box
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_INTEGERS = re.compile(r"[+-]?[0-9]{1,400}(?: ?, ?[+-]?[0-9]{1,400})+")
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf)|mbox) ?\{([^{}\\]*)\}")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:,? (?:[^\W\d_]{2,}(?:['’-][^\W\d_]+)*|a|I))+")
_CHOICE = re.compile(r"\(?([A-J])(?:[).:].*)?", re.DOTALL)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")


def match_answer(completion: str, gold: str, tolerance: float | None = None) -> tuple[Status, str | None]:
    """Status and answer of one completion. No deadline: call it in a process that may be killed."""
    boxed = find_boxed(completion)
    wanted = _clean(find_boxed(gold) or gold)
    if not wanted:
        return "gold_unparseable", boxed
    if (text := _as_text(wanted)) is not None:
        if boxed is None and (stated := _STATED.findall(completion[-_TAIL:])):
            boxed = stated[-1]
        if boxed is None:
            return "unparseable", None
        return ("correct" if _as_text(_clean(boxed), text) == text else "wrong"), boxed
    if boxed is not None:
        read = _clean(boxed)
        if _WRAPPED.sub(r"\1", read).replace(" ", "") == _WRAPPED.sub(r"\1", wanted).replace(" ", ""):
            return "correct", boxed
        if _INTEGERS.fullmatch(read) and _INTEGERS.fullmatch(wanted):  # "8,221" may be one number or two
            one, other = (sorted(int(number) for number in side.split(",")) for side in (read, wanted))
            if one == other:
                return "correct", boxed
        if _INTEGER.fullmatch(read) and _INTEGER.fullmatch(wanted):
            return ("correct" if abs(int(read) - int(wanted)) <= (tolerance or 0) else "wrong"), boxed
        answers = _readings(read, wanted)
    else:
        answers, boxed = _extract(completion[-_TAIL:])
    golds = _readings(wanted, boxed or "")
    if not golds:
        return "gold_unparseable", boxed
    if not answers:
        return "unparseable", boxed
    if any(_equal(g, a, tolerance) for g in golds for a in answers):
        return "correct", boxed
    return "wrong", boxed


def find_boxed(text: str) -> str | None:
    r"""The content of the last closed, non-empty `\boxed{}`, in linear time; None without one.

    Earlier boxes that a comma, "and" or "or" joins to it are further answers: "7, -5".
    """
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    open_braces: list[re.Match[str]] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{" or match["box"]:
            open_braces.append(match)
        elif match[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening["box"] and (content := text[opening.end() : match.start()].strip()):
                if _MINUS.search(text[max(0, opening.start() - 6) : opening.start()]):
                    content = f"-{content}" if content.isalnum() else f"-({content})"
                while boxes and boxes[-1][0] > opening.start():  # a box within this one
                    boxes.pop()
                boxes.append((opening.start(), match.end(), content))
    if not boxes:
        return None
    start, _, content = boxes.pop()
    answers = [content]
    while boxes and _JOINT.fullmatch(text[boxes[-1][1] : start][:60]):
        start, _, content = boxes.pop()
        answers.insert(0, content)
    return ", ".join(dict.fromkeys(answers))


# What math-verify's LaTeX parser does not read, or misreads.
_REPAIRS = tuple(
    (re.compile(pattern), repair)
    for pattern, repair in (
        (r"\\{1,4}(?:boxed|fbox|framebox)\s{0,9}\{", "{"),
        (r"\\\$|\$|\\left(?![a-z])|\\right(?![a-z])|\\!\s*|\\displaystyle|\x00", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-z])|~|\s+", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]{1,99}", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}"),
        (r"(?<=\d) ?[x×] ?(?=10\^)", r"\\times "),
        (r"(?<![\w.\\])((?:\d+\.?\d*|\.\d+))[eE]([+-]?\d+)(?![\w.])", r"\1\\times 10^{\2}"),  # 4.5e33
        (r"(?<=\d)\.(?= ?(?:[/*^+-]|$))", ""),  # -1./3
        (r"\b(?:np|math)\.(?=[a-z])", r"\\"),  # np.arcsin
        (r"(?<=[A-Za-z})])('{1,9})", lambda match: "^{" + r"\prime" * len(match[1]) + "}"),
        (r"\\(d?dot|hat|bar|vec) ([A-Za-z])", r"\\\1{\2}"),
        (r"_\{ ?\\(?:text|mathrm) ?\{ ?(\w{1,30}) ?\} ?\}", r"_{\1}"),  # x_{\text{red}}
        (r"_\{ ?\\([a-z]{1,9}) ?\}", r"_{\1}"),  # m_{\max}
        (r"(?<![A-Za-z\\])E(?=_)", r"\\mathcal{E}"),  # else Euler's number, with an index
        (r"^ ?[a-z] ?(?=[\[(][^\[()\]]{1,99},[^\[()\]]{1,99}\] ?$)", ""),  # t(0,4]
    )
)


def _clean(text: str) -> str:
    for pattern, repair in _REPAIRS:
        text = pattern.sub(repair, text)
    return text.strip().removesuffix(".").strip()


def _as_text(text: str, gold: str | None = None) -> str | None:
    r"""The normal form of a text answer such as "\text{ Evelyn }", "(C)" or "go to bed"; None for mathematics.

    With `gold`, the normal form of a gold answer, `text` is an answer to it: "B. The cat" answers "B".
    """
    bare = " ".join(_WRAPPED.sub(r"\1", text).split())
    if gold is None and not (_WRAPPED.fullmatch(text) or _WORDS.fullmatch(bare) or len(bare) < 4):
        return None
    if (choice := _CHOICE.fullmatch(bare)) and (len(bare) < 4 if gold is None else len(gold) == 1):
        return choice[1]
    if gold is None and (len(bare) < 4 or any(character.isdigit() for character in bare)):
        return None
    return bare.casefold().rstrip(".")


@lru_cache(maxsize=4096)  # several samples share a gold
def _parse(text: str) -> list[Any]:
    """The sympy expressions of a cleaned text; empty where it cannot be parsed."""
    return _extract(f"\\boxed{{{text}}}")[0]


def _readings(text: str, other: str) -> list[Any]:
    """62.5% is 0.625, and 62.5 where the other side has no percent sign."""
    bare = text.replace("\\%", "").replace("%", "")
    return _parse(text) + (_parse(bare) if bare != text and "%" not in other else [])


def _extract(text: str) -> tuple[list[Any], str | None]:
    """The expressions that math-verify finds in `text`, and the part of the text that it parsed."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    found = parse(text, [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()], parsing_timeout=None)
    read = next((item for item in found if isinstance(item, str)), None)
    return [item for item in found if not isinstance(item, str)], read


def _equal(gold: Any, answer: Any, tolerance: float | None) -> bool:
    from math_verify import verify
    from sympy import Float

    with contextlib.suppress(Exception):  # sets, matrices, infinities: for math-verify
        if gold.is_number and answer.is_number:
            one, other = gold.doit().evalf(30), answer.doit().evalf(30)
            gap, size = abs(one - other), max(abs(one), abs(other))
            if tolerance is not None or gold.has(Float) or answer.has(Float):
                return bool(gap <= max(size * _FLOAT_TOLERANCE, tolerance or 0))
            if gap > size * 1e-3:
                return False
        elif _differ(gold, answer):
            return False
    return bool(verify(gold, answer, timeout_seconds=None))


def _differ(gold: Any, answer: Any) -> bool:
    """Whether two expressions differ in value, or two equations in solutions, at one fixed point.

    If so, they are not equal, and sympy's `simplify` and `solve` (seconds) are not needed; False proves nothing.
    """
    from sympy import Add, Eq, Expr, Rational, Symbol
    from sympy.core.function import AppliedUndef

    equations = isinstance(gold, Eq) and isinstance(answer, Eq)
    one, other = [side.lhs - side.rhs if equations else side for side in (gold, answer)]
    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return False
    one, other = [
        e.xreplace({f: Symbol(str(f), real=True) for f in e.atoms(AppliedUndef)}).doit() for e in (one, other)
    ]
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    point = {symbol: Rational(37 + 17 * i**2, 29 + 11 * i) for i, symbol in enumerate(symbols)}
    if not equations:
        values = [e.subs(point).evalf(30) for e in (one, other)]
        return bool(abs(values[0] - values[1]) > 1e-3 * max(abs(value) for value in values))
    for symbol in symbols:  # a solution of the answer, where it is linear in something
        slope = other.diff(symbol)
        if slope != 0 and not slope.has(symbol):
            del point[symbol]
            point[symbol] = (-other.subs(symbol, 0) / slope).subs(point)
            terms = [abs(term.subs(point).evalf(30)) for term in Add.make_args(one.expand())]
            return bool(abs(one.subs(point).evalf(30)) > 1e-3 * max(terms))
    return False
