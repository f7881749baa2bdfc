"""The controls of the notebook explore.

They need a front end with a user. In a notebook executed without one, `show_controls` displays a sentence instead.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tampo.config import TrainingConfig
from tampo.explore.figures import curves_figure, likelihood_figure, mark_step, png, policy_figure
from tampo.explore.histories import History, Snapshot, find_histories, read_step
from tampo.explore.text import completions_html, mixed_problem, problems
from tampo.runs.identity import training_identity
from tampo.runs.store import RunStore

FOLLOW_EVERY = 4  # seconds between two updates of a running training run


def choose(histories: Sequence[History], store: RunStore, configs: Sequence[TrainingConfig]) -> list[History]:
    """The histories of these configs, in order; the first history if there are none.

    Raises:
        FileNotFoundError: There are no histories.
    """
    if not histories:
        raise FileNotFoundError("No training run has finished a step yet.")
    by_name = {history.name: history for history in histories}
    names = [store.folder("training", training_identity(config)).name for config in configs]
    return [by_name[name] for name in names if name in by_name] or list(histories[:1])


def middle_step(histories: Sequence[History]) -> int:
    """The middle step of the shortest training run."""
    steps = min((history.metrics()["step"] for history in histories), key=len)
    return int(steps.iloc[len(steps) // 2])


def best_rollout(snapshots: Sequence[Snapshot], problem: str | None) -> tuple[int, int] | None:
    """(index of the last snapshot with the problem, number of its best rollout); None if no snapshot has it."""
    for index, snapshot in reversed(list(enumerate(snapshots))):
        if len(group := snapshot.group(problem)):
            return index, int(group["advantage"].to_numpy().argmax()) + 1
    return None


def live() -> bool:
    """Whether a user can use controls: papermill and nbconvert tell the kernel that they cannot answer `input()`."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell: Any = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(request.get("content", {}).get("allow_stdin"))


def show_controls(root: Path, chosen: Sequence[History], step: int) -> None:
    """Display the controls and the views, with these training runs and this step; a sentence without a front end."""
    from IPython.display import HTML, display

    if not live():
        display(HTML("<p>Run this notebook in JupyterLab for controls to choose runs, steps and rollouts.</p>"))
        return
    # The sentence is shown for a saved notebook without its kernel, as on GitHub.
    shown = {"text/html": "<p>The controls are not stored. Run this notebook in JupyterLab to use them.</p>"}
    bundle = Explorer(root, [history.name for history in chosen], step).panel._repr_mimebundle_()
    display({**bundle, "text/plain": "controls", **shown}, raw=True)


class Explorer:
    """Controls and their views; each control updates only what depends on it. `panel` is the widget with all of them.

    It shows the training runs called `names` in the folder `root`, at `step`, first.
    """

    def __init__(self, root: Path, names: Sequence[str], step: int) -> None:
        import ipywidgets as widgets

        self._root = root
        self._figures: Sequence[tuple[Figure, Any]] = ()
        self._snapshots: list[Snapshot] = []
        wide: dict[str, Any] = {"style": {"description_width": "70px"}, "layout": {"width": "100%"}}
        self.runs = widgets.SelectMultiple(description="Runs", rows=8, **wide)
        # Updated when the slider is released, because drawing takes a moment.
        limits = {"min": 1, "max": max(step, 1), "continuous_update": False}
        self.step = widgets.IntSlider(step, description="Step", **limits, **wide)
        self.problem = widgets.Dropdown(description="Problem", **wide)
        self.rollout = widgets.Dropdown(description="Rollout", **wide)
        self.refresh = widgets.Button(description="Refresh", icon="refresh", layout={"width": "100px"})
        self.follow = widgets.Play(max=10**6, interval=1000 * FOLLOW_EVERY, show_repeat=False)
        self.status, self.note = widgets.HTML(), widgets.HTML()
        self.policy, self.curves, self.likelihood = (
            widgets.Image(format="png", layout={"width": "100%", "max_width": "1000px"}) for _ in range(3)
        )
        self.completions = widgets.HTML(layout={"width": "100%"})

        label = widgets.Label(f"every {FOLLOW_EVERY} s, while ▶", layout={"flex": "1 0 auto"})
        indented = {"margin": "0 0 0 76px", "align_items": "center"}  # as wide as the descriptions
        again = widgets.HBox([self.refresh, self.follow, label], layout=indented)
        status = widgets.HBox([self.status], layout=indented)
        fields = [self.step, self.problem, self.rollout, again, status]
        top = widgets.HBox([self.runs, widgets.VBox(fields, layout={"width": "100%"})])
        views = [self.policy, self.curves, self.completions, self.note, self.likelihood]
        self.panel = widgets.VBox([top, *views])
        self._observers: dict[Any, Callable[[Any], None]] = {
            self.runs: lambda change: self._choose_runs(),
            self.step: lambda change: self._show_step(),
            self.problem: lambda change: self._show_problem(),
            self.rollout: lambda change: self._show_rollout(),
        }
        for widget, observer in self._observers.items():
            widget.observe(observer, "value")
        self.refresh.on_click(lambda button: self.update())
        self.follow.observe(lambda change: self.update(only_if_changed=True), "value")
        self._names = tuple(names)
        self._find()
        self._show_runs()

    def update(self, only_if_changed: bool = False) -> None:
        """Read the folder again; a slider at the last step moves to the new last step."""
        before, at_end = self.runs.options, self.step.value == self.step.max
        self._find()
        if self.runs.options != before or not only_if_changed:
            self._show_runs(at_end)

    def _choose_runs(self) -> None:
        self._names = self.runs.value
        self._show_runs()

    def _find(self) -> None:
        # A chosen run that cannot be read at this moment, because it is being written, stays chosen.
        self._histories = {history.name: history for history in find_histories(self._root)}
        options = [(history.label, name) for name, history in self._histories.items()]
        self._set(self.runs, options, tuple(name for name in self._histories if name in self._names))

    def _show_runs(self, at_end: bool = False) -> None:
        histories = [self._histories[name] for name in self.runs.value]
        logs = {history.label: log for history in histories if len(log := history.metrics())}
        self._chosen = [history for history in histories if history.label in logs]
        for image in (self.policy, self.curves):
            image.layout.display = None if logs else "none"
        if not logs:
            self._figures = ()
            self._show_step()
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
        self._set(self.problem, found, before if before in found else mixed_problem(self._snapshots))
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
            found = best_rollout(self._snapshots, problem)
            value = (self._chosen[found[0]].name, found[1]) if found else None
        self._set(self.rollout, options, value)
        self._show_rollout()

    def _show_rollout(self) -> None:
        if self._chosen:
            runs = f"{len(self._chosen)} of {len(self._histories)} runs"
            self.status.value = f"Step {self.step.value} of {self.step.max}. {runs}."
        else:
            self.status.value = "Choose one or more runs (Ctrl or Shift for several)."
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
        """Set the options and value of a widget without calling its observer.

        The front end gets both in one message: new options with the old value can be a value out of range.
        """
        widget.unobserve(self._observers[widget], "value")
        with widget.hold_sync():
            widget.options, widget.value = options, value
        widget.observe(self._observers[widget], "value")
