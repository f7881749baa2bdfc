"""Benchmarks of a scale: `python -m tampo.paper.bench [SCALE]`, or notebooks/overhead.ipynb, which shows the same.

Each measurement is kept in the store of runs, and made once. Times are those of the machine that the manifest names,
and mean something only where nothing else was running on it; ratios are of times that were taken in turns.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from loky import cpu_count
from transformers.utils.logging import disable_progress_bar

from tampo.config import ConfigError, Params, TrainingConfig, load_params
from tampo.files import atomic_path, write_text
from tampo.paper.overhead import CASES, measure_steps, outer_loop_ratio, ratio, step_memory, step_ratio
from tampo.paper.overhead_parts import (
    HeadShape,
    head_memory,
    measure_evaluation,
    measure_head,
    measure_likelihoods,
    measure_starts,
)
from tampo.project import project_root
from tampo.runs.jobs import say_now
from tampo.runs.pipeline import evaluation_identity, training_identity
from tampo.runs.provenance import write_manifest
from tampo.runs.store import RunStore
from tampo.runs.training_data import model_folder
from tampo.stats import Estimate
from tampo.tasks.mini_model import RECIPES


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        steps: Steps of a training. Few, so that cases follow each other before the machine's mood changes.
        rounds: Trainings of each case.
        long_rounds: Rounds of evaluations and of trainings with steps as large as the paper's.
        part_rounds: Rounds of the LM head and of start-up.
        head: The LM head; by default the paper's.
        paper_step: Changes that make steps as large as the paper's (section 4.1), and their number.
    """

    steps: int = 5
    rounds: int = 16
    long_rounds: int = 4
    part_rounds: int = 5
    head: HeadShape = field(default_factory=HeadShape)
    paper_step: dict[str, int] = field(
        default_factory=lambda: {
            "prompts_per_step": 32,
            "num_generations": 8,
            "per_device_train_batch_size": 256,
            "max_steps": 10,
        }
    )


_START_GOALS = {
    "import tampo, beyond numpy": "< 1",
    "tampo --help": "< 1.5",
    "notebook, up to its first training": "< 10",
}

SIZES = {"smoke": Size(2, 1, 1, 2, HeadShape(64, 2000, 64), {})}


@dataclass(frozen=True)
class Measurement:
    """A benchmark: what decides its result, the threads it runs with, and how it is made."""

    identity: dict[str, Any]
    threads: int
    measure: Callable[[], pd.DataFrame]

    def __call__(self) -> pd.DataFrame:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self.measure()
        finally:
            torch.set_num_threads(before)


def measurements(params: Params) -> dict[str, Measurement]:
    """The benchmarks of a scale by name.

    "steps" (`tampo.paper.overhead.measure_steps`), "paper_steps" (the same with 32 x 8 rollouts), "memory" (peaks of
    training runs in MB), "evaluation", "head", "head_memory", "likelihoods" and "starts" (of
    `tampo.paper.overhead_parts`). The first four are left out for a model that does not ship with the package: its
    steps may need several GPUs, which one process has not. Small models get one thread, as their runs do; an LM head
    of the paper's size gets all cores.
    """
    size, cores = SIZES.get(params.scale, Size()), cpu_count()
    found = {}
    if params.model in RECIPES:
        short, evaluation = params.training(max_steps=2), params.evaluation()
        config = params.training(max_steps=min(size.steps, params.max_steps))
        paper, rounds = TrainingConfig(**config.model_dump() | size.paper_step), {"rounds": size.long_rounds}
        found["steps"] = Measurement(
            training_identity(config) | {"rounds": size.rounds},
            1,
            partial(measure_steps, config, size.rounds, tuple(CASES)),
        )
        found["paper_steps"] = Measurement(
            training_identity(paper) | rounds, 1, partial(measure_steps, paper, size.long_rounds, ("grpo", "fast"))
        )
        found["memory"] = Measurement(
            training_identity(short),
            1,
            lambda: pd.DataFrame([{"case": case, "megabytes": step_memory(short, case)} for case in ("grpo", "tampo")]),
        )
        found["evaluation"] = Measurement(
            evaluation_identity(evaluation, params.model, None) | rounds,
            1,
            partial(measure_evaluation, evaluation, model_folder(params.model), size.long_rounds),
        )
    shape, rounds = asdict(size.head), {"rounds": size.part_rounds}
    found["head"] = Measurement(shape | rounds, cores, partial(measure_head, size.head, size.part_rounds))
    found["head_memory"] = Measurement(shape, cores, lambda: pd.DataFrame([head_memory(size.head)]))
    found["likelihoods"] = Measurement(shape | rounds, cores, partial(measure_likelihoods, size.head, size.part_rounds))
    found["starts"] = Measurement(rounds, 1, partial(measure_starts, size.part_rounds))
    return found


