"""Evaluations, trajectories and figure 2 end at the same tokens, wherever a model names them; nothing else matters."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tampo.config import load_params
from tampo.decoding import DecodingRules, decoding_rules, plain_generation, unused_settings
from tampo.inference.evaluate import evaluate
from tampo.inference.transformers_engine import TransformersEngine, sample_tokens
from tampo.paper.overhead_parts import measure_evaluation
from tampo.paper.trajectories import load_language_model, sample_trajectories
from tampo.tasks.mini_model import mini_model_path
from tests.helpers import ADVICE, ENDS, NO_TOKENS, changed_model

PROMPTS = ["1+2=", "3+4=", "a"]
LIMIT = 30


@pytest.fixture(params=ENDS)
def member(request, tiny_model_path, tmp_path):
    """A model's folder and its end tokens."""
    files, ends = ENDS[request.param]
    return str(changed_model(tiny_model_path, tmp_path / "model", **files)), ends


def check_ends(completions, ends, pad):
    """Each completion ends at its first end token or at the limit, and each end token ends some."""
    for tokens, truncated in completions:
        assert not ends & set(tokens[:-1])
        assert len(tokens) == LIMIT or tokens[-1] in ends
        assert truncated == (tokens[-1] not in ends | {pad})
    assert {tokens[-1] for tokens, _ in completions if len(tokens) < LIMIT} == ends


def test_rules_are_the_same_from_a_model_and_from_its_folder(member):
    folder, ends = member
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rules = decoding_rules(AutoModelForCausalLM.from_pretrained(folder), tokenizer)
    assert rules == decoding_rules(folder, tokenizer)
    assert set(rules.ends) == ends and len(rules.ends) == len(ends)
    assert 0 <= rules.pad < 21


def test_an_evaluation_ends_at_every_end_token(member):
    folder, ends = member
    engine = TransformersEngine(folder)
    pad = decoding_rules(folder, engine.tokenizer).pad
    sampled = sample_tokens(engine.model, engine.tokenizer, PROMPTS * 80, 1.0, LIMIT, range(240))
    check_ends(sampled, ends, pad)
    for c in engine.generate(PROMPTS, 20, 1.0, LIMIT, seed=0)[0]:
        assert c.tokens == LIMIT or not c.truncated


def test_trajectories_and_figure_2_end_at_every_end_token(member):
    folder, ends = member
    model = load_language_model(folder)
    rollouts = sample_trajectories(model, PROMPTS, 80, 1.0, LIMIT, seed=0)
    check_ends([(list(t.tokens), t.truncated) for t in rollouts], ends, model.tokenizer.pad_token_id)


def test_the_benchmark_of_evaluations_compares_like_with_like(member):
    """Both cases end at the same tokens: without one of the ends, mean lengths would be 1.5 times as long or more."""
    folder, _ = member
    params = {"eval_problems": 40, "eval_samples": 8, "benchmarks": "chain_sum", "eval_max_completion_length": LIMIT}
    table = measure_evaluation(load_params("mini", params).evaluation(), folder, rounds=1)
    tokens = table.groupby("case")["tokens"].mean()
    assert tokens["tampo"] == pytest.approx(tokens["generate"], rel=0.2)


@pytest.mark.parametrize("ids", [5, [5], (5, 1), torch.tensor(5), torch.tensor([5, 1])], ids=str)
def test_ids_may_be_numbers_sequences_or_tensors(tiny_model_path, ids):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    model.generation_config.eos_token_id = ids
    assert decoding_rules(model, AutoTokenizer.from_pretrained(tiny_model_path)) == DecodingRules((1, 5), 0)


def test_a_model_object_without_generation_config(tiny_model_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    model.generation_config = None
    assert decoding_rules(model, tokenizer).ends == (1,)
    tokenizer.eos_token, model.config.eos_token_id = None, [7, 8]
    assert decoding_rules(model, tokenizer).ends == (7, 8)
    assert sample_tokens(model, tokenizer, PROMPTS, 1.0, 4, range(3))


@pytest.mark.parametrize(
    ("tokenizer", "ids"), [(NO_TOKENS, None), ({"eos_token": "<new>"}, [99]), (NO_TOKENS, []), (NO_TOKENS, -1)]
)
def test_a_model_that_never_ends_is_refused_at_the_start(tiny_model_path, tmp_path, tokenizer, ids):
    none = {"generation_config": {"eos_token_id": ids}, "config": {"eos_token_id": None}}
    folder = str(changed_model(tiny_model_path, tmp_path / "model", tokenizer_config=tokenizer, **none))
    message = rf"{re.escape(folder)} has no end token: .*21 tokens.* Set eos_token_id in .*generation_config.json"
    for load in (TransformersEngine, load_language_model):
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_truncated_as_in_trl():
    rules = DecodingRules((1, 5), 0)
    ends = [rules.truncated(tokens) for tokens in ([2, 1], [5], [2, 0], [1, 2], [])]
    assert ends == [False, False, False, True, True]


def test_advice_of_a_generation_config_changes_no_sample(tiny_model_path, tmp_path):
    advised = str(changed_model(tiny_model_path, tmp_path / "model", generation_config=ADVICE))
    plain, other = (TransformersEngine(path) for path in (str(tiny_model_path), advised))
    assert other.model.generation_config.min_p == 0.9
    assert other.generate(PROMPTS, 8, 1.0, LIMIT, seed=3) == plain.generate(PROMPTS, 8, 1.0, LIMIT, seed=3)
    rollouts = [
        sample_trajectories(load_language_model(str(path)), PROMPTS, 8, 1.3, LIMIT, seed=0)
        for path in (tiny_model_path, advised)
    ]
    assert rollouts[0] == rollouts[1]


@pytest.mark.parametrize(("name", "value"), [*ADVICE.items(), ("do_sample", False)])
def test_plain_generation_takes_no_advice(tiny_model_path, name, value):
    """But what a call of `generate` says stays in force, and the model keeps its settings."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    inputs = torch.tensor([[3, 4, 5]] * 8)
    settings = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=8, eos_token_id=1, pad_token_id=0)

    def sample():
        torch.manual_seed(0)
        with plain_generation(model):
            return model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=settings)

    expected = sample()
    setattr(model.generation_config, name, value)
    assert torch.equal(sample(), expected)
    assert getattr(model.generation_config, name) == value
    if name not in ("do_sample", "temperature", "top_k", "max_new_tokens", "max_length"):
        assert unused_settings(model, settings) == [name]
    settings.top_k = 1
    assert len(sample().unique(dim=0)) == 1


@pytest.mark.parametrize(
    "generation",
    [{"eos_token_id": 300}, {"eos_token_id": None}, {"eos_token_id": [5, 300]} | ADVICE, None],
    ids=["another", "none", "a list and advice", "no file"],
)
def test_the_base_row_of_a_table_is_as_ever(tmp_path, generation):
    """The mini model never samples token 5 or 300 in these completions."""
    config = load_params("mini", {"eval_problems": 8, "eval_samples": 2}).evaluation()
    base = str(mini_model_path())
    changed = str(changed_model(mini_model_path(), tmp_path / "model", generation_config=generation))
    expected, found = (evaluate(TransformersEngine(path), config) for path in (base, changed))
    assert expected["tokens"].mean() < 40
    assert found.equals(expected)
