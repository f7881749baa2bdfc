"""Contract of TAMPOTrainer: the current temperature reaches sampling and loss alike, and nothing else changes."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, Trainer
from trl import GRPOConfig, GRPOTrainer

from tampo.trainer.config import TAMPOConfig
from tampo.trainer.trainer import CONTROLLER_STATE_NAME, NonFiniteLoss, TAMPOTrainer
from tests.conftest import choose_heads
from tests.helpers import digit_reward, sampling_p_value
from tests.trainer.helpers import SETTINGS, Watching, make_trainer

pytestmark = pytest.mark.contract


REGIMES = {
    "plain": {},
    "accumulation": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "batch of two steps": {"steps_per_generation": 2},
    "batch longer than accumulation": {"gradient_accumulation_steps": 2, "steps_per_generation": 4},
    "two batches a step": {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "steps_per_generation": 2,
    },
    "two iterations": {"num_iterations": 2},
    "reference model": {"beta": 0.1},
    "LoRA": {"peft": True},
    "LoRA and reference": {"peft": True, "beta": 0.1, "steps_per_generation": 2},
}


@pytest.fixture(params=["closure", "hidden states"])
def heads(request, monkeypatch):
    """Both ways to set the loss's temperature, where this TRL has both."""
    choose_heads(request.param, monkeypatch)


@pytest.fixture(params=[(regime, way) for regime in REGIMES for way in ("closure", "hidden states")], scope="module")
def watched(request, tiny_model_path, prompts, tmp_path_factory):
    """A short TAMPO run in each regime; with p = 1 and no warm-up, temperatures change from the start."""
    regime, way = request.param
    changes = dict(REGIMES[regime])
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4) if changes.pop("peft", False) else None
    changes |= {"meta_warmup_ratio": 0, "meta_top_p": 1, "max_steps": 8}
    with pytest.MonkeyPatch.context() as patch:
        choose_heads(way, patch)
        trainer = make_trainer(tiny_model_path, prompts, tmp_path_factory.mktemp("run"), Watching, lora, **changes)
    trainer.train()
    return trainer


def test_log_probs_in_the_loss_are_those_of_the_current_temperature(watched):
    assert max(watched.errors) < 1e-4
    assert len({temperature for temperature, _, _ in watched.passes}) > 1, "the test needs a temperature that changes"
    if watched.ref_model is not None:
        assert {is_reference for _, is_reference, _ in watched.passes} == {True, False}


def test_importance_ratio_is_one_on_the_first_pass(watched):
    """Where TRL computes log-probs before the update, the loss's first pass must agree; elsewhere it is the pass."""
    assert bool(watched.first_ratios) == watched._log_probs_at_generation
    for ratio in watched.first_ratios:
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)


def test_one_update_a_generation_batch_with_every_rollout(watched):
    args = watched.args
    passes = args.max_steps * args.gradient_accumulation_steps
    assert watched.controller.meta_policy.updates == passes / (args.steps_per_generation * args.num_iterations)
    assert len(watched.rollout_batch.advantages) == args.generation_batch_size


def test_a_rollout_batch_has_the_mean_reward_and_the_entropy_at_the_sampled_temperature(watched):
    rows = [row for row in watched.state.log_history if "entropy" in row]
    assert any(watched.rollout_batch.reward == pytest.approx(row["reward"]) for row in rows if "reward" in row)
    assert 0 < watched.rollout_batch.entropy < math.log(watched.model.config.vocab_size)
    args = watched.args
    if args.steps_per_generation == args.gradient_accumulation_steps and args.num_iterations == 1:
        # TRL's is the mean over micro-batches, however many tokens each has.
        tolerance = 1e-4 if args.gradient_accumulation_steps == 1 else 1e-2
        assert watched.rollout_batch.entropy == pytest.approx(rows[-1]["entropy"], rel=tolerance)


def test_every_use_of_a_batch_is_at_the_temperature_it_was_sampled_at(watched):
    per_batch = watched.args.steps_per_generation * watched.args.num_iterations
    for start in range(0, len(watched.drawn), per_batch):
        assert len(set(watched.drawn[start : start + per_batch])) == 1


