"""VLLMServerEngine against a real server on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tampo.config import load_params
from tampo.decoding import DecodingRules
from tampo.inference.evaluate import evaluate, make_engine, problem_scores
from tampo.inference.vllm_engine import VLLMEngine
from tampo.tasks.mini import format_prompt, make_problems

PROMPTS = [format_prompt(problem.question) for problem in make_problems("gcd", 12, 0, "test")]
START, STOP = 240, 30  # seconds


@pytest.fixture(scope="module")
def server(mini: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the mini model; the process ends with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not `vllm serve`: the command asks for a distribution named vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", mini, "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "512"]
    command += ["--no-enable-chunked-prefill"]  # on the CPU a server, too, dies when it splits a seeded prompt
    log = Path(tmp_path_factory.mktemp("server"), "log.txt")
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
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
