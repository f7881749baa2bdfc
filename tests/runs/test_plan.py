"""Plans against the models' sizes and sums by hand."""

import pytest
from transformers import AutoModelForCausalLM, Qwen2Config

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.runs.model_files import checked_model
from tampo.runs.plan import KNOWN, count_parameters, describe, model_config, plan, ways_out
from tampo.runs.plan_gpus import GPUS, Layout, choose_layout, find_gpu
from tampo.runs.plan_memory import Shape, Sizes, checkpoint
from tampo.runs.plan_times import evaluation_problems
from tampo.tasks.mini_model import mini_model_path
from tests.helpers import changed_model


@pytest.mark.parametrize(("name", "parameters"), zip(KNOWN, (1_777_088_000, 3_085_938_688, 494_032_768), strict=True))
def test_known_sizes_are_those_of_the_model(name, parameters):
    """The numbers of weights on the models' pages."""
    assert count_parameters(model_config(name)) == parameters


def test_sizes_are_read_from_a_config():
    model = AutoModelForCausalLM.from_pretrained(mini_model_path())
    assert count_parameters(model_config("mini")) == model.num_parameters()
    with pytest.raises(ConfigError, match="Cannot read the sizes of model 'no/such'"):
        model_config("no/such")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", -3),
        ("hidden_size", "abc"),
        ("num_attention_heads", 0),
        ("vocab_size", 10**30),
        ("vocab_size", None),
        ("num_hidden_layers", 10**9),
        ("layer_types", 3),
    ],
)
def test_sizes_that_no_model_has(tmp_path, capsys, name, value):
    folder = changed_model(mini_model_path(), tmp_path / "model", config={name: value})
    assert main(["plan", "one-gpu", "--model", str(folder)]) == 2
    assert "Cannot read the sizes of model" in (said := capsys.readouterr().err)
    assert name in said
    if name != "layer_types" and value != 10**9:
        with pytest.raises(ConfigError, match=f"cannot be loaded: {name} in config.json must be a whole number above"):
            checked_model(str(folder), "mine")


SMALL = Qwen2Config(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=128,
    vocab_size=1000,
    tie_word_embeddings=True,
)
WORK = load_params(
    "paper",
    {
        "max_steps": 10,
        "prompts_per_step": 8,
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "max_prompt_length": 100,
        "max_completion_length": 400,
        "beta": 0.1,
    },
)


H100 = GPUS["h100"]
PAPER = load_params("paper")
ONE, EIGHT = (choose_layout(f"params/accelerate/{name}.yaml", None, None) for name in ("1gpu", "8gpu-zero2"))


def cost(params=WORK, gpus=2, stage=0, gpu=H100):
    return plan(SMALL, params, choose_layout(None, gpus, stage), gpu)


def test_memory_by_hand():
    memory, weights = cost(stage=2).memory, count_parameters(SMALL)
    assert memory.always["weights"] == 2 * weights
    assert memory.always["gradients"] == 2 * weights / 2
    assert memory.always["optimizer"] == 12 * weights / 2
    assert memory.always["ZeRO buckets"] == 2 * 5e8
    assert memory.always["vLLM, reserved"] == 0.4 * H100.memory * 1e9
    assert memory.phases["forward"]["activations"] == 8 * 500 * 2 * 64 * 2
    assert cost().tokens == 10 * 64 * 500
    plain = cost(gpus=1).memory.always  # float32 weights, gradients, moments
    assert [plain[part] for part in ("weights", "gradients", "optimizer")] == [4 * weights, 4 * weights, 8 * weights]
    assert cost(gpus=2).memory.always["DDP buckets"] == 4 * weights
    sampling = cost(WORK.model_copy(update={"rollout_engine": "transformers"})).memory
    assert "vLLM, reserved" not in sampling.always
    assert sampling.phases["rollouts"]["KV cache"] == 32 * 500 * (2 * 2 * 2 * 16 * 2)


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        (1, {"optimizer"}),
        (2, {"optimizer", "gradients"}),
        (3, {"optimizer", "gradients", "weights", "reference model"}),
    ],
)
def test_zero_shards_what_it_says(stage, parts):
    weights = {"optimizer": 12, "gradients": 2, "weights": 2, "reference model": 2}
    memory = cost(stage=stage).memory.always
    for part, size in weights.items():
        assert memory[part] == size * count_parameters(SMALL) / (2 if part in parts else 1)


