"""Two processes hold the meta-policy of one, under DDP, ZeRO-2 and ZeRO-3 on CPU; launch configurations load."""

import functools
import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from filelock import FileLock
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from tampo.controllers.base import RolloutBatch
from tampo.trainer.config import TAMPOConfig
from tampo.trainer.trl_internals import LogitRecorder, tapped_logits
from tests.forks import fork, wait_for
from tests.helpers import free_port
from tests.trainer import two_processes
from tests.trainer.helpers import SETTINGS, make_trainer
from tests.trainer.two_processes import Recording

ROOT = Path(__file__).parents[2]

# Gradients in float32 are summed in another order by two processes, and again by ZeRO's buckets: after some steps
# weights differ in their last digits, and so do log-likelihoods. A rollout that is left out or counted twice moves an
# average, of the order of 0.1, by more than 1e-3.
TOLERANCE = 1e-5

STAGES = {"ddp": None, "zero2": 2, "zero3": 3}
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
SHARDED = [pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3")]
STRATEGIES = ["ddp", *SHARDED]

# A launch makes all runs, since most of its time goes into imports.
COMMON = {
    "max_steps": 6,
    "meta_warmup_ratio": 0.2,
    "meta_alpha": 0.5,
    "per_device_train_batch_size": 8,
    "optim": "adamw_torch",  # DeepSpeed on CPU refuses the default, the fused kernel
}
RUNS = {
    "policy": {},
    "policy and reference": {"beta": 0.1},
    "scored at generation": {"beta": 0.1, "steps_per_generation": 2},
}


def deepspeed_config(stage):
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    # ZeRO-3 leaves parameters below the threshold whole: by default, all those of the tiny model.
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    return {"zero_optimization": zero} | dict.fromkeys(sizes, "auto")


def launch(model, folder, stage):
    common = COMMON | ({"deepspeed": deepspeed_config(stage)} if stage else {})
    settings = [common | changes for changes in RUNS.values()]
    port = free_port()
    # What torchrun sets. Its own launches, whose imports take most of the time, are in test_processes.py.
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    # With ACCELERATE_USE_CPU, accelerate ignores a DeepSpeed configuration without a word; use_cpu does not.
    given["ACCELERATE_USE_CPU"] = "false"
    ranks = [
        fork(folder / f"messages{n}", two_processes.rank, model, folder, settings, RANK=n, LOCAL_RANK=n, **given)
        for n in ("0", "1")
    ]
    try:
        codes = [wait_for(process, 180) for process in ranks]
    finally:
        for process in ranks:  # the other one waits for one that failed
            process.kill()
    said = [(folder / f"messages{n}").read_text()[-3000:] for n in ("0", "1")]
    assert codes == [0, 0], said


@pytest.fixture(scope="session")
def two_ranks(tiny_model_path, tmp_path_factory):
    """What both ranks recorded, by strategy and run. Workers of pytest-xdist share launches."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def records(strategy, run="policy"):
        folder = base / strategy
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock"):
            if not (folder / "done").exists():
                launch(tiny_model_path, folder, STAGES[strategy])
                (folder / "done").touch()
        names = [f"run{list(RUNS).index(run)}-rank{rank}.json" for rank in (0, 1)]
        return [json.loads((folder / name).read_text()) for name in names]

    return records


def learnt(state):
    """Without what is only logged, whose last bits depend on the order of rollouts."""
    return {name: value for name, value in state.items() if name != "latest"}


def assert_same_meta_policy(one, other):
    assert one["temperatures"] == other["temperatures"]
    states = [learnt(record["state"]) for record in (one, other)]
    averages = [state.pop("advantages") for state in states]
    np.testing.assert_allclose(*averages, rtol=0, atol=TOLERANCE)
    assert states[0] == states[1]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_ranks_hold_the_same_meta_policy(strategy, run, two_ranks):
    first, second = two_ranks(strategy, run)
    wrapper = "DeepSpeedEngine" if STAGES[strategy] else "DistributedDataParallel"
    assert first["wrapper"] == wrapper, "the test needs the strategy it names"
    assert first["head_is_split"] == (strategy == "zero3")
    for name in ("temperatures", "batches", "state"):
        assert first[name] == second[name], name
    assert first["rollouts"] != second["rollouts"]
    assert len(set(first["temperatures"])) > 1, "the test needs a temperature that changes"
    rollouts = 16 * RUNS[run].get("steps_per_generation", 1)
    assert {len(advantages) for _, advantages, _ in first["batches"]} == {rollouts}, "of both processes"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_temperature_in_force_reaches_policy_and_reference_on_both_ranks(strategy, run, two_ranks):
    heads, steps = (2 if "beta" in RUNS[run] else 1), RUNS[run].get("steps_per_generation", 1)
    for record in two_ranks(strategy, run):
        in_force = [[temperature] * heads for temperature in record["temperatures"] for _ in range(steps)]
        assert record["head_temperatures"] == in_force
        assert (record["reference_passes"] > 0) == (heads == 2)
        assert record["error"] < 1e-4, "log-probabilities, against log_softmax of the whole logits"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("strategy", SHARDED)
def test_sharding_changes_neither_rollouts_nor_meta_policy(strategy, run, two_ranks):
    for sharded, whole in zip(two_ranks(strategy, run), two_ranks("ddp", run), strict=True):
        assert sharded["rollouts"] == whole["rollouts"]
        assert_same_meta_policy(sharded, whole)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_ranks_see_a_weight_that_is_broken_in_one(strategy, two_ranks):
    """Under ZeRO-3 each holds a part of every weight, and the parameter itself is empty."""
    ranks = two_ranks(strategy)
    parts = [rank["held"] for rank in ranks]
    if strategy == "zero3":
        assert sum(parts) == ranks[0]["weights"] and all(parts)
    else:
        assert parts == [ranks[0]["weights"]] * 2
    for rank in ranks:
        assert rank["broken weights"].startswith("After step 7, weights are not finite: model.embed_tokens.weight")


# Without the third run, whose rollouts each process shuffles over two steps in another order.
@pytest.mark.parametrize("run", ["policy", "policy and reference"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_process_given_the_same_rollouts_agrees(strategy, run, two_ranks, tiny_model_path, prompts, tmp_path):
    """Same rewards, log-probs and updates from them, and the same temperatures."""
    first, second = two_ranks(strategy, run)
    settings = COMMON | RUNS[run] | {"per_device_train_batch_size": 16}
    alone = make_trainer(tiny_model_path, prompts, tmp_path, Recording, **settings)
    alone.rollouts = [
        [mine + theirs for mine, theirs in zip(*batches, strict=True)]
        for batches in zip(first["rollouts"], second["rollouts"], strict=True)
    ]
    alone.train()
    assert_same_meta_policy({"temperatures": alone.temperatures, "state": alone.controller.state_dict()}, first)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_controller_with_the_same_batches_agrees_to_the_last_bit(strategy, two_ranks, tmp_path):
    first, _ = two_ranks(strategy)
    config = TAMPOConfig(output_dir=str(tmp_path), **(SETTINGS | COMMON))
    alone = config.configure_controller()
    alone.start(config.run_settings(config.max_steps))
    for step, rows in enumerate(first["batches"]):
        assert alone.temperature(step) == first["temperatures"][step]
        mixed = np.random.default_rng(step).permutation(len(rows[1]))  # one process may hold them in another order
        alone.update(RolloutBatch(np.array(config.temperature_candidates), *(np.array(x)[mixed] for x in rows)))
    assert learnt(alone.state_dict()) == learnt(first["state"])


def test_head_that_deepspeed_cast_to_half_precision_is_used_in_float32(tiny_model_path):
    """The engine casts all weights, also those of cast_lm_head_to_fp32; TRL's loss computes in float32 still."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    add_fused_lm_head(model, cast_lm_head_to_fp32=True)
    model.bfloat16()
    ids = torch.randint(2, 21, (2, 9), generator=torch.Generator().manual_seed(0))
    recorder = LogitRecorder(torch.ones_like(ids), 8, [0.7, 1.3])
    with torch.no_grad(), tapped_logits(recorder):
        model(ids, labels=ids, fused_lm_head=True)
        states = model.base_model(ids).last_hidden_state[:, :-1]
        logits = states.float() @ model.lm_head.weight.float().T
    for k, temperature in enumerate([0.7, 1.3]):
        expected = torch.log_softmax(logits / temperature, -1).gather(-1, ids[:, 1:, None])[..., 0]
        torch.testing.assert_close(recorder.log_probs()[..., k], expected, rtol=0, atol=1e-5)


# Processes, machines and ZeRO stage of each file.
CONFIGURATIONS = {
    "1gpu": (1, 1, 0),
    "1gpu-zero2": (1, 1, 2),
    "8gpu-zero2": (8, 1, 2),
    "8gpu-zero3": (8, 1, 3),
    "2nodes-zero3": (16, 2, 3),
}


def test_every_accelerate_configuration_is_tested():
    assert {path.stem for path in (ROOT / "params" / "accelerate").iterdir()} == CONFIGURATIONS.keys()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accelerate_loads_its_configuration(name):
    config = load_config_from_file(str(ROOT / "params" / "accelerate" / f"{name}.yaml"))
    processes, machines, stage = CONFIGURATIONS[name]
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.distributed_type == (DistributedType.DEEPSPEED if stage else DistributedType.NO)
    assert config.deepspeed_config.get("zero_stage", 0) == stage
    assert config.mixed_precision is None, "left to the training configuration"
    assert not config.use_cpu
    assert config.gpu_ids == ("0" if name == "1gpu" else None), "one process sees one GPU"
    if stage == 3:
        assert config.deepspeed_config["zero3_save_16bit_model"], "else a saved model has no weights"
    if machines > 1:
        assert config.deepspeed_config["deepspeed_multinode_launcher"] == "standard"
