"""The training runs of a store, finished or running: parameters, log, and the rollouts of one step.

`tampo.runs.store` answers for what a record holds; here a training run is shown as far as it got, also while another
process is at it, and after it was interrupted. What else lies in the folder, and what cannot be read, is passed over.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow

from tampo.paper.experiments import CONTROLLER_TITLES, controller_title
from tampo.runs.store import LIVE_LOG, MANIFEST, PARAMETERS, read_json

_NAME = re.compile(r"training-[0-9a-f]{16}")
_PROBABILITY = re.compile(r"\w+/p\(([0-9.e+-]+)\)")  # of TAMPO, and of a bandit that draws
_ROLLOUT_COLUMNS = {"prompt", "completion", "problem_id", "advantage"}  # no view does without
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException)

# Parameters that a label names where a training run differs in them from most of its store.
_NAMED = {
    "model": "model {}",
    "alpha": "α = {}",
    "top_p": "p = {}",
    "likelihood": "{} of log-likelihoods",
    "max_steps": "{} steps",
    "learning_rate": "learning rate {}",
    "beta": "beta {}",
}


class NoRollouts(Exception):
    """The rollouts of a step cannot be shown; the message has the reason and the way out."""


@dataclass(frozen=True)
class History:
    """One training run.

    Attributes:
        folder: Where it is stored, training-<hash>.
        manifest: Of the finished record; None while it is under way, and after an interruption.
        identity: Its parameters (without those its controller does not read); empty where they are not known.
        label: What it is called, different for each training run of a store.
    """

    folder: Path
    manifest: dict[str, Any] | None
    identity: dict[str, Any] = field(repr=False)
    label: str

    @property
    def name(self) -> str:
        return self.folder.name

    def metrics(self) -> pd.DataFrame:
        """The log so far, one row a step in order, numbers only; no rows where there is nothing to read."""
        try:
            path = self.folder / "metrics.csv"
            log = pd.read_csv(path) if path.is_file() else _live_log(self.folder / LIVE_LOG)
            log = log.apply(pd.to_numeric, errors="coerce").dropna(subset=["step"]).astype({"step": int})
        except _UNREADABLE:
            return pd.DataFrame({"step": pd.Series(dtype=int)})
        # A step that was repeated after an interruption occurs twice.
        log = log[log["step"] > 0].drop_duplicates("step", keep="last")
        return log.sort_values("step", ignore_index=True)

    def rollouts(self, step: int) -> pd.DataFrame:
        """The rollouts of one step (from 1), as `tampo.runs.store.Record.rollouts`, also of a training under way.

        Raises:
            NoRollouts: They were not kept, are not written yet, or cannot be read.
        """
        whole, place = self.folder / "rollouts.parquet", os.path.relpath(self.folder)
        single = self.folder / "checkpoints" / "completions" / f"completions_{step:05d}.parquet"
        if self.manifest is not None and not whole.is_file():
            raise NoRollouts(
                "This training was made by an earlier version, which did not keep rollouts. To have them, remove the "
                f"folder {place} and run this notebook again: it trains the same once more."
            )
        if not whole.is_file() and not single.is_file():
            raise NoRollouts(f"The rollouts of step {step} are not there, or not yet.")
        try:
            if whole.is_file():
                table = pd.read_parquet(whole, filters=[("step", "==", step)])
            else:
                table = pd.read_parquet(single)
        except _UNREADABLE as error:
            raise NoRollouts(
                f"The rollouts of step {step} in {place} cannot be read: they are being written, or damaged."
            ) from error
        if table.empty or not _ROLLOUT_COLUMNS.issubset(table.columns):
            raise NoRollouts(f"There are no rollouts of step {step} in {place}.")
        return table.reset_index(drop=True)

    def candidates(self) -> list[float]:
        """The candidate temperatures T_1 ... T_K; empty where they are not known."""
        known = self.identity.get("temperature_candidates")
        return [float(t) for t in known] if known else list(meta_policy_probabilities(self.metrics()).index)


@dataclass(frozen=True)
class Snapshot:
    """One training at one step.

    Attributes:
        label: Of the training.
        step: From 1.
        temperature: The one that the step sampled at; None where it is not known.
        candidates: T_1 ... T_K; empty where they are not known.
        rollouts: Of all problems of the step; no rows where there are none.
        note: Why there are no rollouts, in a sentence; empty where there are.
    """

    label: str
    step: int
    temperature: float | None
    candidates: list[float]
    rollouts: pd.DataFrame
    note: str = ""

    def group(self, problem: str | None) -> pd.DataFrame:
        """The rollouts of one problem, numbered from 1 in the order of generation (index); may have no rows."""
        if self.rollouts.empty:
            return self.rollouts
        own = self.rollouts[self.rollouts["problem_id"].astype(str) == problem].reset_index(drop=True)
        return own.set_axis(own.index + 1)


def read_step(history: History, step: int) -> Snapshot:
    """A training run at one step (from 1). The snapshot's note names what is missing."""
    metrics = history.metrics()
    drawn = metrics.loc[metrics["step"] == step, "temperature"] if "temperature" in metrics else pd.Series(dtype=float)
    temperature = float(drawn.iloc[0]) if len(drawn) and pd.notna(drawn.iloc[0]) else None
    try:
        rollouts, note = history.rollouts(step), ""
    except NoRollouts as error:
        rollouts, note = pd.DataFrame(), str(error)
    return Snapshot(history.label, step, temperature, history.candidates(), rollouts, note)


