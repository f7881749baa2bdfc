"""Benchmarks of single parts: the K virtual log-likelihoods compared with the LM head, evaluation, and start-up."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from tampo.config import EvaluationConfig
from tampo.decoding import decoding_rules, plain_generation
from tampo.inference.transformers_engine import TransformersEngine
from tampo.likelihood import StreamingLogProbs
from tampo.meta_policy import DEFAULT_TEMPERATURES
from tampo.paper.overhead import Stopwatch, alternate, now
from tampo.paper.overhead_cases import HeadShape
from tampo.paper.peak_memory import peak_memory
from tampo.project import notebook_folder, project_root
from tampo.runs.workers import this_tampo
from tampo.tasks.prompts import render
from tampo.tasks.suites import get_suite
from tampo.trainer.trl_internals import LogitRecorder, tapped_logits

_TRL_VOCABULARY_TILE = 32768  # trl.trainer.utils


class _Head:
    """An LM head with random weights and hidden states. TRL's function computes its log-probs."""

    def __init__(self, shape: HeadShape) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        generator = torch.Generator(self.device).manual_seed(0)
        draw = partial(torch.randn, generator=generator, device=self.device, dtype=dtype)
        self.states = draw(shape.tokens, shape.hidden).requires_grad_()
        self.weight = (draw(shape.vocabulary, shape.hidden) * (3 / shape.hidden**0.5)).requires_grad_()
        self.tokens = torch.randint(shape.vocabulary, (shape.tokens,), generator=generator, device=self.device)
        self.mask = torch.ones(1, shape.tokens + 1, dtype=torch.long, device=self.device)

    def log_probs(self) -> Tensor:
        return ChunkedLogProbFunction.apply(
            self.states, self.weight, None, self.tokens, 1.0, _TRL_VOCABULARY_TILE, None, 1.0, ("entropy",)
        )[0]

    def recorder(self) -> LogitRecorder:
        return LogitRecorder(self.mask, len(self.tokens), DEFAULT_TEMPERATURES)


def measure_head(shape: HeadShape, rounds: int) -> pd.DataFrame:
    """Seconds of the LM head, forward and backward, and of the K likelihoods that are read from its logits.

    Returns:
        Columns round, head (TRL's product, log-probs and gradients), likelihoods (in the same pass).
    """
    head, rows = _Head(shape), []
    for number in range(rounds + 1):
        watch, recorder = Stopwatch(), head.recorder()
        head.states.grad = head.weight.grad = None
        start = now()
        with tapped_logits(watch.timed("likelihoods", recorder)):
            log_probs = head.log_probs()
        watch.timed("likelihoods", recorder.log_probs)()
        log_probs.sum().backward()
        whole, inside = now() - start, watch.lap()["likelihoods"]
        if number:  # the first is a warm-up
            rows.append({"round": number, "head": whole - inside, "likelihoods": inside})
    return pd.DataFrame(rows)


def head_memory(shape: HeadShape) -> dict[str, float]:
    """Peak memory in MB of the forward pass of the LM head "alone" and "with likelihoods"."""
    return {"alone": peak_memory(_forward, shape, False), "with likelihoods": peak_memory(_forward, shape, True)}


def _forward(shape: HeadShape, recording: bool) -> None:
    head = _Head(shape)
    with torch.no_grad():
        if not recording:
            head.log_probs()
            return
        recorder = head.recorder()
        with tapped_logits(recorder):
            head.log_probs()
        recorder.log_probs()


