"""Every notebook runs headless at smoke scale, refuses what it does not know, and is kept clean in git."""

import json
import re
import time
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_command

from tampo.cli import main
from tampo.config import load_params
from tampo.paper import reference
from tampo.paper.experiments import EXPERIMENTS
from tampo.paper.overhead_summary import START_GOALS
from tampo.paper.reproduce import execute, reproduce
from tampo.runs.pipeline import evaluate
from tampo.runs.provenance import provenance
from tampo.runs.store import RunStore
from tests.helpers import make_project
from tests.paper.helpers import outputs
from tests.runs.processes import working_in

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


def not_ended(folder):
    """Processes that still work in a folder, ten seconds later at most."""
    for _ in range(100):
        if not working_in(folder):
            break
        time.sleep(0.1)
    return working_in(folder)


def test_make_smoke(project, capsys, monkeypatch):
    """What `make smoke` does: every run once, every notebook; then notebooks by themselves, and a reference."""
    messages = []
    folder = project / "results" / "smoke"
    tables, figures, studies = (folder / name for name in ("tables", "figures", "studies"))
    made = reproduce("smoke", log=messages.append)
    assert {path.stem for path in made} == {path.stem for path in NOTEBOOKS}
    assert {path.parent for path in made} == {folder / "notebooks"}
    assert messages[0].startswith("0 of ")
    for path in made:
        shown, results = outputs(path), folder / EXPERIMENTS[path.stem].section
        assert str(project) not in path.read_text(), "no path of a machine in what is shared"
        if "records exist" in shown["text"]:
            assert "making" not in shown["text"], f"{path.stem} trains runs that the registry lacks"
        assert (shown["html"] and (results / f"{path.stem}.csv").is_file()) or shown["png"], path.stem
        manifest = json.loads((results / f"{path.stem}.manifest.json").read_text())
        assert manifest["params"]["scale"] == "smoke"
        there = {file.name for file in results.glob(f"{path.stem}[._]*")} - {f"{path.stem}.manifest.json"}
        assert manifest["outputs"].keys() == there, "the manifest is written last"
    assert {path.name for path in folder.iterdir()} == {"tables", "figures", "studies", "notebooks", "runs"}

    table = pd.read_csv(tables / "table1.csv")
    assert table["method"].unique().tolist() == [
        "base",
        "fixed-0.9",
        "fixed-1.2",
        "fixed-1.5",
        "linear",
        "tampo",
        "tampo-relative",
    ]
    assert table["benchmark"].nunique() == 6
    assert table["value"].between(0, 100).all()
    assert len(json.loads((tables / "table1.manifest.json").read_text())["records"]) == 7 + 6
    assert all((tables / f"table{n}.{ending}").is_file() for n in range(1, 6) for ending in ("md", "tex", "html"))
    assert "TAMPO" in outputs(folder / "notebooks" / "table1.ipynb")["html"]
    assert "Manifest: table1.manifest.json" in (tables / "table1.tex").read_text()
    assert len(pd.read_csv(tables / "claims.csv")) == 15
    curves = pd.read_csv(figures / "fig2.curves.csv")
    assert curves["rollout"].nunique() == 8
    assert curves["correct"].nunique() == 2, "the problem is one that is solved now and then"
    weights = pd.read_csv(studies / "study_likelihood.weights.summary.csv").set_index(["likelihood", "length"])
    assert weights.loc[("sum", 3000), "support_mean"] < 3 < weights.loc[("mean", 3000), "support_mean"]
    starts = pd.read_csv(studies / "overhead.starts.csv")
    assert starts["seconds"].between(0, 60).all()
    assert starts["case"].nunique() == len(starts) == 5
    assert set(START_GOALS) <= set(starts["case"])
    for name in ("fig2", "fig3", "fig4", "fig5", "fig6"):
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (figures / f"{name}.png").stat().st_size > 20_000
    assert pd.read_csv(figures / "fig3.rewards.csv").groupby("title")["step"].max().tolist() == [3] * 5

    def bits():  # of one from records, and of one that samples by itself
        made = [*tables.glob("table1.*"), *figures.glob("fig2.*")]
        return {path.name: path.read_bytes() for path in made if path.suffix in (".csv", ".md")}

    def press_ctrl_c(line):
        if "table1" in line:
            raise KeyboardInterrupt

    first, again = bits(), {"fig2": {"params": "smoke"}, "table1": {"params": "smoke"}, "table2": {"params": "smoke"}}
    with pytest.raises(KeyboardInterrupt):
        execute(again, folder, log=press_ctrl_c)
    assert bits() == first, "the same bits twice"
    assert not_ended(project) == [], "the third was stopped, with its kernel"
    given = {"params": "smoke", "alpha": 0.1, "seeds": "0"}
    before = (tables / "table1.csv").read_bytes()
    papermill.execute_notebook("notebooks/table1.ipynb", "other.ipynb", given, progress_bar=False)
    assert "6 of 7 records exist" in outputs("other.ipynb")["text"], "Table 2 has trained with this alpha"
    other = json.loads((folder / "alpha=0.1" / "tables" / "table1.manifest.json").read_text())
    assert other["params"]["alpha"] == 0.1
    assert (tables / "table1.csv").read_bytes() == before, "other parameters go to another folder"

    _reference_of_two_seeds(project, monkeypatch, capsys)


