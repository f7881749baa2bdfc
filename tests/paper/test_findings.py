"""Titles of figures: sentences about small tables that can be read off by eye."""

import numpy as np
import pandas as pd
import pytest

from tampo.paper import findings
from tampo.paper.replay import REPLAY
from tampo.stats import Estimate

NAN = float("nan")


def curves_of(column, ends, seeds=2, steps=3, **more):
    """A curve for each title that ends at a value, with `seeds` seeds around it; earlier steps are far away."""
    rows = [
        {
            "title": title,
            "seed": seed,
            "step": step,
            column: end + 0.1 * (2 * seed - seeds + 1) if step == steps else 9.0,
        }
        for title, end in ends.items()
        for seed in range(seeds)
        for step in range(1, steps + 1)
    ]
    return pd.DataFrame(rows).assign(**more)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": 0.6, "b": 0.25, "c": NAN}, "R: from 0.25 s for b to 0.60 s for a"),
        ({"a": 0.601, "b": 0.599, "c": 0.6}, "R: 0.60 s for all 3"),
        ({"a": 0.6, "b": 0.6}, "R: 0.60 s for both"),
        ({"a": 0.6, "b": NAN}, "R: 0.60 s for a"),
        ({"a": NAN}, ""),
        ({}, ""),
    ],
)
def test_span(values, expected):
    assert findings.span("R", pd.Series(values, dtype=float), unit=" s") == expected


@pytest.mark.parametrize(
    ("values", "lowest", "expected"),
    [
        ({"TAMPO": 3.0, "a": 2.0}, False, "TAMPO, 3.0"),
        ({"TAMPO": 3.0, "a": 2.0, "b": 1.0, "c": NAN}, True, "b, 1.0; TAMPO: 3.0 (rank 3 of 3)"),
        ({"TAMPO": 1.0, "a": 2.0, "b": 3.0, "c": 1.0}, False, "b, 3.0; TAMPO: 1.0 (rank 3 of 4)"),
        ({"TAMPO": NAN, "a": 2.0}, False, "a, 2.0"),
        ({"a": 2.0}, False, "a, 2.0"),
        ({"TAMPO": NAN}, False, ""),
    ],
)
def test_best_and_tampo(values, lowest, expected):
    assert findings.best_and_tampo(pd.Series(values), ".1f", lowest=lowest) == expected


def test_medians_of_one_group_only():
    both = pd.Series(["right", "wrong", "wrong"])
    assert findings.medians("T*", pd.Series([0.6, 1.5, 1.2]), both) == "T*: 0.6 for right (1), 1.35 for wrong (2)"
    assert findings.medians("T*", pd.Series([0.6]), both[:1]) == "T*: 0.6 for right (1)"
    assert findings.medians("T*", pd.Series([], dtype=float), both[:0]) == ""


def test_course_of_the_temperature():
    """Ten steps of warm-up at 1.0; then 0.6 for seed 0 and 0.8 for seed 1, and 1.2 for both in the last five."""
    step = np.arange(1, 31)
    seeds = [
        pd.DataFrame(
            {"seed": seed, "step": step, "temperature": np.select([step <= 10, step <= 25], [1.0, early], 1.2)}
        )
        for seed, early in ((0, 0.6), (1, 0.8))
    ]
    drawn = pd.concat(seeds)
    expected = "TAMPO's mean T: 0.70 in the 5 steps after the warm-up, 1.20 in the last"
    assert findings.course(drawn, 10, 5) == expected
    assert findings.course(drawn, 0, 5) == "TAMPO's mean T: 1.00 in the first 5 steps, 1.20 in the last"
    assert findings.course(drawn, 25, 5) == "TAMPO's mean T after the warm-up: 1.20"
    assert findings.course(drawn, 30, 5) == "", "nothing after the warm-up"
    assert findings.course(drawn[drawn["step"] <= 3], 0, 5) == "TAMPO's mean T: 1.00"


