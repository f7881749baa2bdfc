"""Base models with a factor of their logits: exact, made once, known by the factor."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tampo.config import ConfigError, load_params
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.pipeline import evaluate
from tampo.runs.scaled_models import scaled_model
from tampo.runs.store import RunStore
from tampo.runs.training import make_trainer
from tests.helpers import changed_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAMPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def logits_of(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(input_ids=torch.tensor([[2, 5, 7, 11]])).logits


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_logits_are_scaled_and_nothing_else(tiny_model_path, cache, scale):
    folder = scaled_model(str(tiny_model_path), scale)
    torch.testing.assert_close(logits_of(folder), logits_of(tiny_model_path) * scale, rtol=1e-4, atol=1e-4)
    text = "12+3="
    assert AutoTokenizer.from_pretrained(folder)(text) == AutoTokenizer.from_pretrained(tiny_model_path)(text)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(written) == 1
    assert scaled_model(str(tiny_model_path), scale) == folder
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == written, "made once"


def test_a_factor_of_one_is_the_model_itself(tiny_model_path, cache):
    assert scaled_model(str(tiny_model_path), 1.0) == str(tiny_model_path)
    assert not cache.exists()


def test_other_weights_at_the_same_path_are_another_model(tiny_model_path, tmp_path):
    first = scaled_model(str(tiny_model_path), 0.5)
    other = changed_model(tiny_model_path, tmp_path / "other", config={"rope_theta": 77.0})
    assert scaled_model(str(other), 0.5) != first


def test_models_without_such_a_norm_are_refused(tmp_path):
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match=r"base_logit_scale 0.5: .*has no final norm with weights. Give"):
        scaled_model(str(tmp_path / "gpt2"), 0.5)


def test_a_run_trains_from_it_and_is_known_by_it(tmp_path):
    mini = load_params("smoke")
    flat = load_params("smoke", {"base_logit_scale": 0.6})
    assert training_identity(flat.training()) == training_identity(mini.training()) | {"base_logit_scale": 0.6}
    assert evaluation_identity(flat.evaluation(), "mini", None) != evaluation_identity(mini.evaluation(), "mini", None)
    plain, scaled = (make_trainer(params.training(), tmp_path / "out")[0].model for params in (mini, flat))
    torch.testing.assert_close(scaled.model.norm.weight, plain.model.norm.weight * 0.6)


def test_greedy_evaluation_and_a_flatter_base(tmp_path):
    """At temperature 0 a factor of the logits changes nothing, and all samples of a problem are the same."""
    store, found = RunStore(tmp_path / "runs"), {}
    small = {"eval_temperature": 0, "benchmarks": "gcd", "eval_samples": 3}
    for scale in (1.0, 0.6):
        params = load_params("smoke", small | {"base_logit_scale": scale})
        found[scale] = evaluate(store, params.evaluation(), "mini").samples()
    completions = found[1.0].groupby("problem_id")["completion"]
    assert (completions.nunique() == 1).all()
    assert (completions.count() == 3).all()
    assert found[1.0]["completion"].tolist() == found[0.6]["completion"].tolist()
