"""A real pretrained model on real problems, end to end on a CPU: evaluated, and trained for two steps.

Slow (minutes), so not part of the default run: `make test-slow`.
"""

import os

import pytest

from tampo.config import load_params
from tampo.engines import TransformersEngine
from tampo.evaluate import evaluate, load_benchmarks, problem_scores
from tampo.prompts import think_opened
from tampo.training import train
from tests.smollm import needs_smollm, save_smollm

DATA = os.environ.get("TAMPO_DATA_DIR")
pytestmark = [
    pytest.mark.slow,
    needs_smollm,
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
    overrides = {"data_dir": DATA, "model": str(smollm), "train_problems": 8, "steps": 2, "prompts_per_step": 2}
    overrides |= {"num_generations": 4, "micro_batch": 4, "max_completion_length": 64, "meta_warmup_ratio": 0.5}
    overrides |= {"rollout_engine": "transformers", "gradient_checkpointing": False, "precision": "fp32"}
    config = load_params("paper", overrides | {"learning_rate": 1e-5, "warmup_ratio": 0.0}).training()
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
