"""Tests that need vLLM for the CPU, in an environment of their own (`make test-vllm`)."""

import os

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from collections.abc import Iterator

import pytest

from tampo.inference.vllm_engine import VLLMEngine
from tampo.tasks.mini_model import mini_model_path


@pytest.fixture(scope="session")
def mini() -> str:
    return str(mini_model_path())


@pytest.fixture(scope="session")
def engine(mini: str) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(mini, batch=512, enforce_eager=True)  # compiling takes longer than these tests
    yield engine
    engine.close()
