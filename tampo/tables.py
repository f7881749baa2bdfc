"""Tables of scores as csv, Markdown, LaTeX and HTML: best bold, second underlined, intervals, published numbers."""

import html
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tampo.files import write_text


@dataclass(frozen=True)
class _Markup:
    """How one format writes a cell."""

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
    """1 for the best value as printed (one decimal), 2 for the second best, and so on; equals share a rank."""
    printed = values.map("{:.1f}".format).astype(float)  # round(1) decides halves otherwise than printing does
    return printed.rank(method="dense", ascending=False).astype(int)


def layout(summary: pd.DataFrame, markup: str) -> pd.DataFrame:
    """The table as a reader sees it: a row a method, a pair of columns a benchmark, cells in `markup`.

    Args:
        summary: From `tampo.experiments.summarise`.
        markup: "md", "html" or "tex".
    """
    style = _MARKUP[markup]
    ranked = summary.assign(rank=summary.groupby(["benchmark", "metric"])["value"].transform(ranks))
    # Where all are equal, none is best.
    ranked.loc[ranked.groupby(["benchmark", "metric"])["rank"].transform("max") == 1, "rank"] = 0
    cells = ranked.assign(cell=[style.cell(row, row["rank"]) for _, row in ranked.iterrows()])
    # avg@n is shown once, under the average where there are several benchmarks.
    first = cells["benchmark"] == cells["benchmark"].iloc[0]
    shown = cells[first | ~cells["metric"].str.startswith("avg")]
    wide = shown.pivot(index="title", columns=["benchmark", "metric"], values="cell")
    columns = _columns(shown)
    wide = wide.loc[list(summary["title"].unique()), columns]
    wide.columns = pd.MultiIndex.from_tuples(
        [(_plain(benchmark.replace("_", " "), markup), metric.replace("pass", "Pass")) for benchmark, metric in columns]
    )
    titles = [_plain(title, markup) for title in wide.index]
    if markup == "html":
        titles = [title.replace(" ", "&nbsp;") for title in titles]
    wide.index = pd.Index(titles, name="Method")
    return wide


def write_table(summary: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """Write `name`.csv (all numbers, long), .md, .tex (booktabs) and .html into `folder`, each atomically.

    Args:
        summary: From `tampo.experiments.summarise`.
        folder: Where to.
        name: File name without ending.
        caption: One or two sentences that say what the numbers are.

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
    table = layout(summary, "md")
    table.columns = pd.Index(["<br>".join(names) for names in table.columns])
    return f"{caption}\n\n{table.to_markdown()}\n"


def averages_to_markdown(summary: pd.DataFrame) -> str:
    """The averages alone, with their intervals: a row a method, a column a metric."""
    average = summary[summary["benchmark"] == "Average"]
    cells = average["value"].map("{:.1f}".format) + " ("
    cells += average["low"].map("{:.1f}".format) + "–" + average["high"].map("{:.1f}".format) + ")"
    columns = {metric: metric.replace("pass", "Pass") for metric in average["metric"].unique()}
    wide = average.assign(cell=cells).pivot(index="title", columns="metric", values="cell")
    return wide.loc[list(average["title"].unique()), list(columns)].rename(columns=columns).to_markdown()


def to_latex(summary: pd.DataFrame, caption: str, label: str) -> str:
    """A booktabs table of full width; needs the packages booktabs and graphicx."""
    table = layout(summary, "tex")
    body = table.to_latex(
        escape=False, multicolumn_format="c", column_format="l" + "r" * len(table.columns), index_names=False
    )
    return (
        "\\begin{table*}\n\\centering\n\\resizebox{\\textwidth}{!}{%\n"
        f"{body.strip()}}}\n\\caption{{{_plain(caption, 'tex')}}}\n\\label{{{label}}}\n\\end{{table*}}\n"
    )


def to_html(summary: pd.DataFrame, caption: str) -> str:
    """A fragment of HTML, also what a notebook shows."""
    body = layout(summary, "html").to_html(escape=False, border=0, justify="center", index_names=False)
    return f"<p>{html.escape(caption)}</p>\n{body}\n"


def _columns(shown: pd.DataFrame) -> list[tuple[str, str]]:
    """(benchmark, metric) in reading order: Pass@1, Pass@n, and under the average also avg@n."""
    order = {"p": 0, "a": 1}
    benchmarks = list(shown["benchmark"].unique())
    metrics = sorted(shown["metric"].unique(), key=lambda m: (order[m[0]], int(m.split("@")[1])))
    present = set(zip(shown["benchmark"], shown["metric"], strict=True))
    return [(b, m) for b in benchmarks for m in metrics if (b, m) in present]


def _plain(text: str, markup: str) -> str:
    """Text with what the format takes for markup escaped."""
    if markup == "html":
        return html.escape(text)
    if markup == "tex":
        escaped = "".join("\\" + c if c in "&%$#_{}" else c for c in text)
        return escaped.replace("→", r"$\to$").replace("–", "--")
    return text.replace("|", r"\|").replace("_", r"\_")
