"""The statistics of the paper's claims: from the runs of the tables to one `Claim` each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from tampo.paper.claims import TIME_CLAIM, Claim, claims_table
from tampo.paper.experiments import FIXED
from tampo.paper.figures import WINDOW
from tampo.paper.published_results import TABLES
from tampo.paper.results import Result, differences, identical_trainings, score_arrays
from tampo.paper.tables import metric_title
from tampo.stats import Estimate, deviation_interval, mean_interval

FIXED_KEYS = tuple(method.key for method in FIXED)
TIME_MARGIN = 1.05  # a larger ratio of step times counts as measurable
_RANGE_OF_THREE = 1.69  # expected range of three normal draws, in standard deviations


def all_claims(
    main: Result,
    alphas: Result,
    top_ps: Result,
    choice: Result | None,
    step_times: Estimate | None,
    warmup_steps: int,
) -> list[Claim]:
    """The claims of sections 4.2 to 4.4 and of appendices C and E.

    Args:
        main: The runs of Table 1.
        alphas: The runs of Table 2.
        top_ps: The runs of Table 3.
        choice: The runs of Table 5; None leaves its claim out.
        step_times: TAMPO's step time over GRPO's, from `tampo.paper.bench.step_time`; None leaves its claim out.
        warmup_steps: Steps of the warm-up of TAMPO's runs in `main`.
    """
    claims = [
        *main_claims(main),
        beats(alphas, ("alpha-0.01", "alpha-0.1"), "pass@1", 2, "α = 0.05 is the best of three in Pass@1", "Table 2"),
        beats(top_ps, ("p-0.9", "p-0.5", "p-0"), "pass@1", 3, "p = 0.7 is the best of four in Pass@1", "Table 3"),
    ]
    if choice is not None:
        title = "TAMPO is above GRPO with another base and task"
        claims.append(beats(choice, ("grpo",), "pass@1", 5, title, "Table 5"))
    claims += [best_or_second(main), seeds_agree(main), highest_reward(main), rewards_follow_scores([alphas, top_ps])]
    claims += [*temperature_claims(main, warmup_steps), *optimal_temperature_claims(main)]
    if step_times is not None:
        claims.append(no_extra_time(step_times))
    return claims


def main_claims(main: Result) -> list[Claim]:
    """The claims about Table 1's averages, which can be tested at any evaluation temperature."""
    return [
        beats(main, FIXED_KEYS, "pass@1", 1, "TAMPO is above the best fixed temperature in Pass@1", "Table 1"),
        beats(main, FIXED_KEYS, "pass@8", 1, "TAMPO is above the best fixed temperature in Pass@8", "Table 1"),
        beats(main, ("linear",), "pass@1", 1, "TAMPO is above the linear schedule in Pass@1", "Table 1"),
    ]


def verdicts_at(results: Mapping[float, Result]) -> pd.DataFrame:
    """`main_claims` of the same training runs by evaluation temperature.

    Returns:
        The rows of `claims_table`, adjusted within each temperature, with a column eval_temperature.
    """
    tables = [claims_table(main_claims(result)).assign(eval_temperature=t) for t, result in results.items()]
    return pd.concat(tables, ignore_index=True)


