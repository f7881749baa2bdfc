"""The device of a run, what is refused at its start, and that neither changes what a run is known by."""

import hashlib
import json

import pytest

from tampo.config import ConfigError, load_params
from tampo.runs.devices import check_capability, check_training_device, on_gpu, torch_device
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.jobs import Job, local_gpus
from tampo.runs.training import make_trainer, trainer_config

REAL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that this machine has GPUs: of each, the compute capability."""

    def pretend(*capabilities):
        monkeypatch.setattr("torch.cuda.is_available", lambda: bool(capabilities))
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(capabilities))
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda index=0: capabilities[index])
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: capabilities[0] >= (8, 0))

    for name in ("LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    return pretend


def training(scale="one-gpu", **changes):
    return load_params(scale, {"rollout_engine": "transformers"} | changes).training()


@pytest.mark.parametrize(
    ("found", "precision", "message"),
    [
        ((7, 0), "auto", r"compute capability 7\.0; torch .* need compute capability 7\.5 .*V100 .*--device cpu"),
        ((6, 1), "fp16", r"compute capability 6\.1"),
        ((7, 5), "bf16", r"precision bf16 .* has compute capability 7\.5 and would need 8\.0. Use auto or fp16"),
        ((7, 5), "auto", None),
        ((7, 5), "fp16", None),
        ((8, 0), "bf16", None),
        ((12, 0), "auto", None),
    ],
)
def test_a_gpu_that_is_too_old_is_refused_at_the_start(gpus, tmp_path, found, precision, message):
    gpus(found)
    if message is None:
        check_training_device(training(precision=precision))
        return
    with pytest.raises(ConfigError, match=message):
        make_trainer(training(precision=precision), tmp_path)  # before it looks for model and data
    with pytest.raises(ConfigError, match=message):
        check_capability(found, precision)


def test_other_makers_have_no_compute_capability(monkeypatch):
    monkeypatch.setattr("torch.version.hip", "7.0")
    check_capability((0, 0), "bf16")


def test_one_process_with_several_gpus_is_refused_with_the_launch_line(gpus, tmp_path, monkeypatch):
    gpus((8, 0), (8, 0))
    with pytest.raises(
        ConfigError, match="sees 2 GPUs and trains on one. Choose it, by CUDA_VISIBLE_DEVICES=0"
    ) as said:
        make_trainer(training(), tmp_path)
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3600 accelerate launch" in str(said.value)
    assert str(said.value).endswith("--num_processes 2 -m tampo train SCALE --processes 2")
    monkeypatch.setenv("LOCAL_RANK", "1")  # by a launcher, which gives this process the second one
    check_training_device(training())


def test_shipped_models_run_on_the_cpu_unless_asked(gpus, tmp_path, monkeypatch):
    gpus((8, 0), (8, 0))
    mini = training("mini")
    check_training_device(mini)
    args = trainer_config(mini, tmp_path)
    assert (args.use_cpu, args.bf16, args.fp16) == (True, False, False)
    assert (torch_device("auto", "mini"), torch_device("gpu", "mini")) == ("cpu", "cuda")
    assert (torch_device("auto", REAL), torch_device("cpu", REAL)) == ("cuda", "cpu")
    with pytest.raises(ConfigError, match="sees 2 GPUs"):
        check_training_device(training("mini", device="gpu"))
    assert on_gpu("auto", "mini", "vllm-colocate"), "its engine asks for one"
    with pytest.raises(ConfigError, match="device is cpu, and rollout_engine vllm-colocate uses the GPU"):
        check_training_device(training("mini", device="cpu", rollout_engine="vllm-colocate"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="mini would train on the CPU .*DeepSpeed was started on GPUs. Give --device"):
        check_training_device(mini)


def test_a_gpu_that_is_not_there(gpus, tmp_path):
    gpus()
    check_training_device(training())
    assert trainer_config(training(), tmp_path).use_cpu
    with pytest.raises(ConfigError, match="device is gpu, and torch finds none here. Give --device auto"):
        trainer_config(training(device="gpu"), tmp_path)


def job(scale, **changes):
    params = load_params(scale, {"eval_engine": "transformers", "rollout_engine": "transformers"} | changes)
    return Job("", params.evaluation(), params.training(), params.model)


def test_a_worker_has_a_gpu_of_its_own_if_a_job_wants_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert local_gpus([job("mini"), job("one-gpu")]) == 1
    assert local_gpus([job("mini", eval_engine="vllm")]) == 1
    assert local_gpus([job("mini", device="gpu")]) == 1
    assert local_gpus([job("mini"), job("one-gpu", device="cpu"), job("mini", eval_engine="vllm-server")]) == 0
    for none in ("", "-1", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert local_gpus([job("one-gpu")]) == 0


def digest(identity):
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def test_the_device_is_part_of_a_run_only_where_it_is_not_the_usual_one():
    mini = load_params("mini")
    # Of commit b6e5b86, before there was a device.
    assert digest(mini.training(data_seed=0).identity()) == "9febee0709989915"
    assert digest(mini.evaluation().identity()) == "f6558efa9aa998ce"
    cpu, gpu = (load_params("mini", {"device": device}) for device in ("cpu", "gpu"))
    assert training_identity(cpu.training()) == training_identity(mini.training())
    assert training_identity(gpu.training()) == training_identity(mini.training()) | {"device": "gpu"}

    def evaluated(params, trained=None):
        return evaluation_identity(params.evaluation(), params.model, trained and trained.training())

    assert evaluated(cpu) == evaluated(mini)
    assert evaluated(gpu) == evaluated(mini) | {"device": "gpu"}
    assert evaluated(gpu, mini)["device"] == "gpu"
    served = {"eval_engine": "vllm-server"}
    assert evaluated(load_params("mini", served | {"device": "gpu"})) == evaluated(load_params("mini", served))


def test_the_one_gpu_scale_is_the_papers_but_for_size():
    small, paper = load_params("one-gpu"), load_params("paper")
    assert small.processes == 1
    assert (small.suite, small.beta, small.loss_type, small.max_steps) == ("math", paper.beta, "grpo", paper.max_steps)
    assert small.rollout_engine == "vllm-colocate" and small.eval_engine == "vllm"
