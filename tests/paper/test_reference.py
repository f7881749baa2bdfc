"""The committed results are written by one command: from one commit, all or nothing."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.paper import reference as module
from tampo.paper.outputs import read_about, results_folder
from tampo.paper.reference import rewrite_reference, swap, write_reference
from tampo.runs.provenance import write_manifest
from tampo.runs.store import RunStore
from tests.helpers import ROOT, make_project

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git(*words):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], check=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clean checkout, in which `reproduce` writes one table at once, from two records in the store."""
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    Path(".gitignore").write_text("results/*\n!results/reference/\nresults/reference/.*\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setattr(module, "checkout", lambda: folder)
    monkeypatch.setattr(module, "run_jobs", lambda *args: None)
    monkeypatch.setattr(module, "needed_jobs", lambda *args: [Found()])
    monkeypatch.setattr(module, "reproduce", reproduce)
    make_records([COMMIT, COMMIT])
    return folder


class Found:
    def find(self, store):
        training, evaluation = store.records()
        return training, evaluation


def make_records(commits):
    store = RunStore.named("smoke")
    for kind, commit in zip(("training", "evaluation"), commits, strict=True):
        store.make(kind, {"seed": 0}, lambda folder, commit=commit: {"commit": commit})


def reproduce(scale, seeds, only, workers, folder, log):
    params = load_params(scale, {"seeds": seeds, "output_dir": str(folder)})
    tables = results_folder(params, "table1")
    tables.mkdir(parents=True)
    (tables / "table1.csv").write_text("value\n1.0\n")
    (tables / "table1.md").write_text("| a table |")
    write_manifest(tables, "table1", params, {r.name: r.manifest for r in RunStore.named(scale).records()})
    notebook = folder / "notebooks" / "table1.ipynb"
    notebook.parent.mkdir()
    write_notebook(notebook, f"# Table 1: of results/reference/{folder.name}/tables")
    return [notebook]


def write_notebook(path, text):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), path)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_has_all_its_parts(project):
    folder = write_reference("smoke", [0, 1])
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md", "index.html", "records.zip", "reference.json", "notebooks/table1.ipynb", "notebooks/table1.html",
        "tables/table1.csv", "tables/table1.md", "tables/table1.manifest.json",
    }  # fmt: skip
    about = json.loads((folder / "reference.json").read_text())
    assert (about["seeds"], about["records"], about["records_commit"]) == ([0, 1], 2, COMMIT)
    for name in ("notebooks/table1.ipynb", "notebooks/table1.html", "index.html"):
        text = (folder / name).read_text()
        assert "of results/reference/smoke/tables" in text and ".new" not in text
    page = (folder / "README.md").read_text()
    assert "| a table |" in page
    assert "[manifest.json](tables/table1.manifest.json)" in page
    assert not [path for path in folder.parent.iterdir() if path.suffix in (".new", ".old")]


def test_the_seeds_are_those_of_the_present_one(project):
    write_reference("smoke", [0, 1])
    git("add", ".")
    git("commit", "-qm", "reference")
    write_reference("smoke")
    assert json.loads(Path("results/reference/smoke/reference.json").read_text())["seeds"] == [0, 1]


def test_it_is_written_anew_from_its_own_records(project, monkeypatch):
    """Other words for the same runs: the archive stays, what was made anew loses its older files, the rest is kept."""
    folder = write_reference("smoke", [0, 1])
    (folder / "tables" / "table1.old.csv").write_text("of an earlier version")
    write_notebook(folder / "notebooks" / "explore.ipynb", "# Explore")
    archive = (folder / "records.zip").read_bytes()
    git("add", ".")
    git("commit", "-qm", "reference")

    def from_reference(scale, seeds, only, output_dir, log):
        assert seeds == [0, 1]
        assert {"table1", "study_power"} <= set(only), "what it has, and what needs no runs"
        assert not {"table2", "overhead", "quickstart"} & set(only)
        made = reproduce(scale, seeds, (), None, output_dir, log)
        (output_dir / "tables" / "table1.md").write_text("| other words |")
        return made

    monkeypatch.setattr(module, "from_reference", from_reference)
    assert rewrite_reference("smoke") == folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {"notebooks/explore.ipynb", "tables/table1.csv", "notebooks/table1.ipynb"}
    assert "tables/table1.old.csv" not in names
    assert (folder / "records.zip").read_bytes() == archive
    page = (folder / "README.md").read_text()
    assert "| other words |" in page and "notebooks/explore.ipynb" in page
    page = (folder / "index.html").read_text()
    assert "| other words |" in page and "notebooks/explore.html" in page
    assert ".new" not in (folder / "notebooks" / "table1.ipynb").read_text()
    about = json.loads((folder / "reference.json").read_text())
    assert (about["records"], about["records_commit"], about["seeds"]) == (2, COMMIT, [0, 1])
    Path("dirt").write_text("")
    with pytest.raises(ConfigError, match="needs a clean checkout"):
        rewrite_reference("smoke")


