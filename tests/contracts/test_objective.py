"""The table of docs/paper-scale.md knows every setting of TRL that decides the objective, and what a run has."""

import ast
import dataclasses
import re

import pytest
import trl
from packaging.version import Version
from trl import GRPOConfig

from tampo.config import load_params
from tests.helpers import ROOT

pytestmark = pytest.mark.contract

# Before, TRL had other settings and defaults; the trainer follows whatever it finds there.
KNOWN = pytest.mark.skipif(
    Version(trl.__version__) < Version("1.16"), reason=f"the table has the defaults of TRL 1.16, not {trl.__version__}"
)

# Settings of TRL's own without an effect on the objective of a run: speed, memory, addresses, logs; or such as are read
# by a setting of the table that is off (entropy_coef_max, vespo_k_pos, ...).
OTHERS = {
    "bf16", "cache_implementation", "chat_template_kwargs", "ds3_gather_for_generation", "entropy_coef_delta",
    "entropy_coef_max", "entropy_coef_min", "generation_batch_size", "gradient_checkpointing",
    "log_completions", "log_completions_hub_repo", "log_multimodal", "log_unique_prompts", "logging_steps",
    "max_tool_calling_iterations", "model_init_kwargs", "num_completions_to_print", "num_generations_eval",
    "pad_to_multiple_of", "ref_model_mixup_alpha", "ref_model_sync_steps", "remove_unused_columns",
    "sapo_temperature_neg", "sapo_temperature_pos", "shuffle_dataset", "steps_per_generation",
    "torch_empty_cache_steps", "transformers_continuous_batching_config", "trust_remote_code", "use_liger_kernel",
    "use_transformers_continuous_batching", "use_transformers_paged", "use_vllm", "vespo_k_neg", "vespo_k_pos",
    "vespo_lambda_neg", "vespo_lambda_pos", "vllm_enable_sleep_mode", "vllm_gpu_memory_utilization", "vllm_group_port",
    "vllm_max_model_length", "vllm_mode", "vllm_model_impl", "vllm_server_base_url", "vllm_server_host",
    "vllm_server_port", "vllm_server_timeout", "vllm_structured_outputs_regex", "vllm_tensor_parallel_size",
}  # fmt: skip


def table():
    """Setting: (TRL's default, ours), as Python values."""
    page = (ROOT / "docs" / "paper-scale.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| `([^`]+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    return {name: (ast.literal_eval(theirs), ast.literal_eval(ours)) for name, theirs, ours in rows}


def defaults():
    """The defaults of `GRPOConfig` that are plain values."""
    return {field.name: field.default for field in dataclasses.fields(GRPOConfig)}


def changed(known, found):
    """Settings whose default is another one, and those that are gone."""
    return [name for name, value in known.items() if name not in found or found[name] != value]


@KNOWN
def test_GRPOConfig_has_no_setting_that_the_table_does_not_know():
    classes = [cls for cls in GRPOConfig.__mro__ if cls.__module__.startswith("trl.")]
    own = {name for cls in classes for name in vars(cls).get("__annotations__", {})}
    new = (own & defaults().keys()) - table().keys() - OTHERS
    assert not new, f"decide for each whether it changes the objective: docs/paper-scale.md, or OTHERS here: {new}"


@KNOWN
def test_GRPOConfig_has_the_defaults_of_the_table():
    assert not changed({name: theirs for name, (theirs, _) in table().items()}, defaults())


def test_a_changed_default_is_noticed():
    known = {name: theirs for name, (theirs, _) in table().items()}
    assert len(known) > 40
    assert changed(known, known | {"use_bias_correction_kl": False, "delta": 4.0}) == [
        "use_bias_correction_kl",
        "delta",
    ]
    assert changed(known, {name: value for name, value in known.items() if name != "beta"}) == ["beta"]


@KNOWN
def test_a_run_of_the_paper_has_the_values_of_the_table(tmp_path):
    from tampo.runs.objective import OBJECTIVE
    from tampo.runs.training import trainer_config

    params = load_params("paper")
    config = trainer_config(params.training(), tmp_path, processes=8)
    config.reward_weights = [params.reward_accuracy, params.reward_format]  # by make_trainer
    values = {name: getattr(config, name) for name in table()}
    assert values == {name: ours for name, (_, ours) in table().items()}
    assert set(table()) >= set(OBJECTIVE)
    for name in OBJECTIVE:
        assert name not in type(params).model_fields, "it is a parameter: leave it out of OBJECTIVE"
