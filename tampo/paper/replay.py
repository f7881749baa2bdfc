"""Is it the adaptation, or the course of the temperature? TAMPO against the temperatures of another of its own runs.

A replay trains with one seed at the temperatures that TAMPO drew with another: the same course, which does not follow
the run that it is in. Where a replay does as well, the course is what helps, and a schedule would do.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from tampo.config import Params
from tampo.inference.evaluate import problem_scores
from tampo.paper.experiments import REGRET_EVALUATIONS, regime_params
from tampo.paper.regret import RegretRuns
from tampo.runs.jobs import Job, print_line, run_jobs
from tampo.runs.store import Record, RunStore
from tampo.stats import mean_interval


def replay_jobs(params: Params, runs: RegretRuns) -> dict[tuple[str, int], Job]:
    """A replay for each regime and training seed: of the temperatures of the next seed's TAMPO run.

    Empty with a single seed, which has no other to replay.
    """
    jobs, seeds = {}, list(params.seeds)
    for regime, config in regime_params(params).items() if len(seeds) > 1 else ():
        for seed, other in zip(seeds, [*seeds[1:], seeds[0]], strict=True):
            temperatures = runs.runs[regime, "tampo", other].metrics()["temperature"].tolist()
            changes = {
                "temperature_controller": "staged",
                "temperature_controller_kwargs": {"stages": temperatures},
                "seed": seed,
            }
            samples = REGRET_EVALUATIONS[params.scale][1.0]
            evaluation = config.evaluation(eval_temperature=1.0, eval_samples=samples)
            label = f"replay of seed {other}, seed {seed}"
            jobs[regime, seed] = Job(label, evaluation, config.training(**changes), config.model)
    return jobs


def run_replay(
    params: Params, runs: RegretRuns, log: Callable[[str], None] = print_line
) -> tuple[pd.DataFrame, dict[str, Record]]:
    """TAMPO minus its replay in the share of right samples at T = 1, paired by training seed and problem, by regime.

    Returns:
        Columns regime, tampo, replay (percent), difference, low, high (95 % interval over problems and seeds, in
        points), p (two-sided, not adjusted); and all records by name. Without a second seed the table is empty.
    """
    jobs = replay_jobs(params, runs)
    made = run_jobs(RunStore.of(params), list(jobs.values()), params.workers, log) if jobs else []
    records = {record.name: record for pair in made for record in pair if record is not None}
    replayed: dict[str, list[pd.DataFrame]] = {}
    for (regime, _), (_, evaluation) in zip(jobs, made, strict=True):
        replayed.setdefault(regime, []).append(problem_scores(evaluation.samples()))
    rows = []
    for regime, tables in replayed.items():
        samples = runs.samples[1.0]
        ours = {name: 100 * counts / samples for name, counts in runs.counts[regime, 1.0, "tampo"].items()}
        metric = f"avg@{samples}" if samples > 1 else "pass@1"
        theirs = {name: np.array([t.loc[t["benchmark"] == name, metric] for t in tables]) for name in ours}
        estimate = mean_interval([ours[name] - theirs[name] for name in ours])
        means = [float(np.mean([values.mean() for values in scores.values()])) for scores in (ours, theirs)]
        row = {"regime": regime, "tampo": means[0], "replay": means[1], "difference": estimate.value}
        row |= {"low": estimate.low, "high": estimate.high}
        rows.append(row | {"p": estimate.p_two_sided})
    return pd.DataFrame(rows), records
