"""Benchmarks of a scale: `python -m tampo.paper.bench [SCALE]`, or notebooks/overhead.ipynb, which shows the same.

Each measurement is made once and kept in the store of runs. Times are those of the machine named in the manifest, and
are meaningful only if nothing else ran on it. Ratios compare times that were measured alternately.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from loky import cpu_count

from tampo.config import ConfigError, Params, TrainingConfig, load_params
from tampo.files import atomic_path
from tampo.paper.outputs import refuse_other_parameters, results_folder
from tampo.paper.overhead_cases import CASES, SIZES, Size
from tampo.paper.overhead_summary import format_summary, step_ratio, summarise
from tampo.paper.tables import write_texts
from tampo.runs.hardware import describe
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.jobs import print_line
from tampo.runs.provenance import write_manifest
from tampo.runs.store import RunStore
from tampo.runs.training_data import model_folder
from tampo.stats import Estimate
from tampo.tasks.mini_assets import RECIPES


@dataclass(frozen=True)
class Measurement:
    """A benchmark: the settings that determine its result, its number of threads, and the function that runs it."""

    identity: dict[str, Any]
    threads: int
    measure: Callable[[], pd.DataFrame]

    def __call__(self) -> pd.DataFrame:
        import torch
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of every model that is loaded
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self.measure()
        finally:
            torch.set_num_threads(before)


def measurements(params: Params) -> dict[str, Measurement]:
    """The benchmarks of a scale by name.

    Whole runs: "steps", "paper_steps" (with 32 x 8 rollouts), "memory" (peaks in MB) and "evaluation", with one thread
    as in training. They are left out for models that do not ship with the package, which may need several GPUs. Parts:
    "head", "head_memory", "likelihoods" and "starts". The LM head has the size of the paper's model and uses all cores.
    """
    size, cores = SIZES.get(params.scale, Size()), cpu_count()
    found = {}
    if params.model in RECIPES:
        short, evaluation = params.training(max_steps=2), params.evaluation()
        config = params.training(max_steps=min(size.steps, params.max_steps))
        rounds = {"rounds": size.long_rounds}
        found["steps"] = Measurement(
            training_identity(config) | {"rounds": size.rounds},
            1,
            lambda: _whole().measure_steps(config, size.rounds, tuple(CASES)),
        )
        if size.paper_step:
            paper = TrainingConfig(**config.model_dump() | size.paper_step)
            found["paper_steps"] = Measurement(
                training_identity(paper) | rounds,
                1,
                lambda: _whole().measure_steps(paper, size.long_rounds, ("grpo", "fast")),
            )
        if size.memory:
            cases = ("grpo", "tampo")
            found["memory"] = Measurement(
                training_identity(short),
                1,
                lambda: pd.DataFrame([{"case": c, "megabytes": _whole().step_memory(short, c)} for c in cases]),
            )
        found["evaluation"] = Measurement(
            evaluation_identity(evaluation, params.model, None) | rounds,
            1,
            lambda: _parts().measure_evaluation(
                evaluation, model_folder(params.model, params.model_revision), size.long_rounds
            ),
        )
    shape, rounds = asdict(size.head), {"rounds": size.part_rounds}
    found["head"] = Measurement(shape | rounds, cores, lambda: _parts().measure_head(size.head, size.part_rounds))
    if size.memory:
        found["head_memory"] = Measurement(shape, cores, lambda: pd.DataFrame([_parts().head_memory(size.head)]))
    found["likelihoods"] = Measurement(
        shape | rounds, cores, lambda: _parts().measure_likelihoods(size.head, size.part_rounds)
    )
    found["starts"] = Measurement(rounds, 1, lambda: _parts().measure_starts(size.part_rounds))
    return found


def _whole() -> Any:
    """The module that measures training runs; it loads torch and TRL, which take seconds."""
    from tampo.paper import overhead

    return overhead


def _parts() -> Any:
    """The module that measures parts; it loads torch and TRL."""
    from tampo.paper import overhead_parts

    return overhead_parts


@dataclass(frozen=True)
class Benchmarks:
    """The results: a table for each benchmark, and the manifest of each record by its name."""

    tables: dict[str, pd.DataFrame]
    manifests: dict[str, dict[str, Any]]

    @property
    def machine(self) -> str:
        """The processors of the machines that were measured."""
        return ", and ".join(sorted({describe(manifest["machine"]) for manifest in self.manifests.values()}))


def run_benchmarks(
    params: Params, only: Collection[str] = (), again: bool = False, log: Callable[[str], None] = print_line
) -> Benchmarks:
    """Run the benchmarks that are missing; existing records are reused.

    Args:
        params: The scale.
        only: Names of `measurements`; by default all.
        again: Measure anew even if there is a record.
        log: Receives progress messages.
    """
    store = RunStore.of(params)
    tables, manifests = {}, {}
    for name, measurement in measurements(params).items():
        if only and name not in only:
            continue
        kind = f"bench-{name.replace('_', '-')}"
        if again:
            store.forget(kind, measurement.identity)
        if store.load(kind, measurement.identity) is None:
            log(f"Measuring {name.replace('_', ' ')}.")
        record = store.make(kind, measurement.identity, partial(_save, measurement))
        tables[name], manifests[record.name] = pd.read_csv(record.folder / "table.csv"), record.manifest
    return Benchmarks(tables, manifests)


def _save(measurement: Measurement, folder: Path) -> dict[str, Any]:
    table = measurement()
    with atomic_path(folder / "table.csv") as temporary:
        table.to_csv(temporary, index=False)
    return {}


def step_time(params: Params) -> tuple[Estimate, Benchmarks] | None:
    """TAMPO's step time divided by that of TRL's GRPO on the same rollouts; None if steps are not measured."""
    found = run_benchmarks(params, only=("steps",))
    return (step_ratio(found.tables["steps"], "tampo"), found) if found.tables else None


def write_benchmarks(found: Benchmarks, folder: Path) -> list[Path]:
    """Write overhead.csv and overhead.md into `folder`; returns the paths."""
    summary = summarise(found.tables)
    caption = (
        f"Ratios of times measured alternately, 95 % intervals over pairs. Measured on {found.machine}. "
        "Manifest: overhead.manifest.json."
    )
    table = format_summary(summary).to_markdown(index=False, disable_numparse=True)
    texts = {"csv": summary.to_csv(index=False, float_format="%.6g"), "md": f"{caption}\n\n{table}\n"}
    return write_texts(folder, "overhead", texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tampo.paper.bench", description="Measure the cost of TAMPO (section 4.2)."
    )
    parser.add_argument("scale", nargs="?", default="mini", help="a scale's name or a YAML file (default: mini)")
    parser.add_argument("--again", action="store_true", help="measure anew even if there is a record")
    options = parser.parse_args(arguments)
    try:
        params = load_params(options.scale)
        refuse_other_parameters(params, "overhead")  # before minutes of measuring
    except ConfigError as error:
        print(f"tampo.paper.bench: {error}", file=sys.stderr)
        return 2
    found = run_benchmarks(params, again=options.again)
    folder = results_folder(params, "overhead")
    paths = write_benchmarks(found, folder)
    write_manifest(folder, "overhead", params, found.manifests)
    print(paths[1].read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
