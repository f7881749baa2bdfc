"""Rollouts end at the tokens that end evaluations, and are sampled from the softmax that the loss assumes."""

import logging
from types import SimpleNamespace

import pytest
import torch
import trl
from packaging.version import Version
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from tampo.decoding import decoding_rules
from tampo.inference.sampling import sample_completions
from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tampo.trainer.rollout_rules import set_rollout_rules
from tests.helpers import ADVICE, ENDS, NO_TOKENS, changed_model, digit_reward
from tests.trainer.helpers import SETTINGS, make_trainer

LIMIT = 24

pytestmark = pytest.mark.skipif(
    Version(trl.__version__) < Version("1.15"), reason=f"TRL {trl.__version__} ends at the tokenizer's token only"
)


def rollouts(trainer):
    """Token ids of all rollouts of a training run, and the metrics of each step."""
    found = []
    trainer.reward_funcs = [
        lambda completions, completion_ids, **_: found.extend(completion_ids) or digit_reward(completions)
    ]
    trainer.train()
    return found, [row for row in trainer.state.log_history if "loss" in row]


def build(model, prompts, output, *, cls=TAMPOTrainer, tokenizer=None, rollout_func=None, **changes):
    args = TAMPOConfig(
        output_dir=str(output), **(SETTINGS | {"max_completion_length": LIMIT, "max_steps": 2} | changes)
    )
    return cls(
        model=model, reward_funcs=digit_reward, args=args, train_dataset=prompts, processing_class=tokenizer,
        rollout_func=rollout_func,
    )  # fmt: skip


def from_sampling(prompts, trainer):
    """As `tampo.runs.training.sample_rollouts`."""
    ids = trainer.processing_class(prompts)["input_ids"]
    sampled = sample_completions(trainer.model, ids, trainer.temperature, LIMIT, trainer.eos_token_ids)
    return {"prompt_ids": ids, "completion_ids": sampled, "logprobs": None}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("rollout_func", [None, from_sampling], ids=["generate", "rollout_func"])
