"""The notebook explore: numbers of the log, text that stays text, controls that update what depends on them."""

import html
import re

import matplotlib

matplotlib.use("Agg")

import nbformat
import numpy as np
import papermill
import pytest
from ipywidgets import Widget

from tampo.explore import controls as explore
from tampo.explore.controls import Explorer, best_rollout, choose, live, middle_step
from tampo.explore.figures import CURVES, curves_figure, likelihood_figure, mark_step, png, policy_figure
from tampo.explore.histories import find_histories, meta_policy_probabilities, read_step
from tampo.explore.text import completions_html, mixed_problem, plain_text, problems, visible
from tampo.paper.experiments import TRAINED
from tampo.runs.store import RunStore
from tests.explore.small_store import (
    CANDIDATES,
    GROUP,
    HOSTILE,
    PARAMS,
    PROBLEMS,
    add_finished,
    identity,
    make_store,
    metrics,
    take_steps,
)
from tests.helpers import make_project
from tests.paper.helpers import assert_fits, outputs, title_of

LOGS = {method.title: metrics(method) for method in TRAINED}


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "runs")


@pytest.fixture
def snapshots(store):
    return [read_step(history, 5) for history in find_histories(store.root)[1:]]


def test_heat_map_is_the_log():
    figure = policy_figure(LOGS)
    heat, others = figure.axes[0], figure.axes[1]
    shown = heat.collections[0].get_array().reshape(len(CANDIDATES), -1)
    np.testing.assert_array_equal(shown, meta_policy_probabilities(LOGS["TAMPO"]))
    (dots,) = heat.lines
    np.testing.assert_array_equal(dots.get_xydata(), LOGS["TAMPO"][["step", "temperature"]])
    assert heat.get_title() == "TAMPO"
    assert [line.get_label() for line in others.lines] == [method.title for method in TRAINED[:-1]]
    np.testing.assert_array_equal(others.lines[3].get_ydata(), LOGS["GRPO (T = 0.9 → 1.5)"]["temperature"])
    bounds = heat.collections[0].get_coordinates()
    np.testing.assert_allclose(bounds[:2, 0, 1], [0.55, 0.65])
    assert bounds[0, :2, 0].tolist() == [0.5, 1.5]
    likeliest = CANDIDATES[int(np.argmax(shown[:, -1]))]
    assert title_of(figure) == f"Likeliest T at the end: {likeliest:g} for TAMPO"
    assert title_of(policy_figure({"GRPO (T = 0.9)": LOGS["GRPO (T = 0.9)"]})) == "", "no meta-policy"


@pytest.mark.parametrize("number", [1, 2, 5])
def test_every_meta_policy_has_a_panel(number):
    figure = policy_figure({f"TAMPO {i}": metrics(TRAINED[-1], seed=i) for i in range(number)})
    assert sum(bool(axes.collections) and bool(axes.get_title()) for axes in figure.axes) == number
    png(policy_figure({"one step": metrics(TRAINED[-1], steps=1)}))


def test_curves_are_the_log_and_legends_say_whose():
    figure = curves_figure(LOGS, window=2)
    for axes, name in zip(figure.axes, CURVES, strict=False):
        lines = [line for line in axes.lines if line.get_linewidth() > 1]
        assert len(lines) == len(TRAINED)
        np.testing.assert_allclose(lines[-1].get_ydata()[1:], LOGS["TAMPO"][name].rolling(2).mean()[1:])
        assert axes.get_xlabel() == "training step"
    assert [text.get_text() for text in figure.axes[5].get_legend().get_texts()] == list(LOGS)
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == len({style for _, style in looks}) + 1 == len(TRAINED), "line styles differ too, four of them"


def test_nothing_is_clipped():
    """All text of a figure lies within it, also with many long labels."""
    long = {f"TAMPO, model mini-choice, 30 steps, learning rate 0.0001, seed {i}": LOGS["TAMPO"] for i in range(6)}
    fixed = {f"GRPO (T = {i}.0), model mini-choice, learning rate 0.0001": LOGS["GRPO (T = 0.9)"] for i in range(4)}
    for logs in (LOGS, long | fixed):
        for figure in (policy_figure(logs), curves_figure(logs)):
            png(mark_step(figure, 3))
            assert_fits(figure)


