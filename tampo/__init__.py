"""tampo: adaptive sampling temperature for LLM reinforcement learning (TAMPO, ICLR 2026).

`TAMPOConfig` and `TAMPOTrainer` replace TRL's `GRPOConfig` and `GRPOTrainer`; `MetaPolicy` is the method alone, for
any trainer. Names are loaded when first used, so that `import tampo` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tampo.extras import extra

if TYPE_CHECKING:
    from tampo.likelihood import virtual_log_likelihoods, virtual_log_likelihoods_from_hidden
    from tampo.meta_policy import MetaPolicy, sparsemax
    from tampo.stats import pass_at_k
    from tampo.trainer import MetaPolicyCallback, TAMPOConfig, TAMPOTrainer

__version__ = "0.1.0"

_HOME = {
    "MetaPolicy": "meta_policy",
    "MetaPolicyCallback": "trainer",
    "TAMPOConfig": "trainer",
    "TAMPOTrainer": "trainer",
    "pass_at_k": "stats",
    "sparsemax": "meta_policy",
    "virtual_log_likelihoods": "likelihood",
    "virtual_log_likelihoods_from_hidden": "likelihood",
}

__all__ = [
    "MetaPolicy",
    "MetaPolicyCallback",
    "TAMPOConfig",
    "TAMPOTrainer",
    "__version__",
    "pass_at_k",
    "sparsemax",
    "virtual_log_likelihoods",
    "virtual_log_likelihoods_from_hidden",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        with extra("trl"):
            return getattr(import_module(f"tampo.{_HOME[name]}"), name)
    raise AttributeError(f"module 'tampo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
