"""An evaluation by several processes, and a training run in its own: the same records, also after kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tampo.config import ConfigError, load_params
from tampo.runs import apart, pipeline, workers
from tampo.runs.apart import evaluation_processes, trains_apart
from tampo.runs.identity import evaluation_identity
from tampo.runs.pipeline import evaluate
from tampo.runs.store import RunStore
from tampo.runs.workers import RunFailed
from tests.helpers import ROOT, SMALL_RUN, without_times
from tests.runs.processes import children

# Slices of four problems: three for each benchmark.
SMALL = {"eval_problems": 12, "eval_samples": 4, "eval_batch": 16, "benchmarks": "chain_sum,gcd"}
PARAMS = load_params("smoke", SMALL_RUN | SMALL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The checksums of the record that this process makes."""
    store = RunStore(tmp_path_factory.mktemp("alone"))
    return evaluate(store, PARAMS.evaluation(), "mini").manifest["files"]


def test_identities_are_those_of_the_records_that_exist():
    params = load_params("mini", {"data_seed": 0})
    for config, digest in ((params.training(), "9febee0709989915"), (params.evaluation(), "f6558efa9aa998ce")):
        text = json.dumps(config.identity(), sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_a_killed_process_leaves_its_slices_to_the_other(alone, tmp_path, monkeypatch):
    """Two processes, of which one at work is killed as soon as a slice is finished."""
    killed, shown, real = [], [], apart.sample_apart

    def sample_apart(config, weights, parts, processes, report, options):
        def watch():
            report()
            if not killed and list(parts.glob("[!.]*.parquet")):
                working = [pid for pid in children() if os.readlink(f"/proc/{pid}/fd/1").startswith(str(parts))]
                killed.append(working[0])
                os.kill(killed[0], signal.SIGKILL)

        assert processes == 2
        real(config, weights, parts, processes, watch)
        shown.extend(path.name for path in parts.glob("*.log"))

    monkeypatch.setattr(apart, "sample_apart", sample_apart)
    monkeypatch.setattr(apart, "_POLL", 0.01)
    store = RunStore(tmp_path)
    record = evaluate(store, PARAMS.evaluation(), "mini", workers=2)
    assert len(killed) == 1
    assert sorted(shown) == ["process-0.log", "process-1.log"]
    assert record.manifest["files"] == alone, "nothing else is left, and the samples are equal to the bit"
    assert record.manifest["seeded_by"] == "sample"
    assert children() == []


@pytest.mark.parametrize("errors", [("OSError: no model", "it died"), (None, "it died")])
def test_one_process_is_enough_and_without_any_the_error_says_why(tmp_path, monkeypatch, errors):
    log = tmp_path / "process-0.log"
    log.write_text("Traceback\nOSError: no model\n")

    class Ended:
        def __init__(self, error):
            self.log, self.error = log, lambda: error

        def state(self):
            return "ended"

    class Two(workers.Workers):
        def submit(self, tasks):
            return [Ended(error) for error, _ in zip(errors, tasks, strict=True)]

    monkeypatch.setattr(apart, "Workers", Two)
    if errors[0]:
        with pytest.raises(RunFailed, match=r"(?s)^OSError: no model; the end of .*process-0\.log:\nTraceback\nOSErr"):
            apart.sample_apart(PARAMS.evaluation(), "mini", tmp_path, 2)
    else:
        apart.sample_apart(PARAMS.evaluation(), "mini", tmp_path, 2)


@pytest.mark.parametrize(
    ("gpus", "engine", "workers", "world", "expected"),
    [
        (0, "transformers", None, 1, 1),
        (0, "transformers", 3, 1, 3),
        (1, "vllm", 3, 1, 1),
        (8, "vllm", None, 1, 8),
        (8, "vllm", 1, 1, 8),
        (8, "vllm-server", 4, 1, 1),
        (8, "transformers", None, 2, 1),
    ],
)
def test_number_of_processes(monkeypatch, gpus, engine, workers, world, expected):
    monkeypatch.setattr(apart, "gpus_here", lambda: gpus)
    monkeypatch.setenv("WORLD_SIZE", str(world))
    assert evaluation_processes(PARAMS.evaluation(eval_engine=engine), workers) == expected


@pytest.mark.parametrize(
    ("gpus", "rollouts", "engine", "expected"),
    [
        (0, "transformers", "transformers", False),
        (1, "transformers", "transformers", False),
        (2, "transformers", "transformers", True),
        (1, "transformers", "vllm", True),
        (1, "vllm-colocate", "transformers", True),
        (1, "vllm-server", "vllm-server", False),
    ],
)
def test_which_training_runs_have_their_own_process(monkeypatch, gpus, rollouts, engine, expected):
    monkeypatch.setattr(apart, "gpus_here", lambda: gpus)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    training, evaluation = PARAMS.training(rollout_engine=rollouts), PARAMS.evaluation(eval_engine=engine)
    assert trains_apart(training, evaluation) is expected
    monkeypatch.setenv("WORLD_SIZE", "2")
    if engine == "vllm":
        with pytest.raises(ConfigError, match="run `tampo train` by accelerate launch or torchrun, and then `tampo ev"):
            trains_apart(training, evaluation)
    else:
        assert not trains_apart(training, evaluation)


def test_an_engine_is_closed_also_after_an_error(tmp_path, monkeypatch):
    closed = []

    class Failing:
        def close(self):
            closed.append(self)

    monkeypatch.setattr("tampo.inference.evaluate.make_engine", lambda *arguments, **options: Failing())
    with pytest.raises(AttributeError):
        evaluate(RunStore(tmp_path), PARAMS.evaluation(), "mini")
    with pytest.raises(AttributeError):
        pipeline.sample(PARAMS.evaluation(), "mini", tmp_path / "parts")
    assert len(closed) == 2


def test_processes_get_one_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    monkeypatch.setattr(apart, "gpus_here", lambda: 3)
    seen = []

    class Recorded(workers.Workers):
        def submit(self, tasks):
            seen.extend(worker.environment["CUDA_VISIBLE_DEVICES"] for worker in self._workers)
            return []

    monkeypatch.setattr(apart, "Workers", Recorded)
    with pytest.raises(IndexError):  # nothing was started
        apart.sample_apart(PARAMS.evaluation(), "mini", tmp_path, 3)
    assert seen == ["2", "5", "7"]


PARENT = """
import sys, json
from pathlib import Path
from tampo.config import Params
from tampo.runs.pipeline import evaluate
from tampo.runs.store import RunStore
params = Params(**json.loads(sys.argv[2]))
evaluate(RunStore(Path(sys.argv[1])), params.evaluation(), params.model, workers=int(sys.argv[3]))
"""


def start(root, count):
    words = [sys.executable, "-c", PARENT, str(root), PARAMS.model_dump_json(), str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_at_random_and_started_again(alone, tmp_path, count):
    """SIGKILL or SIGTERM to the parent or to one process, at random moments; then the same command."""
    random, store = np.random.default_rng(count), RunStore(tmp_path)
    identity = evaluation_identity(PARAMS.evaluation(), "mini", None)
    parts, most = store.folder("evaluation", identity) / "checkpoints", 0
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path, count)
        while process.poll() is None and not parts.exists():
            time.sleep(0.01)
        time.sleep(float(random.uniform(0, 8)))
        found = children(process.pid)
        if found and random.random() < 0.5:
            os.kill(found[int(random.integers(len(found)))], number)
            time.sleep(float(random.uniform(0, 2)))
        process.send_signal(number)
        process.wait(timeout=60)
        if store.load("evaluation", identity) is not None:
            break
        now = len(list(parts.glob("[!.]*.parquet")))
        assert now >= most, "finished slices are kept"
        most = now
    process = start(tmp_path, count)
    assert process.wait(timeout=120) == 0
    record = store.load("evaluation", identity)
    assert record is not None and record.manifest["files"] == alone


@pytest.mark.slow
def test_a_training_run_in_its_own_process_makes_the_same_record(tmp_path, monkeypatch):
    config = PARAMS.evaluation(eval_problems=1, benchmarks="gcd")
    expected = pipeline.train(RunStore(tmp_path / "here"), PARAMS.training())
    monkeypatch.setattr(apart, "trains_apart", lambda training, config: True)
    monkeypatch.setattr("tampo.runs.training.train", lambda *arguments: pytest.fail("trained in this process"))
    store = RunStore(tmp_path / "apart")
    evaluate(store, config, "mini", PARAMS.training())
    record = pipeline.train(store, PARAMS.training())
    assert without_times(record.manifest["files"]) == without_times(expected.manifest["files"])
    assert (store.root / f"{record.name}.log").is_file()
