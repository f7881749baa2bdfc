"""Make all tables and figures: first every run that a notebook needs, several at a time, then the notebooks.

Making the runs first keeps all cores busy. Each notebook then finds its runs and takes seconds. `from_reference` makes
them again without training, from the archive of records of the committed results.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loky import BrokenProcessPool, ProcessPoolExecutor, cpu_count

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
from tampo.project import check_folder, folder_name, notebook_folder, output_folder, project_root, scale_folder
from tampo.runs.archive import unpack
from tampo.runs.jobs import Job, print_line, run_jobs
from tampo.runs.store import STORE_VARIABLE, MissingRecord, RunStore
from tampo.runs.workers import RunFailed


class NotebookFailed(RunFailed):
    """A notebook raised an error, and the message has the end of its output; or its process was killed."""


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
    chosen = choose(scale, only, log)
    folder = (output_dir or usual_folder(scale, params)).resolve()
    check_folder(folder, "output_dir")
    for experiment in chosen:  # before hours of training
        refuse_other_parameters(_params_of(experiment, scale, params, folder), experiment.notebook)
    run_jobs(RunStore.of(params), needed_jobs(chosen, scale, params), workers, log)
    made = execute(_parameters(chosen, scale, params), folder, params.workers or cpu_count(), log)
    log(f"{len(made)} notebooks in {(time.monotonic() - start) / 60:.1f} min. Results: {os.path.relpath(folder)}")
    return made


def usual_folder(scale: str, params: Params) -> Path:
    """Where `reproduce` puts results: that of the scale, with a folder in it for what differs, such as the seeds."""
    return output_folder(params.scale, params.changes(load_params(scale)))


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
        return execute(_parameters(chosen, scale, params), (output_dir or usual).resolve(), cpu_count(), log)


def _parameters(chosen: Sequence[Experiment], scale: str, params: Params) -> dict[str, dict[str, Any]]:
    return {experiment.notebook: experiment.parameters(scale, params.seeds) for experiment in chosen}


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
    """The experiments named in `only`, or all, that have parameters for the scale (or the path of a file).

    Raises:
        ConfigError: One of `only` is unknown, or none of them has parameters.
    """
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
    if not chosen:
        known = "; ".join(f"{name} has parameters for {', '.join(EXPERIMENTS[name].variants or ())}" for name in only)
        raise ConfigError(f"There is nothing to do at {scale!r}: {known}.")
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


def execute(
    asked: Mapping[str, dict[str, Any]], folder: Path, workers: int = 1, log: Callable[[str], None] = print_line
) -> list[Path]:
    """Execute notebooks with their parameters into `folder`/notebooks/, with `folder` for their results.

    Args:
        asked: {name of a notebook: its parameters}.
        folder: Where notebooks and results go.
        workers: Notebooks at a time; one that measures times is alone.
        log: Receives a line for each notebook.

    Raises:
        NotebookFailed: A notebook raised an error, or its process was killed; those not yet started are left.
        MissingRecord: A notebook needs a run that is not in a store to which none can be added.
    """
    root = project_root()
    # The folder is not a parameter, which would stand in the notebook.
    environment = {"OMP_NUM_THREADS": "1", OUTPUT_VARIABLE: str(folder)}
    alone = [name for name in asked if EXPERIMENTS[name].alone]
    together = [name for name in asked if name not in alone]
    made: list[Path] = []
    for names, count in ((alone, 1), (together, workers)):
        if not names:
            continue
        pool = ProcessPoolExecutor(min(count, len(names)), env=environment)  # each imports papermill once: two seconds
        tasks = [(name, str(folder), str(root), asked[name]) for name in names]
        try:
            for target, seconds in pool.map(_execute, *zip(*tasks, strict=True)):
                log(f"{target}: {seconds:.0f} s")
                made.append(root / target)
        except KeyboardInterrupt:
            pool.shutdown(kill_workers=True)  # their kernels end with them
            raise
        except BrokenProcessPool:
            left = ", ".join(name for name in names if name not in {path.stem for path in made})
            raise NotebookFailed(
                f"A process that executes notebooks was killed, perhaps for want of memory. Not executed: {left}. Run "
                "the same command again; --workers 1 needs the least memory."
            ) from None
        finally:
            pool.shutdown()
    return made


def _execute(name: str, folder: str, root: str, parameters: dict[str, Any]) -> tuple[str, float]:
    """Execute one notebook in this process; returns the path of what was made and the seconds it took."""
    import papermill

    start = time.monotonic()
    os.chdir(root)
    # papermill writes both paths into the notebook: they are relative where they can be.
    source = _relative(notebook_folder() / f"{name}.ipynb", root)
    target = _relative(Path(folder, "notebooks", f"{name}.ipynb"), root)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as messages:  # of papermill and the kernel, shown if the notebook fails
        for stream in (1, 2):
            os.dup2(messages.fileno(), stream)
        try:
            papermill.execute_notebook(source, target, parameters, progress_bar=False)
        except Exception as error:
            if getattr(error, "ename", "") == MissingRecord.__name__:  # papermill's, of the kernel's error
                raise MissingRecord(error.evalue) from None  # type: ignore[attr-defined]
            messages.seek(0)
            lines = [*messages.read().decode(errors="replace").splitlines(), *str(error).splitlines()]
            tail = "\n".join(lines[-30:])
            raise NotebookFailed(f"{source} failed with {parameters}; its output is in {target}:\n{tail}") from None
    return target, time.monotonic() - start


def _relative(path: Path, root: str) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