def meta_policy_probabilities(metrics: pd.DataFrame) -> pd.DataFrame:
    """The meta-policy of each step of a log, after the step's update: the next step draws from it. EXP3 has one, too.

    Returns:
        Probabilities, a row for each candidate temperature (K, in order), a column for each step (N); no rows for a
        training without a meta-policy.
    """
    columns = {float(match[1]): name for name in metrics if (match := _PROBABILITY.fullmatch(str(name)))}
    table = metrics.set_index("step")[[columns[t] for t in sorted(columns)]].T
    return table.set_axis(pd.Index(sorted(columns), name="temperature", dtype=float))


def find_histories(root: Path) -> list[History]:
    """The training runs in a folder of records that have finished a step; running ones first, then those of Table 1."""
    found = []
    for folder in sorted(Path(root).glob("training-*")):
        if not _NAME.fullmatch(folder.name):
            continue  # a lock, a damaged record that was set aside, something foreign
        manifest = read_json(folder / MANIFEST)
        identity = manifest.get("identity") or read_json(folder / PARAMETERS)
        history = History(folder, manifest or None, identity if isinstance(identity, dict) else {}, folder.name)
        if len(history.metrics()):
            found.append(history)
    labelled = [replace(h, label=label) for h, label in zip(found, _labels(found), strict=True)]
    return sorted(labelled, key=_order)


def _order(history: History) -> tuple[Any, ...]:
    """Running ones, then those with the usual parameters; of each the first seed first, by controller."""
    name, seed = history.identity.get("temperature_controller"), history.identity.get("seed")
    known = [*CONTROLLER_TITLES]
    rank = known.index(name) if name in known else len(known)
    seed = seed if isinstance(seed, int) else -1
    return history.manifest is not None, history.label.count(","), seed, rank, history.label


def _labels(histories: Sequence[History]) -> list[str]:
    parameters = [_parameters(history.identity) for history in histories]
    usual = {name: _commonest([own[name] for own in parameters if name in own]) for name in _NAMED}
    labels = []
    for history, own in zip(histories, parameters, strict=True):
        parts = [_title(history.identity) if own else history.name]
        parts += [
            words.format(own[name]) for name, words in _NAMED.items() if own.get(name, usual[name]) != usual[name]
        ]
        parts += [f"seed {own['seed']}"] if "seed" in own else []
        if history.manifest is None:
            total = f" of {own['max_steps']}" if "max_steps" in own else ""
            parts.append(f"at step {history.metrics()['step'].iloc[-1]}{total}")
        labels.append(", ".join(parts))
    several = {label for label, number in Counter(labels).items() if number > 1}
    return [
        f"{label} (training-…{h.name[-4:]})" if label in several else label
        for h, label in zip(histories, labels, strict=True)
    ]


def _parameters(identity: dict[str, Any]) -> dict[str, Any]:
    """All parameters in one mapping, those of the controller included."""
    controller = identity.get("temperature_controller_kwargs")
    return identity | (controller if isinstance(controller, dict) else {})


def _title(identity: dict[str, Any]) -> str:
    name = str(identity.get("temperature_controller", "unknown controller"))
    return controller_title(name, _parameters(identity))


def _commonest(values: list[Any]) -> Any:
    counts = Counter(json.dumps(value) for value in values)
    return json.loads(counts.most_common(1)[0][0]) if counts else None


def _live_log(path: Path) -> pd.DataFrame:
    """The rows of a log that another process may be writing: a line that is not whole does not count yet."""
    rows = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return pd.DataFrame(rows)
