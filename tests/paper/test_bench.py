"""Benchmarks: what is measured, that it is measured once, and the summary of known times."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from tampo.config import load_params
from tampo.inference.transformers_engine import TransformersEngine
from tampo.likelihood import virtual_log_likelihoods
from tampo.paper import bench as module
from tampo.paper.bench import Benchmarks, measurements, run_benchmarks, step_time
from tampo.paper.overhead_cases import SIZES, HeadShape
from tampo.paper.overhead_parts import (
    _Head,
    _loop,
    _running_sums,
    measure_evaluation,
    measure_head,
    measure_likelihoods,
)
from tampo.paper.overhead_summary import format_summary, overhead_figure, step_parts, summarise
from tampo.trainer.trl_internals import tapped_logits
from tests.paper.helpers import assert_fits, times, title_of

SHAPE = HeadShape(hidden=16, vocabulary=500, tokens=64)


def test_both_ways_to_likelihoods_are_the_same_work():
    """The loop is the oracle of the running sums, so that their times may be compared; so is what a pass records."""
    head = _Head(SHAPE)
    logits = (head.states @ head.weight.T).detach()
    temperatures = [0.6, 1.0, 1.5]
    expected = _loop(logits, head.tokens, temperatures)
    torch.testing.assert_close(_running_sums(logits, head.tokens, temperatures), expected, rtol=1e-5, atol=1e-5)
    recorder = head.recorder()
    with tapped_logits(recorder):
        head.log_probs()
    whole = virtual_log_likelihoods(logits[None], head.tokens[None], head.mask[:, 1:], recorder._temperatures)
    torch.testing.assert_close(recorder.log_probs().sum(dim=1), whole, rtol=1e-4, atol=1e-3)


def test_parts_are_measured_in_rounds():
    head = measure_head(SHAPE, rounds=3)
    assert head["round"].tolist() == [1, 2, 3]
    assert (head[["head", "likelihoods"]] > 0).all(axis=None)
    sums = measure_likelihoods(SHAPE, rounds=2)
    assert set(zip(sums["case"], sums["tokens"], sums["temperatures"], strict=True)) == {
        ("running sums", 64, 10), ("loop of log_softmax", 64, 10), ("running sums", 32, 10), ("running sums", 16, 10),
        ("running sums", 8, 10), ("running sums", 16, 1), ("running sums", 16, 2), ("running sums", 16, 5),
        ("running sums", 16, 20),
    }  # fmt: skip


def test_evaluation_counts_the_tokens_of_both_ways(tiny_model_path, monkeypatch):
    """Both sample from one distribution, so their numbers of tokens are alike, and are those that were sampled."""
    config = load_params("mini", {"benchmarks": "gcd", "eval_problems": 12, "eval_max_completion_length": 9})
    counted = []
    original = TransformersEngine.generate

    def generate(self, *args):
        result = original(self, *args)
        counted.append(sum(c.tokens for row in result for c in row))
        return result

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    table = measure_evaluation(config.evaluation(), str(tiny_model_path), rounds=2)
    tokens = table.pivot(index="round", columns="case", values="tokens")
    assert tokens["tampo"].tolist() == counted[1:]
    assert tokens["generate"].sum() == pytest.approx(tokens["tampo"].sum(), rel=0.1)


def known_tables():
    """Tables of exact times: ratios that the summary must find."""
    steps = times(1.005, 0.0)
    fast = steps[steps["case"] == "tampo"].assign(case="fast")
    fast["seconds"] *= 0.5
    rounds = pd.DataFrame({"round": [0, 1, 2]})
    cells = [("running sums", t, 10, 1e-3 * t) for t in (2048, 1024, 512, 256)]
    cells += [("running sums", 512, k, 0.2 + 0.0312 * k) for k in (1, 2, 5, 20)]
    cells += [("loop of log_softmax", 2048, 10, 20.0)]
    likelihoods = pd.DataFrame(cells, columns=["case", "tokens", "temperatures", "seconds"]).merge(rounds, how="cross")
    likelihoods = likelihoods.sort_values(["round", "tokens", "temperatures"], ascending=[True, False, True])
    speed = [
        {"round": r, "case": c, "tokens": 100, "seconds": s}
        for r in range(3)
        for c, s in (("tampo", 1), ("generate", 3))
    ]
    return {
        "steps": pd.concat([steps, fast]),
        "paper_steps": pd.concat([steps, fast]),
        "memory": pd.DataFrame({"case": ["grpo", "tampo"], "megabytes": [100.0, 101.0]}),
        "head": rounds.assign(head=4.0, likelihoods=0.5),
        "head_memory": pd.DataFrame({"alone": [1000.0], "with likelihoods": [1010.0]}),
        "likelihoods": likelihoods,
        "evaluation": pd.DataFrame(speed),
        "starts": pd.DataFrame({"case": ["import", "tampo --help"], "seconds": [0.1, 0.5]}),
    }


def test_the_summary_of_known_times():
    summary = summarise(known_tables())
    found = dict(zip(summary["measured"], summary["value"], strict=False))
    expected = {
        "step of TAMPO / of TRL's GRPO, the same rollouts": 1.005,
        "step as tampo trains / of TRL's GRPO": 0.5025,
        "step as tampo trains / of TRL's GRPO, 32 × 8 rollouts": 0.5025,
        "outer loop / rest of that step": 0.01,
        "peak memory of TAMPO / of TRL's GRPO": 1.01,
        "K likelihoods / LM head forward and backward": 0.125,
        "K likelihoods, memory above the LM head's": 10.0,
        "loop of 10 log_softmax / K likelihoods": 20 / 2.048,
        "K likelihoods of 8 times the tokens / 8": 1.0,
        "likelihoods of 10 temperatures / of 1": 0.512 / 0.2312,
        "evaluation, tokens a second / of model.generate": 3.0,
        "evaluation": 100.0,
        "import": 0.1,
        "tampo --help": 0.5,
    }
    assert found == pytest.approx(expected)
    shown = format_summary(summary).set_index("measured")["value"]
    assert shown["K likelihoods, memory above the LM head's"] == "10.0 MB"
    assert shown["K likelihoods / LM head forward and backward"] == "0.125 (0.125 to 0.125)"


def test_a_scale_without_training_runs_has_the_rest():
    tables = known_tables()
    del tables["paper_steps"]
    assert len(summarise(tables)) == 14
    for name in ("steps", "memory", "evaluation"):
        del tables[name]
    assert len(summarise(tables)) == 7
    assert not {"steps", "paper_steps", "memory", "evaluation"} & measurements(load_params("paper")).keys()
    figure = overhead_figure(tables)
    assert len(figure.axes) == 2
    assert title_of(figure) == "The likelihoods of 8 times the tokens take 8.0 times as long"
    assert_fits(figure)


def test_the_figure_shows_every_part():
    tables = known_tables()
    parts = tables["steps"]
    rest = parts[parts["part"] == "whole"]
    filled = [parts] + [
        rest.assign(part=part, seconds=0.1) for part in ("generate", "reward", "forward", "backward", "other")
    ]
    tables["steps"] = pd.concat(filled)
    means = step_parts(tables["steps"])
    assert means.index.tolist() == ["grpo", "tampo", "fast"]
    np.testing.assert_allclose(means["generate"], 0.1)
    figure = overhead_figure(tables)
    axes = figure.axes
    assert title_of(figure).startswith("A step of TAMPO takes 1.0")
    assert title_of(figure).endswith("times as long as one of TRL's GRPO, as tampo trains 0.50 (0.50 to 0.50)")
    assert_fits(figure)
    assert len(axes) == 3
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "generate", "reward", "forward", "backward", "outer loop", "other",
    ]  # fmt: skip
    assert axes[0].get_xlabel() == "mean seconds per step"


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A store of its own, and measurements that only count."""
    calls = []
    fake = {
        name: module.Measurement({"name": name}, 1, lambda name=name, table=table: (calls.append(name), table)[1])
        for name, table in known_tables().items()
    }
    monkeypatch.setattr(module, "measurements", lambda params: fake)
    monkeypatch.setattr(module.RunStore, "of", lambda params: module.RunStore(tmp_path / "runs"))
    return calls


