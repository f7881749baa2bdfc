"""Training problems that are also in an evaluation set, word for word or nearly."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from tampo.tasks.mini import Problem

_SHINGLE = 5  # words
_NEAR = 0.6  # Jaccard similarity of two problems' shingles


def overlaps(training: Iterable[Problem], evaluation: Iterable[Problem]) -> list[tuple[str, str, str]]:
    """Triples (training id, evaluation id, how) of problems with the same question, in the order of `training`.

    `how` is "equal" when the questions agree in letters and digits, ignoring case, or "near 0.83" when the Jaccard
    similarity of their sets of five-word shingles is at least 0.6. Shorter questions can only be equal.
    """
    ids: list[str] = []
    sizes: list[int] = []
    by_text: dict[str, list[int]] = defaultdict(list)
    by_shingle: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, problem in enumerate(evaluation):
        text, shingles = _fingerprint(problem.question)
        ids.append(problem.id)
        sizes.append(len(shingles))
        by_text[text].append(index)
        for shingle in shingles:
            by_shingle[shingle].append(index)
    found = []
    for problem in training:
        text, shingles = _fingerprint(problem.question)
        how = dict.fromkeys(by_text.get(text, ()) if text else (), "equal")
        shared = Counter(index for shingle in shingles for index in by_shingle.get(shingle, ()))
        for index, count in shared.items():
            similarity = count / (len(shingles) + sizes[index] - count)
            if similarity >= _NEAR:
                how.setdefault(index, f"near {similarity:.2f}")
        found += [(problem.id, ids[index], how[index]) for index in sorted(how)]
    return found


def drop_overlaps(training: list[Problem], evaluation: Iterable[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The training problems without and with an overlap: (kept, dropped)."""
    known = {name for name, _, _ in overlaps(training, evaluation)}
    return [p for p in training if p.id not in known], [p for p in training if p.id in known]


def _fingerprint(question: str) -> tuple[str, set[tuple[str, ...]]]:
    words = re.findall(r"[^\W_]+", question.casefold())
    return "".join(words), {tuple(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)}
