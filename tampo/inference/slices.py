"""An evaluation in slices: each is one call of the engine, and then a file that an interruption leaves.

Several processes may share the work: each takes the next slice that nobody has. The samples do not depend on that, nor
on the size of a slice: every sample (or prompt, with vLLM) has its own random numbers, and a slice holds whole batches
of the engine, in the order in which one call for the whole benchmark would form them, so that even rounding is equal.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from filelock import FileLock, Timeout
from pyarrow import parquet

from tampo.config import EvaluationConfig
from tampo.files import atomic_path
from tampo.inference.engine import Completion, Engine, derive_seed
from tampo.tasks.prompts import render
from tampo.tasks.published import Loaded
from tampo.tasks.suites import get_suite


@dataclass(frozen=True)
class Slice:
    """Problems of a benchmark that are sampled in one call: `indices` in the benchmark, and their prompts.

    `name` is that of its file: the benchmark, the range among the problems sorted by the length of their prompts, and a
    hash of what is asked of the engine, so that a file of another range or request is never taken for it.
    """

    benchmark: str
    indices: tuple[int, ...]
    prompts: tuple[str, ...]
    name: str


def plan_slices(
    tokenizer: Any, config: EvaluationConfig, benchmarks: Mapping[str, Loaded], size: int | None = None
) -> list[Slice]:
    """All slices of an evaluation, in order.

    Args:
        tokenizer: The model's, which makes the prompts.
        size: Problems per slice; by default the fewest whose samples fill whole batches of `eval_batch`.
    """
    suite, slices = get_suite(config.suite, data_dir=config.data_dir), []
    size = size or config.eval_batch // math.gcd(config.eval_batch, config.eval_samples)
    for benchmark, loaded in benchmarks.items():
        prompts = [render(tokenizer, suite.prompt(problem)) for problem in loaded.problems]
        # Sorted as in TransformersEngine.
        order = [i for _, i in sorted((len(text), i) for i, text in enumerate(prompts))]
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            asked = [prompts[i] for i in indices]
            settings = (config.eval_engine, config.eval_samples, config.eval_temperature, config.eval_batch)
            request = [*settings, config.eval_max_completion_length, config.eval_seed, indices, asked]
            digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]
            name = f"{benchmark}.{start:05d}-{start + len(indices):05d}.{digest}.parquet"
            slices.append(Slice(benchmark, tuple(indices), tuple(asked), name))
    return slices


def sample_slices(
    engine: Engine,
    config: EvaluationConfig,
    slices: Sequence[Slice],
    folder: Path,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Sample the slices that have no file in `folder`; on return all of them have one.

    Other processes may do the same at the same time. A slice is locked while it is sampled; the lock ends with the
    process, however that ends, and another one then samples the slice.

    Args:
        folder: For the files, of one model only; it need not exist.
        done: Called after each slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for timeout in (0, -1):  # first what nobody has, then wait for the others, any of which may die
        for piece in slices:
            path = folder / piece.name
            if path.is_file():
                continue
            try:
                with FileLock(f"{path}.lock", timeout=timeout):
                    if not path.is_file():
                        _sample_slice(engine, config, piece, path)
            except Timeout:
                continue
            done()


def _sample_slice(engine: Engine, config: EvaluationConfig, piece: Slice, path: Path) -> None:
    seed = derive_seed(config.eval_seed, piece.benchmark)  # benchmarks must not share random numbers
    greedy = config.eval_temperature == 0  # all samples of a problem are the same
    samples, copies = (1, config.eval_samples) if greedy else (config.eval_samples, 1)
    settings = (samples, config.eval_temperature, config.eval_max_completion_length, seed)
    sampled = engine.generate(list(piece.prompts), *settings, indices=piece.indices)
    rows = [
        {"problem": i, "completion": c.text, "tokens": c.tokens, "truncated": c.truncated}
        for i, completions in zip(piece.indices, sampled, strict=True)
        for c in completions * copies
    ]
    with atomic_path(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(rows), temporary, compression="zstd")


def read_slice(config: EvaluationConfig, piece: Slice, folder: Path) -> dict[int, list[Completion]]:
    """The completions of a slice from its file, by the index of the problem.

    Raises:
        ValueError: The file is damaged; the message names it.
    """
    path, found = folder / piece.name, dict[int, list[Completion]]()
    try:
        for row in parquet.read_table(path).to_pylist():
            completion = Completion(row["completion"], row["tokens"], row["truncated"])
            found.setdefault(row["problem"], []).append(completion)
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it; the same command samples it again.") from error
    if {i: len(row) for i, row in found.items()} != dict.fromkeys(piece.indices, config.eval_samples):
        raise ValueError(f"{path} does not hold its samples. Remove it; the same command samples it again.")
    return found


class Meter:
    """The progress of an evaluation, read from the files of its slices, whoever writes them."""

    def __init__(self, config: EvaluationConfig, slices: Sequence[Slice], folder: Path) -> None:
        self._samples = {folder / piece.name: len(piece.indices) * config.eval_samples for piece in slices}
        self._tokens: dict[Path, int] = {}
        self._read()
        self._before, self._start = set(self._tokens), time.monotonic()

    def _read(self) -> None:
        for path in self._samples.keys() - self._tokens.keys():
            if path.is_file():
                self._tokens[path] = sum(parquet.read_table(path, columns=["tokens"])["tokens"].to_pylist())

    def row(self) -> dict[str, Any]:
        """Finished samples, their whole number, and, once this call has some, tokens per second and seconds left."""
        self._read()
        new, seconds = self._tokens.keys() - self._before, time.monotonic() - self._start
        done, of = sum(self._samples[path] for path in self._tokens), sum(self._samples.values())
        row: dict[str, Any] = {"samples": done, "of": of}
        if new and seconds > 0:
            speed = sum(self._samples[path] for path in new) / seconds
            row["tokens_per_second"] = round(sum(self._tokens[path] for path in new) / seconds)
            row["seconds_left"] = round((of - done) / speed)
        return row


def describe_progress(row: Mapping[str, Any]) -> str:
    """A row of `Meter` in words: "512 of 4,000 samples, 12,345 tokens/s, 0:03:20 left"."""
    words = [f"{row['samples']:,} of {row['of']:,} samples"]
    if "seconds_left" in row:
        minutes, seconds = divmod(row["seconds_left"], 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        words += [f"{row['tokens_per_second']:,} tokens/s", left]
    return ", ".join(words)
