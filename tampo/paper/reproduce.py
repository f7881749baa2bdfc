"""Make all tables and figures: first every run that a notebook needs, several at a time, then the notebooks.

Making the runs first keeps all cores busy. Each notebook then finds its runs and takes seconds. `from_reference` makes
them again without training, from the archive of records of the committed results.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loky import cpu_count

from tampo.config import ConfigError, Params, load_params
from tampo.paper.experiments import EXPERIMENTS, Experiment
from tampo.paper.outputs import (
    ARCHIVE,
    OUTPUT_VARIABLE,
    read_about,
    read_manifests,
    reference_folder,
    refuse_other_parameters,
)
from tampo.project import folder_name, notebook_folder, output_folder, project_root, scale_folder
from tampo.runs.archive import unpack
from tampo.runs.jobs import Job, print_line, run_jobs
from tampo.runs.store import STORE_VARIABLE, MissingRecord, RunStore


class NotebookFailed(RuntimeError):
    """A notebook raised an error; the message has the end of its output."""


def reproduce(
    scale: str = "mini",
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    workers: int | None = None,
    output_dir: Path | None = None,
    log: Callable[[str], None] = print_line,
) -> list[Path]:
    """Make the missing runs of all notebooks, then execute the notebooks into `output_dir`/notebooks/.

    Args:
        scale: A scale's name.
        seeds: Training seeds; by default those of the scale.
        only: Names of notebooks; by default all.
        workers: How many runs, and then notebooks, at a time; by default one per core.
        output_dir: By default results/<scale>, with a folder in it for other seeds than the scale's.
        log: Receives progress messages.

    Returns:
        The executed notebooks. A notebook without parameters for this scale is skipped, with a message.

    Raises:
        ConfigError: An unknown scale or notebook, or results of other parameters in `output_dir`.
        RunFailed, NotebookFailed: A run or a notebook failed; finished work is kept.
    """
    start = time.monotonic()
    params = load_params(scale, {"seeds": seeds, "workers": workers})
    chosen = choose(params.scale, only, log)
    folder = (output_dir or output_folder(params.scale, params.changes(load_params(scale)))).resolve()
    for experiment in chosen:  # before hours of training
        refuse_other_parameters(_params_of(experiment, scale, params, folder), experiment.notebook)
    run_jobs(RunStore.of(params), needed_jobs(chosen, scale, params), workers, log)
    made = _execute_all(chosen, folder, scale, params, log)
    log(f"{len(made)} notebooks in {(time.monotonic() - start) / 60:.1f} min. Results: {os.path.relpath(folder)}")
    return made


def from_reference(
    scale: str = "mini",
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    output_dir: Path | None = None,
    reference: Path | None = None,
    log: Callable[[str], None] = print_line,
) -> list[Path]:
    """Make tables, figures and claims again from the records of the committed results, without training.

    Args:
        seeds: Training seeds; by default those of the reference.
        output_dir: By default results/<scale>/from-reference.
        reference: By default results/reference/<scale>.
        scale, only, log: As for `reproduce`. Notebooks that train by themselves or show texts are skipped, and those
            that the reference has not, but for those named in `only` that need no runs.

    Raises:
        ConfigError: There is no reference of this scale, or its archive is damaged.
        MissingRecord: The reference lacks a record.
    """
    reference = reference or reference_folder(scale)
    about = read_about(reference)
    params = load_params(scale, {"seeds": seeds or about["seeds"]})
    other_seeds = {"seeds": params.seeds} if list(params.seeds) != about["seeds"] else {}
    usual = scale_folder(scale) / "from-reference" / folder_name(other_seeds)
    there, chosen = read_manifests(reference), []
    for experiment in choose(scale, only, log):
        asked = experiment.notebook in only and not experiment.needs_runs
        if experiment.needs_texts or not (experiment.notebook in there or asked):
            log(f"{experiment.notebook} is skipped: the reference has not all that it needs.")
        else:
            chosen.append(experiment)
    with archived_store(reference, scale) as store:
        for job in needed_jobs(chosen, scale, params):
            if job.find(store) is None:
                raise MissingRecord(f"The reference in {reference} has no finished runs for: {job.label}.")
        return _execute_all(chosen, (output_dir or usual).resolve(), scale, params, log)


@contextmanager
def archived_store(reference: Path, scale: str) -> Iterator[RunStore]:
    """The records of a reference as the store of this process and of those it starts, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="tampo-") as temporary:
        unpack(reference / ARCHIVE, Path(temporary, scale))
        before = os.environ.get(STORE_VARIABLE)
        os.environ[STORE_VARIABLE] = temporary
        try:
            yield RunStore(Path(temporary, scale))
        finally:
            del os.environ[STORE_VARIABLE]
            if before is not None:
                os.environ[STORE_VARIABLE] = before


