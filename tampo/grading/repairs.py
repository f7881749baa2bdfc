r"""Repairs of LaTeX and plain text that the parser of math-verify does not read, or misreads.

They are applied in the order of `REPAIRS`, each to the result of the one before. Every repair has an example, which
the tests check; docs/grading.md prints the table.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_FRACTIONS = {c: unicodedata.normalize("NFKC", c).split("\u2044") for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/",
    "°": r"^\circ ", "º": r"^\circ ", "∞": r"\infty ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ",
    "∖": r"\setminus ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "±": r"\pm ",
    "′": "'", "’": "'", "″": "''", "…": r"\ldots ", "∠": r"\angle ", "√": r"\sqrt ", "，": ", ", "％": r"\%",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\x00": "", "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip
_TRANSLATE = str.maketrans(_SIGNS | {c: rf"\frac{{{a}}}{{{b}}}" for c, (a, b) in _FRACTIONS.items()})
# One argument of a command without braces: a digit, a letter or a command.
_ARGUMENT = r"\s?(\d|[A-Za-z]|\\(?!frac|sqrt|left)[A-Za-z]{2,9})"
_FUNCTIONS = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|log|ln|exp|sqrt|(?:sec|csc|cot|max|min|gcd|lcm)(?=\s?\()"
    "|alpha|beta|theta|lambda|omega|phi|pi|infty"
)


@dataclass(frozen=True)
class Repair:
    """A pattern and what replaces it, with an example and its result."""

    name: str
    pattern: str
    replacement: str | Callable[[re.Match[str]], str]
    example: str
    result: str

    def __call__(self, text: str) -> str:
        """`text` with every match replaced."""
        return re.compile(self.pattern).sub(self.replacement, text)


def _superscript(match: re.Match[str]) -> str:
    return f"^{{{match[0].translate(_SUPERSCRIPTS)}}}"


def _subscript(match: re.Match[str]) -> str:
    return f"_{{{match[0].translate(_SUBSCRIPTS)}}}"


REPAIRS: tuple[Repair, ...] = (
    Repair("box in a box", r"\\{1,4}(?:boxed|fbox|framebox)\s{0,9}\{", "{", r"\boxed{5}", "{5}"),
    Repair("doubled backslash", r"(?<!\\)\\\\(?=[A-Za-z]{2})", r"\\", r"(5, \\infty)", r"(5, \infty)"),
    Repair("raised digits", r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]{1,99}", _superscript, "10³³", "10^{33}"),
    Repair("lowered digits", r"[₀₁₂₃₄₅₆₇₈₉]{1,99}", _subscript, "x₁", "x_{1}"),
    Repair(
        "root sign",
        r"√\s?(?:\(([^()]{1,99})\)|(\d{1,99}|[A-Za-z]))",
        lambda match: rf"\sqrt{{{match[1] or match[2]}}}",
        "2√53",
        r"2\sqrt{53}",
    ),
    Repair(
        "other signs",
        r"[^\x01-\x7f]|\x00",
        lambda match: match[0].translate(_TRANSLATE),
        "½ ≤ π",
        r"\frac{1}{2} \le  \pi ",
    ),
    Repair(
        "markdown", r"\*\*|(?<![A-Za-z0-9])__(?=\S)|(?<=\S)__(?![A-Za-z0-9])|`", "", "**3/4** or __73__", "3/4 or 73"
    ),
    Repair("dollars", r"\\\$|\$|\\[()]|^\s*\\\[|\\\]\s*\.?\s*$", "", r"\$32 and $x$", "32 and x"),
    Repair(
        "size of brackets",
        r"\\(?:left|right|[bB]ig{1,2}[lr]?)(?![a-zA-Z])\.?|\\displaystyle|\\textstyle|\\limits",
        "",
        r"\left(1\right)",
        "(1)",
    ),
    Repair("names of bars", r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|", r"\lvert x\rvert", "| x|"),
    Repair(
        "angle brackets",
        r"\\langle(?![A-Za-z])|\\rangle(?![A-Za-z])",
        lambda match: "(" if "lang" in match[0] else ")",
        r"\langle 1, 2\rangle",
        "( 1, 2)",
    ),
    Repair(
        "commas in numbers",
        r"(?<=\d)(?:\{,\}|\\,|,?\s?\\!\s?,?\s?(?:\\!)?\s?)(?=\d{3}(?!\d))",
        "",
        r"10{,}080 and 32,\!348",
        "10080 and 32348",
    ),
    Repair(
        "thin spaces", r"(?<!\\)\\[,;:! >]|\\q?quad(?![a-z])|\\hspace\{[^{}]{1,20}\}|~|\s+", " ", r"1,\quad 2", "1,  2"
    ),
    Repair(
        "commas in braces",
        r"(?<!\\)\{-?\d{1,3}(?:,\d{3}){1,9}\}",
        lambda match: match[0].replace(",", ""),
        r"\frac{1,234}{5}",
        r"\frac{1234}{5}",
    ),
    Repair(
        "bare functions",
        rf"(?<![A-Za-z\\])(?:np\.|math\.)?({_FUNCTIONS})(?![A-Za-z])",
        r"\\\1 ",
        "np.arcsin(1) + sqrt(2)",
        r"\arcsin (1) + \sqrt (2)",
    ),
    Repair("root in parentheses", r"\\sqrt\s{0,2}\(([^()]{1,99})\)", r"\\sqrt{\1}", r"\sqrt (2)", r"\sqrt{2}"),
    Repair("natural logarithm", r"\\log\s?_\s?(?:e(?![A-Za-z])|\{\s?e\s?\})", r"\\ln ", r"\log_e 2", r"\ln  2"),
    Repair(
        "spaces in numbers",
        r"(?<![\d.,/] )(?<![\d.,])(\d{1,3})((?: \d{3}){1,5})(?![\d.,]*\d| \d|/| ?/)",
        lambda m: m[1] + m[2].replace(" ", ""),
        "15 000",
        "15000",
    ),
    Repair("kinds of fractions", r"\\[dtc]frac", r"\\frac", r"\dfrac{1}{2}", r"\frac{1}{2}"),
    Repair("first part of a fraction", rf"\\frac{_ARGUMENT}", r"\\frac{\1}", r"\frac\pi 2", r"\frac{\pi} 2"),
    Repair(
        "second part of a fraction",
        rf"(\\frac\s?\{{(?:[^{{}}]|\{{[^{{}}]*\}}){{0,200}}\}}){_ARGUMENT}",
        r"\1{\2}",
        r"\frac{\pi} 2",
        r"\frac{\pi}{2}",
    ),
    Repair("root without braces", rf"\\sqrt{_ARGUMENT}", r"\\sqrt{\1}", r"\sqrt2", r"\sqrt{2}"),
    Repair(
        "accent without braces",
        r"\\(d?dot|hat|bar|vec|overline|tilde)\s{1,3}([A-Za-z])",
        r"\\\1{\2}",
        r"\bar z",
        r"\bar{z}",
    ),
    Repair(
        "bold and italic",
        r"\\(?:textbf|textit|mathbf|mathit|boldsymbol|bm|mathsf|emph)\s?\{([^{}]{0,400})\}",
        r"\1",
        r"\mathbf{5}",
        "5",
    ),
    Repair(
        "choose",
        r"\{\s?([^{}\\]{1,30}?)\s?\\choose\s?([^{}\\]{1,30}?)\s?\}",
        r"\\binom{\1}{\2}",
        r"{5 \choose 2}",
        r"\binom{5}{2}",
    ),
    Repair(
        "Euler's number",
        r"\\(?:mathrm|text|rm|operatorname)\s?\{\s?e\s?\}(?=\s?\^)|\\mathrm\s?\{e\}",
        "e",
        r"\mathrm{e}^{2}",
        "e^{2}",
    ),
    Repair("differential", r"\\(?:mathrm|text|operatorname)\s?\{\s?d\s?\}", "d", r"\mathrm{d}x", "dx"),
    Repair(
        "ordinals",
        r"\^\{?\s?\\(?:text|mathrm|textsuperscript)\s?\{\s?(?:st|nd|rd|th)\s?\}\s?\}?|\^\{?\s?(?:st|nd|rd|th)\s?\}?(?![A-Za-z])|(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])",
        "",
        r"12^{\text{th}}",
        "12",
    ),
    Repair(
        "index in words", r"_\{ ?\\(?:text|mathrm|rm)\s?\{ ?(\w{1,30}) ?\} ?\}", r"_{\1}", r"x_{\text{red}}", "x_{red}"
    ),
    Repair("index command", r"_\{ ?\\([a-z]{1,9}) ?\}", r"_{\1}", r"m_{\max}", "m_{max}"),
    Repair("calligraphic E", r"(?<![A-Za-z\\])E(?=_)", r"\\mathcal{E}", "E_1", r"\mathcal{E}_1"),
    Repair(
        "times ten",
        r"(?<=\d) ?(?:[xX*]|\\times|\\cdot) ?(?=10(?:\^|\*\*))",
        r"\\times ",
        "4.5 x 10^3",
        r"4.5\times 10^3",
    ),
    Repair(
        "e-notation",
        r"(?<![\w.\\])((?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))[eE]([+-]?\d{1,9})(?![\w.])",
        r"\1\\times 10^{\2}",
        "4.5e33",
        r"4.5\times 10^{33}",
    ),
    Repair("not equal", r"!=|/=", r"\\ne ", "x != 3", r"x \ne  3"),
    Repair("power of programs", r"\*\*", "^", "x**2", "x^2"),
    Repair("point without digits", r"(?<=\d)\.(?= ?(?:[/*^+,;)-]|$|[A-Za-z\\]))", "", "-1./3", "-1/3"),
    Repair(
        "mixed number",
        r"(?<![\d.}^_/]) ?(\d{1,9})(?: (\d{1,9}) ?/ ?(\d{1,9})|\s?\\frac\{(\d{1,9})\}\{(\d{1,9})\})(?![\d.^/])",
        lambda m: f"({m[1]}+\\frac{{{m[2] or m[4]}}}{{{m[3] or m[5]}}})",
        "11 5/6",
        r"(11+\frac{5}{6})",
    ),
    Repair(
        "congruence",
        r"\(\s?(?:\\text\{\s?)?\\?b?mod\s?\}?\s?(\w{1,9})\s?\)|\\p?mod\s?\{([^{}]{1,30})\}|\\[bp]?mod\s?(\w{1,9})",
        lambda m: rf" \pmod {{{m[1] or m[2] or m[3]}}}",
        r"2 \pmod 5",
        r"2  \pmod {5}",
    ),
    Repair(
        "number before parentheses",
        r"(?<![_^\w.}])(\d{1,400}(?:\.\d{1,400})?)\s?\((?=[^()]{0,99}\))",
        r"\1\\cdot (",
        "5(7)",
        r"5\cdot (7)",
    ),
    Repair(
        "degrees of an angle",
        r"(\\(?:sin|cos|tan|cot|sec|csc)\s?[({]?\s?)(\d{1,9}(?:\.\d{1,9})?)\s?\^\s?(?:\\circ|\{\s?\\circ\s?\})",
        r"\1\2\\cdot\\pi/180",
        r"\cos 30^\circ",
        r"\cos 30\cdot\pi/180",
    ),
    Repair(
        "derivative",
        r"(?<=[A-Za-z})])('{1,9})",
        lambda match: "^{" + r"\prime" * len(match[1]) + "}",
        "y''",
        r"y^{\prime\prime}",
    ),
    Repair("name of an interval", r"^ ?[a-z] ?(?=[\[(][^\[()\]]{1,99},[^\[()\]]{1,99}[\])] ?$)", "", "t(0,4]", "(0,4]"),
)


def clean(text: str) -> str:
    """`text` after all repairs, without spaces and a full stop at its ends."""
    text = text.strip().rstrip(".")
    for repair in REPAIRS:
        text = repair(text)
    return text.strip().rstrip(".").strip()
