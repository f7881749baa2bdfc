"""What the data of each figure show, in a sentence: the title of the figure.

All sentences are computed, so that they hold for other parameters, too. Where the data do not say anything, such as
where a method is missing or all values are NaN, a sentence is shorter, or "".
"""

import math
from collections.abc import Collection, Mapping

import pandas as pd

from tampo.paper.replay import REPLAY
from tampo.paper.study_tables import average_rows, with_interval
from tampo.paper.tables import metric_title
from tampo.stats import Estimate

TAMPO = "TAMPO"  # its title in tables and figures


def span(what: str, values: pd.Series, form: str = ".2f", unit: str = "") -> str:
    """The lowest and the highest of some values, which have titles as index; NaN are left out.

    Example:
        >>> span("Reward", pd.Series({"TAMPO": 0.6, "linear": 0.25, "none": float("nan")}))
        'Reward: from 0.25 for linear to 0.60 for TAMPO'
    """
    known = values.dropna()
    if known.empty:
        return ""
    low, high = (f"{value:{form}}{unit}" for value in (known.min(), known.max()))
    if len(known) == 1:
        return f"{what}: {low} for {known.index[0]}"
    if low == high:
        return f"{what}: {low} for {'both' if len(known) == 2 else f'all {len(known)}'}"
    return f"{what}: from {low} for {known.idxmin()} to {high} for {known.idxmax()}"


def best(values: pd.Series, form: str = ".2f", unit: str = "", lowest: bool = False) -> str:
    """The highest value, or the lowest, and its title; NaN are left out.

    Example:
        >>> best(pd.Series({"TAMPO": 48.4, "linear": 50.6}), ".1f", " %")
        'linear, 50.6 %'
    """
    known = values.dropna()
    if known.empty:
        return ""
    first, value = (known.idxmin(), known.min()) if lowest else (known.idxmax(), known.max())
    return f"{first}, {value:{form}}{unit}"


def best_and_tampo(values: pd.Series, form: str = ".2f", unit: str = "", lowest: bool = False) -> str:
    """As `best`, and TAMPO's value and rank if it is not the best.

    Example:
        >>> best_and_tampo(pd.Series({"TAMPO": 48.4, "linear": 50.6}), ".1f", " %")
        'linear, 50.6 %; TAMPO: 48.4 % (rank 2 of 2)'
    """
    known, first = values.dropna(), best(values, form, unit, lowest)
    if TAMPO not in known.index or first.startswith(f"{TAMPO}, "):
        return first
    value = known[TAMPO]
    rank = 1 + int((known < value if lowest else known > value).sum())
    return f"{first}; {TAMPO}: {value:{form}}{unit} (rank {rank} of {len(known)})"


def _after(what: str, found: str, separator: str = ": ") -> str:
    """`found` after what it is of; "" if there is nothing."""
    return f"{what}{separator}{found}" if found else ""


def joined(*parts: str, by: str = "; ") -> str:
    """The parts that are not empty."""
    return by.join(part for part in parts if part)


def _at_end(curves: pd.DataFrame, column: str) -> pd.Series:
    """The last value by title, as lines of figures end: the mean over seeds, NaN where one seed has none."""
    last = curves.groupby(["title", "seed"], sort=False).tail(1)
    return last.groupby("title", sort=False)[column].agg(lambda values: values.mean(skipna=False))


def medians(what: str, values: pd.Series, groups: pd.Series) -> str:
    """The median of each group, and its size, such as those of T* of right and of wrong rollouts in Figure 2.

    Example:
        >>> medians("Median T*", pd.Series([0.6, 0.7, 1.5]), pd.Series(["right", "right", "wrong"]))
        'Median T*: 0.65 for right (2), 1.5 for wrong (1)'
    """
    found = {str(name): group.dropna() for name, group in values.groupby(groups, sort=False)}
    return _after(what, ", ".join(f"{group.median():.3g} for {name} ({len(group)})" for name, group in found.items()))


