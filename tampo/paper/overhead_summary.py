"""Ratios of measured times with their intervals, the table of the benchmarks, and its figure (section 4.2)."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tampo.paper import findings
from tampo.paper.figures import PALETTE, style
from tampo.paper.layout import set_title
from tampo.paper.overhead_cases import CASES, PARTS
from tampo.stats import Estimate, mean_interval

START_GOALS = {
    "import tampo, beyond numpy": "< 1",
    "tampo --help": "< 1.5",
    "notebook, up to its first training": "< 10",
}
_BY_TOKENS = "K likelihoods of 8 times the tokens / 8"


def step_ratio(times: pd.DataFrame, case: str, base: str = "grpo") -> Estimate:
    """Step time of one case divided by that of another, paired by step, with its 95 % interval over steps and rounds.

    The mean is geometric. The first step of a round warms caches and is left out, unless it is the only one.

    Args:
        times: From `tampo.paper.overhead.measure_steps`.
        case: Key of `CASES`.
        base: Key of the case to compare with.
    """
    whole = times[times["part"] == "whole"].pivot(index=["round", "step"], columns="case", values="seconds")
    return _geometric(_grid(whole[case] / whole[base]))


def outer_loop_ratio(times: pd.DataFrame, case: str) -> Estimate:
    """Seconds of the outer loop divided by those of the rest of the same step, with a 95 % interval (see `step_ratio`).

    Args:
        times: From `tampo.paper.overhead.measure_steps`.
        case: "tampo" or "fast".
    """
    parts = times[times["case"] == case].pivot(index=["round", "step"], columns="part", values="seconds")
    return _geometric(_grid(parts["outer loop"] / (parts["whole"] - parts["outer loop"])))


def ratio(numerator: pd.Series, denominator: pd.Series) -> Estimate:
    """Geometric mean of ratios of times, paired by index, with its 95 % interval over the pairs."""
    return _geometric((numerator / denominator).to_numpy())


def _grid(values: pd.Series) -> np.ndarray:
    """Values indexed by (round, step) as an array (rounds, steps), without the first step."""
    wide = values.unstack("step").sort_index(axis=1).to_numpy()  # (rounds, steps)
    return wide[:, 1:] if wide.shape[1] > 1 else wide


def _geometric(values: np.ndarray) -> Estimate:
    mean = mean_interval([np.log(values)])
    value, low, high = np.exp([mean.value, mean.low, mean.high]).tolist()
    return Estimate(value, low, high, mean.p_greater)


def summarise(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The results of all benchmarks: ratios of times, with 95 % intervals where there are pairs.

    Args:
        tables: Those of `tampo.paper.bench.Benchmarks.tables` that there are.

    Returns:
        Columns measured, value, low, high (NaN if nothing was repeated), unit, goal.
    """
    rows = []
    if "steps" in tables:
        steps = tables["steps"]
        rows += [
            _row("step of TAMPO / of TRL's GRPO, the same rollouts", step_ratio(steps, "tampo"), "≤ 1.01"),
            _row("outer loop / rest of that step", outer_loop_ratio(steps, "tampo"), "≤ 0.01"),
            _row("step as tampo trains / of TRL's GRPO", step_ratio(steps, "fast")),
            _row("outer loop / rest of that step", outer_loop_ratio(steps, "fast")),
        ]
    if "paper_steps" in tables:
        large = step_ratio(tables["paper_steps"], "fast")
        rows.append(_row("step as tampo trains / of TRL's GRPO, 32 × 8 rollouts", large, "≤ 0.6"))
    if "memory" in tables:
        memory = tables["memory"].set_index("case")["megabytes"]
        rows.append(_row("peak memory of TAMPO / of TRL's GRPO", memory["tampo"] / memory["grpo"]))
    head = tables["head"]
    rows.append(
        _row("K likelihoods / LM head forward and backward", ratio(head["likelihoods"], head["head"]), "≤ 0.25")
    )
    if "head_memory" in tables:
        peak = tables["head_memory"].iloc[0]
        above = peak["with likelihoods"] - peak["alone"]
        rows.append(_row("K likelihoods, memory above the LM head's", above, "≤ 256", "MB"))
    rows += _growth(tables["likelihoods"])
    if "evaluation" in tables:
        speed = tables["evaluation"].assign(rate=lambda table: table["tokens"] / table["seconds"])
        rates = speed.pivot(index="round", columns="case", values="rate")
        rows += [
            _row("evaluation, tokens a second / of model.generate", ratio(rates["tampo"], rates["generate"]), "> 1"),
            _row("evaluation", float(rates["tampo"].mean()), unit="tokens a second"),
        ]
    for case, seconds in tables["starts"].groupby("case", sort=False)["seconds"]:
        rows.append(_row(str(case), float(seconds.median()), START_GOALS.get(str(case), ""), "s"))
    return pd.DataFrame(rows)


