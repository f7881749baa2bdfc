r"""The final answer in a completion: a box, else what it states as its answer, else the mathematics at its end."""

import re
from collections.abc import Iterator

from tampo.grading.units import is_symbol

_TAIL = 2_000  # characters searched for an answer where none is boxed
# Bounded repeats: a megabyte of backslashes or braces must not cost quadratic time.
_BRACE = re.compile(r"(?P<box>\\{1,4}(?:boxed|fbox|framebox)\s{0,9}\{)|\\\\|\\[{}]|[{}]")
_FILLING = re.compile(
    r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]{0,60})\}|\\[,;:! ()\[\]]|\\q?quad(?![a-z])|[\s$*_~.]|\\\\"
)
_JOINT = re.compile(r"(?:,|;|and|or|&)?(?:[A-Za-z]\w{0,3}(?:_\{?\w{1,3}\}?)?(?:\([a-z]\))?=)?|,?(?:and|or)")
_MINUS = re.compile(r"[=$(]\s?-\s?$")  # a = -\boxed{256}
_SPECIAL = re.compile(r"(?:<\|[a-z_]{1,30}\|>(?:user|assistant)?\s*)+$")  # tokens at the end of a turn
_TAG = re.compile(r"<answer>(.{1,2000}?)</answer>", re.DOTALL)
_STATED = re.compile(
    r"(?i)(?:\banswers?\b(?:\W{0,6}[:=]|[^\n.:=]{0,80}?\b(?:is|are|be)\b\s?:?|\W{0,9}\n)|####)[\s*_:]{0,9}"
)
_SPAN = re.compile(
    r"\$\$(?P<a>[^$]{1,999})\$\$|\\\[(?P<b>.{1,999}?)\\\]|\\\((?P<c>.{1,999}?)\\\)"
    r"|(?<!\\)\$(?P<d>(?:[^$\n\\]|\\[^\n]){1,400}?)\$",
    re.DOTALL,
)
_WORDS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}[,;:]?\s+[A-Za-z]{2,}|(?<![\\A-Za-z{])[a-z]{4,}")  # not mathematics
_SENTENCE_END = re.compile(r"[.!?][)*_\"']{0,4}(?:\s|$)|\n")
_COPULA = re.compile(r"\b(?:is|are|equals)\b\s?(?=[-.\d(])")
_SEPARATOR = re.compile(r"\s{0,3}(?:,|;|,?\s?and|,?\s?or|&)\s{0,3}")
_MARKS = re.compile(r"\*\*|(?<!\w)__|__(?!\w)|`")
_NUMBER = re.compile(
    r"\b\d{1,2}:\d\d\b|(?<![\w.\\^_{/:])-?[$€£]?"
    r"(?:\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d{1,99})?(?:(?<=\d)|\.)(?:(?<=\.)\d{1,99}|\.\d{1,99})?"
    r"(?: ?/ ?\d{1,99})?(?:[eE][+-]?\d{1,4})?(?:\s?(?:%|percent|pct))?(?![\d^])"
)
_UNIT_AFTER = re.compile(r"\s*(?:\\?%|percent\w*|pct)?[\s.!?)*]*")


def closed_boxes(text: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    r"""The opening and the closing of every closed box, in the order in which they close, in linear time."""
    open_braces: list[re.Match[str]] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{" or match["box"]:
            open_braces.append(match)
        elif match[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening["box"]:
                yield opening, match


def find_boxed(text: str) -> str | None:
    r"""The content of the last closed, non-empty `\boxed{}`, in linear time; None without one.

    Earlier boxes that a comma, "and", "or" or a space of LaTeX joins to it are further answers: "7, -5".
    """
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    for opening, closing in closed_boxes(text):
        if content := text[opening.end() : closing.start()].strip():
            if _MINUS.search(text[max(0, opening.start() - 6) : opening.start()]):
                content = f"-{content}" if content.isalnum() else f"-({content})"
            while boxes and boxes[-1][0] > opening.start():  # a box within this one
                boxes.pop()
            boxes.append((opening.start(), closing.end(), content))
    if not boxes:
        return None
    start, _, content = boxes.pop()
    answers = [content]
    while boxes and _is_joint(text[boxes[-1][1] : start]):
        start, _, content = boxes.pop()
        answers.insert(0, content)
    return ", ".join(dict.fromkeys(answers))


def _is_joint(between: str) -> bool:
    """Whether what is between two boxes makes one answer of them: nothing but separators and a name."""
    if len(between) > 90 or re.search(r"\.\s", between):
        return False
    if re.search(r"\\text\s?\{[^{}]*\b(?:and|or)\b[^{}]*\}", between) and not _FILLING.sub("", between):
        return True
    words = _FILLING.sub(lambda match: match[1] or "", between)
    return bool(_JOINT.fullmatch(_FILLING.sub("", words).strip()))


def find_answer(completion: str) -> str | None:
    """The text of the final answer; None where there is none, as in a completion that was cut off.

    In this order: the last box, the last <answer> tag, the last statement ("the answer is ...", "####") that is whole,
    and without a statement the mathematics of the last sentence, if it is whole.
    """
    if boxed := find_boxed(completion):
        return boxed
    tail = _SPECIAL.sub("", completion[-_TAIL:].strip())
    if tagged := _TAG.findall(tail):
        return tagged[-1].strip() or None
    stated = [*_STATED.finditer(tail)]
    for match in stated[::-1]:
        if answer := _phrase(tail[match.end() :].lstrip()):
            return answer
    thinking = completion.rfind("<think>") > completion.rfind("</think>")
    return None if stated or thinking else _last_mathematics(tail)


def _spans(text: str) -> list[re.Match[str]]:
    """Mathematics in dollars or LaTeX's brackets; a dollar of money begins none."""
    found, position = [], 0
    while match := _SPAN.search(text, position):
        content = match[match.lastgroup or 0]
        words = _WORDS.search(re.sub(r"\\(?:text|mathrm)\s?\{[^{}]*\}", "", content))
        money = match.lastgroup == "d" and (words or re.search(r"[-+*/=]\s*$", content))  # $21 - $20
        if not money:
            found.append(match)
        position = match.start() + 1 if money else match.end()
    return found


def _phrase(text: str) -> str | None:
    """The answer at the beginning of a text: the mathematics of its first sentence, else its words."""
    spans = _spans(text)
    end = _sentence_end(text, spans)
    if inside := [span for span in spans if span.start() < end]:
        later = _COPULA.search(text[inside[-1].end() : end])  # the largest $n$ is 34
        return _phrase(text[inside[-1].end() + later.end() :]) if later else _joined(text, inside)
    words = _MARKS.sub("", text[: end + (text[end : end + 1] == ".")]).strip(" \t,:;!")
    if re.search(r"(?:[-+*/=^(<]|\\[A-Za-z]*)$", words) or re.search(r"(?<![\\\d])\$(?!\d)", words):
        return None  # cut off
    return _last_side(words) or None


def _last_side(words: str) -> str:
    """230 miles, of 80 + 150 = 230 miles."""
    return words.rpartition("=")[2].strip() if re.match(r"-?[\d(]", words) else words


def _sentence_end(text: str, spans: list[re.Match[str]]) -> int:
    """Where the first sentence ends; a full stop within mathematics does not end it."""
    for match in _SENTENCE_END.finditer(text):
        if not any(span.start() <= match.start() < span.end() for span in spans):
            return match.start()
    return len(text)


def _joined(text: str, spans: list[re.Match[str]]) -> str:
    """The last span, with those before it that a comma, "and" or "or" joins to it."""
    chosen = [spans[-1]]
    for span in spans[-2::-1]:
        step = re.match(r"\s*(?:\d|[^=]*[-+])[^=]*=", span[span.lastgroup or 0])  # 5x = 30, and so x = 6
        if step or not _SEPARATOR.fullmatch(text[span.end() : chosen[0].start()]):
            break
        chosen.insert(0, span)
    answer = ", ".join(span[span.lastgroup or 0].strip().rstrip(".,") for span in chosen)
    unit = re.match(r"\s?(\\?%|percent|pct)", text[chosen[-1].end() :])
    return answer + (r"\%" if unit else "")


def _last_mathematics(text: str) -> str | None:
    """Without a statement: the mathematics of the last sentence, if the sentence is whole."""
    spans = _spans(text)
    within = [(span.start(), span.end()) for span in spans]
    ends = [m.end() for m in _SENTENCE_END.finditer(text) if not any(a <= m.start() < b for a, b in within)]
    start = max((end for end in ends if end < len(text)), default=0)
    last = [span for span in spans if span.start() >= start]
    rest = text[last[-1].end() :] if last else text[start:]
    if last:
        finished = _UNIT_AFTER.fullmatch(rest) or (text[-1] in ".!?:)*" and not re.search(r"[\d$]", rest))
        return _joined(text, last) if finished else None
    words = _MARKS.sub("", rest).strip()
    if not _WORDS.search(re.sub(r"\\(?:text|mathrm)\s?\{[^{}]*\}|\\[A-Za-z]+", "", words)) and "$" not in words[1:]:
        return _last_side(words) or None
    if re.search(r"\\[A-Za-z(\[]", words):
        return None  # mathematics that was not closed
    numbers = [match for match in _NUMBER.finditer(words) if re.search(r"\d", match[0])]
    if not numbers:
        return None
    after = words[numbers[-1].end() :].strip(" .!?)*")
    if not (words[-1] in ".!?)" or not after or is_symbol(after)) or re.search(r"[-+*=^<>]|/\s?\d", after):
        return None  # cut off
    before = words[: numbers[-1].end()]
    equation = re.search(r"(?<![\w.])[\d(.][-\d\s+*/().,^=]{1,99}$", before)
    return _last_side(equation[0]) if equation and re.search(r"[-+*/=]", equation[0]) else numbers[-1][0]


def last_words(completion: str) -> str | None:
    """What the last sentence says that something is, for answers in words: (B), of "The right option is (B)."."""
    lines = completion[-_TAIL:].strip().rsplit("\n", 1)[-1:]
    words = re.split(r"\b(?:is|are)\b:?", _MARKS.sub("", lines[0]))[-1].strip(" .!") if lines else ""
    return words if 0 < len(words) <= 60 else None


def only_number(text: str) -> str | None:
    """The one number in a text of words, such as "Jane has 3 apples left"; None in mathematics, or with two numbers."""
    if re.search(r"[\\^_=+*/<>()|]|\b(?:not|more|less|least|most|than|between|over|under)\b", text):
        return None
    numbers = [match[0] for match in _NUMBER.finditer(text) if re.search(r"\d", match[0])]
    return numbers[0] if len(numbers) == 1 and _WORDS.search(text) else None
