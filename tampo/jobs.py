"""Several runs side by side, in processes with one thread each.

One thread a run, because a model small enough for a CPU gains nothing from more, and two processes with two threads
each on two cores are several times slower than with one each.
"""

import json
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tampo.config import EvaluationConfig, TrainingConfig
from tampo.interrupts import stop_with_parent
from tampo.runs import PROGRESS, Record, RunStore, evaluation_identity, training_identity


class RunFailed(RuntimeError):
    """A run ended with an error; the message holds the end of its log and the log's path."""


@dataclass(frozen=True)
class Job:
    """A model to evaluate, after training it where `training` is given. `label` names it in progress lines."""

    label: str
    evaluation: EvaluationConfig
    training: TrainingConfig | None = None
    model: str = "mini"

    def folder(self, store: RunStore) -> Path:
        """Where the job's evaluation is, or will be."""
        return store.folder("evaluation", evaluation_identity(self.evaluation, self.model, self.training))

    def find(self, store: RunStore) -> tuple[Record | None, Record] | None:
        """(training, evaluation) if both are finished, else None. The training of a base model is None."""
        training = None
        if self.training is not None:
            training = store.load("training", training_identity(self.training))
            if training is None:
                return None
        evaluation = store.load("evaluation", evaluation_identity(self.evaluation, self.model, self.training))
        return None if evaluation is None else (training, evaluation)

    def progress(self, store: RunStore) -> str:
        """Where a running job stands, in words."""
        if self.training is not None:
            row = _read_json(store.folder("training", training_identity(self.training)) / PROGRESS)
            if row:
                reward, temperature = row.get("reward"), row.get("temperature")
                detail = f", reward {reward:.2f}, T {temperature:.2f}" if reward is not None and temperature else ""
                return f"step {row['step']}/{row['steps']}{detail}"
        row = _read_json(self.folder(store) / PROGRESS)
        return f"benchmark {row['benchmark'] + 1}/{row['benchmarks']}" if row else "starting"

    def order(self, store: RunStore) -> str:
        """The job as a JSON text, for a process that calls `carry_out`."""
        order = {
            "root": str(store.root),
            "model": self.model,
            "evaluation": self.evaluation.model_dump(mode="json"),
            "training": None if self.training is None else self.training.model_dump(mode="json"),
        }
        return json.dumps(order)


def carry_out(order: str) -> None:
    """Make the records of the job that `Job.order` described, in this process and with one torch thread."""
    import torch

    torch.set_num_threads(1)
    job = json.loads(order)
    training = None if job["training"] is None else TrainingConfig(**job["training"])
    RunStore(Path(job["root"])).evaluate(EvaluationConfig(**job["evaluation"]), job["model"], training)


def say_now(line: str) -> None:
    """Print a line at once, so that progress is seen in a notebook and in papermill's log while it is made."""
    print(line, flush=True)


def run_jobs(
    store: RunStore,
    jobs: Sequence[Job],
    workers: int | None = None,
    say: Callable[[str], None] = say_now,
    every: float = 20.0,
) -> list[tuple[Record | None, Record]]:
    """The records of all jobs, in order; those that are missing are made side by side.

    Args:
        store: Where records are kept.
        jobs: What to make.
        workers: Processes at a time, one thread each; default: one for each core this process may use.
        say: Where lines of progress go.
        every: Seconds between two lines of progress.

    Raises:
        RunFailed: A job failed. Others that were running are stopped; what they did is kept and goes on next time.
    """
    # Jobs that ask for the same records are one.
    wanted = list({job.folder(store): job for job in jobs}.values())
    missing = [job for job in wanted if job.find(store) is None]
    # The longest first: an evaluation alone fits into whatever is left at the end.
    missing.sort(key=lambda job: job.training is None)
    found = len(wanted) - len(missing)
    place = os.path.relpath(store.root)  # executed notebooks are shared: no path of a machine
    say(f"{found} of {len(wanted)} runs are there" + (f", making {len(missing)} in {place}." if missing else "."))
    if missing:
        _run_missing(store, missing, workers or available_cores(), say, every)
    made = []
    for job in jobs:
        records = job.find(store)
        if records is None:
            raise RunFailed(f"{job.label}: its records in {store.root} are not whole after the run.")
        made.append(records)
    return made


