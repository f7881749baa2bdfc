"""A sweep: every controller with every training seed, each a job of its own (`tampo.cluster`)."""

import difflib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from tampo.cluster import Place, Queue, Run
from tampo.config import ConfigError, load_params
from tampo.controllers import CONTROLLERS
from tampo.evaluate import problem_scores
from tampo.files import atomic_path
from tampo.interrupts import Interrupted, stop_on_signals
from tampo.jobs import Job, end_of_log, say_now
from tampo.runs import RunStore

MAX_SEEDS = 1000

Runs = dict[tuple[str, int], Run]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from numbers and ranges with commas between them; repeated ones count once.

    Raises:
        ConfigError: Anything else, a range that goes down, or more than `MAX_SEEDS` seeds.

    Example:
        >>> parse_seeds("0-2,7,1")
        (0, 1, 2, 7)
    """
    seeds = dict[int, None]()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        if match is None:
            raise ConfigError(f"Cannot read {part[:50]!r} in --seeds; write 0-4, or 0,2,5.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_SEEDS:
            raise ConfigError(f"The range {part.strip()} in --seeds must go up, by fewer than {MAX_SEEDS}.")
        seeds |= dict.fromkeys(range(first, last + 1))
        if len(seeds) > MAX_SEEDS:
            raise ConfigError(f"More than {MAX_SEEDS} in --seeds.")
    return tuple(seeds)


def parse_controllers(text: str) -> tuple[str, ...]:
    """Names of controllers with commas between them; repeated ones count once.

    Raises:
        ConfigError: One that does not exist; the message has the nearest that does.
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
    place: Place | None = None,
    say: Callable[[str], None] = say_now,
    every: float = 5.0,
) -> pd.DataFrame:
    """Train and evaluate each controller with each seed, as far as that has not been done.

    A run that fails is tried once more; the others go on. Jobs that an earlier call left on Slurm are waited for.

    Args:
        source: A scale's name or a YAML file.
        controllers: Names of `tampo.controllers.CONTROLLERS`.
        seeds: Training seeds; by default those of the parameters.
        overrides: Parameters that differ from those of `source`. `workers` is the number of jobs at a time.
        place: Where jobs run and what each of them has; by default `Place()`.
        say: Where tables of states and the reports of failures go.
        every: Seconds between two tables at least; without a change of state twelve times that.

    Returns:
        The content of results/<scale>/sweep.csv: one row a run with controller, seed, state ("found", "done" or
        "failed"), attempts, the names of its records (training, evaluation), and its scores in percent, where each
        benchmark has the same weight.

    Raises:
        ConfigError: A parameter or `place` is refused, before anything is started, or Slurm refuses the jobs.
        Interrupted: By Ctrl-C or SIGTERM. Jobs on this machine have saved and stopped; those on Slurm go on.
    """
    place, changes = place or Place(), dict(overrides or {})
    for name, option in (("controller", "--controllers"), ("seed", "--seeds")):
        if name in changes:
            raise ConfigError(f"A sweep sets the parameter {name!r} by {option}.")
    params = load_params(source, changes)
    store, runs = RunStore.of(params), Runs()
    for controller in controllers:
        for seed in seeds or params.seeds:
            own = {"controller": controller, "seed": seed}
            job = Job(f"{controller}, seed {seed}", params.evaluation(), params.training(**own), params.model)
            runs[controller, seed] = Run(job, place.launch(source, changes | own))
    queue = Queue(store, f"tampo-{params.scale}", place, params.workers)
    for run in runs.values():
        run.records = run.job.find(store)
        run.state = "found" if run.records else "waiting"
        if not run.records:
            queue.attach(run)
    _follow(queue, runs, store, say, every)
    results = _results(runs)
    path = store.root.parent / "sweep.csv"
    with atomic_path(path) as temporary:
        results.to_csv(temporary, index=False)
    say(_states(runs, store))
    for run in runs.values():
        if run.state == "failed" and run.log:
            say(f"{run.job.label} failed; the end of {os.path.relpath(run.log)}:\n{end_of_log(run.log)}")
    if len(scores := _scores(results)):
        say(scores.to_string(index=False))
    say(f"Runs: {os.path.relpath(path)}")
    return results


def _follow(queue: Queue, runs: Runs, store: RunStore, say: Callable[[str], None], every: float) -> None:
    """Submit the runs and wait until all are done or failed."""
    notice, kept = "Leaving.", "The jobs on Slurm go on; the same command takes them up again."
    if queue.local:
        notice = "Stopping the jobs; each saves within a step."
        kept = "What was done is kept; the same command goes on from there."
    shown, said = None, float("-inf")
    with stop_on_signals(notice) as stop:
        try:
            while any(run.state in ("waiting", "running") for run in runs.values()):
                for run in runs.values():
                    if queue.update(run) and run.state == "waiting" and run.log:
                        say(f"{run.job.label} failed, and is tried once more; see {os.path.relpath(run.log)}.")
                queue.submit(list(runs.values()))
                states = [(run.state, run.attempts) for run in runs.values()]
                if time.monotonic() - said >= (every if states != shown else 12 * every):
                    say(_states(runs, store))
                    shown, said = states, time.monotonic()
                if stop:
                    raise Interrupted(kept)
                time.sleep(0.5)
        finally:
            queue.leave(list(runs.values()))


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
