"""What the passes of the policy that generated a batch say of its rollouts, until all of them are known.

A generation batch is scored in several passes, in an order that TRL shuffles, and over several processes. The
controller gets it once, complete and in the order of generation.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tampo.controllers.base import RolloutBatch


class Recorded(NamedTuple):
    """What one pass of the generating policy says of its rows."""

    virtual: Tensor  # (b, C, K), log-probs at the virtual temperatures; with the entropies there, (b, C, 2 K)
    entropies: Tensor  # (b, C), at the temperature of the loss
    sampled: Tensor  # (b, C), log-probs at the sampling temperature
    loss: Tensor  # (b, C), log-probs at the temperature of the loss
    log_ratios: Tensor | None  # (b, C), log pi_1 - log pi_T; None where the loss is at the sampling temperature


class Collection:
    """The rows of the current generation batch, as far as their likelihoods are known.

    Attributes:
        missing: Local rows without likelihoods yet.
    """

    def __init__(self) -> None:
        self.start(0)

    def start(self, rows: int) -> None:
        """A new batch of so many local rows."""
        self.missing = rows
        # (b, K + 4), or with virtual entropies (b, 2 K + 4), and (b,) each: log-likelihoods at the candidates, virtual
        # entropies, log-likelihood at the sampling temperature, entropy, advantage, length; and the row's index at
        # generation
        self._rows: list[tuple[Tensor, Tensor]] = []

    def add(self, recorded: Recorded, mask: Tensor, inputs: Mapping[str, Any]) -> None:
        """Add the rows of one pass.

        Args:
            recorded: Of these rows.
            mask: 1 for tokens that the loss uses, (b, C).
            inputs: TRL's batch, with "advantages" and "rollout", the index at generation, (b,) each.
        """
        virtual = (recorded.virtual * mask.unsqueeze(-1)).sum(dim=1)  # (b, K), Eq. 8; with virtual entropies (b, 2 K)
        sums = [(recorded.sampled * mask).sum(dim=1), (recorded.entropies * mask).sum(dim=1)]
        others = [*sums, inputs["advantages"], mask.sum(dim=1)]  # (b,) each
        self._rows.append((torch.cat([virtual, torch.stack(others, dim=1)], dim=1), inputs["rollout"]))
        self.missing -= len(virtual)

    def in_order(self) -> Tensor:
        """All local rows in the order of generation, (n, K + 4) or (n, 2 K + 4); the batch is complete."""
        rows, places = (torch.cat(parts) for parts in zip(*self._rows, strict=True))
        return rows[places.argsort()]


def rollout_batch(rows: NDArray[np.float64], scored_at: NDArray[np.float64], **known: Any) -> RolloutBatch:
    """The batch that a controller gets, from the rows of all processes.

    Args:
        rows: From `Collection.in_order`, (N, K + 4) or (N, 2 K + 4).
        scored_at: The K virtual temperatures.
        known: The other attributes.
    """
    k, tokens = len(scored_at), rows[:, -1].sum()

    def per_token(sums: NDArray[np.float64]) -> float:
        return math.fsum(sums) / tokens if tokens else math.nan

    sampled, entropy, advantages, lengths = rows[:, -4:].T
    entropies = np.array([per_token(column) for column in rows[:, k:-4].T])  # (K,), or (0,)
    return RolloutBatch(
        log_likelihoods=rows[:, :k],
        advantages=advantages,
        lengths=lengths,
        entropy=per_token(entropy),
        sampled_log_likelihoods=sampled,
        scored_at=scored_at,
        virtual_entropies=entropies if len(entropies) else None,
        **known,
    )