def test_rollouts_end_where_evaluations_do(tiny_model_path, prompts, tmp_path, name, rollout_func):
    files, ends = ENDS[name]
    folder = changed_model(tiny_model_path, tmp_path / "model", **files)
    settings = {"per_device_train_batch_size": 128, "learning_rate": 1e-4}
    trainer = build(str(folder), prompts, tmp_path / "out", rollout_func=rollout_func, **settings)
    rules = decoding_rules(str(folder), AutoTokenizer.from_pretrained(folder))
    assert set(trainer.eos_token_ids) == ends
    sampled, log = rollouts(trainer)
    assert len(sampled) == 256
    for tokens in sampled:
        assert not ends & set(tokens[:-1])
        assert len(tokens) == LIMIT or tokens[-1] in ends
    assert {tokens[-1] for tokens in sampled if len(tokens) < LIMIT} == ends
    clipped = sum(rules.truncated(tokens) for tokens in sampled) / 256
    assert sum(row["completions/clipped_ratio"] for row in log) / 2 == pytest.approx(clipped)
    trainer.save_model(str(tmp_path / "saved"))
    saved = decoding_rules(str(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved"))
    assert set(saved.ends) == ends, "the trained model ends as its rollouts did"


@pytest.mark.parametrize("ids", [5, (5, 1), torch.tensor(5), torch.tensor([5, 1])], ids=str)
def test_a_loaded_model_may_have_any_kind_of_ids(tiny_model_path, prompts, tmp_path, ids):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    model.generation_config.eos_token_id = ids
    trainer = build(model, prompts, tmp_path, tokenizer=AutoTokenizer.from_pretrained(tiny_model_path))
    sampled, _ = rollouts(trainer)
    assert {tokens[-1] for tokens in sampled if len(tokens) < LIMIT} == {1, 5}
    trainer.save_model(str(tmp_path / "saved"))


def test_a_loaded_model_without_generation_config(tiny_model_path, prompts, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    model.generation_config, model.config.eos_token_id = None, 7
    trainer = build(model, prompts, tmp_path, tokenizer=AutoTokenizer.from_pretrained(tiny_model_path))
    assert set(trainer.eos_token_ids) == {1, 7}


@pytest.mark.parametrize("name", ["another in generation_config", "a list without the tokenizer's", "padding"])
def test_the_fixed_controller_still_equals_grpo(tiny_model_path, prompts, tmp_path, name):
    folder = changed_model(tiny_model_path, tmp_path / "model", **ENDS[name][0])
    fixed = make_trainer(folder, prompts, tmp_path / "ours", temperature_controller="fixed", max_steps=2)
    ours, _ = rollouts(fixed)
    plain = make_trainer(folder, prompts, tmp_path / "plain", GRPOTrainer, max_steps=2)  # seeds torch's generator
    assert rollouts(plain)[0] == ours
    for key, weight in plain.model.state_dict().items():
        assert torch.equal(weight, fixed.model.state_dict()[key]), key


def test_a_model_that_never_ends_is_refused_at_the_start(tiny_model_path, prompts, tmp_path):
    none = {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": None}}
    folder = changed_model(tiny_model_path, tmp_path / "model", tokenizer_config=NO_TOKENS, **none)
    with pytest.raises(ValueError, match="model has no end token"):
        build(str(folder), prompts, tmp_path / "out")


@pytest.mark.parametrize("peft", [False, True])
def test_advice_of_a_generation_config_changes_no_rollout(tiny_model_path, prompts, tmp_path, caplog, peft):
    config = None
    if peft:
        from peft import LoraConfig

        config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    advised = changed_model(tiny_model_path, tmp_path / "model", generation_config=ADVICE)
    found = []
    for model in (tiny_model_path, advised):
        caplog.clear()
        trainer = make_trainer(model, prompts, tmp_path / "out", max_steps=2, peft_config=config)
        found.append(rollouts(trainer)[0])
    assert found[0] == found[1]
    assert "generation_config sets bad_words_ids, begin_suppress_tokens," in caplog.text
    assert ", min_p, " in caplog.text and ", top_p" not in caplog.text, "TRL sets top_p itself"
    policy = trainer.model.get_base_model() if peft else trainer.model
    policy.save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").generation_config.min_p == 0.9, "users still get it"


def test_advice_is_not_reported_where_there_is_none(tiny_model_path, prompts, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "tampo"):
        make_trainer(tiny_model_path, prompts, tmp_path)
    assert not [record for record in caplog.records if record.name.startswith("tampo")]


@pytest.mark.parametrize(
    "explicit",
    [{"min_p": 1.0}, {"generation_kwargs": {"min_p": 1.0}}, {"top_k": 1}, {"generation_kwargs": {"top_k": 1}}],
)
def test_explicit_settings_stay_in_force(tiny_model_path, prompts, tmp_path, explicit):
    """Greedy ones: the eight rollouts of a prompt are the same, and those of TRL's trainer."""
    greedy = make_trainer(tiny_model_path, prompts, tmp_path, max_steps=2, **explicit)
    sampled, _ = rollouts(greedy)
    assert all(sampled[i] == sampled[i - i % 8] for i in range(len(sampled)))
    plain = make_trainer(tiny_model_path, prompts, tmp_path, GRPOTrainer, max_steps=2, **explicit)
    assert rollouts(plain)[0][:16] == sampled[:16]


def test_explicit_end_tokens_are_ends(tiny_model_path, prompts, tmp_path):
    """TRL alone would keep the padding after such an end, as tokens of the completion."""
    trainer = build(str(tiny_model_path), prompts, tmp_path, generation_kwargs={"eos_token_id": [5, 6]})
    sampled, _ = rollouts(trainer)
    assert {tokens[-1] for tokens in sampled if len(tokens) < LIMIT} == {5, 6}
    assert not any({5, 6} & set(tokens[:-1]) for tokens in sampled)


@pytest.mark.parametrize(
    ("chosen", "ends", "sent"),
    [
        (None, {1, 5}, {"stop_token_ids": [1, 5], "ignore_eos": True}),
        ({"min_p": 0.1}, {1, 5}, {"min_p": 0.1, "stop_token_ids": [1, 5], "ignore_eos": True}),
        ({"stop_token_ids": [6]}, {1, 5, 6}, {"stop_token_ids": [1, 5, 6], "ignore_eos": True}),
        ({"ignore_eos": True}, {1, 5}, {"ignore_eos": True}),
    ],
)
def test_vllm_is_told_where_rollouts_end(tiny_model_path, chosen, ends, sent):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    model.generation_config.eos_token_id = 5
    trainer = SimpleNamespace(
        processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
        args=SimpleNamespace(generation_kwargs=chosen),
        use_vllm=True,
        eos_token_ids=[1, 5],
        vllm_generation=SimpleNamespace(generation_kwargs=chosen or {}),
    )
    before = dict(chosen or {})
    set_rollout_rules(trainer, model)
    assert set(trainer.eos_token_ids) == ends
    assert trainer.vllm_generation.generation_kwargs == sent
    assert (chosen or {}) == before, "the user's config is not changed"
