"""The tables share their runs, and the base model is evaluated once."""

from tampo.config import load_params
from tampo.paper.experiments import TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, experiment_jobs
from tampo.runs.store import RunStore


def test_all_tables_share_the_default_training():
    params = load_params("mini", {"seeds": [0, 1, 2]})
    store = RunStore.of(params)
    folders = {
        number: {key: job.folder(store) for key, job in experiment_jobs(params, methods).items()}
        for number, methods in ((1, TABLE1), (2, TABLE2), (3, TABLE3), (4, TABLE4))
    }
    for seed in (0, 1, 2):
        assert len({folders[number]["tampo", seed] for number in folders}) == 1
    distinct = set().union(*(set(own.values()) for own in folders.values()))
    assert len(distinct) == 1 + 3 * (5 + 2 + 3)
    other = load_params("mini-choice", {"seeds": [0, 1, 2]})
    assert not distinct & {job.folder(store) for job in experiment_jobs(other, TABLE5).values()}


def test_a_base_model_is_evaluated_once():
    jobs = experiment_jobs(load_params("mini", {"seeds": [3, 4]}))
    assert [key for key in jobs if key[0] == "base"] == [("base", 3)]
    assert jobs["tampo", 4].label == "TAMPO, seed 4"
