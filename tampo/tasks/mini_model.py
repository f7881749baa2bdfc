"""The mini scale's base models: Qwen2 with half a million parameters, trained from a seed on a noisy teacher.

`build_mini_model` builds a folder of the package; it needs one CPU thread and some minutes. The supervised solutions
contain mistakes and skipped steps on purpose: a base model trained on flawless ones has so low an entropy that
reinforcement learning gains nothing.

The tokenizer is a Qwen2Tokenizer (byte-level BPE, single digits) whose merges are the words of the questions.
AutoTokenizer would give any other kind Qwen2's pre-tokenizer, because config.json has model_type qwen2.
"""

import functools
import itertools
import json
import platform
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from tampo.tasks.mini import TASKS, Problem, format_prompt, make_problems, worked_solution
from tampo.tasks.mini_assets import RECIPES, Recipe, mini_model_path

__all__ = ["RECIPES", "Recipe", "build_config", "build_mini_model", "build_tokenizer", "mini_model_path"]

EOS_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"
MAX_LENGTH = 256  # tokens, prompt and completion together
IGNORED = -100  # label without a loss
_TYPICAL_LENGTH = 25  # tokens of a solution
_POOL = 4  # batches drawn together and sorted by length


def build_tokenizer(tasks: Sequence[str] = TASKS) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with one token for each word of the families' questions."""
    questions = "\n".join(p.question for task in tasks for p in make_problems(task, 200))
    # Only words are merged (single letters are variables); "(GCD" is one word to Qwen2's pre-tokenizer.
    words = re.sub(r"[^A-Za-z(\s]|\b[a-z]\b", "", questions) + "\n\\boxed"
    template: Any = Qwen2Tokenizer().backend_tokenizer  # for its normalizer and pre-tokenizer
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([words], trainer)
    trained = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],  # type: ignore[misc]  # annotated as str
        unk_token=None,  # type: ignore[arg-type]  # every byte has a token
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        model_max_length=MAX_LENGTH,
    )


def build_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """Three layers of width 128, four heads of 32 (a head size every engine supports), tied embeddings."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def _batches(
    tokenizer: PreTrainedTokenizerBase,
    solve: Callable[[Problem], str],
    problems: list[Problem],
    rng: random.Random,
    batch_size: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (input_ids, labels), each (B, L), padded on the right, with new solutions each time.

    With causal attention, padding on the right needs no attention mask.
    """
    while True:
        chosen = rng.choices(problems, k=_POOL * batch_size)
        prompts = tokenizer([format_prompt(p.question) for p in chosen])["input_ids"]
        # Tokenized apart from the prompt, as in generation: no merge crosses the boundary.
        solutions = tokenizer([solve(p) for p in chosen])["input_ids"]
        rows = [(x, [*y, tokenizer.eos_token_id]) for x, y in zip(prompts, solutions, strict=True)]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))  # rows of similar length: less padding
        starts = list(range(0, len(rows), batch_size))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + batch_size]
            shape = (batch_size, max(len(x) + len(y) for x, y in batch))
            ids, labels = torch.full(shape, tokenizer.pad_token_id), torch.full(shape, IGNORED)
            for i, (x, y) in enumerate(batch):
                ids[i, : len(x) + len(y)] = torch.tensor(x + y)
                labels[i, len(x) : len(x) + len(y)] = torch.tensor(y)
            yield ids, labels


def _train(
    model: Qwen2ForCausalLM,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    learning_rate: float,
    name: str,
) -> float:
    """AdamW with a short warm-up and a cosine to zero. Returns a running mean of the loss per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    model.train()
    mean_loss = float("nan")
    for step, (ids, labels) in enumerate(itertools.islice(batches, steps), start=1):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
        # A fixed divisor: a mean over the tokens of each batch would favour batches of short solutions.
        (losses / (len(ids) * _TYPICAL_LENGTH)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss = losses.item() / int((labels != IGNORED).sum())
        mean_loss = loss if step == 1 else 0.98 * mean_loss + 0.02 * loss
        if step % 100 == 0 or step == steps:
            print(f"{name}: step {step}/{steps}  loss {mean_loss:.4f}", flush=True)
    return mean_loss


def build_mini_model(out_dir: str | Path, recipe: Recipe = RECIPES["mini"], seed: int = 0) -> Path:
    """Train a base model on the train split and save it with its tokenizer and a build.json. Returns the folder.

    The same arguments give the same bytes of model.safetensors on the same machine with one thread.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(recipe.tasks)
    problems = [p for task in recipe.tasks for p in make_problems(task, recipe.problems_per_task, seed)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(build_config(tokenizer))
    noisy_steps = round(recipe.noisy_share * recipe.steps)
    noise: dict[str, Any] = {name: getattr(recipe, name) for name in ("slip", "skip", "give_up", "habit")}
    phases: list[tuple[str, int, float, dict[str, Any]]] = [
        ("flawless", recipe.steps - noisy_steps, recipe.learning_rate, {}),
        ("noisy", noisy_steps, recipe.learning_rate / 3, noise),
    ]
    mean_loss = float("nan")
    for name, steps, rate, mistakes in phases:
        rng = random.Random(f"{name}/{seed}")
        solve = functools.partial(worked_solution, rng=rng, **mistakes)
        batches = _batches(tokenizer, solve, problems, rng, recipe.batch_size)
        if steps:
            mean_loss = _train(model, batches, steps, rate, name)
    model.eval()
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # save_pretrained makes it readable by its owner only
    tokenizer.save_pretrained(out)
    packages = {"python": platform.python_version(), "torch": torch.__version__}
    build = {"seed": seed, **asdict(recipe), "final_loss": round(mean_loss, 4), "parameters": model.num_parameters()}
    build |= {"versions": packages | {"transformers": transformers.__version__}}
    (out / "build.json").write_text(json.dumps(build, indent=2) + "\n", encoding="utf-8")
    return out
