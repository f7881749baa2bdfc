"""What is on the pages of a reference, read back from their HTML by another parser."""

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from tampo.paper.entries import read_entries
from tampo.paper.notebook_page import notebook_page, relink
from tampo.paper.pages import readme
from tampo.paper.pictures import PICTURES
from tests.helpers import ROOT
from tests.paper.small_reference import ABOUT, COMMIT, HOSTILE, make_reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_reference(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def index(folder):
    return BeautifulSoup((folder / "index.html").read_text(), "html.parser")


def words(tag):
    return " ".join(tag.get_text().split())


def article(index, name):
    return index.find(id=name).parent


def test_everything_is_there_in_order(index):
    headings = [(tag.name, words(tag)) for tag in index.find("main").find_all(re.compile("^h[1-6]$"))]
    assert headings == [
        ("h2", "Tables"), ("h3", "Table 1: all of <b>T*</b>"),
        ("h2", "Figures"), ("h3", "Figure 3: temperatures"),
        ("h2", "Studies"), ("h3", "What it costs"),
    ]  # fmt: skip
    contents = [(link["href"], words(link)) for link in index.find("nav").find_all("a")]
    assert contents == [("#table1", headings[1][1]), ("#fig3", headings[3][1]), ("#overhead", headings[5][1])]


def test_the_head_says_where_it_comes_from(index):
    said = " ".join(index.find("header").get_text(" ").split())
    assert "independent reimplementation" in said and "about this scale" in said
    assert "Training seeds 0, 1 Runs 2 training runs" in said
    assert COMMIT in said and "Machine Processor & Co, 2 cores" in said and "0.1 hours" in said
    assert "tampo verify smoke" in said and "tampo reproduce smoke --from-reference" in said
    assert "Verdicts on 5 claims of the paper: holds 2, fails 1, cannot tell 1, not testable here 1." in said


def test_each_result_has_its_files_and_its_origin(index):
    links = [link["href"] for link in article(index, "table1").find_all("a")]
    assert links == [
        "notebooks/table1.html", "notebooks/table1.ipynb", "tables/table1.csv", "tables/table1.html",
        "tables/table1.md", "tables/table1.manifest.json",
    ]  # fmt: skip
    image = article(index, "fig3").find("img")  # 9 x 3.6 inches of 96 pixels
    assert (image["src"], image["alt"]) == ("figures/fig3.png", PICTURES["fig3"])
    assert (image["width"], image["height"]) == ("864", "345")
    said = words(article(index, "fig3"))
    assert "Data: fig3.rewards.csv." in said
    assert f"commit {COMMIT[:8]} with the parameters ffffffff from 2 runs and evaluations, which took 2.2 hours" in said
    # A link's own text stays; a list that is announced is not there, and neither is what announces it.
    intro = "Words of fig3, of one regret and mini, <script>alert(4)</script> code."
    assert words(article(index, "table1").find("p")) == intro


def test_each_claim_is_where_it_is_decided(index):
    shown = {name: [words(item) for item in article(index, name).select(".claims li")] for name in ("table1", "fig3")}
    assert shown["table1"] == [
        f"Best {HOSTILE} (Table 1): fails points: −2.61 (−3.42 to −1.81); the paper: 1.9; this scale could have shown "
        "it; a & b.",
        "Best on every benchmark (Section 4.2): cannot tell points: −3.86; a & b.",
    ]
    assert shown["fig3"] == [
        "High temperatures (Figure 3a): not testable here points: 0.50 (0.25 to 0.75); the paper: 0.3; this scale "
        "could not have shown it; a & b."
    ]
    (time,) = article(index, "overhead").select(".claims li")
    assert words(time).startswith("TAMPO takes the same time (Section 4.2): holds")


def test_text_of_files_stays_text(folder):
    for path in [folder / "index.html", *(folder / "notebooks").glob("*.html")]:
        page = BeautifulSoup(path.read_text(), "html.parser")
        attributes = {name for tag in page.find_all() for name in tag.attrs}
        assert not page.find(["script", "iframe"]) and not page.find("img", src="x"), path
        assert not [name for name in attributes if name.startswith("on")], path
    index = BeautifulSoup((folder / "index.html").read_text(), "html.parser")
    assert not index.find("b", string="T*")
    (style,) = index.find_all("style")
    assert "#T" not in style.get_text()
    kept = {name for tag in index.find("table").find_all() for name in tag.attrs}
    assert kept == {"colspan"} and not index.find("table").attrs
    rows = [[words(cell) for cell in row.find_all(["th", "td"])] for row in index.find("table").find_all("tr")]
    assert rows[:2] == [["", "all"], ["row", *["12.310.0–14.0"] * 9]]
    # What is not the structure of a table is dropped from it.
    assert rows[2] == ["alert(2)", "1"]
    markdown = article(index, "overhead").find("table")
    assert words(markdown.find("th")) == "measured" and words(markdown.find("strong")) == "alert(2)"


def test_a_notebook_is_a_page_of_its_own(folder):
    text = (folder / "notebooks" / "table1.html").read_text()
    page = BeautifulSoup(text, "html.parser")
    targets = {words(link): link["href"] for link in page.find_all("a")}
    assert targets["fig3"] == "fig3.html" and targets["table1.ipynb"] == "table1.ipynb"
    assert targets["regret"] == "../../../../notebooks/regret.ipynb"  # not in this reference
    assert targets["mini"] == "../../../../params/mini.yaml"
    assert HOSTILE in words(page) and "a progress bar" not in text
    assert page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"].startswith("script-src 'none'")
    drawn = BeautifulSoup((folder / "notebooks" / "fig3.html").read_text(), "html.parser").find("img")
    assert drawn["src"].startswith("data:image/png;base64,") and "Figure 3: temperatures" in drawn["alt"]


def test_links_of_an_executed_notebook_lead_from_its_place(folder, tmp_path):
    path = tmp_path / "notebooks" / "table1.ipynb"
    path.parent.mkdir()
    for name in ("table1", "fig3"):
        (path.parent / f"{name}.ipynb").write_bytes((folder / "notebooks" / f"{name}.ipynb").read_bytes())
    relink(path)
    text = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert "[fig3](fig3.ipynb)" in text
    assert "](../../../../notebooks/regret.ipynb)" in text and "](../../../../params/mini.yaml)" in text
    once = path.read_bytes()
    relink(path)
    assert path.read_bytes() == once
    page = BeautifulSoup(notebook_page(path), "html.parser")
    assert {"fig3.html", "../../../../params/mini.yaml"} <= {link["href"] for link in page.find_all("a")}


def test_nothing_comes_from_elsewhere(folder):
    for path in [folder / "index.html", *(folder / "notebooks").glob("*.html")]:
        page = BeautifulSoup(path.read_text(), "html.parser")
        tags = page.find_all(["img", "link", "script", "iframe"])
        loaded = [tag.get(name) for tag in tags for name in ("src", "srcset", "href")]
        assert not [source for source in loaded if re.match(r"(\w+:)?//", source or "")]
        assert not re.search(r"@import|url\(", "".join(map(str, page.find_all("style"))))


def test_the_shorter_view_for_github(folder):
    text = (folder / "README.md").read_text()
    assert "[index.html](index.html)" in text
    assert text.index("## Tables") < text.index("### Table 1") < text.index("## Figures") < text.index("### Figure 3")
    assert "| x | y |\n|:---|--:|\n| 1 | 2 |" in text
    assert f"![{PICTURES['fig3']}](figures/fig3.png)" in text
    assert "- High temperatures (Figure 3a): **not testable here**, 0.50 (0.25 to 0.75)" in text
    assert text.count("<img") == text.count(r"\<img") + 1  # the table of `overhead` is as it was
    assert readme(folder, ABOUT, read_entries(folder)) == text


def test_every_picture_that_notebooks_write_is_described():
    """A new figure needs its line in tampo/paper/pictures.py, and one that is gone needs none."""
    written = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        calls = re.findall(r"write_figure\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*, f?\"([^\"]+)\"\)", source)
        assert len(calls) == source.count("write_figure("), path.name
        written |= set(calls)
    (several,) = (name for name in written if "{" in name)  # the heat maps of Pass@k
    assert PICTURES.keys() == written - {several} | {"regret_pass8", "regret_pass64"}
    assert Path(several).name.startswith("regret_")
    assert len(set(PICTURES.values())) == len(PICTURES)
