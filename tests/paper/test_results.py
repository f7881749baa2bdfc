"""Scores become means, paired differences and rows."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from tampo.paper.experiments import TABLE1
from tampo.paper.results import (
    Result,
    by_seed,
    compare,
    differences,
    pass_scores,
    robust_summary,
    score_arrays,
    summarise,
)
from tests.paper.helpers import METHODS, make_result

PAIR = (METHODS[1], TABLE1[1])


def test_score_arrays_put_the_same_seed_and_problem_in_the_same_place():
    scores = make_result(["gcd"]).scores
    own = scores[scores["method"] == "tampo"]
    array = score_arrays(own.sample(frac=1, random_state=0), "avg@8")["gcd"]
    assert array.shape == (2, 20)
    for seed in (0, 1):
        expected = own[own["seed"] == seed].sort_values("problem_id")["avg@8"]
        np.testing.assert_array_equal(array[seed], expected)


def test_differences_are_paired_and_use_common_seeds_only():
    result = make_result(["gcd", "chain_sum"], PAIR, seeds=(0, 1, 2))
    scores = result.scores
    fewer = scores[~((scores["method"] == "fixed-0.9") & (scores["seed"] == 1))]
    arrays = differences(Result(fewer, {}, {}), "tampo", "fixed-0.9", "avg@8")
    assert [array.shape for array in arrays] == [(2, 20), (2, 20)]
    table = scores.pivot(index=["benchmark", "problem_id", "seed"], columns="method", values="avg@8")
    expected = (table["tampo"] - table["fixed-0.9"]).drop(index=1, level="seed").groupby("benchmark").mean()
    assert sorted(array.mean() for array in arrays) == pytest.approx(sorted(expected))
    only = Result(scores[(scores["method"] == "tampo") == (scores["seed"] == 1)], {}, {})
    with pytest.raises(ValueError, match="no training seed in common"):
        differences(only, "tampo", "fixed-0.9", "avg@8")


def test_compare_has_a_row_for_each_baseline_and_metric():
    result = make_result(["gcd", "chain_sum"], (TABLE1[0], *PAIR))
    table = compare(result, "tampo", (TABLE1[0], *PAIR))
    assert table["rival"].unique().tolist() == ["GRPO (T = 0.9)"]
    assert table["metric"].tolist() == ["pass@1", "avg@8", "pass@8"]
    means = result.scores.groupby("method")[["pass@1", "avg@8", "pass@8"]].mean()
    np.testing.assert_allclose(table["difference"], means.loc["tampo"] - means.loc["fixed-0.9"])
    assert ((table["low"] < table["difference"]) & (table["difference"] < table["high"])).all()
    assert table["p"].between(0, 1).all()


def test_seeds_as_rows():
    result = make_result(["gcd", "chain_sum"], seeds=(0, 5, 2))
    runs, methods = by_seed(result)
    assert [method.title for method in methods] == [
        "TAMPO run 1 (seed 0)",
        "TAMPO run 2 (seed 2)",
        "TAMPO run 3 (seed 5)",
    ]
    summary = summarise(runs, methods, table=4).set_index(["method", "benchmark", "metric"])
    own = result.scores[(result.scores["method"] == "tampo") & (result.scores["seed"] == 5)]
    assert summary.loc[("run-3", "gcd", "avg@8"), "value"] == own[own["benchmark"] == "gcd"]["avg@8"].mean()
    assert (summary["seeds"] == 1).all()


def test_robust_summary_counts_pairs_of_runs_on_each_benchmark():
    result = make_result(["gcd", "chain_sum"], (TABLE1[0], *PAIR), seeds=(0, 1, 2))
    table = robust_summary(result, (TABLE1[0], *PAIR)).set_index("title")
    means = result.scores.groupby(["method", "benchmark", "seed"])["pass@1"].mean()
    better = [
        (ours > theirs) + 0.5 * (ours == theirs)
        for benchmark in ("gcd", "chain_sum")
        for ours in means["tampo", benchmark]
        for theirs in means["fixed-0.9", benchmark]
    ]
    assert table.loc["GRPO (T = 0.9)", "tampo_better"] == pytest.approx(np.mean(better))
    assert table.loc[PAIR[0].title, "tampo_better"] == 0.5
    assert table.loc[PAIR[0].title, "iqm"] == pytest.approx(
        np.mean(sorted(means["tampo"])[1:5])
    )  # six scores: one off each end
    assert "Base model" not in table.index


def test_pass_scores_use_all_samples():
    """Pass@k is the share of the sets of k samples with a right one among them."""
    right = {"a": [0] * 9, "b": [1, 0, 0, 0, 1, 0, 0, 0, 0], "c": [0, 1, 1, 1, 1, 1, 1, 1, 1]}
    samples = pd.DataFrame(
        {"benchmark": "gcd", "problem_id": name, "sample": number, "correct": bool(value)}
        for name, values in right.items()
        for number, value in enumerate(values)
    )
    scores = pass_scores(samples.sample(frac=1, random_state=0)).set_index("problem_id")
    assert scores.columns.tolist() == ["benchmark", "pass@1", "pass@8"], "there are no 64 samples"
    for name, values in right.items():
        for k in (1, 8):
            share = np.mean([any(drawn) for drawn in combinations(values, k)])
            assert scores.loc[name, f"pass@{k}"] == pytest.approx(100 * share)
