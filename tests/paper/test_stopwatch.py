"""Time is counted once, in the innermost part."""

import time

import pytest

from tampo.paper.stopwatch import Stopwatch


def test_parts_do_not_hold_the_parts_inside_them(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("tampo.paper.stopwatch.now", lambda: next(clock))
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
