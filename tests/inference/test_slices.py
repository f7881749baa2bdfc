"""An evaluation in slices: the same samples whatever the slices and whoever samples them."""

import threading
from contextlib import closing

import pandas as pd
import pytest

from tampo.config import load_params
from tampo.inference import evaluate as evaluation
from tampo.inference import slices as slicing
from tampo.inference import transformers_engine
from tampo.inference.evaluate import evaluate, grade_slices, load_benchmarks, open_engine
from tampo.inference.slices import Meter, describe_progress, plan_slices, read_slice, sample_slices
from tampo.inference.transformers_engine import Completion, TransformersEngine
from tampo.tasks.mini_model import mini_model_path

MINI = str(mini_model_path())
SMALL = {"eval_problems": 9, "eval_samples": 3, "eval_max_completion_length": 16, "benchmarks": "chain_sum,gcd"}
CONFIG = load_params("mini", SMALL).evaluation()
BENCHMARKS = load_benchmarks(CONFIG)


@pytest.fixture(scope="module")
def engine():
    with closing(TransformersEngine(MINI, device="cpu")) as engine:
        yield engine


@pytest.fixture(scope="module")
def whole(engine):
    """As before slices: each benchmark in one call."""
    return evaluate(engine, CONFIG, BENCHMARKS)