def course(temperatures: pd.DataFrame, warmup_steps: int, window: int) -> str:
    """TAMPO's mean temperature after the warm-up and at the end, over `window` steps and all seeds: Figure 3 (a).

    Args:
        temperatures: From `tampo.paper.figures.temperature_curve`.
        warmup_steps: Steps of the warm-up.
        window: Steps. With at most as many after the warm-up there is one mean, of all of them.
    """
    free, since = temperatures[temperatures["step"] > warmup_steps], "after the warm-up" if warmup_steps else ""
    drawn = free.groupby("step")["temperature"].mean()
    if len(drawn) <= window:
        return _after(joined(f"{TAMPO}'s mean T", since, by=" "), f"{drawn.mean():.2f}" if len(drawn) else "")
    first = f"in the {window} steps after the warm-up" if warmup_steps else f"in the first {window} steps"
    return f"{TAMPO}'s mean T: {drawn.iloc[:window].mean():.2f} {first}, {drawn.iloc[-window:].mean():.2f} in the last"


def best_rewards(rewards: pd.DataFrame) -> str:
    """The method with the highest reward at the end: Figure 3 (b) and (c). `rewards` is from `reward_curves`."""
    columns = {"": "smoothed", "at T = 1: ": "smoothed_at_1"}
    found = [_after(where, best(_at_end(rewards, column)), "") for where, column in columns.items()]
    return _after("Highest reward at the end", joined(*found))


def final_rewards(rewards: pd.DataFrame) -> str:
    """The lowest and the highest reward at the end: Figures 5 and 6. `rewards` is from `reward_curves`."""
    spans = (("Reward at the end", "smoothed"), ("at T = 1", "smoothed_at_1"))
    return joined(*(span(what, _at_end(rewards, column)) for what, column in spans))


def optima_by_sign(curves: pd.DataFrame) -> str:
    """How far the medians of T* of good and bad rollouts are apart, mean over training: Figure 4.

    Args:
        curves: From `tampo.paper.figures.optimal_temperature_curves`. Steps that lack a sign do not count.
    """
    gaps = {}
    for title, part in curves.groupby("title", sort=False):
        wide = part.pivot(index="step", columns="advantage", values="median").reindex(columns=["A > 0", "A < 0"])
        gap = (wide["A > 0"] - wide["A < 0"]).mean()
        if not math.isnan(gap):
            gaps[str(title)] = float(gap)
    if not gaps:
        return ""
    signs = {(gap > 0) - (gap < 0) for gap in gaps.values()}
    if len(signs) == 1 and (sign := signs.pop()):
        gaps = {title: abs(gap) for title, gap in gaps.items()}
        what = f"Median T* is {'higher' if sign > 0 else 'lower'} for A > 0 than for A < 0, by"
    else:
        what = "Median T* for A > 0 minus that for A < 0:"
    return f"{what} " + ", ".join(f"{gap:.2f} for {title}" for title, gap in gaps.items())


def overhead(ratios: Mapping[str, Estimate]) -> str:
    """How long steps take; `ratios` are those of step times to TRL's GRPO, by "tampo" and "fast"."""
    own, fast = (with_interval(ratio.value, ratio.low, ratio.high, 2) for ratio in (ratios["tampo"], ratios["fast"]))
    return f"A step of {TAMPO} takes {own} times as long as one of TRL's GRPO, as tampo trains {fast}"


def evaluation(summary: pd.DataFrame, metric: str) -> str:
    """The best method at each evaluation temperature; `summary` is from `tampo.paper.results.evaluate_at`."""
    average = average_rows(summary[summary["metric"] == metric])
    found = [
        _after(f"at T = {temperature:g}", best(part.set_index("title")["value"], ".1f", " %"))
        for temperature, part in average.groupby("eval_temperature")
    ]
    return _after(f"Highest {metric_title(metric)}", joined(*found), " ")


def scores(table: pd.DataFrame, metric: str) -> str:
    """The best row and TAMPO's, in percent; `table` has the columns title, metric, value."""
    chosen = table[table["metric"] == metric].set_index("title")["value"]
    return _after(f"Highest {metric_title(metric)}", best_and_tampo(chosen, ".1f", " %"))


def mean_temperatures(temperatures: pd.DataFrame) -> str:
    """The coldest and the warmest row over all steps and seeds; columns title and temperature."""
    return span("Mean sampling temperature", temperatures.groupby("title", sort=False)["temperature"].mean())


def training(temperatures: pd.DataFrame, rewards: pd.DataFrame) -> str:
    """Temperatures and rewards at the end, from `temperature_curve` with a column title and `reward_curves`."""
    ends = _at_end(temperatures, "mean"), _at_end(rewards, "smoothed")
    return joined(span("Mean T at the end", ends[0]), span("reward", ends[1]))


