"""Jobs on a Slurm cluster, by submitit; and the resources of a sweep's jobs, on Slurm or on this machine.

Jobs stay in the queue when the process that submitted them ends. A note for each job, beside its log in
results/<scale>/runs/sweep, lets the next call find it.

submitit passes a job's work and its result as pickles in the same folder. tampo's part is a reference to `Work` and a
JSON text; tampo itself reads no pickle.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import yaml

from tampo.config import ConfigError
from tampo.extras import extra
from tampo.files import write_json
from tampo.runs.interrupts import Interrupted
from tampo.runs.store import read_json
from tampo.runs.workers import Task, interrupt, run_job, worker_environment

if TYPE_CHECKING:
    import submitit
    from submitit.helpers import DelayedSubmission

_NOT_IN_LOG_PATHS = re.compile(r"[%\\\x00-\x1f\x7f]")
_REQUEUES = 100  # after time limits; pre-emptions do not count


@dataclass(frozen=True)
class Resources:
    """Where the jobs of a sweep run, and the resources of each job."""

    cluster: Literal["auto", "local", "slurm"] = "auto"  # "auto": Slurm if it is installed
    accelerate: Path | None = None  # accelerate's configuration file; None: one process with one thread
    minutes: int = 24 * 60  # time limit on Slurm; a job that reaches it is requeued, and resumes
    partition: str | None = None  # of Slurm
    slurm: Mapping[str, str | bool] = field(default_factory=dict)  # options of sbatch; True: without a value
    one_gpu: bool = False  # without a file of accelerate: a GPU for the process

    def gpus(self) -> int:
        """GPUs per job; 0 if accelerate's configuration has `use_cpu`. Raises ConfigError as `processes` does."""
        if self.accelerate is None:
            return int(self.one_gpu)
        processes, use_cpu = self._accelerate()
        return 0 if use_cpu else processes

    def processes(self) -> int:
        """Processes per training run.

        Raises:
            ConfigError: The file cannot be read, has no number of processes, or asks for several machines.
        """
        return self._accelerate()[0]

    def _accelerate(self) -> tuple[int, bool]:
        """num_processes and use_cpu of accelerate's configuration."""
        if self.accelerate is None:
            return 1, True
        try:
            values = yaml.safe_load(self.accelerate.read_text(encoding="utf-8"))
            processes, machines = values["num_processes"], values.get("num_machines", 1)
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"Cannot read num_processes in {self.accelerate}: {error!r}") from error
        if not isinstance(processes, int) or processes < 1:
            raise ConfigError(f"num_processes in {self.accelerate} must be a positive number, got {processes!r}.")
        if machines != 1:
            raise ConfigError(f"{self.accelerate} asks for {machines} machines; a job has one.")
        return processes, bool(values.get("use_cpu"))

    def launch(self, source: str, changes: Mapping[str, Any]) -> list[str] | None:
        """The command that trains under accelerate, with `changes` of the parameters; None without accelerate."""
        if self.accelerate is None:
            return None
        # Port 0 takes a free one, as several jobs may share a machine.
        words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(self.accelerate.absolute())]
        # A job's GPUs are those of its CUDA_VISIBLE_DEVICES, which gpu_ids in the file would replace.
        words += ["--main_process_port", "0", "--gpu_ids", "all", "-m", "tampo", "train", source]
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in changes.items()}
        return words + [f"--{name}={text}" for name, text in texts.items() if changes[name] is not None]

    def use_slurm(self) -> bool:
        """Whether jobs run on Slurm.

        Raises:
            ConfigError: `cluster` is "slurm", and Slurm is not installed.
        """
        installed = shutil.which("srun") is not None
        if self.cluster == "slurm" and not installed:
            raise ConfigError("There is no Slurm here to submit to: srun is not found.")
        return installed and self.cluster != "local"