class Counting:
    """An engine whose completions are the prompt and its index; it fails at a prompt that is in `bad`."""

    tokenizer = None

    def __init__(self, bad=()):
        self.calls, self.bad = [], bad

    def generate(self, prompts, samples, temperature, max_tokens, seed, indices):
        self.calls.append(tuple(indices))
        if set(indices) & set(self.bad):
            raise MemoryError("no memory")
        return [
            [Completion(f"{i} {s} {p}", 2, False) for s in range(samples)]
            for i, p in zip(indices, prompts, strict=True)
        ]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_samples_do_not_depend_on_the_slices(engine, whole, size, tmp_path):
    slices = plan_slices(engine.tokenizer, CONFIG, BENCHMARKS, size)
    assert len(slices) == 2 * -(-9 // size)
    sample_slices(engine, CONFIG, slices[::-1], tmp_path)
    pd.testing.assert_frame_equal(grade_slices(CONFIG, BENCHMARKS, slices, tmp_path), whole)


def test_one_call_for_the_whole_benchmark_gives_these_samples(engine, whole):
    for name, rows in whole.groupby("benchmark", sort=False):
        prompts = rows["prompt"].drop_duplicates().tolist()
        seed = transformers_engine.derive_seed(0, name)
        sampled = engine.generate(prompts, 3, 1.0, 16, seed)
        assert rows["completion"].tolist() == [c.text for row in sampled for c in row]
        assert rows["tokens"].tolist() == [c.tokens for row in sampled for c in row]


@pytest.mark.parametrize(("batch", "samples"), [(8, 4), (8, 6), (7, 3), (512, 8)])
def test_slices_hold_the_batches_of_one_call(monkeypatch, engine, tmp_path, batch, samples):
    """So rounding is the same, too."""
    config = load_params("mini", SMALL | {"eval_batch": batch, "eval_samples": samples}).evaluation()
    batches = []

    def sample_tokens(model, tokenizer, prompts, temperature, max_tokens, seeds):
        batches.append(tuple(zip(prompts, seeds, strict=True)))
        return [([2], False)] * len(prompts)

    monkeypatch.setattr(transformers_engine, "sample_tokens", sample_tokens)
    monkeypatch.setattr(engine, "_batch", batch)
    slices = plan_slices(engine.tokenizer, config, BENCHMARKS)
    sample_slices(engine, config, slices, tmp_path)
    found, batches = batches, []
    for piece_of in plan_slices(engine.tokenizer, config, BENCHMARKS, 1000):
        sample_slices(engine, config, [piece_of], tmp_path / "whole")
    assert found == batches


def test_finished_slices_are_not_sampled_again_and_others_never_taken_for_them(monkeypatch, tmp_path):
    monkeypatch.setattr(slicing, "render", lambda tokenizer, prompt: prompt)
    failing, slices = Counting(bad=[4]), plan_slices(None, CONFIG, BENCHMARKS, 2)
    with pytest.raises(MemoryError):
        sample_slices(failing, CONFIG, slices, tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert len(kept) == len(failing.calls) - 1 < len(slices)
    engine = Counting()
    sample_slices(engine, CONFIG, slices, tmp_path)
    assert len(engine.calls) == len(slices) - len(kept)
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())
    other = CONFIG.model_copy(update={"eval_temperature": 0.7})
    for config, size, new in ((CONFIG, 3, 6), (other, 2, 10), (CONFIG, 4, 4)):  # the ninth problem alone is there
        again, planned = Counting(), plan_slices(None, config, BENCHMARKS, size)
        sample_slices(again, config, planned, tmp_path)
        assert len(again.calls) == new, (config.eval_temperature, size)


def test_each_slice_is_sampled_once_and_one_that_fails_by_another(monkeypatch, tmp_path):
    monkeypatch.setattr(slicing, "render", lambda tokenizer, prompt: prompt)
    slices, engines = plan_slices(None, CONFIG, BENCHMARKS, 1), [Counting(), Counting(bad=[3]), Counting()]
    errors = []

    def work(engine):
        try:
            sample_slices(engine, CONFIG, slices, tmp_path)
        except MemoryError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = sum(len(engine.calls) for engine in engines)
    assert calls == len(slices) + len(errors)
    assert all((tmp_path / piece.name).is_file() for piece in slices)


def test_progress_has_speed_and_time_left(monkeypatch, tmp_path):
    monkeypatch.setattr(slicing, "render", lambda tokenizer, prompt: prompt)
    slices, clock = plan_slices(None, CONFIG, BENCHMARKS, 3), [100.0]
    monkeypatch.setattr(slicing.time, "monotonic", lambda: clock[0])
    sample_slices(Counting(), CONFIG, slices[:1], tmp_path)
    meter = Meter(CONFIG, slices, tmp_path)
    assert meter.row() == {"samples": 9, "of": 54}
    sample_slices(Counting(), CONFIG, slices[:3], tmp_path)
    clock[0] += 6
    row = meter.row()
    assert row == {"samples": 27, "of": 54, "tokens_per_second": 6, "seconds_left": 9}, "of this call alone"
    assert describe_progress(row | {"seconds_left": 3725}) == "27 of 54 samples, 6 tokens/s, 1:02:05 left"


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(slicing, "render", lambda tokenizer, prompt: prompt)
    (piece, *_) = plan_slices(None, CONFIG, BENCHMARKS)
    path = tmp_path / piece.name
    for content in (b"", b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{piece.name} .*Remove it; the same command"):
            read_slice(CONFIG, piece, tmp_path)
    path.unlink()
    sample_slices(Counting(), CONFIG, [piece], tmp_path)
    fewer = CONFIG.model_copy(update={"eval_samples": 2})
    with pytest.raises(ValueError, match="does not hold its samples"):
        read_slice(fewer, piece, tmp_path)


@pytest.mark.parametrize(("length", "limit"), [(16, True), (10**6, False)])
def test_vllm_gets_the_length_that_is_needed(monkeypatch, engine, length, limit):
    """Beyond the model's context it gets none, so that the check of lengths names what is too long."""
    given = {}
    monkeypatch.setattr(evaluation, "make_engine", lambda name, model, batch, **options: given.update(options))
    config = CONFIG.model_copy(update={"eval_engine": "vllm", "eval_max_completion_length": length})
    open_engine(config, MINI, BENCHMARKS)
    prompts = [text for piece in plan_slices(engine.tokenizer, CONFIG, BENCHMARKS) for text in piece.prompts]
    longest = max(len(row) for row in engine.tokenizer(prompts, add_special_tokens=False)["input_ids"])
    assert given == ({"max_model_len": longest + 16} if limit else {})
