"""All tables and figures at once: every run that any notebook needs, side by side, then the notebooks.

The runs come first because a notebook by itself makes its own ones only, and would leave cores idle at its end. A
notebook that is executed then finds them, and takes seconds.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loky import cpu_count

from tampo.config import ConfigError, Params, load_params
from tampo.paper.experiments import (
    ABLATION_SEEDS,
    CHOICE_PARAMS,
    CONTROLLER_ROWS,
    EVALUATION_TEMPERATURES,
    EXPLORATION,
    LIKELIHOODS,
    RARE_PARAMS,
    TABLE1,
    TABLE2,
    TABLE3,
    TABLE4,
    TABLE5,
    TRAINED,
    Method,
    experiment_jobs,
)
from tampo.project import notebook_folder, project_root
from tampo.runs.jobs import Job, run_jobs, say_now
from tampo.runs.store import RunStore


class NotebookFailed(RuntimeError):
    """A notebook raised an error; the message holds the end of its output."""


@dataclass(frozen=True)
class Part:
    """A notebook, and the runs it needs.

    Attributes:
        notebook: Its name, without ending.
        methods: What it trains and evaluates; none for one that samples by itself, or shows others' runs.
        variants: Parameter file by scale, where it is not that of the scale itself.
        ablation: Whether it uses the first `ABLATION_SEEDS` seeds only.
        temperatures: Evaluation temperatures beside that of the parameters.
        alone: Whether it measures times, so that nothing else should run beside it.
        one_seed: Whether it is a single training, of the first seed.
    """

    notebook: str
    methods: tuple[Method, ...] = ()
    variants: dict[str, str] | None = None
    ablation: bool = False
    temperatures: tuple[float, ...] = ()
    alone: bool = False
    one_seed: bool = False

    def parameters(self, scale: str, seeds: Sequence[int]) -> dict[str, Any]:
        """What the notebook is executed with.

        Raises:
            KeyError: There is no such variant of the scale.
        """
        chosen = list(seeds)[:ABLATION_SEEDS] if self.ablation else list(seeds)
        own = {"seed": chosen[0]} if self.one_seed else {"seeds": chosen}
        return {"params": self.variants[scale] if self.variants else scale} | own

    def jobs(self, params: Params) -> list[Job]:
        """The runs it needs with these parameters."""
        jobs = list(experiment_jobs(params, self.methods).values())
        for temperature in self.temperatures:
            changed = params.model_copy(update={"eval_temperature": temperature})
            jobs += experiment_jobs(changed, self.methods).values()
        return jobs


PARTS = (
    Part("quickstart", one_seed=True),
    Part("table1", TABLE1),
    Part("table2", TABLE2, ablation=True),
    Part("table3", TABLE3, ablation=True),
    Part("table4", TABLE4),
    Part("table5", TABLE5, variants=CHOICE_PARAMS, ablation=True),
    Part("fig2"),
    Part("fig3", TABLE1),
    Part("fig4", TABLE1),
    Part("fig5", TABLE2, ablation=True),
    Part("fig6", TABLE3, ablation=True),
    Part("overhead", alone=True),
    Part("claims"),
    Part("study_likelihood", LIKELIHOODS, ablation=True),
    Part("study_exploration", EXPLORATION, variants=RARE_PARAMS, ablation=True),
    Part("explore", TRAINED),
    Part("controllers", CONTROLLER_ROWS),
    Part("study_evaluation", TABLE1, ablation=True, temperatures=EVALUATION_TEMPERATURES),
)


def reproduce(
    scale: str = "mini",
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    workers: int | None = None,
    say: Callable[[str], None] = say_now,
) -> list[Path]:
    """Make the runs of all notebooks that are missing, then execute the notebooks into results/<scale>/.

    Args:
        scale: A scale's name.
        seeds: Training seeds; by default those of the scale.
        only: Names of notebooks; by default all.
        workers: Runs, and then notebooks, side by side; by default one for each core.
        say: Where lines of progress go.

    Returns:
        The executed notebooks. A notebook that the scale has no parameters for is left out, and named.

    Raises:
        ConfigError: An unknown scale or notebook.
        RunFailed, NotebookFailed: What went wrong; what was done is kept.
    """
    known = [part.notebook for part in PARTS]
    for name in only:
        if name not in known:
            raise ConfigError(f"Unknown notebook {name!r}; known are {', '.join(known)}.")
    params = load_params(scale, {"seeds": seeds, "workers": workers})
    parts = [part for part in PARTS if not only or part.notebook in only]
    for part in [part for part in parts if part.variants and scale not in part.variants]:
        say(f"{part.notebook} is left out: it has no parameters for the scale {scale}.")
        parts.remove(part)
    start = time.monotonic()
    jobs = []
    for part in parts:
        own = part.parameters(scale, params.seeds)
        jobs += part.jobs(load_params(own.pop("params"), own))
    run_jobs(RunStore.of(params), jobs, workers, say)

    def show(part: Part) -> Path:
        return execute(part, params.scale, part.parameters(scale, params.seeds), say)

    made = [show(part) for part in parts if part.alone]
    with ThreadPoolExecutor(params.workers or cpu_count()) as pool:
        made += pool.map(show, [part for part in parts if not part.alone])
    say(f"{len(made)} notebooks in {(time.monotonic() - start) / 60:.1f} min.")
    return made


def execute(part: Part, folder: str, parameters: dict[str, Any], say: Callable[[str], None] = say_now) -> Path:
    """Execute a notebook into results/<folder>/, in a process of its own.

    Raises:
        NotebookFailed: It raised an error.
    """
    root, start = project_root(), time.monotonic()
    source, target = notebook_folder() / f"{part.notebook}.ipynb", Path("results", folder, f"{part.notebook}.ipynb")
    if source.is_relative_to(root):
        source = source.relative_to(root)  # papermill writes it into the notebook: no path of a machine
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    given = [word for name, value in parameters.items() for word in ("-y", f"{name}: {value}")]
    command = [sys.executable, "-m", "papermill", str(source), str(target), *given, "--no-progress-bar"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-30:])
        raise NotebookFailed(f"{source} failed with {parameters}; its output is in {target}:\n{tail}")
    say(f"{target}: {time.monotonic() - start:.0f} s")
    return root / target
