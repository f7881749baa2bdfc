"""Weights of a loss at temperature 1 for rollouts that were sampled at T: truncated importance sampling.

By default, T is the temperature of every log-prob of the loss. With `loss_temperature="one"`, T is a property of the
behaviour policy only: the loss is that of the policy at 1, and each token's loss is multiplied by

    w = min(pi_1(token) / pi_T(token), cap),

where both are of the policy that generated. No gradient flows through w, and the KL term has no weight. At T = 1 all
weights are 1, and both ways train the same.
"""

import torch
from torch import Tensor
from trl import GRPOTrainer


class ImportanceWeights:
    """The weights, and their statistics over one generation batch at a time.

    Attributes:
        metrics: Of the latest finished batch, over the tokens of all processes: "loss/importance_weight_mean", and
            "loss/importance_weight_capped", the share whose ratio is above the cap. Empty without weights.
    """

    def __init__(self, trainer: GRPOTrainer, cap: float) -> None:
        self._trainer = trainer
        self._cap = cap
        self._rows: list[Tensor] = []  # (b, 3) each
        self.metrics: dict[str, float] = {}

    def start(self) -> None:
        """Forget an unfinished batch."""
        self._rows = []

    def weights(self, log_ratios: Tensor) -> Tensor:
        """The weights from log pi_1 - log pi_T of any shape."""
        return log_ratios.exp().clamp(max=self._cap)

    def add(self, log_ratios: Tensor, mask: Tensor) -> None:
        """Add rows of the current batch: log pi_1 - log pi_T, and 1 for tokens that the loss uses, both (b, C)."""
        ratios = log_ratios.exp()
        columns = ratios.clamp(max=self._cap), ratios > self._cap, torch.ones_like(ratios)
        self._rows.append(torch.stack([(column * mask).sum(dim=1) for column in columns], dim=1))

    def finish(self) -> None:
        """Compute `metrics` of the batch that is complete now; every process calls it."""
        self.metrics = {}
        if self._rows:
            rows = self._trainer.accelerator.gather(torch.cat(self._rows)).double()  # (N, 3)
            total, capped, tokens = rows.sum(dim=0).tolist()
            self.metrics = {
                "loss/importance_weight_mean": total / max(tokens, 1.0),
                "loss/importance_weight_capped": capped / max(tokens, 1.0),
            }
        self.start()
