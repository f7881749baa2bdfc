"""A task that changes: stages as the task has them, smoothing within a stage, levels before and after an unlocking."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tampo.config import ConfigError, load_params
from tampo.paper.drift import (
    drift_curves,
    drift_differences,
    drift_figure,
    drift_logs,
    drift_scores,
    late_rewards,
    stage_ends,
    stage_of,
    temperature_rise,
)
from tampo.paper.experiments import DRIFT_ROWS, EXPERIMENTS, REGRET_ROWS, Method
from tampo.paper.reproduce import needed_jobs
from tampo.paper.results import Result
from tampo.paper.study_tables import cells
from tampo.tasks.lookups import unlocking_stage
from tampo.tasks.mini import make_problems
from tampo.tasks.stages import staged
from tests.paper.helpers import assert_fits, title_of

COLD, RULE = Method("fixed-0.9", "Cold"), Method("tampo", "TAMPO")
STEPS = 120  # three stages of 40


class Log:
    """In place of a record of a training run."""

    def __init__(self, temperature, reward, share):
        steps = np.arange(1, STEPS + 1)
        columns = {"temperature": temperature, "reward": reward, "reward_at/1": reward, "reward_at/1_samples": share}
        self.log = pd.DataFrame({"step": steps} | {name: np.broadcast_to(v, STEPS) for name, v in columns.items()})

    def metrics(self):
        return self.log


def params(**changes):
    return load_params("mini-drift", {"max_steps": STEPS, "seeds": [0, 1, 2], **changes})


def rising(seed):
    """0.8, but 0.9 + seed / 10 in steps 1 to 20 after each unlocking, and 1.5 in the 20 after these."""
    step = np.arange(STEPS)
    return np.select([step < 40, step % 40 < 20], [0.8, 0.9 + seed / 10], 1.5)


@pytest.fixture
def result():
    stage = np.arange(STEPS) // 40
    runs = {("tampo", s): Log(rising(s), 0.2 * stage + 0.01 * s + 0.1, 0.5) for s in range(3)}
    runs |= {("fixed-0.9", s): Log(0.9, 0.1 * stage + 0.02 * s, 1.0) for s in range(3)}
    generator, rows = np.random.default_rng(0), []
    for method, level in ((COLD, 0.4), (RULE, 0.6)):
        for seed in range(3):
            values = 100 * (level + 0.05 * generator.normal(size=30))
            table = pd.DataFrame({"benchmark": "lookups", "problem_id": [f"{i:02}" for i in range(30)]})
            rows.append(table.assign(**{"pass@1": values, "pass@8": values + 10}, method=method.key, seed=seed))
    return Result(pd.concat(rows, ignore_index=True), {}, runs)


@pytest.mark.parametrize(("stages", "steps"), [(3, 10), (3, 9), (4, 21), (1, 5)])
def test_stages_are_those_of_the_task(stages, steps):
    """The last table that a step asks about is of its stage or an earlier one, and new tables come at its start."""
    problems = make_problems("lookups", 300)
    course = staged(problems, stages, steps, prompts_per_step=16, seed=0)
    newest = [
        max(unlocking_stage(problem.metadata, stages) for problem in course[16 * step : 16 * (step + 1)]) + 1
        for step in range(steps)
    ]
    assert stage_of(np.arange(1, steps + 1), stage_ends(stages, steps)).tolist() == newest


def test_fewer_steps_than_stages_are_all_in_the_last_one():
    assert stage_of([1, 2], stage_ends(3, 2)).tolist() == [3, 3]


def test_curves_do_not_reach_over_an_unlocking(result):
    curves = drift_curves(drift_logs(result, (COLD, RULE), params())).set_index(["title", "seed", "step"])
    for stage in range(3):
        ends = curves.loc[("TAMPO", 1)].loc[[40 * stage + 1, 40 * stage + 40], "reward"]
        assert ends.tolist() == pytest.approx([0.2 * stage + 0.11] * 2)
    assert curves.loc[("TAMPO", 1, 40), "temperature"] == pytest.approx(0.8)
    assert curves.loc[("TAMPO", 1, 41), "temperature"] == pytest.approx(1.0)
    middle = curves.loc[("TAMPO", 1, 60), "temperature"]  # 13 steps at 1.0 and 12 at 1.5
    assert middle == pytest.approx((13 * 1.0 + 12 * 1.5) / 25)


def test_a_schedule_is_not_smoothed(result):
    line = np.linspace(1.5, 0.7, STEPS)
    for seed in range(3):
        result.runs["fixed-0.9", seed] = Log(line, 0.5, 1.0)
    curves = drift_curves(drift_logs(result, (COLD,), params()))
    assert curves.loc[curves["seed"] == 0, "temperature"].tolist() == pytest.approx(line.tolist())


def test_rewards_weigh_as_much_as_their_effective_samples(result):
    reward, share = np.tile([1.0, 0.0], STEPS // 2), np.tile([0.1, 0.9], STEPS // 2)
    reward[-1] = np.nan  # nothing is known there, as when no rollout was graded
    result.runs["tampo", 0] = Log(1.0, reward, share)
    logs = drift_logs(result, (RULE,), params())
    late = late_rewards(logs)
    assert late.loc[("TAMPO", 0), 1] == pytest.approx(6 * 0.1 / (6 * 0.1 + 7 * 0.9))  # steps 28 to 40
    assert late.loc[("TAMPO", 0), 3] == pytest.approx(0.6 / (0.6 + 6 * 0.9))
    assert late.loc[("TAMPO", 2), 2] == pytest.approx(0.32)
    shown = drift_curves(logs).set_index(["seed", "step"])["reward"]
    assert shown[0, 20] == pytest.approx(12 * 0.1 / (12 * 0.1 + 13 * 0.9))  # steps 8 to 32, odd ones have reward 1


def test_temperature_before_and_after_an_unlocking(result):
    logs = drift_logs(result, (RULE,), params())
    rise = temperature_rise(logs).set_index(["step", "period"])
    assert rise.index.tolist() == [(s, p) for s in (41, 81) for p in ("steps 1 to 20", "steps 21 to 40")]
    row = rise.loc[(41, "steps 1 to 20")]
    assert (row["before"], row["after"], row["difference"]) == pytest.approx((0.8, 1.0, 0.2))
    expected = stats.ttest_1samp([0.1, 0.2, 0.3], 0)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert rise.loc[(81, "steps 1 to 20"), "before"] == pytest.approx(1.5), "the last 20 steps only"
    assert rise.loc[(81, "steps 21 to 40"), "difference"] == pytest.approx(0.0)


def test_periods_end_with_their_stage(result):
    rise = temperature_rise(drift_logs(result, (RULE,), params()), near=30).set_index(["step", "period"])
    row = rise.loc[(41, "steps 31 to 60")]
    assert row["after"] == pytest.approx(1.5), "not those after the next unlocking"
    none = temperature_rise(drift_logs(result, (RULE,), params()), near=40)
    assert none.loc[none["period"] == "steps 41 to 80", ["after", "difference", "p"]].isna().all(axis=None)


def test_one_seed_has_no_interval_over_seeds(result):
    one = Result(result.scores, {}, {run: log for run, log in result.runs.items() if run[1] == 1})
    rise = temperature_rise(drift_logs(one, (RULE,), params(seeds=[1])))
    assert rise["difference"].iloc[0] == pytest.approx(0.2)
    assert rise[["low", "high", "p"]].isna().all(axis=None)


def test_scores_and_paired_differences(result):
    logs = drift_logs(result, (COLD, RULE), params())
    scores = drift_scores(result, (COLD, RULE), logs)
    by = scores.set_index(["title", "metric"])
    raw = result.scores.groupby("method")["pass@1"].mean()
    assert by.loc[("TAMPO", "pass@1"), "value"] == pytest.approx(raw["tampo"])
    low, high = stats.t.interval(0.95, 2, 0.02, 0.02 / 3**0.5)
    assert by.loc[("Cold", "reward, stage 1"), ["value", "low", "high"]].tolist() == pytest.approx([0.02, low, high])
    differences = drift_differences(result, (COLD, RULE), logs)
    by = differences.set_index(["rival", "metric"])
    assert by.loc[("Cold", "pass@8"), "difference"] == pytest.approx(raw["tampo"] - raw["fixed-0.9"])
    row = by.loc[("Cold", "reward, stage 3")]  # 0.3 - 0.01 seed
    low, high = stats.t.interval(0.95, 2, 0.29, 0.01 / 3**0.5)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0.29, low, high))
    shown = cells(differences, "rival")
    assert shown.columns.tolist() == ["Pass@1", "Pass@8", *(f"reward, stage {s}" for s in (1, 2, 3))]
    assert shown.loc["Cold", "reward, stage 3"] == "+0.290 (+0.265 to +0.315), p < 0.001"
    assert cells(scores, "title").index.tolist() == ["Cold", "TAMPO"]


def test_the_figure_marks_the_stages(result):
    curves = drift_curves(drift_logs(result, (COLD, RULE), params()))
    figure = drift_figure(curves, 3)
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["2 tables", "4 tables", "6 tables"]
        dotted = [line.get_xdata()[0] for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[-1]]
        assert dotted == [40.5, 80.5]
        assert len(axes.lines) == 2 * 3 + 2, "a piece for each stage"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Cold", "TAMPO"]
    assert title_of(figure).startswith("TAMPO's mean T by stage: 0.80, ")
    assert_fits(figure)
    plt.close(figure)


def test_without_a_candidate_at_1_there_is_no_reward_to_read(result):
    for log in result.runs.values():
        log.log = log.log.drop(columns="reward_at/1")
    with pytest.raises(ConfigError, match="temperature_candidates must contain 1"):
        drift_logs(result, (RULE,), params())


@pytest.mark.parametrize(("scale", "problems", "samples"), [("mini", 100, 64), ("smoke", 6, 4)])
def test_the_registry_has_its_runs(scale, problems, samples):
    experiment = EXPERIMENTS["study_drift"]
    jobs = needed_jobs([experiment], scale, load_params(scale, {"seeds": [0, 1, 2, 3]}))
    assert len(jobs) == 4 * 3
    for job in jobs:
        assert job.training.training_stages == 3
        assert (job.evaluation.eval_problems, job.evaluation.eval_samples) == (problems, samples)
        assert job.evaluation.eval_temperature == 1
    assert all(method in REGRET_ROWS for method in DRIFT_ROWS)
    assert [method.key for method in DRIFT_ROWS] == ["fixed-0.9", "fixed-1.2", "linear-down", "tampo"]
