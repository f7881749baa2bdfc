"""Verdicts on made-up results whose truth is known, and statistics against their definition."""

import numpy as np
import pandas as pd
import pytest

from tampo.config import load_params
from tampo.paper.claim_statistics import (
    all_claims,
    beats,
    best_or_second,
    highest_reward,
    optimal_temperature_claims,
    rewards_follow_scores,
    sampling_deviation,
    seeds_agree,
    temperature_claims,
)
from tampo.paper.claims import (
    CANNOT_TELL,
    FAILS,
    HOLDS,
    NOT_TESTABLE,
    Claim,
    brief_claims,
    claims_caption,
    claims_table,
    format_claims,
    write_claims,
)
from tampo.paper.experiments import TABLE1, TABLE2, TABLE3, TABLE4, TABLE5
from tampo.paper.results import Result, identical_trainings
from tampo.runs.store import Record
from tampo.stats import Estimate


def make_result(methods, chances, seeds=5, problems=300, benchmarks=("a", "b"), tmp_path=None, spread=0.0):
    """Scores of methods that are right with a known probability, and, with a folder, logs of their training runs."""
    generator = np.random.default_rng(0)
    rows, runs = [], {}
    for method in methods:
        for seed in range(seeds if method.changes is not None else 1):
            chance = chances.get(method.key, 0.4) + spread * generator.normal()
            for benchmark in benchmarks:
                right = generator.random((problems, 8)) < chance
                scores = {"pass@1": right[:, 0], "avg@8": right.mean(axis=1), "pass@8": right.any(axis=1)}
                own = pd.DataFrame({name: 100.0 * values for name, values in scores.items()})
                ids = [f"{benchmark}-{i}" for i in range(problems)]
                rows.append(own.assign(method=method.key, seed=seed, benchmark=benchmark, problem_id=ids))
            if tmp_path is not None and method.changes is not None:
                runs[method.key, seed] = make_log(tmp_path / f"{method.key}-{seed}", method, generator)
    return Result(pd.concat(rows, ignore_index=True), {}, runs)


def make_log(folder, method, generator, early=1.3, late=1.1, steps=120):
    step = np.arange(1, steps + 1)
    noise = 0.02 * generator.normal(size=steps)
    drawn = np.where(step <= 12, 1.0, np.linspace(early, late, steps)) + np.where(step <= 12, 0, noise)
    force = (method.changes or {}).get("temperature", drawn)
    log = {"step": step, "temperature": force, "reward": 0.5}
    for sign, best in (("positive", 1.0), ("negative", 1.2)):
        name = f"optimal_temperature/{sign}"
        log |= {f"{name}_mean": best + noise, f"{name}_std": 0.1, f"{name}_count": 10.0}
    folder.mkdir()
    pd.DataFrame(log).to_csv(folder / "metrics.csv", index=False)
    return Record(folder, {})


def one(claim):
    return claims_table([claim]).iloc[0]


FIXED_KEYS = ("fixed-0.9", "fixed-1.2", "fixed-1.5")


@pytest.mark.parametrize(("tampo", "verdict"), [(0.50, HOLDS), (0.39, FAILS), (0.30, FAILS)])
def test_a_method_that_is_better_wins_and_one_that_is_not_does_not(tampo, verdict):
    result = make_result(TABLE1, {"tampo": tampo}, problems=2000)
    row = one(beats(result, FIXED_KEYS, "pass@1", 1, "better", "Table 1"))
    assert row["verdict"] == verdict
    assert row["paper"] == pytest.approx(1.9)
    assert row["low"] < 100 * (tampo - 0.4) < row["high"] + 1.5


def test_few_problems_cannot_tell():
    result = make_result(TABLE1, {"tampo": 0.41}, seeds=2, problems=20)
    row = one(beats(result, FIXED_KEYS, "pass@1", 1, "better", "Table 1"))
    assert (row["verdict"], row["could_show"]) == (NOT_TESTABLE, "no")
    assert row["detectable"] > 1.9