def test_likelihoods_are_those_of_the_generating_policy(heads, tiny_model_path, prompts, tmp_path):
    """The likelihoods of the last batch against whole logits of the weights that sampled it, in every regime."""
    for name, changes in {"at the loss": {}, "at generation": {"steps_per_generation": 2}}.items():
        trainer = make_trainer(tiny_model_path, prompts, tmp_path / name, max_steps=4, **changes)
        snapshots = []
        original = trainer._generate_and_score_completions

        def spy(inputs, original=original, trainer=trainer, snapshots=snapshots):
            weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
            output = original(inputs)
            snapshots.append((weights, {k: v.clone() for k, v in output.items() if torch.is_tensor(v)}))
            return output

        trainer._generate_and_score_completions = spy
        trainer.train()
        weights, batch = snapshots[-1]
        generator = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
        generator.load_state_dict(weights)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        length = batch["completion_ids"].shape[1]
        with torch.no_grad():
            logits = generator(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
        expected = []
        for temperature in trainer.args.temperature_candidates:
            logps = torch.log_softmax(logits / temperature, -1).gather(-1, batch["completion_ids"][..., None])[..., 0]
            expected.append((logps * batch["completion_mask"]).sum(1))
        expected = torch.stack(expected, dim=1).numpy()  # (N, K)
        # The trainer shuffles rows before the loss: compare as sets of rows.
        order = lambda rows: rows[np.lexsort(rows.round(3).T)]  # noqa: E731
        np.testing.assert_allclose(order(trainer.rollout_batch.log_likelihoods), order(expected), atol=1e-3)


@pytest.mark.parametrize("temperature", [0.6, 1.5])
def test_first_tokens_follow_the_tempered_softmax(tiny_model_path, tmp_path, temperature):
    """Chi-square of 4,096 first tokens sampled by a TAMPO run whose warm-up holds one temperature."""
    one_prompt = Dataset.from_dict({"prompt": ["3+4="] * 4096})
    trainer = make_trainer(
        tiny_model_path, one_prompt, tmp_path, max_steps=1, max_completion_length=1, per_device_train_batch_size=4096,
        meta_warmup_ratio=1.0, meta_warmup_temperature=temperature, learning_rate=0.0,
    )  # fmt: skip
    samples = []
    original = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *a, **k: (samples.append(original(*a, **k)), samples[-1])[1]
    trainer.train()
    counts = np.bincount([ids[0] for ids in samples[0][0]], minlength=21)
    ids = trainer.processing_class("3+4=", return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(ids).logits[0, -1]

    def p_value(t: float) -> float:
        return sampling_p_value(counts, torch.softmax(logits.double() / t, -1).numpy())

    assert p_value(temperature) > 1e-3
    assert p_value(1.0) < 1e-6, "the test must be able to tell temperatures apart"


@pytest.mark.parametrize(
    "changes", [{}, {"beta": 0.1, "steps_per_generation": 2}, {"temperature": 1.4, "num_iterations": 2}]
)
def test_fixed_controller_equals_grpo_bit_for_bit(heads, tiny_model_path, prompts, tmp_path, changes):
    plain = make_trainer(tiny_model_path, prompts, tmp_path / "plain", GRPOTrainer, **changes)
    plain.train()
    ours = make_trainer(tiny_model_path, prompts, tmp_path / "ours", temperature_controller="fixed", **changes)
    ours.train()
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, ours.model.state_dict()[name]), name
    for theirs, mine in zip(plain.state.log_history[:-1], ours.state.log_history[:-1], strict=True):
        assert {k: v for k, v in theirs.items() if k != "step_time"} == {k: mine[k] for k in theirs if k != "step_time"}
    initial = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32).state_dict()
    assert not all(torch.equal(w, initial[k]) for k, w in plain.model.state_dict().items()), "nothing was trained"


def test_linear_controller_reaches_both_ends(tiny_model_path, prompts, tmp_path):
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, temperature_controller="linear")
    trainer.train()
    temperatures = [row["temperature"] for row in trainer.state.log_history if "temperature" in row]
    np.testing.assert_allclose(temperatures, [0.9, 1.1, 1.3, 1.5])


