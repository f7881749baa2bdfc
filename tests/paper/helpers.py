"""Results of experiments, times of steps, and what an executed notebook shows."""

import nbformat
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.legend import Legend

from tampo.paper.experiments import Method
from tampo.paper.results import Result


def outputs(path):
    """All that an executed notebook shows, by kind; none of its cells failed."""
    shown = {"text": "", "html": "", "png": 0}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            data = output.get("data", {})
            shown["text"] += output.get("text", "") + data.get("text/plain", "")
            shown["html"] += data.get("text/html", "")
            shown["png"] += "image/png" in data
    return shown


def title_of(figure):
    """The title of a figure in one line."""
    return figure.get_suptitle().replace("\n", " ")


def assert_fits(figure):
    """Titles, labels of axes and legends lie within the figure, and its title covers no panel and no legend.

    In files and in a notebook texts do not have the same width, since the places of letters are rounded to dots.
    """
    for dpi in (72, 200):
        figure.set_dpi(dpi)
        _assert_fits(figure)


def _assert_fits(figure):
    figure.draw_without_rendering()
    legends, panels = figure.findobj(Legend), [axes for axes in figure.findobj(Axes) if axes.get_visible()]
    texts = [text for axes in panels for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    title = [figure._suptitle] if figure.get_suptitle() else []
    for artist in [*legends, *title, *(text for text in texts if text.get_text())]:
        box = artist.get_window_extent().padded(-1)  # a dot may be rounding
        inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        inside = inside and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert inside, f"{artist} at {box.extents} is outside the figure"
    for text in title:
        below = [*legends, *(axes.title for axes in panels if axes.get_title()), *panels]
        for artist in below:
            assert not text.get_window_extent().overlaps(artist.get_window_extent()), f"{text} covers {artist}"


METHODS = (Method("base", "Base model", None), Method("tampo", "TAMPO & co_", {"controller": "tampo"}))


def make_result(benchmarks, methods=METHODS, seeds=(0, 1), problems=20):
    generator = np.random.default_rng(0)
    rows = []
    for index, method in enumerate(methods):
        for seed in seeds if method.changes is not None else seeds[:1]:
            for benchmark in benchmarks:
                right = generator.binomial(8, 0.3 + 0.1 * index, problems)
                rows.append(
                    pd.DataFrame(
                        {
                            "benchmark": benchmark,
                            "problem_id": [f"{benchmark}-{i}" for i in range(problems)],
                            "pass@1": (generator.random(problems) < right / 8) * 100.0,
                            "avg@8": right / 8 * 100,
                            "pass@8": (right > 0) * 100.0,
                            "method": method.key,
                            "seed": seed,
                        }
                    )
                )
    return Result(pd.concat(rows, ignore_index=True), {}, {})


def times(expected, noise, rounds=4, steps=30):
    """Whole steps of 1 to 2 s for "grpo", `expected` times as long for "tampo", a hundredth of it in the outer loop."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(rounds):
        for step in range(1, steps + 1):
            base = 1 + generator.random()
            whole = base * expected * np.exp(noise * generator.normal())
            for case, part, seconds in (
                ("grpo", "whole", base), ("tampo", "whole", whole), ("grpo", "outer loop", 0.0),
                ("tampo", "outer loop", whole / 101),
            ):  # fmt: skip
                rows.append({"round": number, "step": step, "case": case, "part": part, "seconds": seconds})
    return pd.DataFrame(rows)