def test_it_must_be_better_than_every_baseline():
    result = make_result(TABLE1, {"tampo": 0.5, "fixed-1.2": 0.5}, problems=2000)
    row = one(beats(result, FIXED_KEYS, "pass@1", 1, "better", "Table 1"))
    assert row["p"] > 0.05
    assert "fixed-1.2" in row["note"]


def test_equal_methods_are_seldom_told_apart():
    """At most about 5 % false findings, even if training runs differ from seed to seed."""
    found = 0
    for number in range(100):
        generator = np.random.default_rng(number)
        rows = []
        for key in ("tampo", "linear"):
            for seed in range(5):
                chance = 0.4 + 0.05 * generator.normal()
                right = generator.random(100) < chance
                own = pd.DataFrame({"pass@1": 100.0 * right, "method": key, "seed": seed, "benchmark": "a"})
                rows.append(own.assign(problem_id=range(100)))
        result = Result(pd.concat(rows), {}, {})
        found += one(beats(result, ("linear",), "pass@1", 1, "better", "Table 1"))["verdict"] == HOLDS
    assert found <= 10


def estimate(value, low, high, p=0.5):
    return Estimate(value, low, high, p)


@pytest.mark.parametrize(
    ("effect", "published", "p", "verdict"),
    [
        (estimate(2, 1, 3), 1.9, 0.001, HOLDS),
        (estimate(2, -1, 5), 1.9, 0.2, NOT_TESTABLE),  # 3.8 would have been found
        (estimate(0.8, -0.4, 2.0), 1.9, 0.2, CANNOT_TELL),  # 1.5 would have been found
        (estimate(-1, -3, 0.9), 1.9, 0.8, FAILS),
        (estimate(-0.4, -1.8, 1.0), 1.9, 0.8, CANNOT_TELL),  # below the paper's 1.9, but not below its half
        (estimate(-1, -3, 1.8), 1.9, 0.8, NOT_TESTABLE),
        (estimate(-1, -3, 1), None, 0.8, CANNOT_TELL),
        (estimate(-2, -3, -1), None, 0.99, FAILS),
        (estimate(1, float("nan"), float("nan")), 1.9, 0.001, NOT_TESTABLE),
    ],
)
def test_verdicts(effect, published, p, verdict):
    assert one(Claim("c", "s", "x", effect, published, p))["verdict"] == verdict


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (estimate(0.1, 0.05, 0.15), HOLDS),
        (estimate(0.1, 0.05, 0.4), CANNOT_TELL),
        (estimate(0.5, 0.3, 0.9), FAILS),
    ],
)
def test_claims_of_agreement_are_compared_with_their_bound(effect, verdict):
    row = one(Claim("c", "s", "x", effect, bound=0.2))
    assert row["verdict"] == verdict
    assert pd.isna(row["p_holm"])


def test_the_number_of_tests_counts():
    claims = [Claim(str(i), "s", "x", estimate(1, 0.1, 2), None, p) for i, p in enumerate([0.04, 0.5, 0.001])]
    table = claims_table([*claims, Claim("bound", "s", "x", estimate(0, 0, 0), bound=1)])
    assert table["p_holm"].dropna().tolist() == pytest.approx([0.08, 0.5, 0.003])
    assert table["verdict"].tolist() == [CANNOT_TELL, CANNOT_TELL, HOLDS, HOLDS]


def test_sampling_deviation_is_that_of_repeated_evaluations():
    """One model, evaluated again and again: the deviation of average Pass@1, against what one evaluation tells."""
    generator = np.random.default_rng(0)
    chances = {"a": generator.random(50), "b": generator.random(80)}
    passes = [np.mean([100 * (generator.random(len(q)) < q).mean() for q in chances.values()]) for _ in range(4000)]
    rows = []
    for seed in range(30):
        for name, q in chances.items():
            share = (generator.random((len(q), 8)) < q[:, None]).mean(axis=1)
            rows.append(pd.DataFrame({"avg@8": 100 * share, "seed": seed, "benchmark": name}))
    assert sampling_deviation(pd.concat(rows)) == pytest.approx(np.std(passes), rel=0.05)
    assert sampling_deviation(pd.concat(rows), 4) == pytest.approx(np.std(passes) / 2, rel=0.05)


