r"""Whether a completion's final answer equals the gold one, by math-verify in worker processes that may be killed.

What a model writes can make sympy hang or eat all memory, and math-verify's own timeouts are signals that only work
in a main thread. So each answer is judged in a worker process with a memory cap and a kernel timer that ends the
worker at the deadline, even inside C code. A worker is `python -m tampo.grading`: it imports neither torch nor the
caller's `__main__`, so grading works from threads, notebooks and unguarded scripts. POSIX systems only.

How an answer is judged stands in `tampo.judging`.
"""

import contextlib
import json
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from typing import Any

from tampo.judging import Status, judge

_START_SECONDS = 120.0  # to import sympy, on a machine that is busy
_GRACE_SECONDS = 5.0  # beyond the deadline, for a worker that its own timer did not end (a stopped process)
_ANSWERS_PER_WORKER = 5_000  # then a fresh one: the parser's caches only grow
_ANSWER_LENGTH = 1_000  # characters of an answer that are kept in a verdict


@dataclass(frozen=True)
class Verdict:
    """What became of one completion.

    Attributes:
        correct: True only with the status "correct".
        status: "unparseable": no answer was found or it is not mathematics; "gold_unparseable": the same of the gold;
            "timeout": the deadline or the memory cap was exceeded, or the worker died otherwise.
        answer: The text read out of the completion, its first 1,000 characters; None where nothing was found, and
            after a timeout.
    """

    correct: bool
    status: Status
    answer: str | None


def grade_math(
    completions: Sequence[str],
    golds: Sequence[str],
    tolerances: Sequence[float | None] | None = None,
    pool: "GradingPool | None" = None,
) -> list[Verdict]:
    r"""Judge each completion against its gold answer.

    The answer is the last non-empty `\boxed{}` (several, where they are joined as in "\boxed{1} and \boxed{2}"),
    else what math-verify finds in the last 2,000 characters.

    Args:
        completions: What the model wrote; any text.
        golds: The right answers in LaTeX or plain text, with or without `$...$` or `\boxed{}`.
        tolerances: Absolute tolerance of each gold that is a single number (OlympiadBench's `error`), or None.
        pool: The workers; by default a pool shared by the whole process, with a deadline of 5 s.

    Returns:
        One verdict a completion, in their order.

    Raises:
        ValueError: The sequences differ in length.
        RuntimeError: No worker can be started, as without math-verify, or the pool is closed.
    """
    return (pool or _default_pool(os.getpid())).grade(completions, golds, tolerances)


class GradingPool:
    """Worker processes that judge answers; started when first needed, ended by `close`, `with`, or at exit.

    Usable from several threads at once. A process forked from this one needs a pool of its own.

    Args:
        workers: Processes; by default one a core that this process may use, at most 8.
        deadline: Seconds for one answer.
        memory: Bytes of address space of a worker.
    """

    def __init__(self, workers: int | None = None, deadline: float = 5.0, memory: int = 2**30) -> None:
        if workers is None:
            workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        if workers < 1 or deadline <= 0:
            raise ValueError(f"workers and deadline must be positive, got {workers} and {deadline}")
        self._deadline, self._memory = deadline, memory
        self._live: set[_Worker] = set()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # the last used first: few are started
        for _ in range(workers):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grading")
        self._finalizer = weakref.finalize(self, _end, self._threads, self._live, os.getpid())

    def grade(
        self, completions: Sequence[str], golds: Sequence[str], tolerances: Sequence[float | None] | None = None
    ) -> list[Verdict]:
        """As `grade_math`, on these workers."""
        if tolerances is None:
            tolerances = [None] * len(golds)
        if not len(completions) == len(golds) == len(tolerances):
            raise ValueError(f"got {len(completions)} completions, {len(golds)} golds, {len(tolerances)} tolerances")
        return list(self._threads.map(self._grade_one, completions, golds, tolerances))

    def close(self) -> None:
        """End the workers. The pool grades no more."""
        self._finalizer()

    def __enter__(self) -> "GradingPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _grade_one(self, completion: str, gold: str, tolerance: float | None) -> Verdict:
        worker = self._idle.get()
        try:
            # What time is left is for a second try, should the worker die of something else than its deadline: the
            # answers before may have filled its memory, or somebody killed it.
            seconds = self._deadline
            while seconds > 0.1:
                if worker is None or worker.process.poll() is not None or worker.answered >= _ANSWERS_PER_WORKER:
                    self._discard(worker)
                    worker = None
                    worker = _Worker(self._memory)
                    self._live.add(worker)
                    if not self._finalizer.alive:
                        self._discard(worker)
                        raise RuntimeError("The grading pool is closed.")
                start = time.monotonic()
                reply = worker.ask([seconds, completion, gold, tolerance], seconds + _GRACE_SECONDS)
                if reply is not None:
                    return Verdict(reply[0] == "correct", reply[0], reply[1])
                self._discard(worker)
                if worker.process.returncode == -signal.SIGALRM or worker.answered == 1:
                    break
                seconds -= time.monotonic() - start
            return Verdict(False, "timeout", None)
        finally:
            self._idle.put(worker)

    def _discard(self, worker: "_Worker | None") -> None:
        if worker is not None:
            worker.end()
            self._live.discard(worker)


@cache
def _default_pool(process: int) -> GradingPool:
    """One pool a process id, as a forked process must not talk to the workers of its parent."""
    del process
    return GradingPool()


def _end(threads: ThreadPoolExecutor, workers: "set[_Worker]", owner: int) -> None:
    if os.getpid() == owner:  # not in a forked copy
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(workers):
            worker.end()


class _Worker:
    """One worker process: a line of JSON in, a line of JSON out."""

    def __init__(self, memory: int) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # a notebook may have changed it
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tampo.grading", str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        self.answered = 0
        greeting = self._read(_START_SECONDS)
        if greeting != ["ready"]:
            self.end()
            raise RuntimeError(f"A grading worker did not start: {greeting[0] if greeting else 'it ended at once'}")

    def ask(self, question: list[Any], seconds: float) -> list[Any] | None:
        """The reply, or None where the worker died or said nothing for `seconds`."""
        assert self.process.stdin is not None
        self.answered += 1
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")  # ASCII, lone surrogates escaped
            self.process.stdin.flush()
        except OSError:
            return None
        return self._read(seconds)

    def _read(self, seconds: float) -> list[Any] | None:
        stdout = self.process.stdout
        assert stdout is not None
        line = stdout.readline() if wait([stdout], seconds) else b""  # type: ignore[list-item]
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what is buffered for a dead worker
                pipe.close()  # type: ignore[union-attr]


def _serve() -> None:
    """Answer questions from stdin until it ends, and die of SIGALRM when one takes too long."""
    memory = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes stdin
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the replies
    logging.disable()
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        print(json.dumps([f"{error} (pip install math-verify)"]), file=output, flush=True)
        return
    print(json.dumps(["ready"]), file=output, flush=True)
    for line in sys.stdin.buffer:
        # The default action of SIGALRM ends the process, whatever it is doing and whether or not the parent lives.
        seconds, *question = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        status, answer = judge(*question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps([status, answer and answer[:_ANSWER_LENGTH]]), file=output, flush=True)


if __name__ == "__main__":
    _serve()
