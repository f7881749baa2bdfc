"""Scores against hand-computed ones; the engine against the model it samples from."""

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tampo.config import ConfigError, EvaluationConfig, load_params
from tampo.inference.engine import Completion
from tampo.inference.evaluate import evaluate, load_benchmarks, problem_scores
from tampo.inference.precision import evaluation_dtype
from tampo.inference.transformers_engine import TransformersEngine
from tampo.tasks.mini import TASKS, make_problems
from tests.helpers import sampling_p_value


class Parrot:
    """An engine that knows the golds: sample s of problem i is right iff (i + s) % 3 == 0."""

    tokenizer = None

    def __init__(self, golds):
        self.golds, self.calls = golds, 0

    def generate(self, prompts, samples, temperature, max_tokens, seed, indices):
        self.calls += 1
        return [
            [
                Completion(f"\\boxed{{{self.golds[prompt] if (i + s) % 3 == 0 else 'x'}}}", 5, False)
                for s in range(samples)
            ]
            for i, prompt in zip(indices, prompts, strict=True)
        ]


@pytest.fixture
def parrot():
    problems = [p for task in TASKS for p in make_problems(task, 10, 0, "test")]
    return Parrot({f"{p.question}\n": p.answer for p in problems})


def test_scores_of_known_answers(parrot):
    config = load_params("mini", {"eval_problems": 6, "eval_samples": 4}).evaluation()
    samples = evaluate(parrot, config)
    assert parrot.calls == len(TASKS), "one batched call a benchmark"
    assert len(samples) == len(TASKS) * 6 * 4
    scores = problem_scores(samples)
    assert set(scores["benchmark"]) == set(TASKS)
    one = scores[scores["benchmark"] == TASKS[0]]
    assert one["pass@1"].tolist() == [100, 0, 0, 100, 0, 0]
    assert one["avg@4"].tolist() == [50, 25, 25, 50, 25, 25]
    assert one["pass@4"].tolist() == [100] * 6
    assert samples.loc[~samples["correct"], "answer"].eq("x").all()


def test_pass_at_one_is_the_first_sample_whatever_the_order_of_rows(parrot):
    config = load_params("mini", {"eval_problems": 5, "eval_samples": 3}).evaluation()
    samples = evaluate(parrot, config)
    mixed = samples.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        problem_scores(samples).sort_values("problem_id", ignore_index=True),
        problem_scores(mixed).sort_values("problem_id", ignore_index=True),
    )


def test_one_sample_has_no_other_metric(parrot):
    config = load_params("mini", {"eval_problems": 2, "eval_samples": 1, "benchmarks": "gcd"}).evaluation()
    scores = problem_scores(evaluate(parrot, config))
    assert list(scores.columns) == ["benchmark", "problem_id", "pass@1"]


def test_missing_samples_are_noticed(parrot):
    config = load_params("mini", {"eval_problems": 2, "eval_samples": 3, "benchmarks": "gcd"}).evaluation()
    with pytest.raises(ValueError, match=r"differ in their number of samples: \[2, 3\]"):
        problem_scores(evaluate(parrot, config).iloc[1:])


def test_unknown_benchmark_is_named():
    with pytest.raises(ConfigError, match="Unknown benchmark 'sudoku' in benchmarks; known are chain_sum"):
        load_benchmarks(load_params("mini", {"benchmarks": "sudoku"}).evaluation())


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_engine_samples_at_the_temperature(tiny_model_path, temperature):
    engine = TransformersEngine(str(tiny_model_path), batch=512)
    sampled = engine.generate(["3+4="], 3000, temperature, 1, seed=1)[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tiny_model_path)(tokenizer("3+4=", return_tensors="pt").input_ids)
    probabilities = torch.softmax(logits.logits[0, -1].double() / temperature, -1).numpy()
    texts = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(probabilities))]
    expected = pd.Series(probabilities).groupby(texts).sum()  # both special tokens decode to nothing
    counts = pd.Series([c.text for c in sampled]).value_counts().reindex(expected.index, fill_value=0)
    assert sampling_p_value(counts.to_numpy(), expected.to_numpy()) > 1e-3


def test_engine_is_reproducible_ordered_and_marks_truncation(tiny_model_path):
    engine = TransformersEngine(str(tiny_model_path), batch=4)
    prompts = ["1+1=", "2+2=4 3+3=", "5="]
    first = engine.generate(prompts, 3, 1.0, 12, seed=5)
    assert first == engine.generate(prompts, 3, 1.0, 12, seed=5)
    assert first != engine.generate(prompts, 3, 1.0, 12, seed=6)
    assert [len(row) for row in first] == [3, 3, 3]
    for completion in (c for row in first for c in row):
        assert completion.truncated == (completion.tokens == 12) or completion.tokens == 12
        assert len(completion.text) <= completion.tokens
    assert len({c.tokens for row in first for c in row}) > 1


def test_samples_do_not_depend_on_what_else_is_sampled(tiny_model_path):
    """Nor on the batch, the other prompts or their order, and a third sample leaves the first two as they were."""
    prompts = ["1+1=", "2+2=4 3+3=", "5=", "0="]
    whole = TransformersEngine(str(tiny_model_path), batch=12).generate(prompts, 3, 1.0, 12, seed=5)
    small = TransformersEngine(str(tiny_model_path), batch=5)
    assert small.generate(prompts, 3, 1.0, 12, seed=5) == whole
    assert small.generate(prompts[:1:-1], 3, 1.0, 12, seed=5) == whole[:1:-1]
    assert [row[:2] for row in whole] == small.generate(prompts, 2, 1.0, 12, seed=5)
    assert len({c.text for row in whole for c in row}) > 8, "samples of a prompt differ"


def test_engine_leaves_the_callers_random_state_alone(tiny_model_path):
    engine = TransformersEngine(str(tiny_model_path))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    engine.generate(["1="], 2, 1.0, 4, seed=9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("wanted", "gpu", "has_bf16", "expected"),
    [
        ("auto", False, False, "float32"),
        ("auto", True, True, "bfloat16"),
        ("auto", True, False, "float16"),
        ("fp32", True, True, "float32"),
        ("fp16", False, False, "eval_dtype fp16 needs a GPU"),
        ("bf16", True, False, "eval_dtype bf16 is not supported by this GPU"),
    ],
)
def test_every_model_of_an_evaluation_has_one_precision(monkeypatch, wanted, gpu, has_bf16, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: has_bf16)
    config = EvaluationConfig(eval_dtype=wanted)
    if " " in expected:
        with pytest.raises(ConfigError, match=expected):
            evaluation_dtype(config)
    else:
        assert evaluation_dtype(config) == expected
    served = EvaluationConfig(eval_dtype=wanted, eval_engine="vllm-server")  # nothing is known of its machine
    assert evaluation_dtype(served) == {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}.get(wanted)


def test_the_precision_does_not_depend_on_the_checkpoint(tiny_model_path, tmp_path):
    half = tmp_path / "half"
    TransformersEngine(str(tiny_model_path), dtype="bfloat16").model.save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model_path).save_pretrained(half)
    for dtype in ("float32", "bfloat16"):
        found = {str(TransformersEngine(str(path), dtype=dtype).model.dtype) for path in (tiny_model_path, half)}
        assert found == {f"torch.{dtype}"}
