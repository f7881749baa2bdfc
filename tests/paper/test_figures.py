"""Figures and their data against known runs; every rollout of Figure 2; files that are the same twice."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

matplotlib.use("Agg")

from tampo.paper.experiments import FIXED, TABLE1
from tampo.paper.figures import (
    figure2,
    figure3,
    figure4,
    optimal_temperature_curves,
    quartiles,
    reward_curves,
    reward_figure,
    temperature_curve,
    write_figure,
)
from tampo.paper.results import Result
from tampo.runs.store import Record
from tests.paper.helpers import assert_fits, title_of
from tests.trainer.two_token_rollouts import CANDIDATES, GAP, log_probs

DRAWN = sorted({*np.round(np.arange(0.3, 2.01, 0.05), 2), *CANDIDATES})


@pytest.fixture
def result(tmp_path):
    """Two seeds of TAMPO and of one fixed temperature, 40 steps, with known rewards."""
    return make_result(tmp_path)


def make_result(folder, at_1=True):
    """Rewards at T = 1, where logged, are 0.5 below those at the sampling temperature."""
    runs = {}
    for key, offset in (("tampo", 0.0), ("fixed-0.9", 1.0)):
        for seed in (0, 1):
            step = np.arange(1, 41)
            log = pd.DataFrame({"step": step, "temperature": np.where(step <= 4, 1.0, np.where(step % 2, 0.6, 0.8))})
            log["reward"] = offset + seed + step / 100
            if at_1:
                log["reward_at/1"] = log["reward"] - 0.5
                log["reward_at/1_samples"] = 0.5
            runs[key, seed] = write_run(folder / f"{key}-{seed}", log)
    return Result(pd.DataFrame(), {}, runs)


def write_run(folder, log):
    folder.mkdir(parents=True)
    pd.DataFrame(log).to_csv(folder / "metrics.csv", index=False)
    return Record(folder, {})


def test_temperature_windows_do_not_reach_into_the_warm_up(result):
    """Four steps at 1.0, then 0.6 and 0.8 in turn."""
    curve = temperature_curve(result, warmup_steps=4, window=3)
    assert len(curve) == 80
    for seed in (0, 1):
        one = curve[curve["seed"] == seed].set_index("step")
        assert one.loc[1, ["mean", "std"]].tolist() == [1.0, 0.0]
        assert one.loc[4, ["mean", "std"]].tolist() == [1.0, 0.0]
        assert one.loc[5, ["mean", "std"]].tolist() == pytest.approx([0.6, 0.0]), "T changes at once"
        assert one.loc[6, ["mean", "std"]].tolist() == pytest.approx([0.7, 0.1])
        assert one.loc[7, "mean"] == pytest.approx((0.6 + 0.8 + 0.6) / 3)
        assert one.loc[40, "mean"] == pytest.approx((0.8 + 0.6 + 0.8) / 3)
    without = temperature_curve(result, warmup_steps=0, window=3).set_index(["seed", "step"])
    assert without.loc[(0, 5), "mean"] == pytest.approx((1.0 + 1.0 + 0.6) / 3)
    with pytest.raises(ValueError, match="No training run of method 'linear'"):
        temperature_curve(result, 4, "linear")


def test_rewards_of_every_seed_and_their_windows(result):
    curves = reward_curves(result, TABLE1, window=3)
    assert curves["title"].unique().tolist() == ["GRPO (T = 0.9)", "TAMPO"], "in the order of the methods"
    tampo = curves[(curves["title"] == "TAMPO") & (curves["seed"] == 1)].reset_index(drop=True)
    assert tampo.loc[9, "reward"] == pytest.approx(1 + 0.10)
    assert tampo.loc[9, "smoothed"] == pytest.approx(1 + 0.09)
    assert tampo.loc[0, "smoothed"] == pytest.approx(1 + 0.01)
    assert tampo.loc[9, "reward_at_1"] == pytest.approx(0.5 + 0.10)
    assert tampo.loc[9, "smoothed_at_1"] == pytest.approx(0.5 + 0.09), "equal weights: the plain mean"


def test_rewards_at_1_are_weighted_by_their_samples(tmp_path):
    """A step without a graded rollout has no weight; windows of too few samples are left out."""
    log = {
        "step": range(1, 7),
        "reward": [0.5] * 6,
        "reward_at/1": [1.0, 0.0, np.nan, 0.6, 0.8, 0.9],
        "reward_at/1_samples": [0.2, 0.6, 0.0, 0.4, 0.12, 0.04],
    }
    runs = {("tampo", 0): write_run(tmp_path / "run", log)}
    curves = reward_curves(Result(pd.DataFrame(), {}, runs), TABLE1, window=2)
    expected = [1.0, 0.2 / 0.8, 0.0, 0.6, (0.4 * 0.6 + 0.12 * 0.8) / 0.52, np.nan]
    np.testing.assert_allclose(curves["smoothed_at_1"], expected, atol=1e-12)
    assert curves["smoothed"].tolist() == pytest.approx([0.5] * 6)


def test_quartiles_are_those_of_the_values_written_out():
    generator = np.random.default_rng(0)
    values = np.array([0.6, 0.9, 1.0, 1.5])
    for _ in range(300):
        counts = generator.integers(0, 5, size=4)
        counts[generator.integers(4)] += 1
        expected = np.quantile(np.repeat(values, counts), [0.25, 0.5, 0.75], method="inverted_cdf")
        assert quartiles(values, counts) == tuple(expected), counts


def logged_optima(values):
    """What a step logs of T* of its rollouts: the columns of `RolloutBatch.statistics`, by sign of the advantage."""
    row = {}
    for sign, optima in values.items():
        name = f"optimal_temperature/{sign}"
        row |= {f"{name}_mean": np.mean(optima), f"{name}_std": np.std(optima), f"{name}_count": len(optima)}
        row |= {f"{name}({t:g})": np.mean(np.isclose(optima, t)) for t in CANDIDATES}
    return row


@pytest.fixture
def optima(tmp_path):
    """Two runs of 7 steps, and the T* of all rollouts of each window of five steps, by sign. Step 7 has A < 0 only."""
    generator = np.random.default_rng(0)
    runs, everything = {}, {}
    for seed in (0, 1):
        rows = []
        for step in range(1, 8):
            values = {
                sign: generator.choice(CANDIDATES, size=generator.integers(1, 9))
                for sign in ("positive", "negative")
                if (sign, step) != ("positive", 7)
            }
            for sign, drawn in values.items():
                everything.setdefault((sign, (step - 1) // 5), []).extend(drawn)
            rows.append({"step": step, "temperature": 0.9, **logged_optima(values)})
        runs["fixed-0.9", seed] = write_run(tmp_path / str(seed), rows)
    return Result(pd.DataFrame(), {}, runs), everything


def test_optimal_temperatures_are_pooled_over_rollouts(optima):
    """Against all rollouts at once; steps without rollouts of a sign do not count."""
    result, everything = optima
    curves = optimal_temperature_curves(result, FIXED)
    assert len(curves) == len(everything) == 4
    for (sign, window), values in everything.items():
        mark = "A > 0" if sign == "positive" else "A < 0"
        row = curves[(curves["advantage"] == mark) & (curves["step"] == (5, 7)[window])].iloc[0]
        expected = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
        assert row[["q1", "median", "q3"]].tolist() == pytest.approx(expected)
        assert row["at_floor"] == pytest.approx(np.mean(np.isclose(values, 0.6)))
        assert row["at_ceiling"] == pytest.approx(np.mean(np.isclose(values, 1.5)))
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["variance"] == pytest.approx(np.var(values))
        assert row["rollouts"] == len(values)
    assert curves["temperature"].eq(0.9).all()


def test_a_sign_without_rollouts_in_a_whole_run(tmp_path):
    rows = [{"step": 1, "temperature": 1.5, **logged_optima({"negative": [1.5, 1.5, 0.9]})}]
    runs = {("fixed-1.5", 0): write_run(tmp_path / "run", rows)}
    curves = optimal_temperature_curves(Result(pd.DataFrame(), {}, runs), FIXED)
    assert curves[["advantage", "median", "at_ceiling", "rollouts"]].to_numpy().tolist() == [["A < 0", 1.5, 2 / 3, 3.0]]


@pytest.mark.parametrize("all_runs", [True, False])
def test_logs_without_the_distribution_are_refused(optima, tmp_path, all_runs):
    """Runs of an earlier version, also beside others: they would count as no rollouts."""
    result, _ = optima
    early = result.runs["fixed-0.9", 0].metrics()
    early = early[[name for name in early if "(" not in name]]
    runs = {("fixed-0.9", 2): write_run(tmp_path / "early", early)} | ({} if all_runs else result.runs)
    with pytest.raises(ValueError, match="earlier version.*did not log the distribution.*Train it again"):
        optimal_temperature_curves(Result(pd.DataFrame(), {}, runs), FIXED)


def test_figure_4_says_what_it_shows(optima):
    curves = optimal_temperature_curves(optima[0], FIXED)
    other = curves.assign(title="GRPO (T = 1.5)", temperature=1.5)
    figure = figure4(pd.concat([curves, other]))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["GRPO (T = 0.9)", "GRPO (T = 1.5)"]
    assert len(figure.axes) == 6
    assert legend_texts(figure.legends[0]) == ["A > 0", "A < 0", "current T"]
    for axes, column in zip(figure.axes[::2], ("median", "at_floor", "at_ceiling"), strict=True):
        for line, advantage in zip(axes.lines, ("A > 0", "A < 0"), strict=False):
            expected = curves.loc[curves["advantage"] == advantage, column]
            assert line.get_ydata().tolist() == expected.tolist()
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    positive = curves[curves["advantage"] == "A > 0"]
    assert (band.min(), band.max()) == (positive["q1"].min(), positive["q3"].max())
    figure.canvas.draw()
    ticks = [text.get_text() for text in figure.axes[2].get_yticklabels()]
    assert all(tick.endswith("%") for tick in ticks)
    assert title_of(figure).startswith("Median T* ")
    assert_fits(figure)


def legend_texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_figure_3_says_what_it_shows(result):
    figure = figure3(temperature_curve(result, 4), reward_curves(result, TABLE1), warmup_steps=4)
    top, left, right = figure.axes
    assert [axes.get_title()[:4] for axes in figure.axes] == ["(a) ", "(b) ", "(c) "]
    assert {axes.get_xlabel() for axes in figure.axes} == {"training step"}
    assert top.get_ylabel() == "sampling temperature T"
    assert left.get_ylabel() == right.get_ylabel() == "reward, mean of 25 steps"
    assert left.get_ylim() == right.get_ylim(), "so that heights can be compared"
    (legend,) = figure.subfigs[1].legends
    assert legend_texts(legend) == ["GRPO (T = 0.9)", "TAMPO"]
    assert legend.get_title().get_text() == ""
    assert len(top.get_legend().get_texts()) == 5
    # The last 25 steps are on average step 28: 0.28, and 0.5 for the mean seed, and 1 for this row.
    assert title_of(figure) == (
        "TAMPO's mean T: 0.70 in the 25 steps after the warm-up, 0.70 in the last. "
        "Highest reward at the end: GRPO (T = 0.9), 1.78; at T = 1: GRPO (T = 0.9), 1.28"
    )


def test_a_method_looks_the_same_in_all_panels(result):
    figure = figure3(temperature_curve(result, 4), reward_curves(result, TABLE1), warmup_steps=4)
    top, left, right = figure.axes
    looks = [
        [(line.get_label(), line.get_color(), line.get_linestyle()) for line in axes.lines] for axes in (left, right)
    ]
    assert looks[0] == looks[1]
    assert len({look[1:] for look in looks[0]}) == 2
    assert {line.get_color() for line in top.lines} == {looks[0][1][1]}


def test_no_line_joins_the_warm_up_and_what_follows(result):
    figure = figure3(temperature_curve(result, 4), reward_curves(result, TABLE1), warmup_steps=4)
    ranges = [(line.get_xdata()[0], line.get_xdata()[-1]) for line in figure.axes[0].lines]
    assert sorted(ranges) == [(1, 4), (1, 4), (5, 40), (5, 40)], "two phases of two seeds"
    figure = figure3(temperature_curve(result, 0), reward_curves(result, TABLE1), warmup_steps=0)
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [1, 1]
    assert "warm-up" not in legend_texts(figure.axes[0].get_legend())


def test_ticks_of_a_short_run_are_whole_steps(tmp_path):
    runs = {
        ("tampo", 0): write_run(tmp_path / "run", {"step": [1, 2, 3], "temperature": 1.0, "reward": [0.1, 0.2, 0.3]})
    }
    short = Result(pd.DataFrame(), {}, runs)
    figure = figure3(temperature_curve(short, 0), reward_curves(short, TABLE1), 0)
    for axes in figure.axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_a_log_of_many_columns_is_read_without_a_warning(tmp_path, recwarn):
    log = {"step": [1, 2], "reward": [0.1, 0.2]} | {f"metric {i}": [0.0, 1.0] for i in range(120)}
    runs = {("tampo", 0): write_run(tmp_path / "run", log)}
    assert reward_curves(Result(pd.DataFrame(), {}, runs), TABLE1)["reward"].tolist() == [0.1, 0.2]
    assert not [warning for warning in recwarn if issubclass(warning.category, pd.errors.PerformanceWarning)]


def test_lines_are_means_over_seeds_and_a_missing_seed_is_a_gap(result):
    rewards = reward_curves(result, TABLE1)
    missing = (rewards["title"] == "TAMPO") & (rewards["seed"] == 1) & (rewards["step"] == 7)
    rewards.loc[missing, "smoothed_at_1"] = np.nan
    left, right = reward_figure(rewards).axes
    for axes, column in ((left, "smoothed"), (right, "smoothed_at_1")):
        for line in axes.lines:
            runs = rewards[rewards["title"] == line.get_label()]
            one, other = (runs.loc[runs["seed"] == seed, column].to_numpy() for seed in (0, 1))
            np.testing.assert_allclose(line.get_ydata(), (one + other) / 2)
    assert np.flatnonzero(np.isnan(right.lines[1].get_ydata())).tolist() == [6]


def test_titles_and_legends_fit_and_legends_do_not_cover_a_panel(result):
    rewards = reward_curves(result, TABLE1)
    for figure in (figure3(temperature_curve(result, 4), rewards, 4), reward_figure(rewards)):
        assert_fits(figure)
        legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
        legends += [legend for part in (figure, *figure.subfigs) for legend in part.legends]
        assert len(legends) == len(figure.axes) - 1
        for legend in legends:
            assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_a_narrow_figure_has_fewer_columns_in_its_legend(result):
    """One panel, with titles as long as those of Figure 6."""
    rewards = reward_curves(result, TABLE1).assign(smoothed_at_1=np.nan)
    names = [f"TAMPO (p = 0.{number}), greedy" for number in range(6)]
    figure = reward_figure(pd.concat([rewards[rewards["title"] == "TAMPO"].assign(title=name) for name in names]))
    assert len(figure.axes) == 1
    assert legend_texts(figure.legends[0]) == names
    assert title_of(figure) == "Reward at the end: 0.78 for all 6"
    assert_fits(figure)


def test_logs_without_rewards_at_1_leave_the_panel_out(tmp_path):
    """Records of an earlier version; a note says what is missing."""
    result = make_result(tmp_path, at_1=False)
    rewards = reward_curves(result, TABLE1)
    assert rewards["smoothed_at_1"].isna().all()
    assert rewards["smoothed"].notna().all()
    figure = figure3(temperature_curve(result, 4), rewards, 4)
    assert [axes.get_title()[:4] for axes in figure.axes] == ["(a) ", "(b) "]
    other = reward_figure(rewards)
    assert len(other.axes) == 1
    for legend in (figure.subfigs[1].legends[0], other.legends[0]):
        assert legend.get_title().get_text() == (
            "No panel of rewards at T = 1: the logs of these runs do not have them."
        )


def test_a_method_of_too_few_samples_is_named(result):
    rewards = reward_curves(result, TABLE1)
    tampo = rewards["title"] == "TAMPO"
    figure = reward_figure(rewards.assign(smoothed_at_1=rewards["smoothed_at_1"].mask(tampo)))
    assert len(figure.axes) == 2
    assert figure.legends[0].get_title().get_text() == "Not shown at T = 1, too few effective samples: TAMPO."
    figure = reward_figure(rewards.assign(smoothed_at_1=np.nan))
    assert len(figure.axes) == 1
    note = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "fewer than 10% of the samples are effective" in note


def test_files_are_whole_and_the_same_twice(result, tmp_path):
    data = {"temperatures": temperature_curve(result, 4), "rewards": reward_curves(result, TABLE1)}
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        figure = figure3(data["temperatures"], data["rewards"], 4)
        paths = write_figure(figure, data, folder, "fig3")
        assert [path.name for path in paths] == ["fig3.pdf", "fig3.png", "fig3.temperatures.csv", "fig3.rewards.csv"]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert written[0][0].startswith(b"%PDF")
    assert written[0][1].startswith(b"\x89PNG")


@pytest.fixture
def curves():
    """Three rollouts whose T* are 0.6 (below), 1.0 and 1.5 (above the candidates)."""
    parts = []
    for number, optimum in enumerate((0.4, 1.0, 2.5), start=1):
        share = 1 / (1 + np.exp(-GAP / optimum))
        mean = share * log_probs([True], DRAWN)[0] + (1 - share) * log_probs([False], DRAWN)[0]
        part = {"rollout": number, "tokens": 10 * number, "correct": number == 1, "temperature": DRAWN}
        parts.append(pd.DataFrame(part | {"log_likelihood": 10 * number * mean, "mean_log_likelihood": mean}))
    return pd.concat(parts, ignore_index=True)


def test_figure2(curves):
    figure = figure2(curves, CANDIDATES, 1.0, "a model, a problem")
    axes = figure.axes[0]
    stars = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"]
    assert stars == [0.6, 1.0, 1.5]
    assert axes.get_title() == "a model, a problem"
    assert "nats" in axes.get_ylabel()
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(DRAWN)]
    assert [line.get_linestyle() for line in drawn] == ["-", "--", "--"], "right and wrong differ without colour"
    assert sorted(text.get_text() for text in axes.texts) == ["10", "20", "30", "tokens"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["right", "wrong", "T*", "candidates", "sampled at 1"]
    assert title_of(figure) == "Median T*: 0.6 for right rollouts (1), 1.25 for wrong rollouts (2)"
    assert_fits(figure)


def test_token_labels_do_not_overlap(curves):
    same = pd.concat([curves[curves["rollout"] == 1].assign(rollout=i) for i in range(8)])
    figure = figure2(same, CANDIDATES, 1.0, "")
    figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(t) for t in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1.5 for below, above in itertools.pairwise(boxes))


def test_figure2_is_the_same_twice(curves, tmp_path):
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        paths = write_figure(figure2(curves, CANDIDATES, 1.0, "t"), {"curves": curves}, folder, "fig2")
        assert [path.name for path in paths] == ["fig2.pdf", "fig2.png", "fig2.curves.csv"]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
