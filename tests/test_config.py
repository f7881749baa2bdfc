"""Parameters: files, overrides, refusals, and what identifies a run."""

import hashlib
import json
import re

import pytest
import yaml

from tampo.cli import main
from tampo.config import RENAMED, ConfigError, Params, TrainingConfig, load_params, refuse_idle
from tampo.controllers.registry import CONTROLLERS
from tampo.paper.experiments import EXPERIMENTS, TABLE1
from tampo.paper.notebook import notebook_params
from tampo.project import project_root

VARIANTS = ("choice", "rare", "ecqa", "facts", "facts-long", "flat", "sharp", "drift")


@pytest.mark.parametrize("path", sorted((project_root() / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_load(path):
    params = load_params(path.stem)
    # Variants of a scale write to its folder.
    assert path.stem in (params.scale, *(f"{params.scale}-{variant}" for variant in VARIANTS))
    assert load_params(path) == params


def test_defaults_are_the_papers():
    """Section 4.1: candidates 0.6 to 1.5 by 0.1, alpha 0.05, p 0.7, 10 % warm-up at 1.0, 32 prompts x 8."""
    params = load_params("mini")
    assert params.temperature_candidates == (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
    assert (params.alpha, params.p, params.meta_warmup_ratio, params.meta_warmup_temperature) == (0.05, 0.7, 0.1, 1.0)
    assert (params.num_generations, params.eval_samples, params.eval_temperature) == (8, 8, 1.0)


def test_overrides_win_and_none_leaves_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("scale: mine\nalpha: 0.2\nseeds: [1, 2]\n")
    params = load_params(path, {"alpha": 0.1, "p": None})
    assert (params.alpha, params.p, params.seeds) == (0.1, 0.7, (1, 2))


SEEDS = [
    ("0,1,2", (0, 1, 2)), (3, (3,)), ([4, 5], (4, 5)), ("7", (7,)), ("0-4", (0, 1, 2, 3, 4)), ("[0, 2]", (0, 2)),
    ("(1,)", (1,)), ("0-2,7,1", (0, 1, 2, 7)), (["0-1", 5], (0, 1, 5)), ("5,5,5", (5,)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), SEEDS)
@pytest.mark.parametrize("route", ["file", "override", "notebook"])
def test_lists_mean_the_same_everywhere(given, expected, route, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"scale": "mine", "seeds": given if route == "file" else [9]}))
    if route == "notebook":
        assert notebook_params({"params": str(path), "seeds": given}, "overhead").seeds == expected
    else:
        assert load_params(path, {} if route == "file" else {"seeds": given}).seeds == expected


@pytest.mark.parametrize("given", ["None", "", " ", None])
def test_an_unfilled_template_means_as_in_params(given):
    assert load_params("mini", {"alpha": given, "seeds": given, "model": given}) == load_params("mini")
    assert notebook_params({"params": given, "alpha": given}, "overhead").decisive() == load_params("mini").decisive()


def test_null_is_a_value():
    assert load_params("mini", {"eval_problems": "null"}).eval_problems is None
    assert notebook_params({"params": "mini", "eval_problems": "null"}, "overhead").eval_problems is None
    with pytest.raises(ConfigError, match="steps: .*'null'"):
        load_params("mini", {"max_steps": "null"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"alhpa": 0.05}, "Unknown parameter 'alhpa' in the overrides. Did you mean 'alpha'"),
        ({"zzz": 1}, "Known are: .*learning_rate"),
        ({"alpha": 1.5}, r"alpha: .*less than or equal to 1, got 1.5"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": "much"}, "alpha: .*valid number.*'much'"),
        ({"p": -0.1}, "p: .*greater than or equal to 0"),
        ({"max_steps": 0}, "steps"),
        ({"max_steps": 2.5}, "steps"),
        ({"temperature_candidates": []}, "temperature_candidates must be a list of at least one"),
        ({"temperature_candidates": [1.0, 1.0]}, "temperature_candidates must be distinct"),
        ({"temperature_candidates": [0.0]}, "temperature_candidates must be positive"),
        ({"seeds": []}, "seeds"),
        ({"seeds": "-2"}, r"seeds.0: .*greater than or equal to 0, got '-2'"),
        ({"seeds": [0, -1]}, r"seeds.1: .*greater than or equal to 0, got -1"),
        ({"seeds": "4-0"}, "seeds: the range 4-0 must go up"),
        ({"seeds": "0-1000"}, "seeds: the range 0-1000 has more than 1000 seeds"),
        ({"seeds": "0-600,1000-1600"}, "seeds: more than 1000 seeds"),
        ({"seed": "0-2"}, "seed: must be one number, not a range, got '0-2'"),
        ({"max_steps": "00-2"}, "steps: must be one number, not a range"),
        ({"seed": -1}, "seed: .*greater than or equal to 0, got -1"),
        ({"per_device_train_batch_size": 7}, "per_device_train_batch_size .7. must divide"),
        ({"temperature_controller": "tempo"}, "controller: must be one of tampo, fixed, .*'tempo'"),
        ({"scale": "../../etc"}, "scale"),
        ({"likelihood": "max"}, "likelihood"),
        ({"loss_temperature": "two"}, "loss_temperature: .*'two'"),
        ({"loss_importance_cap": 0.5}, "loss_importance_cap: .*greater than or equal to 1"),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_params("mini", overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "one flat mapping"),
        ("alpha: [\n", "Cannot read"),
        ("alpha: 0.1\np: 0.5\nalpha: 0.2\n", "bad.yaml.*: alpha is written twice"),
        ("temperature_controller_kwargs: {gain: 1, gain: 2}\n", "gain is written twice"),
        ("aplha: 0.1\n", "Unknown parameter 'aplha' in .*bad.yaml. Did you mean 'alpha'"),
        ("!!python/object/apply:os.system ['true']\n", "Cannot read"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_params(path)


def test_a_file_says_what_differs_from_its_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: mini\nscale: mine\nalpha: 0.2\n")
    (tmp_path / "more.yaml").write_text("base: mine.yaml\nseeds: 0-2\nalpha: 0.3\n")
    params = load_params(tmp_path / "more.yaml", {"p": 0.5})
    assert params == load_params("mini", {"scale": "mine", "seeds": [0, 1, 2], "alpha": 0.3, "p": 0.5})


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("maxi", "The base of .*mine.yaml: No scale 'maxi'"),
        ("mine.yaml", "mine.yaml is its own base, by way of mine.yaml"),
        ("other.yaml", "mine.yaml is its own base, by way of mine.yaml, other.yaml"),
        ("[1]", "The base of .*mine.yaml: No scale"),
    ],
)
def test_bad_bases_are_named(base, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"base: {base}\n")
    (tmp_path / "other.yaml").write_text("base: mine.yaml\n")
    with pytest.raises(ConfigError, match=message):
        load_params(tmp_path / "mine.yaml")


@pytest.mark.parametrize("source", ["maxi", "../pyproject", "nowhere.yaml"])
def test_unknown_scales_are_refused(source):
    with pytest.raises(ConfigError, match=r"No (scale|parameter file)"):
        load_params(source)


def test_identity_holds_what_the_controller_reads_and_no_more():
    base = load_params("mini")
    assert (
        base.training(temperature_controller="fixed", alpha=0.3).identity()
        == base.training(temperature_controller="fixed").identity()
    )
    assert base.training(alpha=0.3).identity() != base.training().identity()
    assert (
        base.training(temperature_controller="fixed", temperature=0.9).identity()
        != base.training(temperature_controller="fixed").identity()
    )
    assert base.training(temperature=0.9).identity() == base.training().identity()
    assert base.training(seed=1).identity() != base.training().identity()
    assert set(TrainingConfig.model_fields) - base.training().identity().keys() == {
        *("alpha", "p", "likelihood", "temperature"),  # among temperature_controller_kwargs, where they are read
        *(
            "model",
            "model_revision",
            "data_dir",
            "data_revisions",
            "grader",
        ),  # known by their content: tampo.runs.identity
        *("vllm_server_base_url", "report_to", "vllm_gpu_memory_utilization"),
        *("grader", "device"),  # tampo.runs.identity adds them where they decide something
        "use_bias_correction_kl",  # without a KL term
        *("base_logit_scale", "use_adaptive_entropy", "entropy_target"),  # as before they were parameters
        *("training_stages", "keep_steps"),  # as before
        *("loss_temperature", "loss_importance_cap"),  # where the loss is at the sampling temperature, as before
        # without vLLM
        *(f"vllm_importance_sampling_{name}" for name in ("correction", "mode", "clip_max", "clip_min")),
    }
    expected = {"alpha": 0.05, "top_p": 0.7, "likelihood": "sum"}
    assert base.training().identity()["temperature_controller_kwargs"] == expected


# Of commit b6e5b86, before these parameters: records of that time, with its questions, are found again.
IDENTITIES = {
    "smoke": ("dcbcea0715d9e37a", "e83f3a2d58358571"),
    "mini": ("9febee0709989915", "f6558efa9aa998ce"),
    "mini-rare": ("9febee0709989915", "f6558efa9aa998ce"),
    "mini-choice": ("736c4243b075d2dd", "460cb12746450945"),
}


@pytest.mark.parametrize("scale", IDENTITIES)
def test_identities_of_earlier_versions_are_the_same(scale):
    params = load_params(scale, {"data_seed": 0})
    texts = [json.dumps(part.identity(), sort_keys=True) for part in (params.training(), params.evaluation())]
    assert tuple(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts) == IDENTITIES[scale]


def test_identity_holds_the_objective_where_it_is_read_and_not_as_it_was_before():
    mini, new = load_params("mini"), {"use_bias_correction_kl", "eval_dtype"}
    weights = {name for name in TrainingConfig.model_fields if name.startswith("vllm_importance_sampling_")}
    assert mini.training(beta=0.1).identity()["use_bias_correction_kl"] is False
    assert not new & mini.training(beta=0.1, use_bias_correction_kl=True).identity().keys()
    assert mini.training(use_bias_correction_kl=True).identity() == mini.training().identity()
    vllm = mini.training(rollout_engine="vllm-colocate")
    assert weights & vllm.identity().keys() == {"vllm_importance_sampling_correction"}
    on = {"rollout_engine": "vllm-colocate", "vllm_importance_sampling_correction": True}
    assert weights & mini.training(**on).identity().keys() == {"vllm_importance_sampling_mode"}
    before = on | {"vllm_importance_sampling_mode": "sequence_mask"}
    assert not weights & mini.training(**before).identity().keys()
    assert mini.evaluation(eval_dtype="fp32").identity() != mini.evaluation().identity()


def test_identity_holds_the_temperature_of_the_loss_where_it_is_one():
    mini, names = load_params("mini"), {"loss_temperature", "loss_importance_cap"}
    assert mini.training(loss_importance_cap=3.0).identity() == mini.training().identity()
    one = mini.training(loss_temperature="one").identity()
    assert {name: one[name] for name in names} == {"loss_temperature": "one", "loss_importance_cap": 2.0}
    assert mini.training(loss_temperature="one", loss_importance_cap=3.0).identity() != one


IDLE = {  # other values than the defaults, and what has each read
    "alpha": (0.3, {}),
    "p": (0.3, {}),
    "likelihood": ("mean", {}),
    "temperature": (0.8, {"temperature_controller": "fixed"}),
    "meta_warmup_ratio": (0.5, {}),
    "meta_warmup_temperature": (1.4, {}),
    "use_bias_correction_kl": (True, {"beta": 0.1}),
    "entropy_target": (0.4, {"use_adaptive_entropy": True}),
    "loss_importance_cap": (3.0, {"loss_temperature": "one"}),
    "vllm_importance_sampling_correction": (True, {"rollout_engine": "vllm-server"}),
    "vllm_importance_sampling_mode": (
        "token_mask",
        {"rollout_engine": "vllm-server", "vllm_importance_sampling_correction": True},
    ),
    "vllm_importance_sampling_clip_max": (
        9.0,
        {"rollout_engine": "vllm-server", "vllm_importance_sampling_correction": True},
    ),
    "vllm_importance_sampling_clip_min": (
        0.1,
        {"rollout_engine": "vllm-server", "vllm_importance_sampling_correction": True},
    ),
}


@pytest.mark.parametrize("name", IDLE)
def test_an_idle_parameter_decides_nothing_and_is_refused_where_it_is_given(name):
    value, readers = IDLE[name]
    mini = load_params("mini")
    idle = {} if readers else {"temperature_controller": "linear"}
    unread, read = mini.training(**idle), mini.training(**readers)
    assert name in unread.idle() and name not in read.idle()
    assert mini.training(**idle, **{name: value}).identity() == unread.identity()
    assert mini.training(**readers, **{name: value}).identity() != read.identity()
    with pytest.raises(ConfigError, match=f"^{name} would change nothing here: it is read with .* only"):
        refuse_idle({name: str(value)}, [unread, unread])
    refuse_idle({name: str(value)}, [unread, read])
    refuse_idle({name: "None", "seed": 3}, [unread])


def test_every_idle_parameter_is_among_these():
    kinds = {"temperature_controller": list(CONTROLLERS), "rollout_engine": ["transformers", "vllm-server"]}
    trainings = [load_params("mini").training(**{name: v}) for name, values in kinds.items() for v in values]
    assert {name for training in trainings for name in training.idle()} == IDLE.keys()


def test_the_command_line_refuses_what_it_would_not_read(capsys):
    for words, reader in (
        (["train", "smoke", "--temperature", "1.2"], "temperature_controller fixed"),
        (["evaluate", "smoke", "--temperature-controller", "learning-signal", "--alpha", "0.2"], "controller tampo"),
        (["train", "smoke", "--entropy-target", "0.3"], "use_adaptive_entropy true"),
        (["sweep", "smoke", "--controllers", "linear,random", "--p", "0.5"], "temperature_controller tampo"),
    ):
        assert main(words) == 2
        said = capsys.readouterr()
        assert not said.out and "would change nothing here: it is read with" in said.err and reader in said.err


def test_limits_of_importance_weights_are_in_order():
    limits = {"vllm_importance_sampling_clip_min": 2, "vllm_importance_sampling_clip_max": 1.5}
    with pytest.raises(ConfigError, match=r"clip_min \(2\) must be below .*clip_max \(1.5\)"):
        load_params("mini", limits)


@pytest.mark.parametrize("name", RENAMED)
def test_old_names_are_refused_with_the_new_one(name):
    assert re.split("[:,]", RENAMED[name])[0] in Params.model_fields
    with pytest.raises(ConfigError, match=f"{name!r} in the overrides is now {re.escape(RENAMED[name])}"):
        load_params("mini", {name: 1})


def test_every_parameter_is_described_and_flat():
    for name, field in Params.model_fields.items():
        assert field.description, name
    dumped = yaml.safe_load(yaml.safe_dump(load_params("mini").model_dump(mode="json")))
    assert [name for name, value in dumped.items() if isinstance(value, dict)] == [
        "data_revisions",
        "temperature_controller_kwargs",
    ]
    assert Params(**dumped) == load_params("mini")


def test_notebook_names_are_parameters_or_refused():
    assert (
        notebook_params(
            {"params": "smoke", "alpha": 0.2, "p": None, "_private": 1, "In": [], "TABLE1": TABLE1, "np": pytest},
            "overhead",
        ).alpha
        == 0.2
    )
    with pytest.raises(ConfigError, match="Did you mean 'alpha'"):
        notebook_params({"params": "smoke", "alhpa": 0.2}, "overhead")


def test_the_scale_of_a_notebook_without_parameters(monkeypatch):
    monkeypatch.setenv("TAMPO_SCALE", "smoke")
    assert notebook_params({"params": None}, "overhead").scale == "smoke"
    assert notebook_params({"params": "mini"}, "overhead").scale == "mini", "what is given comes first"
    assert notebook_params({"params": None}, "table5").model == "mini-choice"
    monkeypatch.setenv("TAMPO_SCALE", "maxi")
    with pytest.raises(ConfigError, match="TAMPO_SCALE is 'maxi'.* smoke, mini, paper"):
        notebook_params({"params": None}, "table5")
    with pytest.raises(ConfigError, match="No scale 'maxi'"):
        notebook_params({"params": None}, "overhead")


def test_names_that_another_runner_injects_can_be_let_through(monkeypatch):
    injected = {"params": "smoke", "upstream": None, "product": {"nb": "out.ipynb"}, "run_id": "7"}
    with pytest.raises(ConfigError, match="Unknown parameter 'upstream'"):
        notebook_params(dict(injected), "overhead")
    monkeypatch.setenv("TAMPO_IGNORE_PARAMETERS", "upstream, product,run_id")
    assert notebook_params(dict(injected), "overhead").scale == "smoke"
    with pytest.raises(ConfigError, match="Unknown parameter 'alhpa'"):
        notebook_params(injected | {"alhpa": 1}, "overhead")


def test_a_cell_run_again_knows_the_readers_own_variables():
    namespace = {"params": "smoke", "alpha": 0.2}
    assert notebook_params(namespace, "overhead").alpha == 0.2
    namespace |= {"my_note": "anything", "alpha": 0.3}
    assert notebook_params(namespace, "overhead").alpha == 0.3
    assert notebook_params(namespace, "overhead").scale == "smoke"


@pytest.mark.parametrize("name", ["temperature_controller", "temperature", "seed", "temperature_controller_kwargs"])
def test_what_the_rows_set_cannot_be_given(name):
    value = {"temperature_controller": "linear"}.get(name, 1)
    with pytest.raises(ConfigError, match=f"{name} cannot be given here"):
        notebook_params({"params": "smoke", name: value}, "table1")
    assert notebook_params({"params": "smoke", "alpha": 0.1, name: None}, "table1").alpha == 0.1


@pytest.mark.parametrize("notebook", [name for name, e in EXPERIMENTS.items() if any(m.changes for m in e.methods)])
def test_no_controller_takes_the_place_of_those_of_the_rows(notebook):
    """The rows of an ablation, too, would have TAMPO's titles and train with another controller."""
    given = {"params": EXPERIMENTS[notebook].source("smoke"), "temperature_controller": "linear"}
    with pytest.raises(ConfigError, match="temperature_controller cannot be given here"):
        notebook_params(given, notebook)
