"""Tables of scores as CSV, Markdown, LaTeX and HTML: best bold, second underlined, intervals, published numbers.

HTML and LaTeX are pandas' Styler. Each cell carries its own markup, since Styler formats a cell as a whole (only the
value is bold, not its interval) and puts HTML formats into a style sheet, which GitHub removes from a notebook.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from tampo.files import write_text


@dataclass(frozen=True)
class _Markup:
    """How a format writes a cell: patterns with the numbers in braces."""

    best: str
    second: str
    interval: str
    published: str

    def cell(self, row: pd.Series, rank: int) -> str:
        text = f"{row['value']:.1f}"
        text = {1: self.best, 2: self.second}.get(rank, "{}").replace("{}", text)
        text += self.interval.replace("{low}", f"{row['low']:.1f}").replace("{high}", f"{row['high']:.1f}")
        if pd.notna(row["published"]):
            text += self.published.replace("{}", f"{row['published']:.1f}")
        return text


_MARKUP = {
    "md": _Markup("**{}**", "<u>{}</u>", "<br><sub>{low}–{high}</sub>", "<br><sub>paper {}</sub>"),
    "html": _Markup(
        "<b>{}</b>",
        "<u>{}</u>",
        '<br><small style="white-space:nowrap">{low}–{high}</small>',
        "<br><small>paper&nbsp;{}</small>",
    ),
    "tex": _Markup(
        r"\textbf{{}}", r"\underline{{}}", r" {\scriptsize [{low}, {high}]}", r" {\scriptsize (paper {})}"
    ),
}  # fmt: skip


def ranks(values: pd.Series) -> pd.Series:
    """1 for the best value as printed (one decimal), 2 for the second best, and so on; equal values share a rank."""
    printed = values.map("{:.1f}".format).astype(float)  # round(1) rounds halves differently
    return printed.rank(method="dense", ascending=False).astype(int)


def layout(summary: pd.DataFrame, markup: str) -> pd.DataFrame:
    """The table as it is printed: one row per method, columns by benchmark and metric.

    Args:
        summary: From `tampo.paper.experiments.summarise`.
        markup: "md", "html" or "tex", the format of the cells. Row and column headings are plain text.
    """
    style = _MARKUP[markup]
    ranked = summary.assign(rank=summary.groupby(["benchmark", "metric"])["value"].transform(ranks))
    # If all are equal, none is best.
    ranked.loc[ranked.groupby(["benchmark", "metric"])["rank"].transform("max") == 1, "rank"] = 0
    cells = ranked.assign(cell=[style.cell(row, row["rank"]) for _, row in ranked.iterrows()])
    # avg@n is shown once: for the average, or for the only benchmark.
    first = cells["benchmark"] == cells["benchmark"].iloc[0]
    shown = cells[first | ~cells["metric"].str.startswith("avg")]
    wide = shown.pivot(index="title", columns=["benchmark", "metric"], values="cell")
    columns = _columns(shown)
    wide = wide.loc[list(summary["title"].unique()), columns]
    wide.columns = pd.MultiIndex.from_tuples(
        [(benchmark.replace("_", " "), metric.replace("pass", "Pass")) for benchmark, metric in columns]
    )
    return wide.rename_axis("Method")


def write_table(summary: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """Write `name`.csv (all numbers, long), .md, .tex (booktabs) and .html into `folder`, each atomically.

    Args:
        summary: From `tampo.paper.experiments.summarise`.
        folder: The folder to write to.
        name: File name without extension.
        caption: One or two sentences that describe the numbers.

    Returns:
        The paths written.
    """
    texts = {
        "csv": summary.to_csv(index=False, float_format="%.4f"),
        "md": to_markdown(summary, caption),
        "tex": to_latex(summary, caption, label=f"tab:{name}"),
        "html": to_html(summary, caption),
    }
    paths = []
    for ending, text in texts.items():
        paths.append(folder / f"{name}.{ending}")
        write_text(paths[-1], text)
    return paths


def to_markdown(summary: pd.DataFrame, caption: str) -> str:
    """GitHub's Markdown: the caption, then the table with one line of headings."""
    table = layout(summary, "md").rename(index=_escape_markdown)
    table.columns = pd.Index(["<br>".join(map(_escape_markdown, names)) for names in table.columns])
    return f"{caption}\n\n{table.to_markdown()}\n"


def averages_to_markdown(summary: pd.DataFrame) -> str:
    """Only the averages, with their intervals: one row per method, one column per metric."""
    average = summary[summary["benchmark"] == "Average"]
    cells = average["value"].map("{:.1f}".format) + " ("
    cells += average["low"].map("{:.1f}".format) + "–" + average["high"].map("{:.1f}".format) + ")"
    columns = {metric: metric.replace("pass", "Pass") for metric in average["metric"].unique()}
    wide = average.assign(cell=cells).pivot(index="title", columns="metric", values="cell")
    return wide.loc[list(average["title"].unique()), list(columns)].rename(columns=columns).to_markdown()


def to_latex(summary: pd.DataFrame, caption: str, label: str) -> str:
    """A booktabs table of full width; needs the packages booktabs and graphicx."""
    styler = _styler(summary, "tex", _escape_latex)
    text = styler.to_latex(
        column_format="l" + "r" * len(styler.columns),
        multicol_align="c",
        hrules=True,
        environment="table*",
        position_float="centering",
        caption=_escape_latex(caption),
        label=label,
    )
    # Styler cannot scale a table to the width of the page.
    text = text.replace(r"\begin{tabular}", "\\resizebox{\\textwidth}{!}{%\n\\begin{tabular}")
    return text.replace(r"\end{tabular}", r"\end{tabular}}")


def to_html(summary: pd.DataFrame, caption: str) -> str:
    """A fragment of HTML, also what a notebook shows."""
    styler = _styler(summary, "html", lambda text: html.escape(text).replace(" ", "&nbsp;"))
    styler.set_table_styles([{"selector": "th.col_heading", "props": "text-align: center"}])
    # Without ids the text is the same every time.
    body = styler.to_html(table_uuid="scores", table_attributes='class="dataframe"', cell_ids=False)
    return f"<p>{html.escape(caption)}</p>\n{body}"


def _styler(summary: pd.DataFrame, markup: str, escape: Callable[[Any], str]) -> Styler:
    styler = layout(summary, markup).style.hide(axis="index", names=True)
    return styler.format_index(escape, axis="index").format_index(escape, axis="columns")


def _columns(shown: pd.DataFrame) -> list[tuple[str, str]]:
    """(benchmark, metric) in reading order: Pass@1, Pass@n, and under the average also avg@n."""
    order = {"p": 0, "a": 1}
    benchmarks = list(shown["benchmark"].unique())
    metrics = sorted(shown["metric"].unique(), key=lambda m: (order[m[0]], int(m.split("@")[1])))
    present = set(zip(shown["benchmark"], shown["metric"], strict=True))
    return [(b, m) for b in benchmarks for m in metrics if (b, m) in present]


_LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$", "–": "--"}
)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)  # Styler's own escapes headings but not captions


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("_", r"\_")
