"""The command line in clumsy hands: one clear sentence, the right exit status, and nothing lost; never a traceback."""

import errno
import io
import json
import shutil
import subprocess
import sys
import zlib

import pytest
from safetensors import SafetensorError

from tampo import cli
from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.paper.outputs import read_about
from tampo.runs.archive import unpack
from tampo.runs.model_files import checked_model
from tampo.runs.store import STORE_VARIABLE, RunStore
from tampo.tasks.mini_model import mini_model_path
from tests.helpers import make_project

RECORD = "training-0123456789abcdef"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "project"))
    return tmp_path / "project"


def refused(capsys, status, *arguments):
    """What a command says that ends with this status."""
    assert main([str(argument) for argument in arguments]) == status
    said = capsys.readouterr().err
    assert said.startswith("tampo: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize("name", ["{tmp}/precious", "../precious", "", "..", "params/mini.yaml", "reference"])
def test_only_a_scale_can_be_deleted(project, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    (tmp_path / "store" / "mini").mkdir(parents=True)
    for folder in (tmp_path / "precious", tmp_path / "store" / "mini"):
        (folder / RECORD).mkdir(parents=True)
    assert "is not the name of a scale" in refused(capsys, 2, "clean-runs", name.format(tmp=tmp_path), "--yes")
    assert (tmp_path / "precious" / RECORD).is_dir() and (tmp_path / "store" / "mini" / RECORD).is_dir()


def test_only_what_tampo_made_is_deleted(project, capsys):
    root = project / "results" / "smoke" / "runs"
    for name in (RECORD, "bench-head-0123456789abcdef"):
        (root / name).mkdir(parents=True)
        (root / f"{name}.lock").touch()
    (root / RECORD / "manifest.json").write_text('{"seconds": null}')
    (root / "notes.txt").touch()
    assert main(["clean-runs", "mini", "--yes"]) == 0
    assert "There are some of smoke." in capsys.readouterr().out
    assert main(["clean-runs", "smoke", "--yes"]) == 0
    assert "1 finished" in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == ["notes.txt"]


def test_a_store_on_another_disk_by_a_link(project, tmp_path):
    (tmp_path / "disk" / RECORD).mkdir(parents=True)
    (project / "results" / "smoke").mkdir(parents=True)
    (project / "results" / "smoke" / "runs").symlink_to(tmp_path / "disk")
    assert main(["clean-runs", "smoke", "--yes"]) == 0
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["reproduce", "smoke", "--only", "fig2", "--output-dir", "FILE"],
        ["reproduce", "smoke", "--output-dir", "FILE/below"],
        ["sweep", "smoke", "--controllers", "fixed", "--output-dir", "FILE"],
        ["reproduce", "smoke", "--output-dir", "x" * 300],
    ],
)
def test_a_folder_that_cannot_be_one_is_refused_before_anything_runs(project, capsys, monkeypatch, command):
    monkeypatch.setattr("tampo.paper.reproduce.run_jobs", lambda *given: pytest.fail("it trains"))
    monkeypatch.setattr("tampo.runs.sweep.follow", lambda *given: pytest.fail("it trains"))
    (project / "FILE").touch()
    said = refused(capsys, 2, *command)
    assert "output_dir" in said and "Give another folder" in said


def test_the_reference_is_not_written_by_a_comparison(project, capsys):
    folder = project / "results" / "reference" / "smoke" / "tables"
    folder.mkdir(parents=True)
    (folder / "table1.manifest.json").write_text("{}")
    assert "is the reference itself" in refused(capsys, 2, "verify", "results/reference/smoke")
    assert not (folder.parent / "verify.md").exists()


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), 1, "resumes once it can"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "resumes once it can write"),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "results/smoke"),
            2,
            "'results/smoke'. Give another path",
        ),
        (FileExistsError(errno.EEXIST, "File exists", "x"), 2, "Give another path, or move away what is there"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "Give another path"),
        (ConnectionError("No server at http://127.0.0.1:1"), 1, "No server at"),
        (FloatingPointError("The loss is nan"), 1, "The loss is nan"),
        (ConfigError("alpha: too large"), 2, "alpha: too large"),
    ],
)
def test_what_goes_wrong_ends_in_a_sentence(monkeypatch, capsys, error, status, words):
    def fail(options):
        raise error

    monkeypatch.setattr(cli, "_params", fail)
    assert words in refused(capsys, status, "params")


