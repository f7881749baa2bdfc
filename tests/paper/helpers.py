"""Results of experiments, times of steps, and what an executed notebook shows."""

import nbformat
import numpy as np
import pandas as pd

from tampo.paper.experiments import Method
from tampo.paper.results import Result


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
