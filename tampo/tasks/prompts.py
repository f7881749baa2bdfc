r"""Chat prompts, and whether a completion has the format that they ask for.

The system prompt asks for reasoning in <think></think>, then the answer in <answer></answer> with its result in
`\boxed{}`. Some chat templates (DeepSeek-R1-Distill's) open the think block, so that a completion starts inside it;
others (Qwen2.5's) do not. `think_opened` tells them apart.
"""

import re
from collections.abc import Sequence
from typing import Any

from tampo.context import UnsuitableModel
from tampo.tasks.mini import LETTERS, Problem

Message = dict[str, str]  # {"role": "system" | "user", "content": text}

_FORM = (
    "First think the problem through, step by step, between <think> and </think>. "
    "Then give a short answer between <answer> and </answer>, and nothing after it. "
)
MATH_SYSTEM = _FORM + (
    r"The answer must state the final result in \boxed{}; "
    "if the problem has several results, put them all into the same box, separated by commas."
)
CHOICE_SYSTEM = _FORM + r"The answer must name the one best option by its letter alone in \boxed{}."

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BLOCKS = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)


def math_messages(question: str) -> list[Message]:
    """System and user message of a mathematics question, for TRL or `render`."""
    return [{"role": "system", "content": MATH_SYSTEM}, {"role": "user", "content": question}]


def choice_messages(question: str, choices: Sequence[str]) -> list[Message]:
    """System and user message of a multiple-choice question. Raises ValueError unless there are five options."""
    if len(choices) != len(LETTERS):
        raise ValueError(f"expected {len(LETTERS)} options, got {len(choices)}")
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    content = "\n".join([question, "", *options])
    return [{"role": "system", "content": CHOICE_SYSTEM}, {"role": "user", "content": content}]


def problem_messages(problem: Problem) -> list[Message]:
    """The chat for a problem of `tampo.tasks.published`: multiple choice if it has choices, else mathematics."""
    choices = problem.metadata.get("choices")
    return choice_messages(problem.question, choices) if choices else math_messages(problem.question)


def render(tokenizer: Any, prompt: str | list[Message]) -> str:
    """The prompt as text, up to the model's turn; a text stays as it is.

    A template adds the beginning-of-sequence token: encode the text with add_special_tokens=False. Raises
    UnsuitableModel if the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise UnsuitableModel(f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: use a chat model")
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)


def think_opened(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template ends a prompt with an open <think>. Raises as `render` does."""
    # No system message: some templates refuse it, and tampo's contains tags.
    return render(tokenizer, [{"role": "user", "content": "1 + 1"}]).rstrip().endswith("<think>")


def format_ok(completion: str, opened_think: bool) -> bool:
    r"""Whether a completion is one think block and one answer block, with only whitespace around them.

    The think block must not be blank, the answer must hold a `\boxed{`, and each tag must occur once.

    Args:
        completion: Text of the model, without special tokens.
        opened_think: The prompt ends with <think>, so the completion must not repeat it (`think_opened`).

    Example:
        >>> format_ok(r"<think>1 + 1 is 2.</think><answer>\boxed{2}</answer>", opened_think=False)
        True
        >>> format_ok(r"1 + 1 is 2.</think><answer>\boxed{2}</answer>", opened_think=True)
        True
    """
    text = f"<think>{completion}" if opened_think else completion
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    blocks = _BLOCKS.fullmatch(text)
    return blocks is not None and bool(blocks[1].strip()) and r"\boxed{" in blocks[2]
