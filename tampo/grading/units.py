r"""Units and words after a number: 36 mL, 15\text{ cm}^2, 9 customers, 62.5\%."""

import re

_SYMBOLS = frozenset((
    "mL", "ml", "cL", "dL", "mm", "cm", "dm", "km", "nm", "pm", "um", "cc", "in", "ft", "yd", "mi", "pc", "kpc", "Mpc",
    "AU", "kg", "mg", "lb", "lbs", "oz", "mol", "hr", "hrs", "min", "mins", "sec", "secs", "ms", "ns", "yr", "yrs",
    "Gyr", "Myr", "mph", "kmh", "kph", "Hz", "kHz", "MHz", "GHz", "rpm", "eV", "keV", "MeV", "GeV", "kJ", "kW", "MW",
    "kWh", "erg", "ergs", "kcal", "cal", "Pa", "kPa", "atm", "dB", "rad", "deg", "sq", "cu", "gal", "qt", "pt", "USD",
))  # fmt: skip
_SINGLE = frozenset("mgshLNJWVACKFTMHl")
_SMALL_WORDS = frozenset(("of", "per", "by", "to", "at", "a"))
_VARIABLES = frozenset("abcdxyzmnpqrtk")  # a word of these may be a product
_WRAPPED = re.compile(
    r"\s*(?:\\(?:text|mathrm|mbox|textrm|rm|operatorname)\s?\{([^{}]*)\}|([/·*-]|\\cdot\s?|\\times\s?))"
    r"(\s?\^\s?(?:\{?\s?-?\d\s?\}?))?\s*$"
)
_FRACTION = re.compile(
    r"\s*\\frac\s?\{\s?\\(?:text|mathrm)\s?\{[^{}]*\}\s?\}\{\s?\\(?:text|mathrm)\s?\{[^{}]*\}[^{}]{0,9}\}$"
)
_MICRO = re.compile(r"\s*\\mu\s?(?:[mslgFAVCN]|\\(?:text|mathrm)\s?\{[A-Za-z]{1,3}\})$")
_DEGREES = re.compile(r"\s*\^\s?\{?\s?\\circ\s?\}?\s*(?:\\(?:text|mathrm)\s?\{\s?[CFK]\s?\}|[CF])?\s*$")
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\(?:text|mathrm)\s?\{\s?\\?(?:%|percent(?:age)?)\s?\}|\bpercent(?:age)?\b|\bpct\b)\s*$"
)
_BARE = re.compile(
    r"(?P<number>[^A-Za-z]*(?:\\(?:frac|sqrt|pi|times|cdot)[^A-Za-z]*){0,20}[\d})!])"
    r"(?P<unit>(?:[\s/·-]|\\cdot ?|\\times ?)*[A-Za-z][A-Za-z\s/·^{}\d.()\\'-]*)"
)
_ALIASES = {
    name: group.split()[0]
    for group in (
        "mm millimeter millimeters millimetre millimetres", "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres", "km kilometer kilometers kilometre kilometres", "in inch inches",
        "ft foot feet", "yd yard yards", "mi mile miles", "g gram grams", "kg kilogram kilograms",
        "mg milligram milligrams",
        "lb lbs pound pounds", "s sec secs second seconds", "min mins minute minutes", "h hr hrs hour hours",
        "day days", "week weeks", "year years yr yrs", "mL ml milliliter milliliters millilitre millilitres",
        "L l liter liters litre litres", "degrees degree deg", "rad radian radians", "cents cent", "dollars dollar USD",
    )
    for name in group.split()
}  # fmt: skip


def split_unit(text: str) -> tuple[str, str]:
    """A text without the unit at its end, and the unit: a word that `same_unit` knows, "%", "?" for others, or ""."""
    if match := _PERCENT.search(text):
        return text[: match.start()].strip(), "%"
    if match := _DEGREES.search(text):
        return text[: match.start()].strip(), "degrees"
    if (match := _FRACTION.search(text) or _MICRO.search(text)) and text[: match.start()].strip():
        return text[: match.start()].strip(), "?"
    rest, words = text, []
    while match := _WRAPPED.search(rest):
        if not rest[: match.start()].strip():
            break
        words.append((match[1] or "").strip() + (match[3] or "").replace(" ", ""))
        rest = rest[: match.start()]
    if any(words):
        if _PERCENT.search(rest):
            return split_unit(rest)
        return rest.strip(), _known(" ".join(filter(None, words[::-1])))
    if (match := _BARE.fullmatch(text)) and _is_unit(match["unit"]):
        return match["number"].strip(), _known(match["unit"].strip())
    return text, ""


def _is_unit(text: str) -> bool:
    words = re.findall(r"[A-Za-z]+", text)
    if len(words) == 1 and len(words[0]) == 1:
        return False  # a variable, as far as one can see
    if len(words) == 1 and words[0] in _SYMBOLS:
        return True
    return bool(words) and text[0] in " \t-/" and all(map(_is_word, words))


def _is_word(word: str) -> bool:
    if word in _SYMBOLS or word in _SINGLE or word.lower() in _SYMBOLS or word in _SMALL_WORDS:
        return True
    return len(word) > 2 and bool(set(word.lower()) & set("aeiouy")) and not set(word) <= _VARIABLES


def _known(text: str) -> str:
    match = re.fullmatch(r"(?:sq(?:uare)? )?([A-Za-z]+)\s?\^?\s?\{?(-?\d?)\}?", text.strip(" .{}"))
    if match is None or match[1] not in _ALIASES:
        return "?"
    power = "2" if text.lstrip().startswith("sq") else match[2] or "1"
    return _ALIASES[match[1]] + (f"^{power}" if power != "1" else "")


def is_symbol(text: str) -> bool:
    """Whether a text is the symbol or name of a unit, such as "cm" or "g/mol"."""
    words = filter(None, re.split(r"[/·\s]", text.strip("°€²³%")))
    return all(word in _SYMBOLS or word in _SINGLE or word in _ALIASES for word in words)


def same_unit(one: str, other: str) -> bool:
    """Whether two units may be the same: False for two that are known and differ."""
    return one == other or "" in (one, other) or "?" in (one, other)
