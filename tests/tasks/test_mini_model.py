"""The shipped base model: loads everywhere the same, is small, can be rebuilt, and has something to learn."""

import json
import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from tampo.cli import main
from tampo.tasks import mini_assets, mini_model
from tampo.tasks.mini import TASKS, format_prompt, is_correct, make_problems, worked_solution
from tampo.tasks.mini_model import RECIPES, Recipe, build_mini_model, build_tokenizer, mini_model_path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(mini_model_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(mini_model_path()).eval()


def texts(count=40):
    rng = random.Random(0)
    for task in TASKS:
        for problem in make_problems(task, count):
            prompt, solution = format_prompt(problem.question), worked_solution(problem, rng, 0.3, 0.2)
            yield from (prompt, solution, prompt + solution)


@pytest.mark.parametrize("loader", [AutoTokenizer, PreTrainedTokenizerFast, AutoProcessor])
def test_every_loader_gives_the_same_ids_and_the_text_back(loader, tokenizer):
    other = loader.from_pretrained(mini_model_path())
    built = build_tokenizer()
    assert (other.eos_token_id, other.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert other.eos_token_id != other.pad_token_id
    for text in [*texts(), " two  spaces\n\n 007\t", "3 × é\r\n漢"]:
        ids = other(text)["input_ids"]
        assert ids == tokenizer(text)["input_ids"] == built(text)["input_ids"]
        assert max(ids) < len(tokenizer) - 2  # text never gives eos or pad
        assert other.decode(ids) == text


def test_completions_are_short(tokenizer):
    rng = random.Random(0)
    for task in TASKS:
        problems = make_problems(task, 300)
        lengths = [len(tokenizer(worked_solution(p, rng))["input_ids"]) for p in problems]
        assert max(lengths) <= 64, task
        assert max(len(tokenizer(format_prompt(p.question))["input_ids"]) for p in problems) <= 40, task


def test_the_assets_are_small_and_plain():
    files = list(mini_model_path().iterdir())
    assert sum(f.stat().st_size for f in files) < 5e6
    assert {f.suffix for f in files} == {".json", ".safetensors"}


def test_the_shipped_model_is_what_engines_support(model, tokenizer):
    config = model.config
    assert config.model_type == "qwen2" and config.tie_word_embeddings
    assert config.hidden_size // config.num_attention_heads == 32
    assert config.vocab_size == len(tokenizer)
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    build = json.loads((mini_model_path() / "build.json").read_text())
    assert build["parameters"] == model.num_parameters() < 1e6
    logits = model(**tokenizer(format_prompt("State"), return_tensors="pt")).logits
    assert logits.isfinite().all()


def test_the_base_solves_some_and_not_most(model, tokenizer):
    torch.manual_seed(0)
    right = []
    for task in TASKS:
        problems = make_problems(task, 16, split="test")
        batch = tokenizer(
            [format_prompt(p.question) for p in problems],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        out = model.generate(**batch, do_sample=True, top_k=0, num_return_sequences=4, max_new_tokens=64)
        completions = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        right += [is_correct(problems[i // 4], completion) for i, completion in enumerate(completions)]
    assert 0.15 < sum(right) / len(right) < 0.60


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_bytes(tmp_path, name):
    small = replace(RECIPES[name], steps=3, batch_size=4, problems_per_task=20)
    folders = [build_mini_model(tmp_path / folder, small, seed) for folder, seed in (("a", 0), ("b", 0), ("c", 1))]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] != weights[2]
    for file in ("tokenizer.json", "config.json"):
        assert (folders[0] / file).read_bytes() == (mini_model_path(name) / file).read_bytes()
    assert json.loads((folders[0] / "build.json").read_text())["steps"] == 3


def test_the_caller_keeps_its_random_state(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_mini_model(tmp_path, Recipe(steps=1, batch_size=2, problems_per_task=5))
    assert torch.equal(torch.rand(1), expected)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(mini_model, "build_mini_model", lambda *args: seen.append(args))
    assert main(["build-mini-model", str(tmp_path), "--name", "mini-rare", "--seed", "3"]) == 0
    assert seen == [(str(tmp_path), RECIPES["mini-rare"], 3)]
    assert main(["build-mini-model", str(tmp_path), "--name", "maxi"]) == 2
    said = capsys.readouterr().err
    assert "Unknown model 'maxi' in --name; known are mini, mini-choice, mini-rare, mini-facts" in said


def test_a_missing_model_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_assets, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="tampo build-mini-model --name mini-rare"):
        mini_model_path("mini-rare")
