"""Processes that have torch and TRL imported from the start, which takes six seconds: forks of one that imported them.

The standard library's fork server is that process; it starts with the first fork.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.runs.killed_run", "tests.trainer.two_processes"])


def fork(messages: Path, function: Callable[..., Any], *arguments: Any, **environment: str) -> BaseProcess:
    """Start a process that calls a function of a module, with what it prints in the file `messages`, its name."""
    process = CONTEXT.Process(name=str(messages), target=_call, args=(messages, function, arguments, environment))
    process.start()
    return process


def wait_for(process: BaseProcess, seconds: float) -> int:
    """The exit code of a process. One that is not done by then is killed, and fails the test."""
    process.join(timeout=seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(
            f"A process was still running after {seconds} s; it said:\n{Path(process.name).read_text()[-3000:]}"
        )
    return process.exitcode


def _call(
    messages: Path, function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]
) -> None:
    file = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ |= environment
    function(*arguments)