class Slurm:
    """Jobs called `name` in Slurm's queue, `workers` at a time; logs and notes are in the subfolder sweep of `folder`.

    If Slurm would read the path of the store as another one, as with a %, the subfolder is in ~/.cache/tampo instead.

    Raises:
        ImportError: submitit is not installed.
        ConfigError: The path of the home directory has such a character, too.
    """

    notice = "Leaving."
    stopped = "The jobs on Slurm continue; the same command finds them again."

    def __init__(self, folder: Path, name: str, resources: Resources, workers: int | None = None) -> None:
        with extra("slurm"):
            import submitit

        minutes = resources.minutes
        self._folder = _folder_for_slurm(folder / "sweep")
        self._executor = submitit.AutoExecutor(self._folder, "slurm", slurm_max_num_timeout=_REQUEUES)
        self._executor.update_parameters(
            name=name,
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=resources.gpus() or None,
            stderr_to_stdout=True,
            slurm_time=minutes,
            slurm_signal_delay_s=min(minutes * 60 // 10, 600),  # for the current step and its checkpoint
            slurm_partition=resources.partition,
            slurm_array_parallelism=workers,
            slurm_additional_parameters={key.replace("-", "_"): value for key, value in resources.slurm.items()},
        )

    def find(self, name: str) -> tuple["SlurmJob", int] | None:
        """The attempt of an earlier call that is still in the queue, and its number."""
        import submitit

        note = self._note(name)
        values = read_json(note)
        job, number = values.get("job"), values.get("attempts")
        if not isinstance(job, str) or not re.fullmatch(r"[0-9]+(_[0-9]+)?", job) or not isinstance(number, int):
            return None
        handle: submitit.Job[None] = submitit.SlurmJob(self._folder, job)
        if not handle.get_info() or handle.done():  # unknown to Slurm, or ended
            return None
        return SlurmJob(handle, note, handle.paths.stdout), number

    def submit(self, tasks: Iterator[Task]) -> list["SlurmJob"]:
        """Submit all tasks as one job array.

        Raises:
            ConfigError: Slurm refuses them.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import environment_variables

        new = list(tasks)
        if not new:
            return []
        try:
            with environment_variables(**worker_environment()):
                handles = self._executor.map_array(Work(), [task.order for task in new])
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"Slurm refused the jobs: {error}") from error
        attempts = [SlurmJob(h, self._note(t.name), h.paths.stdout) for h, t in zip(handles, new, strict=True)]
        for attempt, task in zip(attempts, new, strict=True):
            write_json(attempt.note, {"job": attempt.handle.job_id, "attempts": task.attempt})
        return attempts

    def stop(self) -> None:
        """Leave the jobs in the queue."""

    def _note(self, name: str) -> Path:
        return self._folder / f"{name}.json"


@dataclass
class SlurmJob:
    """A waiting or running job of Slurm."""

    handle: "submitit.Job[None]"
    note: Path
    log: Path

    def state(self) -> Literal["waiting", "running", "ended"]:
        if self.handle.done():
            self.note.unlink(missing_ok=True)
            return "ended"
        return "running" if self.handle.state.upper() == "RUNNING" else "waiting"

    def error(self) -> str:
        return f"Slurm's state: {self.handle.state}"


class Work:
    """The function that submitit calls in a job, with a JSON text (`Job.order`).

    SIGTERM stops it: a training run saves within a step. submitit's signal of a pre-emption or the time limit does the
    same, and submitit then requeues the job.
    """

    def __call__(self, order: str) -> None:
        import submitit

        preemption = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        preempted = False

        def preempt(number: int, frame: FrameType | None) -> None:
            nonlocal preempted
            preempted = True
            signal.raise_signal(signal.SIGTERM)  # to `interrupt`, or to the handler of a training run

        signal.signal(signal.SIGTERM, interrupt)  # submitit's handler ignores it
        requeue: Any = signal.signal(preemption, preempt)
        try:
            run_job(order)
        except Interrupted:
            if preempted:
                requeue(preemption, None)
            raise

    def checkpoint(self, order: str) -> "DelayedSubmission":
        """What submitit requeues: the same work, which resumes from the training run's checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, order)


def _folder_for_slurm(folder: Path) -> Path:
    """The folder, or one in the home directory if Slurm would read its path as another one.

    Slurm and submitit replace % in the path of a log; a backslash turns this off, so that all jobs would write the same
    log; and an option in sbatch's script ends with its line.

    Raises:
        ConfigError: The home directory has such a path, too. Nothing is written.
    """
    path = str(folder.absolute())
    in_home = Path.home() / ".cache/tampo" / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    for candidate in (folder, in_home):
        if not _NOT_IN_LOG_PATHS.search(str(candidate.absolute())):
            return candidate
    raise ConfigError(
        f"Slurm cannot write logs in {path!r}, nor in the home directory {str(Path.home())!r}: their paths have a %, a "
        "backslash or a line break. Name a store without these in the variable TAMPO_STORE."
    )