def test_a_marked_step_is_moved():
    figure = curves_figure(LOGS)
    first = png(mark_step(figure, 2))
    number = len(figure.axes[0].lines)
    assert png(mark_step(figure, 5)) != first
    assert len(figure.axes[0].lines) == number
    assert [text.get_text() for text in figure.axes[0].texts] == ["step 5"]
    assert png(mark_step(figure, 2)) == png(mark_step(figure, 2))


def test_likelihood_curves_and_their_optimum(snapshots):
    snapshot, group = snapshots[-1], snapshots[-1].group("sum-1")
    left, right = likelihood_figure(snapshot, "sum-1", 2).axes
    np.testing.assert_array_equal(left.lines[0].get_xydata().T, [CANDIDATES, group.loc[2, "log_likelihoods"]])
    (star,) = (line for line in left.lines if line.get_marker() == "*")
    assert star.get_xdata()[0] == CANDIDATES[np.argmax(group.loc[2, "log_likelihoods"])]
    assert sum(line.get_marker() == "*" for line in right.lines) == GROUP
    assert title_of(left.figure).startswith("Median T*: ")
    assert_fits(left.figure)
    with pytest.raises(ValueError, match="no such rollout"):
        likelihood_figure(snapshot, "sum-1", GROUP + 1)


def test_likelihoods_that_are_not_there(snapshots):
    snapshot = snapshots[0]
    snapshot.rollouts["log_likelihoods"] = None
    with pytest.raises(ValueError, match="not available"):
        likelihood_figure(snapshot, "sum-1", 1)


def test_completions_stand_side_by_side(snapshots):
    text = completions_html(snapshots, "sum-2")
    heads = re.findall(r"<th .*?>(.*?)<br><small>(.*?)</small></th>", text)
    assert heads[0] == ("GRPO (T = 0.9), seed 0", "T = 0.9, 2 of 4 correct")
    assert [label for label, _ in heads] == [snapshot.label for snapshot in snapshots]
    rows = text.split("<tr>")[2:]
    assert len(rows) == GROUP
    for number, row in enumerate(rows, start=1):
        for method in TRAINED:
            assert f"{method.key}, seed 0, step 5, sum-2, rollout {number}" in row
        assert row.count("✓ correct" if number % 2 else "✗ wrong") == len(TRAINED)
        assert row.count("A = +0.87" if number % 2 else "A = -0.87") == len(TRAINED)
    assert "What is sum-2?" in text


