"""One test for each private or undocumented name of TRL, transformers, accelerate and vLLM that tampo relies on.

Each test has the name that it checks: after an upgrade, the failed tests list what has changed.
"""

import inspect
from collections import defaultdict

import pytest
import torch
import trl
from accelerate.utils import convert_outputs_to_fp32
from packaging.version import Version
from transformers import AutoModelForCausalLM, Trainer, trainer_utils
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils

from tampo.trainer.trl_internals import OTHER_HEADS
from tests.trainer.helpers import make_trainer

pytestmark = pytest.mark.contract

FUSED_HEAD = pytest.mark.skipif(
    Version(trl.__version__) < Version("1.15"), reason=f"TRL {trl.__version__} has no fused LM head"
)
REPRODUCE = pytest.mark.skipif(
    Version(trl.__version__) < Version("1.15"), reason="tampo.runs and tampo.paper need TRL 1.15, the trainer does not"
)


class Recorded(GRPOTrainer):
    """Keeps the batches that TRL generates and the inputs of its losses."""

    def _generate_and_score_completions(self, inputs):
        self.examples, self.batch = inputs, super()._generate_and_score_completions(inputs)
        return self.batch

    def _compute_loss(self, model, inputs):
        self.loss_inputs = inputs
        return super()._compute_loss(model, inputs)


@pytest.fixture(scope="module")
def trainer(tiny_model_path, prompts, tmp_path_factory):
    """TRL's trainer after one step, in which it computed log-probs at generation."""
    settings = {"max_steps": 1, "steps_per_generation": 2, "log_completions": True, "num_completions_to_print": 0}
    trainer = make_trainer(tiny_model_path, prompts, tmp_path_factory.mktemp("run"), Recorded, **settings)
    trainer.train()
    return trainer


def parameters(function):
    return list(inspect.signature(function).parameters)


# Methods that TAMPOTrainer overrides.


def test_GRPOTrainer___init__():
    assert parameters(GRPOTrainer.__init__)[:5] == ["self", "model", "reward_funcs", "args", "train_dataset"]


def test_GRPOTrainer__generate_and_score_completions(trainer):
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert isinstance(trainer.examples[0], dict)
    assert {"advantages", "completion_mask", "old_per_token_logps"} <= trainer.batch.keys()
    assert trainer.batch["advantages"].shape == (32,)  # two micro-batches of 16
    assert trainer.batch["completion_mask"].shape == trainer.batch["old_per_token_logps"].shape


def test_GRPOTrainer__compute_loss(trainer):
    assert parameters(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
    assert {"advantages", "completion_mask"} <= trainer.loss_inputs.keys()


def test_GRPOTrainer__get_per_token_logps_and_entropies():
    signature = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies)
    signature.bind("self", "model", "input_ids", "attention_mask", 8, batch_size=2, compute_entropy=True)


def test_GRPOTrainer__calculate_rewards():
    expected = ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters(GRPOTrainer._calculate_rewards) == expected


def test_GRPOTrainer__save_checkpoint():
    assert parameters(GRPOTrainer._save_checkpoint) == ["self", "model", "trial"]


def test_GRPOTrainer__load_optimizer_and_scheduler():
    assert parameters(GRPOTrainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]


def test_GRPOTrainer_create_model_card():
    assert callable(GRPOTrainer.create_model_card)


def test_GRPOTrainer_log():
    assert parameters(GRPOTrainer.log) == ["self", "logs", "start_time"]


def test_GRPOTrainer__tag_names():
    assert GRPOTrainer._tag_names == ["trl", "grpo"]


def test_GRPOTrainer__name():
    assert GRPOTrainer._name == "GRPO"


def test_GRPOTrainer__paper():
    assert {"title", "id", "citation"} <= GRPOTrainer._paper.keys()


def test_GRPOTrainer__get_train_sampler(trainer):
    """It draws an order for each iteration, from a generator of its own."""
    sampler, skipped = trainer._get_train_sampler(), trainer._get_train_sampler()
    next(iter(skipped))
    orders = [list(sampler) for _ in range(2)]
    assert orders[0] != orders[1] == list(skipped)


def test_Trainer__run_epoch():
    names = {"epoch", "epochs_trained", "steps_trained_in_current_epoch", "resume_from_checkpoint"}
    assert names <= set(parameters(Trainer._run_epoch))
    assert "epochs_trained=epochs_trained" in inspect.getsource(Trainer._inner_training_loop), "by keyword"


def test_Trainer_create_scheduler():
    assert parameters(Trainer.create_scheduler) == ["self", "num_training_steps", "optimizer"]


