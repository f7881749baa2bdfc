"""Step times: fair pairs, the arithmetic of the ratio, and that they are measured once."""

import numpy as np
import pandas as pd
import pytest

from tampo import overhead as module
from tampo.config import load_params
from tampo.overhead import measure_steps, overhead, step_time_ratio


def times(ratio, noise, rounds=4, steps=30):
    generator = np.random.default_rng(0)
    index = [(r, s) for r in range(rounds) for s in range(1, steps + 1)]
    table = pd.DataFrame(index, columns=["round", "step"])
    table["grpo"] = 1 + generator.random(len(table))
    table["tampo"] = table["grpo"] * ratio * np.exp(noise * generator.normal(size=len(table)))
    return table


def test_the_ratio_of_known_times():
    exact = step_time_ratio(times(1.02, 0.0))
    assert (exact.value, exact.low, exact.high) == pytest.approx((1.02, 1.02, 1.02))
    noisy = step_time_ratio(times(1.02, 0.05))
    assert noisy.low < 1.02 < noisy.high
    assert 0.01 < noisy.high - noisy.low < 0.05


def test_the_first_step_does_not_count():
    table = times(1.0, 0.0)
    table.loc[table["step"] == 1, "tampo"] *= 10
    assert step_time_ratio(table).value == pytest.approx(1.0)


def test_both_trainers_do_the_same_work(tmp_path, monkeypatch):
    """Real trainings, of two steps: the rollouts must be the same, or the measurement refuses."""
    params = load_params("smoke", {"steps": 2, "train_problems": 5, "max_completion_length": 8})
    table = measure_steps(params.training(), rounds=2)
    assert table[["round", "step"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert (table[["grpo", "tampo"]] > 0).all(axis=None)
    colder = {**module.TRAINERS, "grpo": lambda args, **kwargs: module.TRAINERS["tampo"](args=_colder(args), **kwargs)}
    monkeypatch.setattr(module, "TRAINERS", {"tampo": module.TRAINERS["tampo"], "grpo": colder["grpo"]})
    with pytest.raises(RuntimeError, match="different rollouts"):
        measure_steps(params.training(), rounds=1)


def _colder(args):
    args.meta_warmup_temperature = 0.05
    return args


def test_it_is_measured_once(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(module, "measure_steps", lambda *args: measured.append(args) or times(1.01, 0.01))
    monkeypatch.setattr(module.RunStore, "of", lambda params: module.RunStore(tmp_path))
    first, record = overhead(load_params("smoke"))
    again, _ = overhead(load_params("smoke"))
    assert first == again
    assert len(measured) == 1
    assert measured[0][0].steps == 3
    assert record.manifest["identity"]["rounds"] == 3
    assert overhead(load_params("paper")) is None
