"""Trainings as they lie in a store: finished, under way, of earlier versions, damaged, foreign."""

import json

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from tampo.config import load_params
from tampo.controllers.registry import CONTROLLERS
from tampo.explore.histories import NoRollouts, find_histories, meta_policy_probabilities, read_step
from tampo.paper.experiments import TRAINED
from tampo.runs.pipeline import train, training_identity
from tampo.runs.store import LIVE_LOG, PARAMETERS, RunStore
from tests.explore.small_store import (
    CANDIDATES,
    GROUP,
    PARAMS,
    PROBLEMS,
    add_finished,
    add_running,
    identity,
    make_store,
    metrics,
    rollouts,
)

FIXED, TAMPO = TRAINED[0], TRAINED[-1]


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def test_labels_and_their_order(tmp_path):
    histories = find_histories(make_store(tmp_path).root)
    assert [history.label for history in histories] == [
        "TAMPO, seed 1, at step 3 of 6",
        "GRPO (T = 0.9), seed 0",
        "GRPO (T = 1.2), seed 0",
        "GRPO (T = 1.5), seed 0",
        "GRPO (T = 0.9 → 1.5), seed 0",
        "TAMPO, seed 0",
    ]
    assert histories[-1].candidates() == list(CANDIDATES)
    assert find_histories(tmp_path / "nowhere") == []


def test_labels_say_what_is_unusual_and_are_never_the_same(store):
    for number, changes in enumerate([{}, {}, {"alpha": 0.1}, {"model": "mini-rare"}, {"max_grad_norm": 2.0}]):
        folder = store.root / f"training-{number:016x}"
        folder.mkdir(parents=True)
        own = training_identity(PARAMS.training(seed=min(number, 1), **TAMPO.changes | changes))
        (folder / "manifest.json").write_text(json.dumps({"identity": own}))
        metrics(TAMPO).to_csv(folder / "metrics.csv", index=False)
    assert [history.label for history in find_histories(store.root)] == [
        "TAMPO, seed 0",
        "TAMPO, seed 1 (training-…0001)",
        "TAMPO, seed 1 (training-…0004)",
        "TAMPO, model mini-rare, seed 1",
        "TAMPO, α = 0.1, seed 1",
    ]


def test_a_finished_training_is_read_as_its_record_is(store):
    folder = add_finished(store, TAMPO)
    (history,) = find_histories(store.root)
    assert history.folder == folder
    pd.testing.assert_frame_equal(history.metrics(), metrics(TAMPO))
    temperature = metrics(TAMPO).set_index("step").loc[4, "temperature"]
    found = history.rollouts(4)
    assert found["completion"].tolist() == rollouts(TAMPO, 4, temperature)["completion"].tolist()
    snapshot = read_step(history, 4)
    assert snapshot.temperature == temperature
    assert snapshot.note == ""
    assert snapshot.group(PROBLEMS[1]).index.tolist() == list(range(1, GROUP + 1))
    assert snapshot.group("other").empty
    with pytest.raises(NoRollouts, match="no rollouts of step 7"):
        history.rollouts(7)


def test_probabilities_are_those_of_the_log():
    log = metrics(TAMPO)
    table = meta_policy_probabilities(log)
    assert table.index.tolist() == list(CANDIDATES)
    assert table.columns.tolist() == log["step"].tolist()
    np.testing.assert_array_equal(table.loc[1.5], log["meta_policy/p(1.5)"])
    np.testing.assert_allclose(table.sum(), 1)
    assert meta_policy_probabilities(metrics(FIXED)).empty
    exp3 = log.rename(columns=lambda name: name.replace("meta_policy", "controller"))
    pd.testing.assert_frame_equal(meta_policy_probabilities(exp3), table)


def test_a_training_under_way(store):
    """A torn line does not count yet, a half-written table is said to be one; a step taken again counts once."""
    folder = add_running(store, TAMPO)
    (history,) = find_histories(store.root)
    assert history.manifest is None
    assert history.identity == identity(TAMPO, seed=1)
    pd.testing.assert_frame_equal(history.metrics()[["step", "reward"]], metrics(TAMPO, 1)[["step", "reward"]][:3])
    assert len(history.rollouts(3)) == GROUP * len(PROBLEMS)
    with pytest.raises(NoRollouts, match="step 4 .* cannot be read: they are being written, or damaged"):
        history.rollouts(4)
    assert "not there, or not yet" in read_step(history, 5).note
    with open(folder / LIVE_LOG, "a") as file:
        file.write(
            '\n{"step": 2, "reward": 7.0}\n[]\n{"reward": 1}\n{"step": "x"}\n{"step": 0}\n{"step": 4, "reward": NaN}\n'
        )
    log = find_histories(store.root)[0].metrics()
    assert log["step"].tolist() == [1, 2, 3, 4]
    assert log["reward"][1] == 7.0