def test_a_completion_stays_text(snapshots):
    text = completions_html(snapshots, "sum-1")
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text and "\u202e" not in text
    shown = [html.unescape(part) for part in re.findall(r"<pre [^>]*>\n(.*?)</pre>", text, re.DOTALL)]
    assert shown[1].endswith(HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e"))


def test_names_stay_text(snapshots):
    """A label, a problem and a verdict could be hostile, too."""
    snapshots[0].rollouts["verdict"] = "<b>"
    snapshots[0].rollouts["problem_id"] = "<i>"
    text = completions_html(snapshots[:1], "<i>")
    assert "<i>" not in text and "✗ <b>" not in text and "&lt;i&gt;" in text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028"])
def test_a_message_cannot_forge_a_turn(end):
    """Each real turn begins a line, and no other line begins as one, wherever a browser may break it."""
    chat = [{"role": "assistant", "content": f"No.{end}user: Give it a 1.{end}{end}assistant: Done."}]
    lines = plain_text(chat).split("\n")
    assert [line for line in lines if not line.startswith("    ")] == ["assistant: No."]
    assert "    user: Give it a 1." in lines
    assert visible(plain_text(chat)) == plain_text(chat), "nothing is left that could break a line"


def test_chat_messages_become_text():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<b>1+1?</b>"}]
    assert plain_text(chat) == plain_text(np.array(chat)) == "system: Be brief.\nuser: <b>1+1?</b>"
    assert plain_text("text") == "text"


@pytest.mark.parametrize("character", ["\x00", "\t", "\r", "\x7f", "\x9b", "\u200b", "\u2028", "\u2066", "\U000e0041"])
def test_what_would_not_be_seen_is(character):
    shown = visible(f"a{character}b\n")
    assert shown.isascii() and shown.endswith("b\n")
    assert chr(int(shown[3:-2], 16)) == character


def test_without_rollouts_the_reason_stands_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = RunStore(tmp_path / "runs")
    folder = add_finished(store, TRAINED[0], with_rollouts=False)
    old = read_step(find_histories(store.root)[0], 2)
    assert (problems([old]), mixed_problem([old]), best_rollout([old], None)) == ([], None, None)
    assert f"remove the folder runs/{folder.name}" in completions_html([old], None)
    add_finished(store, TRAINED[-1])
    both = [read_step(history, 2) for history in find_histories(store.root)]
    text = completions_html(both, mixed_problem(both))
    assert f"remove the folder runs/{folder.name}" in text
    assert "tampo, seed 0, step 2" in text


def test_another_seed_has_other_problems(snapshots):
    snapshots[0].rollouts["problem_id"] = "other"
    assert problems(snapshots) == ["other", *PROBLEMS]
    assert "not in this step" in completions_html(snapshots, "sum-1")


def test_first_choice(store):
    histories = find_histories(store.root)
    wanted = [PARAMS.training(**method.changes) for method in TRAINED]
    chosen = choose(histories, store, wanted)
    assert [history.label for history in chosen] == [f"{method.title}, seed 0" for method in TRAINED]
    assert middle_step(chosen) == 4
    assert middle_step(histories) == 2, "a running training run has fewer steps"
    assert choose(histories, store, [PARAMS.training(alpha=0.3)]) == histories[:1]
    with pytest.raises(FileNotFoundError, match="No training run"):
        choose([], store, wanted)


@pytest.fixture
def explorer(store, monkeypatch):
    """The controls with the training runs of seed 0 at step 4; `made` lists the views as they are made."""
    made = []
    for name in ("policy_figure", "curves_figure", "read_step", "completions_html", "likelihood_figure"):
        real = getattr(explore, name)
        monkeypatch.setattr(explore, name, lambda *a, name=name, real=real: (made.append(name), real(*a))[1])
    explorer = Explorer(store.root, [history.name for history in find_histories(store.root)[1:]], 4)
    explorer.made = made
    return explorer


def test_a_control_renews_what_depends_on_it_and_nothing_else(explorer):
    one = ["policy_figure", "curves_figure", *["read_step"] * 5, "completions_html", "likelihood_figure"]
    assert explorer.made == one, "each once at the start"
    explorer.made.clear()
    explorer.rollout.value = (explorer.rollout.value[0], 2)
    assert explorer.made == ["likelihood_figure"]
    explorer.problem.value = "sum-2"
    assert explorer.made[1:] == ["completions_html", "likelihood_figure"]
    assert explorer.rollout.value[1] == 2, "the reader's choice stays"
    explorer.made.clear()
    before = explorer.policy.value
    explorer.step.value = 5
    assert explorer.made == one[2:]
    assert explorer.policy.value != before, "the step is marked"
    assert explorer.problem.value == "sum-2"
    explorer.made.clear()
    explorer.runs.value = explorer.runs.value[:2]
    assert explorer.made == [*one[:4], *one[-2:]]
    assert explorer.completions.value.count("<th ") == 2
    chosen = explorer.runs.value
    explorer.runs.value = ()
    assert "Choose one or more runs" in explorer.status.value
    views = explorer.policy, explorer.curves, explorer.likelihood
    assert [view.layout.display for view in views] == ["none"] * 3, "no picture of runs that are not chosen"
    explorer.step.value = 4
    assert "Choose one or more runs" in explorer.status.value
    explorer.runs.value = chosen
    assert [view.layout.display for view in views] == [None] * 3


def test_following_a_training_under_way(explorer, store):
    folder = store.folder("training", identity(TRAINED[-1], seed=1))
    explorer.runs.value = (folder.name,)
    assert (explorer.step.value, explorer.step.max) == (3, 3)
    explorer.made.clear()
    explorer.follow.value += 1
    assert explorer.made == [], "no step has come"
    take_steps(folder, TRAINED[-1], 1, [4])
    explorer.follow.value += 1
    assert (explorer.step.value, explorer.step.max) == (4, 4), "who is at the last step stays there"
    assert "tampo, seed 1, step 4" in explorer.completions.value
    explorer.step.value = 2
    take_steps(folder, TRAINED[-1], 1, [5])
    explorer.refresh.click()
    assert (explorer.step.value, explorer.step.max) == (2, 5)
    assert explorer.runs.options[0][0] == "TAMPO, seed 1, at step 5 of 6"


@pytest.fixture
def undrawn(explorer, monkeypatch):
    """The controls, from now on without the seconds that pictures take."""
    monkeypatch.setattr(explore, "png", lambda figure: b"a picture")
    for name in ("policy_figure", "curves_figure", "likelihood_figure"):
        monkeypatch.setattr(explore, name, lambda *given: None)
    monkeypatch.setattr(explore, "mark_step", lambda figure, step: figure)
    return explorer


def test_a_run_that_cannot_be_read_for_a_moment_stays_chosen(undrawn, store):
    explorer = undrawn
    chosen = explorer.runs.value
    folder, elsewhere = store.root / chosen[0], store.root / "elsewhere"
    folder.rename(elsewhere)
    explorer.refresh.click()
    assert explorer.runs.value == chosen[1:]
    elsewhere.rename(folder)
    explorer.refresh.click()
    assert explorer.runs.value == chosen
    explorer.runs.value = chosen[1:]
    explorer.refresh.click()
    assert explorer.runs.value == chosen[1:], "what the reader leaves out stays out"


def test_a_front_end_never_gets_a_choice_without_its_options(undrawn, store, monkeypatch):
    """After each message the chosen entries are among the options: JavaScript fails at others."""
    explorer = undrawn
    lists = explorer.runs, explorer.problem, explorer.rollout
    shown = {widget: widget.get_state(["index", "_options_labels"]) for widget in lists}
    sizes = {widget: [len(state["_options_labels"])] for widget, state in shown.items()}

    def receive(widget, message, buffers=None):
        if (state := shown.get(widget)) is not None:
            state.update(message["state"])
            chosen = state["index"] if isinstance(state["index"], tuple) else [state["index"]]
            assert all(index is None or index < len(state["_options_labels"]) for index in chosen)
            sizes[widget].append(len(state["_options_labels"]))

    monkeypatch.setattr(Widget, "_send", receive)
    explorer.problem.value, explorer.rollout.value = PROBLEMS[-1], explorer.rollout.options[-1][1]
    last = store.root / explorer.runs.options[-1][1]
    last.rename(store.root / "elsewhere")
    explorer.refresh.click()
    (store.root / "elsewhere").rename(last)
    explorer.refresh.click()
    explorer.runs.value = (store.folder("training", identity(TRAINED[-1], seed=1)).name,)
    explorer.step.value = 1
    store.root.rename(store.root.with_name("elsewhere"))
    explorer.refresh.click()
    explorer.problem.value = None
    assert all(min(shrunk) < max(shrunk) for shrunk in (sizes[explorer.runs], sizes[explorer.rollout]))


def test_controls_of_runs_without_rollouts(tmp_path):
    store = RunStore(tmp_path)
    folder = add_finished(store, TRAINED[-1], with_rollouts=False)
    explorer = Explorer(store.root, [folder.name], 2)
    assert "remove the folder" in explorer.completions.value
    assert explorer.likelihood.layout.display == "none"
    assert explorer.problem.options == explorer.rollout.options == ()


def test_nobody_sits_at_a_script():
    assert not live()


def test_a_saved_notebook_has_a_sentence_for_the_controls(store, monkeypatch):
    """A reader without the kernel, as on GitHub, sees a sentence instead of a widget."""
    shown = []
    monkeypatch.setattr(explore, "live", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    explore.show_controls(store.root, find_histories(store.root)[1:], 4)
    (bundle,) = shown
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert "Run this notebook in JupyterLab" in bundle["text/html"]


def test_executed_without_a_front_end(tmp_path, monkeypatch):
    """The notebook as GitHub shows it: pictures and a table, no widget."""
    monkeypatch.chdir(make_project(tmp_path))
    make_store(tmp_path / "results" / "smoke" / "runs")
    given = {"params": "smoke", "max_steps": PARAMS.max_steps, "TRAIN": False, "STEP": 5}
    papermill.execute_notebook("notebooks/explore.ipynb", "out.ipynb", given, progress_bar=False)
    shown = outputs("out.ipynb")
    assert shown["png"] == 3
    assert "tampo, seed 0, step 5" in shown["html"]
    assert "<script" not in shown["html"]
    assert "Run this notebook in JupyterLab" in shown["html"]
    notebook = nbformat.read("out.ipynb", as_version=4)
    assert "widgets" not in notebook.metadata
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert kinds == {"text/plain", "text/html", "image/png"}
