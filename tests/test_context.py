"""Prompts and completions beyond a model's context are refused at start, by the names of the parameters."""

import warnings

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, GPT2Config, LlamaConfig, MptConfig, Qwen2Config

from tampo import TAMPOConfig, TAMPOTrainer
from tampo.config import load_params
from tampo.context import UnsuitableModel, check_context, context_limit, has_rotary_positions
from tampo.inference.evaluate import evaluate, load_benchmarks
from tampo.inference.sampling import sample_completions
from tampo.inference.transformers_engine import TransformersEngine
from tampo.paper.trajectories import load_language_model, sample_trajectories
from tampo.runs.training_data import load_training_data
from tampo.tasks.mini_model import RECIPES, mini_model_path
from tampo.tasks.prompts import render
from tampo.tasks.suites import get_suite
from tests.helpers import ROOT, digit_reward
from tests.trainer.architectures import build
from tests.trainer.helpers import SETTINGS


@pytest.fixture(scope="module")
def gpt2(tiny_model_path, tmp_path_factory):
    """A folder with a GPT-2 of 32 positions."""
    folder = tmp_path_factory.mktemp("gpt2")
    build("GPT2", n_positions=32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_path).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=32), (32, "n_positions")),
        (LlamaConfig(max_position_embeddings=64), (64, "max_position_embeddings")),
        (MptConfig(max_seq_len=48), (48, "max_seq_len")),
        (AutoConfig.for_model("bloom"), None),
        (AutoConfig.for_model("mamba"), None),
        (AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 40}), (40, "max_position_embeddings")),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_limit_of_a_config(config, limit):
    assert context_limit(config) == limit


def test_what_fits_and_what_does_not():
    config = GPT2Config(n_positions=32)
    check_context(config, 20, 12, "max_completion_length")
    message = r"longest prompt has 20 tokens and max_completion_length is 13: together 33 tokens, more than the "
    message += r"context of 32 tokens \(n_positions\)\. To fit, lower max_completion_length to 12 or less, or leave out"
    with pytest.raises(UnsuitableModel, match=message):
        check_context(config, 20, 13, "max_completion_length")
    with pytest.raises(UnsuitableModel, match="To fit, leave out long prompts, or choose"):
        check_context(config, 40, 13, "max_completion_length")
    check_context(AutoConfig.for_model("bloom"), 10**6, 10**6, "max_completion_length")
    check_context(None, 10**6, 10**6, "max_completion_length")


def test_rotary_positions_are_a_warning_and_engines_refuse():
    config = Qwen2Config(max_position_embeddings=32)
    with pytest.warns(UserWarning, match="together 33 tokens.*not trained for longer texts"):
        check_context(config, 20, 13, "max_completion_length")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_context(config, 20, 13, "max_completion_length", warn=False)
    with pytest.raises(UnsuitableModel, match=r"32 tokens \(max_model_len of vLLM\)"):
        check_context(None, 20, 13, "eval_max_completion_length", engine_limit=(32, "max_model_len of vLLM"))


@pytest.mark.parametrize("name", ["GPT2", "GPTJ", "CodeGen", "OPT", "Mpt", "BioGpt", "CTRL", "GPTNeo"])
def test_models_that_are_refused_would_fail_and_hold_all_that_is_allowed(name):
    model = build(name)
    limit, _ = context_limit(model.config)
    assert not has_rotary_positions(model.config)
    prompt = [2, 3] * (limit // 4)
    sample_completions(model, [prompt], 1.0, limit - len(prompt), [])
    with pytest.raises(UnsuitableModel, match="more than the context"):
        sample_completions(model, [prompt], 1.0, limit - len(prompt) + 1, [])
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 2))


def trainer(model, prompts, output, **changes):
    args = TAMPOConfig(str(output), **(SETTINGS | {"max_completion_length": 20, "max_steps": 1} | changes))
    return TAMPOTrainer(model, digit_reward, args, prompts)


@pytest.mark.parametrize("where", ["train", "eval", "eval of several"])
def test_trainer_refuses_at_start(where, gpt2, prompts, tmp_path):
    long = Dataset.from_dict({"prompt": ["1+2=", "1+" * 7]})
    args = TAMPOConfig(str(tmp_path), **(SETTINGS | {"max_completion_length": 20}))
    evaluation = {"train": None, "eval": long, "eval of several": {"a": prompts, "b": long}}[where]
    with pytest.raises(UnsuitableModel, match="longest prompt has 14 tokens and max_completion_length is 20"):
        TAMPOTrainer(gpt2, digit_reward, args, long if where == "train" else prompts, evaluation)


def test_trainer_takes_all_that_fits_and_streams_are_checked_by_batch(gpt2, tmp_path):
    fits = Dataset.from_dict({"prompt": ["1+2=", "1+" * 6]})
    trainer(gpt2, fits, tmp_path / "a").train()
    stream = Dataset.from_dict({"prompt": ["1+" * 7] * 8}).to_iterable_dataset()
    late = trainer(gpt2, stream, tmp_path / "b")
    with pytest.raises(UnsuitableModel, match="longest prompt has 14 tokens"):
        late.train()


def test_trainer_warns_where_rotary_positions_leave_the_context(tiny_model_path, tmp_path):
    prompts = Dataset.from_dict({"prompt": ["1+2=", "1+" * 7]})
    with pytest.warns(UserWarning, match="longest prompt has 14 tokens and max_completion_length is 120"):
        trainer(str(tiny_model_path), prompts, tmp_path, max_completion_length=120)


def test_evaluation_refuses_before_it_samples(gpt2):
    engine = TransformersEngine(gpt2, device="cpu")
    config = load_params("smoke").evaluation(eval_problems=2, eval_samples=1)
    engine.generate = None  # which is never called
    benchmarks = load_benchmarks(config)
    with pytest.raises(UnsuitableModel, match=r"Benchmark \w+: .*eval_max_completion_length is 32.*\(n_positions\)"):
        evaluate(engine, config, benchmarks)
    engine.config, engine.engine_limit = None, (32, "max_model_len of vLLM")
    with pytest.raises(UnsuitableModel, match=r"Benchmark \w+: .*\(max_model_len of vLLM\)"):
        evaluate(engine, config, benchmarks)


def test_trajectories_refuse_before_they_sample(gpt2):
    model = load_language_model(gpt2)
    assert len(sample_trajectories(model, ["1+2="], 2, 1.0, 28, seed=0)) == 2
    with pytest.raises(UnsuitableModel, match="longest prompt has 4 tokens .* is 29: together 33"):
        sample_trajectories(model, ["1+2="], 2, 1.0, 29, seed=0)


def test_command_line_names_the_lengths(gpt2, tmp_path, capsys, monkeypatch):
    from tampo.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAMPO_RUNS", str(tmp_path / "runs"))
    assert main(["train", str(ROOT / "params" / "smoke.yaml"), "--model", gpt2]) == 2
    assert "max_completion_length is 32: together" in capsys.readouterr().err


SHIPPED = [path for path in sorted((ROOT / "params").glob("*.yaml")) if load_params(str(path)).model in RECIPES]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_models_hold_the_shipped_lengths(path):
    params = load_params(str(path))
    folder = mini_model_path(params.model)
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    suite = get_suite(params.suite)

    def longest(problems):
        texts = [render(tokenizer, suite.prompt(problem)) for problem in problems]
        return max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training = longest(load_training_data(params.training()).problems)
        check_context(config, training, params.max_completion_length, "max_completion_length")
        for loaded in load_benchmarks(params.evaluation()).values():
            check_context(config, longest(loaded.problems), params.eval_max_completion_length, "the completions")