def test_it_is_measured_once(counting, capsys):
    params = load_params("smoke")
    first = run_benchmarks(params)
    assert counting == list(known_tables())
    again = run_benchmarks(params)
    assert len(counting) == 8
    pd.testing.assert_frame_equal(first.tables["head"], again.tables["head"])
    ratio, found = step_time(params)
    assert ratio.value == pytest.approx(1.005)
    assert list(found.tables) == ["steps"]
    assert "Measuring paper steps." in capsys.readouterr().out
    run_benchmarks(params, only=["head"], again=True)
    assert counting[8:] == ["head"]


def test_the_command_writes_what_it_prints(counting, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert module.main(["smoke"]) == 0
    folder = tmp_path / "results" / "smoke" / "studies"
    assert (folder / "overhead.md").read_text() in capsys.readouterr().out
    assert len(pd.read_csv(folder / "overhead.csv")) == len(summarise(known_tables()))
    manifest = json.loads((folder / "overhead.manifest.json").read_text())
    assert len(manifest["records"]) == 8
    assert module.main(["maxi"]) == 2
    assert "No scale 'maxi'" in capsys.readouterr().err


def test_threads_are_put_back():
    def fail():
        raise KeyError

    before = torch.get_num_threads()
    with pytest.raises(KeyError):
        module.Measurement({}, before + 1, fail)()
    assert torch.get_num_threads() == before


def test_smoke_is_small():
    assert SIZES["smoke"].head.vocabulary < 5000
    machine = {"processor": "one", "cores": 2, "gpus": ["H100", "H100"]}
    assert Benchmarks({}, {"a": {"machine": machine}, "b": {"machine": machine}}).machine == "one, 2 cores, H100"


def test_stored_measurements_are_shown_without_torch():
    """Loading it with TRL takes seconds, which notebooks that only read need not wait for."""
    code = "import sys, tampo.paper.bench, tampo.paper.claims; print(sorted({'torch', 'trl'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
