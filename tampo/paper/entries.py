"""What the pages of a reference show: each notebook with its files, its manifest, and the claims that it decides."""

import csv
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tampo.paper.claims import TIME_CLAIM
from tampo.paper.experiments import EXPERIMENTS
from tampo.paper.notebook_page import title_and_intro
from tampo.paper.outputs import DPI, SECTIONS, manifest_name, read_manifests
from tampo.paper.pictures import PICTURES
from tampo.paper.study_tables import with_interval
from tampo.runs.provenance import MANIFEST_ENDING

_INCH = 96  # pixels of a page
# Notebooks that decide claims whose source is neither a table nor a figure.
_DECIDED_BY = {"Section 4.2": ("table1",), "Appendix E": ("fig5", "fig6")}


@dataclass(frozen=True)
class Claim:
    """A row of claims.csv: a claim of the paper, the effect here with its interval, and the verdict."""

    text: str
    source: str
    statistic: str
    paper: str
    here: str
    could_show: str
    verdict: str
    note: str
    decided_by: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file: its path, what it shows, and the size at which its text is as large as the page's, in pixels."""

    path: str
    shows: str
    width: int
    height: int


@dataclass(frozen=True)
class Entry:
    """A notebook of the reference, and the files that it wrote; paths are relative to the folder."""

    name: str
    title: str
    intro: str
    section: str
    files: list[str]
    manifest: dict[str, Any]
    claims: list[Claim]
    tables: list[str]
    pictures: list[Picture]

    @property
    def data(self) -> list[str]:
        """The CSV files."""
        return [path for path in self.files if path.endswith(".csv")]

    @property
    def other_files(self) -> list[str]:
        """The same tables and figures in other formats."""
        return [path for path in self.files if path.endswith((".pdf", ".tex", ".md", ".html"))]

    @property
    def manifest_path(self) -> str:
        return f"{self.section}/{self.name}{MANIFEST_ENDING}"

    @property
    def effort(self) -> str:
        """What its runs took, in words."""
        count = len(self.manifest.get("records", ()))
        if not count:
            return "without stored runs"
        return f"from {count} runs and evaluations, which took {duration(self.manifest['seconds'])}"


def read_entries(folder: Path) -> list[Entry]:
    """The notebooks of a reference, by section, in the order of the registry."""
    manifests, claims, entries = read_manifests(folder), read_claims(folder), []
    for section in SECTIONS:
        for name in (name for name, experiment in EXPERIMENTS.items() if experiment.section == section):
            notebook = folder / "notebooks" / f"{name}.ipynb"
            if not notebook.is_file():
                continue
            manifest = f"{name}{MANIFEST_ENDING}"
            paths = sorted(path for path in (folder / section).glob(f"{name}*") if manifest_name(path.name) == manifest)
            title, intro = title_and_intro(notebook)
            entries.append(
                Entry(
                    name,
                    title,
                    intro,
                    section,
                    [f"{section}/{path.name}" for path in paths if path.name != manifest],
                    manifests.get(name, {}),
                    [claim for claim in claims if name in claim.decided_by],
                    # Some tables are there as Markdown alone.
                    unique(path.stem for path in paths if path.suffix in (".html", ".md")),
                    [_picture(path, f"{title}. {intro}") for path in paths if path.suffix == ".png"],
                )
            )
    return entries


def _picture(path: Path, otherwise: str) -> Picture:
    with open(path, "rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])  # where every PNG has them
    shows = PICTURES.get(path.stem, otherwise)
    return Picture(f"{path.parent.name}/{path.name}", shows, width * _INCH // DPI, height * _INCH // DPI)


def read_claims(folder: Path) -> list[Claim]:
    """The rows of tables/claims.csv; [] without one."""
    path = folder / "tables" / "claims.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [_claim(row) for row in csv.DictReader(file)]


def _claim(row: Mapping[str, str]) -> Claim:
    value, low, high = (float(row[column] or "nan") for column in ("value", "low", "high"))
    shown = with_interval(value, low, high, digits=2).replace("-", "−")
    number = re.match(r"(Table|Figure) (\d+)", row["source"])
    if row["claim"] == TIME_CLAIM:
        owners: tuple[str, ...] = ("overhead",)
    elif number:
        owners = (f"{'table' if number[1] == 'Table' else 'fig'}{number[2]}",)
    else:
        owners = _DECIDED_BY.get(row["source"], ())
    could_show = {"yes": "this scale could have shown it", "no": "this scale could not have shown it"}
    words = (row["claim"], row["source"], row["statistic"], row["paper"], shown, could_show.get(row["could_show"], ""))
    return Claim(*words, row["verdict"], row["note"], owners)


def unique(names: Iterable[str]) -> list[str]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(names))


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(40), duration(1500), duration(7920)
        ('40 seconds', '25 minutes', '2.2 hours')
    """
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