def test_the_papers_run_on_one_gpu_runs_out_of_memory_and_on_eight_does_not():
    config = model_config(PAPER.model)
    one, eight = plan(config, PAPER, ONE, H100), plan(config, PAPER, EIGHT, H100)
    assert one.memory.peak / 1e9 == pytest.approx(83, abs=1.5)
    assert not one.fits(H100)
    assert eight.fits(H100)
    assert "GPU: does NOT fit" in describe(PAPER, ONE, H100)
    assert "GPU: fits" in describe(PAPER, EIGHT, H100)
    assert eight.memory.host["float32 copies at start"] == pytest.approx(114e9, rel=0.01)
    shape = Shape.of(config, count_parameters(config))
    assert checkpoint(shape, Sizes.of("auto", True), EIGHT) == pytest.approx(28e9, rel=0.02)


def test_each_way_out_is_one():
    """Applied, the parameter that is named makes the run fit."""
    config = model_config(PAPER.model)
    shape = Shape.of(config, count_parameters(config))
    ways = ways_out(shape, PAPER, ONE, H100)
    options = [way.removeprefix("--").replace("-", "_").split() for way in ways if way.startswith("--")]
    assert {name for name, _ in options} == {"per_device_train_batch_size", "vllm_gpu_memory_utilization"}
    for name, value in options:
        assert plan(shape, load_params("paper", {name: value}), ONE, H100).fits(H100)
    assert "DeepSpeed ZeRO-2 in the accelerate file" in ways
    assert plan(config, PAPER, Layout(1, 1, True, 2), H100).fits(H100)
    small = ways_out(shape, PAPER, ONE, GPUS["rtx4090"])
    assert len(small) >= 1
    assert not any(way.startswith("--") for way in small)


def test_an_engine_without_room_is_named():
    params = load_params("paper", {"vllm_gpu_memory_utilization": 0.05})
    assert "vllm_gpu_memory_utilization 0.05 has no room" in describe(params, EIGHT, H100)
    assert "    --vllm-gpu-memory-utilization 0." in describe(params, EIGHT, H100)


def test_host_ram_and_disk_are_compared():
    text = describe(PAPER, EIGHT, H100, host_ram=128, disk=500)
    assert "Host RAM: does NOT fit, 162 GB of 128 GB. Way out: " in text
    assert "Disk: fits, " in text


@pytest.mark.parametrize("name", ["paper", "paper-ecqa", "mini"])
def test_text_is_readable_and_marks_guesses(name):
    gpus = 8 if name != "mini" else 1
    text = describe(load_params(name), Layout(gpus), H100)
    assert max(map(len, text.splitlines())) <= 100
    marked = {line.split()[0]: line.endswith(" ~") for line in text.splitlines() if line.startswith("    ")}
    assert marked["fragmentation"]
    assert not marked["activations"]
    assert "Time, all guesses (~)" in text


def test_the_papers_run_takes_the_papers_hours():
    text = describe(PAPER, EIGHT, H100)
    assert "9.9 h" in text
    assert "1.78 billion" in text
    assert "333 million tokens" in text
    assert "compute capability 7.5, for bf16 8.0" in text


