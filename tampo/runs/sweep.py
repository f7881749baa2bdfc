"""A sweep: one job per controller and training seed, on this machine or on Slurm."""

import difflib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tampo.config import ConfigError, Params, load_params, refuse_idle
from tampo.controllers.registry import CONTROLLERS
from tampo.files import atomic_path
from tampo.inference.evaluate import problem_scores
from tampo.project import check_folder, output_folder
from tampo.runs.jobs import Job, Run, follow, local_gpus, print_line
from tampo.runs.slurm import Resources, Slurm
from tampo.runs.store import RunStore
from tampo.runs.training_data import check_problem_count
from tampo.runs.workers import Workers

ATTEMPTS = 2

Runs = dict[tuple[str, int], Run]


def parse_controllers(text: str) -> tuple[str, ...]:
    """Names of controllers, separated by commas, without duplicates.

    Raises:
        ConfigError: An unknown controller; the message suggests a known one.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in CONTROLLERS:
            near = difflib.get_close_matches(name, CONTROLLERS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(CONTROLLERS)}."
            raise ConfigError(f"Unknown controller {name[:50]!r} in --controllers. {hint}")
    return names


def sweep(
    source: str,
    controllers: Sequence[str] = tuple(CONTROLLERS),
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    resources: Resources | None = None,
    log: Callable[[str], None] = print_line,
    every: float = 5.0,
) -> pd.DataFrame:
    """Train and evaluate each controller with each seed; existing records are reused.

    A failed run is tried once more; the others continue. Jobs of an earlier call that are on Slurm are followed.

    Args:
        source: A scale's name or a YAML file.
        controllers: Names of `tampo.controllers.registry.CONTROLLERS`.
        seeds: Training seeds; by default those of the parameters.
        overrides: Parameters that differ from those of `source`. `workers` is the number of jobs at a time.
        resources: Where jobs run, and the resources of each; by default `Resources()`.
        log: Receives tables of states and the messages about failures.
        every: Minimum seconds between two tables; twelve times that while no state changes.

    Returns:
        The content of sweep.csv in `output_dir`, by default results/<scale> or a folder in it that is named by what
        differs (parameters, seeds, controllers): one row per run with controller, seed, state ("found", "done" or
        "failed"), attempts, the names of its records (training, evaluation), and its scores in percent, averaged over
        the benchmarks.

    Raises:
        ConfigError: A parameter or `resources` is invalid, before any job starts, or Slurm refuses the jobs.
        ImportError: Slurm needs submitit, which is not installed.
        Interrupted: By Ctrl-C or SIGTERM. Jobs on this machine have saved and stopped; those on Slurm continue.
    """
    resources, changes = resources or Resources(), dict(overrides or {})
    for name, option in (("temperature_controller", "--controllers"), ("seed", "--seeds")):
        if name in changes:
            raise ConfigError(f"A sweep sets the parameter {name!r} by {option}.")
    params = load_params(source, changes | {"temperature_controller": controllers[0]})  # whose parameters may be given
    if params.rollout_engine != "vllm-server" and params.processes != (started := resources.processes()):
        where = (
            f"--accelerate {resources.accelerate} starts" if resources.accelerate else "without --accelerate there are"
        )
        raise ConfigError(
            f"processes is {params.processes}, and {where} {started}. Give --processes {started}, or --accelerate a "
            f"file with num_processes: {params.processes}."
        )
    path = _folder(source, params, controllers, seeds) / "sweep.csv"
    check_folder(path.parent, "output_dir")
    store, runs, trainings = RunStore.of(params), Runs(), []
    for controller in controllers:
        for seed in seeds or params.seeds:
            varied = {"temperature_controller": controller, "seed": seed}
            training = params.training(**varied)
            check_problem_count(training)
            job = Job(f"{controller}, seed {seed}", params.evaluation(), training, params.model)
            idle = training.idle()
            read = {name: value for name, value in changes.items() if name not in idle}
            runs[controller, seed] = Run(job, resources.launch(source, read | varied))
            trainings.append(training)
    refuse_idle(changes, trainings)
    jobs = [run.job for run in runs.values()]
    if resources.use_slurm():
        # Unless sbatch's options name GPUs: this machine's may be other than those that the jobs will have.
        asked = any("gpu" in name or name == "gres" for name in resources.slurm)
        resources = replace(resources, one_gpu=not asked and any(job.wants_gpu() for job in jobs))
        backend: Workers | Slurm = Slurm(store.root, f"tampo-{params.scale}", resources, params.workers)
    else:
        resources = replace(resources, one_gpu=local_gpus(jobs) > 0)
        backend = Workers(store.root, params.workers, resources.gpus())
    for run in runs.values():
        run.look_up(store)
    shown, reported = None, float("-inf")

    def report(ended: list[Run]) -> None:
        nonlocal shown, reported
        for run in ended:
            if run.state not in ("done", "failed"):
                log(f"{run.job.label} failed; trying once more. See {os.path.relpath(run.log)}.")
        states = [(run.state, run.attempts) for run in runs.values()]
        if time.monotonic() - reported >= (every if states != shown else 12 * every):
            log(_states(runs, store))
            shown, reported = states, time.monotonic()

    follow(list(runs.values()), store, backend, report, ATTEMPTS)
    results = _results(runs)
    with atomic_path(path) as temporary:
        results.to_csv(temporary, index=False)
    log(_states(runs, store))
    for run in runs.values():
        if run.state == "failed":
            log(run.failure())
    if len(scores := _scores(results)):
        log(scores.to_string(index=False))
    log(f"Runs: {os.path.relpath(path)}")
    return results


def _folder(source: str, params: Params, controllers: Sequence[str], seeds: Sequence[int] | None) -> Path:
    if params.output_dir:
        return Path(params.output_dir).expanduser()
    usual, stem = load_params(source), Path(source).stem
    changes = params.changes(usual)
    changes.pop("temperature_controller", None)  # of each run
    if seeds and tuple(seeds) != usual.seeds:
        changes["seeds"] = list(seeds)
    if set(controllers) != set(CONTROLLERS):
        changes["controllers"] = list(controllers)
    return output_folder(params.scale, changes, None if stem == params.scale else stem)


def _states(runs: Runs, store: RunStore) -> str:
    rows = [
        {
            "controller": controller,
            "seed": seed,
            "state": run.state,
            "attempt": run.attempts,
            "progress": run.job.progress(store) if run.state == "running" else "",
        }
        for (controller, seed), run in runs.items()
    ]
    return pd.DataFrame(rows).to_string(index=False) + "\n"


def _results(runs: Runs) -> pd.DataFrame:
    rows = []
    for (controller, seed), run in runs.items():
        training, evaluation = run.records or (None, None)
        row: dict[Any, Any] = {
            "controller": controller,
            "seed": seed,
            "state": run.state,
            "attempts": run.attempts,
            "training": training and training.name,
            "evaluation": evaluation and evaluation.name,
        }
        if evaluation is not None:
            scores = problem_scores(evaluation.samples())
            row |= scores.groupby("benchmark").mean(numeric_only=True).mean().to_dict()
        rows.append(row)
    return pd.DataFrame(rows)


def _scores(results: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of each controller, in percent."""
    metrics = [name for name in results.columns if "@" in name]
    done = results.dropna(subset=["evaluation"]).groupby("controller", sort=False)
    return done[metrics].mean().round(1).assign(seeds=done.size()).reset_index()
