"""Virtual log-likelihoods against log_softmax, sparsemax against entmax, and Appendix B as properties."""

import numpy as np
import pytest
import torch
from entmax import sparsemax as entmax_sparsemax
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tampo.likelihood import (
    virtual_log_likelihoods,
    virtual_log_likelihoods_from_hidden,
    virtual_log_probs,
)
from tampo.meta_policy import MetaPolicy, sparsemax
from tests.helpers import TEMPERATURES, oracle, rollouts


@pytest.mark.parametrize("temperatures", [TEMPERATURES, [1.0], list(np.linspace(0.1, 3, 32))])
def test_from_logits(temperatures):
    states, weight, tokens, mask = rollouts()
    logits = states @ weight.T
    ours = virtual_log_likelihoods(logits, tokens, mask, temperatures)
    assert ours.shape == (3, len(temperatures))
    torch.testing.assert_close(ours.double(), oracle(logits, tokens, mask, temperatures), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tile", [1, 50, 53, 400, 10**6])
def test_from_hidden_states_whatever_the_tile(tile):
    states, weight, tokens, mask = rollouts()
    ours = virtual_log_likelihoods_from_hidden(states, weight, tokens, mask, TEMPERATURES, tile_elements=tile)
    expected = oracle(states @ weight.T, tokens, mask, TEMPERATURES)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)


def test_bias_scale_and_softcap():
    states, weight, tokens, mask = rollouts()
    bias = torch.randn(50, generator=torch.Generator().manual_seed(1))
    logits = 5.0 * torch.tanh(0.7 * (states @ weight.T + bias) / 5.0)
    ours = virtual_log_likelihoods_from_hidden(
        states, weight, tokens, mask, TEMPERATURES, bias=bias, logit_scale=0.7, softcap=5.0
    )
    torch.testing.assert_close(ours.double(), oracle(logits, tokens, mask, TEMPERATURES), rtol=1e-5, atol=1e-4)


def test_per_token_values_are_zero_where_masked():
    states, weight, tokens, mask = rollouts()
    per_token = virtual_log_probs(states, weight, tokens, mask, TEMPERATURES)
    assert per_token.shape == (3, 7, 4)
    assert (per_token[mask == 0] == 0).all()
    assert (per_token[mask == 1] < 0).all()


def test_tiles_bound_the_logits(monkeypatch):
    """No product with the LM head has more than a tile's worth of logits."""
    sizes = []
    linear = F.linear

    def spy(*args):
        logits = linear(*args)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(F, "linear", spy)
    states, weight, tokens, mask = rollouts(length=40)
    virtual_log_probs(states, weight, tokens, torch.ones_like(mask), TEMPERATURES, tile_elements=50 * 16)
    assert max(sizes) <= 50 * 16
    assert sum(sizes) == 120 * 50


