"""Titles and legends lie within the figure, whatever their length."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from tampo.paper.layout import legend_below, lines, set_title
from tests.paper.helpers import assert_fits, title_of


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("", 20, ""),
        ("short enough", 20, "short enough"),
        ("one two three four five six", 20, "one two three\nfour five six"),
        ("a long first sentence. and more", 24, "a long first sentence.\nand more"),
        ("one two three T = 0.9 and 51 %", 17, "one two three\nT = 0.9 and 51 %"),
        ("highest for TAMPO (p = 0, greedy), last", 30, "highest for\nTAMPO (p = 0, greedy), last"),
        ("a-long-word-that-does-not-fit at all", 10, "a-long-word-that-does-not-fit\nat all"),
    ],
)
def test_lines(text, width, expected):
    assert lines(text, width) == expected


@pytest.fixture
def figure():
    figure, axes = plt.subplots(figsize=(4.0, 3.0), layout="constrained")
    for number in range(5):
        axes.plot([0, 1], [0, number], label=f"TAMPO (p = 0.{number}), with words")
    axes.set_title("a panel")
    yield figure
    plt.close(figure)


@pytest.mark.parametrize("words", [1, 5, 12])
def test_titles_fit(figure, words):
    set_title(figure, " ".join(["twelve = 12 WW"] * words))
    assert_fits(figure)


def test_panels_keep_their_height(figure):
    figure.draw_without_rendering()
    before = figure.axes[0].get_window_extent().height
    set_title(figure, " ".join(["seven words that are a title here"] * 3))
    figure.draw_without_rendering()
    assert figure.get_suptitle().count("\n") >= 1
    assert figure.axes[0].get_window_extent().height == pytest.approx(before, abs=3)


def test_titles_begin_with_a_capital_and_may_be_missing(figure):
    set_title(figure, "")
    assert (title_of(figure), figure.get_figheight()) == ("", 3.0)
    set_title(figure, "highest: TAMPO")
    assert title_of(figure) == "Highest: TAMPO"


@pytest.mark.parametrize("note", ["", "A note of many words that is wider than this figure of four inches is."])
def test_legends_have_as_many_columns_as_fit(figure, note):
    handles = figure.axes[0].get_legend_handles_labels()[0]
    legend = legend_below(figure, handles, columns=5, note=note)
    assert figure.legends == [legend]
    assert len(legend.get_texts()) == 5
    assert legend.get_title().get_text().replace("\n", " ") == note
    assert_fits(figure)
    wide = legend.get_window_extent().width  # at 200 dots per inch, as `assert_fits` left the figure
    legend.remove()
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.draw_without_rendering()
    assert wide <= figure.bbox.width < figure.legends[0].get_window_extent().width, "two columns do not fit"


def test_what_does_not_fit_is_found(figure):
    figure.legend(loc="outside lower center", ncols=5)
    with pytest.raises(AssertionError, match="outside the figure"):
        assert_fits(figure)
    figure.legends[0].remove()
    figure.suptitle("covers the panel", y=0.5)
    with pytest.raises(AssertionError, match="covers"):
        assert_fits(figure)
