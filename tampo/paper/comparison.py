"""Two folders of results compared: in each table row by row, from equal bits to different.

Rows with an interval (an estimate in a score table, a claim) are judged by it where they are not equal. A curve has no
interval: where it has several training seeds, its means over the steps are compared with the spread over seeds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tampo.files import sha256
from tampo.paper.claims import TIME_CLAIM
from tampo.paper.experiments import EXPERIMENTS
from tampo.runs.provenance import MANIFEST_ENDING, params_hash
from tampo.runs.store import TIMES


class Status(StrEnum):
    """How a row compares with the reference's; from best to worst."""

    EQUAL = "equal to the bit"
    ROUNDED = "equal within rounding"
    INSIDE = "inside the interval"
    TIME = "another time"
    MISSING = "not run"
    DIFFERENT = "different"


_ORDER = list(Status)
_LABELS = ("title", "claim", "measured", "rival", "benchmark", "metric", "eval_temperature", "seed", "step")
_NOT_COMPARED = ("note", "p", "p_holm")  # of a row with an interval that is not equal


@dataclass(frozen=True)
class Item:
    """A row of a table, or a file: its status, and what both folders have where they differ."""

    notebook: str
    file: str
    row: str
    status: Status
    here: str = ""
    reference: str = ""


@dataclass
class Comparison:
    """All items, whether each run in common is equal to the bit, and remarks."""

    items: list[Item] = field(default_factory=list)
    records: dict[str, bool] = field(default_factory=dict)  # of runs in common, by name
    notes: list[str] = field(default_factory=list)

    @property
    def different(self) -> list[Item]:
        """The items that differ."""
        return [item for item in self.items if item.status is Status.DIFFERENT]

    @property
    def compared(self) -> list[Item]:
        """The items that were there to compare."""
        return [item for item in self.items if item.status is not Status.MISSING]

    def summary(self) -> pd.DataFrame:
        """One row per notebook: the number of rows by status."""
        rows: dict[str, dict[str, int]] = {}
        for item in self.items:
            counts = rows.setdefault(item.notebook, dict.fromkeys(_ORDER, 0))
            counts[item.status] += 1
        table = pd.DataFrame.from_dict(rows, orient="index", columns=_ORDER)
        return table.loc[:, (table != 0).any()].rename_axis("rows of").reset_index()

    def sentences(self) -> list[str]:
        """For each table of scores: how many of its rows (methods) are as in the reference, and how exactly."""
        found = []
        for notebook in dict.fromkeys(item.notebook for item in self.compared):
            rows: dict[str, Status] = {}
            for item in self.compared:
                if item.file == f"tables/{notebook}.csv" and item.notebook == notebook and item.row:
                    title = item.row.partition(", ")[0]
                    rows[title] = worst(rows.get(title, Status.EQUAL), item.status)
            same = [status for status in rows.values() if status is not Status.DIFFERENT]
            if rows:
                how = f", {worst(*same)}" if same else ""
                found.append(f"{notebook}: {len(same)} of {len(rows)} rows as in the reference{how}")
        return found


def worst(*statuses: Status) -> Status:
    """The last of them in the order of `Status`."""
    return max(statuses, key=_ORDER.index)


def compare_notebook(notebook: str, here: Path, there: Path, intervals: Path | None = None) -> Iterator[Item]:
    """Compare all CSV files that a notebook wrote.

    Args:
        notebook: Key of `EXPERIMENTS`.
        here: A folder of results.
        there: The one to compare with.
        intervals: The folder whose intervals decide; by default `there`. It matters where `there` was made of fewer
            training seeds.
    """
    experiment = EXPERIMENTS[notebook]
    for path in sorted((there / experiment.section).glob(f"{notebook}[._]*csv")):
        file = f"{experiment.section}/{path.name}"
        if experiment.alone and path.stem != notebook:
            continue  # raw times
        if not (here / file).is_file():
            yield Item(notebook, file, "", Status.DIFFERENT, "missing", "a file")
            continue
        try:
            one, other = _read(here / file), _read(path)
        except ValueError as error:  # what pandas raises for text that is no table, or no UTF-8
            yield Item(notebook, file, "", Status.DIFFERENT, f"unreadable, {error}", "a table")
            continue
        bounds = _read(intervals / file) if intervals and (intervals / file).is_file() else other
        timed = (lambda row: True) if experiment.alone else (lambda row: row.startswith(TIME_CLAIM))
        for item in compare_tables(notebook, file, one, other, bounds):
            late = item.status is Status.DIFFERENT and item.row and timed(item.row)
            yield Item(notebook, file, item.row, Status.TIME, item.here, item.reference) if late else item


def compare_tables(
    notebook: str, file: str, here: pd.DataFrame, there: pd.DataFrame, bounds: pd.DataFrame
) -> Iterator[Item]:
    """Compare two tables of text cells, row by row.

    Args:
        notebook, file: For the items.
        here, there: The tables.
        bounds: Has the intervals, for the rows with the same texts.
    """
    if list(here.columns) != list(there.columns) or len(here) != len(there):
        shapes = [f"{len(table)} rows of {', '.join(table.columns)}" for table in (here, there)]
        yield Item(notebook, file, "", Status.DIFFERENT, *shapes)
        return
    value = next((name for name in ("value", "difference") if {name, "low", "high"} <= set(there.columns)), None)
    known = {_texts(row): row for _, row in bounds.iterrows()} if value else {}
    near = frozenset() if value else _near_curves(here, there)
    for (_, one), (_, other) in zip(here.iterrows(), there.iterrows(), strict=True):
        status, column = _compare_rows(one, other)
        if status is Status.DIFFERENT and value and _same_but_for_numbers(one, other):
            bound = known.get(_texts(other), other)
            # The other way round only if this row's own value and interval belong together.
            if _within(one[value], bound) or (_within(bound[value], one) and _within(one[value], one)):
                status = Status.INSIDE
        elif status is Status.DIFFERENT and _texts(one) in near and _texts(one) == _texts(other):
            status = Status.INSIDE
        shown = value or column
        label = ", ".join(one[name] for name in _LABELS if name in one.index and one[name]) or str(one.iloc[0])
        if not value and column:
            label += f", {column}"
        same = status is Status.EQUAL
        yield Item(notebook, file, label, status, "" if same else one[shown], "" if same else other[shown])


