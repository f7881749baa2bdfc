"""Signals request a stop; a second Ctrl-C interrupts at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tampo.runs.interrupts import Interrupted, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_a_stop(number, capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert "Stopping after this step" in capsys.readouterr().err


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert issubclass(Interrupted, KeyboardInterrupt), "what waits for Ctrl-C sees it"


def test_other_threads_have_no_handlers():
    found = []

    def work():
        with stop_on_signals() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


CHILD = """
import time
from multiprocessing.connection import Connection
from tampo.runs.interrupts import stop_on_signals, stop_with_parent
with stop_on_signals() as stop:
    stop_with_parent(Connection(0, writable=False))
    print("ready", flush=True)
    for _ in range(1000):
        time.sleep(0.01)
        if stop:
            break
    print("stopped" if stop else "ran on", flush=True)
"""


def test_a_child_stops_when_its_parent_is_gone():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        child.stdin.close()
        assert child.stdout.read() == "stopped\n"
