"""Prompts: messages, the two kinds of chat template, and the format of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tampo.tasks.mini import Problem
from tampo.tasks.prompts import choice_messages, format_ok, math_messages, problem_messages, render, think_opened

# Short forms of the two real templates' shapes: Qwen2.5's ChatML with its default system message, and that of
# DeepSeek-R1-Distill, which writes the system message bare, drops old thoughts and opens the think block.
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
# Qwen3 without thinking closes the block at once, and some models refuse a system message.
CLOSED = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + DEEPSEEK


def tokenizer(template):
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0}, "<s>")), bos_token="<s>")
    made.chat_template = template
    return made


def test_math_chat_asks_for_tags_and_box():
    system, user = math_messages("What is 1 + 1?")
    assert (system["role"], user) == ("system", {"role": "user", "content": "What is 1 + 1?"})
    for part in ("<think>", "</think>", "<answer>", "</answer>", r"\boxed{}"):
        assert part in system["content"]


def test_choice_chat_letters_the_options():
    system, user = choice_messages("Where is a cat?", ["mat", "sea", "sky", "sun", "pan"])
    assert user["content"] == "Where is a cat?\n\nA. mat\nB. sea\nC. sky\nD. sun\nE. pan"
    assert "letter" in system["content"] and r"\boxed{}" in system["content"]


@pytest.mark.parametrize("count", [0, 4, 6])
def test_choice_chat_needs_five_options(count):
    with pytest.raises(ValueError, match=f"expected 5 options, got {count}"):
        choice_messages("?", ["x"] * count)


def test_a_problem_is_asked_by_its_kind():
    choices = ["a", "b", "c", "d", "e"]
    assert problem_messages(Problem("1", "ECQA", "Q?", "A", {"choices": choices})) == choice_messages("Q?", choices)
    assert problem_messages(Problem("1", "AMC23", "Q?", "3", {})) == math_messages("Q?")


def test_render_chatml():
    system, user = math_messages("What is 1 + 1?")
    assert render(tokenizer(CHATML), [system, user]) == (
        f"<|im_start|>system\n{system['content']}<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_render_deepseek():
    system, user = math_messages("What is 1 + 1?")
    text = render(tokenizer(DEEPSEEK), [system, user])
    assert text == f"<s>{system['content']}<｜User｜>What is 1 + 1?<｜Assistant｜><think>\n"


@pytest.mark.parametrize(
    ("template", "opened"), [(CHATML, False), (DEEPSEEK, True), (CLOSED, False), (NO_SYSTEM, True)]
)
def test_think_opened(template, opened):
    assert think_opened(tokenizer(template)) is opened


def test_without_a_template_it_says_so():
    with pytest.raises(ValueError, match="has no chat template"):
        think_opened(tokenizer(None))


GOOD = "<think>\none and one\n</think>\n\n<answer>\nIt is $\\boxed{2}$.\n</answer>"


@pytest.mark.parametrize("text", [GOOD, f"\n {GOOD}\n", GOOD.replace("\n", ""), GOOD.replace("one and", "\u2028 é")])
def test_format_is_the_same_for_both_kinds_of_template(text):
    assert format_ok(text, opened_think=False)
    assert format_ok(text.lstrip().removeprefix("<think>"), opened_think=True)


@pytest.mark.parametrize("text", [GOOD, f"\n {GOOD}\n"])
def test_an_opened_block_must_not_be_opened_again(text):
    assert not format_ok(text, opened_think=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        GOOD.removeprefix("<think>"),
        GOOD.removesuffix("</answer>"),
        GOOD.replace("</think>", ""),
        GOOD.replace("\none and one\n", " \n"),
        GOOD.replace("\\boxed{2}", "2"),
        GOOD.replace("It is $\\boxed{2}$.", ""),
        GOOD.replace("one", "<answer>one</answer>"),
        GOOD.replace("one", "one</think>"),
        f"Sure. {GOOD}",
        f"{GOOD} Done.",
        f"{GOOD}<|im_end|>",
        GOOD.replace("</think>", "</think> So"),
        GOOD + GOOD,
        "<answer>\\boxed{2}</answer><think>late</think>",
        "<think><answer>\\boxed{2}</think></answer>",
        GOOD.upper(),
    ],
)
def test_bad_formats(text):
    assert not format_ok(text, opened_think=False)
    if text.lstrip().startswith("<think>"):
        assert not format_ok(text.lstrip().removeprefix("<think>"), opened_think=True)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", "\\boxed{", " ", "\n"])))
def test_format_never_raises_and_opening_is_a_prefix(parts):
    text = "".join(parts)
    assert format_ok(text, opened_think=True) == format_ok("<think>" + text, opened_think=False)


@pytest.mark.parametrize("filler", ["x", " ", "\n", "<think", "\\boxed{"])
def test_a_long_completion_takes_no_time(filler):
    body = filler * 200_000
    assert format_ok(f"<think>a{body}</think>{' ' * 50_000}<answer>\\boxed{{1}}{body}</answer>", opened_think=False)
    assert not format_ok(f"<think>a{body}</think>{body}", opened_think=False)