def weights(table: pd.DataFrame) -> str:
    """How many candidates have a weight above 0; `table` is from `tampo.paper.optimal_temperature.weight_table`."""
    candidates = table["temperature"].nunique()
    counts = candidates * (table["weight"] > 0).groupby([table["likelihood"], table["length"]], sort=False).mean()
    lengths = sorted({table["length"].min(), table["length"].max()})
    found = [
        f"{' and '.join(f'{counts[name, length]:.1f}' for length in lengths)} ({name})"
        for name in table["likelihood"].unique()
    ]
    tokens = " and ".join(f"{length:,}" for length in lengths)
    return f"Candidates with a weight (of {candidates}) at {tokens} tokens: {', '.join(found)}"


def offsets(summary: pd.DataFrame) -> str:
    """How far medians of T* are from T, for rollouts and the longest chains; from `convergence_summary`."""
    found = []
    for kind, part in summary.groupby("kind"):
        longest = part[part["length"] == part["length"].max()] if kind == "chain" else part
        whose = f"chains of {longest['length'].max():,} tokens" if kind == "chain" else "single rollouts"
        found.append(f"{longest['median'].abs().max():.2f} for {whose}")
    return _after("|Median of T* - T| is at most", ", ".join(reversed(found)), " ")


def differences(table: pd.DataFrame) -> str:
    """How many rows TAMPO beats beyond the interval, and the difference to its replays.

    Args:
        table: From `tampo.paper.replay.replay_differences`.
    """
    known = table.dropna(subset=["low", "high"])
    replay = table[table["rival"] == REPLAY.title]
    beyond = f"{TAMPO} is better than {int((known['low'] > 0).sum())} of {len(known)} rows and worse than "
    beyond += f"{int((known['high'] < 0).sum())}, beyond 95 % intervals"
    rows = replay.to_dict("records")
    values = [with_interval(row["difference"], row["low"], row["high"], signed=True) for row in rows]
    return joined(beyond if len(known) else "", _after("minus its replays in points", "".join(values)))


def regrets(table: pd.DataFrame, fixed: Collection[str]) -> str:
    """Whether one fixed temperature is best everywhere, and the row that loses least in its worst regime.

    Args:
        table: From `tampo.paper.regret.regret_table`.
        fixed: The keys of the fixed temperatures.
    """
    one = table[table["best"].astype(bool) & table["method"].isin(fixed)]["title"].unique()
    first = f"{one[0]} is the best fixed T in every regime" if len(one) == 1 else ""
    worst = table[table["regime"] == "worst"].set_index("title")["regret"]
    smallest = _after("Smallest worst regret", best_and_tampo(worst, ".1f", " points", lowest=True))
    return joined(first or "No fixed T is the best in every regime", smallest, by=". ")


def pass_curves(curves: pd.DataFrame, ours: str, theirs: str) -> str:
    """In how many regimes one row's Pass@k is above that of another, at the smallest and the largest k.

    Args:
        curves: From `tampo.paper.regret.pass_curves`, with a column regime.
        ours, theirs: Titles of the rows.
    """
    wide = curves.pivot(index=["k", "regime"], columns="title", values="value").reindex(columns=[ours, theirs])
    above = (wide[ours] > wide[theirs])[wide.notna().all(axis=1)].groupby("k").agg(["sum", "count"])
    ends = sorted({above.index.min(), above.index.max()}) if len(above) else []
    found = [f"in {above.loc[k, 'sum']} of {above.loc[k, 'count']} regimes at k = {k}" for k in ends]
    return _after(f"Pass@k of {ours} is above that of the {theirs[0].lower()}{theirs[1:]}", ", ".join(found), " ")


def courses(temperatures: Mapping[str, pd.DataFrame], rewards: Mapping[str, pd.DataFrame], window: int) -> str:
    """TAMPO's mean temperature over `window` steps after the warm-up and at the end, and the best row, by regime.

    `temperatures` and `rewards` are from `tampo.paper.courses.course_tables`.
    """
    drawn = {r: curve[~curve["warmup"]].groupby("step")["temperature"].mean() for r, curve in temperatures.items()}
    means = [f"from {t[:window].mean():.2f} to {t[-window:].mean():.2f} in {r}" for r, t in drawn.items() if len(t)]
    ends = {regime: _at_end(curves, "smoothed_at_1").dropna() for regime, curves in rewards.items()}
    highest = [f"{end.idxmax()} in {regime}" for regime, end in ends.items() if len(end)]
    return joined(_after(f"{TAMPO}'s mean T", ", ".join(means)), _after("highest reward at T = 1", ", ".join(highest)))


