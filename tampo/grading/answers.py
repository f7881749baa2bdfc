r"""Answer matching: compare the final answer of a completion with the gold answer.

A completion is parsed, never executed; but parsing can hang or use all memory, so only the workers of
`tampo.grading.pool` call this. The steps: find the final answer (`extraction`), repair its notation (`repairs`), take
it apart (`structure`), parse its expressions with math-verify (`expressions`), and compare parts and values
(`equality`, `values`). Choices and words are compared as text.

No number is picked out of mathematics that cannot be read: plain math-verify does so, and then unequal answers are
equal.
"""

import re
from importlib.metadata import version
from typing import Any, Literal

from tampo.grading.equality import equal
from tampo.grading.expressions import Value, is_read
from tampo.grading.extraction import find_answer, find_boxed, last_words, only_number
from tampo.grading.repairs import clean
from tampo.grading.structure import conflicting_conditions, is_empty, read

Status = Literal["correct", "wrong", "unparseable", "timeout", "gold_unparseable"]
Grader = Literal["tampo", "math-verify"]
VERSION = 2
"""Of the rules of "tampo": raised whenever a verdict may change, so that runs and evaluations are known by it."""


def version_of(grader: Grader) -> str:
    """What verdicts of a grader depend on: the rules and the library, with their versions."""
    library = f"math-verify {version('math-verify')}"
    return f"tampo {VERSION}, {library}" if grader == "tampo" else library


_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf)|mbox) ?\{([^{}\\]*)\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?=[A-Za-z]?[a-z]*[aeiouy])[A-Za-z][a-z]{3,}(?![A-Za-z])")  # a word, not a product
_SHORT_WORDS = {"yes", "no", "odd", "even", "true"}
_WORDS = re.compile(r"[^\W\d_]{2,}(?:,? (?:[^\W\d_]{2,}(?:['’-][^\W\d_]+)*|a|I))+")
_CHOICE = re.compile(r"\(?([A-J])(?:[).:].*)?", re.DOTALL)


def match_answer(
    completion: str, gold: str, tolerance: float | None = None, grader: Grader = "tampo"
) -> tuple[Status, str | None]:
    """Status and answer of one completion. No deadline: call it in a process that may be killed.

    Args:
        tolerance: Absolute tolerance of a gold answer that is one number, or None.
        grader: "tampo", or "math-verify" for the verdict of the plain library, which knows no tolerance.
    """
    return _match_plainly(completion, gold) if grader == "math-verify" else _match(completion, gold, tolerance)


def _match_plainly(completion: str, gold: str) -> tuple[Status, str | None]:
    from math_verify import parse, verify

    # A gold answer without dollars or a box is not read as LaTeX.
    wanted: list[Any] = parse(gold if "$" in gold or "\\boxed" in gold else f"\\boxed{{{gold}}}", parsing_timeout=None)
    found: list[Any] = parse(completion, parsing_timeout=None)
    answer = next((item for item in found if isinstance(item, str)), None)
    if not wanted:
        return "gold_unparseable", answer
    if not found:
        return "unparseable", answer
    return ("correct" if verify(wanted, found, timeout_seconds=None) else "wrong"), answer


def _match(completion: str, gold: str, tolerance: float | None) -> tuple[Status, str | None]:
    answer = find_answer(completion)
    wanted = clean(find_boxed(gold) or gold)
    if not wanted:
        return "gold_unparseable", answer
    if answer is None and _as_text(wanted) is not None:
        answer = last_words(completion)
    if answer is None:
        return "unparseable" if _as_text(wanted) or any(map(is_read, read(wanted))) else "gold_unparseable", None
    found = clean(find_boxed(answer) or answer)
    if _characters(found) == _characters(wanted):
        return "correct", answer
    if (text := _as_text(wanted)) is not None and not is_empty(wanted):
        return ("correct" if _as_text(found, text) == text else "wrong"), answer
    if _INTEGER.fullmatch(found) and _INTEGER.fullmatch(wanted):
        return ("correct" if abs(int(found) - int(wanted)) <= (tolerance or 0) else "wrong"), answer
    if _is_sentence(wanted):
        same = _characters(found).casefold() == _characters(wanted).casefold()
        return ("correct" if same else "wrong"), answer
    golds, answers = read(wanted), read(found)
    if not any(map(is_read, answers)) and (number := only_number(found)):
        answers = read(clean(number))
    if not conflicting_conditions(wanted, found) and any(_equal(g, a, tolerance) for g in golds for a in answers):
        return "correct", answer
    if not any(map(is_read, golds)):
        return ("wrong" if _PROSE.search(_WRAPPED.sub(r"\1", wanted)) else "gold_unparseable"), answer
    return ("wrong" if any(map(is_read, answers)) else "unparseable"), answer


def _equal(gold: Value, answer: Value, tolerance: float | None) -> bool:
    try:
        return equal(gold, answer, tolerance)
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError, NotImplementedError):
        return False  # of sympy, for values that cannot be compared


def _characters(text: str) -> str:
    return re.sub(r" (?!(?<=\d )\d)", "", _WRAPPED.sub(r"\1", text))  # "2 3" is not 23


def _is_sentence(text: str) -> bool:
    """Whether a gold answer is words with mathematics in them: it equals the same characters only."""
    words = _WRAPPED.sub(r"\1", text)
    return not re.match(r"[-(\d\\]|[A-Za-z]\b", words) and len(_PROSE.findall(words)) >= 3


def _as_text(text: str, gold: str | None = None) -> str | None:
    r"""The normal form of a text answer such as "\text{ Evelyn }", "(C)" or "go to bed"; None for mathematics.

    With `gold`, the normal form of a gold answer, `text` is an answer to it: "B. The cat" answers "B".
    """
    bare = " ".join(_WRAPPED.sub(r"\1", text).split())
    if gold is None and not (
        _WRAPPED.fullmatch(text) or _WORDS.fullmatch(bare) or _PROSE.fullmatch(bare) or len(bare) < 4
    ):
        return None
    if gold is not None and len(gold) == 1 and len(bare) < 4:
        bare = bare.upper()
    if (choice := _CHOICE.fullmatch(bare)) and (len(bare) < 4 if gold is None else len(gold) == 1):
        return choice[1]
    is_word = bare.lower() in _SHORT_WORDS or (len(bare) >= 4 and not re.search(r"\d", bare))
    if gold is None and not is_word:
        return None
    return bare.casefold().rstrip(".")
