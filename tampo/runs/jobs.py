"""Jobs: models to train and evaluate, several at a time, on this machine or on Slurm.

One loop (`follow`) runs them all. A backend starts jobs: `tampo.runs.workers` on this machine, `tampo.runs.slurm` on
a cluster. The store's locks and checkpoints ensure that each record is made once and resumes after an interruption. The
store also decides whether a job is done; a backend only knows that an attempt has ended.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tampo.config import EvaluationConfig, TrainingConfig
from tampo.inference.slices import describe_progress
from tampo.runs.devices import wants_gpu
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.interrupts import Interrupted, stop_on_signals
from tampo.runs.slurm import Slurm, SlurmJob
from tampo.runs.store import PROGRESS, MissingRecord, Record, RunStore, read_json
from tampo.runs.training_data import check_problem_count
from tampo.runs.workers import RunFailed, Task, Worker, Workers, visible_gpus

_NAMED = 5  # missing runs that a message names


@dataclass(frozen=True)
class Job:
    """A model to evaluate, after training it if `training` is given. `label` is its name in progress lines."""

    label: str
    evaluation: EvaluationConfig
    training: TrainingConfig | None = None
    model: str = "mini"

    def folder(self, store: RunStore) -> Path:
        """The folder of the job's evaluation, which need not exist."""
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

    def wants_gpu(self) -> bool:
        """Whether training or evaluation would use a GPU where there is one."""
        training, evaluation, model = self.training, self.evaluation, self.model
        if training is not None:
            if wants_gpu(training.device, training.model, training.rollout_engine):
                return True
            model = training.model
        served = evaluation.eval_engine == "vllm-server"  # whose GPU is not the job's
        return not served and wants_gpu(evaluation.device, model, evaluation.eval_engine)

    def progress(self, store: RunStore) -> str:
        """The progress of a running job, such as "step 3/100, reward 0.41, T 0.80"."""
        if self.training is not None:
            row = read_json(store.folder("training", training_identity(self.training)) / PROGRESS)
            if row:
                reward, temperature = row.get("reward"), row.get("temperature")
                detail = f", reward {reward:.2f}, T {temperature:.2f}" if reward is not None and temperature else ""
                return f"step {row['step']}/{row['steps']}{detail}"
        row = read_json(self.folder(store) / PROGRESS)
        return describe_progress(row) if "samples" in row else "starting"

    def order(self, store: RunStore, launch: Sequence[str] | None = None) -> str:
        """The job as a JSON text for `run_job`. `launch`: the command that trains, if it is another process."""
        order = {
            "root": str(store.root),
            "model": self.model,
            "evaluation": self.evaluation.model_dump(mode="json"),
            "training": self.training and self.training.model_dump(mode="json"),
            "launch": launch,
        }
        return json.dumps(order)


@dataclass
class Run:
    """A job and its state; "found" means that its records existed before."""

    job: Job
    launch: list[str] | None = None  # the command that trains, if the worker does not
    state: Literal["found", "waiting", "running", "done", "failed"] = "waiting"
    attempts: int = 0  # number of submissions
    attempt: Worker | SlurmJob | None = None  # the one that is waiting or running
    records: tuple[Record | None, Record] | None = None  # training and evaluation, once they are finished
    log: Path = Path()  # of the last failed attempt
    error: str | None = None  # why it failed

    def look_up(self, store: RunStore) -> None:
        """Find existing records."""
        self.records = self.job.find(store)
        self.state = "found" if self.records else "waiting"

    def failure(self) -> str:
        """The message about a failed run, with the end of its log."""
        try:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        except OSError:
            tail = "(no log)"
        return f"{self.job.label} failed ({self.error}); the end of {os.path.relpath(self.log)}:\n{tail}"


def follow(
    runs: Sequence[Run],
    store: RunStore,
    backend: Workers | Slurm,
    report: Callable[[list[Run]], None],
    attempts: int = 1,
) -> None:
    """Submit the waiting runs, and return when all are done or failed.

    Args:
        runs: The runs, after `Run.look_up`; their states are updated.
        backend: Starts the jobs; it is stopped at the end.
        report: Called several times per second with the runs whose attempt has just ended. An exception stops all.
        attempts: Maximum submissions of a failing run.

    Raises:
        Interrupted: By Ctrl-C or SIGTERM.
    """
    with stop_on_signals(backend.notice) as stop:
        try:
            for run in runs:
                if run.state == "waiting" and (left := backend.find(run.job.folder(store).name)):
                    run.attempt, run.attempts = left
            while True:
                ended = [run for run in runs if update(run, store, attempts)]
                submit(runs, store, backend)
                report(ended)
                if not any(run.state in ("waiting", "running") for run in runs):
                    return
                if stop:
                    raise Interrupted(backend.stopped)
                time.sleep(0.2)
        finally:
            backend.stop()


