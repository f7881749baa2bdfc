"""What a controller is shown of a batch: rewards, prompts and likelihoods of the same rollouts, as generated."""

import numpy as np
import pytest
import torch

from tampo.controllers.schedules import Fixed
from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tests.conftest import choose_heads
from tests.trainer.helpers import SETTINGS

BATCHES = {
    "one pass": {},
    "four passes a step": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    "scored at generation": {"steps_per_generation": 2, "num_iterations": 2},
}


def length_reward(completions, **kwargs):
    """By length, and no verdict on one completion in five."""
    return [None if len(text) % 5 == 4 else float(len(text)) for text in completions]


def digits(completions, **kwargs):
    return [float(sum(character.isdigit() for character in text)) for text in completions]


class Keeping(TAMPOTrainer):
    batches = ()

    def _collect_likelihoods(self, inputs):
        super()._collect_likelihoods(inputs)
        if self._collection.missing == 0:
            self.batches = (*self.batches, self.rollout_batch)


@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize("scale", ["group", "none"])
def test_rows_belong_together(tiny_model_path, prompts, tmp_path, shape, scale):
    """TRL's advantages, which ride along with the rows, follow from the rewards, which do not."""
    settings = SETTINGS | BATCHES[shape] | {"scale_rewards": scale, "reward_weights": [0.5, 2.0], "max_steps": 3}
    args = TAMPOConfig(output_dir=str(tmp_path), temperature_controller="random", eval_strategy="steps", eval_steps=1,
                       per_device_eval_batch_size=8, **settings)  # fmt: skip
    trainer = Keeping(str(tiny_model_path), [length_reward, digits], args, prompts, prompts.select(range(2)))
    trainer.train()
    drawn = {row["temperature"] for row in trainer.state.log_history if "temperature" in row}
    assert {batch.temperature for batch in trainer.batches} == drawn
    for batch in trainer.batches:
        groups = batch.rewards.reshape(-1, 8)
        assert (batch.groups.reshape(-1, 8) == np.arange(len(groups))[:, None]).all()
        means = np.nanmean(groups, axis=1, keepdims=True)
        deviations = np.nanstd(groups, axis=1, ddof=1, keepdims=True) + 1e-4 if scale == "group" else 1.0
        expected = np.nan_to_num((groups - means) / deviations).ravel()
        np.testing.assert_allclose(batch.advantages, expected, atol=1e-4)
        assert batch.reward == pytest.approx(np.nanmean(batch.rewards), abs=1e-5)
        k = list(batch.temperatures).index(batch.temperature)
        np.testing.assert_allclose(batch.sampled_log_likelihoods, batch.log_likelihoods[:, k], atol=1e-4)
        np.testing.assert_array_equal(batch.scored_at, batch.temperatures)


def test_the_reward_at_the_sampling_temperature_is_the_reward(tiny_model_path, prompts, tmp_path):
    args = TAMPOConfig(output_dir=str(tmp_path), temperature_controller="random", **SETTINGS)
    trainer = TAMPOTrainer(str(tiny_model_path), digits, args, prompts)
    trainer.train()
    for row in trainer.state.log_history[:-1]:
        at = f"reward_at/{row['temperature']:g}"
        assert row[at] == pytest.approx(row["reward"], abs=1e-4)
        assert row[f"{at}_samples"] == pytest.approx(1.0, abs=1e-4)
        assert 0 < row["reward_at/0.6_samples"] <= 1


def test_relative_scores_are_those_of_tempered_logits(tiny_model_path, prompts, tmp_path):
    """The same rollouts, scored at T_k and at T_k T: with a fixed T of 1.25 as 0.8 is 1.25 * 0.64."""
    candidates = [0.64, 0.8, 1.0, 1.25]
    fixed = {"temperature_candidates": candidates, "meta_warmup_ratio": 1.0, "meta_warmup_temperature": 1.25}
    found = {}
    for kind in ("absolute", "relative"):
        kwargs = {"virtual_temperatures": kind}
        args = TAMPOConfig(
            output_dir=str(tmp_path / kind),
            temperature_controller_kwargs=kwargs,
            **(SETTINGS | fixed | {"max_steps": 1}),
        )
        trainer = TAMPOTrainer(str(tiny_model_path), digits, args, prompts)
        trainer.train()
        found[kind] = trainer.rollout_batch
    absolute, relative = found["absolute"], found["relative"]
    np.testing.assert_allclose(relative.scored_at, np.array(candidates) * 1.25)
    np.testing.assert_allclose(relative.log_likelihoods[:, :3], absolute.log_likelihoods[:, 1:], atol=1e-4)
    np.testing.assert_allclose(relative.sampled_log_likelihoods, relative.log_likelihoods[:, 2], atol=1e-4)