# Attributes that trl_internals reads.


def test_GRPOTrainer__step(trainer):
    assert trainer._step == 1


def test_GRPOTrainer__buffered_inputs(trainer):
    assert [len(part["advantages"]) for part in trainer._buffered_inputs] == [16, 16]


def test_GRPOTrainer__metrics(trainer):
    assert isinstance(trainer._metrics["train"], defaultdict)
    assert trainer._metrics["train"].default_factory is list


def test_GRPOTrainer__logs(trainer):
    assert len(trainer._logs["prompt"]) == 32
    assert {name for name, part in trainer._logs.items() if isinstance(part, dict)} == {"rewards", "extra"}
    trainer._logs["extra"]["new"].extend(range(33))
    assert len(trainer._logs["extra"]["new"]) == 32, "a deque as long as a generation batch"


def test_GRPOTrainer__pending_metrics(trainer):
    """What reward functions log, until TRL has computed the rewards of the batch."""
    trainer._log_metric("new", 1.0)
    assert trainer._pending_metrics.pop("new") == [1.0]
    assert not trainer._pending_metrics


def test_GRPOTrainer__pending_extra_logs(trainer):
    trainer._log_completion_extra("new", [1, 2])
    assert trainer._pending_extra_logs.pop("new") == [1, 2]
    assert not trainer._pending_extra_logs


def test_GRPOTrainer_reward_func_names(trainer):
    assert trainer.reward_func_names == ["digit_reward"]


def test_GRPOTrainer_generation_config(trainer):
    assert trainer.generation_config.temperature == 1.0


def test_GRPOTrainer_generation_kwargs(trainer):
    assert trainer.generation_kwargs["temperature"] == 1.0


def test_GRPOTrainer_temperature(trainer):
    assert trainer.temperature == 1.0


def test_GRPOTrainer_ref_model(trainer):
    assert trainer.ref_model is None


def test_GRPOTrainer_vllm_importance_sampling_correction(trainer):
    assert isinstance(trainer.vllm_importance_sampling_correction, bool)


def test_GRPOTrainer_vllm_mode(trainer):
    assert trainer.vllm_mode in ("colocate", "server")


def test_GRPOTrainer_log_completions(trainer):
    assert trainer.log_completions is True


def test_VLLMGeneration_temperature():
    """Read at each call of `generate`, not copied when the engine is built."""
    from trl.generation import vllm_generation

    assert "self.temperature" in inspect.getsource(vllm_generation.VLLMGeneration.generate)


@REPRODUCE
def test_VLLMGeneration_generation_kwargs():
    from trl.generation import vllm_generation

    source = inspect.getsource(vllm_generation.VLLMGeneration.generate)
    assert source.count("self.generation_kwargs") == 2, "of a server, and in this process"


@REPRODUCE
def test_VLLMClient_generate():
    """One call of the first process for all prompts, by keyword, without a seed."""
    from trl.generation import vllm_client, vllm_generation

    names = parameters(vllm_client.VLLMClient.generate)
    assert {"prompts", "features", "n", "temperature", "logprobs", "max_tokens", "generation_kwargs"} <= {*names}
    assert "seed" not in names
    source = inspect.getsource(vllm_generation.VLLMGeneration.generate)
    assert "self.vllm_client.generate(\n" in source
    assert "prompts=ordered_set_of_prompt_ids, features=features, **sampling_params" in source


@REPRODUCE
def test_VLLMClient_base_url_session():
    from trl.generation import vllm_client

    source = inspect.getsource(vllm_client.VLLMClient.__init__)
    assert "self.base_url" in source
    assert "self.session = requests.Session()" in source


def test_GRPOConfig__VALID_DICT_FIELDS():
    assert "model_init_kwargs" in GRPOConfig._VALID_DICT_FIELDS


def test_Trainer__get_output_dir(trainer):
    assert trainer._get_output_dir(trial=None) == trainer.args.output_dir


def test_trainer_utils_PREFIX_CHECKPOINT_DIR():
    assert trainer_utils.PREFIX_CHECKPOINT_DIR == "checkpoint"


def test_PreTrainedModel_base_model(trainer):
    """The hidden states that the LM head multiplies are the output of this module."""
    ids = torch.ones(1, 2, dtype=torch.long)
    assert trainer.model.base_model(ids).last_hidden_state.shape == (1, 2, trainer.model.config.hidden_size)


