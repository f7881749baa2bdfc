"""The paper's claims one by one: what was measured here, how certain it is, and a verdict.

A claim is "replicated" if its test rejects the opposite at 5 % after Holm's adjustment for the number of tests in the
table. It is "not replicated" if the 95 % interval of the effect excludes an effect as large as the published one (or,
if none was published, any effect in the claimed direction). Otherwise the verdict is "cannot tell". Claims of agreement
(between seeds, of step times) have no such test: their interval is compared with the claimed bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tampo.config import Params
from tampo.paper.experiments import ABLATION_SEEDS, FIXED
from tampo.paper.figures import WINDOW
from tampo.paper.published_results import TABLES
from tampo.paper.results import Result, differences
from tampo.paper.tables import write_texts
from tampo.stats import Estimate, deviation_interval, holm, mean_interval

FIXED_KEYS = tuple(method.key for method in FIXED)
LEVEL = 0.05
TIME_MARGIN = 1.05  # a larger ratio of step times counts as measurable
TIME_CLAIM = "TAMPO takes the same time"
_RANGE_OF_THREE = 1.69  # expected range of three normal draws, in standard deviations

REPLICATED, NOT_REPLICATED, CANNOT_TELL = "replicated", "not replicated", "cannot tell"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the measured effect.

    Attributes:
        claim: What the paper claims.
        source: Where.
        statistic: What is measured here, with its unit.
        effect: The measured value.
        published: The paper's value of the statistic; None if it gives none.
        p_value: Probability of an effect at least as large if the claim is false; None if there is no test.
        bound: For claims of agreement, the upper bound of the statistic; None for the others.
        note: A remark for readers.
    """

    claim: str
    source: str
    statistic: str
    effect: Estimate
    published: float | None = None
    p_value: float | None = None
    bound: float | None = None
    note: str = ""

    def verdict(self, adjusted: float) -> str:
        """The verdict, given the adjusted p-value (NaN for a claim of agreement)."""
        low, high = self.effect.low, self.effect.high
        if not (np.isfinite(low) and np.isfinite(high)):
            return CANNOT_TELL
        if self.bound is not None:
            return REPLICATED if high <= self.bound else NOT_REPLICATED if low > self.bound else CANNOT_TELL
        if adjusted < LEVEL:
            return REPLICATED
        return NOT_REPLICATED if high < (self.published or 0.0) else CANNOT_TELL


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """All claims with verdicts.

    Returns:
        Columns claim, source, statistic, paper, value, low, high, p, p_holm (NaN for claims of agreement), verdict,
        note.
    """
    tested = [claim.p_value is not None for claim in claims]
    table = pd.DataFrame([vars(claim) | vars(claim.effect) for claim in claims])
    table = table.rename(columns={"published": "paper", "p_value": "p"})
    table["p_holm"] = np.nan
    table.loc[tested, "p_holm"] = holm([claim.p_value for claim in claims if claim.p_value is not None])
    table["verdict"] = [claim.verdict(p) for claim, p in zip(claims, table["p_holm"], strict=True)]
    columns = ["claim", "source", "statistic", "paper", "value", "low", "high", "p", "p_holm", "verdict", "note"]
    return table[columns]


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
        beats(main, FIXED_KEYS, "pass@1", 1, "TAMPO is above the best fixed temperature in Pass@1", "Table 1"),
        beats(main, FIXED_KEYS, "pass@8", 1, "TAMPO is above the best fixed temperature in Pass@8", "Table 1"),
        beats(main, ("linear",), "pass@1", 1, "TAMPO is above the linear schedule in Pass@1", "Table 1"),
        beats(alphas, ("alpha-0.01", "alpha-0.1"), "pass@1", 2, "α = 0.05 is the best of three in Pass@1", "Table 2"),
        beats(top_ps, ("p-0.9", "p-0.5", "p-0"), "pass@1", 3, "p = 0.7 is the best of four in Pass@1", "Table 3"),
    ]
    if choice is not None:
        title = "TAMPO is above GRPO with another base and task"
        claims.append(beats(choice, ("grpo",), "pass@1", 5, title, "Table 5"))
    claims += [seeds_agree(main), highest_reward(main)]
    claims += [*temperature_claims(main, warmup_steps), *optimal_temperature_claims(main)]
    if step_times is not None:
        claims.append(no_extra_time(step_times))
    return claims


def beats(result: Result, baselines: Sequence[str], metric: str, table: int, claim: str, source: str) -> Claim:
    """The claim that TAMPO's average is above that of each baseline.

    Its p-value is the largest over the baselines (an intersection-union test, which needs no adjustment for their
    number). The effect is that against the best baseline here, which favours this baseline a little: it was chosen for
    its luck too.
    """
    estimates = {baseline: mean_interval(differences(result, "tampo", baseline, metric)) for baseline in baselines}
    best = min(estimates, key=lambda baseline: estimates[baseline].value)
    cell = "ECQA" if table == 5 else "Average"
    published = {row: values[metric][cell] for row, values in TABLES[table].items() if row in ("tampo", *baselines)}
    return Claim(
        claim,
        source,
        f"average {metric.replace('pass', 'Pass')} above the best of the others, points",
        estimates[best],
        round(published.pop("tampo") - max(published.values()), 2),
        max(estimate.p_greater for estimate in estimates.values()),
        note=f"best of the others here: {best}" if len(baselines) > 1 else "",
    )


