"""From a config to its record: a training run or an evaluation, made once and kept in the store.

Training and evaluation code is imported on use, because TRL takes seconds to load.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from tampo.config import ConfigError, EvaluationConfig, TrainingConfig
from tampo.files import atomic_path, write_json
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.provenance import provenance
from tampo.runs.store import KEPT, LIVE_LOG, PARAMETERS, PROGRESS, TIMES, Record, RunStore


def train(store: RunStore, config: TrainingConfig) -> Record:
    """The record of a training run: model/, metrics.csv, times.csv, rollouts.parquet and, with `keep_steps`, kept/.

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


def evaluate(
    store: RunStore,
    config: EvaluationConfig,
    model: str,
    training: TrainingConfig | None = None,
    workers: int | None = None,
) -> Record:
    """The record of an evaluation, samples.parquet, of the model trained by `training`; of `model` if that is None.

    Args:
        workers: Processes that share the evaluation on a machine without GPUs, by default one, which is this one; a
            machine with several GPUs has one process per GPU.

    Raises:
        RunFailed: A process of its own (`tampo.runs.apart`) failed.
        ConfigError: `eval_step` names weights that the training does not keep, or another error of the config.
    """
    from tampo.inference.precision import evaluation_dtype
    from tampo.runs.apart import evaluation_processes, train_apart, trains_apart
    from tampo.runs.devices import check_evaluation_device, torch_device
    from tampo.runs.scaled_models import base_model
    from tampo.runs.training_data import check_problem_count, local_model

    _check_step(config, training)
    if training is not None and store.load("training", training_identity(training)) is None:
        check_problem_count(training)
        if trains_apart(training, config):
            train_apart(store, training, config)
    trained = None if training is None else train(store, training)
    name = model if training is None else training.model

    def build(folder: Path) -> dict[str, Any]:
        check_evaluation_device(config, name)
        served = config.eval_engine == "vllm-server"
        if trained is not None:
            step = config.eval_step
            weights = str(trained.folder / (f"{KEPT}/{step}" if step else "model"))
        elif served:  # which has loaded the model and knows it by its name
            if config.base_logit_scale != 1:
                raise ConfigError(
                    f"base_logit_scale {config.base_logit_scale:g}: a vLLM server has the model as it is. Give "
                    "--eval-engine transformers or vllm."
                )
            weights = str(local_model(model) or model)
        else:
            weights = base_model(model, config.model_revision, config.base_logit_scale)
        options: dict[str, Any]
        if config.eval_engine == "transformers":
            device = torch_device(config.device, name)
            options = {"dtype": evaluation_dtype(config, gpu=device != "cpu"), "device": device}
        else:
            options = {"dtype": evaluation_dtype(config)}
        idle = options.get("device") == "cpu"  # the GPUs, if there are any
        processes = workers or 1 if idle else evaluation_processes(config, workers)
        return _evaluate(folder, config, weights, processes, options)

    return store.make("evaluation", evaluation_identity(config, model, training), build)


def _check_step(config: EvaluationConfig, training: TrainingConfig | None) -> None:
    """Before hours of training."""
    if config.eval_step is None:
        return
    if training is None:
        raise ConfigError(f"eval_step {config.eval_step}: a model that is not trained here has no steps. Leave it out.")
    kept = range(training.keep_steps, training.max_steps + 1, training.keep_steps) if training.keep_steps else ()
    if config.eval_step not in kept:
        known = f"it keeps those of {', '.join(map(str, kept))}" if kept else "it keeps none"
        raise ConfigError(
            f"eval_step {config.eval_step}: the training has no weights of this step; {known}. Give keep_steps, a "
            "divisor of eval_step."
        )


def _evaluate(
    folder: Path, config: EvaluationConfig, weights: str, processes: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Write samples.parquet into the folder of an evaluation; returns the entries for its manifest."""
    from transformers import AutoTokenizer

    from tampo.inference import evaluate as inference
    from tampo.inference.slices import Meter, plan_slices
    from tampo.runs.apart import sample_apart

    parts, report, benchmarks = folder / "checkpoints", _reporter(folder), inference.load_benchmarks(config)
    if processes > 1:
        slices = plan_slices(AutoTokenizer.from_pretrained(weights), config, benchmarks)
        meter = Meter(config, slices, parts)
        missing = sum(not (parts / piece.name).is_file() for piece in slices)
        if missing:
            sample_apart(config, weights, parts, min(processes, missing), lambda: report(meter.row()), options)
        samples = inference.grade_slices(config, benchmarks, slices, parts)
    else:
        with closing(inference.open_engine(config, weights, benchmarks, **options)) as engine:
            samples = inference.evaluate(engine, config, benchmarks, report, parts)
    with atomic_path(folder / "samples.parquet") as temporary:
        samples.to_parquet(temporary, compression="zstd")
    return {
        "tokens": int(samples["tokens"].sum()),
        "data": [b.source for b in benchmarks.values()],
        "seeded_by": inference.engine_class(config.eval_engine).seeded_by,
        "dtype": options["dtype"],
    }


def sample(config: EvaluationConfig, weights: str, parts: Path, options: dict[str, Any] | None = None) -> None:
    """Sample the slices of an evaluation that have no file in `parts`, beside other processes that do the same.

    Args:
        options: Further arguments of the engine's class.
    """
    from tampo.inference.evaluate import load_benchmarks, open_engine, sample_benchmarks

    benchmarks = load_benchmarks(config)
    with closing(open_engine(config, weights, benchmarks, **(options or {}))) as engine:
        sample_benchmarks(engine, config, benchmarks, parts)


def _reporter(folder: Path, every: float = 20.0) -> Callable[[dict[str, Any]], None]:
    """Keeps a row of `Meter` as the progress that other processes read, and prints it every so many seconds."""
    from tampo.inference.slices import describe_progress

    last, printed = dict[str, Any](), time.monotonic()

    def report(row: dict[str, Any]) -> None:
        nonlocal last, printed
        if row["samples"] != last.get("samples"):
            write_json(folder / PROGRESS, row)
            last = row
        if time.monotonic() - printed >= every:
            printed = time.monotonic()
            print(f"Evaluation: {describe_progress(row)}", file=sys.stderr, flush=True)

    return report


def _log_step(folder: Path, row: dict[str, Any]) -> None:
    """Append a step's row to the live log, and update the progress that other processes read."""
    shown = ("step", "steps", "reward", "temperature")
    write_json(folder / PROGRESS, {name: row[name] for name in shown if row.get(name) is not None})
    with open(folder / LIVE_LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
