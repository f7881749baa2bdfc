"""Titles and legends that fit into a figure, whatever their length."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.container import Container
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend

from tampo.paper.outputs import DPI

_SCREEN = 72  # dots per inch of a figure in a notebook; `DPI` is of files
_LONGEST = 90  # characters of a line of a title
_SHARE = 0.98  # of the figure's width that a title may take
_ENDS = {".": 2, ";": 2, ",": 1}  # how well a line ends
_PADDING = 0.08  # inches above and below a title
_SMALL = 13  # characters of a small font that fit into an inch


def set_title(figure: Figure, text: str) -> None:
    """Write what a figure shows above all its panels, in lines that fit its width; "" changes nothing.

    The figure becomes higher by the title, so that panels keep their size. It needs a constrained layout.
    """
    if not text:
        return
    for width in range(_LONGEST, 0, -4):
        title = figure.suptitle(lines(text[0].upper() + text[1:], width), fontsize="medium", fontweight="bold")
        needed, height = _size(figure, title)
        if needed <= _SHARE:
            break
    figure.set_figheight(figure.get_figheight() + height + _PADDING)


def _size(figure: Figure | SubFigure, artist: Artist) -> tuple[float, float]:
    """Width as a share of the figure's, and height in inches.

    The larger ones of those in files and in a notebook: places of letters are rounded to dots, some % of the width.
    """
    before, sizes = figure.dpi, []
    for dpi in (_SCREEN, DPI):
        figure.figure.set_dpi(dpi)
        box = artist.get_window_extent()
        sizes.append((box.width / figure.bbox.width, box.height / dpi))
    figure.figure.set_dpi(before)
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def lines(text: str, width: int) -> str:
    """`text` in as few lines of at most `width` characters as possible.

    They end at punctuation where they can, and are else of about the same length. Signs stay with their numbers, as in
    "T = 0.9" and "50 %", and parentheses with what is before them. Longer words are not broken.

    Example:
        >>> lines("Mean temperature: 0.66; highest reward: 0.64", 30)
        'Mean temperature: 0.66;\\nhighest reward: 0.64'
    """
    joined = re.sub(r" (?=[(=%])|(?<==) |(?<=\() | (?=[^()]*\))", "\u00a0", text)

    def wrapped(limit: int) -> list[str]:
        return textwrap.wrap(joined, limit, break_on_hyphens=False, break_long_words=False)

    number = len(wrapped(width))
    shortest = max(len(joined) // max(number, 1), 1)
    found = [rows for limit in range(shortest, max(width, shortest) + 1) if len(rows := wrapped(limit)) == number]
    best = max(found, key=lambda rows: sum(_ENDS.get(row[-1], 0) for row in rows[:-1]))  # the first one of equals
    return "\n".join(best).replace("\u00a0", " ")


def legend_below(
    figure: Figure | SubFigure, handles: Sequence[Artist | Container], columns: int = 3, note: str = "", **look: Any
) -> Legend:
    """A legend below the panels, in at most `columns` columns: fewer if the figure is not as wide.

    Args:
        figure: With a constrained layout.
        handles: The entries, with their labels.
        columns: The most columns.
        note: A sentence above the entries.
        look: Further arguments of `Figure.legend`.
    """
    look |= {"loc": "outside lower center", "frameon": False, "handles": handles}
    if note:
        look |= {"title": lines(note, round(_SMALL * figure.bbox.width / figure.dpi)), "title_fontsize": "small"}
    number = min(columns, len(handles)) or 1
    while True:
        legend = figure.legend(ncols=number, **look)
        if number == 1 or _size(figure, legend)[0] <= 1:
            return legend
        legend.remove()
        number -= 1
