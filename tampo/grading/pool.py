"""Grade the final answer of a completion against the gold answer, in worker processes.

Some completions make sympy hang or use all memory. So each answer is graded in a worker process with a memory cap, and
a kernel timer kills the worker at the deadline, even inside C code. The deadline counts the worker's own processor
time: a busy machine changes no verdict. A worker runs `python -m tampo.grading.pool` and imports neither torch nor the
caller's `__main__`, so grading works from threads, notebooks and scripts without a `__main__` guard. POSIX only.
"""

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tampo.grading.answers import Grader, Status, match_answer

_START_SECONDS = 120.0  # to import sympy on a busy machine
_WALL_SECONDS = (60.0, 20.0)  # until a worker is killed that its own timer did not end: so many, and times the deadline
_ATTEMPTS = 3  # by different workers, if one is killed by something else than its timer
_ANSWERS_PER_WORKER = 5_000  # then a new worker starts: the parser's caches only grow
_ANSWER_LENGTH = 1_000  # characters of the answer in a verdict


@dataclass(frozen=True)
class Verdict:
    """The grade of one completion.

    Attributes:
        correct: True only with the status "correct".
        status: "correct", "wrong", "unparseable" (no answer, or it is not mathematics), "gold_unparseable" (the gold
            answer is not mathematics) or "timeout" (deadline or memory cap exceeded, or the workers died).
        answer: The answer in the completion, at most 1,000 characters; None without one or on timeout.
    """

    correct: bool
    status: Status
    answer: str | None


def grade_math(
    completions: Sequence[str],
    golds: Sequence[str],
    tolerances: Sequence[float | None] | None = None,
    pool: "GradingPool | None" = None,
    grader: Grader = "tampo",
) -> list[Verdict]:
    r"""Grade each completion against its gold answer.

    The answer is the content of the last non-empty `\boxed{}` (of several, if they are joined as in "\boxed{1} and
    \boxed{2}"), otherwise what the completion states as its answer ("the answer is ..."), or the mathematics at the end
    of its last sentence, if the sentence is whole.

    Args:
        completions: Texts of the model.
        golds: The correct answers in LaTeX or plain text, with or without `$...$` or `\boxed{}`.
        tolerances: For each gold answer that is a single number, its absolute tolerance (OlympiadBench's `error`) or
            None.
        pool: The workers. By default, one pool per process with a deadline of 5 s.
        grader: "math-verify" gives the verdicts of the plain library, to compare with the numbers of others.

    Returns:
        One verdict per completion, in the same order.

    Raises:
        ValueError: The sequences differ in length.
        RuntimeError: No worker can be started (for example, math-verify is not installed) or the pool is closed.
    """
    return (pool or _default_pool(os.getpid())).grade(completions, golds, tolerances, grader)


