"""Trainers of a tiny model, and one that checks every pass against whole logits."""

from pathlib import Path

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tampo.trainer import TAMPOConfig, TAMPOTrainer
from tests.helpers import digit_reward

SETTINGS = {
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "max_completion_length": 8,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "model_init_kwargs": {"dtype": "float32"},
}


def make_trainer(model: Path, prompts: Dataset, output: Path, cls=TAMPOTrainer, peft_config=None, **changes):
    config = GRPOConfig if cls is GRPOTrainer else TAMPOConfig
    args = config(output_dir=str(output), **(SETTINGS | changes))
    return cls(model=str(model), reward_funcs=digit_reward, args=args, train_dataset=prompts, peft_config=peft_config)


class Watching(TAMPOTrainer):
    """Keeps what each loss was computed from, and checks each pass against the whole logits."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.errors, self.passes, self.drawn, self.first_ratios = [], [], [], []

    def _compute_loss(self, model, inputs):
        first = not self.inside_generation_batch
        loss = super()._compute_loss(model, inputs)
        self.drawn.append(inputs["temperature"].item())
        if first and "old_per_token_logps" in inputs:
            ratio = (self.passes[-1][2] - inputs["old_per_token_logps"]).exp()
            self.first_ratios.append(ratio[inputs["completion_mask"].bool()])
        return loss

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        with torch.no_grad():  # the oracle: whole logits, log_softmax at the current temperature
            logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -logits_to_keep - 1 : -1]
        expected = torch.log_softmax(logits / self.temperature, dim=-1)
        expected = expected.gather(-1, input_ids[:, -logits_to_keep:, None])[..., 0]
        keep = attention_mask[:, -logits_to_keep:].bool()
        self.errors.append((result[0].detach() - expected)[keep].abs().max().item())
        self.passes.append((self.temperature, model is self.ref_model, result[0].detach()))
        return result


def rectangle(lengths):
    """(input_ids, attention_mask, C) of rows of (prompt, completion) lengths, padded as TRL pads."""
    prompt, completion = (max(x) for x in zip(*lengths, strict=True))
    mask = torch.zeros(len(lengths), prompt + completion, dtype=torch.long)
    for row, (p, c) in enumerate(lengths):
        mask[row, prompt - p : prompt + c] = 1
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, 20, mask.shape, generator=generator) * mask, mask, completion
