"""`loss_temperature="one"`: rollouts at T, a loss at 1, and truncated importance weights, against whole logits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from tampo.config import load_params
from tampo.paper.experiments import LOSS_TEMPERATURE_ROWS
from tampo.runs.training import sample_rollouts, trainer_config
from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tests.conftest import choose_heads
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS

pytestmark = pytest.mark.contract

MEAN, CAPPED = "loss/importance_weight_mean", "loss/importance_weight_capped"
BETA = 0.1
ONE = {
    "loss_temperature": "one", "loss_type": "grpo", "use_bias_correction_kl": False, "max_grad_norm": 0.0,
    "temperature_controller": "random", "temperature_candidates": [0.6, 1.5], "meta_warmup_ratio": 0.0,
}  # fmt: skip
REGIMES = {
    "plain": {},
    "accumulation": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "batch of two steps": {"steps_per_generation": 2},
    "two iterations": {"num_iterations": 2, "scoring_batch_size": 4},
    "two iterations of two parts": {"num_iterations": 2, "steps_per_generation": 2, "max_steps": 8},
    "both iterations in a step": {"num_iterations": 2, "gradient_accumulation_steps": 2},
    "reference model": {"beta": BETA},
    "reference model and iterations": {"beta": BETA, "num_iterations": 2},
}


class Keeping(TAMPOTrainer):
    """Keeps the weights, rows and log-probs of every loss, and the gradients of every step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses, self.gradients, self.batches, self.drawn = [], [], [], []
        self.generator, self.log_probs = None, None
        self.add_callback(Gradients(self))

    def weights(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def _generate_and_score_completions(self, inputs):
        self.generator = self.weights()
        output = super()._generate_and_score_completions(inputs)
        sampler = self.vllm_generation if self.use_vllm else self.generation_config
        self.drawn.append((sampler.temperature, output["temperature"].item()))
        return output

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.losses.append((self.generator, self.weights(), dict(inputs), self.log_probs))
        return loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.log_probs = result[0].detach()
        return result

    def _collect_likelihoods(self, inputs):
        super()._collect_likelihoods(inputs)
        if self._collection.missing == 0:
            self.batches.append((self.generator, self.rollout_batch))


class Gradients(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trainer.gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})


class SampledByVllm(Keeping):
    """Takes the log-probs of its rollout function for vLLM's, and corrects for the difference."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_vllm = self._log_probs_at_generation = True
        self.vllm_generation = SimpleNamespace(temperature=None, sync_weights=lambda: None)
        self._last_loaded_step = -1

    def _generate_single_turn(self, *args, **kwargs):
        self.use_vllm = False
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self.use_vllm = True


def build(model, prompts, folder, cls=Keeping, rollout_func=None, **changes):
    args = TAMPOConfig(output_dir=str(folder), **(SETTINGS | ONE | changes))
    return cls(str(model), digit_reward, args, prompts, rollout_func=rollout_func)


def rows(trainer):
    return [row for row in trainer.state.log_history if "loss" in row]


def load(path, weights=None):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if weights is not None:
        model.load_state_dict(weights)
    return model


def scores(model, inputs, temperature):
    """Log-probs of completions by whole logits, (b, C)."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, inputs["completion_ids"][..., None])[..., 0]


def own_ratios(path, generator, inputs):
    """pi_1 / pi_T of the policy that generated, (b, C), and its log pi_1."""
    policy, temperature = load(path, generator), inputs["temperature"].item()
    with torch.no_grad():
        old, sampled = scores(policy, inputs, 1.0), scores(policy, inputs, temperature)
    return (old - sampled).exp(), old


def own_loss(path, model, generator, inputs, beta, cap):
    """Mean over rollouts and tokens of -w min(ratio A, clipped ratio A) + beta KL, all at temperature 1."""
    mask, advantages = inputs["completion_mask"], inputs["advantages"][:, None]
    ratios, old = own_ratios(path, generator, inputs)
    current = scores(model, inputs, 1.0)
    ratio = (current - old).exp()
    loss = -ratios.clamp(max=cap) * torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    if beta:
        with torch.no_grad():
            difference = scores(load(path), inputs, 1.0)
        difference = difference - current
        loss = loss + beta * (difference.exp() - difference - 1)
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


def check_gradients(path, trainer, cap=2.0):
    """Those of every step equal those of `own_loss`."""
    parts = trainer.args.gradient_accumulation_steps
    assert len(trainer.losses) == parts * len(trainer.gradients)
    largest = [max(gradient.abs().max() for gradient in gradients.values()) for gradients in trainer.gradients]
    assert max(largest) > 1e-3, "nothing to compare"
    for step, gradients in enumerate(trainer.gradients):
        model = None
        for generator, weights, inputs, _ in trainer.losses[step * parts : (step + 1) * parts]:
            model = model or load(path, weights)
            (own_loss(path, model, generator, inputs, trainer.beta, cap) / parts).backward()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-5, msg=f"{step} {name}")


