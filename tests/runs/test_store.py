"""The store: records are made once, found again, safe between processes; incomplete or foreign files are ignored."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tampo.cli import main
from tampo.config import load_params
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.interrupts import Interrupted
from tampo.runs.store import MANIFEST, Record, RunStore

IDENTITY = {"alpha": 0.05, "seed": 0}


def builder(calls, text="hello"):
    def build(folder: Path):
        calls.append(folder)
        (folder / "result.txt").write_text(text)
        (folder / "checkpoints").mkdir(exist_ok=True)
        return {"note": text}

    return build


def test_made_once_and_found_again(tmp_path):
    store, calls = RunStore(tmp_path / "runs"), []
    assert store.load("toy", IDENTITY) is None
    first = store.make("toy", IDENTITY, builder(calls))
    second = RunStore(tmp_path / "runs").make("toy", dict(reversed(IDENTITY.items())), builder(calls))
    assert len(calls) == 1
    assert first == second
    assert first.manifest["note"] == "hello"
    assert first.manifest["identity"] == IDENTITY
    assert list(first.manifest["files"]) == ["result.txt"]
    assert not (first.folder / "checkpoints").exists()
    assert first.manifest["versions"]["trl"] == "1.16.0"


@pytest.mark.filterwarnings("error")
def test_columns_can_be_added_to_a_log_of_many(tmp_path):
    """pandas would warn of a frame in pieces, with a path of this machine, in the notebooks that do so."""
    names = [f"metric-{number}" for number in range(150)]
    (tmp_path / "metrics.csv").write_text(",".join(names) + "\n" + ",".join(["1"] * 150) + "\n")
    assert Record(tmp_path, {}).metrics().assign(seed=0).shape == (1, 151)


def test_another_identity_is_another_record(tmp_path):
    store, calls = RunStore(tmp_path), []
    names = {store.make("toy", IDENTITY | {"seed": seed}, builder(calls)).name for seed in range(3)}
    names |= {store.make("other", IDENTITY, builder(calls)).name}
    assert len(names) == len(calls) == 4


@pytest.mark.parametrize(("call", "number"), [("os.replace", errno.ENOSPC), ("tempfile.mkstemp", errno.EROFS)])
def test_a_disk_that_is_full_or_read_only_costs_nothing(tmp_path, monkeypatch, call, number):
    """The earlier record stays complete; the new one is missing, and is made once the disk works."""
    store, calls = RunStore(tmp_path), []
    before = store.make("toy", IDENTITY, builder(calls))

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken, pytest.raises(OSError, match=os.strerror(number)):
        broken.setattr(f"tampo.files.{call}", fail)
        store.make("toy", IDENTITY | {"seed": 1}, builder(calls))
    assert store.load("toy", IDENTITY) == before
    assert store.load("toy", IDENTITY | {"seed": 1}) is None
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "no temporary file is left"
    assert store.make("toy", IDENTITY | {"seed": 1}, builder(calls)).manifest["note"] == "hello"


def test_the_command_line_says_what_to_do_about_a_full_disk(monkeypatch, capsys):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/mini/runs/x")

    monkeypatch.setattr("tampo.runs.pipeline.train", fail)
    assert main(["train", "smoke"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device: 'results/mini/runs/x'" in said
    assert "the same command resumes once it can write" in said

    def interrupt(*args):
        raise Interrupted("Stopped after step 3 of 7. The same command resumes from there.")

    monkeypatch.setattr("tampo.runs.pipeline.train", interrupt)
    assert main(["train", "smoke"]) == 130
    assert "Stopped after step 3 of 7" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["changed", "removed", "manifest truncated", "manifest foreign"])
def test_a_damaged_record_is_set_aside_and_made_again(tmp_path, damage, capsys):
    store, calls = RunStore(tmp_path), []
    record = store.make("toy", IDENTITY, builder(calls))
    result, manifest = record.folder / "result.txt", record.folder / MANIFEST
    if damage == "changed":
        result.write_text("hellO")
    elif damage == "removed":
        result.unlink()
    elif damage == "manifest truncated":
        manifest.write_text(manifest.read_text()[:40])
    else:
        manifest.write_text("[]")
    assert store.load("toy", IDENTITY) is None
    again = store.make("toy", IDENTITY, builder(calls))
    assert len(calls) == 2
    assert store.load("toy", IDENTITY) == again
    assert (tmp_path / f"{record.name}.damaged-1").is_dir()
    assert "does not match its manifest" in capsys.readouterr().err


def test_a_failed_build_leaves_its_work_and_is_tried_again(tmp_path):
    store, seen = RunStore(tmp_path), []

    def fails(folder: Path):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "half").write_text("work")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        store.make("toy", IDENTITY, fails)
    assert store.load("toy", IDENTITY) is None

    def goes_on(folder: Path):
        seen.append((folder / "checkpoints" / "half").read_text())
        (folder / "result.txt").write_text("done")
        return {}

    assert list(store.make("toy", IDENTITY, goes_on).manifest["files"]) == ["result.txt"]
    assert seen == ["work"]


RACE = """
    import sys, time
    from pathlib import Path
    from tampo.runs.store import RunStore

    def build(folder):
        with open(sys.argv[2], "a") as log:
            log.write("built\\n")
        time.sleep(1)
        (folder / "result.txt").write_text("x")
        return {}

    print(RunStore(Path(sys.argv[1])).make("toy", {"seed": 0}, build).name)
"""


def test_two_processes_make_it_once(tmp_path):
    script, log = tmp_path / "race.py", tmp_path / "log"
    script.write_text(textwrap.dedent(RACE))
    command = [sys.executable, str(script), str(tmp_path / "runs"), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert log.read_text() == "built\n"


def test_a_killed_holder_does_not_block(tmp_path):
    script, log = tmp_path / "race.py", tmp_path / "log"
    script.write_text(textwrap.dedent(RACE).replace("time.sleep(1)", "time.sleep(60)"))
    holder = subprocess.Popen([sys.executable, str(script), str(tmp_path / "runs"), str(log)])
    while not log.exists():
        assert holder.poll() is None
    holder.kill()
    holder.wait()
    record = RunStore(tmp_path / "runs").make("toy", {"seed": 0}, builder([]))
    assert record.manifest["note"] == "hello"


def test_identities_know_the_weights_and_share_what_can_be_shared():
    """Table 1's TAMPO, alpha = 0.05 and p = 0.7 of the ablations are one record; another alpha is not."""
    params = load_params("mini")
    one = training_identity(params.training())
    assert one == training_identity(
        load_params("mini", {"alpha": 0.05, "p": 0.7}).training(temperature_controller="tampo")
    )
    assert one != training_identity(params.training(alpha=0.1))
    assert len(one["model_content"]) == 64
    base = evaluation_identity(params.evaluation(), "mini", None)
    assert base != evaluation_identity(params.evaluation(), "mini", params.training())
    assert base != evaluation_identity(params.evaluation(eval_temperature=0.6), "mini", None)
    json.dumps([one, base], allow_nan=False)


def test_the_store_can_lie_elsewhere_and_serves_all_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunStore.of(load_params("smoke")).root == tmp_path / "results" / "smoke" / "runs"
    monkeypatch.setenv("TAMPO_STORE", str(tmp_path / "scratch"))
    store = RunStore.of(load_params("smoke", {"output_dir": "elsewhere"}))
    assert store.root == tmp_path / "scratch" / "smoke"
    store.make("toy", IDENTITY, builder([]))
    assert [record.manifest["identity"] for record in RunStore.named("smoke").records()] == [IDENTITY]
    assert list(RunStore.named("mini").records()) == []
