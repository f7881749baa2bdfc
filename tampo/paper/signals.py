"""What each rule's signal says about the candidates, and what is learned at fixed temperatures meanwhile.

A rule sees one batch at a time. The score function sees the expected reward at each temperature, the learning signal
the share of pairs of a right and a wrong rollout, TAMPO its own advantage (Eq. 10). What a temperature is good for is
another thing: the gain in reward at T = 1 of a run that trains at it. Where a signal and the gain disagree, a rule that
follows the signal perfectly still goes to the wrong place. (Runs at other temperatures have other histories: a gain
late in training is that of a policy that the same temperature has made.)
"""

import re
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tampo.paper import findings
from tampo.paper.experiments import REGRET_FIXED
from tampo.paper.figures import PALETTE, style
from tampo.paper.layout import legend_below, set_title
from tampo.paper.regret import RegretRuns

PHASES = ("first third", "second third", "last third")
# Title, the row whose log has it, and the columns of that log.
SIGNALS = (
    ("expected reward (score function)", "tampo", "reward_at/{}"),
    ("mixed pairs (learning signal)", "learning-signal", "controller/mixed_pairs({})"),
    ("temperature advantage (TAMPO)", "tampo", "meta_policy/signal({})"),
)
GAIN = "gain in reward at T = 1, trained at T"
_LOOKS = {SIGNALS[0][0]: ("--", ""), SIGNALS[1][0]: (":", ""), SIGNALS[2][0]: ("-.", ""), GAIN: ("-", "o")}
_ENDS = 0.1  # share of the steps whose rewards are averaged at both ends of a phase


def signal_table(runs: RegretRuns) -> pd.DataFrame:
    """Signals and gains by regime, third of the training, and temperature; means over seeds.

    A gain is the reward at T = 1 (by importance weights) at the end of the third less that at its beginning, of the
    runs at a fixed temperature. Steps count as much as the effective samples of that reward.

    Returns:
        Columns regime, phase, temperature, quantity (a title of `SIGNALS`, or `GAIN`), value. What no run has logged is
        left out.
    """
    logs: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (regime, key, _), record in runs.runs.items():
        logs.setdefault((regime, key), []).append(record.metrics())
    rows = []
    for regime in runs.regimes:
        for title, key, column in SIGNALS:
            for log in logs.get((regime, key), []):
                rows += _signal_rows(log, regime, title, column)
        for method in REGRET_FIXED:
            for log in logs.get((regime, method.key), []):
                rows += _gain_rows(log, regime, float((method.changes or {})["temperature"]))
    table = pd.DataFrame(rows, columns=["regime", "phase", "quantity", "temperature", "value"])
    keys = ["regime", "phase", "quantity", "temperature"]
    return table.groupby(keys, sort=False)["value"].mean().reset_index()


def _signal_rows(log: pd.DataFrame, regime: str, title: str, column: str) -> list[tuple]:
    pattern = re.compile(re.escape(column).replace(r"\{\}", r"([\d.]+)"))
    found = {str(name): match[1] for name in log if (match := pattern.fullmatch(str(name)))}
    return [
        (regime, phase, title, float(text), float(part[name].mean()))
        for phase, part in zip(PHASES, _thirds(log), strict=True)
        for name, text in found.items()
    ]


def _gain_rows(log: pd.DataFrame, regime: str, temperature: float) -> list[tuple]:
    count = max(round(_ENDS * len(log)), 1)
    return [
        (regime, phase, GAIN, temperature, _reward(part.tail(count)) - _reward(part.head(count)))
        for phase, part in zip(PHASES, _thirds(log), strict=True)
        if "reward_at/1" in log
    ]


def _thirds(log: pd.DataFrame) -> list[pd.DataFrame]:
    edges = np.linspace(0, len(log), len(PHASES) + 1).round().astype(int)
    return [log.iloc[low:high] for low, high in pairwise(edges)]


def _reward(log: pd.DataFrame) -> float:
    known = log[["reward_at/1", "reward_at/1_samples"]].dropna()
    return float(np.average(known["reward_at/1"], weights=known["reward_at/1_samples"])) if len(known) else np.nan


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How far each signal orders temperatures as the gains do.

    Args:
        table: From `signal_table`.

    Returns:
        One row per regime, phase and signal: signal, its best temperature, the one with the largest gain, and
        correlation (Spearman's, over the fixed temperatures; NaN where all gains or all signals are equal).
    """
    rows = []
    for (regime, phase), part in table.groupby(["regime", "phase"], sort=False):
        wide = part.pivot(index="temperature", columns="quantity", values="value")
        if GAIN not in wide:
            continue
        known = wide[wide[GAIN].notna()]
        for title in (title for title, *_ in SIGNALS if title in wide):
            both = known[[title, GAIN]].dropna()
            rows.append(
                {
                    "regime": regime,
                    "phase": phase,
                    "signal": title,
                    "its best T": wide[title].idxmax(),
                    "largest gain at T": known[GAIN].idxmax(),
                    "correlation": both[title].rank().corr(both[GAIN].rank()),
                }
            )
    return pd.DataFrame(rows)


def signals_figure(table: pd.DataFrame) -> Figure:
    """Signals and gains against temperature: a row of panels for each regime, a column for each third of the training.

    Every curve is scaled to its own range, since only its shape decides where a rule goes.

    Args:
        table: From `signal_table`.
    """
    regimes = list(table["regime"].unique())
    with style():
        figure, grid = plt.subplots(
            len(regimes),
            len(PHASES),
            figsize=(9.0, 1.9 * len(regimes) + 0.9),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for panels, regime in zip(grid, regimes, strict=True):
            for axes, phase in zip(panels, PHASES, strict=True):
                part = table[(table["regime"] == regime) & (table["phase"] == phase)]
                for number, (title, (line, marker)) in enumerate(_LOOKS.items()):
                    curve = part[part["quantity"] == title].sort_values("temperature")
                    size = curve["value"].max() - curve["value"].min()
                    scaled = (curve["value"] - curve["value"].min()) / size if size > 0 else curve["value"] * 0
                    width = 1.8 if title == GAIN else 1.2
                    look = {"color": PALETTE[number], "marker": marker, "ms": 4, "linewidth": width}
                    axes.plot(curve["temperature"], scaled, line, label=title, **look)
                axes.set_title(f"{regime}, {phase}", fontsize="medium")
                sns.despine(ax=axes)
        for axes in grid[-1]:
            axes.set_xlabel("temperature T")
        for axes in grid[:, 0]:
            axes.set(ylabel="scaled to 0 ... 1", yticks=(0, 1))
        legend_below(figure, grid[0, 0].get_legend_handles_labels()[0], columns=2)
        set_title(figure, findings.signals(agreement(table)))
    return figure