@dataclass(frozen=True)
class Benchmarks:
    """What was measured: a table a benchmark, and the manifest of each by its record's name."""

    tables: dict[str, pd.DataFrame]
    manifests: dict[str, dict[str, Any]]

    @property
    def machine(self) -> str:
        """What it was measured on, in words."""
        return ", and ".join(sorted({manifest["machine"] for manifest in self.manifests.values()}))


def run_benchmarks(
    params: Params, only: Collection[str] = (), again: bool = False, say: Callable[[str], None] = say_now
) -> Benchmarks:
    """Measure what is missing.

    Args:
        params: The scale.
        only: Names of `measurements`; by default all.
        again: Measure anew what is there.
        say: Where lines of progress go.
    """
    disable_progress_bar()  # of every model that is loaded
    store = RunStore.of(params)
    tables, manifests = {}, {}
    for name, measurement in measurements(params).items():
        if only and name not in only:
            continue
        kind = f"bench-{name.replace('_', '-')}"
        if again:
            store.forget(kind, measurement.identity)
        if store.load(kind, measurement.identity) is None:
            say(f"Measuring {name.replace('_', ' ')}.")
        record = store.make(kind, measurement.identity, partial(_keep, measurement))
        tables[name], manifests[record.name] = pd.read_csv(record.folder / "table.csv"), record.manifest
    return Benchmarks(tables, manifests)


def _keep(measurement: Measurement, folder: Path) -> dict[str, Any]:
    table = measurement()
    with atomic_path(folder / "table.csv") as temporary:
        table.to_csv(temporary, index=False)
    return {"machine": machine()}


def machine() -> str:
    """The processors in words: model, cores of this process, and the GPU where there is one."""
    words = f"{_processor()}, {cpu_count()} cores"
    return f"{words}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def step_time(params: Params) -> tuple[Estimate, Benchmarks] | None:
    """TAMPO's step time over that of TRL's GRPO on the same rollouts; None where steps are not measured."""
    found = run_benchmarks(params, only=("steps",))
    return (step_ratio(found.tables["steps"], "tampo"), found) if found.tables else None