def test_rewards_at_the_end():
    rewards = curves_of("smoothed", {"TAMPO": 0.6, "linear": 0.25, "T = 0.9": 0.5})
    at_1 = curves_of("smoothed_at_1", {"TAMPO": 0.3, "linear": 0.2, "T = 0.9": 0.4})["smoothed_at_1"]
    both = rewards.assign(smoothed_at_1=at_1)
    assert findings.best_rewards(both) == "Highest reward at the end: TAMPO, 0.60; at T = 1: T = 0.9, 0.40"
    expected = "Reward at the end: from 0.25 for linear to 0.60 for TAMPO; "
    assert findings.final_rewards(both) == expected + "at T = 1: from 0.20 for linear to 0.40 for T = 0.9"
    one_seed = (both["title"] == "T = 0.9") & (both["seed"] == 1)
    gap = both.assign(smoothed_at_1=at_1.mask(one_seed))
    assert findings.best_rewards(gap).endswith("at T = 1: TAMPO, 0.30"), "as the line, which has a gap there"
    none = rewards.assign(smoothed_at_1=NAN)
    assert findings.best_rewards(none) == "Highest reward at the end: TAMPO, 0.60"
    alone = none[none["title"] == "linear"]
    assert findings.final_rewards(alone) == "Reward at the end: 0.25 for linear"


def optima(gaps):
    """Medians at two steps whose differences are `gaps` - 0.1 and + 0.1; another step has no A > 0."""
    rows = []
    for title, gap in gaps.items():
        rows += [{"title": title, "step": 3, "advantage": "A < 0", "median": 9.0}]
        for step, change in ((1, -0.1), (2, 0.1)):
            rows += [{"title": title, "step": step, "advantage": "A > 0", "median": 1.0 + gap + change}]
            rows += [{"title": title, "step": step, "advantage": "A < 0", "median": 1.0}]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ({"a": -0.3, "b": -0.5}, "Median T* is lower for A > 0 than for A < 0, by 0.30 for a, 0.50 for b"),
        ({"a": 0.3}, "Median T* is higher for A > 0 than for A < 0, by 0.30 for a"),
        ({"a": 0.3, "b": -0.5}, "Median T* for A > 0 minus that for A < 0: 0.30 for a, -0.50 for b"),
        ({"a": -0.3, "b": NAN}, "Median T* is lower for A > 0 than for A < 0, by 0.30 for a"),
    ],
)
def test_optima_by_sign(gaps, expected):
    assert findings.optima_by_sign(optima(gaps)) == expected


def test_optima_of_one_sign_only():
    curves = optima({"a": -0.3})
    assert findings.optima_by_sign(curves[curves["advantage"] == "A < 0"]) == ""


def test_step_times():
    ratios = {"tampo": Estimate(1.02, 0.99, 1.05, 0.1), "fast": Estimate(0.624, NAN, NAN, NAN)}
    expected = "A step of TAMPO takes 1.02 (0.99 to 1.05) times as long as one of TRL's GRPO, as tampo trains 0.62"
    assert findings.overhead(ratios) == expected


def test_scores_and_evaluation_temperatures():
    rows = [("TAMPO", 0.6, 40.0), ("a", 0.6, 41.5), ("TAMPO", 1.0, 30.0), ("a", 1.0, NAN), ("a", 1.4, NAN)]
    table = pd.DataFrame(rows, columns=["title", "eval_temperature", "value"]).assign(benchmark="one", metric="avg@8")
    expected = "Highest avg@8 at T = 0.6: a, 41.5 %; at T = 1: TAMPO, 30.0 %"
    assert findings.evaluation(table, "avg@8") == expected
    other = table.assign(metric="pass@1")
    cold = other[other["eval_temperature"] == 0.6]
    assert findings.scores(cold, "pass@1") == "Highest Pass@1: a, 41.5 %; TAMPO: 40.0 % (rank 2 of 2)"
    assert findings.scores(cold, "pass@8") == "" == findings.evaluation(cold, "pass@8")


def test_temperatures_of_controllers():
    table = pd.DataFrame({"title": ["a", "a", "b"], "temperature": [0.6, 1.0, 1.5]})
    assert findings.mean_temperatures(table) == "Mean sampling temperature: from 0.80 for a to 1.50 for b"
    assert findings.mean_temperatures(table[:2]) == "Mean sampling temperature: 0.80 for a"


def test_two_methods_in_training():
    temperatures, rewards = (
        curves_of("mean", {"sum": 0.6, "mean": 1.1}),
        curves_of("smoothed", {"sum": 0.5, "mean": 0.4}),
    )
    expected = "Mean T at the end: from 0.60 for sum to 1.10 for mean; reward: from 0.40 for mean to 0.50 for sum"
    assert findings.training(temperatures, rewards) == expected


