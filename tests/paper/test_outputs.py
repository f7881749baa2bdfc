"""Where results go: a folder for each set of parameters, none written over another's, and none to a remote place."""

from pathlib import Path

import pytest

from tampo.config import ConfigError, load_params
from tampo.paper.experiments import EXPERIMENTS
from tampo.paper.notebook import notebook_params, results_folder
from tampo.paper.outputs import OUTPUT_VARIABLE, manifest_name, read_about, reference_folder
from tampo.project import BadPath, folder_name, scale_folder
from tampo.runs.provenance import write_manifest
from tampo.runs.store import STORE_VARIABLE, RunStore
from tests.helpers import make_project


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "project"))
    monkeypatch.delenv(OUTPUT_VARIABLE, raising=False)
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("notebook", "given", "expected"),
    [
        ("table1", {}, "mini/tables"),
        ("table1", {"params": "smoke"}, "smoke/tables"),
        ("fig3", {"max_steps": 60}, "mini/max_steps=60/figures"),
        ("table2", {"seeds": "0-4", "eval_problems": 20}, "mini/eval_problems=20,seeds=0-4/tables"),
        ("table1", {"alpha": 0.1, "seeds": [0, 2]}, "mini/alpha=0.1,seeds=0+2/tables"),
        ("table1", {"alpha": 0.05}, "mini/tables"),  # as in the file
        ("table1", {"workers": 7}, "mini/tables"),
        ("fig2", {}, "mini/figures"),
        ("fig2", {"model": "mini"}, "mini/figures"),  # the scale's own, whatever is installed
        ("fig2", {"model": "smollm"}, "mini/model=smollm/figures"),
        ("table5", {}, "mini/tables"),
        ("table1", {"params": "mini-choice"}, "mini/params=mini-choice/tables"),
        ("study_exploration", {"params": "smoke-rare", "alpha": 0.2}, "smoke/alpha=0.2/studies"),
        ("overhead", {"data_dir": "/somewhere/my data"}, None),
    ],
)
def test_the_folder_says_what_differs(notebook, given, expected, project):
    folder = results_folder(notebook_params(dict(given), notebook), notebook)
    if expected is None:
        assert "data_dir=my_data~" in str(folder), "safe characters, and no path"
    else:
        assert folder == project / "results" / expected


def test_names_are_safe_short_and_distinct():
    assert folder_name({}) == ""
    assert folder_name({"seeds": [3, 4, 5]}) == "seeds=3-5" and folder_name({"seeds": (5,)}) == "seeds=5"
    assert folder_name({"seeds": [0, 2**62]}) == f"seeds=0+{2**62}", "without a list of all between"
    long = {"temperature_candidates": [round(0.6 + 0.01 * i, 2) for i in range(60)]}
    assert len(folder_name(long)) < 100
    names = {folder_name({"model": text}) for text in ("a/b", "a:b", "a b", "../a", "a" * 200, "a" * 201)}
    assert len(names) == 6
    assert not any("/" in name for name in names)


def test_every_set_of_parameters_has_a_file_of_its_own(project):
    """A YAML file of the user with the scale of another file does not write over that one's results."""
    Path("my.yaml").write_text("base: mini\nalpha: 0.2\n")
    mine = results_folder(notebook_params({"params": "my.yaml"}, "table1"), "table1")
    assert mine == project / "results" / "mini" / "params=my" / "tables"
    Path("own.yaml").write_text("base: mini\nscale: own\n")
    assert results_folder(notebook_params({"params": "own.yaml"}, "table1"), "table1").parts[-2:] == ("own", "tables")


def test_output_dir_wins_and_the_variable_comes_second(project, tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path / "variable"))
    folder = results_folder(notebook_params({"alpha": 0.1}, "table1"), "table1")
    assert folder == tmp_path / "variable" / "tables"
    folder = results_folder(notebook_params({"output_dir": "here"}, "fig3"), "fig3")
    assert folder == project / "here" / "figures"


def test_results_of_other_parameters_are_never_replaced(tmp_path):
    given = {"output_dir": str(tmp_path / "out")}
    params = notebook_params(dict(given), "table1")
    write_manifest(results_folder(params, "table1"), "table1", params, {})
    assert notebook_params(given | {"workers": 3}, "table1"), "the same parameters may be made again"
    with pytest.raises(ConfigError, match=r"table1.manifest.json was made with other .*alpha 0.05 there, 0.3 now.*out"):
        notebook_params(given | {"alpha": 0.3}, "table1")
    assert notebook_params(given | {"alpha": 0.3}, "fig3"), "another notebook's are not there"


@pytest.mark.parametrize("remote", ["s3://bucket/out", "gs://bucket", "abfs://x@y/z", "https://example.org/x"])
def test_a_remote_folder_is_refused_by_name(remote):
    with pytest.raises(ConfigError, match=f"output_dir: must be a local folder.*got '{remote}'"):
        notebook_params({"output_dir": remote}, "table1")


def test_no_scale_may_take_the_place_of_the_reference():
    with pytest.raises(ConfigError, match="scale: results/reference has the committed results"):
        load_params("mini", {"scale": "reference"})


def test_a_missing_reference_is_named():
    with pytest.raises(ConfigError, match="no reference in .*reference/smoke"):
        read_about(reference_folder("smoke"))
    assert scale_folder("smoke") != reference_folder("smoke")


def test_every_notebook_has_a_section():
    sections = {name: experiment.section for name, experiment in EXPERIMENTS.items()}
    assert sections["table5"] == sections["claims"] == "tables"
    assert sections["fig6"] == "figures"
    assert sections["controllers"] == sections["study_likelihood"] == sections["overhead"] == "studies"


def test_every_file_has_its_notebooks_manifest():
    assert manifest_name("fig3") == "fig3.manifest.json"
    assert manifest_name("controllers_scores") == "controllers.manifest.json"
    assert manifest_name("study_exploration_optimal") == "study_exploration.manifest.json"
    assert manifest_name("study_likelihood.optima") == "study_likelihood.manifest.json"


@pytest.mark.parametrize("bad", ["~no-such-user/results", "results\0"])
def test_a_text_that_cannot_be_a_path_is_refused_by_the_name_of_the_parameter(bad, monkeypatch):
    for name in ("output_dir", "data_dir", "model"):
        with pytest.raises(ConfigError, match=name):
            load_params("mini", {name: bad})
    if "\0" in bad:
        return  # the system takes no such variable
    monkeypatch.setenv(OUTPUT_VARIABLE, bad)
    with pytest.raises(BadPath, match=OUTPUT_VARIABLE):
        notebook_params({"params": "mini"}, "table1")
    monkeypatch.setenv(STORE_VARIABLE, bad)
    with pytest.raises(BadPath, match=STORE_VARIABLE):
        RunStore.named("mini")
