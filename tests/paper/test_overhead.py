"""Step times: fair pairs, parts that add up and are counted once, and ratios of known times."""

import time

import numpy as np
import pandas as pd
import pytest
import trl

from tampo.config import load_params
from tampo.paper import overhead as module
from tampo.paper.overhead import Stopwatch, measure_steps
from tampo.paper.overhead_cases import CASES, PARTS
from tampo.paper.overhead_summary import outer_loop_ratio, ratio, step_ratio
from tampo.paper.peak_memory import peak_memory
from tampo.trainer.trl_internals import LogitRecorder
from tests.paper.helpers import times
from tests.paper.taking import take


def test_the_ratio_of_known_times():
    exact = step_ratio(times(1.02, 0.0), "tampo")
    assert (exact.value, exact.low, exact.high) == pytest.approx((1.02, 1.02, 1.02))
    noisy = step_ratio(times(1.02, 0.05), "tampo")
    assert noisy.low < 1.02 < noisy.high
    assert 0.01 < noisy.high - noisy.low < 0.05
    assert outer_loop_ratio(times(1.02, 0.05), "tampo").value == pytest.approx(0.01)
    pairs = ratio(pd.Series([2.0, 8.0]), pd.Series([1.0, 2.0]))
    assert pairs.value == pytest.approx(np.sqrt(8)), "a geometric mean"


def test_the_first_step_does_not_count():
    table = times(1.0, 0.0)
    table.loc[(table["step"] == 1) & (table["case"] == "tampo"), "seconds"] *= 10
    assert step_ratio(table, "tampo").value == pytest.approx(1.0)
    alone = table[table["step"] == 1]
    assert step_ratio(alone, "tampo").value == pytest.approx(10.0), "where there is no other"


def test_all_cases_are_measured_by_part_in_turns(monkeypatch):
    """Real training runs of two steps. The rollouts of GRPO and TAMPO must be the same, or the measurement refuses."""
    params = load_params("smoke", {"max_steps": 2, "train_problems": 5, "max_completion_length": 8})
    table = measure_steps(params.training(), rounds=2, cases=tuple(CASES))
    wide = table.pivot(index=["round", "step", "case"], columns="part", values="seconds")
    assert len(wide) == 2 * 2 * 3
    np.testing.assert_allclose(wide[list(PARTS)].sum(axis=1), wide["whole"], rtol=1e-9)
    assert (wide[["generate", "reward", "forward", "backward", "other"]] > 0).all(axis=None)
    outer = wide["outer loop"].groupby("case").min()
    assert outer["grpo"] == 0 < min(outer["tampo"], outer["fast"])
    order = table[table["part"] == "whole"].drop_duplicates(["round", "case"])["case"].tolist()
    assert order == [*CASES, *reversed(CASES)]

    slow = {"grpo": CASES["grpo"], "tampo": CASES["fast"]}
    monkeypatch.setattr(module, "CASES", slow)
    with pytest.raises(RuntimeError, match="different rollouts"):
        measure_steps(params.training(), rounds=1)


def test_a_renamed_method_of_trl_is_an_error(monkeypatch):
    """Otherwise its time would silently count as another part."""
    monkeypatch.delattr(trl.GRPOTrainer, "_calculate_rewards")
    params = load_params("smoke", {"max_steps": 1, "train_problems": 5, "max_completion_length": 8})
    with pytest.raises(RuntimeError, match=f"GRPOTrainer has no method '_calculate_rewards' in TRL {trl.__version__}"):
        measure_steps(params.training(), rounds=1, cases=("grpo",))


def test_the_recorder_is_timed_only_while_measuring():
    original = LogitRecorder.log_probs
    with pytest.raises(KeyError), Stopwatch().timing("outer loop", LogitRecorder, "log_probs"):
        assert LogitRecorder.log_probs is not original
        raise KeyError
    assert LogitRecorder.log_probs is original


def test_peak_memory_is_that_of_one_call():
    small, large = peak_memory(take, 1), peak_memory(take, 301)
    assert large - small == pytest.approx(300, abs=30)


def test_parts_do_not_hold_the_parts_inside_them(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("tampo.paper.overhead.now", lambda: next(clock))
    watch = Stopwatch()
    inner = watch.timed("inner", lambda: "value")
    outer = watch.timed("outer", lambda: (inner(), inner()))
    assert outer() == ("value", "value")  # reads the clock at 0 [1 2] [3 4] 5
    assert watch.lap() == {"inner": 2, "outer": 3}
    assert watch.lap() == {}


def test_a_part_that_fails_is_counted_and_left():
    watch = Stopwatch()

    def fail():
        time.sleep(0.01)
        raise KeyError

    with pytest.raises(KeyError):
        watch.timed("broken", fail)()
    watch.timed("whole", lambda: None)()
    seconds = watch.lap()
    assert seconds["broken"] >= 0.01 > seconds["whole"]
