"""The number of processes of a training run: part of its name, and checked against what was started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.runs.identity import training_identity
from tampo.runs.pipeline import evaluate
from tampo.runs.store import RunStore
from tampo.runs.training import make_trainer
from tests.helpers import SMALL_RUN, make_project

SMALL = SMALL_RUN | {"max_steps": 2, "max_completion_length": 8, "scale": "two"}
SMALL |= {"eval_problems": 2, "eval_samples": 2, "benchmarks": ["gcd"]}


@pytest.mark.parametrize(("started", "named"), [(1, 8), (2, 1), (16, 8)])
def test_another_number_than_was_started_is_refused(tmp_path, monkeypatch, started, named):
    monkeypatch.setenv("WORLD_SIZE", str(started))
    config = load_params("smoke", SMALL | {"processes": named}).training()
    message = f"processes is {named}, and {started} were started. Give --processes {started}, or start {named} by"
    with pytest.raises(ConfigError, match=message):
        make_trainer(config, tmp_path)


def test_the_command_line_says_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_project(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["train", "smoke", "--processes", "2", "--per-device-train-batch-size", "16"]) == 2
    assert "processes is 2, and 1 were started. Give --processes 1, or start 2 by accelerate" in capsys.readouterr().err


def test_two_processes_make_one_record(tmp_path, monkeypatch):
    """Both find the same name; the first writes the record, and an evaluation in one process finds it."""
    monkeypatch.chdir(make_project(tmp_path))
    params = load_params("smoke", SMALL | {"processes": 2})
    words = [f"--{name}={json.dumps(value)}" for name, value in SMALL.items() if name not in ("scale", "benchmarks")]
    words += ["--scale=two", "--benchmarks=gcd", "--processes=2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "tampo", "train", "smoke", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    store, identity = RunStore.of(params), training_identity(params.training())
    record = store.load("training", identity)
    assert record is not None and record.manifest["identity"]["processes"] == 2
    assert done.stdout.count("Trained: results/two/runs/") == 1
    assert sorted(path.name for path in store.root.iterdir() if path.is_dir()) == [record.name]
    assert len(record.rollouts(1)) == 2 * 8, "of both processes"
    samples = evaluate(store, params.evaluation(), params.model, params.training()).samples()
    assert len(samples) == 4
