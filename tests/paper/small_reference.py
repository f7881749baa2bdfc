"""A small reference with a table, a figure and a study, and with text in every file that looks like HTML."""

import csv
import json
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tampo.paper.pages import write_pages
from tests.helpers import make_project

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
MACHINE = {"processor": "Processor & Co", "cores": 2, "gpus": []}
ABOUT = {
    "scale": "smoke", "seeds": [0, 1], "records": 2, "records_commit": COMMIT, "hours": 0.1, "machine": MACHINE,
}  # fmt: skip
CLAIMS = [
    # claim, source, paper, value, low, high, could_show, verdict
    (f"Best {HOSTILE}", "Table 1", "1.9", "-2.6125", "-3.4158", "-1.8092", "yes", "fails"),
    ("Best on every benchmark", "Section 4.2", "", "-3.8625", "", "", "", "cannot tell"),
    ("High temperatures", "Figure 3a", "0.3", "0.5", "0.25", "0.75", "no", "not testable here"),
    ("TAMPO takes the same time", "Section 4.2", "1", "1.0193", "0.9923", "1.0471", "yes", "holds"),
    ("Of a table that is not here", "Table 2", "", "1.0", "0.5", "1.5", "", "holds"),
]
CLAIM_COLUMNS = ("claim", "source", "paper", "value", "low", "high", "could_show", "verdict")
TABLE = f"""<p>A caption.</p>
<style type="text/css">#T {{ font-weight: 400 }}</style>
<table id="T" onclick="alert(3)"><thead><tr><th></th><th colspan="9">all</th></tr></thead>
<tbody><tr><th>row</th>{"<td>12.3<br><small style='white-space:nowrap'>10.0–14.0</small></td>" * 9}</tr>
<tr><th>{HOSTILE}</th><td><b>1</b></td></tr></tbody></table>
"""
FIRST = """# Table 1: **all** of <b>T*</b>

Words of [fig3](fig3.ipynb), of *one* [regret](regret.ipynb) and [mini](../params/mini.yaml), <script>alert(4)</script>
`code`. Two questions:

1. Which?
"""


def make_reference(root: Path) -> Path:
    """A project with results/reference/smoke, with its pages."""
    folder = make_project(root) / "results" / "reference" / "smoke"
    for name in ("notebooks", "tables", "figures", "studies"):
        (folder / name).mkdir(parents=True)
    wide = new_code_cell("x = 1  # " + "long " * 60)
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "a progress bar"}
    wide.outputs = [
        new_output("stream", text=f"{HOSTILE}\n"),
        new_output("display_data", data={"text/html": TABLE.replace(HOSTILE, "")}),
        new_output("display_data", data=widget),
    ]
    drawn = new_code_cell("draw()")
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    drawn.outputs = [new_output("display_data", data={"image/png": dot})]
    cells = {
        "overhead": [new_markdown_cell("# What it costs\n\nTimes.")],
        "fig3": [new_markdown_cell("# Figure 3: temperatures\n\nWhat was sampled."), drawn],
        "table1": [new_markdown_cell(FIRST), wide],
    }
    for name, parts in cells.items():
        nbformat.write(new_notebook(cells=parts), folder / "notebooks" / f"{name}.ipynb")
    manifest = {
        "commit": COMMIT,
        "params_hash": "f" * 64,
        "records": {"a": {"machine": MACHINE}, "b": {"machine": MACHINE}},
        "seconds": 7920.0,
    }
    for path in ("tables/table1", "figures/fig3", "studies/overhead"):
        (folder / f"{path}.manifest.json").write_text(json.dumps(manifest))
    (folder / "tables" / "table1.html").write_text(TABLE)
    (folder / "tables" / "table1.md").write_text("A caption.\n\n| x    | y |\n|:-----|--:|\n| 1    | 2 |\n")
    (folder / "tables" / "table1.csv").write_text("x\n1\n")
    with open(folder / "tables" / "claims.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*CLAIM_COLUMNS, "statistic", "note"))
        writer.writerows((*claim, "points", "a & b") for claim in CLAIMS)
    Image.new("RGB", (1800, 720), "white").save(folder / "figures" / "fig3.png")
    (folder / "figures" / "fig3.rewards.csv").write_text("x\n1\n")
    (folder / "studies" / "overhead.md").write_text(f"| measured |\n|:--|\n| **{HOSTILE}** |\n")
    (folder / "records.zip").write_bytes(b"")
    (folder / "reference.json").write_text(json.dumps(ABOUT))
    write_pages(folder, ABOUT)
    return folder