# pebble 5.2.3 has such a pool, but its workers share one locked pipe: a worker killed at the wrong moment (as by the
# out-of-memory killer) keeps the lock or breaks the whole pool. Of 46 SIGKILLs at random moments, 19 broke its pool and
# 6 stalled a batch for over two minutes; of 40, none delayed this pool. Both grade about 400 real completions a second
# on two busy cores. Without loky's process context, pebble also imports the caller's `__main__`.
class GradingPool(contextlib.AbstractContextManager["GradingPool"]):
    """Worker processes that grade answers. They start when first needed and end at `close`, `with` or exit.

    Several threads may use one pool. A forked process needs its own pool.

    Args:
        workers: Number of processes; by default one per available core, at most 8.
        deadline: Seconds of processor time per answer.
        memory: Address space of a worker in bytes.
    """

    def __init__(self, workers: int | None = None, deadline: float = 5.0, memory: int = 2**30) -> None:
        if workers is None:
            workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        if workers < 1 or deadline <= 0:
            raise ValueError(f"workers and deadline must be positive, got {workers} and {deadline}")
        self._deadline, self._memory = deadline, memory
        self._workers: set[_Worker] = set()
        self._thread = threading.local()  # each thread has its worker
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grading")
        self._finalizer = weakref.finalize(self, _end, self._threads, self._workers, os.getpid())

    def grade(
        self,
        completions: Sequence[str],
        golds: Sequence[str],
        tolerances: Sequence[float | None] | None = None,
        grader: Grader = "tampo",
    ) -> list[Verdict]:
        """Same as `grade_math`, with this pool's workers."""
        if tolerances is None:
            tolerances = [None] * len(golds)
        if not len(completions) == len(golds) == len(tolerances):
            raise ValueError(f"got {len(completions)} completions, {len(golds)} golds, {len(tolerances)} tolerances")
        return list(self._threads.map(partial(self._grade_one, grader), completions, golds, tolerances))

    def close(self) -> None:
        """End the workers. A closed pool raises RuntimeError when used."""
        self._finalizer()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _grade_one(self, grader: Grader, completion: str, gold: str, tolerance: float | None) -> Verdict:
        # If the worker dies, but not from the deadline (earlier answers filled its memory, or it was killed), another
        # worker tries again.
        wall = _WALL_SECONDS[0] + _WALL_SECONDS[1] * self._deadline
        for _ in range(_ATTEMPTS):
            worker = self._usable_worker()
            reply = worker.ask([self._deadline, completion, gold, tolerance, grader], wall)
            if reply is not None:
                return Verdict(reply[0] == "correct", reply[0], reply[1])
            worker.end()
            if worker.process.returncode == -signal.SIGPROF or worker.answered == 1:
                break
        return Verdict(False, "timeout", None)

    def _usable_worker(self) -> "_Worker":
        worker = getattr(self._thread, "worker", None)
        if worker is None or not worker.is_usable():
            if worker is not None:
                worker.end()
                self._workers.discard(worker)
            worker = self._thread.worker = _Worker(self._memory)
            self._workers.add(worker)
            if not self._finalizer.alive:
                worker.end()
                raise RuntimeError("The grading pool is closed.")
        return worker


@cache
def _default_pool(process: int) -> GradingPool:
    """One pool per process id: a forked process must not use its parent's workers."""
    return GradingPool()


def _end(threads: ThreadPoolExecutor, workers: "set[_Worker]", owner: int) -> None:
    if os.getpid() == owner:  # not in a forked process
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(workers):
            worker.end()


class _Worker:
    """One worker process and the connection to it."""

    def __init__(self, memory: int) -> None:
        self._connection, remote = Pipe()
        with remote:
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # a notebook may have changed it
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tampo.grading.pool", str(remote.fileno()), str(memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[remote.fileno()],
                env=os.environ | {"PYTHONPATH": path},
            )
        self.answered = 0
        greeting = self._receive(_START_SECONDS)
        if greeting != "ready":
            self.end()
            raise RuntimeError(f"A grading worker did not start: {greeting or 'it exited at once'}")

    def is_usable(self) -> bool:
        return self.process.poll() is None and self.answered < _ANSWERS_PER_WORKER

    def ask(self, question: list[Any], seconds: float) -> list[Any] | None:
        """The reply (status, answer), or None if the worker died or did not reply within `seconds`."""
        self.answered += 1
        try:
            self._connection.send(question)
        except OSError:
            return None
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Any:
        try:
            return self._connection.recv() if self._connection.poll(seconds) else None
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _serve(connection: Connection, memory: int) -> None:
    """Grade answers until the parent process closes the connection; SIGPROF ends this process at the deadline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    logging.disable()
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        connection.send(f"{error} (pip install math-verify)")
        return
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            # The default action of SIGPROF ends the process, whatever it is doing and whether or not the parent lives.
            seconds, *question = connection.recv()
            signal.setitimer(signal.ITIMER_PROF, seconds)
            status, answer = match_answer(*question)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send([status, answer and answer[:_ANSWER_LENGTH]])


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