def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch):
    for error in (SafetensorError("header too large"), OSError(errno.EIO, "I/O error"), KeyError("x")):
        monkeypatch.setattr(cli, "_params", lambda options, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            main(["params"])


@pytest.mark.parametrize(
    "command",
    [
        ["reproduce", "mini-facts", "--only", "study_loss"],
        ["reproduce", "smoke-choice", "--only", "table5"],
        ["reproduce", "params/smoke.yaml", "--only", "study_drift"],
        ["reproduce", "paper", "--only", "regret"],
    ],
)
def test_a_notebook_without_parameters_for_this_file(capsys, command):
    assert f"{command[-1]} has parameters for " in refused(capsys, 2, *command)


def test_parameters_of_a_controller_in_a_sweep(capsys, monkeypatch):
    given = ["--temperature-controller-kwargs", "{virtual_temperatures: relative}"]
    assert "virtual_temperatures" in refused(capsys, 2, "sweep", "smoke", "--controllers", "tampo,fixed", *given)
    asked = []

    def start(runs, *given):
        asked.extend(runs)
        raise KeyboardInterrupt

    monkeypatch.setattr("tampo.runs.sweep.follow", start)
    assert main(["sweep", "smoke", "--controllers", "linear", given[0], "{start_temperature: 0.8}"]) == 130
    assert asked[0].job.training.temperature_controller_kwargs == {"start_temperature": 0.8}
    with pytest.raises(ConfigError, match=r"with temperature_controller 'fixed'.*\n.*start_temperature"):
        load_params(
            "smoke", {"temperature_controller": "linear", "temperature_controller_kwargs": "{start_temperature: 0.8}"}
        ).training(temperature_controller="fixed")


def test_a_scale_that_a_variable_names(monkeypatch):
    monkeypatch.setenv("TAMPO_SCALE", "maxi")
    with pytest.raises(ConfigError, match="The variable TAMPO_SCALE: .*'maxi'"):
        load_params()


def test_a_folder_without_a_name(capsys, project):
    assert "give a name" in refused(capsys, 2, "init", "")


@pytest.mark.parametrize("name", ["seed", "eval_seed", "data_seed", "seeds"])
def test_seeds_are_those_that_every_library_takes(name):
    with pytest.raises(ConfigError, match=rf"{name}(.0)?: .*4294967295, got"):
        load_params("smoke", {name: 2**32})
    assert load_params("smoke", {name: 2**32 - 1})


def test_the_seed_of_a_model(tmp_path, capsys):
    assert "--seed must be" in refused(capsys, 2, "build-mini-model", tmp_path / "out", "--seed", 2**32)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["alpha: 2024-13-45", "alpha: " + "9" * 5000, "alpha: " + "[" * 3000])
def test_yaml_of_every_kind_of_damage(project, text):
    (project / "own.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_params("own.yaml")
    with pytest.raises(ConfigError):
        load_params("smoke", {"temperature_controller_kwargs": text.removeprefix("alpha: ")})


def test_a_reference_of_every_kind_of_damage(tmp_path, capsys):
    for text in ("{", "{}", '{"a": 1}', "[]", json.dumps({"scale": "mini", "seeds": "0", "versions": {"tampo": "1"}})):
        (tmp_path / "reference.json").write_text(text)
        with pytest.raises(ConfigError, match=r"reference.json is damaged"):
            read_about(tmp_path)
    (tmp_path / "reference.json").unlink()
    with pytest.raises(ConfigError, match="There is no reference in"):
        read_about(tmp_path)
    (tmp_path / "results").mkdir()
    for folder in (".", "/"):
        refused(capsys, 2, "verify", "smoke", "--reference", folder)


def test_an_archive_whose_content_is_damaged(tmp_path, monkeypatch):
    for error in (zlib.error("invalid block type"), RuntimeError("encrypted"), NotImplementedError("compression 99")):
        monkeypatch.setattr("zipfile.ZipFile", lambda path, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(ConfigError, match="Cannot read the records"):
            unpack(tmp_path / "records.zip", tmp_path / "back")


def test_a_reader_that_has_seen_enough():
    command = f"{sys.executable} -m tampo params | head -1"
    assert subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120).stderr == ""


def test_a_terminal_that_lacks_letters(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(cli, "_params", lambda options: print("α = 0.05"))
    assert main(["params"]) == 0
    assert sys.stdout.buffer.getvalue().startswith(b"\\u03b1 = 0.05")


def test_a_name_of_a_store_is_that_of_a_scale():
    assert RunStore.named("mini-facts").root.name == "runs"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b"[]", "config.json is damaged"),
        ("config.json", b"{}", "must have model_type and architectures"),
        ("model.safetensors", None, "no file of weights"),
        ("model.safetensors", b"half", "model.safetensors is damaged"),
        ("tokenizer.json", b"garbage", "tokenizer.json is damaged"),
        ("tokenizer*", None, "there is no tokenizer"),
    ],
)
def test_a_model_whose_folder_lacks_something(tmp_path, capsys, name, content, reason):
    folder = tmp_path / "model"
    shutil.copytree(mini_model_path("mini"), folder)
    assert checked_model(str(folder), "mine") == str(folder)
    for path in folder.glob(name):
        path.unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"model 'mine' cannot be loaded: .*{reason}"):
        checked_model(str(folder), "mine")
    (tmp_path / "model" / "adapter_config.json").touch()
    assert checked_model(str(folder), "mine") == str(folder), "an adapter's, whose base model is elsewhere"


def test_a_damaged_model_is_refused_by_the_commands(tmp_path, capsys):
    shutil.copytree(mini_model_path("mini"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in (["evaluate", "smoke", "--base"], ["train", "smoke"]):
        said = refused(capsys, 2, *command, "--model", tmp_path / "model")
        assert "model.safetensors is damaged" in said and "Save it again" in said
