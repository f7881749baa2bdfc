"""Make all tables and figures: first every run that a notebook needs, several at a time, then the notebooks.

Making the runs first keeps all cores busy. Each notebook then finds its runs and takes seconds.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loky import cpu_count

from tampo.config import ConfigError, load_params
from tampo.paper.experiments import EXPERIMENTS, Experiment
from tampo.project import notebook_folder, project_root
from tampo.runs.jobs import print_line, run_jobs
from tampo.runs.store import RunStore


class NotebookFailed(RuntimeError):
    """A notebook raised an error; the message has the end of its output."""


def reproduce(
    scale: str = "mini",
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    workers: int | None = None,
    log: Callable[[str], None] = print_line,
) -> list[Path]:
    """Make the missing runs of all notebooks, then execute the notebooks into results/<scale>/.

    Args:
        scale: A scale's name.
        seeds: Training seeds; by default those of the scale.
        only: Names of notebooks; by default all.
        workers: How many runs, and then notebooks, at a time; by default one per core.
        log: Receives progress messages.

    Returns:
        The executed notebooks. A notebook without parameters for this scale is skipped, with a message.

    Raises:
        ConfigError: An unknown scale or notebook.
        RunFailed, NotebookFailed: A run or a notebook failed; finished work is kept.
    """
    for name in only:
        if name not in EXPERIMENTS:
            raise ConfigError(f"Unknown notebook {name!r}; known are {', '.join(EXPERIMENTS)}.")
    params = load_params(scale, {"seeds": seeds, "workers": workers})
    chosen, jobs, start = [], [], time.monotonic()
    for experiment in EXPERIMENTS.values():
        if only and experiment.notebook not in only:
            continue
        if experiment.variants and scale not in experiment.variants:
            log(f"{experiment.notebook} is skipped: it has no parameters for the scale {scale}.")
            continue
        chosen.append(experiment)
        parameters = experiment.parameters(scale, params.seeds)
        jobs += experiment.jobs(load_params(parameters.pop("params"), parameters))
    run_jobs(RunStore.of(params), jobs, workers, log)

    def run_notebook(experiment: Experiment) -> Path:
        return execute(experiment, params.scale, experiment.parameters(scale, params.seeds), log)

    made = [run_notebook(experiment) for experiment in chosen if experiment.alone]
    with ThreadPoolExecutor(params.workers or cpu_count()) as pool:
        made += pool.map(run_notebook, [experiment for experiment in chosen if not experiment.alone])
    log(f"{len(made)} notebooks in {(time.monotonic() - start) / 60:.1f} min.")
    return made


def execute(
    experiment: Experiment, folder: str, parameters: dict[str, Any], log: Callable[[str], None] = print_line
) -> Path:
    """Execute a notebook into results/<folder>/ in a separate process. Raises NotebookFailed if it raised an error."""
    root, start = project_root(), time.monotonic()
    name = f"{experiment.notebook}.ipynb"
    source, target = notebook_folder() / name, Path("results", folder, name)
    if source.is_relative_to(root):
        source = source.relative_to(root)  # papermill writes this path into the notebook: keep it relative
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    given = [word for name, value in parameters.items() for word in ("-y", f"{name}: {value}")]
    command = [sys.executable, "-m", "papermill", str(source), str(target), *given, "--no-progress-bar"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-30:])
        raise NotebookFailed(f"{source} failed with {parameters}; its output is in {target}:\n{tail}")
    log(f"{target}: {time.monotonic() - start:.0f} s")
    return root / target
