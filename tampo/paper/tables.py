"""Tables of scores as CSV, Markdown, LaTeX and HTML: best in bold, second underlined, intervals, published values.

pandas' Styler writes HTML and LaTeX. Each cell carries its own markup: Styler would format whole cells (only the value
is bold, not its interval) and put HTML formats into a style sheet, which GitHub removes from a notebook.
"""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from tampo.files import write_text

# How a format writes the best value, the second best, the interval, and the published value.
_MARKUP = {
    "md": ("**{}**", "<u>{}</u>", "<br><sub>{}–{}</sub>", "<br><sub>paper {}</sub>"),
    "html": (
        "<b>{}</b>",
        "<u>{}</u>",
        '<br><small style="white-space:nowrap">{}–{}</small>',
        "<br><small>paper&nbsp;{}</small>",
    ),
    "tex": (r"\textbf{{{}}}", r"\underline{{{}}}", r" {{\scriptsize [{}, {}]}}", r" {{\scriptsize (paper {})}}"),
}


def _cell(row: pd.Series, markup: str) -> str:
    best, second, interval, published = _MARKUP[markup]
    text = {1: best, 2: second}.get(row["rank"], "{}").format(f"{row['value']:.1f}")
    text += interval.format(f"{row['low']:.1f}", f"{row['high']:.1f}")
    return text if pd.isna(row["published"]) else text + published.format(f"{row['published']:.1f}")


def ranks(values: pd.Series) -> pd.Series:
    """1 for the best value as printed (one decimal), 2 for the second best, and so on; equal values share a rank."""
    printed = values.map("{:.1f}".format).astype(float)  # round(1) rounds halves differently
    return printed.rank(method="dense", ascending=False).astype(int)


def layout(summary: pd.DataFrame, markup: str) -> pd.DataFrame:
    """The table as it is printed: one row per method, columns by benchmark and metric.

    Args:
        summary: From `tampo.paper.results.summarise`.
        markup: "md", "html" or "tex", the format of the cells. Row and column headings are plain text.
    """
    ranked = summary.assign(rank=summary.groupby(["benchmark", "metric"])["value"].transform(ranks))
    # If all values are equal, none is best.
    ranked.loc[ranked.groupby(["benchmark", "metric"])["rank"].transform("max") == 1, "rank"] = 0
    cells = ranked.assign(cell=[_cell(row, markup) for _, row in ranked.iterrows()])
    # avg@n is shown once: for the average, or for the only benchmark.
    first = cells["benchmark"] == cells["benchmark"].iloc[0]
    shown = cells[first | ~cells["metric"].str.startswith("avg")]
    wide = shown.pivot(index="title", columns=["benchmark", "metric"], values="cell")
    columns = _columns(shown)
    wide = wide.loc[list(summary["title"].unique()), columns]
    wide.columns = pd.MultiIndex.from_tuples(
        [(benchmark.replace("_", " "), metric_title(metric)) for benchmark, metric in columns]
    )
    return wide.rename_axis("Method")


def _columns(shown: pd.DataFrame) -> list[tuple[str, str]]:
    """(benchmark, metric) in reading order: Pass@1, Pass@n, then avg@n."""
    pairs = shown[["benchmark", "metric"]].drop_duplicates()
    order = {name: number for number, name in enumerate(pairs["benchmark"].unique())}

    def position(pair: tuple[str, str]) -> tuple[int, bool, int]:
        benchmark, metric = pair
        return order[benchmark], metric.startswith("avg"), int(metric.split("@")[1])

    return sorted(pairs.itertuples(index=False, name=None), key=position)


def write_table(summary: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """Write `name`.csv (all numbers, long), .md, .tex (booktabs) and .html into `folder`, each atomically.

    Args:
        summary: From `tampo.paper.results.summarise`.
        folder: The folder to write to.
        name: File name without ending.
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
    return write_texts(folder, name, texts)


def write_texts(folder: Path, name: str, texts: dict[str, str]) -> list[Path]:
    """Write each text to `folder`/`name`.<its key>, atomically; returns the paths."""
    paths = [folder / f"{name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def to_markdown(summary: pd.DataFrame, caption: str) -> str:
    """GitHub's Markdown: the caption, then the table with one line of headings."""
    table = layout(summary, "md").rename(index=_escape_markdown)
    table.columns = pd.Index(["<br>".join(map(_escape_markdown, names)) for names in table.columns])
    return f"{caption}\n\n{table.to_markdown()}\n"


def metric_title(metric: str) -> str:
    """A metric as tables and figures write it: "pass@8" is Pass@8."""
    return metric.replace("pass", "Pass")


def averages_to_markdown(summary: pd.DataFrame) -> str:
    """The averages with their intervals: one row per method, one column per metric."""
    average = summary[summary["benchmark"] == "Average"]
    cells = [f"{row.value:.1f} ({row.low:.1f}–{row.high:.1f})" for row in average.itertuples()]
    columns = {metric: metric_title(metric) for metric in average["metric"].unique()}
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
    """A fragment of HTML, which notebooks also show."""
    styler = _styler(summary, "html", lambda text: html.escape(text).replace(" ", "&nbsp;"))
    styler.set_table_styles([{"selector": "th.col_heading", "props": "text-align: center"}])
    # Without ids the text is always the same.
    body = styler.to_html(table_uuid="scores", table_attributes='class="dataframe"', cell_ids=False)
    return f"<p>{html.escape(caption)}</p>\n{body}"


def _styler(summary: pd.DataFrame, markup: str, escape: Callable[[Any], str]) -> Styler:
    styler = layout(summary, markup).style.hide(axis="index", names=True)
    return styler.format_index(escape, axis="index").format_index(escape, axis="columns")


_LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$", "–": "--"}
)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)  # Styler escapes headings but not captions


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("_", r"\_")