def update(run: Run, store: RunStore, attempts: int) -> bool:
    """Update the state of a run; returns whether its attempt has just ended."""
    if run.attempt is None:
        return False
    state = run.attempt.state()
    if state != "ended":
        run.state = state
        return False
    run.records = run.job.find(store)
    if run.records is None:
        run.log, run.error = run.attempt.log, run.attempt.error() or "it ended without its records"
    run.state = "done" if run.records else "waiting" if run.attempts < attempts else "failed"
    run.attempt = None
    return True


def submit(runs: Sequence[Run], store: RunStore, backend: Workers | Slurm) -> None:
    """Submit the waiting runs, as many as the backend takes."""
    waiting = [run for run in runs if run.state == "waiting" and run.attempt is None]
    tasks = (Task(r.job.folder(store).name, r.job.order(store, r.launch), r.attempts + 1) for r in waiting)
    submitted: Sequence[Worker | SlurmJob] = backend.submit(tasks)
    for run, attempt in zip(waiting, submitted, strict=False):
        run.attempt, run.attempts = attempt, run.attempts + 1
        if attempt.state() == "running":
            run.state = "running"


def local_gpus(jobs: Sequence[Job]) -> int:
    """GPUs that each worker of this machine needs for such jobs: 1 where a job wants one and there are any, else 0.

    Without a GPU of its own, each job would take the first one.
    """
    return int(any(job.wants_gpu() for job in jobs) and bool(visible_gpus()))


def print_line(line: str) -> None:
    """Print a line without delay, so that a notebook and papermill's log show progress."""
    print(line, flush=True)


def run_jobs(
    store: RunStore,
    jobs: Sequence[Job],
    workers: int | None = None,
    log: Callable[[str], None] = print_line,
    every: float = 20.0,
) -> list[tuple[Record | None, Record]]:
    """The records of all jobs, in order; missing ones are made on this machine, several at a time.

    Args:
        jobs: Jobs with the same records run once.
        workers: Jobs at a time, each in a process with one thread, and with a GPU of its own if a job wants one;
            default: one per available core, or per GPU.
        log: Receives progress lines.
        every: Seconds between two progress lines.

    Raises:
        ConfigError: A training set has fewer problems than one step; no job was started.
        MissingRecord: There are missing ones, and the store has the records of an archive only.
        RunFailed: A job failed. Other jobs are stopped; the next call resumes them.
        Interrupted: By Ctrl-C or SIGTERM; the next call resumes the jobs.
    """
    runs = [Run(job) for job in {job.folder(store): job for job in jobs}.values()]
    for run in runs:
        run.look_up(store)
    missing = [run for run in runs if run.state == "waiting"]
    if missing and store.read_only:
        named = "; ".join(run.job.label for run in missing[:_NAMED])
        more = f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise MissingRecord(f"There are no finished runs for: {named}{more}. Nothing is trained here.")
    for run in missing:
        if run.job.training is not None:
            check_problem_count(run.job.training)
    # Training runs first, because they take longest.
    missing.sort(key=lambda run: run.job.training is None)
    path = os.path.relpath(store.root)  # executed notebooks are shared: no absolute path
    ending = f"; making {len(missing)} in {path}." if missing else "."
    log(f"{len(runs) - len(missing)} of {len(runs)} records exist{ending}")
    start = reported = time.monotonic()

    def report(ended: list[Run]) -> None:
        nonlocal reported
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        clock = f"[{minutes:02d}:{seconds:02d}]"
        for run in ended:
            if run.state == "failed":
                raise RunFailed(run.failure())
            done = sum(run.state == "done" for run in missing)
            log(f"{clock} {run.job.label}: done ({done} of {len(missing)})")
        running = [run.job for run in missing if run.state == "running"]
        if running and time.monotonic() - reported >= every:
            reported = time.monotonic()
            log(f"{clock} " + " | ".join(f"{job.label}: {job.progress(store)}" for job in running))

    if missing:
        follow(missing, store, Workers(store.root, workers, local_gpus([run.job for run in missing])), report)
    made = {run.job.folder(store): run.records for run in runs}
    return [records for job in jobs if (records := made[job.folder(store)])]
