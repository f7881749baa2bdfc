"""The GPU's kernel against log_softmax in float64; on a CPU in Triton's interpreter, on a GPU for real."""

import pytest
import torch
from torch.distributions import Categorical

pytest.importorskip("triton", reason="Triton is not installed")

from tampo.likelihood import StreamingLogProbs, virtual_log_likelihoods, virtual_log_likelihoods_from_hidden
from tests.helpers import TEMPERATURES, expected_log_probs, oracle, rollouts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """Fold with the kernel, and count its calls."""
    import tampo.likelihood_kernel as module

    calls, accumulate = [], module.accumulate
    monkeypatch.setattr("tampo.likelihood._use_kernel", lambda device: True)
    monkeypatch.setattr(module, "accumulate", lambda *args: (calls.append(args[0].shape), accumulate(*args))[1])
    yield calls
    assert calls, "the kernel was not used"


@pytest.mark.parametrize("k", [1, 10, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 64, 333, 2500])
def test_one_tile(vocabulary, dtype, k):
    """Vocabularies below, at and beyond a block, and no multiple of one."""
    generator = torch.Generator().manual_seed(vocabulary + k)
    logits = (torch.randn(9, vocabulary, generator=generator) * 6).to(dtype).to(DEVICE)
    tokens = torch.randint(vocabulary, (9,), generator=generator).to(DEVICE)
    temperatures = torch.linspace(0.1, 3, k).tolist()
    sums = StreamingLogProbs(tokens, temperatures)
    sums.accumulate(logits)
    torch.testing.assert_close(
        sums.log_probs().double(), expected_log_probs(logits, tokens, temperatures), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_tiles_scale_and_softcap(scale, softcap):
    """Tiles of a wider buffer, as TRL makes them, the largest logit now in the first, now in the last."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 500, generator=generator) * 6
    whole[:3, 10], whole[3:, 490] = 40.0, 40.0
    tokens = torch.tensor([0, 99, 100, 299, 300, 499])
    logits = whole * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    sums = StreamingLogProbs(tokens.to(DEVICE), TEMPERATURES)
    buffer = torch.empty(6, 512, device=DEVICE)
    for start, end in ((0, 100), (100, 300), (300, 500)):
        tile = buffer[:, : end - start]
        tile.copy_(whole[:, start:end])
        sums.accumulate(tile, start, scale, softcap)
        buffer.fill_(torch.nan)
    torch.testing.assert_close(
        sums.log_probs().double().cpu(), expected_log_probs(logits, tokens, TEMPERATURES), rtol=1e-5, atol=1e-5
    )


def test_whole_functions_with_masks():
    """Rows that do not count give 0, and leave the others alone; a batch in which none counts launches nothing."""
    states, weight, tokens, mask = (x.to(DEVICE) for x in rollouts())
    mask[1] = 0
    expected = oracle(states @ weight.T, tokens, mask, TEMPERATURES)
    for ours in (
        virtual_log_likelihoods(states @ weight.T, tokens, mask, TEMPERATURES),
        virtual_log_likelihoods_from_hidden(states, weight, tokens, mask, TEMPERATURES, tile_elements=100),
    ):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)
        assert (ours[1] == 0).all()
    nothing = torch.zeros_like(mask)
    assert (virtual_log_likelihoods(states @ weight.T, tokens, nothing, TEMPERATURES) == 0).all()


def test_forbidden_tokens_are_probabilities_of_zero():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    logits[:, 100:] = -torch.inf
    tokens = torch.tensor([0, 1, 50, 99], device=DEVICE)
    sums = StreamingLogProbs(tokens, TEMPERATURES)
    sums.accumulate(logits[:, 150:], 150)  # a tile without any possible token, first
    sums.accumulate(logits[:, :150])
    torch.testing.assert_close(
        sums.log_probs().double(), expected_log_probs(logits[:, :100], tokens, TEMPERATURES), rtol=1e-5, atol=1e-5
    )


def check_entropies(logits, tokens, temperatures, tiles, **head):
    """Against the whole `logits`, and log-probs beside those without entropies, which another compiled kernel makes."""
    asked, plain = (StreamingLogProbs(tokens, temperatures, entropies=entropies) for entropies in (True, False))
    for sums in (asked, plain):
        for start, tile in tiles:
            sums.accumulate(tile, start, **head)
    torch.testing.assert_close(asked.log_probs(), plain.log_probs(), rtol=1e-6, atol=1e-6)
    expected = torch.stack([Categorical(logits=logits.double() / t).entropy() for t in temperatures], dim=-1)
    torch.testing.assert_close(asked.entropies().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 10, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 333, 2500])
def test_entropies(vocabulary, dtype, k):
    generator = torch.Generator().manual_seed(vocabulary + k)
    logits = (torch.randn(9, vocabulary, generator=generator) * 6).to(dtype).to(DEVICE)
    tokens = torch.randint(vocabulary, (9,), generator=generator).to(DEVICE)
    check_entropies(logits, tokens, torch.linspace(0.1, 3, k).tolist(), [(0, logits)])


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_entropies_of_tiles_scale_and_softcap(softcap, scale):
    whole = torch.randn(6, 500, generator=torch.Generator().manual_seed(0)) * 6
    whole[:3, 10], whole[3:, 490] = 40.0, 40.0
    logits = whole.double() * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    tokens, whole = torch.tensor([0, 99, 100, 299, 300, 499]).to(DEVICE), whole.to(DEVICE)
    tiles = [(start, whole[:, start:end]) for start, end in ((0, 100), (100, 300), (300, 500))]
    check_entropies(logits.to(DEVICE), tokens, TEMPERATURES, tiles, logit_scale=scale, softcap=softcap)


@pytest.mark.parametrize("forbidden", [-torch.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_entropies_with_forbidden_tokens_and_extreme_logits(forbidden, size):
    logits = (torch.randn(4, 300, generator=torch.Generator().manual_seed(0)) * size).to(DEVICE)
    logits[:, 100:] = forbidden
    tokens = torch.tensor([0, 1, 50, 99], device=DEVICE)
    tiles = [(150, logits[:, 150:]), (0, logits[:, :150])]  # a tile without any possible token, first
    check_entropies(logits[:, :100], tokens, TEMPERATURES, tiles)