def test_the_detectable_effect_is_found_with_the_stated_power():
    """Simulated: an effect of that size is significant in about 80 % of experiments with its standard error."""
    claim = Claim("c", "s", "x", estimate(0.0, -1.96, 1.96), 1.0, 0.5)
    found = np.random.default_rng(0).normal(claim.detectable, 1.0, 100_000) > 1.645
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_pass_1_is_measured_by_all_samples():
    result = make_result(TABLE1, {"tampo": 0.45})
    claim = beats(result, ("linear",), "pass@1", 1, "better", "Table 1")
    scores = result.scores.groupby(["method", "benchmark"])["avg@8"].mean().groupby("method").mean()
    assert claim.effect.value == pytest.approx(scores["tampo"] - scores["linear"])
    assert "Pass@1 (all 8 samples)" in claim.statistic


def test_trainings_that_are_the_same_are_counted(tmp_path):
    """Two seeds drew the same temperatures in both rows; where all are the same, nothing can be shown."""
    result = make_result(TABLE2, {}, seeds=3, problems=10, tmp_path=tmp_path)
    for seed in (0, 1):
        result.runs["tampo", seed].metrics().to_csv(result.runs["alpha-0.01", seed].folder / "metrics.csv", index=False)
    assert identical_trainings(result, "tampo", "alpha-0.01") == (2, 3)
    assert identical_trainings(result, "tampo", "alpha-0.1") == (0, 3)
    claim = beats(result, ("alpha-0.01",), "pass@1", 2, "best", "Table 2")
    assert claim.note == "2 of 3 seeds are the same training in both rows, where no difference can be"
    result.runs["tampo", 2].metrics().to_csv(result.runs["alpha-0.01", 2].folder / "metrics.csv", index=False)
    claim = beats(result, ("alpha-0.01",), "pass@1", 2, "best", "Table 2")
    assert (claim.could_show, one(claim)["could_show"]) == (False, "no")


@pytest.mark.parametrize(
    ("chances", "reached", "verdict"),
    [
        ({"tampo": 0.5, "linear": 0.6}, 2, HOLDS),  # second on both
        ({"tampo": 0.5, "linear": 0.6, "base": 0.6}, 0, FAILS),  # third: the base model counts
        ({"tampo": 0.6, "linear": 0.5}, 2, HOLDS),
    ],
)
def test_best_or_second_on_every_benchmark(chances, reached, verdict):
    row = one(best_or_second(make_result(TABLE1, chances, problems=1500)))
    assert (row["verdict"], row["note"].split(";")[0]) == (verdict, f"it is on {reached} of 2 benchmarks")


def test_rewards_and_scores_in_the_same_and_in_the_reverse_order(tmp_path):
    chances = {method.key: 0.2 + 0.1 * number for number, method in enumerate((*TABLE2, *TABLE3[0:1], *TABLE3[2:]))}
    results = []
    for name, methods in (("2", TABLE2), ("3", TABLE3)):
        (tmp_path / name).mkdir()
        results.append(make_result(methods, chances, seeds=3, problems=400, tmp_path=tmp_path / name))
    for sign, verdict in ((1, HOLDS), (-1, FAILS)):
        for result in results:
            for (key, seed), record in result.runs.items():
                level = 0.5 + sign * chances[key] + 0.001 * seed
                record.metrics().assign(reward=level).to_csv(record.folder / "metrics.csv", index=False)
        claim = rewards_follow_scores(results)
        assert claim.effect.value == pytest.approx(sign)
        assert claim.statistic.startswith("rank correlation over 6 schemes")
        # Without any variation over seeds the interval is a point.
        assert one(claim)["verdict"] == verdict


