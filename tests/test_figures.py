"""Figure data against hand-made runs; files that open, and are the same twice."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

from tampo.experiments import TABLE1, Result
from tampo.figures import figure3, reward_curves, temperature_curve, write_figure
from tampo.runs import Record


@pytest.fixture
def result(tmp_path):
    """Two seeds of TAMPO and of one fixed temperature, 40 steps, with known rewards."""
    trainings = {}
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
            trainings[key, seed] = Record(folder, {})
    return Result(pd.DataFrame(), {}, trainings)


def test_temperature_windows(result):
    curve = temperature_curve(result, window=2)
    assert len(curve) == 80
    one = curve[curve["seed"] == 0].reset_index(drop=True)
    assert one.loc[0, ["mean", "std"]].tolist() == [1.0, 0.0]
    assert one.loc[39, "mean"] == pytest.approx(0.7)
    assert one.loc[39, "std"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="No training of method 'linear'"):
        temperature_curve(result, "linear")


def test_rewards_are_means_over_seeds_then_windows(result):
    curves = reward_curves(result, TABLE1, window=3)
    assert curves["title"].unique().tolist() == ["GRPO (T = 0.9)", "TAMPO"], "in the order of the methods"
    tampo = curves[curves["title"] == "TAMPO"].reset_index(drop=True)
    assert tampo.loc[9, "reward"] == pytest.approx(0.5 + 0.10)
    assert tampo.loc[9, "smoothed"] == pytest.approx(0.5 + 0.09)
    assert tampo.loc[0, "smoothed"] == pytest.approx(0.5 + 0.01)


def test_figure_says_what_it_shows(result):
    figure = figure3(temperature_curve(result), reward_curves(result, TABLE1), warmup_steps=4)
    left, right = figure.axes
    assert left.get_xlabel() == right.get_xlabel() == "training step"
    assert left.get_ylabel() == "sampling temperature T"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["GRPO (T = 0.9)", "TAMPO"]
    assert len(left.get_legend().get_texts()) == 4


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
