"""How certain the paper's numbers are, from the numbers alone, and what would settle them.

The paper's Pass@1 is the share of problems whose first sample is right. Two variances of its average over benchmarks
matter. With new problems each time it is binomial. With the same problems, as when two methods or two runs are compared
on one benchmark, only the luck of the samples is left; it follows from how much the problems' success rates differ, and
that from Pass@1 and Pass@8 together: a Beta distribution of rates has both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tampo.paper import findings
from tampo.paper.figures import MARKERS, PALETTE, style
from tampo.paper.layout import set_title
from tampo.paper.published_results import BENCHMARKS, TABLES

# Problems of the paper's benchmarks (docs/data.md).
PROBLEMS = {"AIME24": 30, "MATH-500": 500, "AMC23": 40, "Minerva": 272, "OlympiadBench": 674}

_LEAST, _MOST = 1e-3, 1e6  # a + b of a Beta distribution


@dataclass(frozen=True)
class Rates:
    """Success rates of a benchmark's problems, as a Beta distribution.

    Attributes:
        mean: The mean rate, E[p].
        concentration: a + b; small where problems are either solved or not.
    """

    mean: float
    concentration: float

    @property
    def within(self) -> float:
        """E[p (1 - p)]: the variance of one sample, given its problem."""
        return self.mean * (1 - self.mean) * self.concentration / (self.concentration + 1)

    @property
    def between(self) -> float:
        """Var[p]: how much problems differ."""
        return self.mean * (1 - self.mean) / (self.concentration + 1)


def fit_rates(pass_1: float, pass_k: float, k: int = 8) -> Rates:
    """The Beta distribution of success rates with this Pass@1 and Pass@k, both as shares.

    Where none has them, the nearest: all problems alike, or each solved always or never.

    Example:
        >>> rates = fit_rates(0.5, 1 - 1 / 9)  # p is uniform, and E[(1 - p)^8] = 1 / 9
        >>> round(rates.concentration, 3)
        2.0
    """
    from scipy.optimize import brentq
    from scipy.special import betaln

    def miss(log_concentration: float) -> float:
        a, b = pass_1 * math.exp(log_concentration), (1 - pass_1) * math.exp(log_concentration)
        return float(np.exp(betaln(a, b + k) - betaln(a, b))) - (1 - pass_k)

    low, high = math.log(_LEAST), math.log(_MOST)
    if miss(low) <= 0:
        return Rates(pass_1, _LEAST)
    if miss(high) >= 0:
        return Rates(pass_1, _MOST)
    return Rates(pass_1, math.exp(brentq(miss, low, high)))


def published_rates(row: str, table: int = 1) -> dict[str, Rates]:
    """The success rates that a row of one of the paper's tables implies, by benchmark."""
    cells = TABLES[table][row]
    return {name: fit_rates(cells["pass@1"][name] / 100, cells["pass@8"][name] / 100) for name in BENCHMARKS}


def error_of_average(rates: Mapping[str, Rates], samples: int = 1, same_problems: bool = True) -> float:
    """Standard error in points of the average over benchmarks of the share of right samples.

    Args:
        rates: By benchmark, a key of `PROBLEMS`.
        samples: Samples a problem, all of which count (avg@n).
        same_problems: Whether the problems are given; else they are drawn anew, which for one sample is the binomial
            error.
    """
    variances = [
        (rate.within / samples + (0.0 if same_problems else rate.between)) / PROBLEMS[name]
        for name, rate in rates.items()
    ]
    return 100 * math.sqrt(sum(variances)) / len(variances)


def closeness(values: Sequence[float], error: float) -> float:
    """The probability that independent normal values with this standard error are at most as far apart as these.

    Example:
        >>> round(closeness([44.5, 44.6, 44.3], 2.15), 3)
        0.005
    """
    from scipy.stats import chi2

    found = np.asarray(values, dtype=float)
    return float(chi2.cdf(((found - found.mean()) ** 2).sum() / error**2, len(found) - 1))


def power(difference: float, error: float, freedom: float, level: float = 0.05) -> float:
    """The probability that a two-sided t-test finds a difference of means, whose standard error is `error`."""
    from scipy.stats import nct, t

    limit, shift = t.ppf(1 - level / 2, freedom), difference / error
    found = float(nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift))
    return found if math.isfinite(found) else 1.0  # the library's series fails where the power is 1 to many digits


