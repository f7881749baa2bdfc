"""What test modules of several rooms share."""

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


def without_times(files: dict[str, str]) -> dict[str, str]:
    """The checksums of a record's files that are equal to the bit in every rerun."""
    return {name: digest for name, digest in files.items() if name != "times.csv"}


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
