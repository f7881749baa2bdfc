"""Regret: the best fixed temperature is chosen on one half of the problems, and everything is scored on the other."""

import numpy as np
import pandas as pd
import pytest

from tampo.config import ConfigError, load_params
from tampo.paper.experiments import (
    EXPERIMENTS,
    REGIMES,
    REGRET_EVALUATIONS,
    REGRET_FIXED,
    REGRET_MAIN,
    REGRET_ROWS,
    regime_params,
    regret_jobs,
    regret_methods,
)
from tampo.paper.regret import (
    BEST,
    BRIEF,
    RegretRuns,
    best_fixed,
    brief_regret,
    chosen_temperature,
    heat_map,
    pass_curves,
    pass_figure,
    regret,
    regret_markdown,
    regret_rows,
    regret_table,
    robust_table,
    task_scores,
)
from tests.paper.helpers import assert_fits, title_of

SAMPLES = 10
COLD, WARM, RULE = REGRET_FIXED[0], REGRET_FIXED[-1], next(m for m in REGRET_ROWS if m.key == "tampo")


class Log:
    """In place of a record."""

    def __init__(self, temperature):
        self.temperature = temperature

    def metrics(self):
        import pandas as pd

        return pd.DataFrame({"temperature": [self.temperature - 0.1, self.temperature + 0.1]})


def runs(rates, seeds=3, problems=8):
    """Runs with given shares of correct samples: {regime: {evaluation T: {method: (validation, test)}}}."""
    counts = {}
    for regime, by_temperature in rates.items():
        for temperature, by_method in by_temperature.items():
            for key, (validation, test) in by_method.items():
                half = problems // 2
                row = [round(validation * SAMPLES)] * half + [round(test * SAMPLES)] * half
                counts[regime, temperature, key] = {"one": np.array([row] * seeds), "two": np.array([row] * seeds)}
    methods = (COLD, WARM, RULE)
    logs = {(regime, m.key, s): Log(1.0) for regime in rates for m in methods for s in range(seeds)}
    samples = {t: SAMPLES for by in rates.values() for t in by}
    return RegretRuns(methods, counts, samples, {}, logs)


EXAMPLE = {
    "a": {
        1.0: {COLD.key: (0.5, 0.3), WARM.key: (0.4, 0.6), RULE.key: (0.4, 0.4)},
        0.6: {COLD.key: (0.6, 0.5), WARM.key: (0.3, 0.9), RULE.key: (0.6, 0.6)},
    },
    "b": {
        1.0: {COLD.key: (0.1, 0.1), WARM.key: (0.9, 0.8), RULE.key: (0.7, 0.7)},
        0.6: {COLD.key: (0.1, 0.1), WARM.key: (0.8, 0.9), RULE.key: (0.7, 0.7)},
    },
}


def test_the_choice_is_by_validation_and_the_score_by_test():
    found = runs(EXAMPLE)
    assert best_fixed(found, "a", 1, 1.0) == COLD.key, "though the other is better on test problems"
    assert best_fixed(found, "b", 1, 1.0) == WARM.key
    for values in regret(found, "a", RULE.key, 1, 1.0):
        assert values.shape == (3, 4)
        np.testing.assert_allclose(values, -10.0)
    np.testing.assert_allclose(regret(found, "b", RULE.key, 1, 1.0)[0], 10.0)
    np.testing.assert_allclose(regret(found, "b", WARM.key, 1, 1.0)[0], 0.0)


def test_the_best_evaluation_temperature_is_chosen_per_row_on_validation_problems():
    found = runs(EXAMPLE)
    assert chosen_temperature(found, "a", COLD.key, 1, BEST) == 0.6
    assert chosen_temperature(found, "a", WARM.key, 1, BEST) == 1.0
    assert chosen_temperature(found, "a", WARM.key, 1, 0.6) == 0.6
    np.testing.assert_allclose(regret(found, "a", RULE.key, 1, BEST)[0], -10.0)  # 50 at 0.6 against 60


