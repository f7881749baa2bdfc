"""What the notebook algorithm shows beside its own lines of numpy: a graded batch, tables, and logged training runs."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tampo.config import Params, load_params
from tampo.meta_policy import MetaPolicy
from tampo.paper.experiments import TABLE4, regime_params
from tampo.paper.outputs import ARCHIVE, reference_folder
from tampo.paper.questions import Questions, suite_questions
from tampo.paper.reproduce import archived_store
from tampo.paper.trajectories import LanguageModel, Trajectory, load_language_model, sample_trajectories
from tampo.runs.identity import training_identity
from tampo.runs.jobs import print_line
from tampo.runs.pipeline import train
from tampo.runs.store import Record, RunStore

PROMPTS = 64  # of the batch: twice those of a training step, because few have mixed outcomes
SHOWN = ("facts", "arithmetic")  # regimes, see `tampo.paper.experiments.REGIMES`
SHORT = 30  # steps of a run that is trained here because none is stored
_TAMPO = TABLE4[0]
_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True)
class Batch:
    """Graded rollouts of some prompts.

    Attributes:
        model: The policy.
        questions: Problems and prompts.
        rollouts: G of each prompt, next to each other.
        rewards: 1 if a rollout is right, else 0, shape (N,).
        group: G.
        temperature: The sampling temperature.
    """

    model: LanguageModel
    questions: Questions
    rollouts: list[Trajectory]
    rewards: NDArray[np.float64]
    group: int
    temperature: float

    @property
    def mixed(self) -> list[int]:
        """The prompts that have right and wrong rollouts."""
        return [int(i) for i in np.flatnonzero(np.ptp(self.rewards.reshape(-1, self.group), axis=1))]

    @property
    def discovery(self) -> slice:
        """The rollouts of the mixed prompt with the fewest right ones; of the first prompt if none is mixed."""
        right = self.rewards.reshape(-1, self.group).sum(axis=1)
        prompt = min(self.mixed, key=lambda i: right[i], default=0)
        return slice(prompt * self.group, (prompt + 1) * self.group)

    def distinct(self) -> list[int]:
        """The rollouts of mixed prompts, without repetitions; those of `discovery` if no prompt is mixed."""
        prompts = self.mixed or [self.discovery.start // self.group]
        rows = [i * self.group + sample for i in prompts for sample in range(self.group)]
        first = {(self.rollouts[row].prompt, self.rollouts[row].tokens): row for row in reversed(rows)}
        return sorted(first.values())

    def table(self, rows: slice) -> pd.DataFrame:
        """Question, completion, tokens and reward of some rollouts."""
        return pd.DataFrame(
            {
                "question": self.questions.problems[rollout.prompt].question,
                "completion": rollout.text.replace("\n", " ⏎ "),
                "tokens": len(rollout.tokens),
                "reward": int(reward),
            }
            for rollout, reward in zip(self.rollouts[rows], self.rewards[rows], strict=True)
        )


def graded_batch(config: Params, seed: int, regime: str = "facts") -> Batch:
    """A batch of a regime's base model at the temperature of the warm-up: up to `PROMPTS` prompts with G rollouts."""
    params = regime_params(config)[regime]
    model = load_language_model(params.model, logit_scale=params.base_logit_scale)
    questions = suite_questions(params.evaluation(), model, min(PROMPTS, 8 * params.prompts_per_step))
    group, temperature = params.num_generations, params.meta_warmup_temperature
    rollouts = sample_trajectories(model, questions.prompts, group, temperature, params.max_completion_length, seed)
    return Batch(model, questions, rollouts, questions.correct(rollouts).astype(float), group, temperature)


class StepTable:
    """A table with a row for each candidate temperature that grows by one step of the method at a time."""

    def __init__(self, candidates: Sequence[float]) -> None:
        self.table = pd.DataFrame(index=pd.Index(list(candidates), name="T"))

    def add(self, step: str, by_hand: ArrayLike, library: ArrayLike) -> pd.DataFrame:
        """The table with two more columns, what was computed by hand and what the library gives, shape (K,) each.

        Raises:
            ValueError: They differ by more than rounding.
        """
        ours, theirs = np.asarray(by_hand, dtype=np.float64), np.asarray(library, dtype=np.float64)
        difference = same(ours, theirs)
        self.table = self.table.assign(**{f"{step} | by hand": ours, f"{step} | library": theirs})
        print(f"{step}: by hand and library differ by at most {difference:.1e}.")
        shown = self.table.apply(_as_text)
        shown.columns = pd.MultiIndex.from_tuples([tuple(str(name).split(" | ")) for name in shown])
        return shown


def _as_text(column: pd.Series) -> pd.Series:
    """Numbers with as many decimals as the largest one needs, and no -0."""
    decimals = 3 if column.abs().max() >= 0.05 else 6
    return column.map(lambda value: f"{round(value, decimals) + 0.0:.{decimals}f}")


def same(by_hand: ArrayLike, library: ArrayLike, tolerance: float = 1e-4) -> float:
    """The largest difference of two arrays. Raises ValueError if it is more than `tolerance`, or shapes differ."""
    ours, theirs = np.asarray(by_hand, dtype=np.float64), np.asarray(library, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"By hand the shape is {ours.shape}, in the library {theirs.shape}.")
    difference = float(np.abs(ours - theirs).max())
    if not difference <= tolerance:
        raise ValueError(f"By hand and library differ by {difference:.3g}.")
    return difference


