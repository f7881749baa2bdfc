"""The pages that show a reference: index.html, its notebooks as HTML, and README.md, a shorter view for GitHub.

They need no server and load nothing from elsewhere. All text from files is escaped, and of tables nothing but their
structure is kept.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mistune
from markupsafe import Markup

from tampo.files import write_text
from tampo.paper.claims import CANNOT_TELL, FAILS, HOLDS, NOT_TESTABLE
from tampo.paper.entries import Claim, Entry, read_claims, read_entries, unique
from tampo.paper.notebook_page import TEMPLATES, clean_table, notebook_page, relink
from tampo.paper.outputs import ARCHIVE, SECTIONS
from tampo.runs.hardware import describe

_TITLES = {"tables": "Tables", "figures": "Figures", "studies": "Studies"}


def write_pages(folder: Path, about: Mapping[str, Any]) -> None:
    """Write README.md, index.html and notebooks/*.html into the folder of a reference; `relink` its notebooks.

    Args:
        folder: Has all else.
        about: Of reference.json.
    """
    entries = read_entries(folder)
    write_text(folder / "README.md", readme(folder, about, entries))
    write_text(folder / "index.html", index_page(folder, about, entries))
    for entry in entries:
        path = folder / "notebooks" / f"{entry.name}.ipynb"
        relink(path)
        write_text(path.with_suffix(".html"), notebook_page(path))


def index_page(folder: Path, about: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """index.html: all tables and figures, the claims that each decides, and where each comes from."""
    return TEMPLATES.get_template("index.html.jinja").render(
        about=about,
        sections=[(_TITLES[name], [e for e in entries if e.section == name]) for name in SECTIONS],
        verdicts=_verdicts(read_claims(folder)),
        machine=" and ".join(_machines(about, entries)),
        tables={entry.name: [safe_table(folder, entry, stem) for stem in entry.tables] for entry in entries},
        archive=ARCHIVE,
    )


def safe_table(folder: Path, entry: Entry, stem: str) -> Markup:
    """A table as HTML, safe to put into a page."""
    path = folder / entry.section / f"{stem}.html"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        source = path.with_suffix(".md").read_text(encoding="utf-8")
        text = str(mistune.create_markdown(escape=False, plugins=["table"])(source))
    return Markup(clean_table(text))


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
        texts = (folder / entry.section / f"{stem}.md" for stem in entry.tables)
        for path in filter(Path.is_file, texts):
            # Without the spaces that align columns, which nobody sees there.
            table = re.sub(r"-{4,}", "---", path.read_text(encoding="utf-8"))
            lines += ["", re.sub(r" {2,}", " ", table).strip()]
        for picture in entry.pictures:
            lines += ["", f"![{_escaped(picture.shows)}]({picture.path})"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
