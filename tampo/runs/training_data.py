"""The inputs of a training run: the model's folder, the problems, and the reward functions."""

from transformers import PreTrainedTokenizerBase

from tampo.config import ConfigError, TrainingConfig
from tampo.tasks.mini import Problem
from tampo.tasks.mini_model import RECIPES, mini_model_path
from tampo.tasks.overlaps import drop_overlaps, overlaps
from tampo.tasks.prompts import render, think_opened
from tampo.tasks.published import Loaded
from tampo.tasks.rewards import RewardFunction, accuracy_reward, format_reward
from tampo.tasks.suites import Suite, get_suite


def model_folder(model: str) -> str:
    """What transformers loads for a config's `model`: the folder of a bundled model, else the value itself."""
    return str(mini_model_path(model)) if model in RECIPES else model


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


def leave_out_long_prompts(loaded: Loaded, suite: Suite, tokenizer: PreTrainedTokenizerBase, limit: int) -> Loaded:
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


def find_overlaps(config: TrainingConfig) -> list[tuple[str, str, str]]:
    """Training problems that are in a benchmark of the suite: (training id, benchmark's id, "equal" or "near 0.83").

    Raises:
        DataError: A published data set is missing or changed.
        ConfigError: The suite is mini, which has no overlaps.
    """
    return overlaps(_whole_training_set(config).problems, _all_benchmarks(config))


def _whole_training_set(config: TrainingConfig) -> Loaded:
    suite = get_suite(config.suite)
    return suite.training(config.train_problems, config.data_seed, config.data_dir, config.data_revisions)


def _all_benchmarks(config: TrainingConfig) -> list[Problem]:
    if config.suite.startswith("mini"):  # sums that differ in a sign would count as overlaps
        raise ConfigError("The splits of the mini tasks share no question; overlaps exist in published sets only.")
    suite, source = get_suite(config.suite), (config.data_dir, config.data_revisions)
    return [problem for name in suite.benchmarks for problem in suite.benchmark(name, None, 0, *source).problems]


def reward_functions(
    config: TrainingConfig, suite: Suite, loaded: Loaded, tokenizer: PreTrainedTokenizerBase
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
