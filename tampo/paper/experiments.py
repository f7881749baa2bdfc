"""The registry of experiments: the rows of every table and figure, and what every notebook needs.

A row is a `Method`. A notebook is an `Experiment`: its rows, the subject of its caption, and its parameters. The
notebooks, `tampo reproduce` and `tampo.explore` all read this registry.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tampo.config import ConfigError, Params, TrainingConfig, load_params
from tampo.runs.jobs import Job


@dataclass(frozen=True)
class Method:
    """A row of a table: its key, its title, and the parameters it changes (None: the base model, untrained)."""

    key: str
    title: str
    changes: dict[str, Any] | None = field(default_factory=dict)


# Titles of controllers in tables, figures and `tampo.explore`; {} are their parameters.
CONTROLLER_TITLES = {
    "fixed": "GRPO (T = {value})",
    "linear": "GRPO (T = {start_temperature} → {end_temperature})",
    "tampo": "TAMPO",
    "cosine": "Cosine ({start_temperature} → {end_temperature})",
    "staged": "Staged ({stages})",
    "entropy-target": "EntropyTarget ({target})",
    "entropy-match": "EntropyMatch ({target})",
    "e3": "E3",
    "exp3": "EXP3",
    "ucb": "UCB",
    "random": "Random",
    "score-function": "Score function",
    "learning-signal": "Learning signal",
}


_SHOWN_STAGES = 6


def controller_title(name: str, parameters: Mapping[str, Any]) -> str:
    """The title of a controller with these parameters; its name if it has no title."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            if len(value) > _SHOWN_STAGES:
                return f"{text(value[0])} ... {text(value[-1])}, {len(value)} stages"
            return ", ".join(map(text, value))
        return f"{value:g}" if isinstance(value, int | float) else str(value)

    words = defaultdict(lambda: "?", {key: text(value) for key, value in parameters.items()})
    if parameters.get("target") == 0:
        words["target"] = "first"  # the entropy of the first steps
    return CONTROLLER_TITLES.get(name, name).format_map(words)


def _row(key: str, controller: str, title: str | None = None, **parameters: Any) -> Method:
    """A row that trains with a controller. Parameters that are not fields of the config are the controller's."""
    changes: dict[str, Any] = {"temperature_controller": controller}
    kwargs = {name: value for name, value in parameters.items() if name not in TrainingConfig.model_fields}
    changes |= {name: value for name, value in parameters.items() if name not in kwargs}
    if kwargs:
        changes["temperature_controller_kwargs"] = kwargs
    shown = kwargs | {"value": parameters.get("temperature", 1.0)}
    return Method(key, title or controller_title(controller, shown), changes)


BASE = Method("base", "Base model", None)
_TAMPO = _row("tampo", "tampo")
TABLE1 = (
    BASE,
    *(_row(f"fixed-{t:g}", "fixed", temperature=t) for t in (0.9, 1.2, 1.5)),
    _row("linear", "linear", start_temperature=0.9, end_temperature=1.5),
    _TAMPO,
)
# Beside the paper's rows: what the authors may have run instead (`notebooks/study_theory.ipynb`), a hypothesis.
_RELATIVE = _row("tampo-relative", "tampo", "TAMPO (divided twice)", virtual_temperatures="relative")
TABLE1_ROWS = (*TABLE1, _RELATIVE)
FIXED = TABLE1[1:4]
TRAINED = TABLE1[1:]
# With the default alpha 0.05 and p 0.7, all rows with the key "tampo" are the same training runs.
TABLE2 = tuple(
    _row("tampo" if alpha == 0.05 else f"alpha-{alpha:g}", "tampo", f"TAMPO (α = {alpha:.2f})", alpha=alpha)
    for alpha in (0.01, 0.05, 0.10)
)
TABLE3 = tuple(
    _row("tampo" if p == 0.7 else f"p-{p:g}", "tampo", f"TAMPO (p = {p:g})" + (", greedy" if p == 0 else ""), p=p)
    for p in (0.9, 0.7, 0.5, 0.0)
)
TABLE4 = (_TAMPO,)
TABLE5 = (BASE, _row("grpo", "fixed", temperature=1.0), _TAMPO)
EXPLORATION = tuple(method for method in TABLE1 if method.key in ("base", "fixed-0.9", "fixed-1.5", "tampo"))
LIKELIHOODS = (
    _row("tampo", "tampo", "TAMPO (sum, Eq. 8)", likelihood="sum"),
    _row("mean", "tampo", "TAMPO (mean, Eq. 6)", likelihood="mean"),
)
CONTROLLER_ROWS = (
    *TABLE1,
    _row("cosine", "cosine", start_temperature=0.9, end_temperature=1.5),
    _row("staged", "staged", stages=[0.9, 1.2, 1.5]),
    _row("entropy-0.3", "entropy-target", target=0.3),
    _row("entropy-first", "entropy-target", target=0.0),
    _row("e3", "e3"),
    _row("exp3", "exp3"),
    _row("ucb", "ucb"),
)

