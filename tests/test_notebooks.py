"""Every notebook runs headless at smoke scale, refuses what it does not know, and is kept clean in git."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that looks like the project, so that results of tests stay out of results/."""
    (tmp_path / "params").symlink_to(ROOT / "params")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_table1_from_papermill(project):
    """What `make table1` does, at smoke scale and smaller; then again, with all runs there."""
    parameters = {"params": "smoke", "steps": 2, "eval_problems": 3, "seeds": "0", "alpha": 0.1}
    folder = project / "results" / "smoke"
    executed = papermill.execute_notebook("notebooks/table1.ipynb", "out.ipynb", parameters, progress_bar=False)
    outputs = "".join(o.get("text", "") for cell in executed.cells for o in cell.get("outputs", []))
    assert "0 of 6 runs are there, making 6" in outputs
    assert "TAMPO: done" in outputs
    table = pd.read_csv(folder / "table1.csv")
    assert table["method"].unique().tolist() == ["base", "fixed-0.9", "fixed-1.2", "fixed-1.5", "linear", "tampo"]
    assert table["benchmark"].nunique() == 6
    assert table["value"].between(0, 100).all()
    manifest = json.loads((folder / "table1.manifest.json").read_text())
    assert manifest["params"]["alpha"] == 0.1
    assert len(manifest["records"]) == 6 + 5
    assert {(folder / f"table1.{ending}").is_file() for ending in ("md", "tex", "html")} == {True}
    shown = [
        o["data"]["text/html"] for c in executed.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})
    ]
    assert "TAMPO" in shown[0]

    first = {path.name: path.read_bytes() for path in folder.glob("table1.*")}
    again = papermill.execute_notebook("notebooks/table1.ipynb", "again.ipynb", parameters, progress_bar=False)
    assert "6 of 6 runs are there." in "".join(o.get("text", "") for c in again.cells for o in c.get("outputs", []))
    assert {path.name: path.read_bytes() for path in folder.glob("table1.*")} == first

    # Figure 3 is of the same runs.
    figure = papermill.execute_notebook("notebooks/fig3.ipynb", "fig3.ipynb", parameters, progress_bar=False)
    assert "6 of 6 runs are there." in "".join(o.get("text", "") for c in figure.cells for o in c.get("outputs", []))
    assert (folder / "fig3.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "fig3.png").stat().st_size > 20_000
    drawn = pd.read_csv(folder / "fig3.rewards.csv")
    assert drawn.groupby("title")["step"].max().tolist() == [2] * 5


def test_an_unknown_parameter_fails(project):
    """papermill itself would only warn, and train with the default."""
    with pytest.raises(papermill.PapermillExecutionError, match="Unknown parameter 'alhpa'.*Did you mean 'alpha'"):
        papermill.execute_notebook("notebooks/table1.ipynb", "out.ipynb", {"alhpa": 0.05}, progress_bar=False)
    assert not (project / "results").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_help_shows_every_parameter_with_type_and_meaning(path):
    inspected = papermill.inspect_notebook(str(path))
    assert "params" in inspected
    for name, parameter in inspected.items():
        assert parameter["inferred_type_name"] in {"str", "int", "float", "list", "bool"}, name
        assert len(parameter["help"]) > 10, name
    command = [sys.executable, "-m", "papermill", "--help-notebook", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for name in inspected:
        assert f"  {name}: " in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_clean(path):
    """No outputs in git, one parameters cell, cells short enough to read."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert max(len(cell.source.splitlines()) for cell in code) <= 20
    assert notebook.cells[0].cell_type == "markdown"