def signals(agreement: pd.DataFrame) -> str:
    """How well the signals order temperatures as the gains do; `agreement` is from `tampo.paper.signals`."""
    if agreement.empty:
        return ""
    means = agreement.groupby("signal", sort=False)["correlation"].mean()
    return span("Rank correlation of a signal with the gain, mean of panels", means)


def drift(curves: pd.DataFrame) -> str:
    """TAMPO's mean temperature in each stage, and the best row in the last; from `tampo.paper.drift.drift_curves`."""
    ours = curves[curves["title"] == TAMPO].groupby("stage")["temperature"].mean().dropna()
    last = curves[curves["stage"] == curves["stage"].max()].groupby("title", sort=False)["reward"].mean()
    means = ", ".join(f"{value:.2f}" for value in ours)
    return joined(
        _after(f"{TAMPO}'s mean T by stage", means), _after("highest reward in the last stage", best_and_tampo(last))
    )


def loss(table: pd.DataFrame) -> str:
    """The lowest and the highest difference in the first metric, and how many are not 0 beyond their intervals.

    Args:
        table: From `tampo.paper.loss_temperature.loss_table`.
    """
    what = "Loss at T = 1 minus loss at the sampling T"
    metric = table["metric"].iloc[0]
    chosen = table[table["metric"] == metric]
    values = chosen.assign(name=chosen["title"] + " in " + chosen["regime"]).set_index("name")["difference"]
    found = span(f"{what}, {metric_title(metric)} in points", values, "+.1f")
    known = chosen.dropna(subset=["low", "high"])
    apart = int(((known["low"] > 0) | (known["high"] < 0)).sum())
    return joined(found or what, f"{apart} of {len(known)} intervals exclude 0" if len(known) else "")


def power(table: pd.DataFrame, wanted: float = 0.8) -> str:
    """The training seeds that reach a power; `table` is from `tampo.paper.power.power_table`."""
    same, new = (table[table["comparison"] == f"{name} problems"] for name in ("same", "new"))
    most: int = table["seeds"].max()
    needed: list[str] = []
    for samples, part in same.groupby("samples"):
        enough = part.loc[part["power"] >= wanted, "seeds"]
        number = enough.min() if len(enough) else f"over {most}"
        unit = "" if needed else " sample" if samples == 1 else " samples"
        needed.append(f"{number} with {samples}{unit}")
    reached = new.loc[new["seeds"] == most, "power"].max()
    return (
        f"Seeds for {100 * wanted:.0f} % power, same problems: {', '.join(needed)}; "
        f"on new problems {most} seeds reach {100 * reached:.0f} %"
    )


def prompt_weights(large: float, small: float, group: int, offset: float, tokens: int) -> str:
    """How much a change of a rare success rate counts, and how far T* can be from T.

    Args:
        large, small: Weight at p = 1 % over that at 50 %, in large groups and in those of `group`.
        offset: The largest distance of the mean T* from T where 10 % are right, with `tokens` tokens; NaN: unknown.
    """
    rare = f"A change at p = 1 % counts {large:.1f} times as much as at 50 % in large groups"
    far = f"|mean T* - T| of {tokens:,} tokens is at most {offset:.2f}"
    return joined(f"{rare}, {small:.1f} times in groups of {group}", "" if math.isnan(offset) else far)


def exact_signals(panels: pd.DataFrame) -> str:
    """Whether TAMPO's mean signal is highest where the reward is, and how its size depends on the length.

    Args:
        panels: A row for each length: tokens, signal_at and reward_at (the temperatures of the maxima), size.
    """
    agree = int((panels["signal_at"] == panels["reward_at"]).sum())
    sizes = [
        f"{row.size:.1g} with {row.tokens:,} other tokens"
        for row in panels.iloc[sorted({0, len(panels) - 1})].itertuples()
    ]
    return f"The signal is highest where J is in {agree} of {len(panels)} panels; largest value: {', '.join(sizes)}"
