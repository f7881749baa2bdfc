"""An executed notebook as one HTML file, without scripts or anything from elsewhere, and its title and first words."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bleach
import nbformat
from bleach.css_sanitizer import ALLOWED_CSS_PROPERTIES, CSSSanitizer
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbformat import NotebookNode

from tampo.files import write_text

TEMPLATES = Environment(
    loader=PackageLoader("tampo.paper"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
# From results/reference/<scale>/notebooks to the top of the project, where a notebook's own "../" leads.
_TOP = "../../../.."
# What may be in text of notebooks, and in tables: nothing that acts.
TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p", "b", "strong", "u", "em", "small", "sub", "br", "code"}
_TAGS = TABLE_TAGS | {
    "h1",
    "h2",
    "h3",
    "h4",
    "a",
    "ul",
    "ol",
    "li",
    "div",
    "span",
    "pre",
    "sup",
    "blockquote",
    "hr",
    "i",
}
_SPANS = ["colspan", "rowspan"]
_LAYOUT = {"background", "border-left", "margin", "min-width", "overflow-wrap", "overflow-x", "padding", "table-layout"}
_STYLES = CSSSanitizer(allowed_css_properties=ALLOWED_CSS_PROPERTIES | _LAYOUT | {"word-break"})
# Progress bars and scripts: a page without scripts cannot show them.
_LIVE = ("application/vnd.jupyter.widget-view+json", "application/javascript")


def title_and_intro(path: Path) -> tuple[str, str]:
    """The first heading of a notebook and the paragraph below it, as plain text."""
    cells = nbformat.read(path, as_version=4).cells
    text = next((cell.source for cell in cells if cell.cell_type == "markdown"), "")
    heading, _, rest = text.partition("\n")
    paragraph = _plain(rest.strip().partition("\n\n")[0])
    # What announces a list makes no sense without it.
    return _plain(heading.lstrip("# ")) or path.stem, re.sub(r" [^.?!]*:$", "", paragraph)


def _plain(markdown: str) -> str:
    without_links = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown)
    without_emphasis = re.sub(r"(?<!\w)(\*\*?)(?=\S)([^*]+)\1", r"\2", without_links)  # the star of T* stays
    return re.sub(r"\s+", " ", without_emphasis.replace("`", "")).strip()


def relink(path: Path) -> None:
    """Rewrite the links of an executed notebook, which led from notebooks/, so that they lead from where it now is."""
    notebook = nbformat.read(path, as_version=4)
    _change_links(notebook, lambda link: _target(link, path))
    write_text(path, nbformat.writes(notebook))


def notebook_page(path: Path) -> str:
    """The executed notebook `path`, of a reference's folder notebooks/, as HTML with its pictures inside.

    Its links lead from there already (`relink`).
    """
    from nbconvert import HTMLExporter  # takes seconds, which commands that write no page need not wait for

    notebook = nbformat.read(path, as_version=4)
    title, _ = title_and_intro(path)
    notebook.metadata.pop("widgets", None)
    _change_links(notebook, lambda link: re.sub(r"^([^/]+)\.ipynb$", r"\1.html", link))  # a page beside this one
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not set(_LIVE) & set(output.get("data", ()))]
            for output in cell.outputs:
                if "image/png" in output.get("data", ()):
                    output.metadata["image/png"] = {"alt": f"A figure of the notebook “{title}”"}
    settings: dict[str, Any] = {"exclude_input_prompt": True, "exclude_output_prompt": True, "sanitize_html": True}
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, **settings)
    exporter.register_filter("clean_html", _clean)  # its own makes text of headings and paragraphs
    body, _ = exporter.from_notebook_node(notebook)
    return TEMPLATES.get_template("notebook.html.jinja").render(title=title, body=body, file=path.name)


def clean_table(html: str) -> str:
    """A table of which only the structure and the text are kept."""
    return bleach.clean(_without_style_sheets(html), TABLE_TAGS, {"th": _SPANS, "td": _SPANS}, strip=True)


def _clean(html: str) -> str:
    attributes = {"*": ["class", "style"], "a": ["href"], "th": _SPANS, "td": _SPANS}
    return bleach.clean(_without_style_sheets(html), _TAGS, attributes, css_sanitizer=_STYLES, strip=True)


def _without_style_sheets(html: str) -> str:
    return re.sub(r"(?s)<style.*?</style>", "", html)


def _change_links(notebook: NotebookNode, change: Callable[[str], str]) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([^):#]+)\)", lambda link: f"]({change(link[1])})", cell.source)


def _target(link: str, notebook: Path) -> str:
    """Where a link of a notebook in notebooks/ leads from its executed copy in a reference. It can be asked twice."""
    if link.startswith(f"{_TOP}/"):
        return link
    if link.startswith("../"):
        return _TOP + link.removeprefix("..")
    return link if (notebook.parent / link).is_file() else f"{_TOP}/notebooks/{link}"
