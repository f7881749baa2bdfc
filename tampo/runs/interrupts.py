"""Ctrl-C and SIGTERM (a cluster's pre-emption) as a request to stop at the next point where nothing is lost."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Work was stopped on request, and what was done is kept; the message says how to resume."""


class StopRequest:
    """Whether a stop was requested; truthy from then on."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self) -> None:
        self._asked = True


@contextmanager
def stop_on_signals(notice: str = "Stopping after this step; what was done is kept.") -> Iterator[StopRequest]:
    """Within the block, SIGTERM and the first Ctrl-C request a stop; a second Ctrl-C raises KeyboardInterrupt.

    `notice` is printed to stderr on each signal. Outside of the main thread, where Python allows no signal handlers,
    signals request nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.ask()
        print(notice, file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent(parent: Connection) -> None:
    """Send this process SIGTERM when `parent` is closed at its other end, as it is when that process dies.

    The signal is repeated: one that comes while Python finalizes an object is lost, as its exception is ignored.
    """

    def wait() -> None:
        parent.poll(None)  # nothing is ever sent
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=wait, daemon=True).start()
