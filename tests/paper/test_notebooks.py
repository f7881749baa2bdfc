"""Every notebook runs headless at smoke scale, refuses what it does not know, and is kept clean in git."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

from tampo.paper.reproduce import reproduce
from tests.helpers import make_project
from tests.paper.helpers import outputs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


def test_make_smoke(project):
    """What `make smoke` does: every run once, every notebook; then a notebook by itself, with a parameter."""
    messages = []
    folder = project / "results" / "smoke"
    made = reproduce("smoke", log=messages.append)
    assert {path.stem for path in made} == {path.stem for path in NOTEBOOKS}
    assert messages[0].startswith("0 of ")
    for path in made:
        shown = outputs(path)
        assert str(project) not in path.read_text(), "no path of a machine in what is shared"
        if "records exist" in shown["text"]:
            assert "making" not in shown["text"], f"{path.stem} trains runs that the registry lacks"
        assert (shown["html"] and (folder / f"{path.stem}.csv").is_file()) or shown["png"], path.stem
        manifest = json.loads((folder / f"{path.stem}.manifest.json").read_text())
        assert manifest["params"]["scale"] == "smoke"

    table = pd.read_csv(folder / "table1.csv")
    assert table["method"].unique().tolist() == ["base", "fixed-0.9", "fixed-1.2", "fixed-1.5", "linear", "tampo"]
    assert table["benchmark"].nunique() == 6
    assert table["value"].between(0, 100).all()
    assert len(json.loads((folder / "table1.manifest.json").read_text())["records"]) == 6 + 5
    assert {(folder / f"table{n}.{ending}").is_file() for n in range(1, 6) for ending in ("md", "tex", "html")} == {
        True
    }
    assert "TAMPO" in outputs(folder / "table1.ipynb")["html"]
    assert len(pd.read_csv(folder / "claims.csv")) == 13
    curves = pd.read_csv(folder / "fig2.curves.csv")
    assert curves["rollout"].nunique() == 8
    assert curves["correct"].nunique() == 2, "the problem is one that is solved now and then"
    spread = pd.read_csv(folder / "study_likelihood.weights.summary.csv").set_index(["likelihood", "length"])
    assert spread.loc[("sum", 3000), "support_mean"] < 3 < spread.loc[("mean", 3000), "support_mean"]
    for name in ("fig2", "fig3", "fig4", "fig5", "fig6"):
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").stat().st_size > 20_000
    assert pd.read_csv(folder / "fig3.rewards.csv").groupby("title")["step"].max().tolist() == [3] * 5

    for name in ("table1", "fig2", "fig4"):  # one from records, one that samples by itself, one with statistics
        first = {path.name: path.read_bytes() for path in folder.glob(f"{name}.*") if path.suffix in (".csv", ".md")}
        assert first
        papermill.execute_notebook(f"notebooks/{name}.ipynb", "again.ipynb", {"params": "smoke"}, progress_bar=False)
        again = {path.name: path.read_bytes() for path in folder.glob(f"{name}.*") if path.suffix in (".csv", ".md")}
        assert again == first, "the same bits twice"
    given = {"params": "smoke", "alpha": 0.1, "seeds": "0"}
    papermill.execute_notebook("notebooks/table1.ipynb", "other.ipynb", given, progress_bar=False)
    assert "6 of 6 records exist." in outputs("other.ipynb")["text"], "Table 2 has trained with this alpha"
    assert json.loads((folder / "table1.manifest.json").read_text())["params"]["alpha"] == 0.1
    given["p"] = 0.3
    papermill.execute_notebook("notebooks/table1.ipynb", "other.ipynb", given, progress_bar=False)
    assert "5 of 6 records exist; making 1" in outputs("other.ipynb")["text"]


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