def beats(result: Result, baselines: Sequence[str], metric: str, table: int, claim: str, source: str) -> Claim:
    """The claim that TAMPO's average is above that of each baseline.

    Pass@1 is measured by all samples of a problem, not by one: the same mean with less noise. The p-value is the
    largest over the baselines (an intersection-union test, which needs no adjustment for their number). The effect is
    that against the best baseline here, which favours this baseline a little: it was chosen for its luck too.
    """
    measured = pass_1_metric(result.scores) if metric == "pass@1" else metric
    estimates = {baseline: mean_interval(differences(result, "tampo", baseline, measured)) for baseline in baselines}
    best = min(estimates, key=lambda baseline: estimates[baseline].value)
    same, seeds = identical_trainings(result, "tampo", best)
    notes = [f"best of the others here: {best}"] if len(baselines) > 1 else []
    if same:
        notes.append(f"{same} of {seeds} seeds are the same training in both rows, where no difference can be")
    cell = "ECQA" if table == 5 else "Average"
    published = {row: values[metric][cell] for row, values in TABLES[table].items() if row in ("tampo", *baselines)}
    return Claim(
        claim,
        source,
        f"average {_title(metric, measured)} above the best of the others, points",
        estimates[best],
        round(published.pop("tampo") - max(published.values()), 2),
        max(estimate.p_greater for estimate in estimates.values()),
        testable=False if same and same == seeds else None,
        note="; ".join(notes),
    )


def pass_1_metric(scores: pd.DataFrame) -> str:
    """The column that measures Pass@1 with the least noise: avg@n of all n samples, or "pass@1" of one."""
    return next((name for name in scores.columns if name.startswith("avg@")), "pass@1")


def _title(metric: str, measured: str) -> str:
    samples = f" (all {measured.removeprefix('avg@')} samples)" if measured.startswith("avg@") else ""
    return metric_title(metric) + samples


def best_or_second(result: Result) -> Claim:
    """The claim that TAMPO is the best or the second best row on every benchmark (section 4.2).

    On each benchmark it must be above all others but one, so above the second best of them. The effect is that on the
    benchmark where it is weakest, and the p-value the largest over benchmarks.
    """
    measured = pass_1_metric(result.scores)
    arrays = {key: score_arrays(rows, measured) for key, rows in result.scores.groupby("method", sort=False)}
    ours, estimates = arrays.pop("tampo"), {}
    for benchmark, scores in ours.items():
        others = sorted((theirs[benchmark] for theirs in arrays.values()), key=np.mean, reverse=True)
        # Shape (seeds, problems); that of the base model, which has no training seed, counts for each of them.
        estimates[benchmark] = mean_interval([scores - others[1]])
    weakest = min(estimates, key=lambda benchmark: estimates[benchmark].value)
    reached = sum(estimate.value >= 0 for estimate in estimates.values())
    return Claim(
        "TAMPO is the best or the second best on every benchmark",
        "Section 4.2",
        f"{_title('pass@1', measured)} above the second best of the others, on the weakest benchmark, points",
        estimates[weakest],
        p_value=max(estimate.p_greater for estimate in estimates.values()),
        note=f"it is on {reached} of {len(estimates)} benchmarks; weakest on {weakest}",
    )


def rewards_follow_scores(ablations: Sequence[Result]) -> Claim:
    """The claim that the ablated schemes with the highest rewards in training score best (appendix E).

    Spearman's rank correlation over the schemes, for each training seed, between the reward of the last steps and the
    average Pass@1.
    """
    rows: dict[tuple[str, int], tuple[float, float]] = {}
    for result in ablations:
        measured = pass_1_metric(result.scores)
        scores = (
            result.scores.groupby(["method", "seed", "benchmark"])[measured].mean().groupby(["method", "seed"]).mean()
        )
        for (method, seed), record in result.runs.items():
            rows[method, seed] = float(record.metrics()["reward"].iloc[-WINDOW:].mean()), float(scores[method, seed])
    table = pd.DataFrame(
        [(method, seed, *values) for (method, seed), values in rows.items()],
        columns=["method", "seed", "reward", "score"],
    )
    ranks = [own["reward"].rank().corr(own["score"].rank()) for _, own in table.groupby("seed")]
    effect = _mean_over_seeds([rank for rank in ranks if np.isfinite(rank)] or [float("nan")])
    effect = replace(effect, low=max(effect.low, -1.0), high=min(effect.high, 1.0))
    return Claim(
        "The schemes with the highest rewards score best",
        "Appendix E",
        f"rank correlation over {table['method'].nunique()} schemes of Tables 2 and 3, between the reward of the last "
        f"{WINDOW} steps and average Pass@1",
        effect,
        p_value=effect.p_greater,
        note="each scheme's rewards are at its own temperatures",
    )


