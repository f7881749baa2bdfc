"""The pages that show a reference: index.html, its notebooks as HTML, and README.md, a shorter view for GitHub.

They need no server and load nothing from elsewhere. All text from files is escaped, and of tables nothing but their
structure is kept.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mistune
from markupsafe import Markup

from tampo.files import write_text
from tampo.paper.claims import CANNOT_TELL, FAILS, HOLDS, NOT_TESTABLE, TIME_CLAIM
from tampo.paper.experiments import EXPERIMENTS
from tampo.paper.notebook_page import TEMPLATES, clean_table, notebook_page, title_and_intro
from tampo.paper.outputs import ARCHIVE, SECTIONS, manifest_name, read_manifests
from tampo.paper.pictures import PICTURES
from tampo.paper.study_tables import with_interval
from tampo.runs.hardware import describe
from tampo.runs.provenance import MANIFEST_ENDING

_TITLES = {"tables": "Tables", "figures": "Figures", "studies": "Studies"}
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

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """Path and description of each picture."""
        names = [path for path in self.files if path.endswith(".png")]
        return [(path, PICTURES.get(Path(path).stem, f"{self.title}. {self.intro}")) for path in names]

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
        return f"{count} runs and evaluations, {duration(self.manifest['seconds'])}" if count else "no stored runs"


def write_pages(folder: Path, about: Mapping[str, Any]) -> None:
    """Write README.md, index.html and notebooks/*.html into the folder of a reference.

    Args:
        folder: Has all else.
        about: Of reference.json.
    """
    entries = read_entries(folder)
    write_text(folder / "README.md", readme(folder, about, entries))
    write_text(folder / "index.html", index_page(folder, about, entries))
    for entry in entries:
        path = folder / "notebooks" / f"{entry.name}.ipynb"
        write_text(path.with_suffix(".html"), notebook_page(path))


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
            entries.append(
                Entry(
                    name,
                    *title_and_intro(notebook),
                    section,
                    [f"{section}/{path.name}" for path in paths if path.name != manifest],
                    manifests.get(name, {}),
                    [claim for claim in claims if name in claim.decided_by],
                    # Some tables are there as Markdown alone.
                    [path.stem for path in paths if path.suffix in (".html", ".md")],
                )
            )
    return entries


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


def index_page(folder: Path, about: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """index.html: all tables and figures, the claims that each decides, and where each comes from."""
    return TEMPLATES.get_template("index.html.jinja").render(
        about=about,
        sections=[(_TITLES[name], [e for e in entries if e.section == name]) for name in SECTIONS],
        verdicts=_verdicts(read_claims(folder)),
        machine=" and ".join(_machines(about, entries)),
        tables={entry.name: [safe_table(folder, entry, stem) for stem in unique(entry.tables)] for entry in entries},
        archive=ARCHIVE,
    )


def unique(names: Iterable[str]) -> list[str]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(names))


def safe_table(folder: Path, entry: Entry, stem: str) -> Markup:
    """A table as HTML, safe to put into a page."""
    path = folder / entry.section / f"{stem}.html"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        source = path.with_suffix(".md").read_text(encoding="utf-8")
        text = str(mistune.create_markdown(escape=False, plugins=["table"])(source))
    return Markup(clean_table(text))


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(40), duration(1500), duration(7920)
        ('40 seconds', '25 minutes', '2.2 hours')
    """
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def _verdicts(claims: Iterable[Claim]) -> list[tuple[str, int]]:
    counts = Counter(claim.verdict for claim in claims)
    return [(verdict, counts[verdict]) for verdict in (HOLDS, FAILS, CANNOT_TELL, NOT_TESTABLE) if counts[verdict]]


def _machines(about: Mapping[str, Any], entries: Iterable[Entry]) -> list[str]:
    """The machines that made the records, or the one that wrote the reference if there are none."""
    records = [record for entry in entries for record in entry.manifest.get("records", {}).values()]
    machines = [record["machine"] for record in records if record.get("machine")] or [about["machine"]]
    return unique(map(describe, machines))


def readme(folder: Path, about: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """README.md: the tables and figures as GitHub shows them; index.html has the rest."""
    scale = about["scale"]
    lines = [
        f"# Results at the scale {scale}",
        "",
        "Open [index.html](index.html) in a browser for the whole page: the claims, where each result comes from, and "
        "the notebooks. This is a shorter view of it.",
        "",
        f"Training seeds {', '.join(map(str, about['seeds']))}; {about['records']} runs and evaluations, all of commit "
        f"`{about['records_commit'][:8]}`, {about['hours']:.1f} hours of one core in all, on "
        f"{' and '.join(_machines(about, entries))}. Written by `tampo reproduce {scale} --reference`; not edited. "
        f"`tampo verify {scale}` compares yours with these, and `tampo reproduce {scale} --from-reference` makes them "
        f"again from [{ARCHIVE}]({ARCHIVE}), without training.",
    ]
    section = ""
    for entry in entries:
        lines += ["", f"## {_TITLES[entry.section]}"] if entry.section != section else []
        section = entry.section
        lines += ["", f"### {_escaped(entry.title)}", "", f"[notebook](notebooks/{entry.name}.ipynb)"]
        links = [entry.manifest_path] * bool(entry.manifest) + entry.data
        lines[-1] += "".join(f", [{Path(path).name.removeprefix(entry.name + '.')}]({path})" for path in links)
        lines += [""] * bool(entry.claims)
        for claim in entry.claims:
            lines.append(f"- {_escaped(claim.text)} ({_escaped(claim.source)}): **{claim.verdict}**, {claim.here}")
        for path in (folder / f"{entry.section}/{stem}.md" for stem in unique(entry.tables)):
            # Without the spaces that align columns, which nobody sees there.
            table = re.sub(r"-{4,}", "---", path.read_text(encoding="utf-8"))
            lines += ["", re.sub(r" {2,}", " ", table).strip()]
        for picture, shows in entry.pictures:
            lines += ["", f"![{_escaped(shows)}]({picture})"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