@pytest.mark.parametrize("name", ["cosine", "staged", "entropy-target", "entropy-match", "e3", "exp3", "ucb"])
def test_every_controller_trains_and_resumes_exactly(tiny_model_path, prompts, tmp_path, name):
    settings = {"temperature_controller": name, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    settings |= {"meta_warmup_ratio": 0.34}
    whole = make_trainer(tiny_model_path, prompts, tmp_path, **settings)
    whole.train()
    rows = [row for row in whole.state.log_history if "temperature" in row]
    assert all(0.6 <= row["temperature"] <= 1.5 for row in rows)
    assert len({row["temperature"] for row in rows}) > 1
    again = make_trainer(tiny_model_path, prompts, tmp_path, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.controller.state_dict() == whole.controller.state_dict()
    for (key, weight), other in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(weight, other), key


def test_metrics_reach_the_log(tiny_model_path, prompts, tmp_path):
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, meta_warmup_ratio=0.25, max_steps=8)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "temperature" in row]
    assert [row["temperature"] for row in rows[:2]] == [1.0, 1.0]  # the warm-up: a quarter of 8 steps
    for row in rows:
        distribution = [row[f"meta_policy/p({t:g})"] for t in trainer.args.temperature_candidates]
        assert sum(distribution) == pytest.approx(1)
        positive = [p for p in distribution if p > 0]
        assert row["meta_policy/entropy"] == pytest.approx(-sum(p * math.log(p) for p in positive))
    observed = [row for row in rows if "optimal_temperature/positive_mean" in row]  # needs a spread of rewards
    assert observed
    for row in observed:
        assert 0.6 <= row["optimal_temperature/positive_mean"] <= 1.5
        assert row["optimal_temperature/positive_count"] + row["optimal_temperature/negative_count"] <= 16


def test_evaluation_is_at_the_fixed_temperature_and_moves_nothing(heads, tiny_model_path, prompts, tmp_path):
    def run(evaluate: bool):
        changes = {"eval_strategy": "steps", "eval_steps": 1} if evaluate else {}
        args = TAMPOConfig(
            output_dir=str(tmp_path), temperature=0.8, meta_warmup_temperature=1.3, meta_warmup_ratio=1.0,
            per_device_eval_batch_size=8, **(SETTINGS | changes),
        )  # fmt: skip
        trainer = Watching(str(tiny_model_path), digit_reward, args, prompts, prompts.select(range(1)))
        trainer.train()
        return trainer

    evaluated, quiet = run(True), run(False)
    assert {t for t, _, _ in evaluated.passes} == {0.8, 1.3}
    assert {t for t, _, _ in quiet.passes} == {1.3}
    assert evaluated.controller.meta_policy.updates == quiet.controller.meta_policy.updates == 4