# Rows of the regret study: a grid of fixed temperatures, schedules, a control, and controllers that learn.
REGRET_FIXED = tuple(_row(f"fixed-{t:g}", "fixed", temperature=t) for t in (0.6, 0.7, 0.9, 1.0, 1.2, 1.5))
REGRET_OTHERS = (
    _TAMPO,
    _RELATIVE,
    _row("linear", "linear", start_temperature=0.9, end_temperature=1.5),
    _row("linear-down", "linear", start_temperature=1.5, end_temperature=0.7),
    _row("random", "random"),
    _row("entropy-match", "entropy-match", target=0.0),
    _row("ucb", "ucb"),
    _row("score-function", "score-function"),
    _row("learning-signal", "learning-signal"),
    _row("entropy-bonus", "fixed", "GRPO (T = 1), entropy bonus", temperature=1.0, use_adaptive_entropy=True),
)
REGRET_ROWS = REGRET_FIXED + REGRET_OTHERS
_REGRET_SMOKE = (REGRET_FIXED[0], REGRET_FIXED[-1], _TAMPO)
# With all training seeds: every fixed temperature, since they are what a rule is compared with, and the main rules. The
# others have the first `ABLATION_SEEDS`.
REGRET_MAIN = {method.key for method in REGRET_FIXED} | {"tampo", "linear", "linear-down", "random", "learning-signal"}


def _regret_rows(*keys: str) -> tuple[Method, ...]:
    return tuple(next(method for method in REGRET_ROWS if method.key == key) for key in keys)


# Rows of the study of a task that changes, and of that of replays.
DRIFT_ROWS = _regret_rows("fixed-0.9", "fixed-1.2", "linear-down", "tampo")
REPLAY_ROWS = _regret_rows("fixed-1.2", "linear-down", "random", "tampo")

# T in the loss, or a property of the behaviour policy only.
LOSS_TEMPERATURE_ROWS = tuple(
    Method(method.key + suffix, method.title + addition, {**(method.changes or {}), "loss_temperature": where})
    for method in (_TAMPO, *(_row(f"fixed-{t:g}", "fixed", temperature=t) for t in (1.2, 0.7)))
    for where, suffix, addition in (("sampling", "", ""), ("one", "-one", ", loss at 1"))
)

ABLATION_SEEDS = 3  # an ablation uses the first three seeds; all other experiments use all seeds
EVALUATION_TEMPERATURES = (0.6, 1.4)  # besides the paper's 1.0

# Parameter files by scale, for experiments with another base model.
CHOICE_PARAMS = {"smoke": "smoke-choice", "mini": "mini-choice", "paper": "paper-ecqa"}
RARE_PARAMS = {"smoke": "smoke-rare", "mini": "mini-rare"}
DRIFT_PARAMS = {"smoke": "smoke-drift", "mini": "mini-drift"}
REPLAY_PARAMS = {"smoke": "smoke-facts", "mini": "mini-facts-long"}

