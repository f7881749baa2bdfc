"""What a job of a sweep does inside submitit: the work of a worker of `tampo.jobs`, and what signals mean there."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from tampo.interrupts import Interrupted, stop_with_parent
from tampo.jobs import RunFailed, carry_out

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


class Work:
    """What submitit calls in a job, with a JSON text: `Job.order` with `launch` and `devices`.

    SIGTERM stops it: a training saves within a step. The signal by which submitit announces a pre-emption or the time
    limit does the same, and then lets submitit put the job back into the queue.
    """

    def __call__(self, order: str) -> None:
        import submitit

        preemption = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        preempted = False

        def stop(number: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_IGN)  # once is enough; what is being saved then is not cut off
            raise Interrupted("Stopped on request; what was done is kept.")

        def preempt(number: int, frame: FrameType | None) -> None:
            nonlocal preempted
            preempted = True
            signal.raise_signal(signal.SIGTERM)  # to `stop`, or to a training, which has a handler of its own

        signal.signal(signal.SIGTERM, stop)  # submitit's own ignores it
        requeue: Any = signal.signal(preemption, preempt)
        job = json.loads(order)
        try:
            if submitit.JobEnvironment().cluster == "local":
                stop_with_parent()
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit's choice: none, or the first ones for each job
                os.environ |= {} if job["devices"] is None else {"CUDA_VISIBLE_DEVICES": job["devices"]}
            if job["launch"]:
                _launch(job["launch"])
            carry_out(order)
        except Interrupted:
            if preempted:
                requeue(preemption, None)
            raise

    def checkpoint(self, order: str) -> "DelayedSubmission":
        """What submitit puts back into the queue: the same, which goes on from the training's checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, order)


def _launch(command: list[str]) -> None:
    """Run a launcher and all that it starts; a stop reaches each of them, and waits until the last has saved."""
    # torch's launcher would kill its processes 30 s after a stop, less than a step may take.
    settings = os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600"}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(
        command, text=True, errors="replace", start_new_session=True, env=settings, **streams
    ) as process:
        output: Iterable[str] = process.stdout or ()
        try:
            sys.stdout.writelines(output)
        except Interrupted:
            os.killpg(process.pid, signal.SIGTERM)
            sys.stdout.writelines(output)  # until nobody has it open any more
            raise
    if process.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with exit status {process.returncode}.")