def seeds_agree(result: Result) -> Claim:
    """The claim that training runs with other seeds end within a few tenths of a point of each other (Table 4)."""
    scores = result.scores[result.scores["method"] == "tampo"]
    measured = pass_1_metric(scores)
    means = scores.groupby(["seed", "benchmark"])[measured].mean().groupby("seed").mean().to_numpy()
    runs = [row["pass@1"]["Average"] for row in TABLES[4].values()]
    bound = (max(runs) - min(runs)) / _RANGE_OF_THREE
    noise = sampling_deviation(scores, 1 if measured == "pass@1" else int(measured.removeprefix("avg@")))
    effect = deviation_interval(means)
    return Claim(
        "Independent trainings agree within 0.3 points in average Pass@1",
        "Table 4",
        f"standard deviation between seeds of average {_title('pass@1', measured)}, points",
        effect,
        round(float(np.std(runs, ddof=1)), 2),
        bound=bound,
        testable=noise * effect.high / effect.value <= bound,  # trainings that do not differ at all would hold
        note=f"a range of 0.3 over three seeds is a deviation of {bound:.2f}; the sampling of answers alone gives "
        f"{noise:.2f} here",
    )


def sampling_deviation(scores: pd.DataFrame, samples: int = 1) -> float:
    """Standard deviation of average Pass@1 due to a finite number of `samples` per problem, in points.

    If a sample of problem i is correct with probability q_i, Pass@1 of P problems has variance sum q_i (1 - q_i) / P²
    for a given model and one sample. From n samples, c_i (n - c_i) / (n (n - 1)) is an unbiased estimate of
    q_i (1 - q_i). NaN where every problem has a single sample, which says nothing of it.
    """
    metric = pass_1_metric(scores)
    if metric == "pass@1":
        return float("nan")
    n = int(metric.removeprefix("avg@"))
    share = scores[metric] / 100
    variance = (share * (1 - share) * n / (n - 1)).groupby([scores["seed"], scores["benchmark"]])
    by_seed = (variance.mean() / variance.size()).groupby("seed")
    return 100 * float(np.sqrt((by_seed.sum() / by_seed.size() ** 2).mean() / samples))


def temperature_claims(result: Result, warmup_steps: int) -> list[Claim]:
    """The claims that the sampled temperature rises after the warm-up, and then falls slowly (Figure 3a)."""
    rises, falls = [], []
    for (method, _), record in result.runs.items():
        if method == "tampo":
            drawn = record.metrics()["temperature"].to_numpy()
            warm, free = drawn[:warmup_steps], drawn[warmup_steps:]
            early, late = free[:WINDOW].mean(), free[-WINDOW:].mean()
            rises.append(early - warm.mean() if len(warm) else np.nan)
            falls.append(early - late)
    rise, fall = _mean_over_seeds(rises), _mean_over_seeds(falls)
    return [
        Claim(
            "After the warm-up high temperatures (about 1.3) are preferred",
            "Figure 3a",
            f"mean temperature of the {WINDOW} steps after the warm-up, above the warm-up's",
            rise,
            0.3,
            rise.p_greater,
        ),
        Claim(
            "Then the temperature falls slowly",
            "Figure 3a",
            f"the same, above the mean temperature of the last {WINDOW} steps",
            fall,
            p_value=fall.p_greater,
        ),
    ]


