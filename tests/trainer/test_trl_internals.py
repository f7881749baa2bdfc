"""Likelihoods from the tiles of TRL's fused head, against whole logits: on TRL's CPU path and on its GPU path."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM
from trl.trainer import utils as trl_utils

from tampo.trainer.trl_internals import FusedHeads, LogitRecorder, check_tiles, chunked_logprob, tapped_logits
from tests.conftest import choose_heads

add_fused_lm_head = getattr(trl_utils, "add_fused_lm_head", None)
pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def known_head(monkeypatch):
    choose_heads("closure", monkeypatch)  # or skip: other versions of TRL have no such head


TEMPERATURES = [0.6, 1.0, 1.5]


@pytest.fixture
def model(tiny_model_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    add_fused_lm_head(model, temperature=0.8, outputs=("log_probs", "entropy"))
    return model


@pytest.fixture
def batch():
    """(input_ids, attention_mask, C): prompts padded on the left, completions on the right."""
    ids = torch.randint(2, 21, (5, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, (left, right) in enumerate([(0, 0), (3, 2), (4, 7), (1, 5), (0, 6)]):
        mask[row, :left] = 0
        mask[row, 12 - right :] = 0
    return ids, mask, 7


def record(model, batch, temperatures=TEMPERATURES, rows=5, entropies=False):
    """(log-probabilities at the head's temperature, recorded ones), scored `rows` rows at a time, as TRL does."""
    ids, mask, length = batch
    recorder, scored = LogitRecorder(mask, length, temperatures, entropies), []
    with tapped_logits(recorder):
        for i, m in zip(ids.split(rows), mask.split(rows), strict=True):
            labels = i.masked_fill(m == 0, -100)
            labels[:, :-length] = -100
            scored.append(model(input_ids=i, attention_mask=m, labels=labels, fused_lm_head=True).log_probs)
    return torch.cat(scored)[:, -length:], recorder.log_probs()


@torch.no_grad()
def expected(model, batch, temperatures=TEMPERATURES):
    ids, mask, length = batch
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1].double()
    parts = [torch.log_softmax(logits / t, -1).gather(-1, ids[:, -length:, None])[..., 0] for t in temperatures]
    return torch.stack(parts, dim=-1) * mask[:, -length:, None]


@pytest.fixture(params=["CPU", "GPU"])
def trl_path(request, monkeypatch):
    """TRL's path without Triton, and the one with it: completions alone, and kernels instead of torch."""
    if request.param == "GPU":
        pytest.importorskip("triton", reason="Triton is not installed")
        if torch.cuda.is_available():
            pytest.skip("the interpreter is for machines without a GPU")
        monkeypatch.setattr(trl_utils, "_use_triton", lambda device: True)
        monkeypatch.setattr(chunked_logprob, "_use_triton", lambda device: True)
        monkeypatch.setattr("tampo.likelihood._use_kernel", lambda device: True)
    return request.param


@pytest.mark.parametrize("rows", [5, 2])
@pytest.mark.parametrize(("vocabulary_tile", "token_tile"), [(32768, 4096), (8, 4096), (8, 3)])
def test_recorded_equals_whole_logits(model, batch, trl_path, monkeypatch, vocabulary_tile, token_tile, rows):
    """However TRL cuts tokens, vocabulary and rows."""
    monkeypatch.setattr(trl_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", vocabulary_tile)
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", token_tile)
    at_head, recorded = record(model, batch, rows=rows)
    torch.testing.assert_close(recorded.double(), expected(model, batch), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(at_head.double(), expected(model, batch, [0.8])[..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocabulary_tile", [32768, 8])
def test_recorded_entropies_are_behind_the_log_probs(model, batch, trl_path, monkeypatch, vocabulary_tile):
    monkeypatch.setattr(trl_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", vocabulary_tile)
    ids, mask, length = batch
    recorded = record(model, batch, rows=2, entropies=True)[1]
    assert torch.equal(recorded[..., :3], record(model, batch, rows=2)[1])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1].double()
    whole = [torch.distributions.Categorical(logits=logits / t).entropy() for t in TEMPERATURES]
    whole = torch.stack(whole, dim=-1) * mask[:, -length:, None]
    torch.testing.assert_close(recorded[..., 3:].double(), whole, rtol=1e-5, atol=1e-5)
    mask[:] = 0
    nothing = record(model, (ids, mask, length), entropies=True)[1]
    assert nothing.shape == (5, length, 6)
    assert not nothing.any()


def test_softcap_and_scale_are_those_of_the_model(batch, trl_path):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=2.0, attn_implementation="eager",
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 2.0)  # logits that the soft-cap bends
    whole = expected(model, batch)
    add_fused_lm_head(model, temperature=1.0)
    torch.testing.assert_close(record(model, batch)[1].double(), whole, rtol=1e-5, atol=1e-5)
    scaled = Gemma2ForCausalLM(config).eval()
    scaled.load_state_dict(model.state_dict())
    scaled.config.logit_scale = 0.5  # TRL reads it; Gemma's forward does not
    scaled.config.final_logit_softcapping = None
    halved = expected(scaled, batch, [2 * t for t in TEMPERATURES])
    add_fused_lm_head(scaled, temperature=1.0)
    torch.testing.assert_close(record(scaled, batch)[1].double(), halved, rtol=1e-5, atol=1e-5)


def test_loss_and_gradient_are_unchanged(model, batch):
    """The tap changes no bit of what TRL computes."""
    ids, mask, length = batch
    labels = ids.masked_fill(mask == 0, -100)

    def gradient():
        model.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs.sum().backward()
        return model.lm_head.weight.grad.clone()

    plain = gradient()
    with tapped_logits(LogitRecorder(mask, length, TEMPERATURES)):
        assert torch.equal(gradient(), plain)


def test_rows_without_a_token(model, batch, trl_path):
    ids, mask, length = batch
    mask[2:] = 0
    recorded = record(model, (ids, mask, length))[1]
    assert (recorded[2:] == 0).all()
    torch.testing.assert_close(recorded[:2].double(), expected(model, batch)[:2], rtol=1e-5, atol=1e-5)
    mask[:] = 0
    assert (record(model, (ids, mask, length))[1] == 0).all()


def test_trl_is_left_as_it_was(model, batch):
    before = chunked_logprob._forward_tile, chunked_logprob._forward_kernel

    def broken(*args):
        raise KeyError("stop")

    with pytest.raises(KeyError), tapped_logits(broken):
        assert chunked_logprob._forward_tile is not before[0]
        ids, mask, _ = batch
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    assert (chunked_logprob._forward_tile, chunked_logprob._forward_kernel) == before


def test_unknown_versions_of_trl_are_refused(tiny_model_path, monkeypatch):
    check_tiles()
    with pytest.raises(RuntimeError, match="does not keep the temperature of its fused LM head .*1.16.0"):
        FusedHeads([AutoModelForCausalLM.from_pretrained(tiny_model_path)])
    monkeypatch.setattr(chunked_logprob, "_forward_tile", lambda tile, targets: None)
    with pytest.raises(RuntimeError, match="does not accumulate the tiles .*1.16.0"), tapped_logits(print):
        pass
    monkeypatch.delattr(chunked_logprob, "_forward_tile")
    with pytest.raises(RuntimeError, match="does not accumulate the tiles"):
        check_tiles()