@dataclass(frozen=True)
class LoggedRun:
    """A training run with TAMPO whose log has the signal of every step.

    Attributes:
        title: Regime and number of steps.
        log: One row per step, as in metrics.csv.
        source: Where the run comes from, in a sentence.
        record: Its name.
        manifest: Of its record.
    """

    title: str
    log: pd.DataFrame
    source: str
    record: str
    manifest: dict[str, Any]


def logged_runs(config: Params, regimes: Sequence[str] = SHOWN, short: int = SHORT) -> dict[str, LoggedRun]:
    """A run of TAMPO in each regime: from the user's store, else from the reference's archive, else a short new one.

    A stored run has the parameters of the scale; its seeds may differ from those of `config`, which are preferred.

    Args:
        config: Of the notebook. Its alpha and p are not used: runs have those of the scale.
        regimes: Their titles.
        short: Steps of a run that has to be trained; at most those of the scale.
    """
    usual = load_params(config.scale)
    regime_configs = regime_params(config.model_copy(update={"alpha": usual.alpha, "p": usual.p}))
    store, archive, found = RunStore.of(config), reference_folder(config.scale), {}
    for regime in regimes:
        params = regime_configs[regime]
        wanted = training_identity(params.training(seed=config.seed, **(_TAMPO.changes or {})))
        run = _stored(store, wanted, regime, "taken from your own runs")
        if run is None and (archive / ARCHIVE).is_file():
            with archived_store(archive, config.scale) as archived:
                run = _stored(archived, wanted, regime, "taken from the reference's archive of runs")
        if run is None:
            steps = min(short, params.max_steps)
            changes = {"seed": config.seed, "max_steps": steps, **(_TAMPO.changes or {})}
            print_line(f"Training {steps} steps of {regime} ...")
            with redirect_stdout(io.StringIO()):  # TRL prints a hundred numbers a step
                record = train(store, params.training(**changes))
            run = _logged(record, regime, "trained here")
        found[regime] = run
    return found


def _stored(store: RunStore, wanted: dict[str, Any], regime: str, source: str) -> LoggedRun | None:
    """The finished run that differs from `wanted` in seeds only, the nearest one first; None if there is none."""

    def task(identity: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in identity.items() if name not in _SEEDS}

    def distance(record: Record) -> tuple[Any, ...]:
        identity = record.manifest["identity"]
        return *(identity[name] != wanted[name] for name in _SEEDS), *(identity[name] for name in _SEEDS)

    same_task = [
        record
        for record in store.records()
        if record.manifest.get("kind") == "training" and task(record.manifest["identity"]) == task(wanted)
    ]
    for record in sorted(same_task, key=distance):
        whole = store.load("training", record.manifest["identity"])
        if whole is not None and len(quantity(whole.metrics(), "signal").columns):  # older logs have no signal
            return _logged(whole, regime, source)
    return None


def _logged(record: Record, regime: str, source: str) -> LoggedRun:
    log = record.metrics()
    title = f"{regime}, {len(log)} steps"
    return LoggedRun(title, log, f"{title}: {source} ({record.name}).", record.name, record.manifest)


def quantity(log: pd.DataFrame, name: str) -> pd.DataFrame:
    """What a log has of each candidate: "p", "average", "signal" or, after `replay`, "nucleus"; steps x candidates."""
    prefix = f"meta_policy/{name}("
    columns = {float(str(column)[len(prefix) : -1]): column for column in log if str(column).startswith(prefix)}
    table = log[[columns[t] for t in sorted(columns)]]
    return table.set_axis(pd.Index(sorted(columns), dtype=float), axis=1).set_axis(pd.Index(log["step"]), axis=0)


def replay(log: pd.DataFrame, alpha: float, top_p: float) -> pd.DataFrame:
    """Eqs. 11 and 12 and the nucleus, anew from the signals that a run logged.

    The signals stay those of the run. With other parameters it would have drawn other temperatures, and so had others.

    Returns:
        The log with other averages and probabilities p, and the probabilities of the nucleus; K columns of each.
    """
    signals = quantity(log, "signal")
    candidates = [float(t) for t in signals]  # type: ignore[arg-type]
    policy = MetaPolicy(candidates, alpha=alpha, top_p=top_p)
    averages, columns = policy.advantages, dict[str, list[Any]](average=[], p=[], nucleus=[])
    for signal in signals.to_numpy():
        averages = (1 - alpha) * averages + alpha * signal  # Eq. 11
        policy.load_state_dict(policy.state_dict() | {"advantages": averages.tolist()})
        for name, values in zip(columns, (averages, policy.probabilities, policy.sampling_probabilities), strict=True):
            columns[name].append(values)
    new = {
        f"meta_policy/{name}({t:g})": np.array(values)[:, k]
        for name, values in columns.items()
        for k, t in enumerate(candidates)
    }
    return pd.concat([log.drop(columns=[name for name in new if name in log]), pd.DataFrame(new, log.index)], axis=1)
