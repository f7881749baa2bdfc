"""Reports of a training run: trackers, the model card, the hub."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from tampo.config import ConfigError, load_params
from tampo.runs.pipeline import train, training_identity
from tampo.runs.store import RunStore
from tests.helpers import SMALL_RUN
from tests.trainer.helpers import make_trainer


def blocks(card):
    """The YAML of each section of a card, by heading."""
    found = re.findall(r"## ([\w ]+)\n\n[^\n]+\n\n```yaml\n(.*?)```", card.content, re.DOTALL)
    return {heading: yaml.safe_load(text) for heading, text in found}


def test_a_training_reports_to_tensorboard_and_has_a_card(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    params = load_params("smoke", SMALL_RUN | {"report_to": "tensorboard", "temperature_controller": "staged"})
    record = train(RunStore(tmp_path), params.training())
    events = EventAccumulator(str(tmp_path / f"{record.name}.tensorboard"))
    events.Reload()
    shown = [event.value for event in events.Scalars("train/temperature")]
    assert shown == pytest.approx([0.9, 1.2, 1.5])
    assert "train/reward" in events.Tags()["scalars"]
    assert not any("tensorboard" in name or "events" in name for name in record.manifest["files"])

    card = ModelCard.load(record.folder / "model" / "README.md")
    assert {"tampo", "grpo", "trl"} <= set(card.data.tags)
    assert card.data.tags == sorted(card.data.tags)
    assert "trained with TAMPO" in card.content
    assert "2602.11779" in card.content
    assert "None" not in card.content.replace('model="None"', "")
    sections = blocks(card)
    assert sections["Sampling temperature"]["stages"] == [0.9, 1.2, 1.5]
    assert sections["Parameters"] == training_identity(params.training())
    assert sections["Provenance"]["versions"] == record.manifest["versions"]


def test_trackers_do_not_change_what_a_training_is_known_by():
    params = load_params("smoke", {"report_to": "tensorboard,wandb"})
    assert params.report_to == ("tensorboard", "wandb")
    assert params.training().identity() == load_params("smoke").training().identity()


def test_a_tracker_that_is_unknown_or_not_installed_is_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="report_to.*'tensorboard', 'trackio' or 'wandb'"):
        load_params("smoke", {"report_to": "comet"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    params = load_params("smoke", SMALL_RUN | {"report_to": "wandb"})
    with pytest.raises(ConfigError, match=r"report_to wandb needs a package .*pip install 'tampo\[tracking\]'"):
        train(RunStore(tmp_path), params.training())


def test_push_to_hub_uploads_model_and_card(tiny_model_path, prompts, tmp_path, monkeypatch):
    """As TRL does it; only the hub itself is replaced."""
    sent = {}

    class Hub:
        def create_repo(self, repo_id, **others):
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, repo_id, folder_path, **others):
            sent.update(repo=repo_id, files={path.name for path in folder_path.iterdir()})
            sent["card"] = ModelCard.load(folder_path / "README.md")

    from pathlib import Path

    hub = Hub()
    real = hub.upload_folder
    monkeypatch.setattr(
        hub, "upload_folder", lambda **given: real(**(given | {"folder_path": Path(given["folder_path"])}))
    )
    monkeypatch.setattr("transformers.trainer.hf_api", lambda *a, **k: hub)
    monkeypatch.setattr("transformers.trainer.create_repo", hub.create_repo, raising=False)
    trainer = make_trainer(tiny_model_path, prompts, tmp_path / "out", hub_model_id="someone/tampo-test", max_steps=1)
    trainer.train()
    trainer.push_to_hub()
    assert sent["repo"] == "someone/tampo-test"
    assert {"model.safetensors", "README.md"} <= sent["files"]
    assert "Sampling temperature" in sent["card"].content
    assert blocks(sent["card"])["Sampling temperature"]["alpha"] == 0.05


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'tampo[tracking]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    record = train(RunStore(tmp_path / "runs"), load_params("smoke", SMALL_RUN | {"report_to": "wandb"}).training())
    assert list(tmp_path.rglob("*.wandb"))
    assert len(record.metrics()) == 3


def test_trackio(tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'tampo[tracking]'")
    from trackio.sqlite_storage import SQLiteStorage

    record = train(RunStore(tmp_path), load_params("smoke", SMALL_RUN | {"report_to": "trackio"}).training())
    assert record.name in SQLiteStorage.get_runs("tampo")
    SQLiteStorage.delete_run("tampo", record.name)