def optimal_temperature_claims(result: Result) -> list[Claim]:
    """The claims of appendix C: T* depends on the sign of the advantage, and is drawn to moderate values."""
    gaps: dict[int, list[float]] = {}
    towards: dict[str, list[float]] = {"fixed-0.9": [], "fixed-1.5": []}
    for (method, seed), record in result.runs.items():
        if method in FIXED_KEYS:
            log = record.metrics()
            gap = log["optimal_temperature/positive_mean"] - log["optimal_temperature/negative_mean"]
            gaps.setdefault(seed, []).append(float(gap.mean()))
            if method in towards:
                away = _mean_optimal(log) - log["temperature"].mean()
                towards[method].append(away if method == "fixed-0.9" else -away)
    apart = _mean_over_seeds([float(np.mean(values)) for values in gaps.values()])
    moderate = {method: _mean_over_seeds(values) for method, values in towards.items()}
    weakest = min(moderate, key=lambda method: moderate[method].value)
    return [
        Claim(
            "Rollouts of positive advantage have another T* than those of negative advantage",
            "Figure 4",
            "mean T* of positive less that of negative advantage, at fixed temperatures",
            apart,
            p_value=2 * min(apart.p_greater, 1 - apart.p_greater),
            note="either sign counts",
        ),
        Claim(
            "Most T* are above 0.9 when sampling at 0.9, and below 1.5 at 1.5",
            "Figure 4",
            "distance of the mean T* from the sampling temperature, towards moderate values",
            moderate[weakest],
            p_value=max(estimate.p_greater for estimate in moderate.values()),
            note="; ".join(f"{method}: {estimate.value:+.2f}" for method, estimate in moderate.items()),
        ),
    ]


def highest_reward(result: Result) -> Claim:
    """The claim that TAMPO's rewards in training become the highest of all methods (Figure 3b)."""
    last: dict[str, dict[int, float]] = {}
    temperatures: dict[str, list[float]] = {}
    for (method, seed), record in result.runs.items():
        end = record.metrics().iloc[-WINDOW:]
        last.setdefault(method, {})[seed] = float(end["reward"].mean())
        temperatures.setdefault(method, []).append(float(end["temperature"].mean()))
    tampo = last.pop("tampo")
    gaps = {
        baseline: _mean_over_seeds([tampo[seed] - rewards[seed] for seed in rewards])
        for baseline, rewards in last.items()
    }
    best = min(gaps, key=lambda baseline: gaps[baseline].value)
    mean = {key: float(np.mean(values)) for key, values in temperatures.items()}
    coldest = min(mean, key=lambda key: mean[key])
    why = f"; TAMPO is the coldest at the end (T = {mean['tampo']:.2f})" if coldest == "tampo" else ""
    return Claim(
        "TAMPO reaches the highest rewards in training",
        "Figure 3b",
        f"mean reward of the last {WINDOW} steps above that of the best of the others",
        gaps[best],
        p_value=max(gap.p_greater for gap in gaps.values()),
        note=f"best of the others here: {best}; the rewards of each method are at its own temperature, and lower "
        f"temperatures give higher rewards whatever was learnt{why}",
    )


def no_extra_time(ratio: Estimate) -> Claim:
    """The claim that TAMPO's steps take as long as GRPO's (section 4.2); `ratio` is from `bench.step_time`."""
    return Claim(
        TIME_CLAIM,
        "Section 4.2",
        "step time over that of TRL's GRPOTrainer on the same rollouts, ratio",
        ratio,
        1.0,
        bound=TIME_MARGIN,
        note=f"up to {TIME_MARGIN:g} counts as the same",
    )


def _mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per training seed; a single seed gives no interval and p = 0.5."""
    estimate = mean_interval([np.asarray(values)[:, None]])
    return estimate if len(values) > 1 else replace(estimate, low=float("nan"), high=float("nan"), p_greater=0.5)


def _mean_optimal(log: pd.DataFrame) -> float:
    """Mean T* of all rollouts of a training run that have an advantage."""
    total = weight = 0.0
    for sign in ("positive", "negative"):
        count = log[f"optimal_temperature/{sign}_count"]
        total += float((log[f"optimal_temperature/{sign}_mean"] * count).sum())
        weight += float(count.sum())
    return total / weight
