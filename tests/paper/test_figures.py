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
    reward_curves,
    reward_figure,
    temperature_curve,
    write_figure,
)
from tampo.paper.results import Result
from tampo.runs.store import Record
from tests.trainer.two_token_rollouts import CANDIDATES, GAP, log_probs

DRAWN = sorted({*np.round(np.arange(0.3, 2.01, 0.05), 2), *CANDIDATES})


@pytest.fixture
def result(tmp_path):
    """Two seeds of TAMPO and of one fixed temperature, 40 steps, with known rewards."""
    runs = {}
    for key, offset in (("tampo", 0.0), ("fixed-0.9", 1.0)):
        for seed in (0, 1):
            folder = tmp_path / f"{key}-{seed}"
            folder.mkdir()
            step = np.arange(1, 41)
            temperature = np.where(step <= 4, 1.0, np.where(step % 2, 0.6, 0.8))
            reward = offset + seed + step / 100
            pd.DataFrame({"step": step, "temperature": temperature, "reward": reward}).to_csv(
                folder / "metrics.csv", index=False
            )
            runs[key, seed] = Record(folder, {})
    return Result(pd.DataFrame(), {}, runs)


def test_temperature_windows(result):
    curve = temperature_curve(result, window=2)
    assert len(curve) == 80
    one = curve[curve["seed"] == 0].reset_index(drop=True)
    assert one.loc[0, ["mean", "std"]].tolist() == [1.0, 0.0]
    assert one.loc[39, "mean"] == pytest.approx(0.7)
    assert one.loc[39, "std"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="No training run of method 'linear'"):
        temperature_curve(result, "linear")


def test_rewards_of_every_seed_and_their_windows(result):
    curves = reward_curves(result, TABLE1, window=3)
    assert curves["title"].unique().tolist() == ["GRPO (T = 0.9)", "TAMPO"], "in the order of the methods"
    tampo = curves[(curves["title"] == "TAMPO") & (curves["seed"] == 1)].reset_index(drop=True)
    assert tampo.loc[9, "reward"] == pytest.approx(1 + 0.10)
    assert tampo.loc[9, "smoothed"] == pytest.approx(1 + 0.09)
    assert tampo.loc[0, "smoothed"] == pytest.approx(1 + 0.01)


def test_optimal_temperatures_are_pooled_over_rollouts(tmp_path):
    """Against the mean and variance of all rollouts at once; steps without rollouts of a sign do not count."""
    generator = np.random.default_rng(0)
    runs, everything = {}, {}
    for seed in (0, 1):
        rows = []
        for step in range(1, 8):
            row = {"step": step, "temperature": 0.9}
            for sign in ("positive", "negative"):
                values = generator.choice(np.arange(0.6, 1.55, 0.1), size=generator.integers(1, 9))
                if sign == "positive" and step == 7:
                    continue
                everything.setdefault((sign, (step - 1) // 5), []).extend(values)
                name = f"optimal_temperature/{sign}"
                row |= {f"{name}_mean": values.mean(), f"{name}_std": values.std(), f"{name}_count": len(values)}
            rows.append(row)
        folder = tmp_path / str(seed)
        folder.mkdir()
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
        runs["fixed-0.9", seed] = Record(folder, {})
    curves = optimal_temperature_curves(Result(pd.DataFrame(), {}, runs), FIXED)
    assert len(curves) == 4
    for (sign, window), values in everything.items():
        mark = "A > 0" if sign == "positive" else "A < 0"
        row = curves[(curves["advantage"] == mark) & (curves["step"] == (5, 7)[window])].iloc[0]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["variance"] == pytest.approx(np.var(values))
        assert row["rollouts"] == len(values)
    assert curves["temperature"].eq(0.9).all()
    figure = figure4(curves)
    assert [axes.get_title() for axes in figure.axes] == ["GRPO (T = 0.9)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["T*, A > 0", "T*, A < 0", "current T"]


def test_reward_figure_says_what_it_shows(result):
    (axes,) = reward_figure(reward_curves(result, TABLE1)).axes
    assert axes.get_ylabel() == "reward, mean of 25 steps"


def test_figure_says_what_it_shows(result):
    figure = figure3(temperature_curve(result), reward_curves(result, TABLE1), warmup_steps=4)
    left, right = figure.axes
    assert left.get_xlabel() == right.get_xlabel() == "training step"
    assert left.get_ylabel() == "sampling temperature T"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["GRPO (T = 0.9)", "TAMPO"]
    assert len(left.get_legend().get_texts()) == 5


def test_files_are_whole_and_the_same_twice(result, tmp_path):
    data = {"temperatures": temperature_curve(result), "rewards": reward_curves(result, TABLE1)}
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