def power_table(
    rates: Mapping[str, Rates],
    difference: float,
    seed_deviation: float,
    seeds: Sequence[int] = (3, 5, 10, 20),
    samples: Sequence[int] = (1, 8, 32),
) -> pd.DataFrame:
    """The power to find a difference between two methods, by training seeds of each and samples a problem.

    Args:
        rates: Success rates of the problems.
        difference: In points.
        seed_deviation: Standard deviation over training seeds in points, beyond that of the samples.
        seeds: Training seeds of each method.
        samples: Samples a problem.

    Returns:
        Columns seeds, samples, comparison ("same problems" or "new problems"), error (of the difference, in points),
        power. Trainings with different seeds are independent, so that the test has 2 (seeds - 1) degrees of freedom.
    """
    rows = []
    for count in seeds:
        for number in samples:
            luck = error_of_average(rates, number) ** 2 + seed_deviation**2
            problems = error_of_average(rates, 1, same_problems=False) ** 2 - error_of_average(rates, 1) ** 2
            for name, extra in (("same problems", 0.0), ("new problems", problems)):
                # New problems are drawn once for each method, whatever the number of seeds.
                error = math.sqrt(2 * (luck / count + extra))
                rows.append(
                    {
                        "seeds": count,
                        "samples": number,
                        "comparison": name,
                        "error": error,
                        "power": power(difference, error, 2 * (count - 1)),
                    }
                )
    return pd.DataFrame(rows)


def seeds_needed(
    rates: Mapping[str, Rates], difference: float, seed_deviation: float, samples: int, wanted: float = 0.8
) -> int:
    """The smallest number of training seeds of each method with this power, on the same problems; at most 1,000."""
    for count in range(2, 1001):
        error = math.sqrt(2 * (error_of_average(rates, samples) ** 2 + seed_deviation**2) / count)
        if power(difference, error, 2 * (count - 1)) >= wanted:
            return count
    return 1000


def settling_table(
    rates: Mapping[str, Rates],
    difference: float,
    seed_deviations: Sequence[float] = (0.0, 0.5, 1.0),
    samples: Sequence[int] = (1, 8, 32),
    gpu: str = "h100",
) -> pd.DataFrame:
    """What an experiment costs that finds the difference with 80 % power, on the same problems.

    Two methods are trained with each seed at the paper's scale on eight GPUs, and evaluated. Hours are those of
    `tampo plan`: arithmetic and guesses, never measured.

    Returns:
        Columns seed_deviation, samples, seeds (of each method), training and evaluation (GPU hours as text, a range).
    """
    from tampo.config import load_params
    from tampo.runs.plan import model_config, plan
    from tampo.runs.plan_gpus import Layout, find_gpu

    rows: list[dict[str, object]] = []
    for number in samples:
        params = load_params("paper", {"eval_samples": number})
        layout = Layout()
        made = plan(model_config(params.model), params, layout, find_gpu(gpu))
        step = [sum(times[end] for times in made.step.values()) * params.max_steps for end in (0, 1)]
        for deviation in seed_deviations:
            count = seeds_needed(rates, difference, deviation, number)

            hours = 2 * count * layout.gpus / 3600
            parts: dict[str, Sequence[float]] = {"training": step, "evaluation": made.evaluation[1]}
            texts = {name: " to ".join(f"{hours * second:,.0f}" for second in ends) for name, ends in parts.items()}
            rows.append({"seed_deviation": deviation, "samples": number, "seeds": count, **texts})
    return pd.DataFrame(rows)


def power_figure(table: pd.DataFrame) -> Figure:
    """Power against training seeds, a line for each number of samples; `table` is from `power_table`."""
    with style():
        figure, axes = plt.subplots(figsize=(6.0, 3.5), layout="constrained")
        for number, (samples, rows) in enumerate(table.groupby("samples")):
            word = "sample" if samples == 1 else "samples"
            look = {"color": PALETTE[number], "marker": MARKERS[number % len(MARKERS)], "ms": 3}
            for name, dashes in (("same problems", "-"), ("new problems", ":")):
                line = rows[rows["comparison"] == name]
                label = f"{samples} {word}, {name}"
                axes.plot(line["seeds"], line["power"], dashes, label=label, **look)
        axes.axhline(0.8, color="0.6", linewidth=0.8)
        axes.text(table["seeds"].max(), 0.81, "80 %", ha="right", va="bottom", color="0.4")
        axes.set(xlabel="training seeds of each method", ylabel="power", ylim=(0, 1.03))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        set_title(figure, findings.power(table))
        sns.despine(ax=axes)
    return figure


def published_errors(table: int = 1) -> pd.DataFrame:
    """Each row of a table of the paper: its average Pass@1 with both standard errors, in points."""
    rows = []
    for key, cells in TABLES[table].items():
        if "pass@8" in cells:
            rates = published_rates(key, table)
            rows.append(
                {
                    "row": key,
                    "pass@1": cells["pass@1"]["Average"],
                    "error, new problems": error_of_average(rates, same_problems=False),
                    "error, same problems": error_of_average(rates),
                }
            )
    return pd.DataFrame(rows)


def simulate_average(
    rates: Mapping[str, Rates], runs: int, samples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Average shares of right samples of `runs` evaluations of the same problems, in percent, shape (runs,)."""
    averages = []
    for name, rate in rates.items():
        a, b = rate.mean * rate.concentration, (1 - rate.mean) * rate.concentration
        solved = generator.beta(a, b, PROBLEMS[name])
        averages.append(generator.binomial(samples, solved, (runs, len(solved))).mean(axis=1) / samples)
    return 100 * np.mean(averages, axis=0)
