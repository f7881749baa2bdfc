"""Weights along training: kept, evaluated, and the same ones after an interruption."""

import os
import signal

import pytest
from safetensors.torch import load_file

from tampo.config import ConfigError, load_params
from tampo.files import checksums
from tampo.paper.experiments import TABLE1, experiment_jobs
from tampo.paper.results import evaluate_along
from tampo.runs import pipeline
from tampo.runs.interrupts import Interrupted
from tampo.runs.pipeline import evaluate, train
from tampo.runs.store import RunStore
from tests.helpers import SMALL_RUN

SETTINGS = SMALL_RUN | {"keep_steps": 2, "max_steps": 5, "eval_problems": 2, "eval_samples": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def training(store):
    return train(store, load_params("smoke", SETTINGS).training())


def weights(record, place):
    return load_file(record.folder / place / "model.safetensors")


def test_the_weights_of_every_second_step_are_kept(training, store):
    assert sorted(path.name for path in (training.folder / "kept").iterdir()) == ["2", "4"]
    assert not list(training.folder.rglob("training_args.bin"))
    plain = train(store, load_params("smoke", SETTINGS | {"keep_steps": None}).training())
    same = {name: digest for name, digest in checksums(training.folder).items() if not name.startswith("kept/")}
    theirs = checksums(plain.folder)
    for name in ("metrics.csv", "model/model.safetensors"):
        assert same[name] == theirs[name], "keeping weights changes nothing of the run"
    first, last = (weights(training, place) for place in ("kept/2", "model"))
    assert any((first[name] != last[name]).any() for name in first)


def test_a_kept_step_is_that_of_a_run_that_is_interrupted_and_resumed(training, tmp_path, monkeypatch):
    """Stopped after step 3, so that step 2 is kept before, and step 4 after."""
    config, again = load_params("smoke", SETTINGS).training(), RunStore(tmp_path)
    log_step = pipeline._log_step

    def stop(folder, row):
        log_step(folder, row)
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipeline, "_log_step", stop)
    with pytest.raises(Interrupted):
        train(again, config)
    monkeypatch.setattr(pipeline, "_log_step", log_step)
    resumed = train(again, config)
    for step in (2, 4):
        assert (resumed.folder / f"kept/{step}/model.safetensors").read_bytes() == (
            training.folder / f"kept/{step}/model.safetensors"
        ).read_bytes()


def test_an_evaluation_is_of_the_weights_of_its_step(training, store):
    params = load_params("smoke", SETTINGS)
    at_two = evaluate(store, params.evaluation(eval_step=2), params.model, params.training())
    last = evaluate(store, params.evaluation(), params.model, params.training())
    copied = params.training(model=str(training.folder / "kept" / "2"))
    alone = evaluate(store, params.evaluation(), copied.model)
    assert at_two.samples()["completion"].tolist() == alone.samples()["completion"].tolist()
    assert at_two.name != last.name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eval_step": 3}, "has no weights of this step; it keeps those of 2, 4"),
        ({"eval_step": 6}, "has no weights of this step; it keeps those of 2, 4"),
        ({"eval_step": 2, "keep_steps": None}, "it keeps none. Give keep_steps"),
    ],
)
def test_weights_that_are_not_kept_are_refused_before_the_training(settings, said, tmp_path):
    params, store = load_params("smoke", SETTINGS | settings), RunStore(tmp_path)
    with pytest.raises(ConfigError, match=said):
        evaluate(store, params.evaluation(), params.model, params.training())
    assert not list(store.records())
    with pytest.raises(ConfigError, match="a model that is not trained here has no steps"):
        evaluate(store, params.evaluation(), params.model)


def test_the_base_model_of_a_table_has_no_step():
    jobs = experiment_jobs(load_params("smoke", SETTINGS | {"eval_step": 2}), TABLE1)
    assert {job.evaluation.eval_step for (key, _), job in jobs.items() if key != "base"} == {2}
    assert jobs["base", 0].evaluation.eval_step is None


def test_scores_along_training(monkeypatch, store, training):
    def run_here(unused, jobs, *args):
        return [
            (job.training and train(store, job.training), evaluate(store, job.evaluation, job.model, job.training))
            for job in jobs
        ]

    monkeypatch.setattr("tampo.paper.results.run_jobs", run_here)
    params = load_params("smoke", SETTINGS)
    table, records = evaluate_along(params, (TABLE1[-1],), log=lambda line: None)
    assert sorted(table["step"].unique()) == [2, 4]
    assert len(records) == 3, "one training and two evaluations"
    with pytest.raises(ConfigError, match="give keep_steps"):
        evaluate_along(load_params("smoke"), TABLE1)
