"""A model on the hub is loaded at the commit that its record is known by, by every engine."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from transformers import AutoConfig

from tampo.config import ConfigError, load_params
from tampo.files import sha256
from tampo.inference import evaluate as evaluation_module
from tampo.inference.transformers_engine import TransformersEngine
from tampo.runs.pipeline import evaluate
from tampo.runs.plan import count_parameters, model_config
from tampo.runs.store import RunStore
from tampo.runs.training_data import model_folder
from tampo.tasks.hub import hub_commit
from tampo.tasks.mini_model import mini_model_path
from tests.helpers import SMALL_RUN

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
SMALL = SMALL_RUN | {"eval_problems": 2, "eval_samples": 2, "eval_max_completion_length": 8, "benchmarks": ["gcd"]}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The mini models on a hub: org/model, its tag v1 and its newest commit; and what was downloaded."""
    commits, downloads = {None: OTHER, "v1": COMMIT}, []
    content = {COMMIT: mini_model_path("mini"), OTHER: mini_model_path("mini-rare")}

    def repo_info(self, repository, repo_type, revision, timeout):
        return huggingface_hub.ModelInfo(id=repository, sha=commits[revision])

    def snapshot_download(repository, revision, **options):
        downloads.append((repository, revision))
        if revision not in content:
            raise ValueError(f"404: no commit {revision}")
        return str(shutil.copytree(content[revision], tmp_path / "hub" / revision, dirs_exist_ok=True))

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub_commit.cache_clear()
    yield downloads
    hub_commit.cache_clear()


def test_the_folder_is_that_of_the_commit(hub, tmp_path):
    assert model_folder("org/model") == str(tmp_path / "hub" / OTHER)
    assert model_folder("org/model", "v1") == model_folder("org/model", COMMIT) == str(tmp_path / "hub" / COMMIT)
    assert hub == [("org/model", OTHER), ("org/model", COMMIT), ("org/model", COMMIT)]


def test_what_is_not_on_the_hub_is_not_downloaded(hub, tmp_path):
    assert model_folder("mini", "v1") == str(mini_model_path("mini"))
    assert model_folder(str(tmp_path), "v1") == str(tmp_path)
    assert not hub


def test_a_commit_of_another_model_is_named(hub):
    """As with the revision of a scale and another model on the command line."""
    message = "model 'org/model', model_revision 'aaa.*: commit aaa.* cannot be loaded .*404.*null: its newest"
    with pytest.raises(ConfigError, match=message):
        model_folder("org/model", "a" * 40)


def test_an_adapter_on_the_hub_is_refused(hub, tmp_path):
    folder = tmp_path / "hub" / COMMIT
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    assert model_folder("org/model", "v1") == str(folder), "a whole model, with an adapter beside it"

    def adapter_alone(repository, revision, **options):
        (folder / "config.json").unlink(missing_ok=True)
        return str(folder)

    huggingface_hub.snapshot_download = adapter_alone  # the fixture's patch is undone after the test
    with pytest.raises(ConfigError, match="model 'org/model' is an adapter on the hub. Download it into a folder"):
        model_folder("org/model", "v1")


def test_a_run_loads_what_it_is_known_by(hub, tmp_path):
    """The same weights come out as from the folder of that commit; the card names the model on the hub."""
    named = load_params("smoke", SMALL | {"model": "org/model", "model_revision": "v1"})
    shipped = load_params("smoke", SMALL)
    records = []
    for params in (named, shipped):
        store = RunStore(tmp_path / params.model.replace("/", "-"))
        evaluate(store, params.evaluation(), params.model, params.training())
        records.append({path.name.partition("-")[0]: path for path in store.root.iterdir() if path.is_dir()})
    one, other = (record["training"] for record in records)
    for name in ("model/model.safetensors", "metrics.csv"):
        assert sha256(one / name) == sha256(other / name), name
    assert set(hub) == {("org/model", COMMIT)}
    card = ModelCard.load(one / "model" / "README.md")
    assert card.data.base_model == "org/model"
    assert "fine-tuned version of [org/model](https://huggingface.co/org/model)" in card.content
    assert f"model_content: commit {COMMIT}" in card.content
    manifest = json.loads((one / "manifest.json").read_text())
    assert manifest["identity"]["model_content"] == f"commit {COMMIT}"
    assert ModelCard.load(other / "model" / "README.md").data.base_model != "org/model"


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_every_engine_of_an_evaluation_gets_the_folder(hub, tmp_path, monkeypatch, engine):
    given, real = [], evaluation_module.make_engine

    def make_engine(name, model, batch, **options):
        given.append((name, model, options))
        return real("transformers", model, batch, dtype=options["dtype"])

    monkeypatch.setattr(evaluation_module, "make_engine", make_engine)
    params = load_params("smoke", SMALL | {"model": "org/model", "eval_engine": engine, "model_revision": "v1"})
    evaluate(RunStore(tmp_path / "runs"), params.evaluation(), params.model)
    device = {"device": "cpu"} if engine == "transformers" else {}
    limit = {"max_model_len": given[0][2].get("max_model_len")} if engine == "vllm" else {}
    assert given == [(engine, str(tmp_path / "hub" / COMMIT), {"dtype": "float32"} | device | limit)]


@pytest.mark.parametrize(("model", "named"), [("org/model", "org/model"), ("mini", str(mini_model_path("mini")))])
def test_a_server_is_asked_for_the_name_it_was_started_with(hub, tmp_path, monkeypatch, model, named):
    given = []

    def make_engine(name, model, batch, server, dtype):
        given.append((name, model, server))
        return TransformersEngine(str(mini_model_path("mini")), batch)

    monkeypatch.setattr(evaluation_module, "make_engine", make_engine)
    params = load_params("smoke", SMALL | {"model": model, "eval_engine": "vllm-server"})
    evaluate(RunStore(tmp_path / "runs"), params.evaluation(), params.model)
    assert given == [("vllm-server", named, "http://127.0.0.1:8000")]
    assert not hub


def test_a_plan_reads_the_configuration_alone(hub, monkeypatch):
    asked = []

    def from_pretrained(model, revision):
        asked.append((model, revision))
        return config

    config = AutoConfig.from_pretrained(mini_model_path("mini"))
    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    assert count_parameters(model_config("org/model", COMMIT)) == count_parameters(config)
    model_config("org/model")
    model_config("mini", "v1")
    assert asked == [("org/model", COMMIT), ("org/model", "main"), (Path(mini_model_path("mini")), "v1")]
    assert not hub
