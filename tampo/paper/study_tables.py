"""Numbers of studies for a reader: estimates over training seeds, and a value with its interval in one cell."""

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tampo.stats import Estimate, mean_interval


def over_seeds(values: ArrayLike) -> Estimate:
    """Mean with its 95 % interval over training seeds, of one value per seed.

    A single seed has no interval, and the mean of values of which one is NaN is NaN.
    """
    column = np.asarray(values, dtype=np.float64)
    if np.isnan(column).any() or len(column) < 2:
        return Estimate(float(column.mean()), math.nan, math.nan, math.nan)
    return mean_interval([column[:, None]])


def value_columns(estimate: Estimate) -> dict[str, float]:
    """The columns value, low, high."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def difference_columns(estimate: Estimate) -> dict[str, float]:
    """The columns difference, low, high, p (two-sided, not adjusted)."""
    known = not math.isnan(estimate.low)
    ends = {"difference": estimate.value, "low": estimate.low, "high": estimate.high}
    return ends | {"p": estimate.p_two_sided if known else math.nan}


def average_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of `tampo.paper.results.summarise` that are averages over benchmarks, or those of the only benchmark."""
    average = summary["benchmark"] == "Average"
    return summary[average] if average.any() else summary


def with_interval(value: float, low: float, high: float, digits: int = 1, signed: bool = False) -> str:
    """A cell such as "41.2 (39.0 to 43.4)"; an unknown interval is left out, and an unknown value is "–".

    Example:
        >>> with_interval(1.26, -0.5, 3.0, signed=True)
        '+1.3 (-0.5 to +3.0)'
    """
    if math.isnan(value):
        return "–"
    shown = f"{'+' if signed else ''}z.{digits}f"  # z: -0.04 is 0.0, not -0.0
    return f"{value:{shown}}" + ("" if math.isnan(low) else f" ({low:{shown}} to {high:{shown}})")


def with_p(difference: float, low: float, high: float, p: float, digits: int = 1) -> str:
    """A cell such as "+1.3 (-0.5 to +3.0), p = 0.16"."""
    text = with_interval(difference, low, high, digits, signed=True)
    if math.isnan(p):
        return text
    return text + (", p < 0.001" if p < 0.001 else f", p = {p:.3f}" if p < 0.1 else f", p = {p:.2f}")


def cells(table: pd.DataFrame, index: str) -> pd.DataFrame:
    """A row for each value of `index` and a column for each metric, both in their order in the table.

    Args:
        table: Columns `index`, metric, low, high, and either value, or difference and p. Metrics with an @ have one
            decimal (percent or points), all others three.
        index: Names the rows.
    """

    def text(row: pd.Series) -> str:
        digits = 1 if "@" in row["metric"] else 3
        if "difference" in row:
            return with_p(row["difference"], row["low"], row["high"], row["p"], digits)
        return with_interval(row["value"], row["low"], row["high"], digits)

    wide = table.assign(text=table.apply(text, axis=1)).pivot(index=index, columns="metric", values="text")
    wide = wide.loc[list(table[index].unique()), list(table["metric"].unique())]
    return wide.rename(columns=lambda name: name.replace("pass@", "Pass@")).rename_axis(index=None, columns=None)
