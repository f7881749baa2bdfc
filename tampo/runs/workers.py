"""Jobs on this machine: worker processes that run one job after another.

loky starts the workers without importing the caller's main module (notebooks and plain scripts need no guard), passes
them their calls, and detects one that dies. This module adds what loky does not do:

- loky stops a busy worker by SIGKILL only, and a worker outlives its parent until its call ends. Here it gets SIGTERM
  in both cases, so that a training run saves a checkpoint first (`stop_with_parent`).
- In loky's pools, a worker that dies breaks the pool. Here each worker is a pool of one.
- Each job has its own log.

submitit's local executor starts two new processes per job, so that each job would repeat the imports.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from itertools import takewhile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

from loky import BrokenProcessPool, ProcessPoolExecutor, cpu_count

from tampo.config import ConfigError, EvaluationConfig, TrainingConfig
from tampo.runs.interrupts import ENOUGH_TO_SAVE, Interrupted, stop_with_parent
from tampo.runs.pipeline import evaluate
from tampo.runs.store import RunStore


class RunFailed(RuntimeError):
    """A job failed; the message has the reason, the path of its log, and the end of that log."""


class Task(NamedTuple):
    """A job to start: the name of its evaluation's folder, its JSON text for `run_job`, the attempt (from 1)."""

    name: str
    order: str
    attempt: int


class Workers:
    """Jobs on this machine, `count` at a time (default: one per available core), with their logs in `folder`.

    Each job has `gpus` GPUs; a worker keeps the same ones.

    Raises:
        ConfigError: This machine has too few GPUs.
    """

    notice = "Stopping the jobs; each saves within a step."
    stopped = "Finished work is kept; the same command resumes it."

    def __init__(self, folder: Path, count: int | None = None, gpus: int = 0) -> None:
        self._folder, self._workers = folder, [Worker() for _ in range(count or cpu_count())]
        if gpus:
            names = visible_gpus()
            if gpus > len(names):
                raise ConfigError(f"A job asks for {gpus} GPUs, and this machine has {len(names)}.")
            del self._workers[len(names) // gpus :]
            for worker in self._workers:
                worker.environment = {"CUDA_VISIBLE_DEVICES": ",".join(names[:gpus])}
                del names[:gpus]
        self._parent, self._alive = Pipe(duplex=False)  # workers stop when the second end is closed

    def find(self, name: str) -> None:
        """No attempt of an earlier call is left, because workers end with the process that started them."""

    def submit(self, tasks: Iterator[Task]) -> list["Worker"]:
        """Start the first of the tasks, one per free worker."""
        free = sorted((worker for worker in self._workers if not worker.busy), key=lambda worker: worker.pool is None)
        self._folder.mkdir(parents=True, exist_ok=True)
        return [worker.start(task, self._folder, self._parent) for worker, task in zip(free, tasks, strict=False)]

    def stop(self) -> None:
        """Stop all workers and wait for them; a training run saves a checkpoint first."""
        for worker in self._workers:
            if not worker.busy:
                worker.close()
        self._alive.close()
        for worker in self._workers:
            worker.close()
        self._parent.close()


class Worker:
    """A process that runs one job at a time; its methods describe the current job."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.pool: ProcessPoolExecutor | None = None
        self.busy = False

    def start(self, task: Task, folder: Path, parent: Connection) -> "Worker":
        """Start a job; the process stops when the other end of `parent` is closed."""
        self.busy, self.log, self._order = True, folder / f"{task.name}.log", json.loads(task.order)
        call = (_run_logged, task.order, str(self.log), task.attempt > 1)
        try:
            self._future = self._process(parent).submit(*call)
        except BrokenProcessPool:  # it died between two jobs
            self.close()
            self._future = self._process(parent).submit(*call)
        return self

    def _process(self, parent: Connection) -> ProcessPoolExecutor:
        if self.pool is None:
            environment = worker_environment() | self.environment
            self.pool = ProcessPoolExecutor(1, initializer=_prepare, initargs=(parent,), env=environment)
        return self.pool

    def state(self) -> Literal["running", "ended"]:
        """State of the job. Once it has ended, the worker can start another one."""
        if not self._future.done():
            return "running"
        self.busy = False
        training = self._order["training"] or {"rollout_engine": "transformers"}
        engines = {self._order["evaluation"]["eval_engine"], training["rollout_engine"]}
        # A vLLM engine keeps its memory until the process ends.
        if engines != {"transformers"} or self._future.exception():
            self.close()
        return "ended"

    def error(self) -> str | None:
        """Why the job failed, in one line."""
        died = self._future.exception()
        return " ".join(str(died).split()) if died else self._future.result()

    def close(self) -> None:
        """End the process after its job."""
        if self.pool is not None:
            self.pool.shutdown()
        self.pool = None


def _prepare(parent: Connection) -> None:
    """Prepare a new worker."""
    _redirect_output(os.devnull)
    # A terminal sends Ctrl-C to all processes, but the one that started the jobs handles it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    stop_with_parent(parent)


def _run_logged(order: str, log: str, append: bool) -> str | None:
    """Run a job in a worker; returns why it failed. The traceback is in the log."""
    _redirect_output(log, append)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        run_job(order)
        return None
    except BaseException as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # between jobs SIGTERM ends the process


def _redirect_output(path: str, append: bool = False) -> None:
    """Redirect the output of this process and its children to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC), 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Signal handler of a job. A training run has its own, which stops after the current step."""
    raise Interrupted("Stopped on request; finished work is kept.")


def run_job(order: str) -> None:
    """Make the records of the job described by `Job.order`, in this process and with one torch thread.

    Or do the part of a job that `tampo.runs.apart` ordered.

    Raises:
        RunFailed: The launcher (accelerate) failed.
    """
    job = json.loads(order)
    if job["launch"]:
        _launch(job["launch"])
    import torch

    torch.set_num_threads(1)
    if "part" in job:
        from tampo.runs.apart import run_part

        return run_part(job)
    training = None if job["training"] is None else TrainingConfig(**job["training"])
    evaluate(RunStore(Path(job["root"])), EvaluationConfig(**job["evaluation"]), job["model"], training)


def _launch(command: list[str]) -> None:
    """Run a launcher. On a stop, signal all of its processes and wait until the last one has saved."""
    # torch's launcher would kill its processes 30 s after a stop, which may be less than a step takes.
    settings = os.environ | ENOUGH_TO_SAVE
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(
        command, text=True, errors="replace", start_new_session=True, env=settings, **streams
    ) as process:
        output: Iterable[str] = process.stdout or ()
        try:
            sys.stdout.writelines(output)
        except Interrupted:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the waiting
            os.killpg(process.pid, signal.SIGTERM)
            sys.stdout.writelines(output)  # ends when the last process has closed it
            raise
    if process.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with exit status {process.returncode}.")


def worker_environment() -> dict[str, str]:
    """Environment of a process that runs jobs: one thread, and the tampo of this process.

    One thread, because a small model gains nothing from more, and two processes with two threads each on two cores
    are several times slower than with one each.
    """
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    settings |= {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    # Otherwise loky replaces a worker that grows by 300 MB after its first job, and the imports are repeated.
    return settings | this_tampo() | {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


def this_tampo() -> dict[str, str]:
    """Environment in which `python -P` imports the tampo of this process, not one in the working directory."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by CUDA's names."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",") if name.strip()]
        return list(takewhile(lambda name: not name.startswith("-"), names))  # as CUDA, which ends the list at a -1
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