def available_cores() -> int:
    """Cores that this process may use."""
    # Not every system tells.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment() -> dict[str, str]:
    """Environment of a process that carries out a job: one thread, and this very tampo."""
    return {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | this_tampo()


def this_tampo() -> dict[str, str]:
    """Environment in which `python -P` imports this very tampo, not another that lies in the working directory."""
    return {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    }


def _run_missing(store: RunStore, jobs: Sequence[Job], workers: int, say: Callable[[str], None], every: float) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    waiting, running, idle = list(jobs), list[_Worker](), list[_Worker]()
    start = said = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(idle.pop() if idle else _Worker())
                running[-1].give(waiting.pop(0), store)
            time.sleep(0.2)
            for worker in [worker for worker in running if worker.is_done()]:
                running.remove(worker)
                idle += [worker] if worker.can_go_on() else []
                done = len(jobs) - len(waiting) - len(running)
                say(f"[{_clock(start)}] {worker.job.label}: done ({done} of {len(jobs)})")
            if running and time.monotonic() - said >= every:
                said = time.monotonic()
                say(f"[{_clock(start)}] " + " | ".join(f"{w.job.label}: {w.job.progress(store)}" for w in running))
    finally:  # after an error or Ctrl-C; what was done stays in the checkpoints
        for worker in running:
            worker.process.terminate()  # all of them, before the first is waited for
        for worker in running + idle:
            worker.stop()


class _Worker:
    """A process that makes the records of one job after the other: it takes seconds to import what they need."""

    job: Job
    log: Path

    def __init__(self) -> None:
        self._answers, answers = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tampo.jobs", str(answers)],
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[answers],
            env=os.environ | worker_environment(),
        )
        os.close(answers)

    def give(self, job: Job, store: RunStore) -> None:
        """Let it begin with a job."""
        self.job, self.log = job, store.root / f"{job.folder(store).name}.log"
        order = {"order": job.order(store), "log": str(self.log)}
        assert self.process.stdin is not None, "a pipe"
        with suppress(BrokenPipeError):  # it is gone: `is_done` says so
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def is_done(self) -> bool:
        """Whether it is done with its job. Raises RunFailed where it ended without."""
        answered = select.select([self._answers], [], [], 0)[0]
        if not answered and self.process.poll() is None:
            return False
        if not answered or not os.read(self._answers, 1):  # no answer, or the end of all answers
            status, end = self.process.wait(), end_of_log(self.log)
            raise RunFailed(f"{self.job.label} failed (exit {status}); from {self.log}:\n{end}")
        self.log.unlink(missing_ok=True)
        return True

    def can_go_on(self) -> bool:
        """Whether it can take another job; else it is sent away, as a vLLM engine keeps its memory until the end."""
        training, evaluation = self.job.training, self.job.evaluation
        engines = {evaluation.eval_engine, training.rollout_engine if training else "transformers"}
        if engines == {"transformers"}:
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """End it, at once or after the step of a training that runs, which is saved."""
        self.process.terminate()
        self.process.wait()
        os.close(self._answers)


def work(answers: int) -> None:
    """What a worker does: carry out the orders that come by standard input, and answer each with a byte."""
    orders = queue.SimpleQueue[str]()
    stop_with_parent(orders.put)
    while True:
        order = json.loads(orders.get())
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        carry_out(order["order"])
        for printed in (sys.stdout, sys.stderr):
            printed.flush()
        os.write(answers, b".")


def end_of_log(log: Path) -> str:
    """The last lines of a job's log, which say why it failed; "(no log)" where there is none."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    except OSError:
        return "(no log)"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clock(start: float) -> str:
    seconds = int(time.monotonic() - start)
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


if __name__ == "__main__":
    work(int(sys.argv[1]))