# The regimes of studies by scale, each with its title, its parameter file, and what differs from that.
REGIMES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "smoke": {"arithmetic": ("smoke", {}), "facts": ("smoke-facts", {})},
    "mini": {
        "arithmetic": ("mini", {"eval_problems": 20}),
        "facts": ("mini-facts", {"eval_problems": 100}),
        "flat": ("mini-flat", {"eval_problems": 20, "max_steps": 60}),
        "choice": ("mini-choice", {"eval_problems": 100}),
    },
}
_REGIME_SCALES = {scale: scale for scale in REGIMES}
# Evaluation temperatures of the regret study, with the samples of a problem.
REGRET_EVALUATIONS: dict[str, dict[float, int]] = {"smoke": {1.0: 4}, "mini": {1.0: 64, 0.6: 16}}
LOSS_REGIMES = ("arithmetic", "facts")  # of the study of the temperature in the loss


def experiment_jobs(params: Params, methods: tuple[Method, ...] = TABLE1) -> dict[tuple[str, int], Job]:
    """The training runs and evaluations that `methods` need, by (method's key, training seed)."""
    jobs = {}
    for method in methods:
        # The base model is the same for every training seed.
        for seed in params.seeds if method.changes is not None else params.seeds[:1]:
            training = None if method.changes is None else params.training(seed=seed, **method.changes)
            label = method.title + (f", seed {seed}" if len(params.seeds) > 1 and training else "")
            evaluation = params.evaluation() if training else params.evaluation(eval_step=None)
            jobs[method.key, seed] = Job(label, evaluation, training, params.model)
    return jobs


def regime_params(params: Params) -> dict[str, Params]:
    """The parameters of each regime of a scale; what `params` changes from its scale's file is changed in all of them.

    Raises:
        ConfigError: The scale has no regimes, or a change that decides what a regime is.
    """
    if params.scale not in REGIMES:
        raise ConfigError(f"There are regimes for the scales {', '.join(REGIMES)}, not for {params.scale!r}.")
    changes = params.changes(load_params(params.scale))
    for name in ("suite", "model", "base_logit_scale"):
        if name in changes:
            raise ConfigError(f"{name} cannot be given here: this study sets it for each of its regimes.")
    kept = {"workers": params.workers, "output_dir": params.output_dir}
    return {
        title: load_params(source, settings | changes | kept)
        for title, (source, settings) in REGIMES[params.scale].items()
    }


def regret_methods(params: Params) -> tuple[Method, ...]:
    """The rows of the regret study: all, or a few at the smoke scale."""
    return _REGRET_SMOKE if params.scale == "smoke" else REGRET_ROWS


def regret_jobs(params: Params) -> dict[tuple[str, float, str, int], Job]:
    """The runs of the regret study, by (regime, evaluation temperature, method's key, training seed).

    The rows of `REGRET_MAIN` have all training seeds, the others the first `ABLATION_SEEDS`. The base model is
    evaluated too, once.
    """
    jobs, methods = {}, regret_methods(params)
    for regime, config in regime_params(params).items():
        for temperature, samples in REGRET_EVALUATIONS[params.scale].items():
            changed = config.model_copy(update={"eval_temperature": temperature, "eval_samples": samples})
            for (key, seed), job in experiment_jobs(changed, (BASE, *methods)).items():
                if key in REGRET_MAIN or seed in params.seeds[:ABLATION_SEEDS]:
                    jobs[regime, temperature, key, seed] = job
    return jobs


def replay_rows(params: Params) -> tuple[Method, ...]:
    """The rows of the study of replays, without the replays: all, or two at the smoke scale."""
    return REPLAY_ROWS[-2:] if params.scale == "smoke" else REPLAY_ROWS