def test_a_row_with_fewer_seeds_is_paired_with_the_first_ones():
    found = runs(EXAMPLE, seeds=5)
    generator = np.random.default_rng(0)
    for benchmark, values in found.counts["b", 1.0, WARM.key].items():  # the best one of b
        found.counts["b", 1.0, WARM.key][benchmark] = values - generator.integers(0, 2, values.shape)
    found.counts["b", 1.0, RULE.key] = {name: v[:3] for name, v in found.counts["b", 1.0, RULE.key].items()}
    for regime in EXAMPLE:
        del found.runs[regime, RULE.key, 3], found.runs[regime, RULE.key, 4]
    for name, values in zip(("one", "two"), regret(found, "b", RULE.key, 1, 1.0), strict=True):
        theirs, ours = (found.counts["b", 1.0, key][name][:3, 4:] for key in (WARM.key, RULE.key))
        np.testing.assert_allclose(values, 100 * (theirs - ours) / SAMPLES)
    found.counts["b", 1.0, "base"] = {name: v[:1] for name, v in found.counts["b", 1.0, COLD.key].items()}
    assert all(values.shape == (5, 4) for values in regret(found, "b", "base", 1, 1.0)), "with each seed of its rival"
    table = regret_table(found).drop_duplicates("method").set_index("method")
    assert dict(table["seeds"]) == {COLD.key: 5, WARM.key: 5, RULE.key: 3}
    assert regret_rows({"pass@1": regret_table(found)})["training seeds"][RULE.title] == 3


def test_table_with_mean_and_worst():
    table = regret_table(runs(EXAMPLE)).set_index(["method", "regime"])
    assert table.loc[(RULE.key, "a"), "score"] == pytest.approx(40)
    assert table.loc[(RULE.key, "mean"), "regret"] == pytest.approx(0.0)
    assert table.loc[(RULE.key, "worst"), "regret"] == pytest.approx(10.0)
    assert table.loc[(COLD.key, "worst"), "regret"] == pytest.approx(70.0)
    assert table["best"].sum() == 2
    assert table.loc[(RULE.key, "a"), "temperature"] == pytest.approx(1.0)
    shown = regret_rows({"pass@1": table.reset_index()})
    assert shown.loc[RULE.title, "pass@1, worst"] == "10.0 (10.0 to 10.0)"