@pytest.fixture(params=[(regime, way) for regime in REGIMES for way in ("closure", "hidden states")], scope="module")
def trained(request, tiny_model_path, prompts, tmp_path_factory):
    regime, way = request.param
    with pytest.MonkeyPatch.context() as patch:
        choose_heads(way, patch)
        trainer = build(tiny_model_path, prompts, tmp_path_factory.mktemp("run"), **REGIMES[regime])
    trainer.train()
    return trainer


def test_rollouts_are_drawn_at_t_and_the_loss_is_at_one(trained, tiny_model_path):
    assert {sampler for sampler, _ in trained.drawn} == {0.6, 1.5}
    assert all(sampler == batch for sampler, batch in trained.drawn)
    for _, weights, inputs, log_probs in trained.losses:
        mask = inputs["completion_mask"].bool()
        with torch.no_grad():
            expected = scores(load(tiny_model_path, weights), inputs, 1.0)
            reference = scores(load(tiny_model_path), inputs, 1.0)
        torch.testing.assert_close(log_probs[mask], expected[mask], rtol=0, atol=1e-4)
        if trained.beta:
            torch.testing.assert_close(inputs["ref_per_token_logps"][mask], reference[mask], rtol=0, atol=1e-4)


def test_gradients_are_those_of_the_weighted_loss(trained, tiny_model_path):
    check_gradients(tiny_model_path, trained)


def test_controllers_are_shown_likelihoods_at_t(trained):
    batches = [batch for _, batch in trained.batches]
    assert len(batches) == len(trained.drawn)
    for batch in batches:
        k = list(batch.temperatures).index(batch.temperature)
        np.testing.assert_array_equal(batch.scored_at, batch.temperatures)
        np.testing.assert_allclose(batch.sampled_log_likelihoods, batch.log_likelihoods[:, k], atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2}], ids=["at the loss", "at generation"])
def test_what_a_controller_is_shown_against_whole_logits(tiny_model_path, prompts, tmp_path, changes):
    trainer = build(tiny_model_path, prompts, tmp_path, **changes)
    trainer.train()
    generator, batch = trainer.batches[-1]
    parts = [inputs for _, _, inputs, _ in trainer.losses[-trainer.args.steps_per_generation :]]
    order = torch.cat([inputs["rollout"] for inputs in parts]).argsort()
    policy = load(tiny_model_path, generator)
    temperature = parts[0]["temperature"].item()

    def summed(value):
        return torch.cat([(value(inputs) * inputs["completion_mask"]).sum(1) for inputs in parts])[order].numpy()

    with torch.no_grad():
        for k, candidate in enumerate(batch.temperatures):
            expected = summed(lambda inputs, t=candidate: scores(policy, inputs, t))
            np.testing.assert_allclose(batch.log_likelihoods[:, k], expected, atol=1e-3)
        expected = summed(lambda inputs: scores(policy, inputs, temperature))
        np.testing.assert_allclose(batch.sampled_log_likelihoods, expected, atol=1e-3)
        entropies = []
        for inputs in parts:
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            length = inputs["completion_ids"].shape[1]
            logits = policy(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
            entropy = torch.distributions.Categorical(logits=logits).entropy()
            entropies.append(entropy[inputs["completion_mask"].bool()])
    assert batch.entropy == pytest.approx(torch.cat(entropies).mean().item(), abs=1e-4), "that of the policy at 1"


@pytest.mark.parametrize("cap", [1.0, 1.2, float("inf")])
@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2}], ids=["at the loss", "at generation"])
def test_the_cap(tiny_model_path, prompts, tmp_path, changes, cap):
    trainer = build(tiny_model_path, prompts, tmp_path, loss_importance_cap=cap, **changes)
    trainer.train()
    check_gradients(tiny_model_path, trainer, cap)
    parts = trainer.args.steps_per_generation
    logged = [row for row in rows(trainer) if MEAN in row]
    assert len(logged) == trainer.args.max_steps // parts
    for number, row in enumerate(logged):
        kept = []
        for generator, _, inputs, _ in trainer.losses[number * parts : (number + 1) * parts]:
            ratios, _ = own_ratios(tiny_model_path, generator, inputs)
            kept.append(ratios[inputs["completion_mask"].bool()])
        ratios = torch.cat(kept)
        assert row[MEAN] == pytest.approx(ratios.clamp(max=cap).mean().item(), rel=1e-4)
        assert row[CAPPED] == pytest.approx((ratios > cap).float().mean().item(), abs=1e-6)
        assert (row[CAPPED] > 0) == (cap < 2)


