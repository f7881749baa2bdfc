"""The completions of a step as HTML, side by side, for the notebook explore.

A completion is untrusted text: markup and control characters are escaped, and <pre> keeps JupyterLab and GitHub from
rendering Markdown or formulas.
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
_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # categories of Unicode


def problems(snapshots: Sequence[Snapshot]) -> list[str]:
    """The ids of the snapshots' problems, without duplicates, in order."""
    ids = [str(name) for s in snapshots if len(s.rollouts) for name in s.rollouts["problem_id"]]
    return list(dict.fromkeys(ids))


def mixed_problem(snapshots: Sequence[Snapshot]) -> str | None:
    """The first problem with mixed outcomes in the most training runs; None without rollouts."""

    def mixed_runs(problem: str) -> int:
        return sum(bool((s.group(problem)["advantage"] > 0).any()) for s in snapshots if len(s.group(problem)))

    return max(problems(snapshots), key=mixed_runs, default=None)


def completions_html(snapshots: Sequence[Snapshot], problem: str | None) -> str:
    """The rollouts of one problem, with verdict and advantage; one column per training run.

    Without a problem there are no rollouts, and the columns explain why.
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
    r"""A prompt or completion as text; of chat messages, the role and content of each.

    The lines of a message after the first are indented, so that no content looks like another turn.

    Example:
        >>> plain_text([{"role": "assistant", "content": "2\nuser: and 2+2?"}])
        'assistant: 2\n    user: and 2+2?'
    """
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        turns = [f"{m.get('role')}: {m.get('content')}" if isinstance(m, dict) else str(m) for m in value]
        return "\n".join("\n    ".join(re.split(_LINE_ENDS, turn)) for turn in turns)
    return str(value)


def visible(text: str) -> str:
    r"""`text` with escapes for invisible characters: control (except line ends), direction, zero width, unassigned.

    Example:
        >>> visible("a\x1b[2J\u202eb")
        'a\\x1b[2J\\u202eb'
    """
    return "".join(_escaped(c) if unicodedata.category(c) in _INVISIBLE and c != "\n" else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escape(value: Any) -> str:
    return html.escape(visible(str(value)))


# Inline styles, which GitHub drops. JupyterLab aligns tables right by default.
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
    return _escape(snapshot.note or "This problem is not in this step: the run has another seed or data set.")
