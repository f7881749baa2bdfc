"""Where results come from."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tampo import project
from tampo.config import load_params
from tampo.files import sha256
from tampo.runs import provenance

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout of one commit that tampo seems to run from."""
    (tmp_path / "tampo").mkdir()
    shutil.copy(ROOT / "tampo" / "files.py", tmp_path / "tampo" / "files.py")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    return tmp_path


def test_commit_is_marked_when_code_changed_but_not_for_results(checkout):
    commit = provenance.provenance()["commit"]
    assert len(commit) == 40
    (checkout / "results" / "table.csv").write_text("2")
    assert provenance.provenance()["commit"] == commit
    (checkout / "tampo" / "files.py").write_text("changed")
    assert provenance.provenance()["commit"] == f"{commit}-dirty"


def test_no_commit_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.provenance()["commit"] is None


def test_an_installed_wheel_has_no_commit(checkout, monkeypatch):
    """Its environment may lie in somebody else's repository, whose commit is irrelevant."""
    monkeypatch.setattr(project, "_PACKAGE", checkout / "tampo")
    monkeypatch.setattr(provenance, "checkout", project.checkout)
    assert provenance.provenance()["commit"] is None
    (checkout / ".tampo-project").touch()
    assert provenance.provenance()["commit"]


def test_manifest_names_parameters_versions_files_and_records(tmp_path):
    params = load_params("smoke", {"alpha": 0.2, "workers": 3, "output_dir": "somewhere"})
    kept = {"kind": "training", "identity": {"alpha": 0.2}, "files": {"a": "0"}, "commit": "c"}
    kept |= {"machine": {}, "seconds": 1.5, "energy_joules": None}
    for name in ("m.csv", "m_curves.png", "more.csv"):
        (tmp_path / name).write_text(name)

    def write(params):
        provenance.write_manifest(tmp_path, "m", params, {"training-1": kept | {"other": "left out"}})
        return json.loads((tmp_path / "m.manifest.json").read_text())

    manifest = write(params)
    assert manifest["params"]["alpha"] == 0.2
    assert not {"workers", "output_dir"} & manifest["params"].keys(), "what decides nothing"
    assert manifest["params_hash"] == provenance.params_hash(manifest["params"])
    assert manifest["records"]["training-1"] == kept
    assert manifest["seconds"] == 1.5
    assert manifest["outputs"] == {name: sha256(tmp_path / name) for name in ("m.csv", "m_curves.png")}
    assert manifest["versions"]["trl"] == "1.16.0"
    assert manifest["machine"]["cores"] >= 1
    assert manifest["lock"] == sha256(ROOT / "uv.lock")
    assert write(params)["outputs"] == manifest["outputs"], "it does not list itself"
    assert write(load_params("smoke", {"alpha": 0.3}))["params_hash"] != manifest["params_hash"]