def test_weights_above_0():
    """Two trials with 1 and 2 of three weights above 0 at 30 tokens, and 1 and 1 at 3,000."""
    weights = {30: [[1, 0, 0], [0.5, 0.5, 0]], 3000: [[0, 1, 0], [1, 0, 0]]}
    rows = [
        {"likelihood": "sum", "length": length, "trial": trial, "temperature": t, "weight": weight}
        for length, trials in weights.items()
        for trial, row in enumerate(trials)
        for t, weight in zip((0.6, 1.0, 1.5), row, strict=True)
    ]
    table = pd.DataFrame(rows)
    both = pd.concat([table, table.assign(likelihood="mean", weight=1 / 3)])
    expected = "Candidates with a weight (of 3) at 30 and 3,000 tokens: 1.5 and 1.0 (sum), 3.0 and 3.0 (mean)"
    assert findings.weights(both) == expected
    short = table[table["length"] == 30]
    assert findings.weights(short) == "Candidates with a weight (of 3) at 30 tokens: 1.5 (sum)"


def test_offsets_of_rollouts_and_of_the_longest_chains():
    rows = [
        ("rollout", 4, 0.3),
        ("rollout", 8, -1.2),
        ("chain", 100, 0.5),
        ("chain", 3000, -0.02),
        ("chain", 3000, 0.01),
    ]
    table = pd.DataFrame(rows, columns=["kind", "length", "median"])
    expected = "|Median of T* - T| is at most 1.20 for single rollouts"
    assert findings.offsets(table) == expected + ", 0.02 for chains of 3,000 tokens"
    assert findings.offsets(table[:2]) == expected


def test_differences_to_other_rows_and_to_replays():
    rows = [("a", 2.0, 0.5, 3.5), ("b", -2.0, -3.5, -0.5), ("c", 0.1, -1.0, 1.2), (REPLAY.title, 0.3, -0.5, 1.1)]
    table = pd.DataFrame(rows, columns=["rival", "difference", "low", "high"])
    expected = "TAMPO is better than 1 of 3 rows and worse than 1, beyond 95 % intervals"
    assert findings.differences(table[:3]) == expected
    assert findings.differences(table) == expected.replace("3 rows", "4 rows") + (
        "; minus its replays in points: +0.3 (-0.5 to +1.1)"
    )
    assert findings.differences(table[:3].assign(low=NAN, high=NAN)) == "", "one seed"


def regret_rows(best):
    """Three methods in two regimes; `best` are the titles of the best fixed temperatures."""
    worst = {"cold": 2.0, "warm": 0.9, "TAMPO": 2.9}
    rows = [
        {"method": title.lower(), "title": title, "regime": regime, "regret": worst[title], "best": title == fixed}
        for title in worst
        for regime, fixed in zip(("x", "y", "mean", "worst"), (*best, None, None), strict=True)
    ]
    return pd.DataFrame(rows)


def test_regrets():
    worst = "Smallest worst regret: warm, 0.9 points"
    tampo = "; TAMPO: 2.9 points (rank 3 of 3)"
    different = findings.regrets(regret_rows(("cold", "warm")), ["cold", "warm"])
    assert different == f"No fixed T is the best in every regime. {worst}{tampo}"
    same = regret_rows(("warm", "warm"))
    assert findings.regrets(same, ["cold", "warm"]) == f"warm is the best fixed T in every regime. {worst}{tampo}"
    without = same[same["title"] != "TAMPO"]
    assert findings.regrets(without, ["cold", "warm"]) == f"warm is the best fixed T in every regime. {worst}"


def test_pass_curves():
    values = {("x", 1): (30, 20), ("y", 1): (30, 20), ("z", 1): (30, 20)}
    values |= {("x", 64): (80, 90), ("y", 64): (80, 70), ("z", 64): (80, NAN)}
    rows = [
        {"regime": regime, "k": k, "title": title, "value": value}
        for (regime, k), pair in values.items()
        for title, value in zip(("TAMPO", "Base model"), pair, strict=True)
    ]
    table = pd.DataFrame(rows)
    expected = "Pass@k of TAMPO is above that of the base model in 3 of 3 regimes at k = 1"
    assert findings.pass_curves(table, "TAMPO", "Base model") == f"{expected}, in 1 of 2 regimes at k = 64"
    assert findings.pass_curves(table[table["k"] == 1], "TAMPO", "Base model") == expected
    assert findings.pass_curves(table[table["title"] != "TAMPO"], "TAMPO", "Base model") == ""