def test_a_training_under_way_whose_parameters_are_not_known(store):
    """One of an earlier version: it is called by its folder, and has the candidates of its log."""
    folder = add_running(store, TAMPO)
    (folder / PARAMETERS).unlink()
    (history,) = find_histories(store.root)
    assert history.label == f"{folder.name}, at step 3"
    assert history.candidates() == list(CANDIDATES)


def test_an_earlier_version_kept_no_rollouts(store, monkeypatch):
    folder = add_finished(store, TAMPO, with_rollouts=False)
    monkeypatch.chdir(store.root.parent)
    note = read_step(find_histories(store.root)[0], 2).note
    assert f"remove the folder runs/{folder.name} and run this notebook again" in note


def test_every_rule_has_a_title(store):
    """In the words of the tables; a rule of a later version has its name, a missing parameter a question mark."""
    for number, controller in enumerate((*CONTROLLERS, "rule-of-tomorrow")):
        folder = store.root / f"training-{number:016x}"
        folder.mkdir(parents=True)
        parameters = {"start_temperature": 0.9, "stages": [0.9, 1.5]}
        own = {"temperature_controller": controller, "temperature_controller_kwargs": parameters, "seed": 0}
        (folder / "manifest.json").write_text(json.dumps({"identity": own}))
        metrics(FIXED).to_csv(folder / "metrics.csv", index=False)
    labels = {history.label for history in find_histories(store.root)}
    assert {"Cosine (0.9 → ?), seed 0", "Staged (0.9, 1.5), seed 0", "EXP3, seed 0", "UCB, seed 0"} <= labels
    assert {"EntropyTarget (?), seed 0", "rule-of-tomorrow, seed 0"} <= labels
    assert len(labels) == len(CONTROLLERS) + 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"[]"),
        ("manifest.json", b"\xff\xfe"),
        ("manifest.json", b'{"identity": [1]}'),
        ("metrics.csv", b""),
        ("metrics.csv", b"a,b\n1,2\n"),
        ("metrics.csv", b"step,reward\n1e40,x\n"),
        ("metrics.csv", b"\x00\xff" * 99),
        ("rollouts.parquet", b"PAR1"),
        ("rollouts.parquet", b""),
    ],
)
def test_damaged_folders_do_not_hide_the_others(store, name, content):
    damaged = add_finished(store, FIXED)
    add_finished(store, TAMPO)
    (damaged / name).write_bytes(content)
    (store.root / "training-0123456789abcdef").write_text("a file")
    (store.root / "training-0123456789abcdef.damaged-1").mkdir()
    (store.root / "training-fedcba9876543210").mkdir()
    (store.root / "evaluation-0123456789abcdef").mkdir()
    histories = find_histories(store.root)
    assert "TAMPO, seed 0" in [history.label for history in histories]
    assert len(histories) <= 2
    for history in histories:
        assert len(history.metrics())
        assert read_step(history, 2).note or name != "rollouts.parquet" or history.folder != damaged


def test_rollouts_without_the_columns_of_tampo(store):
    folder = add_finished(store, FIXED)
    pd.DataFrame({"step": [1], "text": ["x"]}).to_parquet(folder / "rollouts.parquet")
    assert "no rollouts of step 1" in read_step(find_histories(store.root)[0], 1).note


def test_a_step_is_read_without_the_others(store):
    """What a training writes has a row group a step; who asks for one step has that one read."""
    params = load_params("smoke", {"prompts_per_step": 2, "per_device_train_batch_size": 8, "max_completion_length": 8})
    record = train(store, params.training(temperature_controller="fixed"))
    assert parquet.ParquetFile(record.folder / "rollouts.parquet").num_row_groups == params.max_steps
    (history,) = find_histories(store.root)
    assert history.identity == training_identity(params.training(temperature_controller="fixed"))
    assert len(history.rollouts(2)) == 16
