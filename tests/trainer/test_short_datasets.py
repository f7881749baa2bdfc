"""Training sets that do not fill one generation batch are refused; TRL would end without a step."""

import pytest
import torch
from datasets import Dataset, IterableDataset

from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS

pytestmark = pytest.mark.contract

SMALL = SETTINGS | {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 4}


def rows(count):
    return Dataset.from_dict({"prompt": [f"{i}+1=" for i in range(count)]})


def stream(count):
    return IterableDataset.from_generator(lambda: ({"prompt": f"{i}+1="} for i in range(count)))


def make(model, output, data, **changes):
    return TAMPOTrainer(str(model), digit_reward, TAMPOConfig(str(output), **(SMALL | changes)), data)


@pytest.mark.parametrize(
    ("count", "changes", "needed"),
    [
        (1, {}, 2),
        (5, {"steps_per_generation": 3}, 6),
        (3, {"gradient_accumulation_steps": 2, "num_iterations": 3}, 4),
        (1, {"max_steps": -1, "num_train_epochs": 3}, 2),
        (1, {"generation_batch_size": 32}, 8),
    ],
)
def test_fewer_rows_than_a_generation_batch_are_refused(tiny_model_path, tmp_path, count, changes, needed):
    message = (
        rf"train_dataset has too few rows: {count}\. .* {needed} different prompts: per_device_train_batch_size \(8\)"
    )
    with pytest.raises(ValueError, match=message):
        make(tiny_model_path, tmp_path, rows(count), **changes)
    trainer = make(tiny_model_path, tmp_path, rows(needed), **(changes | {"max_steps": 1}))
    trainer.train()
    assert trainer.state.global_step == 1


def test_rows_without_a_length_and_rows_exchanged_later_are_refused(tiny_model_path, tmp_path):
    streamed, exchanged = make(tiny_model_path, tmp_path, stream(1)), make(tiny_model_path, tmp_path, rows(2))
    exchanged.train_dataset = rows(1)
    for trainer in (streamed, exchanged):
        with pytest.raises(
            ValueError, match=r"train_dataset has too few rows: no step was trained.* 2 different prompts"
        ):
            trainer.train()


def test_a_stream_does_not_resume_in_its_second_pass(tiny_model_path, tmp_path):
    """Where that pass was is not in a checkpoint."""
    settings = {"save_strategy": "steps", "save_steps": 1, "num_iterations": 2}
    trainer = make(tiny_model_path, tmp_path, stream(4), max_steps=5, **settings)
    trainer.train()
    assert trainer.state.global_step == 5, "it is read again after 4 steps"
    again = make(tiny_model_path, tmp_path, stream(4), max_steps=7, **settings)
    with pytest.raises(ValueError, match="second pass over a stream as train_dataset"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@pytest.mark.parametrize("step", [1, 2])
def test_a_stream_resumes_exactly(tiny_model_path, tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "num_iterations": 2}
    whole = make(tiny_model_path, tmp_path, stream(8), **settings)
    whole.train()
    again = make(tiny_model_path, tmp_path, stream(8), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