def test_resume_is_exact(heads, tiny_model_path, prompts, tmp_path):
    """Four steps at once, and two, then two from the checkpoint: the same weights, temperatures and averages."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "meta_warmup_ratio": 0.25}
    whole = make_trainer(tiny_model_path, prompts, tmp_path / "whole", **settings)
    whole.train()
    again = make_trainer(tiny_model_path, prompts, tmp_path / "whole", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert again.controller.state_dict() == whole.controller.state_dict()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


@pytest.mark.parametrize("given", ["path", True])
def test_a_checkpoint_of_another_number_of_processes_is_refused_first(
    tiny_model_path, prompts, tmp_path, monkeypatch, given
):
    """Before transformers, or DeepSpeed, reads anything of it."""
    make_trainer(tiny_model_path, prompts, tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    state = tmp_path / "checkpoint-1" / CONTROLLER_STATE_NAME
    saved = json.loads(state.read_text())
    assert saved["generation_batch"]["world_size"] == 1
    saved["generation_batch"]["world_size"] = 8
    state.write_text(json.dumps(saved))
    again = make_trainer(tiny_model_path, prompts, tmp_path)
    monkeypatch.setattr(Trainer, "train", lambda *args, **kwargs: pytest.fail("read"))
    with pytest.raises(
        ValueError, match=r"checkpoint-1 was saved by 8 processes \(GPUs\), and 1 were started. Start 8"
    ):
        again.train(resume_from_checkpoint=given if given is True else str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other controller", "other candidates"])
def test_resume_without_the_controllers_state_is_refused(tiny_model_path, prompts, tmp_path, damage):
    settings = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(tiny_model_path, prompts, tmp_path, **settings).train()
    checkpoint = tmp_path / "checkpoint-2"
    state = checkpoint / CONTROLLER_STATE_NAME
    if damage == "missing":
        state.unlink()
    elif damage == "truncated":
        state.write_text(state.read_text()[:100])
    elif damage == "other controller":
        settings["temperature_controller"] = "linear"
    else:
        settings["temperature_candidates"] = [0.5, 1.0]
    with pytest.raises(ValueError, match=CONTROLLER_STATE_NAME):
        make_trainer(tiny_model_path, prompts, tmp_path, **settings).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature_controller", "tampoo"),
        ("temperature_candidates", []),
        ("temperature_candidates", [0.6, 0.6]),
        ("temperature_candidates", [0.0, 1.0]),
        ("temperature_candidates", [float("nan")]),
        ("temperature", -1.0),
        ("meta_alpha", 1.5),
        ("meta_top_p", float("nan")),
        ("meta_warmup_ratio", -0.1),
        ("meta_likelihood", "max"),
        ("loss_temperature", "two"),
        ("loss_importance_cap", 0.9),
        ("loss_importance_cap", float("nan")),
        ("generation_kwargs", {"temperature": 2.0}),
    ],
)
def test_config_names_the_bad_parameter(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        TAMPOConfig(output_dir=str(tmp_path), **(SETTINGS | {name: value}))


@pytest.mark.parametrize(
    ("controller", "name", "value"),
    [
        ("linear", "end_temperature", float("inf")),
        ("staged", "stages", []),
        ("staged", "stages", 1.0),
        ("entropy-target", "target", -1),
        ("entropy-target", "gain", 0),
        ("exp3", "exploration", 2),
        ("ucb", "exploration", float("inf")),
    ],
)
def test_config_names_the_bad_parameter_of_a_controller(tmp_path, controller, name, value):
    controller_settings = {"temperature_controller": controller, "temperature_controller_kwargs": {name: value}}
    with pytest.raises(ValueError, match=f"temperature_controller_kwargs: .*{name}"):
        TAMPOConfig(output_dir=str(tmp_path), **(SETTINGS | controller_settings))


def test_config_refuses_an_old_name_with_the_new_one(tmp_path):
    with pytest.raises(TypeError, match=r"has no entropy_gain any more; write temperature_controller_kwargs=.*gain"):
        TAMPOConfig(output_dir=str(tmp_path), entropy_gain=0.1, **SETTINGS)


def test_plain_config_is_refused(tiny_model_path, prompts, tmp_path):
    args = GRPOConfig(output_dir=str(tmp_path), **SETTINGS)
    with pytest.raises(TypeError, match="TAMPOConfig"):
        TAMPOTrainer(str(tiny_model_path), digit_reward, args, prompts)


class Poisoned(TAMPOTrainer):
    """Its advantages are NaN from the third step on."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.state.global_step >= 2:
            output["advantages"] = output["advantages"] * float("nan")
        return output


def test_a_loss_that_is_nan_stops_the_run_before_the_update(tiny_model_path, prompts, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tiny_model_path, prompts, tmp_path, Poisoned, **settings)
    with pytest.raises(NonFiniteLoss, match=r"loss is nan in step 3.*\(prompt\): \d\+\d=.*Newest checkpoint: .*-2\. "):
        trainer.train()
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())


def test_the_columns_problem_id_names_the_prompts(tiny_model_path, prompts, tmp_path):
    numbered = prompts.add_column("problem_id", [f"sum-{i}" for i in range(len(prompts))])
    trainer = make_trainer(tiny_model_path, numbered, tmp_path, Poisoned)
    with pytest.raises(NonFiniteLoss, match=r"\(problem_id\): sum-\d+; sum-\d+. Newest checkpoint: none"):
        trainer.train()
