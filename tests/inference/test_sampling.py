"""Completions of the decoding loop against the model's logits: distribution, cache, ends, batches."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tampo.inference.sampling import draw_tokens, sample_completions, sample_with_log_probs
from tests.helpers import sampling_p_value

PROMPTS = ["3+4=", "7=", "12+34=46 1+1=", "5+5="]


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ids(tiny_model_path):
    return AutoTokenizer.from_pretrained(tiny_model_path)(PROMPTS)["input_ids"]


def draw(model, prompts, seed=0, temperature=1.0, max_tokens=12, ends=(1,)):
    uniforms = torch.rand(len(prompts), max_tokens, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    return sample_completions(model, prompts, temperature, max_tokens, ends, uniforms)


@torch.no_grad()
def step_logits(model, prompt, completion):
    """Logits that each token of a completion was drawn from, by one pass without cache or padding."""
    logits = model(torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_every_token_follows_the_tempered_softmax_of_its_own_context(model, ids, temperature):
    """Cumulative probabilities of the drawn tokens are uniform, whatever rows were dropped around them.

    A uniform number picks a value within the token's probability mass (the randomised probability transform).
    """
    uniform = np.random.default_rng(0)
    values = []
    for prompt, completion in zip(ids * 150, draw(model, ids * 150, temperature=temperature), strict=True):
        probabilities = torch.softmax(step_logits(model, prompt, completion).double() / temperature, -1)
        cumulative = probabilities.cumsum(-1)
        for row, (token, end) in enumerate(zip(completion, cumulative, strict=True)):
            values.append((end[token] - probabilities[row, token] * uniform.random()).item())
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert len(values) > 1500
    assert sampling_p_value(counts, np.full(20, 1 / 20)) > 1e-3


def test_the_test_above_would_notice_another_temperature(model, ids):
    values = []
    for prompt, completion in zip(ids * 150, draw(model, ids * 150, temperature=1.1), strict=True):
        probabilities = torch.softmax(step_logits(model, prompt, completion).double(), -1)
        for row, token in enumerate(completion):
            values.append((probabilities[row].cumsum(-1)[token] - probabilities[row, token] * 0.5).item())
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert sampling_p_value(counts, np.full(20, 1 / 20)) < 1e-3


def test_greedy_limit_equals_generate(model, ids):
    """Close to T = 0 each token is the likeliest one: what `model.generate` finds, prompt by prompt."""
    ours = draw(model, ids * 2, temperature=1e-4, max_tokens=20)
    for prompt, completion in zip(ids * 2, ours, strict=True):
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20, eos_token_id=1)
        assert completion == expected[0, len(prompt) :].tolist()


def test_completions_end_at_an_end_or_at_the_limit(model, ids):
    completions = draw(model, ids * 100, max_tokens=9, ends=(1, 5))
    assert all(1 <= len(completion) <= 9 for completion in completions)
    for completion in completions:
        assert not {1, 5} & set(completion[:-1])
        assert len(completion) == 9 or completion[-1] in (1, 5)
    assert len({len(completion) for completion in completions}) > 4


def test_order_and_repeats_are_kept(model, ids):
    """Prompts that repeat share a first pass, next to each other or not, and keep their order."""
    mixed = [ids[0], ids[2], ids[0], ids[1], ids[2]]
    completions = draw(model, mixed, temperature=1e-4)
    assert completions[0] == completions[2]
    assert completions[1] == completions[4]
    assert completions[3] == draw(model, [ids[1]], temperature=1e-4)[0]


def test_uniform_numbers_decide(model, ids):
    """A completion depends on its row of them only, not on the batch."""
    uniforms = torch.rand(40, 12, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    together = sample_completions(model, ids * 10, 1.0, 12, [1], uniforms)
    for start, end in ((0, 7), (7, 8), (8, 40)):
        assert (
            sample_completions(model, (ids * 10)[start:end], 1.0, 12, [1], uniforms[start:end]) == together[start:end]
        )
    assert draw(model, ids, seed=3) == draw(model, ids, seed=3)
    assert draw(model, ids, seed=3) != draw(model, ids, seed=4)
    torch.manual_seed(7)
    from_torch = sample_completions(model, ids, 1.0, 8, [1])
    torch.manual_seed(7)
    assert sample_completions(model, ids, 1.0, 8, [1]) == from_torch


def test_sliding_windows_are_respected(ids):
    """Layers that look back a few tokens only, as in Mistral and Gemma: their caches are cut and reordered too."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=21, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=True, sliding_window=4, max_window_layers=1, eos_token_id=1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.5)
    for prompt, completion in zip(ids * 2, draw(model, ids * 2, temperature=1e-4, max_tokens=16), strict=True):
        assert completion == step_logits(model, prompt, completion).argmax(-1).tolist()


@pytest.mark.parametrize("size", [2, 5, 1000])
def test_drawn_tokens_follow_the_softmax(size):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 2
    uniforms = torch.rand(20_000, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    drawn, _ = draw_tokens(logits.expand(20_000, -1), 0.7, uniforms)
    counts = np.bincount(drawn.numpy(), minlength=size)
    assert sampling_p_value(counts, torch.softmax(logits.double() / 0.7, -1).numpy()) > 1e-3


def test_impossible_tokens_are_not_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    uniforms = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1 - 2**-53], dtype=torch.double)
    assert draw_tokens(logits.expand(7, -1), 1.0, uniforms)[0].tolist() == [1, 1, 1, 3, 3, 3, 3]


def test_bad_input_is_named(model, ids):
    with pytest.raises(ValueError, match="temperature must be 0 or more and max_tokens positive, got -0.5 and 4"):
        sample_completions(model, ids, -0.5, 4, [1])
    with pytest.raises(ValueError, match="max_tokens positive, got 1.0 and 0"):
        sample_completions(model, ids, 1.0, 0, [1])
    with pytest.raises(ValueError, match="prompt without tokens"):
        sample_completions(model, [ids[0], []], 1.0, 4, [1])
    assert sample_completions(model, [], 1.0, 4, [1]) == []


def test_temperature_zero_is_the_likeliest_token(model, ids):
    """As greedy generation, and as the limit of low temperatures."""
    greedy, scores = sample_with_log_probs(model, ids, 0.0, 6, [1])
    assert greedy == sample_completions(model, ids, 1e-4, 6, [1])
    assert all(score == 0 for row in scores for score in row)
