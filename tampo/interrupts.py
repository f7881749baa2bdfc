"""Ctrl-C and SIGTERM (a cluster's pre-emption) as a request to stop at the next place where nothing is lost."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Work was stopped on request, and what was done is kept; the message says how to go on."""


class StopRequest:
    """Whether somebody asked for a stop. Truthy from then on."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self) -> None:
        self._asked = True


@contextmanager
def stop_on_signals(notice: str = "Stopping after this step; what was done is kept.") -> Iterator[StopRequest]:
    """Within the block, SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C interrupts at once, as ever.

    `notice` is what a signal is answered with, on stderr.

    Outside of the main thread, where Python has no signal handlers, the request is never made by a signal.
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


def stop_with_parent(take: Callable[[str], object] = lambda line: None) -> None:
    """Send this process SIGTERM once its standard input ends, which a parent that dies cannot prevent.

    Until then each line of it is given to `take`, in a thread of its own.
    """

    def wait() -> None:
        rest = b""
        while read := os.read(0, 65536):  # not by sys.stdin, whose lock would be held at exit
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                take(line.decode())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
