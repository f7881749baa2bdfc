"""The controls of the notebook explore, over the histories, figures and texts of this room.

Controls need a front end that somebody sits at. An executed notebook has none, so that `show_controls` writes a
sentence in their place, and what it is to show is shown by its other cells.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tampo.config import TrainingConfig
from tampo.explore.figures import curves_figure, likelihood_figure, mark_step, png, policy_figure
from tampo.explore.histories import History, Snapshot, find_histories, read_step
from tampo.explore.text import completions_html, problems, telling_problem
from tampo.runs.pipeline import training_identity
from tampo.runs.store import RunStore

FOLLOW_EVERY = 4  # seconds between two looks at a training that is under way


def choose(histories: Sequence[History], store: RunStore, trainings: Sequence[TrainingConfig]) -> list[History]:
    """Those of `trainings` that are among `histories`, in their order; where none is, the first history.

    Raises:
        FileNotFoundError: There are no histories.
    """
    if not histories:
        raise FileNotFoundError("There is no training yet that has taken a step.")
    by_name = {history.name: history for history in histories}
    wanted = [store.folder("training", training_identity(training)).name for training in trainings]
    return [by_name[name] for name in wanted if name in by_name] or list(histories[:1])


def middle_step(histories: Sequence[History]) -> int:
    """The step in the middle of the training that has the fewest so far."""
    steps = min((history.metrics()["step"] for history in histories), key=len)
    return int(steps.iloc[len(steps) // 2])


def telling_rollout(snapshots: Sequence[Snapshot], problem: str | None) -> tuple[int, int] | None:
    """(place among the snapshots, number) of the best rollout of the last one that has the problem; None: none has."""
    for place, snapshot in reversed(list(enumerate(snapshots))):
        if len(group := snapshot.group(problem)):
            return place, int(group["advantage"].to_numpy().argmax()) + 1
    return None


def live() -> bool:
    """Whether this code runs for a front end in which somebody can use controls.

    Front ends tell the kernel whether they could answer `input()`: papermill and nbconvert cannot.
    """
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell: Any = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(request.get("content", {}).get("allow_stdin"))


def show_controls(root: Path, chosen: Sequence[History], step: int) -> None:
    """Display the controls, and under them all views; without a live front end a sentence.

    Args:
        root: The folder of records that trainings are chosen from.
        chosen: What is chosen first, of this folder.
        step: The step that is shown first.
    """
    from IPython.display import HTML, display

    if not live():
        display(HTML("<p>Run this notebook in JupyterLab: here are controls to choose trainings, steps, rollouts.</p>"))
        return
    # Where the saved notebook is read without its kernel, as on GitHub, there is the sentence.
    shown = {"text/html": "<p>The controls are not stored. Run this notebook in JupyterLab to have them.</p>"}
    bundle = Explorer(root, [history.name for history in chosen], step).panel._repr_mimebundle_()
    display({**bundle, "text/plain": "controls", **shown}, raw=True)


class Explorer:
    """Controls and the views that follow them; each control renews what depends on it, and nothing else.

    Args:
        root: The folder of records.
        names: Names of the trainings that are chosen first.
        step: The step that is shown first.

    Attributes:
        panel: The widget that holds everything.
    """

    def __init__(self, root: Path, names: Sequence[str], step: int) -> None:
        import ipywidgets as widgets

        self._root = root
        self._figures: Sequence[tuple[Figure, Any]] = ()
        self._snapshots: list[Snapshot] = []
        look: dict[str, Any] = {"style": {"description_width": "70px"}, "layout": {"width": "100%"}}
        self.runs = widgets.SelectMultiple(description="Trainings", rows=8, **look)
        # Only where the slider is let go: a figure takes a moment.
        given = {"min": 1, "max": max(step, 1), "continuous_update": False}
        self.step = widgets.IntSlider(step, description="Step", **given, **look)
        self.problem = widgets.Dropdown(description="Problem", **look)
        self.rollout = widgets.Dropdown(description="Rollout", **look)
        self.refresh = widgets.Button(description="Refresh", icon="refresh", layout={"width": "100px"})
        self.follow = widgets.Play(max=10**6, interval=1000 * FOLLOW_EVERY, show_repeat=False)
        self.status, self.note = widgets.HTML(), widgets.HTML()
        self.policy, self.curves, self.likelihood = (
            widgets.Image(format="png", layout={"width": "100%", "max_width": "1000px"}) for _ in range(3)
        )
        self.completions = widgets.HTML(layout={"width": "100%"})

        words = widgets.Label(f"every {FOLLOW_EVERY} s, while ▶", layout={"flex": "1 0 auto"})
        indented = {"margin": "0 0 0 76px", "align_items": "center"}  # as wide as the descriptions
        again = widgets.HBox([self.refresh, self.follow, words], layout=indented)
        status = widgets.HBox([self.status], layout=indented)
        fields = [self.step, self.problem, self.rollout, again, status]
        top = widgets.HBox([self.runs, widgets.VBox(fields, layout={"width": "100%"})])
        views = [self.policy, self.curves, self.completions, self.note, self.likelihood]
        self.panel = widgets.VBox([top, *views])
        self._observers: dict[Any, Callable[[Any], None]] = {
            self.runs: lambda change: self._show_runs(),
            self.step: lambda change: self._show_step(),
            self.problem: lambda change: self._show_problem(),
            self.rollout: lambda change: self._show_rollout(),
        }
        for widget, observer in self._observers.items():
            widget.observe(observer, "value")
        self.refresh.on_click(lambda button: self.look_again())
        self.follow.observe(lambda change: self.look_again(only_for_news=True), "value")
        self._find(names)
        self._show_runs()

    def look_again(self, only_for_news: bool = False) -> None:
        """Read the folder anew: further trainings, further steps. Who is at the last step stays at the last step.

        Args:
            only_for_news: Draw nothing where neither a training nor a step has come.
        """
        before, at_end = self.runs.options, self.step.value == self.step.max
        self._find(self.runs.value)
        if self.runs.options != before or not only_for_news:
            self._show_runs(at_end)

    def _find(self, names: Sequence[str]) -> None:
        self._histories = {history.name: history for history in find_histories(self._root)}
        options = [(history.label, name) for name, history in self._histories.items()]
        self._set(self.runs, options, tuple(name for name in self._histories if name in names))

    def _show_runs(self, at_end: bool = False) -> None:
        histories = [self._histories[name] for name in self.runs.value]
        logs = {history.label: log for history in histories if len(log := history.metrics())}
        self._chosen = [history for history in histories if history.label in logs]  # others have been removed since
        if not logs:
            self.status.value = "Choose one training or more (Ctrl or Shift for several)."
            return
        last = max(int(log["step"].iloc[-1]) for log in logs.values())
        self._figures = (policy_figure(logs), self.policy), (curves_figure(logs), self.curves)
        value = last if at_end else min(self.step.value, last)
        self.step.unobserve(self._observers[self.step], "value")
        self.step.max, self.step.value = last, value
        self.step.observe(self._observers[self.step], "value")
        self._show_step()

    def _show_step(self) -> None:
        for figure, image in self._figures:
            image.value = png(mark_step(figure, self.step.value))
        self._snapshots = [read_step(history, self.step.value) for history in self._chosen]
        found, before = problems(self._snapshots), self.problem.value
        self._set(self.problem, found, before if before in found else telling_problem(self._snapshots))
        self._show_problem()

    def _show_problem(self) -> None:
        problem = self.problem.value
        self.completions.value = completions_html(self._snapshots, problem)
        options = [
            (
                f"{snapshot.label}: {number} {row.get('verdict', '')}, A = {row['advantage']:+.2f}",
                (history.name, number),
            )
            for history, snapshot in zip(self._chosen, self._snapshots, strict=True)
            for number, row in snapshot.group(problem).iterrows()
        ]
        value = self.rollout.value
        if value not in [option for _, option in options]:
            found = telling_rollout(self._snapshots, problem)
            value = (self._chosen[found[0]].name, found[1]) if found else None
        self._set(self.rollout, options, value)
        self._show_rollout()

    def _show_rollout(self) -> None:
        self.status.value = (
            f"Step {self.step.value} of {self.step.max}. {len(self._chosen)} of {len(self._histories)} trainings."
        )
        picture, note = None, ""
        if self.rollout.value is not None:
            name, number = self.rollout.value
            snapshot = self._snapshots[[history.name for history in self._chosen].index(name)]
            try:
                picture = png(likelihood_figure(snapshot, self.problem.value, number))
            except ValueError as error:
                note = str(error)
        self.note.value, self.likelihood.layout.display = note, None if picture else "none"
        self.likelihood.value = picture or b""

    def _set(self, widget: Any, options: Sequence[Any], value: Any) -> None:
        """Give a chooser other options and a value, without calling its observer."""
        widget.unobserve(self._observers[widget], "value")
        widget.options, widget.value = options, value
        widget.observe(self._observers[widget], "value")
