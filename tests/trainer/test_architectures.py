"""Log-probs of the loss are those of each completion alone, whatever its padding, for many families of models."""

import logging

import pytest
import torch
from transformers import AutoTokenizer

from tampo import TAMPOConfig, TAMPOTrainer
from tampo.context import UnsuitableModel
from tampo.inference.sampling import sample_completions
from tests.helpers import digit_reward
from tests.trainer.architectures import CONFIGS, build
from tests.trainer.helpers import SETTINGS, rectangle

pytestmark = pytest.mark.contract

LENGTHS = [(3, 8), (9, 4), (1, 6), (6, 2), (12, 8), (4, 5)]
REFUSED = {"Rwkv", "Bart", "Bert"}  # in training with groups; the other tests name those that sampling refuses
RIGHT = sorted(CONFIGS.keys() - REFUSED)


class Watching(TAMPOTrainer):
    """Keeps log-probs of the loss, and those of every completion alone, from the model's own logits."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ratios, self.errors, self.padded = [], [], False

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        found = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        for row, mask, log_probs in zip(input_ids, attention_mask, found[0], strict=True):
            self.padded |= not mask[0]
            keep = mask[-logits_to_keep:].bool()
            expected = alone(self.model, row[mask.bool()], int(keep.sum()), self.temperature)
            self.errors.append((log_probs[keep] - expected).abs().max().item())
        self.latest = found[0].detach()
        return found

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        ratio = (self.latest - inputs.get("old_per_token_logps", self.latest)).exp()
        self.ratios.append(ratio[inputs["completion_mask"].bool()])
        return loss


@torch.no_grad()
def alone(model, row, completion, temperature):
    """The oracle: one row without padding, log_softmax of its whole logits; (completion,)."""
    logits = model(input_ids=row[None]).logits[0, -completion - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, row[-completion:, None])[:, 0]


def make(model, tokenizer_path, prompts, output, cls=Watching, **changes):
    args = TAMPOConfig(str(output), **(SETTINGS | {"model_init_kwargs": None, "learning_rate": 0.0} | changes))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    return cls(model=model, reward_funcs=digit_reward, args=args, train_dataset=prompts, processing_class=tokenizer)


@pytest.fixture
def uneven(prompts):
    """Prompts of different lengths, so that rows are padded."""
    texts = ["1+", "12+34+56+78=", "7=", "1234567890+12345="]
    return prompts.select(range(8)).map(lambda _, i: {"prompt": texts[i % 4]}, with_indices=True)


STEP = {"max_steps": 1, "num_iterations": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}
STEP |= {"num_generations": 2, "max_completion_length": 6, "temperature": 0.7, "temperature_controller": "fixed"}


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("name", RIGHT)
def test_ratio_is_one_before_the_first_update(name, size, tiny_model_path, uneven, tmp_path):
    """Rollouts, the passes at generation and of the loss, and completions alone have the same log-probs."""
    trainer = make(build(name), tiny_model_path, uneven, tmp_path, scoring_batch_size=size, **STEP)
    trainer.train()
    assert trainer.padded
    assert max(trainer.errors) < 2e-4
    assert all(torch.allclose(ratio, torch.ones_like(ratio), atol=5e-4) for ratio in trainer.ratios)
    clipped = [value for row in trainer.state.log_history for key, value in row.items() if key.startswith("clip_ratio")]
    assert clipped
    assert not any(clipped)


@pytest.mark.parametrize("size", [None, 3])
def test_without_positions_the_test_above_fails_for_gpt2(size, tiny_model_path, uneven, tmp_path, monkeypatch):
    monkeypatch.setattr("tampo.trainer.trainer.check_padding", lambda *args: None)
    trainer = make(build("GPT2"), tiny_model_path, uneven, tmp_path, scoring_batch_size=size, **STEP)
    trainer.train()
    assert max(trainer.errors) > 0.1


def test_reference_model_and_adapters_get_positions(tiny_model_path, uneven, tmp_path):
    """GPT-2 with a KL term: the reference model's log-probs are those of its rows alone."""
    from peft import LoraConfig

    build("GPT2").save_pretrained(tmp_path / "gpt2")
    changes = STEP | {"beta": 0.1, "scoring_batch_size": 3, "model_init_kwargs": {"dtype": "float32"}}
    trainer = make(str(tmp_path / "gpt2"), tiny_model_path, uneven, tmp_path / "a", **changes)
    assert trainer.ref_model is not None
    trainer.train()
    assert max(trainer.errors) < 2e-4
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    args = TAMPOConfig(
        str(tmp_path / "b"), **(SETTINGS | {"model_init_kwargs": None} | STEP | {"learning_rate": 0.0}),
        scoring_batch_size=3,
    )  # fmt: skip
    adapted = Watching(
        build("GPT2"), digit_reward, args, uneven, processing_class=tokenizer,
        peft_config=LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
    )  # fmt: skip
    adapted.train()
    assert max(adapted.errors) < 2e-4