def test_courses_of_two_regimes():
    facts = [(0, 1, 1.0, True), (0, 2, 1.4, False), (1, 2, 1.2, False), (0, 3, 1.0, False), (0, 4, 0.7, False)]
    columns = ["seed", "step", "temperature", "warmup"]
    curve = pd.DataFrame(facts, columns=columns)
    temperatures = {"facts": curve, "sums": curve[curve["step"] < 3]}
    rewards = {
        "facts": curves_of("smoothed_at_1", {"TAMPO": 0.3, "a": 0.2}),
        "sums": curves_of("smoothed_at_1", {"TAMPO": 0.3, "a": 0.5}),
    }
    expected = "TAMPO's mean T: from 1.15 to 0.85 in facts, from 1.30 to 1.30 in sums"
    highest = "highest reward at T = 1: TAMPO in facts, a in sums"
    assert findings.courses(temperatures, rewards, 2) == f"{expected}; {highest}"
    unknown = {regime: curve.assign(smoothed_at_1=NAN) for regime, curve in rewards.items()}
    assert findings.courses(temperatures, unknown, 2) == expected
    warm = {"facts": curve[curve["warmup"]]}
    assert findings.courses(warm, {"facts": rewards["facts"]}, 2) == "highest reward at T = 1: TAMPO in facts"


def test_agreement_of_signals():
    table = pd.DataFrame({"signal": ["a", "b", "a", "b"], "correlation": [0.5, -0.2, 0.1, NAN]})
    expected = "Rank correlation of a signal with the gain, mean of panels: from -0.20 for b to 0.30 for a"
    assert findings.signals(table) == expected
    assert findings.signals(pd.DataFrame([])) == "", "no gain was logged"


def test_stages():
    rows = [
        ("TAMPO", 1, 0.8, 0.1),
        ("TAMPO", 2, 1.2, 0.3),
        ("TAMPO", 2, 1.4, 0.5),
        ("a", 1, 0.9, 0.9),
        ("a", 2, 0.9, 0.6),
    ]
    curves = pd.DataFrame(rows, columns=["title", "stage", "temperature", "reward"])
    last = "highest reward in the last stage: a, 0.60"
    expected = f"TAMPO's mean T by stage: 0.80, 1.30; {last}; TAMPO: 0.40 (rank 2 of 2)"
    assert findings.drift(curves) == expected
    assert findings.drift(curves[curves["title"] == "a"]) == last


def test_losses():
    rows = [
        ("a", "x", "pass@1", 1.2, 0.2, 2.2),
        ("b", "x", "pass@1", -2.0, -5.0, 1.0),
        ("a", "x", "pass@8", 9.0, 8.0, 9.9),
    ]
    table = pd.DataFrame(rows, columns=["title", "regime", "metric", "difference", "low", "high"])
    what = "Loss at T = 1 minus loss at the sampling T"
    found = f"{what}, Pass@1 in points: from -2.0 for b in x to +1.2 for a in x"
    assert findings.loss(table) == f"{found}; 1 of 2 intervals exclude 0"
    assert findings.loss(table.assign(low=NAN, high=NAN)) == found
    assert findings.loss(table.assign(difference=NAN, low=NAN, high=NAN)) == what


def test_seeds_for_power():
    rows = [
        (seeds, samples, "same problems", min(0.1 * seeds * samples, 1.0)) for seeds in (2, 4, 6) for samples in (1, 2)
    ]
    rows += [(seeds, samples, "new problems", 0.1) for seeds in (2, 4, 6) for samples in (1, 2)]
    table = pd.DataFrame(rows, columns=["seeds", "samples", "comparison", "power"])
    expected = "Seeds for 80 % power, same problems: over 6 with 1 sample, 4 with 2; on new problems 6 seeds reach 10 %"
    assert findings.power(table) == expected


def test_theory():
    expected = "A change at p = 1 % counts 5.0 times as much as at 50 % in large groups, 1.4 times in groups of 8"
    assert findings.prompt_weights(5.03, 1.41, 8, NAN, 1000) == expected
    whole = f"{expected}; |mean T* - T| of 1,000 tokens is at most 0.19"
    assert findings.prompt_weights(5.03, 1.41, 8, 0.193, 1000) == whole
    rows = [(0, 1.5, 1.5, 0.0089), (30, 0.6, 1.5, 0.0045), (3000, 1.5, 1.5, 0.00033)]
    panels = pd.DataFrame(rows, columns=["tokens", "signal_at", "reward_at", "size"])
    where = "The signal is highest where J is in 2 of 3 panels; largest value: 0.009 with 0 other tokens"
    assert findings.exact_signals(panels) == f"{where}, 0.0003 with 3,000 other tokens"
    assert findings.exact_signals(panels[:1]) == where.replace("2 of 3", "1 of 1")
