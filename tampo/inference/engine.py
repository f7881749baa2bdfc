"""The interface of engines, which sample completions from a model. It needs neither torch nor vLLM."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DEFAULT_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Completion:
    """One completion: its text without special tokens, its number of tokens, and whether the limit truncated it."""

    text: str
    tokens: int
    truncated: bool


def derive_seed(seed: int, part: int | str) -> int:
    """A seed for one part of the sampling (a benchmark, batch or prompt), different for each part."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:7], "big")


class Engine(Protocol):
    """Samples from one model. Prompts are complete texts: no special token is added.

    Attributes:
        tokenizer: The model's tokenizer.
        seeded_by: What has its own random numbers, independent of the batch: "sample" or "prompt".
        config: The config of the model that sets its context length, or None.
        engine_limit: The engine's own limit of prompt and completion in tokens, and its name, or None.
    """

    tokenizer: Any
    seeded_by: str
    config: Any
    engine_limit: tuple[int, str] | None

    def generate(
        self,
        prompts: list[str],
        samples: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """`samples` completions per prompt, in order. The same arguments give the same completions.

        Args:
            indices: Number of each prompt in a larger list of which these are a part, by default 0, 1, ...; with it
                the completions are those that the prompt has there. Engines that seed by prompt need it.
        """

    def close(self) -> None:
        """Free memory and stop processes; the engine cannot be used afterwards."""
