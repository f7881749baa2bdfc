"""Checks that prompts and completions fit into the context of the model and of the engine, before any is sampled."""

from collections.abc import Iterable
from typing import Any, cast

from datasets import Dataset
from trl import GRPOTrainer

from tampo.context import check_context, context_limit
from tampo.trainer.config import TAMPOConfig
from tampo.trainer.positions import check_grouping, rope_limit
from tampo.trainer.trl_internals import tokenize_prompts

_AT_ONCE = 1000  # prompts tokenised at a time
_TEMPLATE = 1000  # more tokens than a chat template adds


def check_datasets(trainer: GRPOTrainer, config: Any) -> None:
    """`check_prompts` for the training data and all evaluation data that are in memory or on disk, when it is built.

    Args:
        trainer: Newly built, with a `TAMPOConfig`.
        config: The policy's config.
    """
    for dataset in _datasets(trainer):
        if isinstance(dataset, Dataset):
            check_prompts(trainer, config, cast(Any, dataset)["prompt"])


def check_batch(trainer: GRPOTrainer, config: Any, inputs: list[dict[str, Any]]) -> None:
    """`check_prompts` for a batch, where the data are a stream."""
    if not all(isinstance(dataset, Dataset) for dataset in _datasets(trainer)):
        check_prompts(trainer, config, [example["prompt"] for example in inputs])


def check_prompts(trainer: GRPOTrainer, config: Any, prompts: Iterable[Any]) -> None:
    """Check prompts, texts or chats, with completions of `max_completion_length`.

    Prompts of multimodal models, and those with tools or environments, are not checked.

    Raises:
        UnsuitableModel: They do not fit (see `check_context`), or groups of such lengths would change positions.
    """
    args = cast(TAMPOConfig, trainer.args)
    completion = cast(int, args.max_completion_length)
    stated, engine = context_limit(config), None
    if args.use_vllm and args.vllm_max_model_length:
        engine = args.vllm_max_model_length, "vllm_max_model_length"
    grouped = args.scoring_batch_size is not None
    limits = [limit[0] for limit in (stated, engine) if limit is not None]
    if grouped and (changing := rope_limit(config)) is not None:
        limits.append(changing)
    extended = getattr(trainer, "tools", None) or getattr(trainer, "environment_factories", None)
    if not limits or extended or config is not config.get_text_config():
        return
    longest = _longest(trainer, prompts, min(limits) - completion)
    if longest is not None:
        check_context(
            config, longest, completion, "max_completion_length", "max_prompt_length of `tampo train`", engine
        )
        if grouped:
            check_grouping(config, longest + completion)


def _datasets(trainer: GRPOTrainer) -> list[Any]:
    evaluation = trainer.eval_dataset
    datasets = [trainer.train_dataset, *(evaluation.values() if isinstance(evaluation, dict) else [evaluation])]
    return [dataset for dataset in datasets if dataset is not None]


def _longest(trainer: GRPOTrainer, prompts: Iterable[Any], room: int) -> int | None:
    """Tokens of the longest prompt; None where all have at most `room`.

    A token of a text is at least one byte, so that only long prompts need to be tokenised.
    """
    long = [prompt for prompt in prompts if len(str(prompt).encode(errors="replace")) + _TEMPLATE > room]
    lengths = [
        len(ids)
        for start in range(0, len(long), _AT_ONCE)
        for ids in tokenize_prompts(trainer, long[start : start + _AT_ONCE])
    ]
    longest = max(lengths, default=0)
    return longest if longest > room else None