def test_the_sampling_of_answers_alone_can_hide_the_agreement_of_seeds():
    row = one(seeds_agree(make_result(TABLE1, {}, problems=300)))
    assert row["low"] > 0.18
    assert (row["could_show"], row["verdict"]) == ("no", NOT_TESTABLE), "not a word about trainings"
    many = one(seeds_agree(make_result(TABLE4, {}, problems=200_000, benchmarks=("a",))))
    assert (many["could_show"], many["verdict"]) == ("yes", HOLDS)
    apart = one(seeds_agree(make_result(TABLE4, {}, problems=200_000, benchmarks=("a",), spread=0.02)))
    assert (apart["could_show"], apart["verdict"]) == ("yes", FAILS)


def test_temperatures_and_optimal_temperatures_of_known_logs(tmp_path):
    result = make_result(TABLE1, {}, problems=5, tmp_path=tmp_path)
    rise, fall = claims_table(temperature_claims(result, 12)).itertuples()
    assert rise.could_show == "yes"
    assert rise.value == pytest.approx(0.26, abs=0.02)
    assert fall.value == pytest.approx(0.14, abs=0.02)
    assert (rise.verdict, fall.verdict) == (HOLDS, HOLDS)
    apart, moderate = claims_table(optimal_temperature_claims(result)).itertuples()
    assert apart.value == pytest.approx(-0.2, abs=0.01)
    assert apart.verdict == HOLDS, "either sign is a difference"
    assert moderate.value == pytest.approx(0.2, abs=0.01), "T* is 1.1: 0.2 above 0.9 and 0.4 below 1.5"
    assert moderate.verdict == HOLDS


def test_rewards_are_compared_with_every_other_method(tmp_path):
    result = make_result(TABLE1, {}, problems=5, tmp_path=tmp_path)
    row = one(highest_reward(result))
    assert (row["value"], row["p"]) == (0.0, 1.0), "all rewards are equal"
    for (key, seed), record in result.runs.items():
        level = {"tampo": 0.6, "linear": 0.55}.get(key, 0.4) + 0.001 * seed * (key == "tampo")
        record.metrics().assign(reward=level).to_csv(record.folder / "metrics.csv", index=False)
    row = one(highest_reward(result))
    assert row["value"] == pytest.approx(0.052)
    assert row["verdict"] == HOLDS
    assert "best of the others here: linear" in row["note"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_whole_table_and_its_files(tmp_path, seeds):
    def make(methods, name):
        (tmp_path / name).mkdir()
        return make_result(methods, {}, seeds, 30, tmp_path=tmp_path / name)

    claims = all_claims(
        make(TABLE1, "1"), make(TABLE2, "2"), make(TABLE3, "3"), make(TABLE5, "5"), estimate(1.01, 1.0, 1.02), 12
    )
    table = claims_table(claims)
    assert len(table) == 15
    fewer = all_claims(make(TABLE1, "6"), make(TABLE2, "7"), make(TABLE3, "8"), None, None, 12)
    left_out = {claim.claim for claim in claims} - {claim.claim for claim in fewer}
    assert left_out == {"TAMPO is above GRPO with another base and task", "TAMPO takes the same time"}
    assert set(table["verdict"]) <= {HOLDS, FAILS, CANNOT_TELL, NOT_TESTABLE}
    if seeds == 1:  # one training run says nothing about other seeds
        single = table["statistic"].str.contains("deviation|temperature|reward|T\\*")
        assert set(table[single]["verdict"]) == {NOT_TESTABLE}
    paths = write_claims(table, tmp_path, claims_caption(load_params("mini", {"seeds": range(seeds)})))
    assert [path.suffix for path in paths] == [".csv", ".md", ".html"]
    assert len(pd.read_csv(paths[0])) == 15
    assert "TAMPO takes the same time" in paths[1].read_text()
    again = pd.read_csv(paths[0])  # what a reader of the file makes of it is what was written
    assert brief_claims(again) == brief_claims(table)
    shown = format_claims(table)
    assert shown["Here, 95 % interval"].str.contains("to").sum() >= 6