def test_the_kl_term_has_no_weight(tiny_model_path, prompts, tmp_path):
    """Without advantages, only the KL term is left, whatever the weights."""

    class Flat(Keeping):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            output["advantages"] = torch.zeros_like(output["advantages"])
            return output

    noisy = load(tiny_model_path)
    found = []
    for cap in (1.0, 100.0):
        trainer = build(tiny_model_path, prompts, tmp_path, Flat, beta=BETA, loss_importance_cap=cap, max_steps=1)
        torch.manual_seed(0)
        with torch.no_grad():  # at the reference model, the term has no gradient
            for weight, start in zip(trainer.model.parameters(), noisy.parameters(), strict=True):
                weight.copy_(start + 0.02 * torch.randn_like(start))
        trainer.train()
        check_gradients(tiny_model_path, trainer, cap)
        found.append(trainer.gradients[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("regime", REGIMES)
def test_at_temperature_one_both_train_the_same(tiny_model_path, prompts, tmp_path, regime):
    fixed = {"temperature_controller": "fixed", "temperature": 1.0} | REGIMES[regime]
    one = build(tiny_model_path, prompts, tmp_path, **fixed)
    one.train()
    usual = build(tiny_model_path, prompts, tmp_path, loss_temperature="sampling", **fixed)
    usual.train()
    for name, weight in usual.model.state_dict().items():
        torch.testing.assert_close(one.model.state_dict()[name], weight, rtol=0, atol=1e-6)
    assert {row[MEAN] for row in rows(one) if MEAN in row} == {1.0}
    assert {row[CAPPED] for row in rows(one) if CAPPED in row} == {0.0}
    assert not any(name.startswith("loss/") for row in rows(usual) for name in row)


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2}], ids=["at the loss", "at generation"])
def test_the_sampler_is_compared_at_its_temperature(tiny_model_path, prompts, tmp_path, caplog, changes):
    trainer = build(tiny_model_path, prompts, tmp_path, rollout_func=sample_rollouts, **changes)
    trainer.train()
    gaps = [row["sampler/log_prob_gap_max"] for row in rows(trainer) if "sampler/log_prob_gap_max" in row]
    assert len(gaps) == len(trainer.drawn)
    assert max(gaps) < 1e-4
    assert "sampler/log_prob_gap_mean" not in caplog.text


def test_trls_correction_for_vllm_stays_one_at_the_sampling_temperature(tiny_model_path, prompts, tmp_path):
    """Its weights are pi_T / vLLM's, and ours go from T to 1: together they correct once."""
    trainer = build(tiny_model_path, prompts, tmp_path, SampledByVllm, sample_rollouts)
    trainer.train()
    for row in rows(trainer):
        assert row["sampling/importance_sampling_ratio/max"] == pytest.approx(1.0, abs=1e-3)
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
        assert row[MEAN] != pytest.approx(1.0, abs=1e-3)
    check_gradients(tiny_model_path, trainer)


@pytest.mark.parametrize("save_steps", [2, 3])  # at the end of a generation batch, and inside one
def test_resume_is_exact(tiny_model_path, prompts, tmp_path, save_steps):
    settings = {"num_iterations": 2, "save_strategy": "steps", "save_steps": save_steps, "max_steps": 6}
    settings |= {"temperature_controller": "tampo", "meta_top_p": 1.0}
    whole = build(tiny_model_path, prompts, tmp_path, **settings)
    whole.train()
    again = build(tiny_model_path, prompts, tmp_path, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{save_steps}"))
    assert again.controller.state_dict() == whole.controller.state_dict()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_evaluations_are_at_their_temperature_throughout(tiny_model_path, prompts, tmp_path):
    args = TAMPOConfig(
        output_dir=str(tmp_path), temperature=0.8, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=8,
        **(SETTINGS | ONE | {"max_steps": 1}),
    )  # fmt: skip
    trainer = Keeping(str(tiny_model_path), digit_reward, args, prompts, prompts.select(range(1)))
    trainer.train()
    _, weights, inputs, log_probs = trainer.losses[-1]
    mask = inputs["completion_mask"].bool()
    assert "importance_weights" not in inputs
    with torch.no_grad():
        expected = scores(load(tiny_model_path, weights), inputs, 0.8)
    torch.testing.assert_close(log_probs[mask], expected[mask], rtol=0, atol=1e-4)


def test_a_run_passes_the_settings_on(tmp_path):
    params = load_params("smoke", {"loss_temperature": "one", "loss_importance_cap": 3})
    config = trainer_config(params.training(), tmp_path)
    assert (config.loss_temperature, config.loss_importance_cap) == ("one", 3.0)
    usual = trainer_config(load_params("smoke").training(), tmp_path)
    assert (usual.loss_temperature, usual.loss_importance_cap) == ("sampling", 2.0)


def test_rows_of_the_study_come_in_pairs():
    keys = ["tampo", "tampo-one", "fixed-1.2", "fixed-1.2-one", "fixed-0.7", "fixed-0.7-one"]
    assert [row.key for row in LOSS_TEMPERATURE_ROWS] == keys
    assert LOSS_TEMPERATURE_ROWS[1].title == "TAMPO, loss at 1"
    identities = [load_params("mini").training(**row.changes).identity() for row in LOSS_TEMPERATURE_ROWS]
    assert identities[0] == load_params("mini").training().identity(), "the runs of the tables"
    for usual, one in zip(identities[::2], identities[1::2], strict=True):
        added = {"loss_temperature": "one", "loss_importance_cap": 2.0}
        assert one == usual | added
