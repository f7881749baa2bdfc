"""Entropies at K temperatures, from the pass over the logits that gives log-probabilities, against whole logits."""

import pytest
import torch
from torch.distributions import Categorical

from tampo.likelihood import StreamingLogProbs, virtual_log_probs
from tests.helpers import TEMPERATURES, expected_log_probs, rollouts


def expected_entropies(logits, temperatures=TEMPERATURES):
    """Of logits (M, V), in float64, shape (M, K)."""
    whole = logits.double()
    return torch.stack([Categorical(logits=whole / t).entropy() for t in temperatures], dim=-1)


def stream(logits, tile, dtype=torch.float32, entropies=True, **head):
    """The sums over tiles of logits (M, V)."""
    sums = StreamingLogProbs(torch.arange(len(logits)) % logits.size(1), TEMPERATURES, dtype, entropies=entropies)
    for start in range(0, logits.size(1), tile):
        sums.accumulate(logits[:, start : start + tile], start, **head)
    return sums


def random_logits(rows=6, vocabulary=53, spread=4.0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0)) * spread


@pytest.mark.parametrize("tile", [1, 7, 52, 53])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 5.0), (0.3, 2.0)])
def test_whatever_the_tile_scale_and_softcap(tile, scale, softcap):
    """The largest logit now in the first tile, now in the last."""
    logits = random_logits()
    logits[:3, 0], logits[3:, -1] = 15.0, 15.0
    whole = logits.double() * scale
    if softcap is not None:
        whole = softcap * torch.tanh(whole / softcap)
    found = stream(logits, tile, logit_scale=scale, softcap=softcap).entropies()
    torch.testing.assert_close(found.double(), expected_entropies(whole), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_precisions(dtype):
    logits = random_logits().to(dtype)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    found = stream(logits, 10, precision).entropies()
    assert found.dtype == precision
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), expected_entropies(logits), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["possible first", "impossible first", "mixed"])
@pytest.mark.parametrize("forbidden", [-torch.inf, torch.finfo(torch.float32).min])
def test_forbidden_tokens_count_nothing(dtype, order, forbidden):
    """Logits of -inf, or of the lowest number, as masks write them; whole tiles of them, too."""
    logits = random_logits(vocabulary=60).to(dtype)
    possible = torch.zeros(60, dtype=torch.bool)
    places = {"possible first": slice(0, 20), "impossible first": slice(40, 60), "mixed": slice(0, 60, 3)}
    possible[places[order]] = True
    masked = logits.masked_fill(~possible, forbidden)
    found = stream(masked, 10, dtype).entropies()
    torch.testing.assert_close(found.double(), expected_entropies(logits[:, possible]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [1, 20, 53])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits(tile, size):
    """A sure policy has the entropy 0, never less; a flat one log V, however large its logits are."""
    sure = torch.full((4, 53), -size)
    sure[torch.arange(4), torch.tensor([0, 20, 30, 52])] = size
    found = stream(sure, tile).entropies()
    assert (found == 0).all()
    flat = stream(torch.full((4, 53), size), tile).entropies()
    torch.testing.assert_close(flat, torch.full_like(flat, 53).log())
    two = sure.clone()
    two[:, 10] = size
    torch.testing.assert_close(stream(two, tile).entropies(), torch.full((4, 4), 2.0).log())


def test_entropies_are_never_negative():
    assert (stream(random_logits(200, 500, spread=60.0), 64).entropies() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probs_keep_their_bits(dtype):
    logits = random_logits().to(dtype)
    logits[:, 5:9] = -torch.inf
    logits[:, 9] = torch.finfo(dtype).min
    for tile in (1, 8, 53):
        plain = stream(logits, tile, dtype, entropies=False, logit_scale=0.7)
        asked = stream(logits, tile, dtype, logit_scale=0.7)
        assert torch.equal(plain.log_probs(), asked.log_probs())
        assert torch.equal(plain.values(), plain.log_probs())
        assert torch.equal(asked.values(), torch.cat([asked.log_probs(), asked.entropies()], dim=-1))


def test_entropies_must_be_asked_for():
    sums = stream(random_logits(), 53, entropies=False)
    with pytest.raises(ValueError, match="made without `entropies=True`"):
        sums.entropies()


@pytest.mark.parametrize("tile_elements", [50, 400, 10**6])
def test_from_hidden_states(tile_elements):
    """Behind the log-probabilities; zero where masked."""
    states, weight, tokens, mask = rollouts()
    plain = virtual_log_probs(states, weight, tokens, mask, TEMPERATURES, tile_elements=tile_elements)
    both = virtual_log_probs(states, weight, tokens, mask, TEMPERATURES, tile_elements=tile_elements, entropies=True)
    assert both.shape == (3, 7, 8)
    assert torch.equal(both[..., :4], plain)
    keep = mask.bool()
    logits = (states @ weight.T)[keep]
    torch.testing.assert_close(both[keep][:, 4:].double(), expected_entropies(logits), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        both[keep][:, :4].double(), expected_log_probs(logits, tokens[keep], TEMPERATURES), rtol=1e-5, atol=1e-4
    )
    assert (both[~keep] == 0).all()
    nothing = virtual_log_probs(states, weight, tokens, torch.zeros_like(mask), TEMPERATURES, entropies=True)
    assert nothing.shape == (3, 7, 8)
    assert not nothing.any()