def choose(scale: str, only: Sequence[str], log: Callable[[str], None] = print_line) -> list[Experiment]:
    """The experiments named in `only`, or all, that have parameters for the scale. Raises ConfigError."""
    for name in only:
        if name not in EXPERIMENTS:
            raise ConfigError(f"Unknown notebook {name!r}; known are {', '.join(EXPERIMENTS)}.")
    chosen = []
    for experiment in EXPERIMENTS.values():
        if only and experiment.notebook not in only:
            continue
        if experiment.variants and scale not in experiment.variants:
            log(f"{experiment.notebook} is skipped: it has no parameters for the scale {scale}.")
            continue
        chosen.append(experiment)
    return chosen


def _params_of(experiment: Experiment, scale: str, params: Params, folder: Path) -> Params:
    """The parameters that a notebook will have, as `notebook_params` reads them."""
    given = experiment.parameters(scale, params.seeds)
    return load_params(given.pop("params"), given | {"output_dir": str(folder)})


def needed_jobs(chosen: Sequence[Experiment], scale: str, params: Params) -> list[Job]:
    """The runs that these experiments need with the seeds of `params`."""
    jobs = []
    for experiment in chosen:
        given = experiment.parameters(scale, params.seeds)
        jobs += experiment.jobs(load_params(given.pop("params"), given))
    return jobs


def _execute_all(
    chosen: Sequence[Experiment], folder: Path, scale: str, params: Params, log: Callable[[str], None]
) -> list[Path]:
    def run_notebook(experiment: Experiment) -> Path:
        return execute(experiment, folder, experiment.parameters(scale, params.seeds), log)

    made = [run_notebook(experiment) for experiment in chosen if experiment.alone]
    with ThreadPoolExecutor(params.workers or cpu_count()) as pool:
        made += pool.map(run_notebook, [experiment for experiment in chosen if not experiment.alone])
    return made


def execute(
    experiment: Experiment, folder: Path, parameters: dict[str, Any], log: Callable[[str], None] = print_line
) -> Path:
    """Execute a notebook into `folder`/notebooks/, with `folder` for its results, in a separate process.

    Raises:
        NotebookFailed: It raised an error.
    """
    root, start = project_root(), time.monotonic()
    name = f"{experiment.notebook}.ipynb"
    # papermill writes both paths into the notebook: they are relative where they can be.
    source, target = (_relative(path, root) for path in (notebook_folder() / name, folder / "notebooks" / name))
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    given = [word for name, value in parameters.items() for word in ("-y", f"{name}: {value}")]
    command = [sys.executable, "-m", "papermill", str(source), str(target), *given, "--no-progress-bar"]
    # Not a parameter, which would stand in the notebook.
    environment = os.environ | {"OMP_NUM_THREADS": "1", OUTPUT_VARIABLE: str(folder)}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-30:])
        raise NotebookFailed(f"{source} failed with {parameters}; its output is in {target}:\n{tail}")
    log(f"{target}: {time.monotonic() - start:.0f} s")
    return root / target


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