def test_a_dirty_checkout_is_refused(project):
    Path("notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"needs a clean checkout; commit or remove: notes.txt"):
        write_reference("smoke")


def test_outside_of_a_checkout_it_is_refused(project, monkeypatch):
    monkeypatch.setattr(module, "checkout", lambda: None)
    with pytest.raises(ConfigError, match="in a git checkout of tampo only"):
        write_reference("smoke")


@pytest.mark.parametrize(
    ("commits", "named"),
    [
        ([COMMIT, "f" * 40], f"1 of {COMMIT}, 1 of {'f' * 40}"),
        ([COMMIT + "-dirty"] * 2, "-dirty"),
        ([None] * 2, "None"),
    ],
)
def test_runs_of_several_commits_or_of_unknown_code_are_refused(project, commits, named):
    RunStore.named("smoke").delete()
    make_records(commits)
    with pytest.raises(ConfigError, match=f"must come from one commit.*{named}.*TAMPO_STORE"):
        write_reference("smoke")
    assert not Path("results/reference/smoke").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("step", ["reproduce", "pack", "write_pages", "swap"])
def test_what_stops_it_leaves_the_present_one_whole(project, monkeypatch, step, error):
    folder = write_reference("smoke")
    git("add", ".")
    git("commit", "-qm", "reference")
    before = content(folder)

    def fail(*args):
        raise error

    with monkeypatch.context() as broken, pytest.raises(type(error)):
        broken.setattr(module, step, fail)
        write_reference("smoke", [0, 1])
    assert content(folder) == before
    write_reference("smoke", [0, 1])
    assert json.loads((folder / "reference.json").read_text())["seeds"] == [0, 1]


KILLED = """
    import sys, time
    from pathlib import Path
    from tampo.paper import reference
    from tests.paper import test_reference as fakes

    def stuck(*args):
        Path(sys.argv[1]).touch()
        time.sleep(600)

    reference.checkout = Path.cwd
    reference.run_jobs = lambda *args: None
    reference.needed_jobs = lambda *args: [fakes.Found()]
    reference.reproduce = fakes.reproduce
    reference.pack = stuck
    reference.write_reference("smoke", [0, 1])
"""


def test_killed_while_it_writes_and_asked_again(project, tmp_path):
    """SIGKILL at work: the present one is whole, and neither its lock nor what it left stops the next one."""
    folder = write_reference("smoke")
    git("add", ".")
    git("commit", "-qm", "reference")
    before = content(folder)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "stuck")]
    writer = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "stuck").exists():
        assert writer.poll() is None
        time.sleep(0.05)
    writer.kill()
    writer.wait()
    assert content(folder) == before
    write_reference("smoke", [0, 1])
    assert json.loads((folder / "reference.json").read_text())["seeds"] == [0, 1]


def test_killed_between_the_two_renames_the_old_one_comes_back(tmp_path):
    new, target = tmp_path / ".smoke.new", tmp_path / "smoke"
    for folder, text in ((new, "new"), (target, "old")):
        folder.mkdir()
        (folder / "x").write_text(text)
    target.rename(tmp_path / ".smoke.old")  # what `swap` does first
    with pytest.raises(ConfigError, match="no reference in"):  # it has no reference.json, but it is there again
        read_about(target)
    assert (target / "x").read_text() == "old"
    swap(new, target)
    assert (target / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]


def test_the_command_takes_all_or_nothing(project, capsys):
    assert main(["reproduce", "smoke", "--reference", "--only", "table1"]) == 2
    assert "writes all of results/reference/SCALE" in capsys.readouterr().err
    assert main(["reproduce", "smoke", "--from-reference"]) == 2
    assert "There is no reference in" in capsys.readouterr().err
    assert main(["reproduce", "smoke", "--output-dir", "s3://bucket/x"]) == 2
    assert "output_dir: must be a local folder" in capsys.readouterr().err


def test_runs_are_deleted_when_the_answer_is_yes(project, monkeypatch, capsys):
    root = RunStore.named("smoke").root
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["clean-runs", "smoke"]) == 1
    said = capsys.readouterr().out
    assert "2 finished runs and evaluations, which took 0.0 hours, and 0 that are not finished" in said
    assert root.is_dir()

    def nobody(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert main(["clean-runs", "smoke"]) == 2
    assert root.is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["clean-runs", "smoke"]) == 0
    assert not root.exists()
    assert main(["clean-runs", "smoke"]) == 0
    assert "There are no runs" in capsys.readouterr().out