def summarise(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What the benchmarks say: ratios of times of one run, with 95 % intervals where there are pairs.

    Args:
        tables: All of `Benchmarks.tables`.

    Returns:
        Columns measured, value, low, high (NaN where nothing was repeated), unit and goal (what was aimed at).
    """
    rows = []
    if "steps" in tables:
        steps, memory = tables["steps"], tables["memory"].set_index("case")["megabytes"]
        rows += [
            _row("step of TAMPO / of TRL's GRPO, the same rollouts", step_ratio(steps, "tampo"), "≤ 1.01"),
            _row("outer loop / rest of that step", outer_loop_ratio(steps, "tampo"), "≤ 0.01"),
            _row("step as tampo trains / of TRL's GRPO", step_ratio(steps, "fast")),
            _row("outer loop / rest of that step", outer_loop_ratio(steps, "fast")),
            _row(
                "step as tampo trains / of TRL's GRPO, 32 × 8 rollouts",
                step_ratio(tables["paper_steps"], "fast"),
                "≤ 0.6",
            ),
            _row("peak memory of TAMPO / of TRL's GRPO", memory["tampo"] / memory["grpo"]),
        ]
    head, peak = tables["head"], tables["head_memory"].iloc[0]
    rows += [
        _row("K likelihoods / LM head forward and backward", ratio(head["likelihoods"], head["head"]), "≤ 0.25"),
        _row("K likelihoods, memory above the LM head's", peak["with likelihoods"] - peak["alone"], "≤ 256", "MB"),
        *_growth(tables["likelihoods"]),
    ]
    if "evaluation" in tables:
        speed = tables["evaluation"].assign(rate=lambda table: table["tokens"] / table["seconds"])
        rates = speed.pivot(index="round", columns="case", values="rate")
        rows += [
            _row("evaluation, tokens a second / of model.generate", ratio(rates["tampo"], rates["generate"]), "> 1"),
            _row("evaluation", float(rates["tampo"].mean()), unit="tokens a second"),
        ]
    for case, seconds in tables["starts"].groupby("case", sort=False)["seconds"]:
        rows.append(_row(str(case), float(seconds.median()), _START_GOALS.get(str(case), ""), "s"))
    return pd.DataFrame(rows)


def _growth(times: pd.DataFrame) -> list[dict[str, Any]]:
    """How the K likelihoods compare with the obvious loop, and grow with tokens and temperatures."""
    seconds = times.pivot(index="round", columns=["case", "tokens", "temperatures"], values="seconds")
    loop, sums = seconds["loop of log_softmax"], seconds["running sums"]
    (tokens, k), *_ = loop.columns
    whole, few = sums[tokens, k], sums[tokens // 4]
    return [
        _row(f"loop of {k} log_softmax / K likelihoods", ratio(loop[tokens, k], whole), "≥ 3"),
        _row("K likelihoods of 8 times the tokens / 8", ratio(whole, 8 * sums[tokens // 8, k]), "about 1"),
        _row(f"likelihoods of {k} temperatures / of 1", ratio(few[k], few[1]), f"< {k}"),
    ]


def _row(measured: str, found: Estimate | float, goal: str = "", unit: str = "") -> dict[str, Any]:
    low, high = (found.low, found.high) if isinstance(found, Estimate) else (float("nan"), float("nan"))
    value = found.value if isinstance(found, Estimate) else found
    return {"measured": measured, "value": value, "low": low, "high": high, "unit": unit, "goal": goal}


def format_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as a reader sees it: columns measured, value (with interval and unit) and goal."""
    values = [_cell(row) for _, row in summary.iterrows()]
    return pd.DataFrame({"measured": summary["measured"], "value": values, "goal": summary["goal"]})


def _cell(row: pd.Series) -> str:
    digits = 0 if abs(row["value"]) >= 100 else 1 if abs(row["value"]) >= 2 else 3
    text = f"{row['value']:.{digits}f}"
    if pd.notna(row["low"]):
        text += f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{text} {row['unit']}".strip()


def write_benchmarks(found: Benchmarks, params: Params, folder: Path) -> list[Path]:
    """Write overhead.csv, overhead.md and overhead.manifest.json into `folder`; returns the paths."""
    summary = summarise(found.tables)
    caption = f"Ratios of times that were taken in turns, 95 % intervals over pairs. Measured on {found.machine}."
    table = format_summary(summary).to_markdown(index=False, disable_numparse=True)
    paths = [folder / name for name in ("overhead.csv", "overhead.md", "overhead.manifest.json")]
    write_text(paths[0], summary.to_csv(index=False, float_format="%.6g"))
    write_text(paths[1], f"{caption}\n\n{table}\n")
    write_manifest(paths[2], params, found.manifests)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tampo.paper.bench", description="Measure what TAMPO costs (section 4.2)."
    )
    parser.add_argument("scale", nargs="?", default="mini", help="a scale's name or a YAML file (default: mini)")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    options = parser.parse_args(arguments)
    try:
        params = load_params(options.scale)
    except ConfigError as error:
        print(f"tampo.paper.bench: {error}", file=sys.stderr)
        return 2
    found = run_benchmarks(params, again=options.again)
    paths = write_benchmarks(found, params, project_root() / "results" / params.scale)
    print(paths[1].read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
