"""The temperature by scaling hidden states: against whole logits, and against the closure of TRL's fused head."""

import logging

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from tampo import TAMPOConfig, TAMPOTrainer
from tampo.trainer.scaled_head import ScaledHeads
from tampo.trainer.trl_internals import FusedHeads
from tests.conftest import choose_heads
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS, make_trainer, rectangle

pytestmark = pytest.mark.contract

BATCH = rectangle([(3, 4), (2, 7), (5, 1), (4, 0), (1, 6)])  # input_ids, attention_mask, C


@pytest.fixture
def scaled(monkeypatch):
    choose_heads("hidden states", monkeypatch)


def expected_log_probs(model, temperatures):
    """(b, C, K), by log_softmax of the whole logits; with gradients."""
    ids, mask, length = BATCH
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]
    parts = [torch.log_softmax(logits / t, -1).gather(-1, ids[:, -length:, None])[..., 0] for t in temperatures]
    return torch.stack(parts, dim=-1) * mask[:, -length:, None]


def log_probs_of(trainer, model, **options):
    ids, mask, length = BATCH
    log_probs = trainer._get_per_token_logps_and_entropies(model, ids, mask, length, **options)[0]
    return log_probs * mask[:, -length:]


def record_next_pass(trainer):
    """Have the next pass record likelihoods, as in `train`, which makes the controller."""
    trainer.controller = trainer.args.configure_controller()
    trainer._record_next_pass = True


@pytest.mark.parametrize("built_at", [0.7, 1.0])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}], ids=["at once", "in parts"])
def test_values_and_gradients(scaled, tiny_model_path, prompts, tmp_path, built_at, temperature, options):
    """Policy and reference, whatever temperature the trainer was built at; likelihoods do not depend on either."""
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, temperature=built_at, beta=0.1)
    assert isinstance(trainer._heads, ScaledHeads)
    trainer.set_temperature(temperature)
    for model in (trainer.model, trainer.ref_model):
        model.requires_grad_(True).zero_grad()
        if model is trainer.model:
            record_next_pass(trainer)
        found = log_probs_of(trainer, model, **options)
        assert trainer.temperature == temperature
        expected = expected_log_probs(model, [temperature])[..., 0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        weights = dict(model.named_parameters())
        gradients = [torch.autograd.grad(x.sum(), weights.values(), retain_graph=True) for x in (found, expected)]
        for name, mine, theirs in zip(weights, *gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)
    recorded = expected_log_probs(trainer.model, trainer.args.temperature_candidates)
    torch.testing.assert_close(trainer._recorded[0], recorded.detach(), rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was(scaled, tiny_model_path, prompts, tmp_path):
    """Hidden states are scaled in log-prob computation only; generation divides by its temperature itself."""
    trainer = make_trainer(tiny_model_path, prompts, tmp_path)
    ids, mask, _ = BATCH
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)(ids, mask).logits
    trainer.set_temperature(1.5)
    log_probs_of(trainer, trainer.model)
    assert torch.equal(trainer.model(ids, mask).logits, plain)
    with pytest.raises(TypeError):
        log_probs_of(trainer, trainer.model, nonsense=1)
    assert torch.equal(trainer.model(ids, mask).logits, plain)
    assert trainer.temperature == 1.5


def test_training_equals_that_with_the_closure(tiny_model_path, prompts, tmp_path):
    def run(way):
        with pytest.MonkeyPatch.context() as patch:
            choose_heads(way, patch)
            settings = {"meta_warmup_ratio": 0, "meta_top_p": 1, "max_steps": 6, "beta": 0.1}
            trainer = make_trainer(tiny_model_path, prompts, tmp_path / way, **settings)
        trainer.train()
        return trainer

    closure, scaled = run("closure"), run("hidden states")
    assert isinstance(closure._heads, FusedHeads)
    temperatures = [[row["temperature"] for row in t.state.log_history if "loss" in row] for t in (closure, scaled)]
    assert temperatures[0] == temperatures[1]
    assert len(set(temperatures[0])) > 1
    likelihoods = [torch.tensor(t.rollout_batch.log_likelihoods) for t in (closure, scaled)]
    torch.testing.assert_close(*likelihoods, rtol=0, atol=1e-2)
    for name, weight in closure.model.state_dict().items():
        torch.testing.assert_close(scaled.model.state_dict()[name], weight, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["never", "twice"])
def test_a_version_that_uses_another_temperature_is_refused(scaled, tiny_model_path, prompts, tmp_path, scale):
    """As if TRL did not see the scaled hidden states, or divided by the current temperature, 1/2, itself."""
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, temperature=1.0)
    trainer.set_temperature(0.5)
    hooks = trainer._heads._hooks

    def other(model, output, read_and_scale):
        states = output.last_hidden_state
        read_and_scale(model, output)
        output.last_hidden_state = states * scale
        return output

    trainer._heads._hooks = lambda hook: hooks(lambda model, output: other(model, output, hook))
    record_next_pass(trainer)
    with pytest.raises(RuntimeError, match=r"does not compute log-probs at the current temperature.*1\.16\.0"):
        log_probs_of(trainer, trainer.model)


SMALL = {
    "vocab_size": 21, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip


def with_bias(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.lm_head = nn.Linear(32, 21, bias=True)
    return model


OTHER_HEADS = {
    "final_logit_softcapping": lambda path: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=16)),
    "logits_scaling": lambda path: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
    "not a linear map without bias": with_bias,
}


@pytest.mark.parametrize("name", OTHER_HEADS)
def test_other_heads_are_refused_by_name(scaled, tiny_model_path, prompts, tmp_path, name):
    config = {name: value for name, value in SETTINGS.items() if name != "model_init_kwargs"}
    with pytest.raises(RuntimeError, match=rf"tampo does not support .*{name}.*Install a version of TRL .*1\.16\.0"):
        TAMPOTrainer(
            OTHER_HEADS[name](tiny_model_path),
            digit_reward,
            TAMPOConfig(str(tmp_path), **config),
            prompts,
            processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
        )


def test_a_head_that_is_split_is_refused(scaled, tiny_model_path, prompts, tmp_path):
    trainer = make_trainer(tiny_model_path, prompts, tmp_path)
    trainer.model.lm_head.weight.data = torch.empty(0)  # as ZeRO-3 leaves it between passes
    record_next_pass(trainer)
    with pytest.raises(RuntimeError, match=r"split over processes .*Install a version of TRL .*1\.16\.0"):
        log_probs_of(trainer, trainer.model)


def test_ligers_loss_is_refused(scaled, tiny_model_path, prompts, tmp_path):
    """Before TRL 1.14 it goes round TRL's log-probabilities."""
    trainer = make_trainer(tiny_model_path, prompts, tmp_path)
    trainer.args.use_liger_kernel = True
    with pytest.raises(RuntimeError, match="does not support use_liger_kernel"):
        trainer._find_heads()


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("closure", "closure of TRL's fused head; cost: no further pass"),
        ("hidden states", "scaling hidden states; cost: one more product with the LM head"),
    ],
)
def test_the_log_names_the_way_and_its_cost(tiny_model_path, prompts, tmp_path, monkeypatch, caplog, way, line):
    choose_heads(way, monkeypatch)
    with caplog.at_level(logging.INFO, "tampo"):
        make_trainer(tiny_model_path, prompts, tmp_path)
    assert [record.getMessage() for record in caplog.records if line in record.getMessage()]
