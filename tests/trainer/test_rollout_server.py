"""A vLLM server for rollouts: which log-probs it returns, how long its context is, and what its samples depend on.

The server is a stand-in that answers TRL's client as vLLM 0.31 does, and samples from the tests' model.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.generation import vllm_client

from tampo.trainer.rollout_server import PROBED, UnsuitableServer, seeded
from tests.trainer.helpers import make_trainer

LENGTH = 4  # tokens of a completion


class FakeServer(ThreadingHTTPServer):
    """`model` as vLLM serves it, with `--logprobs-mode mode` and `--max-model-len limit`."""

    def __init__(self, model, mode, limit):
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.mode, self.limit, self.requests = model, mode, limit, []
        self.address = f"http://127.0.0.1:{self.server_port}"

    @torch.no_grad()
    def complete(self, request):
        temperature, tokens, found = request["temperature"], torch.tensor(request["prompt"] * request["n"]), []
        generator = torch.Generator().manual_seed(request.get("seed", 0))
        first = tokens.size(1)
        positions = []
        for _ in range(request["max_tokens"]):
            logits = self.model(tokens).logits[:, -1]
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            kept = logits / temperature if self.mode.startswith("processed") else logits
            values = kept if self.mode.endswith("logits") else kept.log_softmax(-1)
            positions.append((chosen[:, 0].tolist(), values))
            tokens = torch.cat([tokens, chosen], dim=1)
        for row in range(request["n"]):
            tops = [values[row].topk(request["logprobs"]) for _, values in positions]
            logprobs = {
                "tokens": [f"token_id:{chosen[row]}" for chosen, _ in positions],
                "token_logprobs": [values[row, chosen[row]].item() for chosen, values in positions],
                "top_logprobs": [
                    {f"token_id:{token}": value for value, token in zip(*map(torch.Tensor.tolist, t), strict=True)}
                    for t in tops
                ],
            }
            completion = {"index": row, "token_ids": tokens[row, first:].tolist(), "logprobs": logprobs}
            found.append(completion | {"prompt_token_ids": request["prompt"][0]})
        return {"choices": found}


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self):
        answers = {
            "/v1/models": {"data": [{"id": "tiny", "max_model_len": self.server.limit}]},
            "/server_info": {"vllm_config": {"model_config": {"logprobs_mode": self.server.mode}}},
            "/health": {},
        }
        self.answer(answers[self.path.partition("?")[0]])

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.answer(self.server.complete(request))

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tiny_model_path, monkeypatch):
    """Starts servers; TRL takes vLLM for installed, and weights go to the model of the servers directly."""
    for module in ("vllm_client", "vllm_generation"):
        monkeypatch.setattr(f"trl.generation.{module}.is_vllm_available", lambda *args, **kwargs: True)
    model, running = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32), []

    def receive(client, metadata, named_params):
        model.load_state_dict({name: weight.detach() for name, weight in named_params})

    monkeypatch.setattr(vllm_client.VLLMClient, "update_named_params", receive)
    for name in ("init_communicator", "reset_prefix_cache"):
        monkeypatch.setattr(vllm_client.VLLMClient, name, lambda *args, **kwargs: None)

    def start(mode="processed_logprobs", limit=128):
        server = FakeServer(model, mode, limit)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def trainer_of(tiny_model_path, prompts, tmp_path):
    def build(server, **changes):
        settings = {
            "use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": server.address,
            "vllm_importance_sampling_correction": True, "max_completion_length": LENGTH, "meta_warmup_ratio": 0,
            "temperature_controller": "linear",
            "temperature_controller_kwargs": {"start_temperature": 0.6, "end_temperature": 1.5},
        }  # fmt: skip
        return make_trainer(tiny_model_path, prompts, tmp_path, **(settings | changes))

    return build


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits", "processed_logits"])
def test_other_log_probs_are_refused(serve, trainer_of, mode):
    with pytest.raises(UnsuitableServer, match=r"returns log.*Restart it with --logprobs-mode processed_logprobs"):
        trainer_of(serve(mode))


def test_raw_log_probs_will_do_where_the_temperature_is_one_throughout(serve, trainer_of):
    """They are those of T = 1. Any other temperature, or a controller, needs tempered ones."""
    server, fixed = serve("raw_logprobs"), {"temperature_controller": "fixed", "temperature_controller_kwargs": None}
    trainer_of(server, **fixed, temperature=1.0)
    assert not server.requests
    for changes in (fixed | {"temperature": 0.9}, {"temperature_controller": "tampo", "temperature": 1.0}):
        with pytest.raises(UnsuitableServer):
            trainer_of(server, **(fixed | changes))
    assert {request["temperature"] for request in server.requests} == {*PROBED}


def test_a_short_context_is_refused(serve, trainer_of):
    with pytest.raises(UnsuitableServer, match=r"max_model_len 31.*--max-model-len 32"):
        trainer_of(serve(limit=31), vllm_max_model_length=32)
    trainer_of(serve(limit=32), vllm_max_model_length=32)


def sampled(server):
    """Prompt, seed and temperature of each request for rollouts, in the order of prompts."""
    return sorted((r["prompt"], r["seed"], r["temperature"]) for r in server.requests if "seed" in r)


def test_samples_depend_on_the_seed_and_the_step_alone(serve, trainer_of):
    """The same ones from a server that was asked before, others with another seed; each prompt has its own."""
    server = serve()
    rounds = []
    for seed in (1, 1, 2):
        server.requests.clear()
        trainer = trainer_of(server, seed=seed, max_steps=2)
        trainer.train()
        log = [row for row in trainer.state.log_history if "loss" in row]
        rounds.append((sampled(server), [(row["loss"], row["reward"]) for row in log]))
        assert [row["temperature"] for row in log] == [0.6, 1.5]
        assert {temperature for _, _, temperature in rounds[-1][0]} == {0.6, 1.5}
        # The log-probs of the server are those of the loss, at both temperatures.
        assert max(row["sampling/sampling_logp_difference/max"] for row in log) < 1e-4
    first, again, other = rounds
    assert first == again
    seeds = [seed for _, seed, _ in first[0]]
    assert len(set(seeds)) == len(seeds) == 4, "two prompts in each of two steps"
    assert not set(seeds) & {seed for _, seed, _ in other[0]}


def test_a_resumed_run_asks_for_the_same_samples(serve, trainer_of):
    server, saving = serve(), {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(server, **saving)
    whole.train()
    requests = sampled(server)
    server.requests.clear()
    resumed = trainer_of(server, **saving)
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
    assert len(requests) == 8
    assert sampled(server) == [request for request in requests if request[2] > 1.0]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_answers_come_back_in_the_order_of_prompts():
    """With images and without log-probs too; a seed per prompt, beside what the user asks for."""
    seen = []

    def generate(prompts, features, generation_kwargs, n):
        seen.append(generation_kwargs)
        return {"completion_ids": [prompts[0] + features + [i] for i in range(n)], "logprobs": None}

    torch.manual_seed(0)
    output = seeded(generate)([[1], [2], [3]], ["a", "b", "c"], {"min_tokens": 2}, n=2)
    expected = [[prompt, image, i] for prompt, image in ((1, "a"), (2, "b"), (3, "c")) for i in range(2)]
    assert output == {"completion_ids": expected, "logprobs": None}
    assert [kwargs["min_tokens"] for kwargs in seen] == [2] * 3
    assert len({kwargs["seed"] for kwargs in seen}) == 3
    assert seeded(generate)([], n=2) == {}
