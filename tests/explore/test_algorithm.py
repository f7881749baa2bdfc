"""The notebook algorithm: what it shows of a batch, which runs it finds, and what its sliders recompute."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from tampo import MetaPolicy
from tampo.config import load_params
from tampo.explore import algorithm
from tampo.explore.algorithm import Batch, StepTable, logged_runs, quantity, replay, same
from tampo.explore.algorithm_controls import AlgorithmControls, sentence, step_figure
from tampo.paper.questions import Questions
from tampo.paper.trajectories import Trajectory
from tampo.runs.archive import pack
from tampo.runs.store import RunStore
from tampo.tasks.mini import Problem
from tests.explore.logged import CANDIDATES, STEPS, add_run, add_runs, batches, log_of, wanted
from tests.helpers import make_project
from tests.paper.helpers import assert_fits

PARAMS = load_params("smoke")


def batch(rewards, texts):
    """A batch of two prompts."""
    group = len(rewards) // 2
    rollouts = [Trajectory(i // group, (1,), tuple(map(ord, text)), text, False) for i, text in enumerate(texts)]
    problems = [Problem(f"p{i}", "facts", f"{i} a", "1", {}) for i in range(2)]
    return Batch(None, Questions("", problems, ["", ""], None), rollouts, np.array(rewards, float), group, 1.0)


def test_the_discovery_is_the_mixed_prompt_with_the_fewest_right_rollouts():
    given = batch([1, 1, 0, 0, 1, 0], ["a", "a", "b", "c\nd", "e", "c\nd"])
    assert given.mixed == [0, 1]
    assert given.discovery == slice(3, 6)
    assert given.distinct() == [0, 2, 3, 4]
    shown = given.table(given.discovery)
    assert shown["completion"].tolist() == ["c ⏎ d", "e", "c ⏎ d"]
    assert shown["reward"].tolist() == [0, 1, 0]
    assert shown["question"].unique().tolist() == ["1 a"]


def test_without_mixed_prompts_the_first_one_is_shown():
    given = batch([0, 0, 1, 1], ["a", "a", "b", "b"])
    assert (given.mixed, given.discovery, given.distinct()) == ([], slice(0, 2), [0])


def test_what_differs_from_the_library_is_an_error():
    assert same([1.0, 2.0], [1.0, 2.0 + 1e-6]) == pytest.approx(1e-6)
    with pytest.raises(ValueError, match=r"differ by 0\.5"):
        same([1.0], [1.5])
    with pytest.raises(ValueError, match="differ by nan"):
        same([float("nan")], [1.0])
    with pytest.raises(ValueError, match="shape"):
        same([1.0], [[1.0]])


def test_the_table_grows_by_two_columns_a_step(capsys):
    steps = StepTable([0.6, 1.0])
    steps.add("Eq. 9", [0.25, -0.0001], [0.25, -0.0001])
    shown = steps.add("Eq. 10", [0.00001, 0.002], [0.00001, 0.002])
    assert shown.columns.tolist() == [(step, who) for step in ("Eq. 9", "Eq. 10") for who in ("by hand", "library")]
    assert shown["Eq. 9", "by hand"].tolist() == ["0.250", "0.000"]
    assert shown["Eq. 10", "library"].tolist() == ["0.000010", "0.002000"]
    assert capsys.readouterr().out.count("differ by at most 0.0e+00") == 2


@pytest.mark.parametrize(("alpha", "top_p"), [(0.05, 0.7), (0.4, 0.0), (1.0, 1.0)])
def test_a_replay_is_what_the_meta_policy_makes_of_the_same_batches(alpha, top_p):
    given = batches()
    log, _ = log_of(MetaPolicy(CANDIDATES), given)
    expected, nuclei = log_of(MetaPolicy(CANDIDATES, alpha=alpha, top_p=top_p), given)
    found = replay(log, alpha, top_p)
    for name in ("p", "average", "signal"):
        np.testing.assert_allclose(quantity(found, name), quantity(expected, name), atol=1e-15)
    np.testing.assert_allclose(quantity(found, "nucleus"), nuclei, atol=1e-15)
    pd.testing.assert_series_equal(found["temperature"], log["temperature"])
    assert not found.columns.duplicated().any()


def test_candidates_are_in_order_and_steps_are_rows():
    log = pd.DataFrame({"step": [1, 2], "meta_policy/p(1.5)": [0.1, 0.2], "meta_policy/p(1)": [0.9, 0.8], "p(2)": 0})
    table = quantity(log, "p")
    assert table.columns.tolist() == [1.0, 1.5]
    assert table.loc[2].tolist() == [0.8, 0.2]
    assert quantity(log, "signal").shape == (2, 0)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    monkeypatch.delenv("TAMPO_STORE", raising=False)
    return tmp_path


def refuse(*given):
    raise AssertionError("nothing is to be trained")


def test_runs_come_from_the_store_whatever_alpha_the_notebook_has(project, monkeypatch):
    monkeypatch.setattr(algorithm, "train", refuse)
    store = RunStore.of(PARAMS)
    log, _ = log_of(MetaPolicy(CANDIDATES), batches())
    add_run(store, wanted("facts", seed=7), log)
    nearest = add_run(store, wanted("facts"), log)
    add_run(store, wanted("arithmetic").model_copy(update={"data_seed": 5}), log)  # other questions will do
    found = logged_runs(PARAMS.model_copy(update={"alpha": 0.5, "p": 0.1}))
    assert [run.title for run in found.values()] == [f"facts, {STEPS} steps", f"arithmetic, {STEPS} steps"]
    assert found["facts"].record == nearest.name
    assert "your own runs" in found["facts"].source
    assert logged_runs(PARAMS.model_copy(update={"seed": 7}))["facts"].manifest["identity"]["seed"] == 7


def test_the_archive_is_next_and_then_a_short_run(project, monkeypatch):
    elsewhere = RunStore(project / "elsewhere")
    add_runs(elsewhere, ["facts"])
    (project / "results" / "reference" / "smoke").mkdir(parents=True)
    pack(elsewhere.records(), project / "results" / "reference" / "smoke" / "records.zip")
    # Another controller, and a log of an earlier version, are passed over.
    store = RunStore.of(PARAMS)
    log, _ = log_of(MetaPolicy(CANDIDATES), batches())
    add_run(store, wanted("arithmetic").model_copy(update={"alpha": 0.3}), log)
    add_run(store, wanted("arithmetic"), log.drop(columns=[name for name in log if "signal" in name]))
    trained = []

    def train(store, config):
        trained.append(config)
        print("a hundred numbers")
        return add_run(store, config, log[:2])

    monkeypatch.setattr(algorithm, "train", train)
    found = logged_runs(PARAMS, short=2)
    assert "archive" in found["facts"].source
    assert found["arithmetic"].title == "arithmetic, 2 steps"
    assert [(config.suite, config.max_steps) for config in trained] == [("mini", 2)]


def test_a_short_run_prints_one_line(project, monkeypatch, capsys):
    def train(store, config):
        print("a hundred numbers")
        return add_run(store, config, log_of(MetaPolicy(CANDIDATES), batches())[0])

    monkeypatch.setattr(algorithm, "train", train)
    logged_runs(PARAMS, ["facts"])
    assert capsys.readouterr().out == "Training 3 steps of facts ...\n"


@pytest.fixture
def logs():
    return {
        f"{name}, {STEPS} steps": log_of(MetaPolicy(CANDIDATES), batches(seed))[0]
        for seed, name in enumerate(("facts", "arithmetic"))
    }


def test_the_figure_shows_averages_and_probabilities_of_the_step(logs):
    replayed = {title: replay(log, 0.05, 0.5) for title, log in logs.items()}
    figure, log = step_figure(replayed, 4), replayed[f"facts, {STEPS} steps"]
    top, bottom = figure.axes[0], figure.axes[2]
    assert top.get_title() == "facts, after step 4"
    np.testing.assert_allclose([bar.get_height() for bar in top.patches], quantity(log, "average").loc[4])
    np.testing.assert_allclose([bar.get_height() for bar in bottom.patches], quantity(log, "p").loc[4])
    chances, following = (line.get_xydata() for line in bottom.lines)
    kept = quantity(log, "nucleus").loc[4].to_numpy()
    np.testing.assert_allclose(chances[kept > 0, 1], kept[kept > 0])
    assert np.isnan(chances[kept == 0, 1]).all() and (kept == 0).any()
    assert following[:, 0].tolist() == [log.loc[4, "temperature"]]  # of step 5
    assert figure.axes[0].get_ylim() == step_figure(replayed, 1).axes[0].get_ylim()
    assert step_figure(replayed, 99).axes[1].get_title() == f"arithmetic, after step {STEPS}"
    for shown in (replayed, dict([*replayed.items()][:1])):
        assert_fits(step_figure(shown, 4))


def test_the_sentence_is_the_distribution():
    p = {f"meta_policy/p({t:g})": [value] for t, value in zip((0.5, 1.0, 2.0), (0.5, 0.25, 0.25), strict=True)}
    log = pd.DataFrame({"step": [1]} | p)
    assert sentence({"facts, 1 steps": log}, 3) == "Step 3. facts: T = 0.5 is likeliest (50%), mean 1.00."


def test_sliders_recompute_what_depends_on_them(logs):
    controls = AlgorithmControls(logs, 0.05, 0.7, 3)
    course, distribution = controls.course.value, controls.distribution.value
    assert controls.status.value.startswith("Step 3.")
    assert controls.step.max == STEPS
    controls.step.value = 5
    assert controls.course.value != course and controls.distribution.value != distribution
    course, distribution, said = controls.course.value, controls.distribution.value, controls.status.value
    controls.alpha.value = 0.9
    assert controls.course.value != course and controls.distribution.value != distribution
    assert controls.status.value != said
    course, distribution = controls.course.value, controls.distribution.value
    controls.top_p.value = 0.0
    assert controls.course.value == course, "p(T) does not depend on the nucleus"
    assert controls.distribution.value != distribution
