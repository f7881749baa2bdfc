"""The registry has every notebook and its runs; what is refused; how a failing notebook is reported."""

import os
import signal
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.paper import reproduce as module
from tampo.paper.experiments import EXPERIMENTS, Experiment
from tampo.paper.reproduce import NotebookFailed, execute, reproduce
from tampo.runs.provenance import write_manifest
from tampo.runs.store import READ_ONLY, STORE_VARIABLE, MissingRecord
from tampo.runs.workers import RunFailed
from tests.helpers import make_project

ROOT = Path(__file__).parents[2]


def test_every_notebook_is_in_the_registry():
    names = EXPERIMENTS.keys()
    assert names == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {f"table{n}" for n in range(1, 6)} | {f"fig{n}" for n in range(2, 7)} | {"claims"} <= names


def test_ablations_use_the_first_seeds():
    assert Experiment("table2", ablation=True).parameters("mini", range(5)) == {"params": "mini", "seeds": [0, 1, 2]}
    assert Experiment("table1").parameters("mini", range(5))["seeds"] == [0, 1, 2, 3, 4]
    assert Experiment("table5", variants={"mini": "mini-choice"}).parameters("mini", [0])["params"] == "mini-choice"


def test_experiments_have_each_run_that_they_show():
    params = load_params("mini", {"seeds": [0, 1]})
    assert len(EXPERIMENTS["table1"].jobs(params)) == 1 + 2 * 6
    assert len(EXPERIMENTS["study_evaluation"].jobs(params)) == 3 * (1 + 2 * 5)
    temperatures = {job.evaluation.eval_temperature for job in EXPERIMENTS["study_evaluation"].jobs(params)}
    assert temperatures == {0.6, 1.0, 1.4}


def test_all_runs_are_made_at_once_and_before_the_notebooks(monkeypatch):
    jobs, executed, messages = [], [], []
    monkeypatch.setattr(module, "run_jobs", lambda store, asked, workers, log: jobs.extend(asked))
    monkeypatch.setattr(module, "execute", lambda asked, folder, workers, log: executed.extend(asked) or [])
    reproduce("mini", seeds=[0, 1], only=["table1", "fig3", "table5"], log=messages.append)
    assert executed == ["table1", "table5", "fig3"]
    assert {job.model for job in jobs} == {"mini", "mini-choice"}
    reproduce("paper", only=["study_exploration", "table5"], log=messages.append)
    assert "study_exploration is skipped: it has no parameters for the scale paper." in messages
    assert executed[3:] == ["table5"]


def test_results_of_other_parameters_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run_jobs", lambda *args: pytest.fail("it trains"))
    params = load_params("smoke", {"seeds": [0, 1], "output_dir": str(tmp_path)})
    write_manifest(tmp_path / "tables", "table1", params, {})
    with pytest.raises(ConfigError, match=r"made with other parameters \(seeds \[0, 1\] there, \[0\] now"):
        reproduce("smoke", seeds=[0], only=["table1"], output_dir=tmp_path)


def test_refusals(capsys):
    with pytest.raises(ConfigError, match=r"Unknown notebook 'table7'; known are quickstart, table1, .*claims"):
        reproduce("mini", only=["table7"])
    assert main(["reproduce", "maxi"]) == 2
    assert "No scale 'maxi'" in capsys.readouterr().err


def test_what_failed_is_said_without_a_traceback_of_the_command(monkeypatch, capsys):
    for error in (RunFailed("TAMPO, seed 0 failed"), NotebookFailed("fig2.ipynb failed")):
        monkeypatch.setattr(module, "reproduce", Mock(side_effect=error))
        assert main(["reproduce", "smoke"]) == 1
        assert capsys.readouterr().err == f"tampo: {error}\n"


def test_a_notebook_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    with pytest.raises(NotebookFailed, match=r"table1.ipynb failed with .*\n(.*\n)*.*Unknown parameter 'alhpa'"):
        execute({"table1": {"params": "smoke", "alhpa": 1}}, tmp_path / "out")
    # papermill keeps what was executed until then, with the error in the cell that raised it.
    cells = nbformat.read(tmp_path / "out" / "notebooks" / "table1.ipynb", as_version=4).cells
    failed = [cell for cell in cells if any(o.output_type == "error" for o in cell.get("outputs", []))]
    assert len(failed) == 1
    assert "Unknown parameter 'alhpa'" in "".join(failed[0].outputs[-1].traceback)
    assert any(cell.get("execution_count") for cell in cells[: cells.index(failed[0])])
    assert not any(cell.get("execution_count") for cell in cells[cells.index(failed[0]) + 1 :])


def test_a_notebook_that_needs_a_run_which_an_archive_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    (tmp_path / "store" / "smoke").mkdir(parents=True)
    (tmp_path / "store" / "smoke" / READ_ONLY).touch()
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    with pytest.raises(
        MissingRecord, match=r"^There are no finished runs for: Base model; GRPO .* Nothing is trained here\.$"
    ):
        execute({"fig3": {"params": "smoke"}}, tmp_path / "out")


def test_a_notebook_whose_process_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_execute", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(NotebookFailed, match=r"was killed.*Not executed: fig2, study_theory\..*--workers 1"):
        execute({"fig2": {}, "study_theory": {}}, tmp_path)