def _reference_of_two_seeds(project, monkeypatch, capsys):
    """One more seed for Table 4; the one-seed results are judged by that seed's records in a reference of both."""
    folder = project / "results" / "smoke"
    monkeypatch.setattr(reference, "checkout", lambda: project)
    monkeypatch.setattr(reference, "_refuse_dirty_tree", lambda: None)
    for path in folder.glob("runs/*/manifest.json"):  # the checkout that runs this test may have changes
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"commit": "0" * 40}))
    monkeypatch.setattr("tampo.runs.store.provenance", lambda: provenance() | {"commit": "0" * 40})
    train_here = [job for job in EXPERIMENTS["table4"].jobs(load_params("smoke", {"seeds": [1]})) if job.training]
    for job in train_here:
        evaluate(RunStore.named("smoke"), job.evaluation, job.model, job.training)
    reference.write_reference("smoke", [0, 1], only=["table4"], log=lambda line: None)
    committed = project / "results" / "reference" / "smoke"
    assert (committed / "records.zip").stat().st_size < 1_000_000

    assert main(["verify", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "table4 has the seeds 0: making it of the reference's records of these seeds." in said
    assert "table4: 1 of 1 rows as in the reference, equal to the bit." in said

    assert main(["reproduce", "smoke", "--from-reference"]) == 0
    assert main(["diff", str(committed), str(folder / "from-reference")]) == 0
    assert "table4: 2 of 2 rows as in the reference, equal to the bit." in capsys.readouterr().out


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
    text = CliRunner().invoke(papermill_command, ["--help-notebook", str(path)]).output
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


def minutes_of_readme():
    """{notebook: minutes at the mini scale} of README's table, whose rows may have several notebooks."""
    found = {}
    for row in re.findall(r"^\| \[.*\.ipynb\).*\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        names, numbers = re.findall(r"\[(\w+)\]\(notebooks/", row), re.findall(r"\d+", row.split("|")[-2])
        found |= dict(zip(names, numbers * (len(names) // len(numbers)), strict=True))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_opens_with_its_subject_its_time_and_its_executed_copy(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    words = " ".join(first.source.split())
    (minutes,) = re.findall(r"\*\*Time\*\* on two cores[^:]*: (\d+) minutes?\b", words)
    assert minutes == minutes_of_readme()[path.stem]
    assert ("`smoke`" in words) or "the same at every scale" in words
    copies = re.findall(r"\[Here it is executed\]\(\.\./([^)]*)\)", words)
    if (ROOT / "results/reference/mini" / EXPERIMENTS[path.stem].section / f"{path.stem}.manifest.json").exists():
        assert copies == [f"results/reference/mini/notebooks/{path.name}"]
        assert (ROOT / copies[0]).is_file()
    else:
        assert not copies and "It is not in the reference yet." in words


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outside_the_environment_it_says_what_to_install(path, monkeypatch):
    code = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    exec(code, {})  # here all is there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tampo" else object())
    with pytest.raises(ImportError, match=r"This kernel lacks tampo\. .* run: pip install -c .ci/constraints.txt -e "):
        exec(code, {})
