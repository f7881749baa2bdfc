"""T in the loss or in sampling only: pairs that differ in nothing else, runs shared with the regret study."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tampo.config import ConfigError, load_params
from tampo.paper import loss_temperature as module
from tampo.paper.experiments import EXPERIMENTS, LOSS_TEMPERATURE_ROWS, loss_jobs, regret_jobs
from tampo.paper.loss_temperature import PAIRS, loss_figure, loss_rows, loss_table, run_loss, weight_summary
from tampo.paper.reproduce import choose, needed_jobs
from tampo.runs.store import RunStore
from tests.paper.helpers import assert_fits, title_of

SAMPLES = 8


class Training:
    """In place of a record of a training run of two steps."""

    def __init__(self, name, temperature, weights):
        self.name = name
        self.log = pd.DataFrame({"step": [1, 2], "temperature": [temperature - 0.1, temperature + 0.1]})
        if weights:
            self.log = self.log.assign(
                **{"loss/importance_weight_mean": [1.0, 0.9], "loss/importance_weight_capped": [0.0, 0.04]}
            )

    def metrics(self):
        return self.log


class Evaluation:
    """Of ten problems in each of two benchmarks, `right` of eight samples are correct."""

    def __init__(self, name, right):
        self.name, self.right = name, right

    def samples(self):
        return pd.DataFrame(
            {"benchmark": name, "problem_id": f"{name}-{i}", "sample": s, "correct": s < self.right}
            for name in ("one", "two")
            for i in range(10)
            for s in range(SAMPLES)
        )


@pytest.fixture
def results(monkeypatch):
    """A loss at 1 solves one more sample of each problem with seed 1, none more with seed 0; T = 1.2 solves none."""

    def fake(store, jobs, workers, log):
        made = []
        for number, job in enumerate(jobs):
            one, fixed = job.training.loss_temperature == "one", job.training.temperature_controller == "fixed"
            right = 0 if fixed else 2 + (one and job.training.seed == 1)
            training = Training(f"training-{number}", 1.3 if one else 1.2, one)
            made.append((training, Evaluation(f"evaluation-{number}", right)))
        return made

    monkeypatch.setattr(module, "run_jobs", fake)
    return run_loss(load_params("mini", {"seeds": [0, 1]}))


def test_rows_are_pairs_that_differ_in_the_loss_only():
    assert [method for pair in PAIRS for method in pair] == list(LOSS_TEMPERATURE_ROWS)
    for sampling, one in PAIRS:
        assert one.changes == sampling.changes | {"loss_temperature": "one"}
        assert sampling.changes["loss_temperature"] == "sampling"
    assert [sampling.key for sampling, _ in PAIRS] == ["tampo", "fixed-1.2", "fixed-0.7"]


@pytest.mark.parametrize(("scale", "rows"), [("smoke", 2), ("mini", 6)])
def test_rows_with_the_loss_at_t_are_runs_of_the_regret_study(scale, rows):
    params = load_params(scale, {"seeds": [0, 1, 2]})
    store = RunStore.of(params)
    regret = {job.folder(store): run for run, job in regret_jobs(params).items()}
    jobs = loss_jobs(params)
    assert len(jobs) == 2 * rows * 3
    for (regime, key, seed), job in jobs.items():
        shared = regret.get(job.folder(store))
        assert shared == (None if key.endswith("-one") else (regime, 1.0, key, seed))


@pytest.mark.parametrize("name", ["regret", "study_loss"])
def test_the_registry_lists_the_jobs_of_a_study_of_regimes(name):
    params = load_params("smoke", {"seeds": [0, 1]})
    listed = {"regret": regret_jobs, "study_loss": loss_jobs}[name]
    assert needed_jobs([EXPERIMENTS[name]], "smoke", params) == list(listed(params).values())
    messages = []
    assert name not in {experiment.notebook for experiment in choose("paper", [], messages.append)}
    assert f"{name} is skipped: it has no parameters for the scale paper." in messages
    with pytest.raises(ConfigError, match=f"nothing to do at 'paper': {name} has parameters for smoke, mini"):
        choose("paper", [name])


def test_what_a_row_is_cannot_be_given(monkeypatch, tmp_path):
    from tampo.paper.notebook import notebook_params

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="loss_temperature cannot be given here"):
        notebook_params({"params": "smoke", "loss_temperature": "one"}, "study_loss")


def test_differences_are_paired_by_seed_and_problem(results):
    table = loss_table(results).set_index(["regime", "title", "metric"])
    assert len(table) == 2 * 3 * 2, "eight samples have no Pass@64"
    row = table.loc[("facts", "TAMPO", "pass@1")]
    assert (row["sampling"], row["one"], row["difference"]) == pytest.approx((25, 25 + 12.5 / 2, 12.5 / 2))
    expected = stats.ttest_1samp([0.0, 12.5], 0)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert row["p"] == pytest.approx(expected.pvalue)
    assert table.loc[("arithmetic", "TAMPO", "pass@8"), "one"] == 100
    none = table.loc[("arithmetic", "GRPO (T = 1.2)", "pass@1")]
    assert (none["sampling"], none["difference"], none["p"]) == (0, 0, 1)


def test_weights_are_those_of_the_loss_at_1(results):
    summary = weight_summary(results)
    assert len(summary) == 2 * 3
    np.testing.assert_allclose(summary["temperature_sampling"], 1.2)
    np.testing.assert_allclose(summary["temperature_one"], 1.3)
    np.testing.assert_allclose(summary["weight"], 0.95)
    np.testing.assert_allclose(summary["capped"], 0.02)


def test_the_table_of_a_reader(results):
    shown = loss_rows(loss_table(results)).set_index(["regime", "row", "metric"])
    row = shown.loc[("facts", "TAMPO", "Pass@1")]
    assert row.tolist() == ["25.0", "31.2", "+6.2 (-73.2 to +85.7), p = 0.50"]


def test_the_figure_has_every_difference(results):
    table = loss_table(results)
    figure = loss_figure(table)
    assert [axes.get_xlabel() for axes in figure.axes] == ["Pass@1, points", "Pass@8, points"]
    for axes, metric in zip(figure.axes, ("pass@1", "pass@8"), strict=True):
        drawn = [container.lines[0].get_xdata() for container in axes.containers]
        expected = table[table["metric"] == metric]["difference"]
        assert np.concatenate(drawn).tolist() == pytest.approx(expected.tolist())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [pair[0].title for pair in PAIRS]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["arithmetic", "facts"]
    assert title_of(figure).startswith("Loss at T = 1 minus loss at the sampling T, Pass@1 in points: ")
    assert_fits(figure)
    plt.close(figure)
