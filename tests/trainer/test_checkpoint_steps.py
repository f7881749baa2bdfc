"""Checkpoints inside a generation batch: saved when GRPOTrainer saves them, and exact to resume from."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import tampo
from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tampo.trainer.callback import MetaPolicyCallback
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS

pytestmark = pytest.mark.contract

# Generation batches of 3 steps, of 4 steps, and of a step and a half.
BATCHES = {
    "iterations": {"num_iterations": 3},
    "steps": {"steps_per_generation": 2, "num_iterations": 2},
    "a step and a half": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 3,
    },
}
SMALL = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 4,
    "max_steps": 7,
    "save_steps": 2,
    "eval_steps": 2,
    "lr_scheduler_type": "constant",
    "metric_for_best_model": "reward",
}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}
STOP = "should_training_stop"
TAMPO = {"temperature_controller": "tampo", "meta_top_p": 1, "meta_warmup_ratio": 0}
PROMPTS = Dataset.from_dict({"prompt": [f"{a}+{b}=" for a in range(2) for b in range(4)]})


def make(model, output, cls=TAMPOTrainer, callbacks=(), data=PROMPTS, **changes):
    config = GRPOConfig if cls is GRPOTrainer else TAMPOConfig
    args = config(output_dir=str(output), **(SETTINGS | SMALL | changes))
    return cls(str(model), digit_reward, args, data, PROMPTS.select(range(2)), callbacks=list(callbacks))


def train(trainer, checkpoint=None):
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def rows(trainer):
    return [{k: v for k, v in row.items() if "time" not in k and "_per_" not in k} for row in trainer.state.log_history]


def assert_equal(one, other):
    for (name, weight), same in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(weight, same), name


def assert_resumes(model, folder, step, whole, **settings):
    """A new trainer that resumes from checkpoint-`step` ends as the `whole` run did: weights, controller and log."""
    again = train(make(model, folder.parent / f"again-{step}", **settings), folder / f"checkpoint-{step}")
    assert_equal(whole, again)
    assert again.controller.state_dict() == whole.controller.state_dict()
    assert rows(again)[:-1] == rows(whole)[:-1], "the last row is train()'s summary, with a mean over its own steps"


STRATEGIES = [
    # save, evaluate, load the best
    ("steps", "steps", True),
    ("steps", "epoch", False),
    ("epoch", "epoch", True),
    ("best", "steps", True),
    ("best", "epoch", True),
    ("no", "steps", False),
]


@pytest.mark.parametrize(
    ("batch", "save", "evaluate", "best"),
    [("iterations", *strategy) for strategy in STRATEGIES]
    + [("steps", *STRATEGIES[0]), ("a step and a half", *STRATEGIES[2]), ("a step and a half", *STRATEGIES[3])],
)
def test_saves_evaluates_and_loads_what_grpo_does(tiny_model_path, tmp_path, batch, save, evaluate, best):
    settings = {"save_strategy": save, "eval_strategy": evaluate, "load_best_model_at_end": best} | BATCHES[batch]
    settings |= {"save_total_limit": 1} if save == "steps" else {}
    plain = train(make(tiny_model_path, tmp_path / "plain", GRPOTrainer, **settings))
    ours = train(make(tiny_model_path, tmp_path / "ours", temperature_controller="fixed", **settings))
    assert_equal(plain, ours)
    assert checkpoints(tmp_path / "ours") == checkpoints(tmp_path / "plain")
    assert ours.state.best_metric == plain.state.best_metric
    assert ours.state.best_global_step == plain.state.best_global_step
    if best:
        assert ours.state.best_model_checkpoint == str(tmp_path / f"ours/checkpoint-{ours.state.best_global_step}")


@pytest.mark.parametrize("batch", BATCHES)
def test_every_checkpoint_resumes_exactly(tiny_model_path, tmp_path, batch):
    """With evaluations between, in the second epoch too, and with the tables of completions."""
    settings = EVERY_STEP | BATCHES[batch] | TAMPO | {"eval_strategy": "steps", "log_completions": True}
    settings |= {"num_completions_to_print": 0, "max_steps": 10, "eval_steps": 3}
    whole = train(make(tiny_model_path, tmp_path / "whole", **settings))
    assert whole.state.epoch > (1 if batch == "a step and a half" else 0)
    for step in (2, 6, 8 if batch == "a step and a half" else 10):
        assert_resumes(tiny_model_path, tmp_path / "whole", step, whole, **settings)
    tables = {path.name: path.read_bytes() for path in (tmp_path / "whole/completions").glob("*.parquet")}
    again = {path.name: path.read_bytes() for path in (tmp_path / "again-2/completions").glob("*.parquet")}
    assert len(again) == 8
    assert again.items() <= tables.items()


class Ask(TrainerCallback):
    """Sets flags of the control at one hook, the first time after `step` steps."""

    def __init__(self, hook, step, *flags):
        self.done = False

        def ask(args, state, control, **kwargs):
            if state.global_step >= step and not self.done:
                self.done = True
                for flag in flags:
                    setattr(control, flag, True)

        setattr(self, hook, ask)


HOOKS = BATCHES["a step and a half"] | TAMPO | {"eval_strategy": "steps", "eval_steps": 1}


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_path, tmp_path_factory):
    return train(make(tiny_model_path, tmp_path_factory.mktemp("whole"), **HOOKS))


HOOKS_AND_ORDERS = [
    *((hook, False) for hook in ("on_step_end", "on_log", "on_substep_end", "on_step_begin")),
    *((hook, True) for hook in ("on_step_end", "on_evaluate", "on_substep_end")),
]


@pytest.mark.parametrize(("hook", "late"), HOOKS_AND_ORDERS)
def test_a_callback_saves_and_stops_at_any_hook(uninterrupted, tiny_model_path, tmp_path, hook, late):
    """Save and stop are at once, but never inside an optimizer step; the run goes on exactly."""
    ask = Ask(hook, 4, "should_evaluate" if hook != "on_evaluate" else "should_log", "should_save", STOP)
    stopped = make(tiny_model_path, tmp_path / "stopped", callbacks=() if late else [ask], **HOOKS)
    if late:
        stopped.add_callback(ask)
    train(stopped)
    step = 5 if hook in ("on_substep_end", "on_step_begin") else 4
    assert stopped.inside_generation_batch
    assert checkpoints(tmp_path / "stopped") == [step]
    again = train(make(tiny_model_path, tmp_path / "again", **HOOKS), tmp_path / f"stopped/checkpoint-{step}")
    assert_equal(uninterrupted, again)


def test_save_and_stop_at_the_end_of_an_epoch_that_stops_inside_a_batch(uninterrupted, tiny_model_path, tmp_path):
    """With save_strategy "epoch", what a stop saves is the end of training; it resumes exactly."""
    ask = Ask("on_step_end", 4, STOP)
    stopped = train(make(tiny_model_path, tmp_path, callbacks=[ask], **HOOKS | {"save_strategy": "epoch"}))
    assert stopped.inside_generation_batch
    assert checkpoints(tmp_path) == [3, 4]
    assert_equal(uninterrupted, train(make(tiny_model_path, tmp_path / "again", **HOOKS), tmp_path / "checkpoint-4"))


def test_early_stopping_is_that_of_grpo(tiny_model_path, tmp_path):
    settings = {"save_strategy": "steps", "eval_strategy": "steps", "load_best_model_at_end": True, "max_steps": 12}
    settings |= BATCHES["iterations"] | {"greater_is_better": False}  # stops soon
    plain = train(make(tiny_model_path, tmp_path / "plain", GRPOTrainer, [EarlyStoppingCallback(1)], **settings))
    settings |= {"temperature_controller": "fixed"}
    ours = train(make(tiny_model_path, tmp_path / "ours", TAMPOTrainer, [EarlyStoppingCallback(1)], **settings))
    assert_equal(plain, ours)
    assert ours.state.global_step == plain.state.global_step < 12
    assert ours.state.best_global_step == plain.state.best_global_step
    assert checkpoints(tmp_path / "ours") == checkpoints(tmp_path / "plain")


def test_the_next_train_starts_anew(tiny_model_path, tmp_path):
    """Nothing of a run that stopped inside a batch is left: neither a save that is due nor its rollouts."""
    settings = BATCHES["iterations"] | TAMPO
    trainer = train(make(tiny_model_path, tmp_path / "a", callbacks=[Ask("on_step_end", 4, STOP)],
                         save_strategy="steps", save_steps=4, **settings))  # fmt: skip
    assert checkpoints(tmp_path / "a") == [4]
    generated = []
    original = trainer._generate_and_score_completions

    def counting(inputs):
        generated.append(trainer.state.global_step)
        return original(inputs)

    trainer._generate_and_score_completions = counting
    shutil.rmtree(tmp_path / "a")
    train(trainer)
    assert generated == [0, 3, 6]
    assert checkpoints(tmp_path / "a") == [4, 7]
    whole = train(make(tiny_model_path, tmp_path / "b", save_strategy="steps", save_steps=4, **settings))
    assert_equal(whole, train(trainer, tmp_path / "b/checkpoint-4"))


def test_a_finished_run_goes_on_inside_its_last_batch(tiny_model_path, tmp_path):
    settings = BATCHES["steps"] | TAMPO | {"save_strategy": "steps", "save_steps": 100}
    train(make(tiny_model_path, tmp_path / "short", max_steps=5, **settings))
    whole = train(make(tiny_model_path, tmp_path / "long", max_steps=10, **settings))
    assert_resumes(tiny_model_path, tmp_path / "short", 5, whole, max_steps=10, **settings)


@pytest.mark.parametrize(
    "damage", ["num_iterations", "steps_per_generation", "no rollouts", "truncated", "older", "step"]
)
def test_a_checkpoint_that_cannot_be_exact_is_refused(tiny_model_path, tmp_path, damage):
    settings = BATCHES["steps"] | EVERY_STEP | {"max_steps": 2}
    train(make(tiny_model_path, tmp_path, **settings))
    checkpoint = tmp_path / "checkpoint-2"
    state, rollouts = checkpoint / "temperature_controller.json", checkpoint / "rollouts_0.safetensors"
    message = damage
    if damage in settings:
        settings = settings | {damage: 4}
    elif damage == "truncated":
        rollouts.write_bytes(rollouts.read_bytes()[:100])
        message = "rollouts cannot be read from .*rollouts_0.safetensors"
    elif damage == "step":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"inside_step": True}))
        message = "half of an optimizer step"
    else:
        rollouts.unlink()
        message = "inside a generation batch.* rollouts"
        if damage == "older":
            kept = ("controller", "state")
            state.write_text(json.dumps({name: json.loads(state.read_text())[name] for name in kept}))
    with pytest.raises(ValueError, match=f"(?i)cannot resume.*{message}"):
        train(make(tiny_model_path, tmp_path, **(settings | {"max_steps": 4})), checkpoint)


@pytest.mark.parametrize("evaluations", [True, False])
def test_where_the_best_is_not_loaded_a_warning_says_so(tiny_model_path, tmp_path, caplog, evaluations):
    """GRPOTrainer says nothing: an evaluation that a callback asked for, at a step that is not saved; or none."""
    settings = {"save_strategy": "best", "load_best_model_at_end": True, "max_steps": 2}
    if evaluations:
        settings |= {"save_strategy": "steps", "eval_strategy": "steps", "eval_delay": 9, "save_steps": 2}
    ask = Ask("on_step_end", 1, "should_evaluate") if evaluations else TrainerCallback()
    with caplog.at_level("WARNING", logger="tampo"):
        train(make(tiny_model_path, tmp_path, callbacks=[ask], **settings))
    message = "the best step, 1, was not saved" if evaluations else "nothing was evaluated"
    assert f"load_best_model_at_end: {message}; the model is that of the last step." in caplog.messages


def test_the_callback_has_its_names():
    assert tampo.MetaPolicyCallback is tampo.trainer.MetaPolicyCallback is MetaPolicyCallback