@pytest.mark.parametrize("name", ["Rwkv", "Bart"])
def test_dependence_on_padding_is_refused_with_groups_and_a_warning_without(
    name, tiny_model_path, uneven, tmp_path, caplog
):
    trainer = make(build(name), tiny_model_path, uneven, tmp_path, scoring_batch_size=3, **STEP)
    with pytest.raises(UnsuitableModel, match=rf"{name}\w+ depend on padding.*Set scoring_batch_size=None"):
        trainer.train()
    trainer = make(build(name), tiny_model_path, uneven, tmp_path, **STEP)
    with caplog.at_level(logging.WARNING, "tampo.trainer.positions"):
        trainer.train()
    assert f"The log-probs of {name}" in caplog.text
    assert all(torch.allclose(ratio, torch.ones_like(ratio), atol=5e-4) for ratio in trainer.ratios)


def test_another_head_than_trls_is_refused(tiny_model_path, uneven, tmp_path):
    trainer = make(build("Bert"), tiny_model_path, uneven, tmp_path, **STEP)
    with pytest.raises(UnsuitableModel, match="BertLMHeadModel cannot be trained: TRL's log-probs differ"):
        trainer.train()


def test_small_weights_are_no_excuse(tiny_model_path, uneven, tmp_path):
    """A model as it is initialised has almost equal logits; its positions count all the same."""
    model = build("GPT2")
    model.apply(model._init_weights)
    trainer = make(model, tiny_model_path, uneven, tmp_path, scoring_batch_size=3, **STEP)
    trainer.train()
    assert max(trainer.errors) < 1e-5


def test_the_check_changes_nothing_of_a_model_with_rotary_positions(tiny_model_path, uneven, tmp_path, monkeypatch):
    """Same random numbers, same mode, no position ids: to the last bit as without the check."""

    def weights(folder, **changes):
        model = build("Llama", attention_dropout=0.1)
        model.config.attention_dropout = 0.1
        trainer = make(model, tiny_model_path, uneven, tmp_path / folder, TAMPOTrainer, **(STEP | changes))
        trainer.train()
        assert not trainer.model.base_model._forward_pre_hooks
        return torch.cat([weight.flatten() for weight in trainer.model.parameters()])

    changes = {"learning_rate": 1e-3, "max_steps": 2}
    checked = weights("checked", **changes)
    monkeypatch.setattr("tampo.trainer.trainer.check_padding", lambda *args: None)
    assert torch.equal(weights("unchecked", **changes), checked)


@pytest.mark.parametrize("name", RIGHT)
def test_with_16_bits_the_same_models_get_positions(name, tiny_model_path, uneven, tmp_path):
    """Rounding is no reason: a model with rotary positions, ALiBi or a state stays as TRL computes it."""
    changes = STEP | {"scoring_batch_size": 3, "bf16": True}
    trainer = make(build(name), tiny_model_path, uneven, tmp_path, TAMPOTrainer, **changes)
    trainer.set_temperature(1.0)
    trainer._check_padding()
    needed = {"GPT2", "GPTNeo", "GPTBigCode", "XGLM", "BioGpt", "CTRL", "OpenAIGPT"}
    assert bool(trainer.model.base_model._forward_pre_hooks) == (name in needed)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_frequencies_that_depend_on_the_batch_are_refused_with_groups(kind, tiny_model_path, uneven, tmp_path):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    changes = STEP | {"max_completion_length": 8}
    with pytest.raises(UnsuitableModel, match=r"\(llama\) depend on the longest row of a batch beyond 16 tokens"):
        make(build("Llama", rope_parameters=rope), tiny_model_path, uneven, tmp_path, scoring_batch_size=3, **changes)
    make(build("Llama", rope_parameters=rope), tiny_model_path, uneven, tmp_path, **changes)
    short = uneven.map(lambda _: {"prompt": "1+2="})
    make(build("Llama", rope_parameters=rope), tiny_model_path, short, tmp_path, scoring_batch_size=3, **changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_sampling_follows_each_row_alone_or_names_the_model(name):
    """Close to T = 0 each sampled token is the likeliest one after its own context; else the model is refused."""
    model = build(name)
    ids, mask, _ = rectangle(LENGTHS)
    prompts = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    uniforms = torch.rand(len(prompts), 9, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    if name in {"Mamba", "Rwkv", "Bart", "OpenAIGPT"}:
        with pytest.raises(UnsuitableModel, match=f"{type(model).__name__} cannot be sampled .*vLLM"):
            sample_completions(model, prompts, 1e-4, 9, [1], uniforms)
        return
    for prompt, completion in zip(prompts, sample_completions(model, prompts, 1e-4, 9, [1], uniforms), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        assert completion == logits.argmax(-1).tolist()