def seeds_agree(result: Result) -> Claim:
    """The claim that training runs with other seeds end within a few tenths of a point of each other (Table 4)."""
    scores = result.scores[result.scores["method"] == "tampo"]
    means = scores.groupby(["seed", "benchmark"])["pass@1"].mean().groupby("seed").mean().to_numpy()
    runs = [row["pass@1"]["Average"] for row in TABLES[4].values()]
    bound = (max(runs) - min(runs)) / _RANGE_OF_THREE
    return Claim(
        "Independent trainings agree within 0.3 points in average Pass@1",
        "Table 4",
        "standard deviation between seeds of average Pass@1, points",
        deviation_interval(means),
        round(float(np.std(runs, ddof=1)), 2),
        bound=bound,
        note=f"a range of 0.3 over three seeds is a deviation of {bound:.2f}; one sample per problem alone gives "
        f"{sampling_deviation(scores):.2f} here",
    )


def sampling_deviation(scores: pd.DataFrame) -> float:
    """Standard deviation of average Pass@1 due to a single sample per problem, in points.

    If a sample of problem i is correct with probability q_i, Pass@1 of P problems has variance sum q_i (1 - q_i) / P²
    for a given model. From n samples, c_i (n - c_i) / (n (n - 1)) is an unbiased estimate of q_i (1 - q_i).
    """
    metric = next(name for name in scores.columns if name.startswith("avg@"))
    n = int(metric.removeprefix("avg@"))
    share = scores[metric] / 100
    variance = (share * (1 - share) * n / (n - 1)).groupby([scores["seed"], scores["benchmark"]])
    by_seed = (variance.mean() / variance.size()).groupby("seed")
    return 100 * float(np.sqrt((by_seed.sum() / by_seed.size() ** 2).mean()))


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
    for (method, seed), record in result.runs.items():
        last.setdefault(method, {})[seed] = float(record.metrics()["reward"].iloc[-WINDOW:].mean())
    tampo = last.pop("tampo")
    gaps = {
        baseline: _mean_over_seeds([tampo[seed] - rewards[seed] for seed in rewards])
        for baseline, rewards in last.items()
    }
    best = min(gaps, key=lambda baseline: gaps[baseline].value)
    return Claim(
        "TAMPO reaches the highest rewards in training",
        "Figure 3b",
        f"mean reward of the last {WINDOW} steps above that of the best of the others",
        gaps[best],
        p_value=max(gap.p_greater for gap in gaps.values()),
        note=f"best of the others here: {best}; the rewards of each method are at its own temperature, and lower "
        "temperatures give higher rewards whatever was learnt",
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


def claims_caption(params: Params) -> str:
    """The caption of the table: how it was made, and how verdicts are reached."""
    count = len(params.seeds)
    seeds = "one training seed, which says nothing about other seeds" if count == 1 else f"{count} training seeds"
    few = f" ({ABLATION_SEEDS} for Tables 2, 3 and 5)" if count > ABLATION_SEEDS else ""
    return (
        f"The paper's claims at scale {params.scale}: {params.max_steps} steps of {params.prompts_per_step} x "
        f"{params.num_generations} rollouts, {seeds}{few}. p-values are one-sided, adjusted by Holm's method for the "
        "number of tests. Replicated: adjusted p below 0.05. Not replicated: the 95 % interval excludes an effect as "
        "large as the paper's. Otherwise: cannot tell. Manifest: claims.manifest.json."
    )


def format_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `claims_table` for readers: one cell for the effect and its interval."""
    columns = zip(table["value"], table["low"], table["high"], strict=True)
    effect = [
        f"{value:.2f} ({low:.2f} to {high:.2f})" if np.isfinite(high - low) else f"{value:.2f}".replace("nan", "–")
        for value, low, high in columns
    ]
    return pd.DataFrame(
        {
            "Claim": table["claim"] + " (" + table["source"] + ")",
            "What is measured": table["statistic"],
            "Paper": ["" if pd.isna(value) else f"{value:.2g}" for value in table["paper"]],
            "Here, 95 % interval": effect,
            "p (Holm)": ["" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in table["p_holm"]],
            "Verdict": table["verdict"],
            "Note": table["note"],
        }
    )


def brief_claims(table: pd.DataFrame) -> str:
    """The table of `claims_table` as Markdown with few columns: claim, the paper's value, ours, verdict."""
    shown = format_claims(table)[["Claim", "Paper", "Here, 95 % interval", "Verdict"]]
    return shown.to_markdown(index=False)


def write_claims(table: pd.DataFrame, folder: Path, caption: str) -> list[Path]:
    """Write the table of `claims_table` as claims.csv (all numbers), .md and .html into `folder`, each atomically."""
    shown = format_claims(table)
    texts = {
        "csv": table.to_csv(index=False, float_format="%.6g"),
        "md": f"{caption}\n\n{shown.to_markdown(index=False)}\n",
        "html": f"<p>{caption}</p>\n{shown.to_html(index=False, border=0, justify='left')}\n",
    }
    return write_texts(folder, "claims", texts)
