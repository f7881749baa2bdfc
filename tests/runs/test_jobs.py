"""Training and evaluation for real, at smoke scale: side by side, in one process or several, equal to the bit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tampo.config import ConfigError, load_params
from tampo.runs.jobs import Job, RunFailed, run_jobs
from tampo.runs.pipeline import evaluate
from tampo.runs.store import READ_ONLY, MissingRecord, RunStore
from tampo.runs.workers import Task, Worker, Workers
from tampo.tasks.mini_model import mini_model_path
from tests.helpers import without_times
from tests.runs.processes import children, working_in

ROOT = Path(__file__).parents[2]
SMALL = {"prompts_per_step": 2, "per_device_train_batch_size": 16, "train_problems": 20, "max_completion_length": 16}
SMALL |= {"eval_problems": 3, "eval_samples": 4, "eval_max_completion_length": 16, "benchmarks": "chain_sum,gcd"}


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", SMALL | {"max_steps": 2})


@pytest.fixture(scope="module")
def finished(params, tmp_path_factory):
    """A base model and three training runs, made by two workers."""
    store, lines = RunStore(tmp_path_factory.mktemp("runs")), []
    jobs = [
        Job("TAMPO", params.evaluation(), params.training(temperature_controller="tampo")),
        Job("linear", params.evaluation(), params.training(temperature_controller="linear")),
        Job("base", params.evaluation()),
        Job("TAMPO again", params.evaluation(), params.training(temperature_controller="tampo")),
        Job("seed 1", params.evaluation(), params.training(temperature_controller="tampo", seed=1)),
    ]
    return store, jobs, run_jobs(store, jobs, workers=2, log=lines.append, every=0.5), lines


def test_jobs_return_their_records_in_order(finished):
    _, _, records, lines = finished
    assert [training is None for training, _ in records] == [False, False, True, False, False]
    assert records[0] == records[3]
    assert records[0] != records[1]
    assert lines[0].startswith("0 of 4 records exist; making 4")
    assert sum("done (" in line for line in lines) == 4
    assert any("|" in line for line in lines), "two at a time"


def test_a_store_of_an_archive_names_what_it_lacks_and_nothing_starts(params, tmp_path):
    (tmp_path / READ_ONLY).touch()
    jobs = [Job(f"seed {n}", params.evaluation(), params.training(seed=n)) for n in range(7)]
    with pytest.raises(MissingRecord, match=r"no finished runs for: seed 0; .*seed 4; and 2 more\. Nothing is trained"):
        run_jobs(RunStore(tmp_path), jobs, log=lambda line: pytest.fail(line))


def test_workers_run_this_tampo_whatever_lies_in_the_working_directory(params, tmp_path, monkeypatch):
    (tmp_path / "tampo").mkdir()
    (tmp_path / "tampo" / "__init__.py").write_text("raise RuntimeError('another tampo')")
    monkeypatch.chdir(tmp_path)
    evaluation = params.evaluation(benchmarks="gcd", eval_problems=1)
    ((training, made),) = run_jobs(RunStore(tmp_path / "runs"), [Job("base", evaluation)], workers=1, log=print)
    assert training is None
    assert len(made.samples()) == 4


def test_a_training_leaves_model_log_and_manifest(finished):
    _, _, records, _ = finished
    training, _ = records[0]
    assert {"model/model.safetensors", "model/config.json", "metrics.csv"} <= training.manifest["files"].keys()
    metrics = training.metrics()
    assert len(metrics) == 2
    assert {"loss", "reward", "temperature", "meta_policy/entropy", "meta_policy/p(0.6)"} <= set(metrics.columns)
    assert not {"step_time"} & set(metrics.columns)
    assert training.manifest["seconds_per_step"] > 0


def test_an_evaluation_keeps_every_sample(finished):
    _, _, records, _ = finished
    samples = records[2][1].samples()
    assert len(samples) == 2 * 3 * 4
    assert set(samples["benchmark"]) == {"chain_sum", "gcd"}
    assert samples["prompt"].str.len().min() > 10
    assert samples["tokens"].between(1, 16).all()
    assert samples["correct"].dtype == bool


def test_a_second_call_makes_nothing(finished):
    store, jobs, records, _ = finished
    lines = []
    assert run_jobs(store, jobs, log=lines.append) == records
    assert lines == ["4 of 4 records exist."]


def test_the_same_params_give_the_same_bits(finished, tmp_path):
    """Also one after the other in this process, where the first ones were spread over two workers."""
    _, jobs, records, _ = finished
    store = RunStore(tmp_path)
    for job, (first_training, first_evaluation) in zip(jobs[:3], records[:3], strict=True):
        evaluate(store, job.evaluation, job.model, job.training)
        training, evaluation = job.find(store)
        pd.testing.assert_frame_equal(evaluation.samples(), first_evaluation.samples())
        assert evaluation.manifest["files"] == first_evaluation.manifest["files"]
        if training is not None:
            assert without_times(training.manifest["files"]) == without_times(first_training.manifest["files"])


def test_seeds_differ_in_their_rollouts(finished):
    _, _, records, _ = finished
    (one, _), *_, (other, _) = records
    assert one.manifest["files"]["metrics.csv"] != other.manifest["files"]["metrics.csv"]


def test_a_failing_job_says_why_and_where(params, tmp_path):
    model = shutil.copytree(mini_model_path("mini"), tmp_path / "no-weights")
    (model / "model.safetensors").unlink()
    job = Job("lost", params.evaluation(), params.training(model=str(model)), "mini")
    with pytest.raises(RunFailed, match=r"lost failed \(ConfigError: .*no file of weights.*\.log:") as raised:
        run_jobs(RunStore(tmp_path), [job], log=lambda line: None)
    assert "no-weights" in str(raised.value)


def test_a_missing_model_is_refused_before_any_job_starts(params, tmp_path):
    job = Job("lost", params.evaluation(), params.training(model=str(tmp_path / "no-such-model")), "mini")
    with pytest.raises(ConfigError, match="no-such-model': there is no such folder"):
        run_jobs(RunStore(tmp_path), [job], log=lambda line: None)


def test_a_worker_that_is_killed_between_two_jobs_or_in_one_is_noticed(finished, params, tmp_path, monkeypatch):
    """After kill -9 the run fails instead of waiting forever."""
    started = Worker.start

    def start(worker, *arguments):
        started(worker, *arguments)
        for process in children():
            os.kill(process, signal.SIGKILL)
        return worker

    monkeypatch.setattr(Worker, "start", start)
    job = Job("cut", params.evaluation(), params.training(seed=5))
    with pytest.raises(RunFailed, match=r"cut failed \(.* exit codes of the workers are {SIGKILL\(-9\)}"):
        run_jobs(RunStore(tmp_path), [job], log=lambda line: None)


SCRIPT = """
import sys
from pathlib import Path
from tampo.config import load_params
from tampo.runs.jobs import Job, run_jobs
from tampo.runs.store import RunStore
print("main is imported", flush=True)
params = load_params("smoke", {"benchmarks": "gcd", "eval_problems": 1, "eval_samples": 2})
run_jobs(RunStore(Path(sys.argv[1])), [Job("base", params.evaluation())], workers=1)
"""


def test_a_script_without_a_guard_can_run_jobs_and_leaves_no_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "runs")]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("main is imported") == 1
    assert re.search(r"\] base: done \(1 of 1\)", done.stdout)
    assert working_in(tmp_path) == []


def test_workers_have_one_thread_are_reused_and_replaced(tmp_path):
    """What a job does is a launcher here: it prints its parent, the worker, and fails."""
    code = "import os; print('worker', os.getppid(), os.environ['OMP_NUM_THREADS'], os.environ['PYTHONSAFEPATH'])"
    launch = [sys.executable, "-c", f"{code}; raise SystemExit(7)"]
    order = {"launch": launch, "training": None, "evaluation": {"eval_engine": "transformers"}}
    workers, seen = Workers(tmp_path, 1), []
    try:
        for name, engine in [("a", "transformers"), ("b", "vllm"), ("c", "transformers")]:
            order["evaluation"]["eval_engine"] = engine
            task = Task(name, json.dumps(order), 1)
            (worker,) = workers.submit(iter([task]))
            assert workers.submit(iter([task])) == [], "it is busy"
            while worker.state() == "running":
                time.sleep(0.05)
            assert re.fullmatch(r"RunFailed: .* ended with exit status 7\.", worker.error())
            seen += re.findall(r"worker (\d+) (1) (1)", worker.log.read_text())
        os.kill(int(seen[-1][0]), signal.SIGKILL)
        time.sleep(1)
        (worker,) = workers.submit(iter([Task("d", json.dumps(order), 1)]))
        while worker.state() == "running":
            time.sleep(0.05)
        seen += re.findall(r"worker (\d+) (1) (1)", worker.log.read_text())
    finally:
        workers.stop()
    pids = [int(pid) for pid, *_ in seen]
    assert pids[0] == pids[1] != pids[2] != pids[3], "a new one after a vLLM engine, and in place of one that died"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
