"""What several test modules share."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

from tampo.paper.experiments import Method
from tampo.paper.results import Result

ROOT = Path(__file__).parents[1]


def make_project(folder: Path) -> Path:
    """A project with the parameters and notebooks of the checkout, so that results of tests stay out of results/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".tampo-project").touch()
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


def outputs(path):
    """All that an executed notebook shows, by kind; none of its cells failed."""
    shown = {"text": "", "html": "", "png": 0}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            data = output.get("data", {})
            shown["text"] += output.get("text", "") + data.get("text/plain", "")
            shown["html"] += data.get("text/html", "")
            shown["png"] += "image/png" in data
    return shown


METHODS = (Method("base", "Base model", None), Method("tampo", "TAMPO & co_", {"controller": "tampo"}))


def make_result(benchmarks, methods=METHODS, seeds=(0, 1), problems=20):
    generator = np.random.default_rng(0)
    rows = []
    for index, method in enumerate(methods):
        for seed in seeds if method.changes is not None else seeds[:1]:
            for benchmark in benchmarks:
                right = generator.binomial(8, 0.3 + 0.1 * index, problems)
                rows.append(
                    pd.DataFrame(
                        {
                            "benchmark": benchmark,
                            "problem_id": [f"{benchmark}-{i}" for i in range(problems)],
                            "pass@1": (generator.random(problems) < right / 8) * 100.0,
                            "avg@8": right / 8 * 100,
                            "pass@8": (right > 0) * 100.0,
                            "method": method.key,
                            "seed": seed,
                        }
                    )
                )
    return Result(pd.concat(rows, ignore_index=True), {}, {})


def times(expected, noise, rounds=4, steps=30):
    """Whole steps of 1 to 2 s for "grpo", `expected` times as long for "tampo", a hundredth of it in the outer loop."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(rounds):
        for step in range(1, steps + 1):
            base = 1 + generator.random()
            whole = base * expected * np.exp(noise * generator.normal())
            for case, part, seconds in (
                ("grpo", "whole", base), ("tampo", "whole", whole), ("grpo", "outer loop", 0.0),
                ("tampo", "outer loop", whole / 101),
            ):  # fmt: skip
                rows.append({"round": number, "step": step, "case": case, "part": part, "seconds": seconds})
    return pd.DataFrame(rows)


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
