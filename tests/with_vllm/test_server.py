"""VLLMServerEngine against a real server on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.generation import vllm_client

from tampo.config import load_params
from tampo.decoding import DecodingRules
from tampo.inference.evaluate import evaluate, make_engine, problem_scores
from tampo.inference.vllm_engine import VLLMEngine
from tampo.tasks.mini import format_prompt, make_problems
from tampo.trainer import rollout_server
from tests.helpers import free_port

PROMPTS = [format_prompt(problem.question) for problem in make_problems("gcd", 12, 0, "test")]
START, STOP = 240, 30  # seconds


@pytest.fixture(scope="module")
def server(mini: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the mini model; the process ends with the test."""
    with serve(mini, tmp_path_factory.mktemp("server")) as address:
        yield address


@contextmanager
def serve(mini: str, folder: Path, *options: str) -> Iterator[str]:
    port = free_port()
    # Not `vllm serve`: the command asks for a distribution named vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", mini, "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "512"]
    command += ["--no-enable-chunked-prefill"]  # on the CPU a server, too, dies when it splits a seeded prompt
    log = folder / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, *options], stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(process, address, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {log.read_text()[-3000:]}"
        try:
            if httpx.get(f"{address}/health", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"the server is not ready after {START} s: {log.read_text()[-3000:]}")


def test_evaluation_through_a_server(server: str, mini: str, engine: VLLMEngine) -> None:
    """What the engine in this process samples, completion by completion, since seeds are the same."""
    config = load_params("mini", {"eval_problems": 20, "eval_samples": 4}).evaluation()
    start = time.perf_counter()
    samples = evaluate(make_engine("vllm-server", mini, batch=512, server=server), config)
    seconds = time.perf_counter() - start
    other = evaluate(engine, config)
    columns = ["completion", "tokens", "truncated"]
    equal = (samples[columns] == other[columns]).all(axis=1).mean()
    accuracy = problem_scores(samples)["avg@4"].mean()
    print(f"vllm-server: avg@4 {accuracy:.2f} %, {samples['tokens'].sum() / seconds:.0f} tokens/s, {equal:.1%} equal")
    assert len(samples) == 400
    assert equal > 0.97, "but for rounding in batches of other sizes"


def test_more_prompts_at_once_than_vllm_prefills_in_a_step(server: str, mini: str, engine: VLLMEngine) -> None:
    many = make_engine("vllm-server", mini, batch=512, server=server).generate(PROMPTS, 80, 1.0, 4, seed=5)
    assert many == engine.generate(PROMPTS, 80, 1.0, 4, seed=5)


def test_truncation_through_a_server(server: str, mini: str) -> None:
    engine = make_engine("vllm-server", mini, server=server)
    short = engine.generate(["What is 1 + 2 + 3?\n"], 3, 1.0, 2, seed=0)[0]
    assert [c.tokens for c in short] == [2, 2, 2] and all(c.truncated for c in short)


def test_the_rules_reach_the_server(server: str, mini: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions end at "=", of which the server's model knows nothing, and keep it in their text."""
    engine = make_engine("vllm-server", mini, server=server)
    sign = engine.tokenizer("=")["input_ids"][0]
    monkeypatch.setattr(engine, "_rules", DecodingRules((sign,), sign))
    for completion in engine.generate(PROMPTS[:1], 16, 1.0, 40, seed=0)[0]:
        assert completion.text.endswith("=") != completion.truncated
        assert completion.tokens == 40 or not completion.truncated


def test_another_model_is_named(server: str, mini: str) -> None:
    with pytest.raises(ValueError, match="serves .*mini.*, not 'another'"):
        make_engine("vllm-server", "another", server=server)


# For rollouts, by TRL's client; the transfer of weights needs CUDA.


@pytest.fixture
def client_of(monkeypatch: pytest.MonkeyPatch, mini: str) -> Callable[[str], vllm_client.VLLMClient]:
    tokenizer = AutoTokenizer.from_pretrained(mini)
    monkeypatch.setattr(rollout_server, "tokenize_prompts", lambda trainer, texts: tokenizer(texts)["input_ids"])
    monkeypatch.setattr(vllm_client, "is_vllm_available", lambda *args, **kwargs: True)  # of another distribution
    return vllm_client.VLLMClient


TRAINER: Any = SimpleNamespace(args=SimpleNamespace(temperature_controller="tampo", temperature=1.0))


def test_raw_log_probs_of_a_server_are_found_out(server: str, client_of: Callable[[str], Any]) -> None:
    said = rollout_server._wrong_log_probs(TRAINER, client_of(server))
    assert said is not None
    assert "returns log-probs of T = 1 whatever the temperature" in said


def test_log_probs_of_a_server_are_those_of_the_temperature_and_samples_are_seeded(
    mini: str, client_of: Callable[[str], Any], tmp_path: Path
) -> None:
    options = "--logprobs-mode", "processed_logprobs", "--max-model-len", "128", "--generation-config", "vllm"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(mini, dtype=torch.float32),
        AutoTokenizer.from_pretrained(mini),
    )
    prompts = tokenizer(PROMPTS[:4])["input_ids"]
    with serve(mini, tmp_path, *options) as address:
        client = client_of(address)
        assert rollout_server._wrong_log_probs(TRAINER, client) is None
        assert "--max-model-len 129" in str(
            rollout_server._too_short(client, SimpleNamespace(vllm_max_model_length=129))
        )
        generate = rollout_server.seeded(client.generate)
        for temperature in (0.6, 1.5):
            samples = []
            for seed in (0, 0, 1):
                torch.manual_seed(seed)
                samples.append(generate(prompts, None, n=3, max_tokens=12, temperature=temperature, logprobs=0))
            first, again, other = (sample["completion_ids"] for sample in samples)
            assert first == again != other
            for row, (tokens, values) in enumerate(zip(first, samples[0]["logprobs"], strict=True)):
                prompt = prompts[row // 3]
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
                expected = (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])
                torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=1e-4)
