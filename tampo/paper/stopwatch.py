"""Seconds spent in named parts of a program."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Adds up the seconds spent in parts of a program; a part does not include the parts that run inside it.

    Example:
        >>> watch = Stopwatch()
        >>> sort = watch.timed("sorting", sorted)
        >>> sort([2, 1])
        [1, 2]
        >>> list(watch.lap())
        ['sorting']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]  # seconds of the parts inside each running part, innermost last

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A wrapper of `function` that adds the time of its calls to `part`."""

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            start = now()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = now() - start
                self._seconds[part] += took - self._inside.pop()
                self._inside[-1] += took

        return measured

    def lap(self) -> dict[str, float]:
        """Seconds by part since the last lap."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


def now() -> float:
    """The clock in seconds, read after the GPU has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