def check_files(notebook: str, folder: Path, manifest: dict[str, Any], where: str) -> Iterator[Item]:
    """The items of files that do not match their manifest, and of a manifest that does not match itself."""
    section = EXPERIMENTS[notebook].section
    file = f"{section}/{notebook}{MANIFEST_ENDING}"
    try:
        whole = params_hash(manifest["params"]) == manifest["params_hash"]
        outputs, _ = dict(manifest["outputs"]), [*manifest["params"]["seeds"]]
        _ = [dict(record["files"]) for record in dict(manifest["records"]).values()]
    except (AttributeError, KeyError, TypeError, ValueError):
        yield Item(notebook, file, "", Status.DIFFERENT, f"damaged {where}", "")
        return
    if not whole:
        yield Item(notebook, file, "", Status.DIFFERENT, f"parameters changed {where} after it was written", "")
    for name, digest in outputs.items():
        path = folder / section / name
        if not path.is_file() or sha256(path) != digest:
            what = "changed" if path.is_file() else "removed"
            yield Item(notebook, f"{section}/{name}", "", Status.DIFFERENT, f"{what} {where} after it was made", "")


def equal_records(here: dict[str, Any], there: dict[str, Any]) -> dict[str, bool]:
    """Whether each record that two manifests share is equal to the bit, by name.

    Times, and a model's card, which names the commit, are not compared.
    """
    shared = [name for name in here if name in there and not name.startswith("bench-")]
    return {name: _bits(here[name]) == _bits(there[name]) for name in shared}


def _bits(record: dict[str, Any]) -> dict[str, str]:
    return {name: digest for name, digest in record["files"].items() if not name.endswith((TIMES, "README.md"))}


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


_MOST_DIGITS = 1000  # beyond that, it is compared as text


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < _MOST_DIGITS else None


def _compare_rows(one: pd.Series, other: pd.Series) -> tuple[Status, str]:
    """The worst status of a row's cells, and the column of that cell."""
    found, where = Status.EQUAL, ""
    for column in one.index:
        status = _compare_cells(one[column], other[column])
        if worst(found, status) is not found:
            found, where = status, column
    return found, where


def _compare_cells(one: str, other: str) -> Status:
    if one == other:
        return Status.EQUAL
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return Status.DIFFERENT
    # Cells are written with four decimals, or with six digits.
    places = [-int(number.as_tuple().exponent) for number in (first, second)]
    unit = 1.01e-4 if max(places) == 4 else 0.0
    return Status.ROUNDED if abs(first - second) <= max(unit, 1.01e-5 * float(abs(second))) else Status.DIFFERENT


def _texts(row: pd.Series) -> tuple[str, ...]:
    """The cells that are no numbers, which name the row."""
    return tuple(cell for name, cell in row.items() if name not in (*_NOT_COMPARED, "seeds") and _number(cell) is None)


def _same_but_for_numbers(one: pd.Series, other: pd.Series) -> bool:
    return all(
        one[name] == other[name] or (_number(one[name]) is not None and _number(other[name]) is not None)
        for name in one.index
        if name not in _NOT_COMPARED
    )


def _within(value: str, row: pd.Series) -> bool:
    numbers = [_number(text) for text in (row["low"], value, row["high"])]
    return None not in numbers and numbers[0] <= numbers[1] <= numbers[2]  # type: ignore[operator]


def _near_curves(here: pd.DataFrame, there: pd.DataFrame) -> frozenset[tuple[str, ...]]:
    """The texts of curves whose means over the steps are, for every seed, within the spread over the other's seeds.

    The spread is the 95 % prediction interval of one more seed (t distribution).
    """
    seeds = there["seed"].nunique() if "seed" in there else 0
    if seeds < 3:
        return frozenset()
    names = [
        name for name in there.columns if name not in ("seed", "step") and _number(there[name].iloc[0]) is not None
    ]
    means = [_curve_means(table, names) for table in (here, there)]
    from scipy.stats import t as student  # takes half a second to import

    factor = student.ppf(0.975, seeds - 1) * math.sqrt(1 + 1 / seeds)
    near = set()
    for texts, theirs in means[1].items():
        ours = means[0].get(texts)
        if ours is None:
            continue
        reach = factor * theirs.std(axis=0, ddof=1) + 1e-9
        if np.all(np.abs(ours - theirs.mean(axis=0)) <= reach):
            near.add(texts)
    return frozenset(near)


def _curve_means(table: pd.DataFrame, names: list[str]) -> dict[tuple[str, ...], np.ndarray]:
    """Means over steps, (seeds, columns), by the texts of a curve."""
    texts = table.apply(_texts, axis=1)
    numbers = table[names].apply(pd.to_numeric, errors="coerce").assign(seed=table["seed"])
    return {key: group.groupby("seed").mean().to_numpy() for key, group in numbers.groupby(texts)}
