"""Jobs through submitit, on this machine or on a Slurm cluster by the same calls.

The store's locks and checkpoints make each run happen once, and go on where it was cut off. The store also says
whether a run is done; submitit only says whether its job has ended.

submitit gives a job its work as a pickle, and writes the job's outcome as one, in results/<scale>/runs/sweep, where
its logs are too. What tampo puts there is a reference to `Work` and a JSON text; tampo itself reads no pickle.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from tampo.cluster_job import Work
from tampo.config import ConfigError
from tampo.files import write_json
from tampo.jobs import Job, available_cores, worker_environment
from tampo.runs import Record, RunStore

if TYPE_CHECKING:
    import submitit

ClusterName = Literal["auto", "local", "slurm"]
CLUSTERS: tuple[ClusterName, ...] = get_args(ClusterName)
ATTEMPTS = 2
_REQUEUES = 100  # after time limits; pre-emptions do not count
_UNLIMITED = 365 * 24 * 60  # minutes; submitit's local jobs end after 2 unless told otherwise


@dataclass(frozen=True)
class Place:
    """Where jobs run, and what each of them has.

    Attributes:
        cluster: "local", "slurm", or "auto": Slurm where it is installed.
        accelerate: Configuration of accelerate to train with, whose processes are GPUs to ask for; None: one process,
            one thread, and no GPU to ask for.
        minutes: Time limit of a job on Slurm; one that reaches it goes back into the queue, and goes on.
        partition: Of Slurm.
        slurm: Further options of sbatch by name; True for one without a value.
    """

    cluster: ClusterName = "auto"
    accelerate: Path | None = None
    minutes: int = 24 * 60
    partition: str | None = None
    slurm: Mapping[str, str | bool] = field(default_factory=dict)

    def gpus(self) -> int:
        """GPUs of a job; 0 where accelerate's configuration says `use_cpu`.

        Raises:
            ConfigError: That file cannot be read, has no number of processes, or asks for several machines.
        """
        if self.accelerate is None:
            return 0
        try:
            values = yaml.safe_load(self.accelerate.read_text(encoding="utf-8"))
            processes, machines = values["num_processes"], values.get("num_machines", 1)
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"Cannot read num_processes in {self.accelerate}: {error!r}") from error
        if not isinstance(processes, int) or processes < 1:
            raise ConfigError(f"num_processes in {self.accelerate} must be a positive number, got {processes!r}.")
        if machines != 1:
            raise ConfigError(f"{self.accelerate} asks for {machines} machines; a job has one.")
        return 0 if values.get("use_cpu") else processes

    def launch(self, source: str, changes: Mapping[str, Any]) -> list[str] | None:
        """The command that trains under accelerate; None where that is not asked for.

        Args:
            source: A scale's name or a YAML file.
            changes: Parameters that differ from it.
        """
        if self.accelerate is None:
            return None
        # Jobs side by side on one machine must not meet on one port; 0 takes a free one.
        words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(self.accelerate)]
        words += ["--main_process_port", "0", "-m", "tampo", "train", source]
        return words + [f"--{name}={json.dumps(value)}" for name, value in changes.items()]


@dataclass
class Run:
    """A job and where it stands.

    Attributes:
        job: What has to be made.
        launch: The command that trains (`Place.launch`).
        state: "found" (made before), "waiting", "running", "done" or "failed".
        attempts: How often it was submitted.
        handle: submitit's job, while that is in the queue or running.
        gpus: Those of this machine that it holds.
        records: Its training and evaluation, once they are there.
        log: Of the last attempt that failed.
    """

    job: Job
    launch: list[str] | None = None
    state: str = "waiting"
    attempts: int = 0
    handle: "submitit.Job[None] | None" = None
    gpus: list[str] = field(default_factory=list)
    records: tuple[Record | None, Record] | None = None
    log: Path | None = None


class Queue:
    """Runs on their way through submitit.

    On Slurm a note of each job is kept beside its logs, by which another call finds it in the queue.

    Args:
        store: Where records are kept.
        name: Of the jobs.
        place: Where they run.
        workers: Jobs at a time; default: one for each core of this machine, and on Slurm as many as it runs.

    Raises:
        ConfigError: There is no Slurm, this machine has too few GPUs, or accelerate's configuration is refused.
    """

    def __init__(self, store: RunStore, name: str, place: Place, workers: int | None = None) -> None:
        import submitit

        self._store, self._folder, self._gpus = store, store.root / "sweep", place.gpus()
        try:
            cluster = None if place.cluster == "auto" else place.cluster
            self._executor = submitit.AutoExecutor(self._folder, cluster, slurm_max_num_timeout=_REQUEUES)
        except RuntimeError as error:
            raise ConfigError(f"There is no Slurm here to submit to: {error}") from error
        self._executor.update_parameters(
            name=name,
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=self._gpus or None,
            timeout_min=_UNLIMITED,
            stderr_to_stdout=True,
            slurm_time=place.minutes,
            slurm_signal_delay_s=min(place.minutes * 60 // 10, 600),  # for the step that runs, and its checkpoint
            slurm_partition=place.partition,
            slurm_array_parallelism=workers,
            slurm_additional_parameters={key.replace("-", "_"): value for key, value in place.slurm.items()},
        )
        self.local = self._executor.cluster == "local"
        self._workers, self._free = workers or available_cores(), _visible_gpus() if self.local and self._gpus else []
        if self.local:
            if self._gpus > len(self._free):
                raise ConfigError(f"A job asks for {self._gpus} GPUs, and this machine has {len(self._free)}.")
            # The standard input of local jobs, which ends when this process does, however that happens.
            self._stdin, self._alive = os.pipe()

    def submit(self, runs: Sequence[Run]) -> None:
        """Submit those of `runs` that wait for it; on this machine, as many as there is room for.

        Raises:
            ConfigError: Slurm refuses them.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import environment_variables

        waiting = [run for run in runs if run.state == "waiting" and run.handle is None]
        if self.local:
            room = self._workers - sum(run.handle is not None for run in runs)
            waiting = waiting[: min(room, len(self._free) // self._gpus) if self._gpus else room]
            for run in waiting:
                run.gpus = [self._free.pop(0) for _ in range(self._gpus)]
        if not waiting:
            return
        settings = worker_environment() | {"PYTHONSAFEPATH": "1"}  # as `python -P` does
        try:
            with environment_variables(**settings), _stdin(self._stdin) if self.local else nullcontext():
                handles = self._executor.map_array(Work(), [self._order(run) for run in waiting])
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"Slurm refused the jobs: {error}") from error
        for run, handle in zip(waiting, handles, strict=True):
            run.handle, run.attempts = handle, run.attempts + 1
            run.state = "running" if self.local else "waiting"
            if not self.local:
                write_json(self._note(run), {"job": handle.job_id, "attempts": run.attempts})

    def attach(self, run: Run) -> None:
        """Take up the job that an earlier call left in Slurm's queue, where it did."""
        import submitit

        try:
            note = json.loads(self._note(run).read_text(encoding="utf-8"))
            job, attempts = note["job"], note["attempts"]
            if self.local or attempts not in range(1, ATTEMPTS + 1) or not re.fullmatch(r"[0-9]+(_[0-9]+)?", job):
                return
        except (OSError, ValueError, KeyError, TypeError):
            return  # none, or not one of ours
        handle: submitit.Job[None] = submitit.SlurmJob(self._folder, job)
        if handle.get_info() and not handle.done():  # Slurm knows it, and it has not ended
            run.handle, run.attempts = handle, attempts

    def update(self, run: Run) -> bool:
        """Bring the state of a run up to date; one that failed waits again until its attempts are used up.

        Returns:
            Whether an attempt was seen to have failed.
        """
        if run.handle is None:
            return False
        if not run.handle.done():
            run.state = "running" if run.handle.state.upper() == "RUNNING" else "waiting"
            return False
        run.records, run.log = run.job.find(self._store), run.handle.paths.stdout
        run.state = "done" if run.records else "waiting" if run.attempts < ATTEMPTS else "failed"
        run.handle = None
        self._free += run.gpus
        self._note(run).unlink(missing_ok=True)
        return run.records is None

    def leave(self, runs: Sequence[Run]) -> None:
        """Stop what runs on this machine, and wait until it has saved; jobs on Slurm go on."""
        if not self.local:
            return
        os.close(self._alive)
        while alive := [run.handle for run in runs if run.handle is not None and not run.handle.done()]:
            for handle in alive:  # again and again: a job that is just starting may miss it
                os.kill(int(handle.job_id), signal.SIGTERM)  # submitit's process, which hands it on; cancel() kills
            time.sleep(1)
        os.close(self._stdin)

    def _order(self, run: Run) -> str:
        devices = ",".join(run.gpus) if self._gpus else os.environ.get("CUDA_VISIBLE_DEVICES")
        return json.dumps(json.loads(run.job.order(self._store)) | {"launch": run.launch, "devices": devices})

    def _note(self, run: Run) -> Path:
        return self._folder / f"{run.job.folder(self._store).name}.json"


def _visible_gpus() -> list[str]:
    """The GPUs of this machine that this process may use, by CUDA's names."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _stdin(source: int) -> Iterator[None]:
    """Processes started within the block read `source`, and a terminal's Ctrl-C does not reach them."""
    own = os.dup(0)
    os.dup2(source, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        yield
    finally:
        os.dup2(own, 0)
        os.close(own)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