class Entropies(Keeping):
    """Also keeps the entropies of whole logits, at each candidate, of what is recorded."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.whole = []  # entropies (M, K) of the completions' tokens, by generation batch

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        if self._record_next_pass:
            keep = attention_mask[:, -logits_to_keep:].bool()
            with torch.no_grad():
                logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
            logits = logits[:, -logits_to_keep - 1 : -1][keep].double()
            found = [torch.distributions.Categorical(logits=logits / t).entropy() for t in self._scored_at()]
            if not self._collection._rows:
                self.whole.append([])
            self.whole[-1].append(torch.stack(found, dim=-1))
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )


@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("way", ["closure", "hidden states"])
def test_virtual_entropies_are_those_of_whole_logits(tiny_model_path, prompts, tmp_path, monkeypatch, shape, size, way):
    choose_heads(way, monkeypatch)
    settings = SETTINGS | BATCHES[shape] | {"scoring_batch_size": size}
    args = TAMPOConfig(str(tmp_path), temperature_controller="entropy-match", meta_warmup_ratio=0.25, **settings)
    trainer = Entropies(str(tiny_model_path), digits, args, prompts)
    trainer.train()
    assert len(trainer.whole) == len(trainer.batches) > 0
    for batch, whole in zip(trainer.batches, trainer.whole, strict=True):
        expected = torch.cat(whole)
        assert len(expected) == batch.lengths.sum()
        assert batch.log_likelihoods.shape == (len(batch.lengths), 10)
        np.testing.assert_allclose(batch.virtual_entropies, expected.mean(dim=0), rtol=1e-5)
        at_sampling = np.interp(batch.temperature, batch.scored_at, batch.virtual_entropies)
        assert batch.entropy == pytest.approx(at_sampling, rel=1e-2)


def test_virtual_entropies_change_no_weight(tiny_model_path, prompts, tmp_path, monkeypatch):
    """Where no controller asks, there are none; where one does, the rest of the run stays the same to the bit."""

    def run(asked):
        monkeypatch.setattr(Fixed, "uses_virtual_entropies", asked)
        args = TAMPOConfig(str(tmp_path / str(asked)), temperature_controller="fixed", **SETTINGS)
        trainer = Keeping(str(tiny_model_path), digits, args, prompts)
        trainer.train()
        return trainer

    without, asked = run(False), run(True)
    for batch, other in zip(without.batches, asked.batches, strict=True):
        assert batch.virtual_entropies is None
        assert other.virtual_entropies.shape == (10,)
        np.testing.assert_array_equal(batch.log_likelihoods, other.log_likelihoods)
    for name, weight in without.model.state_dict().items():
        assert torch.equal(weight, asked.model.state_dict()[name])


def test_virtual_entropies_of_a_batch_without_tokens_are_nan(tiny_model_path, prompts, tmp_path):
    """All completions are cut off, and masked: T stays."""
    cut = {"mask_truncated_completions": True, "max_completion_length": 2, "meta_warmup_ratio": 0.0}
    cut |= {"generation_kwargs": {"suppress_tokens": [1]}, "temperature_controller": "entropy-match"}
    args = TAMPOConfig(str(tmp_path), **(SETTINGS | cut))
    trainer = TAMPOTrainer(str(tiny_model_path), digits, args, prompts)
    trainer.train()
    assert not trainer.rollout_batch.lengths.any()
    assert np.isnan(trainer.rollout_batch.virtual_entropies).tolist() == [True] * 10
    assert trainer.temperature == 1.0
