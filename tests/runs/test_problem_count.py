"""A training set that does not fill one step is refused, wherever it is given, with the numbers."""

import dataclasses

import pytest
from transformers import AutoTokenizer

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.paper.notebook import notebook_params
from tampo.runs import training
from tampo.runs.interrupts import Interrupted
from tampo.runs.jobs import Job, run_jobs
from tampo.runs.pipeline import train
from tampo.runs.store import RunStore
from tampo.runs.sweep import sweep
from tampo.runs.training_data import check_problem_count, leave_out_long_prompts, load_training_data
from tampo.runs.workers import Workers
from tampo.tasks.mini_model import mini_model_path
from tampo.tasks.suites import get_suite
from tests.helpers import SMALL_RUN, make_project

MINI = r"train_problems 1: the training set has 5 problems \(5 task families\), .* 16 different ones .prompts_per_step"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    monkeypatch.setattr(Workers, "submit", lambda *arguments: pytest.fail("submitted"))
    return tmp_path


@pytest.mark.parametrize("command", ["train", "evaluate", "sweep"])
def test_commands_refuse_it(project, capsys, command):
    assert main([command, "mini", "--train-problems", "1"]) == 2
    assert "tampo: train_problems 1: the training set has 5 problems" in capsys.readouterr().err
    assert not list(project.glob("results/*/runs/*"))


def test_notebooks_pipeline_jobs_and_sweep_refuse_it(project):
    params = load_params("mini", {"train_problems": 1})
    store = RunStore.of(params)
    with pytest.raises(ConfigError, match=MINI):
        notebook_params({"params": "mini", "train_problems": 1}, "table1")
    with pytest.raises(ConfigError, match=MINI):
        train(store, params.training())
    with pytest.raises(ConfigError, match=MINI):
        run_jobs(store, [Job("base", params.evaluation()), Job("TAMPO", params.evaluation(), params.training())])
    with pytest.raises(ConfigError, match=MINI):
        sweep("mini", overrides={"train_problems": 1})


@pytest.mark.parametrize("suite", ["math", "ecqa"])
def test_published_sets_have_train_problems_at_most(suite):
    config = load_params("smoke", {"suite": suite, "train_problems": 3, "prompts_per_step": 4}).training()
    with pytest.raises(ConfigError, match="train_problems 3: the training set has 3 problems, and .* 4 different"):
        check_problem_count(config)
    check_problem_count(config.model_copy(update={"train_problems": 4}))
    check_problem_count(config.model_copy(update={"train_problems": None}))


def test_what_was_left_out_is_said(tmp_path):
    changes = {"train_problems": 4, "prompts_per_step": 16, "per_device_train_batch_size": 8}
    config = load_params("smoke", changes).training()
    loaded, tokenizer = load_training_data(config), AutoTokenizer.from_pretrained(mini_model_path())
    lengths = sorted(len(tokenizer(get_suite("mini").prompt(problem)).input_ids) for problem in loaded.problems)
    limit = lengths[len(lengths) // 2]
    left = leave_out_long_prompts(loaded, get_suite("mini"), tokenizer, limit)
    count = len(left.problems)
    assert count < 16 <= len(loaded.problems) == 20
    with pytest.raises(ConfigError, match=rf"has {count} problems \({20 - count} left out by max_prompt_length\), and"):
        training.make_trainer(config.model_copy(update={"max_prompt_length": limit}), tmp_path)
    both = dataclasses.replace(left, source=left.source | {"dropped": 7})
    with pytest.raises(ConfigError, match=r"\(7 left out by drop_overlaps, \d+ left out by max_prompt_length\)"):
        check_problem_count(config, both)


def test_just_enough_problems_train(tmp_path):
    config = load_params("smoke", SMALL_RUN | {"train_problems": 1, "prompts_per_step": 5, "max_steps": 2}).training()
    rows, _ = training.train(config, tmp_path)
    assert [row["step"] for row in rows] == [1, 2]


def test_a_run_that_ends_early_by_itself_is_not_called_stopped(tmp_path, monkeypatch):
    """Only what was asked to stop resumes by the same command."""
    config = load_params("smoke", SMALL_RUN).training()
    monkeypatch.setattr(training.TAMPOTrainer, "train", lambda self, **options: None)
    with pytest.raises(RuntimeError, match="ended after step 0 of 3") as raised:
        training.train(config, tmp_path)
    assert not isinstance(raised.value, Interrupted)
