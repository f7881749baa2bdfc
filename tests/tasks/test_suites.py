"""Suites behind one protocol, with the published sets where they are."""

import os

import pytest
from transformers import AutoTokenizer

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.inference.evaluate import load_benchmarks
from tampo.runs.training import precision, trainer_config
from tampo.runs.training_data import leave_out_long_prompts, load_training_data
from tampo.tasks.mini import Problem
from tampo.tasks.mini_model import mini_model_path
from tampo.tasks.suites import get_suite

DATA = os.environ.get("TAMPO_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA, reason="TAMPO_DATA_DIR does not name a folder with the benchmark files")


@pytest.mark.parametrize("name", ["mini", "mini-choice", "math", "ecqa"])
def test_contract(name):
    if not name.startswith("mini") and not DATA:
        pytest.skip("TAMPO_DATA_DIR does not name a folder with the benchmark files")
    suite = get_suite(name)
    assert len(suite.benchmarks) == (1 if name in ("mini-choice", "ecqa") else 5)
    for benchmark in suite.benchmarks:
        problems = suite.benchmark(benchmark, 3, 0, DATA, {}).problems
        assert len(problems) == 3
        assert all(problem.task == benchmark for problem in problems)
        right = [f"\\boxed{{{problem.answer}}}" for problem in problems]
        assert [v.status for v in suite.grade(problems, right)] == ["correct"] * 3
        assert [v.correct for v in suite.grade(problems, ["no idea"] * 3)] == [False] * 3
        prompt = suite.prompt(problems[0])
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        assert problems[0].question in text
    assert suite.training(2, 0, DATA, {}).problems


def test_unknown_suite():
    with pytest.raises(ValueError, match="Unknown suite 'maths'; known are mini, mini-choice, mini-facts, math, ecqa"):
        get_suite("maths")


def test_the_grader_is_for_published_sets_only():
    assert load_params("paper", {"grader": "math-verify"}).evaluation().grader == "math-verify"
    with pytest.raises(ConfigError, match="grader"):
        load_params("mini", {"grader": "math-verify"})
    with pytest.raises(ConfigError, match="grader"):
        load_params("paper", {"grader": "sympy"})
    with pytest.raises(ValueError, match="grader 'math-verify' judges the suites math, ecqa and own only"):
        get_suite("mini", "math-verify")
    problem = Problem("1", "MATH-500", "How long is it?", "2 m", {})
    verdicts = [get_suite("math", grader).grade([problem], ["\\boxed{2}"]) for grader in ("tampo", "math-verify")]
    assert [verdict.correct for [verdict] in verdicts] == [False, True]


@needs_data
def test_published_sets_are_known_by_their_content(tmp_path):
    params = load_params("paper", {"data_dir": DATA})
    suite = get_suite("math")
    digests = suite.content(False, suite.benchmarks, DATA, {})
    assert len(digests) == 5
    assert "data_dir" not in params.training().identity()
    assert suite.content(True, (), DATA, {}).keys() & digests.keys() == set()
    assert get_suite("mini").content(True, (), DATA, {}) == {}
    assert DATA not in str(params.evaluation().identity())


@needs_data
def test_overlapping_training_problems_are_dropped():
    config = load_params("paper", {"data_dir": DATA, "drop_overlaps": True}).training()
    loaded = load_training_data(config)
    assert loaded.source["dropped"] > 0
    assert len(loaded.problems) + loaded.source["dropped"] == 15_625


@needs_data
def test_overlaps_are_reported(capsys):
    assert main(["overlaps", "paper", "--data-dir", DATA]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 36
    assert "training problems are in a benchmark" in shown.err


def test_overlaps_are_of_published_sets(capsys):
    assert main(["overlaps", "mini"]) == 2
    assert "splits of the mini tasks share no question" in capsys.readouterr().err


@needs_data
def test_the_papers_benchmarks_are_all_there():
    loaded = load_benchmarks(load_params("paper", {"data_dir": DATA}).evaluation())
    counts = {name: len(benchmark.problems) for name, benchmark in loaded.items()}
    assert counts == {"AIME24": 30, "MATH-500": 500, "AMC23": 40, "Minerva": 272, "OlympiadBench": 675}


def test_the_papers_values():
    """Section 4.1, value by value."""
    config = load_params("paper")
    assert config.model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert (config.max_steps, config.prompts_per_step, config.num_generations) == (200, 32, 8)
    assert (config.learning_rate, config.warmup_steps, config.max_completion_length) == (1e-6, 0.1, 6000)
    assert (config.alpha, config.p, config.meta_warmup_ratio, config.meta_warmup_temperature) == (0.05, 0.7, 0.1, 1.0)
    assert (config.eval_samples, config.eval_temperature, config.eval_max_completion_length) == (8, 1.0, 6000)
    assert load_params("paper-ecqa").model == "Qwen/Qwen2.5-3B-Instruct"


def test_the_papers_trainer(tmp_path, monkeypatch):
    monkeypatch.setattr("tampo.runs.training.precision", lambda wanted, gpu: ("float32", False, False))
    args = trainer_config(load_params("paper").training(rollout_engine="transformers"), tmp_path, processes=8)
    assert args.gradient_accumulation_steps == 8
    assert args.lr_scheduler_type == "cosine"
    assert args.warmup_steps == 0.1
    assert args.beta == 0.04
    assert args.vllm_server_base_url is None
    address = {"rollout_engine": "vllm-server", "vllm_server_base_url": "http://127.0.0.1:9"}
    served = trainer_config(load_params("paper").training(**address), tmp_path, processes=8)
    assert (served.use_vllm, served.vllm_mode, served.vllm_server_base_url) == (True, "server", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="256 rollouts per step cannot be divided over 7 processes"):
        trainer_config(load_params("paper").training(), tmp_path, processes=7)


@pytest.mark.parametrize(
    ("wanted", "gpu", "has_bf16", "expected"),
    [
        ("auto", False, False, (False, False)),
        ("auto", True, True, (True, False)),
        ("auto", True, False, (False, True)),
        ("fp32", True, True, (False, False)),
        ("bf16", False, False, (True, False)),
        ("fp16", True, False, (False, True)),
        ("fp16", False, False, "fp16 needs a GPU"),
        ("bf16", True, False, "bf16 is not supported"),
    ],
)
def test_precision(monkeypatch, wanted, gpu, has_bf16, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: has_bf16)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            precision(wanted)
    else:
        assert precision(wanted) == ("float32", *expected)


def test_long_prompts_are_left_out():
    config = load_params("smoke", {"train_problems": 20}).training()
    loaded, suite = load_training_data(config), get_suite("mini")
    tokenizer = AutoTokenizer.from_pretrained(mini_model_path())
    lengths = [len(tokenizer(suite.prompt(problem)).input_ids) for problem in loaded.problems]
    limit = sorted(lengths)[len(lengths) // 2]
    kept = leave_out_long_prompts(loaded, suite, tokenizer, limit)
    assert [p.id for p in kept.problems] == [p.id for p, n in zip(loaded.problems, lengths, strict=True) if n <= limit]
    assert kept.source["too_long"] == len(loaded.problems) - len(kept.problems) > 0
    assert leave_out_long_prompts(loaded, suite, tokenizer, max(lengths)) is loaded
    with pytest.raises(ConfigError, match="max_prompt_length 1 leaves no training problem"):
        leave_out_long_prompts(loaded, suite, tokenizer, 1)
