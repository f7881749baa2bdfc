"""TRL's GRPO trainer with a sampling temperature that a controller sets."""

from tampo.extras import extra

with extra("trl"):
    from tampo.trainer.config import TAMPOConfig
    from tampo.trainer.trainer import MetaPolicyCallback, NonFiniteLoss, TAMPOTrainer

__all__ = ["MetaPolicyCallback", "NonFiniteLoss", "TAMPOConfig", "TAMPOTrainer"]
