"""The sampler against the loss: the gap of their log-probs, vLLM's precision, logits that are not finite."""

import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from tampo.inference.sampling import sample_with_log_probs
from tampo.runs.training import sample_rollouts
from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tampo.trainer.sampler import SamplerGap, check_vllm_precision, explained_gap
from tampo.trainer.trainer import NonFiniteLoss
from tampo.trainer.trl_internals import LogitRecorder, tokenize_prompts, vllm_built_in, vllm_dtype, vllm_generation
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS, make_trainer

MEAN, MAX = "sampler/log_prob_gap_mean", "sampler/log_prob_gap_max"


def build(model, prompts, folder, rollout_func=sample_rollouts, **changes):
    args = TAMPOConfig(output_dir=str(folder), **(SETTINGS | {"max_steps": 2} | changes))
    return TAMPOTrainer(str(model), digit_reward, args, prompts, rollout_func=rollout_func)


def trained(*args, **changes):
    trainer = build(*args, **changes)
    trainer.train()
    return trainer


def rows(trainer):
    return [row for row in trainer.state.log_history if "loss" in row]


# In the second, TRL computes log-probs at generation, and shuffles rows between sampling and loss.
@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2, "gradient_accumulation_steps": 1}])
def test_the_gap_of_a_right_sampler_is_rounding(tiny_model_path, prompts, tmp_path, caplog, changes):
    trainer = build(tiny_model_path, prompts, tmp_path, meta_warmup_ratio=0, scoring_batch_size=4, **changes)
    trainer.train()
    logged = [row for row in rows(trainer) if MEAN in row]
    assert len(logged) == 2 // changes.get("steps_per_generation", 1)
    for row in logged:
        assert 0 < row[MEAN] <= row[MAX] < 1e-4
    assert "sampler/log_prob_gap_mean" not in caplog.text


def raw_log_probs(prompts, trainer):
    """As a server without processed log-probs: sampled at the current temperature, scored at T = 1."""
    ids = tokenize_prompts(trainer, prompts)
    sampled, _ = sample_with_log_probs(trainer.model, ids, trainer.temperature, 8, trainer.eos_token_ids)
    scores = []
    for prompt, tokens in zip(ids, sampled, strict=True):
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        scores.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist())
    return {"prompt_ids": ids, "completion_ids": sampled, "logprobs": scores}


