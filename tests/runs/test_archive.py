"""The archive of records: small, the same bytes twice, found again as records, and nothing can be added to it."""

import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from tampo.config import ConfigError
from tampo.runs.archive import pack, unpack
from tampo.runs.store import MissingRecord, RunStore

IDENTITY = {"seed": 0}


@pytest.fixture
def store(tmp_path):
    """A training run with weights and rollouts, and an evaluation with texts."""
    store = RunStore(tmp_path / "runs")

    def training(folder):
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(100_000))
        pd.DataFrame({"step": [1, 2], "reward": [0.1, 0.2]}).to_csv(folder / "metrics.csv", index=False)
        pd.DataFrame({"step": [1, 2], "step_time": [0.5, 0.6]}).to_csv(folder / "times.csv", index=False)
        pd.DataFrame({"completion": ["long text"] * 9}).to_parquet(folder / "rollouts.parquet")
        return {}

    def evaluation(folder):
        columns = {"problem_id": ["a", "b"], "correct": [True, False], "status": ["correct", "wrong"]}
        texts = dict.fromkeys(("prompt", "gold", "completion", "answer"), "secret text")
        pd.DataFrame(columns | texts).to_parquet(folder / "samples.parquet")
        return {}

    store.make("training", IDENTITY, training)
    store.make("evaluation", IDENTITY, evaluation)
    return store


def test_what_is_small_comes_back_and_weights_and_texts_do_not(store, tmp_path):
    pack(store.records(), tmp_path / "records.zip")
    assert (tmp_path / "records.zip").stat().st_size < 10_000
    unpack(tmp_path / "records.zip", tmp_path / "back")
    back = RunStore(tmp_path / "back")
    run, evaluation = back.load("training", IDENTITY), back.load("evaluation", IDENTITY)
    assert run.metrics().equals(store.load("training", IDENTITY).metrics())
    assert run.times()["step_time"].tolist() == [0.5, 0.6]
    assert not (run.folder / "model").exists()
    assert not (run.folder / "rollouts.parquet").exists()
    assert evaluation.samples().columns.tolist() == ["problem_id", "correct", "status"]
    assert run.manifest["files"] == store.load("training", IDENTITY).manifest["files"], "of the originals"


def test_the_same_records_give_the_same_bytes(store, tmp_path):
    for name in ("one", "two"):
        pack(reversed(list(store.records())), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_nothing_can_be_added(store, tmp_path):
    pack(store.records(), tmp_path / "records.zip")
    unpack(tmp_path / "records.zip", tmp_path / "back")
    back = RunStore(tmp_path / "back")
    assert back.make("training", IDENTITY, lambda folder: pytest.fail("it is there")).name.startswith("training-")
    with pytest.raises(MissingRecord, match="has no record training-.*nothing is made"):
        back.make("training", {"seed": 1}, lambda folder: {})


def test_a_changed_file_in_the_archive_is_not_served(store, tmp_path):
    pack(store.records(), tmp_path / "records.zip")
    unpack(tmp_path / "records.zip", tmp_path / "back")
    back = RunStore(tmp_path / "back")
    metrics = back.folder("training", IDENTITY) / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.2", "0.9"))
    assert back.load("training", IDENTITY) is None


def test_a_damaged_archive_is_named(tmp_path):
    with pytest.raises(ConfigError, match="Cannot read the records in .*records.zip"):
        unpack(tmp_path / "records.zip", tmp_path / "back")
    (tmp_path / "records.zip").write_text("no zip")
    with pytest.raises(ConfigError, match="Cannot read the records in .*records.zip"):
        unpack(tmp_path / "records.zip", tmp_path / "back")


def test_names_that_leave_the_folder_stay_in_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "records.zip", "w") as file:
        file.writestr("../outside.json", json.dumps({}))
    unpack(tmp_path / "records.zip", tmp_path / "back" / "deep")
    assert not (tmp_path / "back" / "outside.json").exists()
