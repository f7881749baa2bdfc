"""Ctrl-C and SIGTERM (a cluster's pre-emption) as a request to stop at the next point where no work is lost."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType

logger = logging.getLogger(__name__)

# torch's launcher, which accelerate uses too, kills its processes this long after a signal, in seconds.
SHUTDOWN_VARIABLE, SHUTDOWN_DEFAULT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", 30
ENOUGH_TO_SAVE = {SHUTDOWN_VARIABLE: "3600"}


class Interrupted(KeyboardInterrupt):
    """Work was stopped on request and its results were saved; the message explains how to resume."""


class StopRequest:
    """True once a stop is requested."""

    requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals(notice: str = "Stopping after this step; finished work is kept.") -> Iterator[StopRequest]:
    """Within the block, SIGTERM and the first Ctrl-C request a stop; a second Ctrl-C raises KeyboardInterrupt.

    `notice` is printed to stderr on each signal. Outside the main thread, where Python allows no signal handlers,
    signals are not handled.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.requested = True
        print(notice, file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_shutdown_timeout(step: float | None = None) -> bool:
    """Warn, and return true, if torch's launcher would kill this process before a step has ended and was saved.

    Without that launcher nothing is wrong: a signal reaches the process alone.

    Args:
        step: Seconds that a step took; None, before the first one: warn if the variable is not set at all.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    given = os.environ.get(SHUTDOWN_VARIABLE)
    if step is None:
        if given is not None:
            return False
        reason = f"{SHUTDOWN_VARIABLE} is not set"
    else:
        if step < int(given or SHUTDOWN_DEFAULT):
            return False
        reason = f"A step takes {step:.0f} s"
    logger.warning(
        "%s: %s s after Ctrl-C or a pre-emption the launcher kills the run, and all steps since the last checkpoint "
        "are lost. Set %s=3600 before the command that starts it.",
        reason,
        given or SHUTDOWN_DEFAULT,
        SHUTDOWN_VARIABLE,
    )
    return True


def stop_with_parent(parent: Connection) -> None:
    """Send this process SIGTERM when the other end of `parent` is closed, as it is when the parent process dies.

    The signal is repeated, because one that arrives while Python finalizes an object is lost.
    """

    def wait() -> None:
        parent.poll(None)  # nothing is ever sent
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=wait, daemon=True).start()
