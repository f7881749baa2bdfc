"""Tables: numbers, best and second best, escaped text, and the published values."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from tampo.config import load_params
from tampo.paper.experiments import Method, table_caption
from tampo.paper.overhead_summary import format_summary
from tampo.paper.published_results import BENCHMARKS
from tampo.paper.results import summarise
from tampo.paper.tables import averages_to_markdown, layout, ranks, to_html, to_latex, to_markdown, write_table
from tests.paper.helpers import METHODS, make_result


def test_summary_means_over_seeds_problems_and_benchmarks():
    result = make_result(["gcd", "chain_sum"])
    summary = summarise(result, METHODS).set_index(["method", "benchmark", "metric"])
    own = result.scores[result.scores["method"] == "tampo"]
    expected = own.groupby("benchmark")["avg@8"].mean()
    assert summary.loc[("tampo", "gcd", "avg@8"), "value"] == pytest.approx(expected["gcd"])
    assert summary.loc[("tampo", "Average", "avg@8"), "value"] == pytest.approx(expected.mean())
    assert summary.loc[("tampo", "gcd", "avg@8"), "seeds"] == 2
    assert summary.loc[("base", "gcd", "avg@8"), "seeds"] == 1
    assert (summary["low"] <= summary["value"]).all()
    assert (summary["value"] <= summary["high"]).all()
    assert summary["published"].isna().all(), "the paper's numbers are of its own benchmarks"


def test_published_numbers_stand_beside_ours_on_the_papers_benchmarks():
    summary = summarise(make_result(BENCHMARKS), METHODS).set_index(["method", "benchmark", "metric"])
    assert summary.loc[("tampo", "Average", "pass@1"), "published"] == 44.5
    assert summary.loc[("base", "AIME24", "pass@8"), "published"] == 26.7
    assert np.isnan(summary.loc[("base", "AIME24", "avg@8"), "published"])
    assert "paper 44.5" in to_markdown(summary.reset_index(), "caption")


def test_ranks_are_of_the_printed_values():
    assert ranks(pd.Series([41.04, 41.01, 40.9, 12.0])).tolist() == [1, 1, 2, 3]
    assert ranks(pd.Series([50.15, 50.1375])).tolist() == [1, 1], "both print as 50.1"


def test_best_is_bold_second_underlined_and_text_escaped():
    summary = summarise(make_result(["chain_sum", "gcd"]), METHODS)
    markdown, latex, page = (layout(summary, markup) for markup in ("md", "tex", "html"))
    best = summary[(summary["metric"] == "avg@8") & (summary["benchmark"] == "Average")]["value"].max()
    assert markdown.loc["TAMPO & co_", ("Average", "avg@8")].startswith(f"**{best:.1f}**<br><sub>")
    assert markdown.loc["Base model", ("Average", "avg@8")].startswith("<u>")
    assert r"\textbf{" in latex.loc["TAMPO & co_", ("Average", "avg@8")]
    assert r"\underline{" in latex.loc["Base model", ("Average", "avg@8")]
    assert page.loc["TAMPO & co_", ("chain sum", "Pass@1")].endswith("</small>")
    assert ("chain sum", "avg@8") not in page.columns
    assert r"| TAMPO & co\_ " in to_markdown(summary, "")
    assert "TAMPO \\& co\\_ & " in to_latex(summary, "", "tab:x")
    assert ">TAMPO&nbsp;&amp;&nbsp;co_</th>" in to_html(summary, "")
    assert f"<b>{best:.1f}</b><br><small" in to_html(summary, "")


def test_latex_of_a_name_stays_text():
    hostile = r"\input{/etc/passwd} 50 % of $x_1^2$ ~ → –"
    escaped = r"\textbackslash{}input\{/etc/passwd\} 50 \% of \$x\_1\textasciicircum{}2\$ \textasciitilde{} $\to$ --"
    methods = (METHODS[0], Method("evil", hostile, {"alpha": 0.1}))
    text = to_latex(summarise(make_result([hostile.replace("_", ""), "gcd"], methods), methods), hostile, "tab:x")
    assert r"\input" not in text
    assert rf"\caption{{{escaped}}}" in text
    assert f"\n{escaped} & " in text
    assert rf"\multicolumn{{2}}{{c}}{{{escaped}}}".replace(r"\_", "") in text


def test_the_same_numbers_give_the_same_text():
    summary = summarise(make_result(["chain_sum"]), METHODS)
    assert to_html(summary, "caption") == to_html(summary, "caption")


def test_html_of_a_name_stays_text():
    """What a notebook shows as HTML: names of methods, benchmarks and captions may come from anywhere."""
    hostile = "<script>alert(1)</script>"
    methods = (METHODS[0], Method("evil", hostile, {"alpha": 0.1}))
    page = to_html(summarise(make_result([hostile, "gcd"], methods), methods), caption=hostile)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 3
    measured = pd.DataFrame(
        {"measured": [hostile], "value": [1.0], "low": [0.5], "high": [2.0], "unit": "", "goal": ""}
    )
    assert "<script>" not in format_summary(measured).to_html(index=False, border=0)


def test_nobody_is_best_where_all_are_equal():
    result = make_result(["gcd"])
    result.scores["pass@8"] = 50.0
    shown = layout(summarise(result, METHODS), "md")[("gcd", "Pass@8")]
    assert shown.tolist() == ["50.0<br><sub>50.0–50.0</sub>"] * 2


def test_averages_alone():
    summary = summarise(make_result(["gcd", "products"]), METHODS)
    header, _, *rows = averages_to_markdown(summary).splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")][1:] == ["Pass@1", "avg@8", "Pass@8"]
    assert len(rows) == 2
    cells = summary.set_index(["method", "benchmark", "metric"]).loc[("base", "Average", "avg@8")]
    assert f"{cells['value']:.1f} ({cells['low']:.1f}–{cells['high']:.1f})" in rows[0]


def test_columns_are_in_reading_order():
    columns = list(layout(summarise(make_result(["gcd", "products"]), METHODS), "md").columns)
    assert columns == [
        ("Average", "Pass@1"), ("Average", "Pass@8"), ("Average", "avg@8"),
        ("gcd", "Pass@1"), ("gcd", "Pass@8"), ("products", "Pass@1"), ("products", "Pass@8"),
    ]  # fmt: skip


def test_all_four_files_are_written_and_the_csv_reads_back(tmp_path):
    summary = summarise(make_result(["gcd"]), METHODS)
    paths = write_table(summary, tmp_path / "results", "table1", "A caption with 95 % and <b>.")
    assert [path.suffix for path in paths] == [".csv", ".md", ".tex", ".html"]
    again = pd.read_csv(paths[0])
    np.testing.assert_allclose(again["value"], summary["value"], atol=1e-4)
    assert "&lt;b&gt;" in paths[3].read_text()
    assert r"95 \%" in paths[2].read_text()
    assert not list((tmp_path / "results").glob(".*")), "no temporary files left"
    assert paths[3].read_text().count("<tr") == 2 + 2, "two lines of heads, two methods"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    summary = summarise(make_result(["chain_sum"]), METHODS)
    document = (
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        + to_latex(summary, "A caption, 95 %.", "tab:x")
        + "\\end{document}\n"
    )
    (tmp_path / "table.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_caption_says_how_it_was_made():
    caption = table_caption(load_params("mini", {"seeds": "0,1,2"}), "table1")
    assert "3 training seeds" in caption
    assert "200 problems per benchmark, 8 samples each at temperature 1" in caption
    assert "all problems per benchmark" in table_caption(load_params("paper"), "table1")
    assert "animals" not in caption
    choice = table_caption(load_params("mini-choice"), "table5")
    assert "multiple-choice" in choice
    assert "in place of the paper's ECQA" in choice
    other = table_caption(load_params("mini"), "controllers")
    assert other.startswith("Table at scale mini, controllers of the sampling temperature:")


def test_a_single_benchmark_has_no_average():
    summary = summarise(make_result(["ECQA"]), METHODS, table=5)
    assert summary["benchmark"].unique().tolist() == ["ECQA"]
    assert list(layout(summary, "md").columns) == [("ECQA", "Pass@1"), ("ECQA", "Pass@8"), ("ECQA", "avg@8")]
    cells = summary.set_index(["method", "metric"])["published"]
    assert cells["tampo", "pass@1"] == 76.12
    assert "ECQA" in to_markdown(summary, "")
    assert summarise(make_result(["leg_choice"]), METHODS, table=5)["published"].isna().all()
