"""Replays: another seed's temperatures, in the same order; compared with TAMPO by seed and problem."""

from dataclasses import dataclass

import pandas as pd
import pytest

from tampo.config import load_params
from tampo.controllers.base import RunSettings
from tampo.controllers.registry import make_controller
from tampo.paper import replay
from tampo.paper.experiments import EXPERIMENTS, REPLAY_ROWS, controller_title, regret_jobs, replay_rows
from tampo.paper.replay import REPLAY, replay_differences, replay_jobs, with_replays
from tampo.paper.results import Result, pass_scores
from tampo.runs.store import RunStore

STEPS = 7


class Log:
    def __init__(self, seed):
        self.name = f"training-{seed}"
        self.temperatures = [0.6 + 0.1 * seed + 0.05 * step for step in range(STEPS)]

    def metrics(self):
        return pd.DataFrame({"temperature": self.temperatures, "reward": 0.5})


@dataclass
class Evaluation:
    name: str
    right: int

    def samples(self):
        """Ten problems, four samples each, of which the first `right` are correct."""
        rows = [
            {"benchmark": "one", "problem_id": f"one-{i}", "sample": s, "correct": s < self.right}
            for i in range(10)
            for s in range(4)
        ]
        return pd.DataFrame(rows)


def result_of(seeds, right=3):
    scores = [
        pass_scores(Evaluation("x", right).samples()).assign(method=key, seed=seed)
        for key in ("tampo", "random")
        for seed in seeds
    ]
    runs = {(key, s): Log(s + (key == "random")) for key in ("tampo", "random") for s in seeds}
    return Result(pd.concat(scores, ignore_index=True), {}, runs)


def facts(seeds):
    return load_params("smoke-facts", {"seeds": seeds, "max_steps": STEPS})


def test_each_seed_replays_the_next_one():
    jobs = replay_jobs(facts([0, 1, 2]), result_of([0, 1, 2]))
    assert list(jobs) == [("replay", 0), ("replay", 1), ("replay", 2)]
    for (_, seed), job in jobs.items():
        assert (job.training.seed, job.training.suite) == (seed, "mini-facts")
        run = RunSettings(total_steps=STEPS, total_batches=STEPS)
        controller = make_controller("staged", job.training.temperature_controller_kwargs, run=run)
        drawn = [controller.temperature(step) for step in range(STEPS)]
        assert drawn == pytest.approx(Log((seed + 1) % 3).temperatures)


def test_one_seed_has_no_other_to_replay():
    result = result_of([0])
    assert replay_jobs(facts([0]), result) == {}
    assert with_replays(facts([0]), result) is result
    assert replay_differences(result, REPLAY_ROWS)["rival"].tolist() == ["Random"]


def test_tampo_is_compared_with_its_replays(monkeypatch):
    """Three of four samples are right, and two of four of the replays: 25 points less, in every problem and seed."""
    evaluations = [(Log(9), Evaluation(f"evaluation-{seed}", 2)) for seed in (0, 1)]
    monkeypatch.setattr(replay, "run_jobs", lambda store, jobs, workers, log: evaluations)
    result = with_replays(facts([0, 1]), result_of([0, 1]))
    table = replay_differences(result, REPLAY_ROWS).set_index("rival")
    assert table.loc[REPLAY.title, ["difference", "low", "high", "p"]].tolist() == pytest.approx([25, 25, 25, 0])
    assert table.loc["Random", "difference"] == 0
    assert (table["p_holm"] >= table["p"]).all()
    assert {"evaluation-0", "evaluation-1"} <= result.records.keys()


def test_titles_of_long_courses_are_short():
    stages = [round(0.6 + 0.01 * step, 2) for step in range(40)]
    assert controller_title("staged", {"stages": stages}) == "Staged (0.6 ... 0.99, 40 stages)"


@pytest.mark.parametrize(("scale", "given"), [("smoke", {}), ("mini", {"max_steps": 120})])
def test_with_as_many_steps_its_runs_are_those_of_the_regret_study(scale, given):
    """The same folders: trained and evaluated once. By default the mini scale trains longer here."""
    experiment, store = EXPERIMENTS["study_replay"], RunStore.named(scale)
    regret = {
        (key, seed): job.folder(store)
        for (regime, t, key, seed), job in regret_jobs(load_params(scale, {"seeds": [0, 1]})).items()
        if (regime, t) == ("facts", 1.0)
    }
    params = load_params(experiment.source(scale), {"seeds": [0, 1]} | given)
    own = experiment.special_jobs(params)
    shared = {name: job.folder(store) for name, job in own.items() if name in regret}
    assert shared and all(regret[name] == folder for name, folder in shared.items())
    assert len(own) == 2 * len(replay_rows(params))


def test_it_trains_twice_as_long_as_the_regret_study():
    study = EXPERIMENTS["study_replay"]
    assert load_params(study.source("mini")).max_steps == 240 == 2 * load_params("mini-facts").max_steps


def test_more_seeds_where_several_are_given():
    experiment = EXPERIMENTS["study_replay"]
    assert experiment.parameters("mini", [0, 1, 2, 3, 4])["seeds"] == list(range(10))
    assert experiment.parameters("mini", [3])["seeds"] == [3]
