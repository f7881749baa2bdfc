"""From a config to its record: a training run, or an evaluation, that is made once (`tampo.runs.store` keeps it).

Training and evaluation are imported when one has to be made: a notebook whose records are there waits for no torch.
"""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from tampo.config import EvaluationConfig, TrainingConfig
from tampo.files import atomic_path, write_json
from tampo.runs.provenance import provenance
from tampo.runs.store import LIVE_LOG, PARAMETERS, PROGRESS, Record, RunStore


def train(store: RunStore, config: TrainingConfig) -> Record:
    """The record of a training run: model/, metrics.csv, rollouts.parquet, and step times in the manifest.

    Under torchrun or accelerate, called by every process: the first makes the record, the others train along.
    """
    from tampo.runs.training import TIMINGS
    from tampo.runs.training import train as run_training
    from tampo.trainer.model_card import add_run

    identity = training_identity(config)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("RANK", "0")) > 0:
        finished = store.load("training", identity)
        if finished is None:
            run_training(config, store.folder("training", identity))
        return finished or Record(store.folder("training", identity), {})

    def build(folder: Path) -> dict[str, Any]:
        def note(row: dict[str, Any]) -> None:
            brief = {
                name: row[name] for name in ("step", "steps", "reward", "temperature") if row.get(name) is not None
            }
            write_json(folder / PROGRESS, brief)
            with open(folder / LIVE_LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

        write_json(folder / PARAMETERS, identity)  # `explore` shows what is trained
        rows, source = run_training(config, folder, note)
        add_run(folder / "model" / "README.md", identity, provenance())
        log = pd.DataFrame(rows)
        with atomic_path(folder / "metrics.csv") as temporary:
            kept = sorted(set(log.columns) - set(TIMINGS))  # a resumed log has its columns in another order
            log[["step", *(name for name in kept if name != "step")]].to_csv(temporary, index=False)
        return {
            "seconds_a_step": round(float(log["step_time"].median()), 3),
            "data": source,
            "processes": processes,
        }

    return store.make("training", identity, build)


def evaluate(store: RunStore, config: EvaluationConfig, model: str, training: TrainingConfig | None = None) -> Record:
    """The record of an evaluation, samples.parquet, of the model that `training` makes (None: of `model`)."""
    from tampo.inference.evaluate import evaluate as run_evaluation
    from tampo.inference.evaluate import load_benchmarks, make_engine
    from tampo.runs.training_data import model_folder

    trained = None if training is None else train(store, training)

    def build(folder: Path) -> dict[str, Any]:
        weights = model_folder(model) if trained is None else str(trained.folder / "model")
        benchmarks = load_benchmarks(config)
        server = {"server": config.vllm_server_base_url} if config.eval_engine == "vllm-server" else {}
        engine = make_engine(config.eval_engine, weights, batch=config.eval_batch, **server)
        samples = run_evaluation(
            engine, config, benchmarks, lambda row: write_json(folder / PROGRESS, row), folder / "checkpoints"
        )
        with atomic_path(folder / "samples.parquet") as temporary:
            samples.to_parquet(temporary, compression="zstd")
        return {
            "tokens": int(samples["tokens"].sum()),
            "data": [b.source for b in benchmarks.values()],
            "seeded_by": engine.seeded_by,
        }

    return store.make("evaluation", evaluation_identity(config, model, training), build)


def training_identity(config: TrainingConfig) -> dict[str, Any]:
    """What decides a training run: its parameters, and the content of local weights and data."""
    from tampo.runs.training_data import model_revision
    from tampo.tasks.suites import get_suite

    digests = get_suite(config.suite).digests(True, config.data_dir)
    return config.identity() | {"model_revision": model_revision(config.model), "data_files": digests}


def evaluation_identity(config: EvaluationConfig, model: str, training: TrainingConfig | None) -> dict[str, Any]:
    """What decides an evaluation: its parameters, the content of local data, and the model."""
    from tampo.runs.training_data import model_revision
    from tampo.tasks.suites import get_suite

    own = config.identity() | {"data_files": get_suite(config.suite).digests(False, config.data_dir)}
    if training is None:
        return own | {"model": model, "model_revision": model_revision(model)}
    return own | {"training": training_identity(training)}