def test_a_gap_that_precision_does_not_explain_is_named_once(tiny_model_path, prompts, tmp_path, caplog):
    fixed = {"temperature_controller": "fixed", "temperature": 0.6}
    trainer = build(tiny_model_path, prompts, tmp_path, raw_log_probs, **fixed)
    trainer.train()
    assert all(row[MEAN] > 0.1 for row in rows(trainer))
    warnings = [record.getMessage() for record in caplog.records if "log-probs of the rollout" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("Step 1, temperature 0.6: ")
    assert "float32 explains 0.00167" in warnings[0]
    at_one = {"temperature_controller": "fixed", "temperature": 1.0, "max_steps": 1}
    right = trained(tiny_model_path, prompts, tmp_path, raw_log_probs, **at_one)
    assert rows(right)[0][MEAN] < 1e-4, "they are those of T = 1"


def test_a_sampler_without_log_probs_changes_nothing_and_logs_nothing(tiny_model_path, prompts, tmp_path):
    def silent(asked, trainer):
        return sample_rollouts(asked, trainer) | {"logprobs": None}

    with_gap, without = (trained(tiny_model_path, prompts, tmp_path, f) for f in (sample_rollouts, silent))
    assert not any(name.startswith("sampler/") for row in rows(without) for name in row)
    for name, weight in with_gap.model.state_dict().items():
        assert torch.equal(weight, without.model.state_dict()[name]), name
    assert with_gap.controller.state_dict() == without.controller.state_dict()


def fake_trainer(**attributes):
    accelerator = SimpleNamespace(gather=lambda values: values, mixed_precision="no")
    model = SimpleNamespace(dtype=torch.float32)
    known = {"use_vllm": True, "vllm_mode": "colocate", "is_world_process_zero": lambda: True}
    return SimpleNamespace(**({"accelerator": accelerator, "model": model} | known | attributes))


def test_gaps_and_weights_by_hand(caplog):
    """A token that vLLM gives no number for, and one that is masked, do not count."""
    gap = SamplerGap(fake_trainer())
    sampled = torch.tensor([[-1.0, float("nan"), 0.0], [-2.0, -1.0, -9.0]])
    loss = torch.tensor([[-1.5, -1.0, 0.0], [-2.0, -2.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    weights = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    gap.add(loss[:1], mask[:1], {"sampling_per_token_logps": sampled[:1], "importance_sampling_ratio": weights[:1]})
    gap.add(loss[1:], mask[1:], {"sampling_per_token_logps": sampled[1:], "importance_sampling_ratio": weights[1:]})
    gap.finish(1.0, 7)
    assert gap.metrics == {MEAN: pytest.approx(0.5), MAX: 1.0, "sampler/dropped": 0.25}
    assert "Step 7, temperature 1: the log-probs of vLLM (colocate) differ" in caplog.text
    gap.add(loss, mask, {"importance_sampling_ratio": torch.tensor([[0.0], [2.0]])})  # one weight per rollout
    gap.finish(1.0, 8)
    assert gap.metrics == {"sampler/dropped": 0.5}


def test_what_a_precision_explains():
    limits = [explained_gap(dtype, 1.0) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    assert limits == sorted(limits)
    assert explained_gap(torch.bfloat16, 0.6) == pytest.approx(explained_gap(torch.bfloat16, 1.0) / 0.6)


def test_a_colocated_vllm_is_built_in_the_precision_of_the_loss(monkeypatch):
    built = []
    monkeypatch.setattr(vllm_generation, "LLM", lambda **options: built.append(options), raising=False)
    original = vllm_generation.LLM
    with vllm_built_in(lambda: torch.float16):
        vllm_generation.LLM(model="m")
        vllm_generation.LLM(model="m", dtype="bfloat16")  # a TRL that says it
    assert built == [{"model": "m", "dtype": "float16"}, {"model": "m", "dtype": "bfloat16"}]
    assert vllm_generation.LLM is original


@pytest.mark.parametrize("mode", ["colocate", "server"])
@pytest.mark.parametrize(("mixed", "found"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("no", torch.float32)])
def test_vllm_in_another_precision_is_refused(mode, mixed, found):
    def trainer(dtype):
        engine = SimpleNamespace(llm_engine=SimpleNamespace(model_config=SimpleNamespace(dtype=dtype)))
        client = SimpleNamespace(get_server_info=lambda: {"model_config": {"dtype": str(dtype)}})
        made = fake_trainer(vllm_mode=mode, vllm_generation=SimpleNamespace(llm=engine, vllm_client=client))
        made.accelerator.mixed_precision = mixed
        return made

    check_vllm_precision(trainer(found))
    other = torch.bfloat16 if found != torch.bfloat16 else torch.float16
    wanted, sampled = (str(dtype).removeprefix("torch.") for dtype in (found, other))
    with pytest.raises(ValueError, match=f"samples in {sampled}, .*computed in {wanted}.*or train in {sampled}"):
        check_vllm_precision(trainer(other))
    silent = fake_trainer(vllm_mode="server", vllm_generation=SimpleNamespace())  # as on all processes but the first
    assert vllm_dtype(silent) is None
    check_vllm_precision(silent)


class Poison(TrainerCallback):
    """Makes the LM head NaN after the first step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            model.lm_head.weight[3] = float("nan")


@pytest.mark.parametrize("rollout_func", [sample_rollouts, None], ids=["ours", "generate"])
def test_nan_logits_of_the_sampler_name_step_and_prompts(tiny_model_path, prompts, tmp_path, rollout_func):
    trainer = build(tiny_model_path, prompts, tmp_path, rollout_func)
    trainer.add_callback(Poison())
    with pytest.raises(NonFiniteLoss, match=r"Logits of the sampler are not finite in step 2, .*\(prompt\): \d\+\d="):
        trainer.train()
    assert trainer.controller.meta_policy.updates == 1


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2, "gradient_accumulation_steps": 1}])
def test_nan_likelihoods_name_their_prompt_before_the_controller_sees_them(
    tiny_model_path, prompts, tmp_path, monkeypatch, changes
):
    """Of one rollout, the third that was sampled, whatever the order of the loss's rows."""
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, **changes)
    original = trainer._collect_likelihoods

    def poisoned(inputs):
        log_probs = trainer._recorded[0]
        log_probs[inputs["rollout"] == 2] = float("nan")
        original(inputs)

    monkeypatch.setattr(trainer, "_collect_likelihoods", poisoned)
    with pytest.raises(NonFiniteLoss, match="Log-likelihoods are not finite in step 1, at temperature 1") as caught:
        trainer.train()
    assert f"Prompts (prompt): {trainer._row_problems[2]}. Newest" in str(caught.value)
    assert trainer.controller.meta_policy.updates == 0


def test_the_recorder_passes_nan_on():
    """So that a NaN of the loss's pass reaches the check."""
    recorder = LogitRecorder(torch.ones(1, 3, dtype=torch.long), 2, [1.0])
    tile = torch.full((2, 5), float("nan"))
    recorder(tile, torch.tensor([1, 2]), 0, 1.0, None)
    assert recorder.log_probs().isnan().all()


class Overflow(TrainerCallback):
    """Makes a gradient infinite in the first and the third step, as fp16 does with too large a loss scale."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step in (0, 2):
            next(model.parameters()).grad.fill_(float("inf"))


def overflowing(model, prompts, folder, **changes):
    """A trainer with a gradient scaler, on a CPU."""
    linear = {"temperature_controller": "linear", "max_steps": 5}
    # Without clipping, accelerate leaves gradients to the scaler outside fp16 too.
    trainer = make_trainer(model, prompts, folder, max_grad_norm=0.0, **(linear | changes))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.add_callback(Overflow())
    return trainer


def test_steps_that_fp16_skips_do_not_count(tiny_model_path, prompts, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer = overflowing(tiny_model_path, prompts, tmp_path, **saving)
    trainer.train()
    log = rows(trainer)
    assert [row["skipped_steps"] for row in log] == [1, 1, 2, 2, 2]
    schedule = trainer.controller
    assert [row["temperature"] for row in log] == [schedule.temperature(step) for step in (0, 0, 1, 1, 2)]
    assert len(set(row["temperature"] for row in log)) == 3
    # `fused` is transformers' default, and accelerate does not see its skipped steps.
    plain = overflowing(tiny_model_path, prompts, tmp_path / "plain", optim="adamw_torch")
    plain.train()
    assert [row["skipped_steps"] for row in rows(plain)] == [1, 1, 2, 2, 2]
    resumed = overflowing(tiny_model_path, prompts, tmp_path, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [row["temperature"] for row in rows(resumed)] == [row["temperature"] for row in log]
    assert resumed.skipped_steps == 2


def test_without_a_scaler_nothing_is_skipped(tiny_model_path, prompts, tmp_path):
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, max_steps=1)
    trainer.train()
    assert "skipped_steps" not in rows(trainer)[0]
    assert trainer.skipped_steps == 0


@pytest.mark.parametrize(
    "wanted", [{"torch_compile": True}, {"torch_compile_backend": "inductor"}, {"torch_compile_mode": "default"}]
)
def test_torch_compile_is_refused(tmp_path, wanted):
    with pytest.raises(ValueError, match="torch_compile=True is not supported.*Set torch_compile=False"):
        TAMPOConfig(str(tmp_path), use_cpu=True, bf16=False, **wanted)


def test_compiled_models_are_refused(tiny_model_path, prompts, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    model.compile()
    args = TAMPOConfig(str(tmp_path), **(SETTINGS | {"model_init_kwargs": None}))
    with pytest.raises(ValueError, match="cannot train compiled code, and the model was compiled"):
        TAMPOTrainer(model, digit_reward, args, prompts)


def test_a_launcher_that_compiles_is_refused(tiny_model_path, prompts, tmp_path, caplog):
    trainer = make_trainer(tiny_model_path, prompts, tmp_path)
    from accelerate.utils import DynamoBackend

    from tampo.trainer.trl_internals import check_not_compiled

    plugin = SimpleNamespace(backend=DynamoBackend.INDUCTOR)
    state = SimpleNamespace(dynamo_plugin=plugin)
    fake = SimpleNamespace(model=trainer.model, accelerator=SimpleNamespace(state=state))
    with pytest.raises(ValueError, match="accelerate has dynamo_backend INDUCTOR.*ACCELERATE_DYNAMO_BACKEND"):
        check_not_compiled(fake)
    with caplog.at_level(logging.WARNING):
        check_not_compiled(trainer)