def test_times_are_ranges_that_follow_work_and_gpu():
    both = {name: cost(gpu=GPUS[name]) for name in ("h100", "a100")}
    for result in both.values():
        for low, high in [*result.step.values(), result.evaluation[1]]:
            assert 0 < low < high
    for part, (low, high) in both["h100"].step.items():
        assert low < both["a100"].step[part][0], part
        assert high < both["a100"].step[part][1], part
    one, two = (cost(gpus=gpus).step["forward, backward"] for gpus in (1, 2))
    assert one == pytest.approx([2 * side for side in two])
    assert cost(gpus=1).hours == pytest.approx(2 * cost(gpus=2).hours)


@pytest.mark.parametrize(
    ("scale", "changes", "expected"),
    [
        ("paper", {}, 30 + 500 + 40 + 272 + 674),
        ("paper", {"eval_problems": 10}, 50),
        ("paper-ecqa", {}, 2194),
        ("mini", {}, 1000),
    ],
)
def test_problems_of_an_evaluation(scale, changes, expected):
    assert evaluation_problems(load_params(scale, changes)) == expected


def test_uneven_rollouts_are_refused():
    with pytest.raises(ConfigError, match="256 rollouts per step cannot be divided over 3 GPUs"):
        describe(PAPER, Layout(3), H100)


def test_gpus_are_those_that_the_libraries_have_code_for():
    with pytest.raises(ConfigError, match=r"V100 has compute capability 7.0; .* at least 7.5 \(8.0 for bf16\)"):
        find_gpu("V100")
    with pytest.raises(ConfigError, match="Unknown --gpu 'b3'; known are h100"):
        find_gpu("b3")
    assert find_gpu("L40S", "bf16").memory == pytest.approx(47.8, abs=0.2)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("1gpu", Layout(1, 1, False, 0)),
        ("8gpu-zero2", Layout(8, 1, True, 2)),
        ("8gpu-zero3", Layout(8, 1, True, 3)),
        ("2nodes-zero3", Layout(16, 2, True, 3)),
    ],
)
def test_layout_is_read_from_accelerates_file(name, layout):
    assert choose_layout(f"params/accelerate/{name}.yaml", None, None) == layout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: FSDP\nnum_processes: 8", "knows distributed_type NO, MULTI_GPU and DEEPSPEED"),
        ("distributed_type: DEEPSPEED\nnum_processes: many", "whole num_processes"),
        ("num_processes: 8", "Cannot read --accelerate"),
        ("[", "Cannot read --accelerate"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        choose_layout(str(tmp_path / "file.yaml"), None, None)


def test_layout_follows_offloading_and_a_deepspeed_file(tmp_path):
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}')
    (tmp_path / "file.yaml").write_text(
        "distributed_type: DEEPSPEED\nnum_processes: 8\ndeepspeed_config: {deepspeed_config_file: ds.json}"
    )
    layout = choose_layout(str(tmp_path / "file.yaml"), None, None)
    assert layout == Layout(8, 1, True, 3, offload_optimizer=True)
    memory = plan(model_config(PAPER.model), PAPER, layout, H100).memory
    assert memory.always["optimizer"] == 0
    assert memory.host["offloaded optimizer"] == 12 * 1_777_088_000
    with pytest.raises(ConfigError, match="--zero-stage 2 contradicts"):
        choose_layout(str(tmp_path / "file.yaml"), None, 2)


def test_command(capsys):
    assert main(["plan", "params/paper-ecqa.yaml", "--gpus", "4", "--max-steps", "100"]) == 0
    out = capsys.readouterr().out
    assert "3.09 billion" in out
    assert "100 steps of 256 rollouts" in out
    assert "4 x H100 80GB" in out
    assert main(["plan", "paper", "--accelerate", "params/accelerate/1gpu.yaml", "--gpu", "a100"]) == 1, "does not fit"
    assert "1 x A100 80GB" in capsys.readouterr().out
    assert main(["plan", "paper", "--gpu", "v100"]) == 2
    assert "compute capability 7.0" in capsys.readouterr().err
    assert main(["plan", "paper", "--max-stpes", "100"]) == 2
    assert "Did you mean --max-steps?" in capsys.readouterr().err
