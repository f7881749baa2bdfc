"""Plans against the models' sizes and sums by hand."""

import pytest
from transformers import AutoModelForCausalLM, Qwen2Config

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.runs.plan import KNOWN, count_parameters, describe, model_config, plan
from tampo.tasks.mini_model import mini_model_path


@pytest.mark.parametrize(("name", "parameters"), zip(KNOWN, (1_777_088_000, 3_085_938_688, 494_032_768), strict=True))
def test_known_sizes_are_those_of_the_model(name, parameters):
    """The numbers of weights on the models' pages."""
    assert count_parameters(model_config(name)) == parameters


def test_sizes_are_read_from_a_config():
    model = AutoModelForCausalLM.from_pretrained(mini_model_path())
    assert count_parameters(model_config("mini")) == model.num_parameters()
    with pytest.raises(ConfigError, match="Cannot read the sizes of model 'no/such'"):
        model_config("no/such")


SMALL = Qwen2Config(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=128,
    vocab_size=1000,
    tie_word_embeddings=True,
)
WORK = load_params(
    "paper",
    {
        "max_steps": 10,
        "prompts_per_step": 8,
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "max_prompt_length": 100,
        "max_completion_length": 400,
        "beta": 0.1,
    },
)


def test_memory_by_hand():
    memory = plan(SMALL, WORK, 2, 0).memory
    weights = count_parameters(SMALL)
    assert memory["weights"] == pytest.approx(2 * weights / 1e9)
    assert memory["optimizer"] == pytest.approx(12 * weights / 1e9)
    assert memory["KV cache"] == pytest.approx(32 * 500 * (2 * 2 * 2 * 16 * 2) / 1e9)
    assert plan(SMALL, WORK, 2, 0).tokens == 10 * 64 * 500


@pytest.mark.parametrize(("stage", "parts"), [(1, {"optimizer"}), (2, {"optimizer", "gradients"})])
def test_zero_shards_what_it_says(stage, parts):
    whole = plan(SMALL, WORK, 2, 0).memory
    sharded = plan(SMALL, WORK, 2, stage).memory
    assert {part for part in whole if sharded[part] < whole[part]} == parts
    for part in parts:
        assert sharded[part] == pytest.approx(whole[part] / 2)
    three = plan(SMALL, WORK, 2, 3).memory
    assert three["weights"] == pytest.approx(whole["weights"] / 2)


def test_the_papers_run_takes_the_papers_hours():
    text = describe(load_params("paper"), gpus=8, zero_stage=2)
    assert "9.9 h" in text
    assert "1.78 billion" in text
    assert "333 million tokens" in text


def test_half_the_gpus_take_twice_the_hours():
    one = plan(SMALL, WORK, 2, 0).hours
    assert plan(SMALL, WORK, 1, 0).hours == pytest.approx(2 * one)


def test_uneven_rollouts_are_refused():
    with pytest.raises(ConfigError, match="256 rollouts per step cannot be divided over 3 GPUs"):
        describe(load_params("paper"), gpus=3, zero_stage=2)


def test_command(capsys):
    assert main(["plan", "params/paper-ecqa.yaml", "--gpus", "4", "--max-steps", "100"]) == 0
    out = capsys.readouterr().out
    assert "3.09 billion" in out
    assert "100 steps of 256 rollouts" in out
    assert main(["plan", "paper", "--max-stpes", "100"]) == 2
    assert "Did you mean --max-steps?" in capsys.readouterr().err
