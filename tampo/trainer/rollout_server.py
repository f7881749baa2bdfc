"""Rollouts of a vLLM server (`vllm_mode="server"`): which log-probs it returns, how long they may be, and their seeds.

TRL 1.16 asks a server for its log-prob mode only where `vllm_importance_sampling_correction` is on, and then warns. It
sends no seed: samples would depend on what the server was asked before, and servers that were just started would give
every training run the same random numbers.
"""

import inspect
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import trl
from accelerate.utils import broadcast_object_list
from trl import GRPOTrainer

from tampo.trainer.config import TAMPOConfig
from tampo.trainer.trl_internals import server_client, tokenize_prompts

logger = logging.getLogger(__name__)

PROBED = (0.6, 1.5)
"""Two temperatures at which a server is asked for log-probs of the same tokens."""

_ASKED = 5  # log-probs of a position; a server allows 20 unless it is told otherwise
_ABSENT = -9999.0  # vLLM writes it for -inf, which JSON has not
_THREADS = 256


class UnsuitableServer(ValueError):
    """A vLLM server cannot serve a training run; the message says why, and how to start it."""


def prepare_server(trainer: GRPOTrainer) -> None:
    """Check the server of a new trainer, and let its rollouts be seeded.

    Every process calls it; the first one asks the server.

    Raises:
        UnsuitableServer: In all processes. The server returns raw log-probs or logits, and the temperature is not 1
            throughout; or its context is shorter than `vllm_max_model_length`.
    """
    found: list[str | None] = [None]
    if trainer.accelerator.is_main_process:
        client: Any = server_client(trainer)
        if not {"features", "logprobs"} <= inspect.signature(client.generate).parameters.keys():
            logger.warning("TRL %s: the vLLM server is not checked, and its rollouts are not seeded.", trl.__version__)
        else:
            found = [_too_short(client, trainer.args) or _wrong_log_probs(trainer, client)]
            if "seed" not in trainer.vllm_generation.generation_kwargs:
                client.generate = seeded(client.generate)
    broadcast_object_list(found, from_process=0)
    if found[0] is not None:
        raise UnsuitableServer(found[0])


def seeded(generate: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`VLLMClient.generate` with one request, and one seed of torch's global generator, per prompt.

    vLLM adds the index of a sample to the seed of its request. Were all prompts in one request, as TRL has it, they
    would share the random numbers. The generator's state is in every checkpoint of a trainer.
    """

    def generate_seeded(
        prompts: list[Any],
        features: list[Any] | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        seeds = torch.randint(2**31, (len(prompts),)).tolist()

        def one(i: int) -> dict[str, Any]:
            kwargs = {**(generation_kwargs or {}), "seed": seeds[i]}
            images = None if features is None else features[i : i + 1]
            return generate(prompts=prompts[i : i + 1], features=images, generation_kwargs=kwargs, **sampling)

        with ThreadPoolExecutor(max(1, min(len(prompts), _THREADS))) as pool:
            parts = list(pool.map(one, range(len(prompts))))
        names = parts[0].keys() if parts else ()
        return {n: None if parts[0][n] is None else [row for part in parts for row in part[n]] for n in names}

    return generate_seeded


def _wrong_log_probs(trainer: GRPOTrainer, client: Any) -> str | None:
    """What is wrong with the log-probs of a server, seen from outside; None where nothing is, or nothing has to be.

    Tempered log-probs of two tokens differ by (z - z') / T, raw ones by the same at every temperature.
    """
    args: TAMPOConfig = trainer.args  # type: ignore[assignment]
    if args.temperature_controller == "fixed" and args.temperature == 1:
        return None
    prompt = tokenize_prompts(trainer, ["1 + 1 ="])
    low, high = (_log_probs(client, prompt, temperature) for temperature in PROBED)
    common = low.keys() & high.keys()
    if any(sum(map(math.exp, seen.values())) > 1.01 for seen in (low, high)):
        return _refusal(client, "logits, not log-probs")
    if not common or (spread := _spread(low, common)) < 1e-3:
        logger.warning(
            "The vLLM server at %s gives the likeliest tokens of a test prompt equal log-probs: whether it returns "
            "those of the current temperature cannot be told.",
            client.base_url,
        )
        return None
    if _spread(high, common) / spread < math.sqrt(PROBED[0] / PROBED[1]):  # between that of tempered ones and 1
        return None
    return _refusal(
        client,
        f"log-probs of T = 1 whatever the temperature (those of the likeliest tokens of a test prompt differ by "
        f"{spread:.3f} at T = {PROBED[0]}, and by {_spread(high, common):.3f} at T = {PROBED[1]})",
    )


def _log_probs(client: Any, prompt: list[list[int]], temperature: float) -> dict[int, float]:
    """By token, log-probs of the first position after a prompt, of the likeliest tokens."""
    plain = {"n": 1, "max_tokens": 1, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    output = client.generate(prompts=prompt, temperature=temperature, logprobs=_ASKED, **plain)
    values, tokens = output["logprobs"][0][0], output["logprob_token_ids"][0][0]
    pairs = zip(tokens, values, strict=True)
    return {token: value for token, value in pairs if value is not None and value > _ABSENT}


def _spread(log_probs: dict[int, float], tokens: set[int]) -> float:
    chosen = [log_probs[token] for token in tokens]
    return max(chosen) - min(chosen)


def _refusal(client: Any, what: str) -> str:
    return (
        f"The vLLM server at {client.base_url} returns {what}. The loss would compare them with log-probs at the "
        "current temperature. Restart it with --logprobs-mode processed_logprobs (the whole command is in "
        "docs/paper-scale.md), or train with temperature_controller=fixed and temperature=1."
    )


def _too_short(client: Any, args: Any) -> str | None:
    needed = args.vllm_max_model_length
    card = client.session.get(f"{client.base_url}/v1/models").json()["data"][0]
    served = card.get("max_model_len")
    if needed is None or served is None or served >= needed:
        return None
    return (
        f"The vLLM server at {client.base_url} has max_model_len {served}, and prompts and completions may have "
        f"{needed} tokens together (vllm_max_model_length). Restart it with --max-model-len {needed}, or lower "
        "max_prompt_length or max_completion_length."
    )