def replayed_jobs(params: Params) -> dict[tuple[str, int], Job]:
    """The runs of the study of replays that need no other runs: all but the replays themselves."""
    return experiment_jobs(params, replay_rows(params))


def loss_methods(params: Params) -> tuple[Method, ...]:
    """The rows of the study of the temperature in the loss: all, or TAMPO's two at the smoke scale."""
    return LOSS_TEMPERATURE_ROWS[:2] if params.scale == "smoke" else LOSS_TEMPERATURE_ROWS


def loss_jobs(params: Params) -> dict[tuple[str, str, int], Job]:
    """The runs of the study of the temperature in the loss, by (regime, method's key, training seed).

    They are evaluated as in the regret study at T = 1, so that both studies share the rows that they have in common.
    """
    jobs, regimes = {}, regime_params(params)
    evaluation = {"eval_temperature": 1.0, "eval_samples": REGRET_EVALUATIONS[params.scale][1.0]}
    for regime in LOSS_REGIMES:
        config = regimes[regime].model_copy(update=evaluation)
        for (key, seed), job in experiment_jobs(config, loss_methods(params)).items():
            jobs[regime, key, seed] = job
    return jobs


@dataclass(frozen=True)
class Experiment:
    """A notebook and the runs that it needs.

    Attributes:
        notebook: File name without ending.
        methods: The rows; () if the notebook samples by itself or uses the runs of others.
        subject: What its table compares, for the caption.
        variants: The parameter file by scale; None: that of the scale itself.
        ablation: It uses the first `ABLATION_SEEDS` seeds only, as all that is beside the paper's main table does.
        temperatures: Evaluation temperatures besides that of the parameters.
        alone: It measures times, so nothing else should run at the same time.
        one_seed: It is a single training run with the first seed.
        more_seeds: So many further seeds where several are given, for a question that needs them.
        needs_texts: It trains by itself or shows texts, so that an archive of records is not enough for it.
        special_jobs: Lists its runs where they are not simply `methods` with the notebook's parameters, but for example
            `methods` in several regimes.
    """

    notebook: str
    methods: tuple[Method, ...] = ()
    subject: str = ""
    variants: dict[str, str] | None = None
    ablation: bool = False
    temperatures: tuple[float, ...] = ()
    alone: bool = False
    one_seed: bool = False
    more_seeds: int = 0
    needs_texts: bool = False
    special_jobs: Callable[[Params], Mapping[Any, Job]] | None = None

    @property
    def section(self) -> str:
        """The folder of its files among the results: "tables", "figures" or "studies"."""
        if self.notebook.startswith("fig"):
            return "figures"
        return "tables" if self.notebook.startswith("table") or self.notebook == "claims" else "studies"

    @property
    def needs_runs(self) -> bool:
        """Whether it needs training runs, evaluations or measurements of the store."""
        return bool(self.methods) or self.alone

    def source(self, scale: str) -> str:
        """The parameter file for a scale. Raises KeyError if it has none."""
        return self.variants[scale] if self.variants else scale

    def parameters(self, scale: str, seeds: Sequence[int]) -> dict[str, Any]:
        """The parameters to execute the notebook with. Raises KeyError if it has no variant for the scale."""
        chosen = list(seeds)[:ABLATION_SEEDS] if self.ablation else list(seeds)
        if len(chosen) > 1:
            chosen += range(max(chosen) + 1, max(chosen) + 1 + self.more_seeds)
        seed = {"seed": chosen[0]} if self.one_seed else {"seeds": chosen}
        return {"params": self.source(scale)} | seed

    def jobs(self, params: Params) -> list[Job]:
        """The runs it needs with these parameters."""
        if self.special_jobs is not None:
            return list(self.special_jobs(params).values())
        jobs = list(experiment_jobs(params, self.methods).values())
        for temperature in self.temperatures:
            changed = params.model_copy(update={"eval_temperature": temperature})
            jobs += experiment_jobs(changed, self.methods).values()
        return jobs


