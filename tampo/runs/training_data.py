"""The inputs of a training run: the model's folder, the problems, and the reward functions."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tampo.config import ConfigError, TrainingConfig
from tampo.tasks.hub import hub_commit, hub_snapshot
from tampo.tasks.mini import Problem
from tampo.tasks.mini_assets import RECIPES, mini_model_path
from tampo.tasks.overlaps import drop_overlaps, overlaps
from tampo.tasks.prompts import render, think_opened
from tampo.tasks.published import Loaded
from tampo.tasks.rewards import RewardFunction, accuracy_reward, format_reward
from tampo.tasks.stages import staged
from tampo.tasks.suites import Suite, get_suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def local_model(model: str) -> Path | None:
    """The folder of a config's `model`: of one that is shipped, or the user's own; None for a model on the hub.

    The name of a shipped model means that model, even where the working directory has a folder of that name
    (which is ./mini).

    Raises:
        ConfigError: It is neither a folder nor the form of an id on the hub.
        FileNotFoundError: A shipped model is missing.
    """
    if model in RECIPES:
        return mini_model_path(model)
    path = Path(model).expanduser()  # which transformers does not do
    if model and path.exists():
        return path
    if not _HUB_ID.fullmatch(model):
        raise ConfigError(
            f"model {model!r}: there is no such folder, and no id on the Hugging Face hub looks like this. Check the "
            f"path, or give one that is shipped: {', '.join(RECIPES)}."
        )
    return None


def model_commit(model: str, revision: str | None = None) -> str:
    """The commit of a model on the hub; `revision` is a commit, branch or tag, None the newest.

    Raises:
        ConfigError: It cannot be found out.
    """
    try:
        return hub_commit(model, "model", revision)
    except LookupError as error:
        raise ConfigError(
            f"model {model!r}: there is no such folder, and {error}. Check the name and the network, or give "
            "model_revision a commit."
        ) from None


def model_folder(model: str, revision: str | None = None) -> str:
    """The folder that every engine loads for a config's `model` and `model_revision`.

    It is that of a shipped model, the user's own, or the local copy of exactly one commit of a model on the hub, which
    is downloaded first: else transformers, TRL and vLLM would each load the newest commit.

    Raises:
        ConfigError: No such folder, a model or commit that cannot be loaded, or an adapter on the hub.
        FileNotFoundError: A shipped model is missing.
    """
    if (path := local_model(model)) is not None:
        return str(path)
    commit = model_commit(model, revision)
    try:
        folder = hub_snapshot(model, commit)
    except LookupError as error:
        raise ConfigError(
            f"model {model!r}, model_revision {revision!r}: {error}. Check the network, and that model_revision is one "
            "of this model (null: its newest)."
        ) from error
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        # Its commit does not determine its base model, which transformers would load from the hub, the newest.
        raise ConfigError(
            f"model {model!r} is an adapter on the hub. Download it into a folder and give that: there its base model "
            "counts too."
        )
    return str(folder)


def load_training_data(config: TrainingConfig) -> Loaded:
    """The training set of a config; with `drop_overlaps`, without the problems of the benchmarks.

    Raises:
        DataError: A published data set is missing or changed.
        ConfigError: `drop_overlaps` leaves no problem, or the suite is mini, which has no overlaps.
    """
    loaded = _whole_training_set(config)
    if not config.drop_overlaps:
        return loaded
    kept, dropped = drop_overlaps(loaded.problems, _all_benchmarks(config))
    if not kept:
        raise ConfigError("drop_overlaps leaves no training problem: all are in the benchmarks.")
    return Loaded(kept, loaded.source | {"dropped": len(dropped)})


def check_problem_count(config: TrainingConfig, loaded: Loaded | None = None) -> None:
    """Check that the training set fills one step; TRL drops the rest of the problems, and would train no step.

    Without `loaded`, which costs nothing, only what `train_problems` says is checked.

    Raises:
        ConfigError: There are fewer than `prompts_per_step` problems.
    """
    if loaded is not None:
        count, source = len(loaded.problems), loaded.source
        left_out = [
            f"{source[key]} left out by {name}"
            for key, name in (("dropped", "drop_overlaps"), ("too_long", "max_prompt_length"))
            if source.get(key)
        ]
        detail = f" ({', '.join(left_out)})" if left_out else ""
    elif config.train_problems is None:
        return
    else:
        families = len(get_suite(config.suite).benchmarks) if config.suite.startswith("mini") else 1
        count = config.train_problems * families
        detail = f" ({families} task families)" if families > 1 else ""
    if count < config.prompts_per_step:
        given = "null" if config.train_problems is None else config.train_problems
        raise ConfigError(
            f"train_problems {given}: the training set has {count} problems{detail}, and a generation batch needs "
            f"{config.prompts_per_step} different ones (prompts_per_step). Raise train_problems or lower "
            "prompts_per_step."
        )


def leave_out_long_prompts(loaded: Loaded, suite: Suite, tokenizer: "PreTrainedTokenizerBase", limit: int) -> Loaded:
    """The training set without problems whose prompt has more than `limit` tokens.

    Raises:
        ConfigError: No problem is left.
    """
    texts = [render(tokenizer, suite.prompt(problem)) for problem in loaded.problems]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    kept = [problem for problem, length in zip(loaded.problems, lengths, strict=True) if length <= limit]
    if not kept:
        raise ConfigError(f"max_prompt_length {limit} leaves no training problem; the shortest has {min(lengths)}.")
    if len(kept) == len(loaded.problems):
        return loaded
    return Loaded(kept, loaded.source | {"too_long": len(loaded.problems) - len(kept)})


def asked_problems(config: TrainingConfig, loaded: Loaded) -> Sequence[Problem]:
    """The training set, which the trainer shuffles; with `training_stages`, the problems of every step in order.

    Raises:
        ConfigError: A stage has fewer problems than one step needs.
    """
    if config.training_stages == 1:
        return loaded.problems
    try:
        return staged(loaded.problems, config.training_stages, config.max_steps, config.prompts_per_step, config.seed)
    except ValueError as error:
        raise ConfigError(
            f"training_stages {config.training_stages}: {error}. Raise train_problems, or lower training_stages or "
            "prompts_per_step."
        ) from error


def find_overlaps(config: TrainingConfig) -> list[tuple[str, str, str]]:
    """Training problems that are in a benchmark of the suite: (training id, benchmark's id, "equal" or "near 0.83").

    Raises:
        DataError: A published data set is missing or changed.
        ConfigError: The suite is mini, which has no overlaps.
    """
    return overlaps(_whole_training_set(config).problems, _all_benchmarks(config))


def _whole_training_set(config: TrainingConfig) -> Loaded:
    suite = get_suite(config.suite, data_dir=config.data_dir)
    return suite.training(config.train_problems, config.data_seed, config.data_dir, config.data_revisions)


def _all_benchmarks(config: TrainingConfig) -> list[Problem]:
    if config.suite.startswith("mini"):  # sums that differ in a sign would count as overlaps
        raise ConfigError(
            "The splits of the mini tasks share no question; overlaps exist in published sets and your own only."
        )
    suite, source = get_suite(config.suite, data_dir=config.data_dir), (config.data_dir, config.data_revisions)
    return [problem for name in suite.benchmarks for problem in suite.benchmark(name, None, 0, *source).problems]


def reward_functions(
    config: TrainingConfig, suite: Suite, loaded: Loaded, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[RewardFunction], list[float]]:
    """The rewards whose weight is not 0, and their weights.

    Raises:
        ConfigError: All weights are 0.
    """
    chosen: list[tuple[RewardFunction, float]] = []
    if config.reward_accuracy:
        chosen.append((accuracy_reward(suite, loaded.problems), config.reward_accuracy))
    if config.reward_format:
        chosen.append((format_reward(think_opened(tokenizer)), config.reward_format))
    if not chosen:
        raise ConfigError("reward_accuracy and reward_format are both 0: there is nothing to learn.")
    return [function for function, _ in chosen], [weight for _, weight in chosen]
