"""The terms of a plan against what torch really allocates, saves and writes, at a small scale on a CPU.

What needs a GPU or several processes is not here: allocator, CUDA context, DeepSpeed's buckets, a vLLM engine.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.kernels import chunked_logprob
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from tampo.runs import plan_memory as terms
from tampo.runs.plan_gpus import Layout
from tampo.runs.plan_memory import Shape, Sizes

ROWS, LENGTH = 3, 33
TOKENS = ROWS * LENGTH  # 99, which divides the size of no weight below
PLAIN, HALF, AUTOCAST = Sizes(4, 4, 4), Sizes(2, 2, 2), Sizes(4, 4, 2)


def qwen2(layers=2, dtype=torch.float32, **changes):
    """A small Qwen2 and its shape."""
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
    }
    config = Qwen2Config(**sizes | changes)
    model = Qwen2ForCausalLM(config).to(dtype)
    return model, Shape.of(config, model.num_parameters())


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


class LiveStorage(TorchDispatchMode):
    """Bytes of the storages made inside that are alive, now and at the most; `tokens`: only multiples of that size."""

    def __init__(self, tokens=1):
        super().__init__()
        self._tokens, self._storages, self.peak, self.largest = tokens, {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in before:
                storage = tensor.untyped_storage()
                if (storage.nbytes() // tensor.element_size()) % self._tokens == 0:
                    self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, self.live())
        return out

    def live(self):
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        return sum(size for _, size in self._storages.values())


def kept_for_backward(layers, dtype, autocast, checkpointing):
    """Bytes of activations that are alive after a forward pass, and of copies of weights."""
    model, _ = qwen2(layers, dtype)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.randint(0, 1000, (ROWS, LENGTH))
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext(), LiveStorage(TOKENS) as live:
        out = model.model(ids, use_cache=False).last_hidden_state
    assert out.requires_grad
    return live.live()


SETTINGS = pytest.mark.parametrize(
    ("sizes", "dtype", "autocast"),
    [(PLAIN, torch.float32, False), (HALF, torch.bfloat16, False), (AUTOCAST, torch.float32, True)],
    ids=["fp32", "bf16", "autocast"],
)


@SETTINGS
def test_activations_of_a_layer(sizes, dtype, autocast):
    """Within 8 %: attention on a CPU keeps the same tensors as on a GPU, but for its own small ones."""
    _, shape = qwen2()
    four, two = (kept_for_backward(layers, dtype, autocast, False) for layers in (4, 2))
    assert terms.layer_activations(shape, sizes, TOKENS) == pytest.approx((four - two) / 2, rel=0.08)


@SETTINGS
def test_activations_with_gradient_checkpointing(sizes, dtype, autocast):
    """Within 1 %: the input of each layer."""
    _, shape = qwen2()
    four, two = (kept_for_backward(layers, dtype, autocast, True) for layers in (4, 2))
    assert terms.activations(shape, sizes, TOKENS, True) == pytest.approx(four - two, rel=0.01)


@pytest.mark.parametrize(("sizes", "dtype"), [(PLAIN, torch.float32), (HALF, torch.bfloat16)], ids=["fp32", "bf16"])
def test_weights_gradients_and_adam(sizes, dtype):
    """Exact, but for Adam's step counts (4 bytes a tensor)."""
    model, shape = qwen2(dtype=dtype)
    model(torch.randint(0, 1000, (1, 9))).logits.sum().backward()
    trained = list(model.parameters())
    assert terms.weights(shape, sizes) == bytes_of(trained)
    assert terms.gradients(shape, sizes) == bytes_of(p.grad for p in trained)
    masters = trained
    if dtype != torch.float32:  # as DeepSpeed does
        masters = [p.detach().float().requires_grad_() for p in trained]
        for master, p in zip(masters, trained, strict=True):
            master.grad = p.grad.float()
    optimizer = torch.optim.AdamW(masters)
    optimizer.step()
    state = bytes_of(value for entry in optimizer.state.values() for value in entry.values())
    copies = 0 if masters is trained else bytes_of(masters)
    assert terms.adam(shape, sizes) == pytest.approx(state + copies, abs=4 * len(trained))


def test_autocast_keeps_copies_of_the_weights_until_the_forward_pass_ends():
    """Within 3 %: of the products' weights, not of norms, biases and the embedding, which have their own share here."""
    model, shape = qwen2(vocab_size=16, layers=4)
    ids = torch.randint(0, 16, (1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with LiveStorage() as live:
            model.model(ids, use_cache=False)  # its graph is gone: what stays are the copies
        copies = live.live()
    assert terms.cast_weights(shape, AUTOCAST) == pytest.approx(copies, rel=0.03)
    assert terms.cast_weights(shape, PLAIN) == terms.cast_weights(shape, HALF) == 0


@pytest.mark.parametrize(("sizes", "dtype"), [(PLAIN, torch.float32), (HALF, torch.bfloat16)], ids=["fp32", "bf16"])
def test_gradient_of_the_lm_head(sizes, dtype):
    """Within 10 %: narrow tiles (100 columns) leave little beside the gradients."""
    _, shape = qwen2(vocab_size=8000)
    hidden = torch.randn(9, shape.hidden, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape.vocabulary, shape.hidden, dtype=dtype, requires_grad=True)
    args = (hidden, weight, None, torch.zeros(9, dtype=torch.long), 1.0, 100)
    with LiveStorage() as live:
        ChunkedLogProbFunction.apply(*args)[0].sum().backward()
    assert terms.head_gradient(shape, sizes, 9) == pytest.approx(live.peak, rel=0.1)


def test_tile_of_logits(monkeypatch):
    """Exact, in TRL's own forward pass; the limits are TRL's."""
    from trl.trainer import utils

    assert chunked_logprob.TOKEN_CHUNK_SIZE == terms._TILE_ROWS
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == terms._TILE_COLUMNS
    monkeypatch.setattr(terms, "_TILE_ROWS", 8)
    monkeypatch.setattr(terms, "_TILE_COLUMNS", 500)
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", 8)
    _, shape = qwen2()
    made = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: made.append(empty(*args, **kwargs)) or made[-1])
    hidden, weight = torch.randn(99, 64).bfloat16(), torch.randn(1000, 64).bfloat16()
    ChunkedLogProbFunction.apply(hidden, weight, None, torch.zeros(99, dtype=torch.long), 1.0, 500)
    assert terms.logits_tiles(shape, HALF, 99) == bytes_of(made) == 2 * 8 * 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_cache(dtype):
    """Exact."""
    model, shape = qwen2(dtype=dtype)
    with torch.no_grad():
        cache = model(torch.randint(0, 1000, (ROWS, LENGTH)), use_cache=True).past_key_values
    held = bytes_of(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert terms.kv_cache(shape, dtype.itemsize, TOKENS) == held


def test_virtual_likelihoods():
    """Exact: sums and log-probabilities, shape (tokens, K)."""
    sums, log_probs = torch.empty(TOKENS, 10), torch.empty(TOKENS, 10)
    assert terms.likelihoods(10, TOKENS) == bytes_of([sums, log_probs])


def test_checkpoint_on_disk(tmp_path):
    """Within 2 %, without DeepSpeed: transformers' file of the model and torch's of the optimizer."""
    model, shape = qwen2(vocab_size=4000)
    model(torch.randint(0, 1000, (1, 9))).logits.sum().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    model.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert terms.checkpoint(shape, PLAIN, Layout(1, 1, False, 0)) == pytest.approx(written, rel=0.02)
