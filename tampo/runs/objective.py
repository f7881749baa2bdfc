"""What decides the objective of a training run, and is no parameter of `tampo train`.

Each value is written out, also where it is TRL's default, so that another version of TRL changes no run. The table in
docs/paper-scale.md says for each what TRL and the paper have, and why.
"""

from typing import Any

# Settings of `TAMPOConfig`. A version of TRL that lacks one has no such term in its loss.
OBJECTIVE: dict[str, Any] = {
    # The ratio and its clipping (Eq. 13)
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "importance_sampling_level": "token",
    "num_iterations": 1,
    # Advantages (Eq. 1)
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    # Which tokens and rollouts count
    "mask_truncated_completions": False,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    # Further terms
    "entropy_coef": 0.0,
    "router_aux_loss_coef": None,
    # The reference model, and the distribution that is sampled
    "sync_ref_model": False,
    "disable_dropout": False,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "cast_lm_head_to_fp32": False,
    # The optimizer
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": None,
    "neftune_noise_alpha": None,
}
