"""Is it the adaptation, or the course of the temperature? TAMPO against the temperatures of another of its own runs.

A replay trains with one seed at the temperatures that TAMPO drew with another: the same course, which does not follow
the run that it is in. Where a replay does as well, the course is what helps, and a schedule would do.
"""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from tampo.config import Params
from tampo.paper.experiments import Method
from tampo.paper.results import Result, Score, collect, compare, pass_scores
from tampo.runs.jobs import Job, print_line, run_jobs
from tampo.runs.store import RunStore
from tampo.stats import holm

REPLAY = Method("replay", "Replay of TAMPO's T of another seed")


def replay_jobs(params: Params, result: Result) -> dict[tuple[str, int], Job]:
    """A replay for each training seed, of the temperatures of the next seed's TAMPO run, by (its key, seed).

    Empty with a single seed, which has no other to replay.
    """
    seeds, jobs = list(params.seeds), {}
    for seed, other in zip(seeds, [*seeds[1:], seeds[0]], strict=True) if len(seeds) > 1 else ():
        temperatures = result.runs["tampo", other].metrics()["temperature"].tolist()
        training = params.training(
            temperature_controller="staged", temperature_controller_kwargs={"stages": temperatures}, seed=seed
        )
        label = f"replay of seed {other}, seed {seed}"
        jobs[REPLAY.key, seed] = Job(label, params.evaluation(), training, params.model)
    return jobs


def with_replays(
    params: Params, result: Result, log: Callable[[str], None] = print_line, score: Score = pass_scores
) -> Result:
    """`result` with the replays of its TAMPO runs as one more row; missing runs are made. One seed has no replay."""
    jobs = replay_jobs(params, result)
    if not jobs:
        return result
    made = run_jobs(RunStore.of(params), list(jobs.values()), params.workers, log)
    replays = collect(dict(zip(jobs, made, strict=True)), score)
    scores = pd.concat([result.scores, replays.scores], ignore_index=True)
    return replace(result, scores=scores, records=result.records | replays.records, runs=result.runs | replays.runs)


def replay_differences(result: Result, methods: tuple[Method, ...], metric: str = "pass@1") -> pd.DataFrame:
    """TAMPO minus each other row and minus its replays, paired by training seed and problem.

    Returns:
        Columns rival, metric, difference, low, high, p (two-sided), p_holm (adjusted for the number of rows).
    """
    there = set(result.scores["method"])
    table = compare(result, "tampo", tuple(method for method in (*methods, REPLAY) if method.key in there))
    table = table[table["metric"] == metric].drop(columns="same").reset_index(drop=True)
    return table.assign(p_holm=holm(table["p"].tolist()))