@pytest.mark.parametrize("name", OTHER_HEADS)
def test_config_names_of_other_heads(name):
    """Every name that TRL's fused head reads is one that `ScaledHeads` refuses; all are names in transformers."""
    if Version(trl.__version__) >= Version("1.16"):
        assert f'"{name}"' in inspect.getsource(utils.add_fused_lm_head)


def test_accelerate_convert_outputs_to_fp32():
    """`inspect.unwrap` finds the forward inside the wrapper of mixed precision."""

    def forward():
        pass

    assert inspect.unwrap(convert_outputs_to_fp32(forward)) is forward


# TRL's fused LM head.


@FUSED_HEAD
def test_add_fused_lm_head_closure_temperature(tiny_model_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    utils.add_fused_lm_head(model, temperature=0.5, outputs=("log_probs", "entropy"))
    forward = inspect.unwrap(model.forward, stop=lambda f: "temperature" in f.__code__.co_freevars)
    assert inspect.getclosurevars(forward).nonlocals["temperature"] == 0.5


def tile_parameters(function):
    return {*parameters(getattr(function, "fn", function))}


@FUSED_HEAD
def test_chunked_logprob__forward_tile():
    from trl.kernels import chunked_logprob

    expected = {"tile", "targets", "vocab_start", "logit_scale", "softcap", "HAS_SOFTCAP"}
    assert expected <= tile_parameters(chunked_logprob._forward_tile)


@FUSED_HEAD
def test_chunked_logprob__forward_kernel():
    from trl.kernels import chunked_logprob

    expected = {"mm_ptr", "targets_ptr", "vocab_start", "logit_scale", "softcap", "HAS_SOFTCAP"}
    assert expected <= tile_parameters(chunked_logprob._forward_kernel)


@FUSED_HEAD
def test_chunked_logprob__use_triton():
    from trl.kernels import chunked_logprob

    assert chunked_logprob._use_triton(torch.device("cpu")) is False


# What tampo.runs and tampo.paper call or time.


@REPRODUCE
def test_kernels_ChunkedLogProbFunction():
    from trl.kernels import ChunkedLogProbFunction

    assert issubclass(ChunkedLogProbFunction, torch.autograd.Function)


@REPRODUCE
def test_utils__CHUNKED_LOGPROB_CHUNK_SIZE():
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == 32768


@REPRODUCE
def test_GRPOTrainer__tokenize_prompts(trainer):
    assert trainer._tokenize_prompts(["1+2="])[0] == [trainer.processing_class("1+2=")["input_ids"]]


@REPRODUCE
def test_GRPOTrainer_eos_token_ids(trainer):
    assert trainer.eos_token_ids == [trainer.processing_class.eos_token_id]


@REPRODUCE
def test_GRPOTrainer__generate():
    assert callable(GRPOTrainer._generate)


@REPRODUCE
def test_models_unwrap_model_for_generation():
    from trl.models import unwrap_model_for_generation

    assert parameters(unwrap_model_for_generation)[:2] == ["model", "accelerator"]


def test_vllm_EngineCoreClient_shutdown():
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.v1.engine.core_client import EngineCoreClient

    assert callable(EngineCoreClient.shutdown)


def test_vllm_dispatch_cpu_unquantized_gemm():
    """Replaced by the tests of colocated training on a CPU."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.model_executor.layers import utils as layers

    assert parameters(layers.dispatch_cpu_unquantized_gemm) == ["layer", "remove_weight"]


# What the sampler's precision, its gap to the loss, and skipped steps rely on (tampo.trainer.sampler).


@REPRODUCE
def test_vllm_generation_builds_LLM_by_its_global_name():
    from trl.generation import vllm_generation

    source = inspect.getsource(vllm_generation.VLLMGeneration)
    assert "self.llm = LLM(" in source
    assert "dtype=" not in source[source.index("self.llm = LLM(") :][:1500], "TRL passes a precision itself now"
    assert "vllm_generation" in inspect.getsource(inspect.getmodule(GRPOTrainer))


@REPRODUCE
def test_VLLMClient_get_server_info():
    from trl.generation.vllm_client import VLLMClient

    assert parameters(VLLMClient.get_server_info) == ["self"]


@REPRODUCE
def test_names_of_the_samplers_log_probs_and_weights():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert 'output["sampling_per_token_logps"]' in source
    assert 'output["importance_sampling_ratio"]' in source


def test_accelerator_of_the_trainer(trainer):
    assert trainer.accelerator.optimizer_step_was_skipped is False
    assert trainer.accelerator.scaler is None
    assert trainer.accelerator.mixed_precision == "no"
    assert trainer.accelerator.state.dynamo_plugin.backend == "NO"
