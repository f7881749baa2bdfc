"""Replays: another seed's temperatures, in the same order; compared with TAMPO by seed and problem."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from tampo.config import load_params
from tampo.controllers.base import RunSettings
from tampo.controllers.registry import make_controller
from tampo.paper import replay
from tampo.paper.experiments import REGRET_EVALUATIONS, controller_title
from tampo.paper.regret import RegretRuns
from tampo.paper.replay import replay_jobs, run_replay

STEPS = 7


class Log:
    def __init__(self, seed):
        self.temperatures = [0.6 + 0.1 * seed + 0.05 * step for step in range(STEPS)]

    def metrics(self):
        return pd.DataFrame({"temperature": self.temperatures})


@dataclass
class Evaluation:
    name: str
    right: int

    def samples(self):
        """Ten problems in each of two benchmarks, four samples each, of which the first `right` are correct."""
        rows = [
            {"benchmark": name, "problem_id": f"{name}-{i}", "sample": s, "correct": s < self.right}
            for name in ("one", "two")
            for i in range(10)
            for s in range(4)
        ]
        return pd.DataFrame(rows)


def runs_of(seeds):
    counts = {
        (regime, 1.0, "tampo"): {name: np.full((len(seeds), 10), 3) for name in ("one", "two")}
        for regime in ("arithmetic", "facts")
    }
    logs = {(regime, "tampo", s): Log(s) for regime in ("arithmetic", "facts") for s in seeds}
    return RegretRuns((), counts, REGRET_EVALUATIONS["smoke"], {}, logs)


def test_each_seed_replays_the_next_one():
    params = load_params("smoke", {"seeds": [0, 1, 2], "max_steps": STEPS})
    jobs = replay_jobs(params, runs_of([0, 1, 2]))
    assert len(jobs) == 2 * 3
    for (regime, seed), job in jobs.items():
        other = (seed + 1) % 3
        assert job.training.seed == seed
        assert job.training.suite == ("mini-facts" if regime == "facts" else "mini")
        stages = job.training.temperature_controller_kwargs
        controller = make_controller("staged", stages, RunSettings(total_steps=STEPS))
        assert [controller.temperature(step) for step in range(STEPS)] == Log(other).temperatures
        ends = f"{0.6 + 0.1 * other:g} ... {0.9 + 0.1 * other:g}"
        assert controller_title("staged", stages) == f"Staged ({ends}, 7 stages)"


def test_a_single_seed_has_nothing_to_replay():
    params = load_params("smoke", {"seeds": [0]})
    table, records = run_replay(params, runs_of([0]))
    assert table.empty
    assert records == {}


def test_differences_are_paired_by_seed_and_problem(monkeypatch):
    params = load_params("smoke", {"seeds": [0, 1], "max_steps": STEPS})
    made = [(Evaluation(f"training-{i}", 0), Evaluation(f"evaluation-{i}", 2 + i % 2)) for i in range(4)]
    monkeypatch.setattr(replay, "run_jobs", lambda store, jobs, workers, log: made)
    table, records = run_replay(params, runs_of([0, 1]))
    assert len(records) == 8
    row = table.set_index("regime").loc["facts"]
    assert (row["tampo"], row["replay"], row["difference"]) == pytest.approx((75, 62.5, 12.5))
    assert row["low"] < 12.5 < row["high"], "two seeds that differ by 25 points"
