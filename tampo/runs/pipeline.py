"""From a config to its record: a training run or an evaluation, made once and kept in the store.

Training and evaluation code is imported on use, because TRL takes seconds to load.
"""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from tampo.config import EvaluationConfig, TrainingConfig
from tampo.files import atomic_path, write_json
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.provenance import provenance
from tampo.runs.store import LIVE_LOG, PARAMETERS, PROGRESS, TIMES, Record, RunStore


def train(store: RunStore, config: TrainingConfig) -> Record:
    """The record of a training run: model/, metrics.csv, times.csv and rollouts.parquet.

    Under torchrun or accelerate, every process calls it; the first one makes the record.

    Raises:
        ConfigError: The training set has fewer problems than one step, or another error of the config.
    """
    from tampo.runs.training import TIMINGS
    from tampo.runs.training import train as run_training
    from tampo.runs.training_data import check_problem_count
    from tampo.trainer.model_card import add_run

    check_problem_count(config)
    identity = training_identity(config)
    if int(os.environ.get("RANK", "0")) > 0:
        finished, folder = store.load("training", identity), store.folder("training", identity)
        if finished is None:
            run_training(config, folder)
        return finished or Record(folder, {})

    def build(folder: Path) -> dict[str, Any]:
        write_json(folder / PARAMETERS, identity)  # for the notebook explore
        rows, source = run_training(config, folder, lambda row: _log_step(folder, row))
        add_run(folder / "model" / "README.md", identity, provenance())
        log = pd.DataFrame(rows)
        with atomic_path(folder / "metrics.csv") as temporary:
            # Sorted, because the columns of a resumed log have another order.
            log[["step", *sorted(set(log.columns) - {"step", *TIMINGS})]].to_csv(temporary, index=False)
        with atomic_path(folder / TIMES) as temporary:
            log[["step", *(name for name in TIMINGS if name in log)]].to_csv(temporary, index=False)
        return {"seconds_per_step": round(float(log["step_time"].median()), 3), "data": source}

    return store.make("training", identity, build)


def evaluate(store: RunStore, config: EvaluationConfig, model: str, training: TrainingConfig | None = None) -> Record:
    """The record of an evaluation, samples.parquet, of the model trained by `training`; of `model` if that is None."""
    from tampo.inference.evaluate import evaluate as run_evaluation
    from tampo.inference.evaluate import load_benchmarks, make_engine
    from tampo.inference.precision import evaluation_dtype
    from tampo.runs.devices import check_evaluation_device, torch_device
    from tampo.runs.training_data import local_model, model_folder

    trained = None if training is None else train(store, training)
    name = model if training is None else training.model

    def build(folder: Path) -> dict[str, Any]:
        check_evaluation_device(config, name)
        benchmarks, served = load_benchmarks(config), config.eval_engine == "vllm-server"
        if trained is not None:
            weights = str(trained.folder / "model")
        elif served:  # which has loaded the model and knows it by its name
            weights = str(local_model(model) or model)
        else:
            weights = model_folder(model, config.model_revision)
        device = torch_device(config.device, name)
        dtype = evaluation_dtype(config, gpu=None if device is None else device != "cpu")
        options: dict[str, Any] = {"dtype": dtype}
        if served:
            options["server"] = config.vllm_server_base_url
        if config.eval_engine == "transformers":
            options["device"] = device
        engine = make_engine(config.eval_engine, weights, batch=config.eval_batch, **options)
        samples = run_evaluation(
            engine, config, benchmarks, lambda row: write_json(folder / PROGRESS, row), folder / "checkpoints"
        )
        with atomic_path(folder / "samples.parquet") as temporary:
            samples.to_parquet(temporary, compression="zstd")
        return {
            "tokens": int(samples["tokens"].sum()),
            "data": [b.source for b in benchmarks.values()],
            "seeded_by": engine.seeded_by,
            "dtype": dtype,
        }

    return store.make("evaluation", evaluation_identity(config, model, training), build)


def _log_step(folder: Path, row: dict[str, Any]) -> None:
    """Append a step's row to the live log, and update the progress that other processes read."""
    shown = ("step", "steps", "reward", "temperature")
    write_json(folder / PROGRESS, {name: row[name] for name in shown if row.get(name) is not None})
    with open(folder / LIVE_LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