EXPERIMENTS = {
    experiment.notebook: experiment
    for experiment in (
        Experiment("quickstart", one_seed=True, needs_texts=True),
        Experiment("table1", TABLE1_ROWS, "TAMPO compared with fixed temperatures and a linear schedule"),
        Experiment("table2", TABLE2, "the weight α of the moving average", ablation=True),
        Experiment("table3", TABLE3, "the nucleus mass p of the meta-policy", ablation=True),
        Experiment("table4", TABLE4, "independent training runs of TAMPO"),
        Experiment("table5", TABLE5, "another base model and task", CHOICE_PARAMS, ablation=True),
        Experiment("fig2"),
        Experiment("fig3", TABLE1),
        Experiment("fig4", TABLE1),
        Experiment("fig5", TABLE2, ablation=True),
        Experiment("fig6", TABLE3, ablation=True),
        Experiment("overhead", alone=True),
        Experiment("claims", TABLE1),
        Experiment("study_likelihood", LIKELIHOODS, "the sum or the mean of log-probabilities", ablation=True),
        Experiment("study_exploration", EXPLORATION, "a base model that must explore", RARE_PARAMS, ablation=True),
        Experiment("algorithm", variants=_REGIME_SCALES, one_seed=True, needs_texts=True),
        Experiment("explore", TRAINED, needs_texts=True),
        Experiment("controllers", CONTROLLER_ROWS, "controllers of the sampling temperature", ablation=True),
        Experiment(
            "regret",
            REGRET_ROWS,
            "rules for the temperature in several regimes",
            _REGIME_SCALES,
            special_jobs=regret_jobs,
        ),
        Experiment(
            "study_replay",
            REPLAY_ROWS,
            "the adaptation of the temperature, or its course",
            REPLAY_PARAMS,
            more_seeds=5,
            special_jobs=replayed_jobs,
        ),
        Experiment("study_drift", DRIFT_ROWS, "a task that changes during training", DRIFT_PARAMS, ablation=True),
        Experiment(
            "study_loss",
            LOSS_TEMPERATURE_ROWS,
            "T in the loss, or in sampling only",
            _REGIME_SCALES,
            ablation=True,
            special_jobs=loss_jobs,
        ),
        Experiment("study_power"),
        Experiment("study_theory"),
        Experiment("study_evaluation", TABLE1, ablation=True, temperatures=EVALUATION_TEMPERATURES),
    )
}


def table_caption(params: Params, notebook: str) -> str:
    """The caption of a notebook's table: how it was made, and how to read it.

    Args:
        params: The parameters it was made with.
        notebook: Key of `EXPERIMENTS`.
    """
    head = notebook.capitalize().replace("Table", "Table ") if notebook.startswith("table") else "Table"
    subject = EXPERIMENTS[notebook].subject
    if params.suite == "mini-choice":
        subject += "; held-out multiple-choice questions about animals, in place of the paper's ECQA"
    if params.suite == "own":
        subject += "; the user's own training set and benchmarks"
    seeds = f"{len(params.seeds)} training seeds" if len(params.seeds) > 1 else "one training seed"
    problems = "all problems" if params.eval_problems is None else f"{params.eval_problems} problems"
    if params.suite == "own" and params.eval_problems is not None:  # a file may have fewer
        problems = f"at most {problems}"
    over = "problems and seeds" if len(params.seeds) > 1 and notebook != "table4" else "problems"
    return (
        f"{head} at scale {params.scale}, {subject}: {params.max_steps} steps of {params.prompts_per_step} x "
        f"{params.num_generations} rollouts, {seeds}; {problems} per benchmark, "
        f"{params.eval_samples} samples each at temperature {params.eval_temperature:g}, in percent. "
        f"Best in bold, second underlined; 95 % intervals over {over}. Manifest: {notebook}.manifest.json."
    )