def measure_likelihoods(shape: HeadShape, rounds: int) -> pd.DataFrame:
    """Seconds of the K likelihoods from given logits, and of a loop of K log_softmax calls over the same logits.

    Returns:
        Columns round, case ("running sums" or "loop of log_softmax"), tokens, temperatures (their number), seconds:
        both cases with all tokens and temperatures, then the first with fewer tokens or other temperatures.
    """
    head, k = _Head(shape), len(DEFAULT_TEMPERATURES)
    with torch.no_grad():
        logits = torch.cat([states @ head.weight.T for states in head.states.split(256)])  # (N, V)
    jobs = [("running sums", shape.tokens, k), ("loop of log_softmax", shape.tokens, k)]
    jobs += [("running sums", shape.tokens // divisor, k) for divisor in (2, 4, 8)]
    jobs += [("running sums", shape.tokens // 4, number) for number in (1, 2, 5, 20)]
    functions = {"running sums": _running_sums, "loop of log_softmax": _loop}
    for function in functions.values():  # a warm-up
        function(logits[:1], head.tokens[:1], _temperatures(k))
    rows = []
    for number, (case, tokens, temperatures) in alternate(jobs, rounds):
        start = now()
        functions[case](logits[:tokens], head.tokens[:tokens], _temperatures(temperatures))
        row = {"round": number, "case": case, "tokens": tokens, "temperatures": temperatures}
        rows.append(row | {"seconds": now() - start})
    return pd.DataFrame(rows)


def _temperatures(number: int) -> list[float]:
    return torch.linspace(0.6, 1.5, number).tolist()


@torch.no_grad()
def _running_sums(logits: Tensor, tokens: Tensor, temperatures: list[float]) -> Tensor:
    sums = StreamingLogProbs(tokens, temperatures)
    for start in range(0, logits.size(1), _TRL_VOCABULARY_TILE):
        sums.accumulate(logits[:, start : start + _TRL_VOCABULARY_TILE], start)
    return sums.log_probs()


@torch.no_grad()
def _loop(logits: Tensor, tokens: Tensor, temperatures: list[float]) -> Tensor:
    return torch.cat([torch.log_softmax(logits / t, -1).gather(-1, tokens[:, None]) for t in temperatures], dim=-1)


def measure_evaluation(config: EvaluationConfig, model: str, rounds: int) -> pd.DataFrame:
    """Tokens and seconds of tampo's engine, and of plain `model.generate` calls on the same problems in their order.

    Args:
        config: The evaluation; its first benchmark is used.
        model: A folder or a Hugging Face id.
        rounds: Evaluations of each.

    Returns:
        Columns round, case ("tampo" or "generate"), tokens, seconds.
    """
    engine = TransformersEngine(model, config.eval_batch)
    suite = get_suite(config.suite, data_dir=config.data_dir)
    name = (config.benchmarks or suite.benchmarks)[0]
    loaded = suite.benchmark(name, config.eval_problems, config.eval_seed, config.data_dir, config.data_revisions)
    prompts = [render(engine.tokenizer, suite.prompt(problem)) for problem in loaded.problems]

    def tampo(seed: int) -> int:
        settings = config.eval_samples, config.eval_temperature, config.eval_max_completion_length
        return sum(c.tokens for row in engine.generate(prompts, *settings, seed) for c in row)

    cases: dict[str, Callable[[int], int]] = {"tampo": tampo, "generate": partial(_generate, engine, prompts, config)}
    for case in cases.values():
        case(0)  # a warm-up
    rows = []
    for number, name in alternate(list(cases), rounds):
        start = now()
        tokens = cases[name](number)
        rows.append({"round": number, "case": name, "tokens": tokens, "seconds": now() - start})
    return pd.DataFrame(rows)


@torch.inference_mode()
def _generate(engine: TransformersEngine, prompts: list[str], config: EvaluationConfig, seed: int) -> int:
    """The number of tokens that plain `model.generate` samples, a batch of problems at a time."""
    tokenizer, model, tokens = engine.tokenizer, engine.model, 0
    rules = decoding_rules(model, tokenizer)
    tokenizer.padding_side, tokenizer.pad_token_id = "left", rules.pad
    batch = max(1, config.eval_batch // config.eval_samples)
    torch.manual_seed(seed)
    for first in range(0, len(prompts), batch):
        texts = prompts[first : first + batch]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with plain_generation(model):
            output: Any = model.generate(  # type: ignore[operator]  # transformers' mixin is not typed
                **inputs.to(model.device),
                do_sample=config.eval_temperature > 0,
                temperature=config.eval_temperature or None,
                top_k=0,
                num_return_sequences=config.eval_samples,
                max_new_tokens=config.eval_max_completion_length,
                eos_token_id=list(rules.ends),
                pad_token_id=rules.pad,
            )
        written = output[:, inputs["input_ids"].shape[1] :]
        end = torch.isin(written, torch.tensor(rules.ends, device=written.device))
        tokens += int((end.cumsum(dim=1) - end.long() == 0).sum())  # up to and including the first end token
    return tokens


_TIMED = "import {0}; import time; start = time.perf_counter(); {1}; print(time.perf_counter() - start)"
STARTS = {
    "import tampo, beyond numpy": ["-c", _TIMED.format("numpy", "import tampo")],
    "from tampo import MetaPolicy, beyond numpy": ["-c", _TIMED.format("numpy", "from tampo import MetaPolicy")],
    "from tampo import TAMPOTrainer, beyond trl": [
        "-c",
        "from trl import GRPOTrainer; " + _TIMED.format("trl", "from tampo import TAMPOTrainer"),
    ],
    "tampo --help": ["-m", "tampo", "--help"],
}


def measure_starts(rounds: int) -> pd.DataFrame:
    """Start-up seconds of imports, the command line and a notebook: columns round, case, seconds.

    The notebook is table1.ipynb up to its first training run: papermill, the kernel, the imports and the parameters.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        commands = STARTS | {"notebook, up to its first training": _first_cells(Path(folder))}
        for number in range(rounds):
            for case, words in commands.items():
                start = now()
                command = [sys.executable, "-P", *words]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=os.environ | this_tampo()
                )
                seconds = float(done.stdout) if "-c" in words else now() - start
                rows.append({"round": number, "case": case, "seconds": seconds})
    return pd.DataFrame(rows)


def _first_cells(folder: Path) -> list[str]:
    """Arguments of `python` that execute table1.ipynb at smoke scale up to its first training run."""
    import nbformat  # installed with papermill, only needed here

    notebook = nbformat.read(notebook_folder() / "table1.ipynb", as_version=4)
    numbers = [i for i, cell in enumerate(notebook.cells) if "run_experiment(" in cell.source]
    del notebook.cells[numbers[0] :]
    path = folder / "start.ipynb"
    nbformat.write(notebook, path)
    options = ["-p", "params", "smoke", "--cwd", str(project_root()), "--no-progress-bar"]
    return ["-m", "papermill", str(path), str(folder / "out.ipynb"), *options]