def test_float64_stays_exact():
    states, weight, tokens, mask = rollouts(dtype=torch.float64)
    logits = states @ weight.T
    ours = virtual_log_likelihoods(logits, tokens, mask, TEMPERATURES)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, oracle(logits, tokens, mask, TEMPERATURES), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_in_float32(dtype):
    states, weight, tokens, mask = rollouts(dtype=dtype)
    logits = (states @ weight.T) * 50  # far from each other
    ours = virtual_log_likelihoods(logits, tokens, mask, [0.05, 1.0, 10.0])
    assert ours.dtype == torch.float32
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.double(), oracle(logits, tokens, mask, [0.05, 1.0, 10.0]), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_long_rollouts_are_finite_through_to_the_meta_policy(dtype):
    """6,000 tokens, most of them unlikely, at extreme temperatures: sums far below what exp can hold."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 6000, 40, generator=generator) * 20).to(dtype)
    tokens = torch.randint(40, (2, 6000), generator=generator)
    temperatures = [0.05, 1.0, 10.0]
    ours = virtual_log_likelihoods(logits, tokens, torch.ones_like(tokens), temperatures)
    torch.testing.assert_close(
        ours.double(), oracle(logits, tokens, torch.ones_like(tokens), temperatures), rtol=1e-5, atol=0
    )
    assert ours.min() < -1e6
    policy = MetaPolicy(temperatures)
    policy.update(ours.numpy(), [1.0, -1.0], [6000, 6000])
    assert np.isfinite(policy.probabilities).all()
    assert policy.probabilities.sum() == pytest.approx(1)


def test_forbidden_tokens_do_not_spoil_the_others():
    """Logits of -inf, as constrained decoding writes them, are probabilities of 0."""
    states, weight, tokens, mask = rollouts()
    logits = states @ weight.T
    forbidden = torch.ones_like(logits, dtype=torch.bool)
    forbidden[..., :10] = False
    logits = logits.masked_fill(forbidden, -torch.inf)
    tokens = tokens % 10
    ours = virtual_log_likelihoods(logits, tokens, mask, TEMPERATURES)
    assert ours.isfinite().all()
    torch.testing.assert_close(
        ours.double(), oracle(logits[..., :10], tokens, mask, TEMPERATURES), rtol=1e-5, atol=1e-4
    )


def test_empty_rollouts_have_likelihood_one():
    states, weight, tokens, mask = rollouts()
    mask[1] = 0
    assert (virtual_log_likelihoods_from_hidden(states, weight, tokens, mask, TEMPERATURES)[1] == 0).all()
    nothing = torch.zeros_like(mask)
    assert (virtual_log_likelihoods_from_hidden(states, weight, tokens, nothing, TEMPERATURES) == 0).all()


def test_no_gradient_is_kept():
    states, weight, tokens, mask = rollouts()
    ours = virtual_log_likelihoods_from_hidden(states.requires_grad_(), weight, tokens, mask, TEMPERATURES)
    assert not ours.requires_grad


# Sparsemax.


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5), min_size=1, max_size=4))
def test_sparsemax_equals_entmax(rows):
    x = torch.tensor(rows, dtype=torch.float64)
    expected = entmax_sparsemax(x, dim=-1)
    torch.testing.assert_close(sparsemax(x), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sparsemax(rows), expected.numpy(), atol=1e-9)


def test_sparsemax_has_the_gradient_of_entmax():
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.arange(30.0, dtype=torch.float64).view(6, 5)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (sparsemax(ours) * weights).sum().backward()
    (entmax_sparsemax(theirs, dim=-1) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_sparsemax_keeps_kind_and_shape():
    assert isinstance(sparsemax([0.0, 1.0]), np.ndarray)
    half = sparsemax(torch.zeros(2, 3, 4, dtype=torch.float32))
    assert half.shape == (2, 3, 4)
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half.numpy(), 0.25)


# Appendix B.


def curve(logits, tokens, inverse_temperatures):
    """Log-likelihood of one rollout at each inverse temperature, float64, shape (K,)."""
    mask = torch.ones_like(tokens)
    return virtual_log_likelihoods(logits, tokens, mask, 1 / torch.as_tensor(inverse_temperatures))[0]


@st.composite
def trajectories(draw):
    """(logits (1, L, V), tokens (1, L)) with tokens sampled from the softmax at a random temperature."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    length, vocabulary = draw(st.integers(1, 30)), draw(st.integers(2, 40))
    logits = torch.randn(1, length, vocabulary, generator=generator, dtype=torch.float64) * draw(st.floats(0.5, 4))
    probabilities = torch.softmax(logits[0] / draw(st.floats(0.4, 2)), dim=-1)
    return logits, torch.multinomial(probabilities, 1, generator=generator).T


@given(trajectories())
@settings(max_examples=60)
def test_log_likelihood_is_concave_in_inverse_temperature(trajectory):
    """Eq. 21: the second difference over an even grid of 1/T is nowhere positive."""
    values = curve(*trajectory, torch.linspace(0.2, 4.0, 60, dtype=torch.float64))
    second = values[2:] - 2 * values[1:-1] + values[:-2]
    assert second.max() <= 1e-9 * (1 + values.abs().max())


@given(trajectories())
@settings(max_examples=60)
def test_the_likeliest_temperature_is_interior_but_for_the_named_edge_cases(trajectory):
    """Eq. 25: a slope in 1/T that is positive toward 0 and negative toward infinity has one zero between."""
    logits, tokens = trajectory
    chosen = logits.gather(-1, tokens[..., None])[..., 0]  # (1, L)
    greedy = bool((chosen == logits.amax(-1)).all())
    # Slope at 1/T = 0: sum of z(a) - mean z. Where it is negative, the rollout holds more unlikely tokens than likely.
    unlikely = bool((chosen - logits.mean(-1)).sum() <= 0)
    # Slope as 1/T grows: sum of z(a) - max z, so -gap. A tiny gap puts T* below any grid.
    gap = (logits.amax(-1) - chosen).sum().item()

    grid = torch.logspace(-4, 4, 161, dtype=torch.float64)  # inverse temperatures
    values = curve(logits, tokens, grid)
    rising = values.diff() >= -1e-9
    if greedy:
        assert rising.all(), "greedy rollouts grow likelier as T falls, toward T = 0"
    elif unlikely:
        assert not (values.diff() > 1e-9).any(), "rollouts of unlikely tokens grow likelier as T rises"
    elif gap > 0.1 and (chosen - logits.mean(-1)).sum() > 0.1:
        best = int(values.argmax())
        assert 0 < best < len(grid) - 1
        assert rising[:best].all()
        assert not (values.diff()[best:] > 1e-9).any(), "rise, then fall: one maximum"
