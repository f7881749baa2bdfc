"""A random model of a few thousand parameters, for tests of the machinery (the mini model is for tests of results)."""

import functools
import gc
import importlib.metadata
import os
import shutil
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background with Ctrl-C ignored, and the runs of these tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for a GPU, ours and TRL's, are tested on the CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the suite runs one process per core
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tampo.trainer.trl_internals import check_tiles

torch.set_num_threads(1)
# accelerate collects garbage at each training run, over all that torch and transformers have imported: half of the time
# of a run of the tiny model.
gc.collect()
gc.freeze()
# It also reads the metadata of installed packages at each save and evaluation: a tenth of such a run.
importlib.metadata.metadata = functools.cache(importlib.metadata.metadata)

ALPHABET = "0123456789+= abcdef"


def make_tiny_model(folder: Path) -> Path:
    """A random Qwen2 with a character tokenizer in `folder`, its logits spread so that a temperature shows."""
    vocabulary = {character: i for i, character in enumerate(["<pad>", "<eos>", *ALPHABET])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.3)  # logits of standard deviation about 1.7
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The remembered hashes of the files of tests, and of the processes they start, stay out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAMPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def prompts() -> Dataset:
    return Dataset.from_dict({"prompt": [f"{a}+{b}=" for a in range(8) for b in range(8)]})


def choose_heads(way: str, patch: pytest.MonkeyPatch) -> None:
    """Have new trainers set the loss's temperature in the "closure" of TRL's head, or by scaling "hidden states"."""

    def unknown(*args: object) -> None:
        raise RuntimeError("This TRL is not known.")

    if way == "hidden states":
        patch.setattr("tampo.trainer.trainer.FusedHeads", unknown)
    else:
        try:
            check_tiles()
        except RuntimeError as error:
            pytest.skip(str(error))


# What takes most of the suite's time: notebooks, browsers, kills, Slurm, installations, processes side by side, then
# training runs and hostile answers; the longest first. `make test-fast` leaves these out; `make test` runs all.
HEAVY = (
    "paper/test_notebooks.py",
    "runs/test_faults.py",
    "runs/test_jobs.py",
    "test_install.py",
    "trainer/test_distributed.py",
    "runs/test_sweep.py",
    "runs/test_several_processes.py",
    "paper/test_overhead.py",
    "paper/test_bench.py",
    "runs/test_processes.py",
    "explore/test_browser.py",
    "explore/test_controls.py",
    "paper/test_pages_browser.py",
    "paper/test_reproduce.py",
    "runs/test_apart.py",
    "runs/test_interrupts.py",
    "runs/test_pinned.py",
    "runs/test_rollouts.py",
    "runs/test_tracking.py",
    "test_on_gpu.py",
    *(
        f"trainer/test_{name}.py"
        for name in (
            "trainer", "checkpoint_steps", "architectures", "loss_temperature", "rollout_rules", "log_names",
            "rollout_batch", "conversion", "sampler", "hostile_parameters", "short_datasets", "rollout_server",
        )
    ),
    "grading/test_grading.py",
    "tasks/test_own.py",
    "inference/test_decoding.py",
    "test_context.py",
    "test_clumsy.py",
    "runs/test_kept_steps.py",
    "paper/test_reference.py",
    "paper/test_claims.py",
    "test_likelihood_kernel.py",
    *(f"paper/test_{name}.py" for name in ("power", "optimal_temperature", "theory", "noise")),
    *("tasks/test_mini.py", "tasks/test_mini_model.py", "explore/test_algorithm.py"),
)  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tier does not even import the heavy files."""
    fast = "not heavy" in config.option.markexpr
    return True if fast and collection_path.as_posix().endswith(HEAVY) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: with `--dist loadscope` a file stays in one process, and short ones fill the end."""

    def rank(item: pytest.Item) -> int:
        path = item.path.as_posix()
        heavy = [i for i, name in enumerate(HEAVY) if path.endswith(name)]
        if heavy:
            item.add_marker("heavy")
            return heavy[0]
        return len(HEAVY) + (item.path.parent.name not in ("trainer", "grading"))

    items.sort(key=rank)  # stable
