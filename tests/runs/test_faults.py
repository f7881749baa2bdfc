"""Faults: killed, stopped by a signal, orphaned, damaged. No work is lost, and the results are equal to the bit."""

import functools
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tampo.config import load_params
from tampo.files import sha256
from tampo.runs.checkpoints import last_whole_checkpoint
from tampo.runs.pipeline import evaluation_identity, training_identity
from tampo.runs.store import PROGRESS, TIMES, RunStore
from tests.forks import fork, wait_for
from tests.helpers import without_times
from tests.runs import killed_run
from tests.runs.killed_run import POINTS
from tests.runs.processes import children

SMALL = {
    "prompts_per_step": 2,
    "per_device_train_batch_size": 16,
    "train_problems": 20,
    "max_completion_length": 16,
    "max_steps": 7,
}
SMALL |= {"eval_problems": 3, "eval_samples": 4, "eval_max_completion_length": 16, "benchmarks": "chain_sum,gcd"}
SMALL |= {"temperature_controller": "tampo", "meta_warmup_ratio": 0.2, "scoring_batch_size": 6}
PARAMS = load_params("smoke", SMALL)


def start(root, function=killed_run.run, params=PARAMS, **options):
    """A run in a process of its own, which is returned."""
    return fork(messages_of(root), functools.partial(function, root, params.model_dump(mode="json"), **options))


def messages_of(root):
    return root.with_name(f"{root.name}.messages")


def run(root, **options):
    """Exit status and messages of a run."""
    process = start(root, **options)
    return wait_for(process, 300), messages_of(root).read_text()


def folders(root, params=PARAMS):
    training = params.training()
    return (
        RunStore(root).folder("training", training_identity(training)),
        RunStore(root).folder("evaluation", evaluation_identity(params.evaluation(), params.model, training)),
    )


def bits(root, params=PARAMS):
    """Checksums of what a finished run leaves, without times: weights, card, log, rollouts, samples."""
    training, evaluation = folders(root, params)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (training, evaluation)]
    files = manifests[0]["files"] | manifests[1]["files"]
    assert {"model/model.safetensors", "metrics.csv", "rollouts.parquet", "samples.parquet"} <= files.keys()
    for folder, manifest in zip((training, evaluation), manifests, strict=True):
        assert all(sha256(folder / name) == digest for name, digest in manifest["files"].items())
        assert not (folder / "checkpoints").exists()
    assert len((training / TIMES).read_text().splitlines()) == 1 + params.max_steps
    return without_times(files)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    assert run(root)[0] == 0
    temperatures = (folders(root)[0] / "metrics.csv").read_text()
    assert len(temperatures.splitlines()) == 1 + SMALL["max_steps"]
    return bits(root)


def survive(root, kills, params=PARAMS):
    """Kill a run several times, each time at another point; then let it finish."""
    for kill in kills:
        status, messages = run(root, kill=kill, params=params)
        assert status == -signal.SIGKILL, f"not killed at {kill}: {messages[-1000:]}"
    assert run(root, params=params)[0] == 0
    return bits(root, params)


def test_killed_in_generation_in_a_checkpoint_and_in_the_evaluation(whole, tmp_path):
    # The third one finds a checkpoint of the last step, after which nothing is left to train.
    kills = [("generation", 60), ("checkpoint, seal", 2), ("rollouts", 1), ("part of an evaluation", 2)]
    assert survive(tmp_path, kills) == whole


@pytest.mark.slow
def test_killed_twenty_times_at_random(tmp_path):
    """At all points, in a random order and at random calls; those after the training run come last."""
    params = load_params("smoke", SMALL | {"max_steps": 40})
    random = np.random.default_rng(0)
    points = list(POINTS)
    during, after = points[1 : points.index("rollouts")], points[points.index("rollouts") :]
    kills = [(point, int(random.integers(1, 4))) for point in random.permutation(during * 2)[:14].tolist()]
    kills = [(points[0], 1), *kills, *((point, 1) for point in after)]
    assert len(kills) == 20
    assert {point for point, _ in kills} == {*points}
    assert run(tmp_path / "whole", params=params)[0] == 0
    assert survive(tmp_path / "killed", kills, params) == bits(tmp_path / "whole", params)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_by_a_signal_within_a_step(whole, tmp_path, number):
    process = start(tmp_path)
    training, _ = folders(tmp_path)
    step = wait_for_step(process, training, 3)
    os.kill(process.pid, number)
    status = wait_for(process, 60)
    messages = messages_of(tmp_path).read_text()
    assert "Stopping after this step; finished work is kept." in messages
    stopped = int(re.search(r"Stopped after step (\d+) of 7", messages)[1])
    assert step <= stopped <= step + 2, "the step that ran, or one that ended while the signal was on its way"
    assert (training / "checkpoints" / f"checkpoint-{stopped}").is_dir()
    assert status != 0
    assert run(tmp_path)[0] == 0
    assert bits(tmp_path) == whole


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the worker in /proc, which Linux has")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_workers_stop_with_their_parent(whole, tmp_path, number):
    """When a notebook's kernel is interrupted or dies, its training run stops with a checkpoint."""
    parent = start(tmp_path, killed_run.run_by_workers)
    training, _ = folders(tmp_path)
    wait_for_step(parent, training, 2)
    (worker,) = children(parent.pid)
    os.kill(parent.pid, number)
    assert wait_for(parent, 60) != 0
    for _ in range(600):
        if not Path(f"/proc/{worker}").exists() or "zombie" in Path(f"/proc/{worker}/status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker is still there a minute later")
    assert last_whole_checkpoint(training / "checkpoints") is not None
    assert run(tmp_path)[0] == 0
    assert bits(tmp_path) == whole


# Every file of a checkpoint is damaged in tests/runs/test_checkpoints.py.
@pytest.mark.parametrize("name", [pytest.param("optimizer.pt", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named_and_nothing_restarts(tmp_path, name):
    assert run(tmp_path, kill=("meta-policy", 6))[0] == -signal.SIGKILL
    training, _ = folders(tmp_path)
    checkpoint = training / "checkpoints" / "checkpoint-4"
    (checkpoint / name).write_bytes(b"damaged")
    before = sorted(path.name for path in (training / "checkpoints").iterdir())
    status, messages = run(tmp_path)
    assert status == 1
    assert re.search(rf"DamagedCheckpoint: .*{name} was changed after it was written. Remove the folder", messages)
    assert sorted(path.name for path in (training / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("limit", [pytest.param(20_000, marks=pytest.mark.slow), 1_000_000])
def test_a_full_disk_ends_in_an_error_and_costs_nothing(whole, tmp_path, limit):
    """Writes fail from a size on: the first log of the trainer's state, or the weights of a checkpoint."""
    status, messages = run(tmp_path, largest=limit)
    assert status == 1
    assert "File too large" in messages
    training, evaluation = folders(tmp_path)
    assert not (training / "manifest.json").exists()
    assert not evaluation.exists()
    assert run(tmp_path)[0] == 0
    assert bits(tmp_path) == whole


def wait_for_step(process, training, step):
    """Wait until a training run has reached `step`; returns its step."""
    while True:
        assert process.exitcode is None, "ended too early to test anything"
        try:
            seen = json.loads((training / PROGRESS).read_text())["step"]
            if seen >= step:
                return seen
        except (OSError, ValueError):
            pass
        time.sleep(0.002)
