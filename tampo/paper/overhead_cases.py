"""What the benchmarks compare, and how much they measure.

Without torch and TRL, which need not be loaded to show stored measurements.
"""

from dataclasses import dataclass, field

PARTS = ("generate", "reward", "forward", "backward", "outer loop", "other")


@dataclass(frozen=True)
class Case:
    """A way to train: with TAMPOTrainer or TRL's GRPOTrainer, and whether with tampo's own rollouts and grouping."""

    title: str
    tampo: bool = True
    fast: bool = False


CASES = {
    "grpo": Case("TRL's GRPOTrainer", tampo=False),
    "tampo": Case("TAMPOTrainer, TRL's rollouts"),
    "fast": Case("TAMPOTrainer, tampo's rollouts", fast=True),
}


@dataclass(frozen=True)
class HeadShape:
    """The size of an LM head and the number of tokens. By default those of the paper's model (section 4.1)."""

    hidden: int = 1536
    vocabulary: int = 151_936
    tokens: int = 2048


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        steps: Steps of a training run. Few, so that the cases alternate quickly.
        rounds: Training runs per case.
        long_rounds: Rounds of evaluations, and of training runs with steps as large as the paper's.
        part_rounds: Rounds of the LM head and of start-up.
        head: The LM head; by default the paper's.
        paper_step: Changes that make steps as large as the paper's (section 4.1), and their number; {}: not measured.
        memory: Whether peaks of memory are measured, each in a process of its own.
    """

    steps: int = 5
    rounds: int = 16
    long_rounds: int = 4
    part_rounds: int = 5
    head: HeadShape = field(default_factory=HeadShape)
    paper_step: dict[str, int] = field(
        default_factory=lambda: {
            "prompts_per_step": 32,
            "num_generations": 8,
            "per_device_train_batch_size": 256,
            "max_steps": 10,
        }
    )
    memory: bool = True


SIZES = {"smoke": Size(2, 1, 1, 1, HeadShape(64, 2000, 64), {}, memory=False)}