def _growth(times: pd.DataFrame) -> list[dict[str, Any]]:
    """The K likelihoods compared with a loop of log_softmax, and their growth with tokens and temperatures."""
    seconds = times.pivot(index="round", columns=["case", "tokens", "temperatures"], values="seconds")
    loop, sums = seconds["loop of log_softmax"], seconds["running sums"]
    (tokens, k), *_ = loop.columns
    whole, few = sums[tokens, k], sums[tokens // 4]
    return [
        _row(f"loop of {k} log_softmax / K likelihoods", ratio(loop[tokens, k], whole), "≥ 3"),
        _row(_BY_TOKENS, ratio(whole, 8 * sums[tokens // 8, k]), "about 1"),
        _row(f"likelihoods of {k} temperatures / of 1", ratio(few[k], few[1]), f"< {k}"),
    ]


def _row(measured: str, found: Estimate | float, goal: str = "", unit: str = "") -> dict[str, Any]:
    nan = float("nan")
    estimate = found if isinstance(found, Estimate) else Estimate(found, nan, nan, nan)
    row = {"measured": measured, "value": estimate.value, "low": estimate.low, "high": estimate.high}
    return row | {"unit": unit, "goal": goal}


def format_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary for readers: columns measured, value (with interval and unit), goal."""
    values = [_cell(row) for _, row in summary.iterrows()]
    return pd.DataFrame({"measured": summary["measured"], "value": values, "goal": summary["goal"]})


def _cell(row: pd.Series) -> str:
    digits = 0 if abs(row["value"]) >= 100 else 1 if abs(row["value"]) >= 2 else 3
    text = f"{row['value']:.{digits}f}"
    if pd.notna(row["low"]):
        text += f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{text} {row['unit']}".strip()


def step_parts(times: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds of each part of a step, without the first step of each round: a row per case, a column per part.

    Args:
        times: From `tampo.paper.overhead.measure_steps`.
    """
    kept = times[(times["step"] > 1) | (times["step"].max() == 1)]
    wide = kept.pivot_table(index="case", columns="part", values="seconds", aggfunc="mean")
    return wide.loc[[case for case in CASES if case in wide.index], [*PARTS, "whole"]]


def overhead_figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """Time of each part of a step, if steps were measured, and time of the K likelihoods by tokens and temperatures.

    Args:
        tables: `tampo.paper.bench.Benchmarks.tables`.
    """
    panels, height = [["tokens", "temperatures"]], 3.0
    if "steps" in tables:
        panels, height = [["steps", "steps"], *panels], 5.6
    with style():
        figure = plt.figure(figsize=(9.0, height), layout="constrained")
        axes = figure.subplot_mosaic(panels)  # type: ignore[arg-type]
        if "steps" in tables:
            _draw_parts(axes["steps"], step_parts(tables["steps"]))
        times = tables["likelihoods"]
        times = times[times["case"] == "running sums"]
        tokens = times["tokens"].max()
        k = times[times["tokens"] == tokens]["temperatures"].iloc[0]
        by_tokens, by_temperatures = times[times["temperatures"] == k], times[times["tokens"] == tokens // 4]
        _draw_growth(axes["tokens"], by_tokens, "tokens", f"tokens ({k} temperatures)")
        _draw_growth(axes["temperatures"], by_temperatures, "temperatures", f"temperatures ({tokens // 4} tokens)")
        if "steps" in tables:
            ratios = {case: step_ratio(tables["steps"], case) for case in ("tampo", "fast")}
            set_title(figure, findings.overhead(ratios))
        else:
            growth = next(row["value"] for row in _growth(tables["likelihoods"]) if row["measured"] == _BY_TOKENS)
            set_title(figure, f"The likelihoods of 8 times the tokens take {8 * growth:.1f} times as long")
    return figure


def _draw_parts(axes: Axes, parts: pd.DataFrame) -> None:
    parts = parts.iloc[::-1]  # the first case at the top
    left = pd.Series(0.0, index=parts.index)
    for part, colour in zip(PARTS, sns.color_palette("colorblind", len(PARTS)), strict=True):
        axes.barh([CASES[str(case)].title for case in parts.index], parts[part], left=left, color=colour, label=part)
        left += parts[part]
    axes.set(xlabel="mean seconds per step")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=len(PARTS), frameon=False)
    sns.despine(ax=axes)


def _draw_growth(axes: Axes, times: pd.DataFrame, by: str, label: str) -> None:
    """Seconds against `by`: a dot for each round, their mean, and a line proportional to `by`."""
    axes.plot(times[by], times["seconds"], "o", ms=4, alpha=0.6, color=PALETTE[0])
    mean = times.groupby(by)["seconds"].mean()
    smallest = mean.index.min()
    axes.plot(mean.index, mean, lw=1, color=PALETTE[0], label="measured")
    axes.plot(mean.index, mean.loc[smallest] * mean.index / smallest, "k:", lw=1, label="proportional")
    axes.set(xlabel=label, ylabel="seconds, K likelihoods", ylim=(0, None))
    axes.legend(frameon=False)
    sns.despine(ax=axes)
