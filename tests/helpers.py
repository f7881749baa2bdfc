"""What test modules of several rooms share."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]


def make_project(folder: Path) -> Path:
    """A project with the parameters and notebooks of the checkout, so that results of tests stay out of results/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".tampo-project").touch()
    return folder


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def without_times(files: dict[str, str]) -> dict[str, str]:
    """The checksums of a record's files that are equal to the bit in every rerun."""
    return {name: digest for name, digest in files.items() if name != "times.csv"}


def changed_model(model: Path, folder: Path, **files: dict | None) -> Path:
    """A copy of a model with other values in config, generation_config or tokenizer_config (None: without the file)."""
    shutil.copytree(model, folder)
    for name, values in files.items():
        path = folder / f"{name}.json"
        if values is None:
            path.unlink()
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def digit_reward(completions: list[str], **kwargs: object) -> list[float]:
    """Share of digits: dense enough that groups have a spread."""
    return [sum(c.isdigit() for c in completion) / (1 + len(completion)) for completion in completions]


def sampling_p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Chi-square p-value of sampled `counts` under `probabilities`; rare entries are pooled to 5 expected."""
    expected = probabilities / probabilities.sum() * counts.sum()
    order = np.argsort(expected)
    rare = order[: np.searchsorted(expected[order].cumsum(), 5) + 1]

    def pool(values: np.ndarray) -> np.ndarray:
        return np.append(np.delete(values, rare), values[rare].sum())

    return float(chisquare(pool(counts), pool(expected)).pvalue)


NO_TOKENS = {"eos_token": None, "pad_token": None}  # of a tokenizer
# Where a model of 21 tokens can have its end tokens (1 is the tokenizer's, 0 its padding): changed files, end tokens.
ENDS: dict[str, tuple[dict, set[int]]] = {
    "one": ({}, {1}),
    "another in generation_config": ({"generation_config": {"eos_token_id": 5}}, {1, 5}),
    "a list in generation_config": ({"generation_config": {"eos_token_id": [6, 1]}}, {1, 6}),
    "a list without the tokenizer's": ({"generation_config": {"eos_token_id": [5, 6]}}, {1, 5, 6}),
    "none in generation_config": ({"generation_config": {"eos_token_id": None}}, {1}),
    "none in either config": ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": None}}, {1}),
    "no generation_config": ({"generation_config": None, "config": {"eos_token_id": 7}}, {1, 7}),
    "another in config": ({"config": {"eos_token_id": 7}}, {1}),
    "none in the tokenizer": ({"tokenizer_config": NO_TOKENS, "generation_config": {"eos_token_id": 5}}, {5}),
    "in config alone": (
        {"tokenizer_config": NO_TOKENS, "generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 7}},
        {7},
    ),
    "unknown to the model": ({"generation_config": {"eos_token_id": [99, -1]}}, {1}),
    "unknown in the tokenizer": (
        {"tokenizer_config": {"eos_token": "<new>", "pad_token": "<new>"}, "generation_config": {"eos_token_id": 5}},
        {5},
    ),
    "padding": ({"tokenizer_config": {"pad_token": "<eos>"}, "generation_config": {"eos_token_id": [1, 5]}}, {1, 5}),
    "padding is another end": ({"generation_config": {"eos_token_id": 0}}, {0, 1}),
}

# Settings of a generation_config, all of which change what `generate` samples.
ADVICE = {
    "do_sample": True, "temperature": 0.1, "top_p": 0.1, "top_k": 1, "min_p": 0.9, "typical_p": 0.1,
    "epsilon_cutoff": 0.5, "eta_cutoff": 0.5, "repetition_penalty": 2.0, "no_repeat_ngram_size": 1,
    "suppress_tokens": [2, 3, 4], "begin_suppress_tokens": [5, 6], "bad_words_ids": [[7]],
    "sequence_bias": [[[8], 9.0]], "exponential_decay_length_penalty": [1, 2.0],
    "forced_bos_token_id": 9, "forced_eos_token_id": 1, "min_new_tokens": 5, "max_new_tokens": 3, "max_length": 2,
    "num_beams": 2, "num_return_sequences": 2, "max_time": 1e-9, "stop_strings": ["1"], "guidance_scale": 2.0,
}  # fmt: skip

SMALL_RUN = {
    "prompts_per_step": 2,
    "per_device_train_batch_size": 8,
    "train_problems": 20,
    "max_completion_length": 24,
    "max_steps": 3,
}


TEMPERATURES = [0.6, 0.9, 1.0, 1.5]


def rollouts(seed=0, batch=3, length=7, vocabulary=50, hidden=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, length, hidden, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, hidden, generator=generator).to(dtype)
    tokens = torch.randint(vocabulary, (batch, length), generator=generator)
    mask = (torch.rand(batch, length, generator=generator) > 0.3).long()
    return states, weight, tokens, mask


def oracle(logits, tokens, mask, temperatures):
    """log_softmax once for each temperature, over whole logits."""
    sums = []
    for temperature in temperatures:
        logps = F.log_softmax(logits.double() / temperature, dim=-1).gather(-1, tokens[..., None])[..., 0]
        sums.append((logps * mask).sum(dim=1))
    return torch.stack(sums, dim=1)


def expected_log_probs(logits, tokens, temperatures):
    """Log-probs of tokens (M,) at K temperatures from whole logits (M, V), in float64, shape (M, K)."""
    return torch.stack(
        [torch.log_softmax(logits.double() / t, -1).gather(-1, tokens[:, None])[:, 0] for t in temperatures], dim=-1
    )