def test_brief_table_has_six_rows_and_intervals_of_the_summaries_alone():
    rows = [
        {"method": key, "title": key.title(), "regime": regime, "regret": n + 0.06, "low": n - 1.0, "high": n + 1.5}
        for n, key in enumerate(reversed(["not shown", *BRIEF]))
        for regime in ("b", "a", "mean", "worst")
    ]
    lines = brief_regret(pd.DataFrame(rows)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["regret, points", "b", "a", "mean", "worst"]
    assert [row[0] for row in cells[2:]] == [key.title() for key in BRIEF], "in this order"
    assert cells[2][1:] == ["5.1", "5.1", "5.1 (4.0 to 6.5)", "5.1 (4.0 to 6.5)"]


def test_the_interval_of_a_mean_over_regimes_is_that_of_independent_errors():
    """Over many draws, it covers the truth as often as it says."""
    covered, generator = 0, np.random.default_rng(0)
    for _ in range(200):
        found = runs(EXAMPLE, seeds=4, problems=40)
        for key in list(found.counts):
            rate = {COLD.key: 0.3, WARM.key: 0.5, RULE.key: 0.4}[key[2]]
            for benchmark in found.counts[key]:
                found.counts[key][benchmark] = generator.binomial(SAMPLES, rate, (4, 40))
        row = regret_table(found).set_index(["method", "regime"]).loc[(RULE.key, "mean")]
        covered += row["low"] <= 10.0 <= row["high"]
    assert 0.92 <= covered / 200 <= 1.0


def test_iqm_and_improvement_are_over_tasks_and_seeds():
    """The rule has 40 % on both tasks of a and 70 % on those of b; the best fixed ones have 30 % and 80 %."""
    found = runs(EXAMPLE)
    np.testing.assert_allclose(task_scores(found, RULE.key), [[40, 40, 70, 70]] * 3)
    np.testing.assert_allclose(task_scores(found, None), [[30, 30, 80, 80]] * 3)
    robust = robust_table(found).set_index("title")
    assert robust.loc[RULE.title, "iqm"] == pytest.approx(55)
    assert robust.loc[RULE.title, "improvement"] == pytest.approx(0.5)
    assert robust.loc[WARM.title, "improvement"] == pytest.approx(0.75), "above in a, equal in b"
    shown = regret_rows({"pass@1": regret_table(found)}, robust_table(found))
    assert shown.loc[WARM.title, "better than the best fixed T"] == "75%"
    caption, header, *lines = regret_markdown(shown).strip().replace("\n\n", "\n").splitlines()
    assert "regret.manifest.json" in caption and header.startswith("| title")
    row = next(line for line in lines if RULE.title in line)
    assert "| 55.0 " in row and "| 3 " in row, "numbers as they are written"


def test_pass_at_k_needs_as_many_samples():
    with pytest.raises(ValueError, match="k must be between 1 and the number of samples"):
        regret_table(runs(EXAMPLE), k=64)
    assert regret_table(runs(EXAMPLE), k=8)["score"].max() <= 100


@pytest.mark.parametrize("scale", REGIMES)
def test_every_regime_makes_every_row_at_every_evaluation_temperature(scale):
    params = load_params(scale, {"seeds": [0, 1], "max_steps": 5})
    jobs, methods = regret_jobs(params), regret_methods(params)
    regimes, evaluations = REGIMES[scale], REGRET_EVALUATIONS[scale]
    assert len(jobs) == len(regimes) * len(evaluations) * (len(methods) * 2 + 1), "and the base model once"
    trained = {(regime, key, seed): set() for regime, _, key, seed in jobs if key != "base"}
    for (regime, temperature, key, seed), job in jobs.items():
        assert (job.evaluation.eval_temperature, job.evaluation.eval_samples) == (temperature, evaluations[temperature])
        if key == "base":
            assert job.training is None
            continue
        assert (job.training.max_steps, job.training.seed) == (5, seed)
        trained[regime, key, seed].add(job.training.model_dump_json())
    assert all(len(texts) == 1 for texts in trained.values()), "one training run for all evaluations"
    assert EXPERIMENTS["regret"].jobs(params)
    seeds = {}
    for *_, key, seed in regret_jobs(load_params(scale, {"seeds": [4, 0, 1, 2, 3]})):
        seeds.setdefault(key, set()).add(seed)
    several = {key for key, given in seeds.items() if given == {0, 1, 2, 3, 4}}
    assert several == REGRET_MAIN & seeds.keys() >= {method.key for method in REGRET_FIXED} & seeds.keys()
    assert all(given == {4, 0, 1} for key, given in seeds.items() if key not in REGRET_MAIN | {"base"})
    assert {params.suite for params in regime_params(params).values()} >= {"mini", "mini-facts"}
    assert all(method in REGRET_ROWS for method in methods)
    assert methods == REGRET_ROWS or scale == "smoke"


@pytest.mark.parametrize("changes", [{"suite": "mini-facts"}, {"model": "mini-rare"}, {"base_logit_scale": 0.5}])
def test_what_a_regime_is_cannot_be_given(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} cannot be given here: this study sets it"):
        regime_params(load_params("smoke", changes))


def test_other_scales_have_no_regimes():
    with pytest.raises(ConfigError, match="regimes for the scales smoke, mini, not for 'paper'"):
        regime_params(load_params("paper"))


def test_pass_curves_are_pass_at_k_of_the_test_problems():
    found = runs(EXAMPLE)
    found.counts["a", 1.0, "base"] = {"one": np.array([[5] * 4 + [1] * 4]), "two": np.array([[5] * 4 + [3] * 4])}
    curves = pass_curves(found, "a").set_index(["title", "k"])["value"]
    assert curves["Base model", 1] == pytest.approx(20.0)
    assert curves["Base model", SAMPLES] == 100.0
    assert curves[RULE.title, 1] == pytest.approx(40.0)
    assert set(curves.index.get_level_values("k")) == {1, 2, 4, 8, 10}
    assert {title for title, _ in curves.index} == {"Base model", f"{COLD.title}, the best fixed one", RULE.title}
    found.counts["b", 1.0, "base"] = found.counts["a", 1.0, "base"]
    figure = pass_figure(pd.concat([pass_curves(found, regime).assign(regime=regime) for regime in found.regimes]))
    assert len(figure.axes) == 2
    # At k = 1 the rule has 40 % in a and 70 % in b, the base model 20 %; at k = 10 both have solved all problems.
    expected = "Pass@k of TAMPO is above that of the base model in 2 of 2 regimes at k = 1, in 0 of 2 regimes at k = 10"
    assert title_of(figure) == expected
    assert_fits(figure)


def test_heat_map_shows_every_method_and_regime():
    table = regret_table(runs(EXAMPLE))
    table.loc[table["regret"] == 0, "regret"] = -0.04
    figure = heat_map(table)
    axes = figure.axes[0]
    shown = {text.get_text() for text in axes.texts}
    assert "0.0" in shown and "-0.0" not in shown
    assert title_of(figure).startswith("No fixed T is the best in every regime. Smallest worst regret: ")
    assert_fits(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "mean", "worst"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [COLD.title, WARM.title, RULE.title]
    assert sum(patch.get_edgecolor() == (0, 0, 0, 1) for patch in axes.patches) == 2, "the best of each regime"
