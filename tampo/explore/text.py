"""Completions as HTML, side by side: what the notebook explore shows of the rollouts of a step.

A completion is a model's output, and everything in it is text: markup is escaped, and control characters are shown,
not obeyed. It stands in <pre>, where JupyterLab and GitHub look for neither Markdown nor formulas.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tampo.explore.histories import Snapshot

_LINE_ENDS = "\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # categories of Unicode


def problems(snapshots: Sequence[Snapshot]) -> list[str]:
    """The ids of the problems that the snapshots hold, each once, in order; first those that the first one holds."""
    ids = [str(name) for s in snapshots if len(s.rollouts) for name in s.rollouts["problem_id"]]
    return list(dict.fromkeys(ids))


def telling_problem(snapshots: Sequence[Snapshot]) -> str | None:
    """The first problem that most trainings answered now right, now wrong; None where there are no rollouts."""

    def spread(problem: str) -> int:
        return sum(bool((s.group(problem)["advantage"] > 0).any()) for s in snapshots if len(s.group(problem)))

    return max(problems(snapshots), key=spread, default=None)


def completions_html(snapshots: Sequence[Snapshot], problem: str | None) -> str:
    """The rollouts of one problem side by side: a column a training, each rollout with its verdict and advantage.

    Args:
        snapshots: Trainings at the same step.
        problem: From `problems`; None: there are no rollouts, and the columns say why.
    """
    groups = [snapshot.group(problem) for snapshot in snapshots]
    heads = "".join(_head(snapshot, group) for snapshot, group in zip(snapshots, groups, strict=True))
    if not any(len(group) for group in groups):
        rows = "<tr>" + "".join(_cell(_note(snapshot)) for snapshot in snapshots) + "</tr>"
        return _table(heads, rows, len(snapshots))
    rows = ""
    for number in range(1, max(len(group) for group in groups) + 1):
        cells = []
        for snapshot, group in zip(snapshots, groups, strict=True):
            if number in group.index:
                cells.append(_rollout(number, group.iloc[number - 1]))
            else:
                cells.append(_cell(_note(snapshot) if number == 1 else ""))
        rows += f"<tr>{''.join(cells)}</tr>"
    prompt = next(group["prompt"].iloc[0] for group in groups if len(group))
    return (
        f"<p>Step {snapshots[0].step}, problem <b>{_escape(problem)}</b>:</p>"
        f'<pre style="white-space:pre-wrap;margin:0 0 8px 12px">\n{_escape(plain_text(prompt))}</pre>'
        + _table(heads, rows, len(snapshots))
    )


def plain_text(value: Any) -> str:
    r"""A prompt or completion as text: itself, or of a list of chat messages each role and content.

    Further lines of a message are indented, so that no content looks like the next turn.

    Example:
        >>> plain_text([{"role": "assistant", "content": "2\nuser: and 2+2?"}])
        'assistant: 2\n    user: and 2+2?'
    """
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        turns = [f"{m.get('role')}: {m.get('content')}" if isinstance(m, dict) else str(m) for m in value]
        return "\n".join("\n    ".join(re.split(_LINE_ENDS, turn)) for turn in turns)
    return str(value)


def visible(text: str) -> str:
    r"""`text` with an escape for each character that would not be seen, or would steer what shows it.

    Those are control characters but the line end, signs of direction or of no width, and what has no meaning yet.

    Example:
        >>> visible("a\x1b[2J\u202eb")
        'a\\x1b[2J\\u202eb'
    """
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSEEN and c != "\n" else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escape(value: Any) -> str:
    return html.escape(visible(str(value)))


# Inline styles: a notebook on GitHub drops them, and is a plain table then. JupyterLab's own table is right-aligned.
def _table(heads: str, rows: str, columns: int) -> str:
    look = f"width:100%;min-width:{170 * columns}px;table-layout:fixed;border-collapse:collapse;margin:0"
    table = f'<table style="{look}"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def _head(snapshot: Snapshot, group: pd.DataFrame) -> str:
    words = ["T unknown" if snapshot.temperature is None else f"T = {snapshot.temperature:.3g}"]
    if len(group) and "verdict" in group:
        words.append(f"{(group['verdict'] == 'correct').sum()} of {len(group)} correct")
    label = f"{_escape(snapshot.label)}<br><small>{', '.join(words)}</small>"
    return f'<th style="text-align:left;vertical-align:bottom;padding:4px 8px;line-height:1.35">{label}</th>'


def _rollout(number: int, row: pd.Series) -> str:
    verdict = str(row.get("verdict", "no verdict"))
    mark, colour = ("✓", "#0173b2") if verdict == "correct" else ("✗", "#de8f05")
    advantage = f"A = {row['advantage']:+.2f}"
    head = f"<small>{number}</small> <b>{mark} {_escape(verdict)}</b> <small>{advantage}</small>"
    text = _escape(plain_text(row["completion"]))
    look = "white-space:pre-wrap;overflow-wrap:anywhere;word-break:normal;margin:2px 0 0 0;background:none"
    return _cell(f'{head}<pre style="{look}">\n{text}</pre>', border=f"4px solid {colour}")


def _cell(content: str, border: str = "0") -> str:
    look = f"text-align:left;vertical-align:top;padding:4px 8px 8px 8px;border-left:{border}"
    return f'<td style="{look}">{content}</td>'


def _note(snapshot: Snapshot) -> str:
    return _escape(snapshot.note or "This problem is not among those of the step: another training seed or data set.")
