"""VLLMEngine against the model it samples from, and against TransformersEngine."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tampo.config import load_params
from tampo.decoding import DecodingRules
from tampo.inference.engine import Engine
from tampo.inference.evaluate import evaluate, make_engine, problem_scores
from tampo.inference.vllm_engine import VLLMEngine
from tampo.tasks.mini import format_prompt, make_problems
from tests.helpers import sampling_p_value

PROMPTS = [format_prompt(problem.question) for problem in make_problems("chain_sum", 12, 0, "test")]


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_first_tokens_follow_the_tempered_softmax(engine: VLLMEngine, mini: str, temperature: float) -> None:
    """Chi-square over 4,000 samples of one prompt, whose seeds are neighbours."""
    sampled = engine.generate(PROMPTS[:1], 4000, temperature, 1, seed=1)[0]
    tokenizer = AutoTokenizer.from_pretrained(mini)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(mini, dtype=torch.float32)
        logits = model(tokenizer(PROMPTS[0], return_tensors="pt").input_ids).logits[0, -1].double()
    texts = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(logits))]
    counts = pd.Series([c.text for c in sampled]).value_counts()

    def p_value(t: float) -> float:
        expected = pd.Series(torch.softmax(logits / t, -1).numpy()).groupby(texts).sum()
        return sampling_p_value(counts.reindex(expected.index, fill_value=0).to_numpy(), expected.to_numpy())

    print(f"T = {temperature}: p = {p_value(temperature):.3f}, were it T = 1: p = {p_value(1.0):.1e}")
    assert p_value(temperature) > 1e-3
    assert p_value(1.0) < 1e-6, "the test must be able to tell temperatures apart"


def test_completions_end_at_the_decoding_rules_alone(
    engine: VLLMEngine, mini: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At tokens that vLLM does not know as ends, and not at its own end token."""
    sign = engine.tokenizer("=")["input_ids"][0]
    monkeypatch.setattr(engine, "_rules", DecodingRules((sign,), sign))
    for completion in (c for row in engine.generate(PROMPTS, 8, 1.0, 40, seed=5) for c in row):
        assert "=" not in completion.text[:-1]
        assert completion.text.endswith("=") != completion.truncated
        assert completion.tokens == 40 or not completion.truncated


def test_accuracies_agree_with_transformers(engine: VLLMEngine, mini: str) -> None:
    """100 problems, 4 samples each: the mean of the problems' differences is within 3 standard errors of 0."""
    config = load_params("mini", {"eval_problems": 20, "eval_samples": 4}).evaluation()
    scores = {}
    for name, chosen in {"vllm": engine, "transformers": make_engine("transformers", mini)}.items():
        start = time.perf_counter()
        samples = evaluate(chosen, config)
        seconds = time.perf_counter() - start
        scores[name] = problem_scores(samples)["avg@4"].to_numpy()
        print(
            f"{name}: avg@4 {scores[name].mean():.2f} %, {samples['tokens'].sum() / seconds:.0f} tokens/s, "
            f"{samples['tokens'].mean():.2f} tokens a sample, {100 * samples['truncated'].mean():.1f} % truncated"
        )
    differences = scores["vllm"] - scores["transformers"]
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    print(f"difference {differences.mean():+.2f} +- {error:.2f} points")
    assert len(differences) == 100
    assert abs(differences.mean()) < 3 * error
    assert error < 4


def test_a_completion_depends_on_seed_and_place_not_on_its_batch(engine: VLLMEngine) -> None:
    first = engine.generate(PROMPTS, 4, 1.0, 40, seed=5)
    assert engine.generate(PROMPTS, 4, 1.0, 40, seed=5) == first
    assert engine.generate(PROMPTS[:2], 4, 1.0, 40, seed=5) == first[:2]
    assert [row[:2] for row in first] == engine.generate(PROMPTS, 2, 1.0, 40, seed=5)
    assert engine.generate(PROMPTS, 4, 1.0, 40, seed=6) != first
    assert len({completion for row in first for completion in row}) > 1


def test_ends_and_lengths_are_those_of_transformers(engine: VLLMEngine, mini: str) -> None:
    """Nearly greedy, both engines write the same; the end token counts, and an end at the limit is not a cut."""

    def sample(chosen: Engine, limit: int) -> list:
        return chosen.generate(PROMPTS, 1, 0.01, limit, seed=0)

    other = make_engine("transformers", mini)
    whole = sample(engine, 64)
    agreeing = np.mean([a == b for a, b in zip(whole, sample(other, 64), strict=True)])
    print(f"equal completions at T = 0.01: {agreeing:.0%}")
    assert agreeing > 0.8, "but for near ties"
    assert not any(row[0].truncated for row in whole)
    limit = whole[0][0].tokens
    exact, short = engine.generate(PROMPTS[:1], 1, 0.01, limit, 0), engine.generate(PROMPTS[:1], 1, 0.01, limit - 1, 0)
    assert exact == whole[:1]
    assert short[0][0].truncated and short[0][0].tokens == limit - 1


def test_more_prompts_at_once_than_vllm_prefills_in_a_step(engine: VLLMEngine) -> None:
    """vLLM must not split the prompt of a seeded request on the CPU; unasked, it would, and the engine would die."""
    many = engine.generate(PROMPTS * 60, 1, 1.0, 4, seed=5)
    assert len(many) == 720
    assert many[:12] == engine.generate(PROMPTS, 1, 1.0, 4, seed=5)


def test_no_prompts_give_no_completions(engine: VLLMEngine) -> None:
    assert engine.generate([], 2, 1.0, 4, seed=0) == []
