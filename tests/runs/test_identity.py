"""The names of records: another for all that decides the content, the same for all that does not."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tampo.config import ConfigError, load_params
from tampo.runs.identity import evaluation_identity, model_files, model_identity, training_identity
from tampo.runs.store import RunStore
from tampo.runs.training_data import model_folder
from tampo.tasks.hub import hub_commit
from tampo.tasks.mini_model import mini_model_path
from tampo.tasks.published import DATA_DIR_VARIABLE, DataError

BENCHMARK_FILES = os.environ.get(DATA_DIR_VARIABLE)
COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40

# A model's folder with everything that may lie in one; the contents need not load.
FILES = {
    "config.json": '{"model_type": "qwen2", "rope_theta": 10000.0}',
    "generation_config.json": '{"eos_token_id": 1}',
    "model.safetensors": "weights",
    "model-00001-of-00002.safetensors": "one",
    "model-00002-of-00002.safetensors": "two",
    "model.safetensors.index.json": '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "pytorch_model.bin": "weights",
    "adapter_model.safetensors": "adapter",
    "adapter_config.json": "replaced",
    "tokenizer.json": '{"a": 1}',
    "tokenizer.model": "pieces",
    "tokenizer_config.json": '{"eos_token": "a"}',
    "special_tokens_map.json": '{"pad_token": "b"}',
    "added_tokens.json": '{"c": 3}',
    "vocab.txt": "a b",
    "merges.txt": "ab",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
    "nested/model.safetensors": "weights",
    "model-q4.gguf": "weights",
    "modeling_own.py": "class Model: ...",
}
NO_FILES = {
    "README.md": "A model",
    "LICENSE": "MIT",
    "training_args.bin": "arguments",
    "trainer_state.json": "{}",
    "optimizer.pt": "moments",
    "scheduler.pt": "rates",
    "rng_state.pth": "numbers",
    "checkpoint-10/model.safetensors": "earlier weights",
    ".cache/huggingface/x.lock": "",
    ".gitattributes": "*.bin",
    "runs/events.out.tfevents.1": "log",
    "onnx/model.onnx": "weights",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def adapter(folder, base):
    config = {"base_model_name_or_path": str(base), "r": 1}
    return write(folder, {"adapter_config.json": json.dumps(config), "adapter_model.safetensors": "adapter"})


@pytest.fixture
def model(tmp_path):
    base = write(tmp_path / "base", {"config.json": "{}"})
    return adapter(write(tmp_path / "model", FILES), base)


def names(model, **changes):
    """The names of three records: a training run, the evaluation of its model, and that of the model itself."""
    params, store = load_params("smoke", {"model": str(model), **changes}), RunStore(Path("runs"))
    training, evaluation = params.training(), params.evaluation()
    return {
        "training": store.folder("training", training_identity(training)).name,
        "trained": store.folder("evaluation", evaluation_identity(evaluation, params.model, training)).name,
        "base": store.folder("evaluation", evaluation_identity(evaluation, params.model, None)).name,
    }


ALL = {"training", "trained", "base"}


def changed(before, after):
    return {kind for kind in before if before[kind] != after[kind]}


@pytest.mark.parametrize("how", ["edited", "removed", "renamed"])
@pytest.mark.parametrize("file", FILES)
def test_every_file_of_a_model_counts(model, file, how):
    before, path = names(model), model / file
    if how == "edited":
        path.write_text(path.read_text().replace("1", "2") + " ")
    elif how == "removed":
        path.unlink()
    else:
        path.rename(path.with_name(f"old-{path.name}"))
    assert changed(before, names(model)) == ALL


@pytest.mark.parametrize("file", NO_FILES)
def test_what_is_no_part_of_a_model_does_not_count(model, file):
    before = names(model)
    write(model, {file: NO_FILES[file]})
    assert names(model) == before
    write(model, {file: "other"})
    assert names(model) == before


@pytest.mark.parametrize("kind", ["sharded", "bin", "adapter", "eos_token_id", "rope_theta"])
def test_models_whose_change_once_served_the_old_record(tmp_path, kind):
    """Folders with nothing but what their kind of model has."""
    config = {"config.json": FILES["config.json"]}
    files, file = {
        "sharded": (config | {n: t for n, t in FILES.items() if "0000" in n}, "model-00002-of-00002.safetensors"),
        "bin": (config | {"pytorch_model.bin": "1"}, "pytorch_model.bin"),
        "adapter": ({n: t for n, t in FILES.items() if n.startswith("adapter")}, "adapter_model.safetensors"),
        "eos_token_id": (config | {"generation_config.json": '{"eos_token_id": 1}'}, "generation_config.json"),
        "rope_theta": (config | {"model.safetensors": "weights"}, "config.json"),
    }[kind]
    if kind == "adapter":
        write(tmp_path / "base", config)
        files["adapter_config.json"] = json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    folder = write(tmp_path / "model", files)
    before = names(folder)
    (folder / file).write_text((folder / file).read_text() + " ")
    assert changed(before, names(folder)) == ALL


def test_every_file_that_transformers_writes_counts(tiny_model_path, tmp_path):
    """Of sharded weights with several chat templates. Its README and the like would be none."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_model_path).save_pretrained(tmp_path, max_shard_size="20KB")
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name, _ in model_files(tmp_path)} == written
    assert len([name for name in written if name.endswith(".safetensors")]) > 1
    assert "additional_chat_templates/tools.jinja" in written


def test_the_base_of_an_adapter_counts(tmp_path, monkeypatch):
    base, folder = write(tmp_path / "base", FILES), adapter(tmp_path / "adapter", tmp_path / "base")
    before = names(folder)
    write(base, {"README.md": "other"})
    assert names(folder) == before
    write(base, {"model.safetensors": "other"})
    after = names(folder)
    assert changed(before, after) == ALL
    # With a configuration of its own, the folder is a whole model, and transformers loads no other.
    write(folder, {"config.json": "{}"})
    before = names(folder)
    write(base, {"model.safetensors": "third"})
    assert names(folder) == before


def test_the_base_of_an_adapter_may_be_on_the_hub(tmp_path, hub):
    folder = adapter(tmp_path / "adapter", "org/base")
    hub({"org/base": COMMIT})
    before = names(folder)
    hub({"org/base": OTHER})
    assert changed(before, names(folder)) == ALL
    hub({})
    with pytest.raises(ConfigError, match=r"adapter_config.json: the base model 'org/base' is no folder.*give base"):
        names(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "names no base_model_name_or_path"),
        ("{", "names no base_model_name_or_path .*restore the file"),
        ("[]", "names no base_model_name_or_path"),
        ('{"base_model_name_or_path": null}', "base_model_name_or_path None: give it a folder or a Hugging Face id"),
    ],
)
def test_a_damaged_adapter_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=rf"adapter_config\.json.*{message}"):
        names(write(tmp_path, {"adapter_config.json": text}))


def test_the_path_of_a_model_does_not_count(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = names(model)
    for way in (f"{model}/", "model", "./model", "model/", "../" + tmp_path.name + "/model", "~/model", "~/model/"):
        assert names(way) == before, way
        assert Path(model_folder(way)).resolve() == model, "what is hashed is what is loaded"
        assert not model_folder(way).startswith("~"), "transformers does not know what that is"
    (tmp_path / "link").symlink_to(model)
    assert names("link") == before
    shutil.move(model, tmp_path / "elsewhere")
    assert names(tmp_path / "elsewhere") == before


def test_a_file_reached_by_a_link_counts(model, tmp_path):
    """As in the hub's cache."""
    before, blob = names(model), tmp_path / "blob"
    (model / "model.safetensors").rename(blob)
    (model / "model.safetensors").symlink_to(blob)
    assert names(model) == before
    blob.write_text("other")
    assert changed(before, names(model)) == ALL
    shutil.move(model / "nested", tmp_path / "outside")
    (model / "nested").symlink_to(tmp_path / "outside")
    before = names(model)
    write(tmp_path / "outside", {"model.safetensors": "other"})
    assert changed(before, names(model)) == ALL


def test_links_in_a_circle_end(model):
    before = names(model)
    (model / "self").symlink_to(model)
    (model / "nested" / "up").symlink_to("..")
    assert names(model) == before


def test_one_file_may_be_a_model(tmp_path):
    file = tmp_path / "model-q4.gguf"
    file.write_text("weights")
    before = names(file)
    file = file.rename(tmp_path / "renamed.gguf")
    assert names(file) == before
    file.write_text("other")
    assert changed(before, names(file)) == ALL


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"vllm_gpu_memory_utilization": 0.9}, set()),
        ({"vllm_server_base_url": "http://127.0.0.1:9"}, set()),
        ({"report_to": ["tensorboard"]}, set()),
        ({"data_dir": "/somewhere"}, set()),
        ({"model_revision": COMMIT}, set()),
        ({"workers": 2, "scale": "other"}, set()),
        ({"processes": 2}, {"training", "trained"}),
        ({"seed": 1}, {"training", "trained"}),
        ({"max_steps": 2}, {"training", "trained"}),
        ({"rollout_engine": "vllm-colocate"}, {"training", "trained"}),
        ({"eval_engine": "vllm"}, {"trained", "base"}),
        ({"benchmarks": ["gcd"]}, {"trained", "base"}),
        ({"eval_seed": 1}, {"trained", "base"}),
        ({"suite": "mini-choice"}, ALL),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_parameters(model, change, kinds):
    """A local model and the mini tasks: no revision and no folder of data means anything to them."""
    assert changed(names(model), names(model, **change)) == kinds


def test_the_number_of_processes_does_not_count_where_one_server_draws(model):
    server = {"rollout_engine": "vllm-server"}
    assert names(model, **server) == names(model, processes=2, **server)


# --- local data

DATA = {
    "aime24.jsonl": "a",
    "math500.jsonl": "b",
    "amc23.jsonl": "c",
    "minerva_math.jsonl": "d",
    "olympiadbench.jsonl": "e",
    "train_math7k.jsonl": "f",
    "train_aime_1983_2023.jsonl": "g",
    "train_amc.jsonl": "h",
    "train_omni_math.jsonl": "i",
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    return write(tmp_path / "data", DATA)


@pytest.mark.parametrize("file", DATA)
def test_local_data_count(model, data, file):
    options = {"suite": "math", "data_dir": str(data)}
    before, dropped = names(model, **options), names(model, drop_overlaps=True, **options)
    write(data, {file: "other"})
    training = file.startswith("train")
    assert changed(before, names(model, **options)) == ({"training", "trained"} if training else {"trained", "base"})
    # What is in a benchmark is left out of the training set, so a benchmark decides it.
    after = names(model, drop_overlaps=True, **options)
    assert changed(dropped, after) == ({"training", "trained"} if training else ALL)


def test_the_path_of_data_does_not_count(model, data, monkeypatch):
    before = names(model, suite="math", data_dir=str(data))
    moved = data.rename(data.with_name("moved"))
    assert names(model, suite="math", data_dir=str(moved)) == before
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(moved))
    assert names(model, suite="math") == before


def test_a_benchmark_that_is_not_evaluated_does_not_count(model, data):
    options = {"suite": "math", "data_dir": str(data), "benchmarks": ["MATH-500"]}
    before = names(model, **options)
    (data / "aime24.jsonl").unlink()
    assert names(model, **options) == before
    with pytest.raises(DataError, match=rf"Cannot read .*aime24\.jsonl: .*Add the file to data_dir, {data}, or"):
        names(model, suite="math", data_dir=str(data))


def test_an_unknown_benchmark_is_refused_before_a_run(model):
    with pytest.raises(ConfigError, match="Unknown benchmark 'lcm' in benchmarks; known are"):
        names(model, benchmarks=["lcm"])


# --- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the hub: call it with commits by repository (and "repository@branch")."""
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)

    def serve(commits):
        def repo_info(self, repository, repo_type, revision, timeout):
            key = f"{repository}@{revision}" if revision else repository
            if key not in commits:
                raise ConnectionError("the hub is away")
            return huggingface_hub.ModelInfo(id=repository, sha=commits[key])

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
        hub_commit.cache_clear()

    yield serve
    hub_commit.cache_clear()


SETS = ("knoveleng/open-s1", "knoveleng/AMC-23", "knoveleng/Minerva-Math", "knoveleng/OlympiadBench")


def test_commits_on_the_hub(hub):
    commits = dict.fromkeys(("org/model", *SETS), COMMIT)
    hub(commits)
    before = names("org/model", suite="math")
    hub(commits | {"org/model": OTHER})
    assert changed(before, names("org/model", suite="math")) == ALL
    assert names("org/model", suite="math", model_revision=COMMIT) == before
    hub(commits | {"org/model@v1": OTHER, "org/model@v2": COMMIT})
    assert changed(before, names("org/model", suite="math", model_revision="v1")) == ALL
    assert names("org/model", suite="math", model_revision="v2") == before
    hub(commits | {"org/fork": COMMIT})
    assert changed(before, names("org/fork", suite="math")) == ALL
    hub(commits | {"knoveleng/open-s1": OTHER})
    assert changed(before, names("org/model", suite="math")) == {"training", "trained"}
    hub(commits | {"knoveleng/Minerva-Math": OTHER})
    assert changed(before, names("org/model", suite="math")) == {"trained", "base"}
    hub(commits)
    revisions = {"data_revisions": {"MATH-500": OTHER}}
    assert changed(before, names("org/model", suite="math", **revisions)) == {"trained", "base"}
    revisions = {"data_revisions": {"open-s1": OTHER}}
    assert changed(before, names("org/model", suite="math", **revisions)) == {"training", "trained"}
    assert names("org/model", suite="math", data_revisions={"open-s1": COMMIT}) == before


def test_a_hub_that_is_away_is_said(hub):
    hub({})
    with pytest.raises(
        ConfigError, match=r"model 'org/model': there is no such folder, and the commit of org/model, m"
    ):
        names("org/model")
    with pytest.raises(
        ConfigError, match=r"\(the hub is away\)\. Check the name and .*, or give model_revision a commit"
    ):
        names("org/model", model_revision="v1")
    with pytest.raises(DataError, match=r"commit of knoveleng/open-s1, main.*\(the hub is away\).*or set data_dir"):
        names("mini", suite="math")
    with pytest.raises(DataError, match=r"data_revisions names MATH; the sets here are open-s1, AIME24"):
        names("mini", suite="math", data_revisions={"MATH": COMMIT})


# --- what is no model


@pytest.mark.parametrize("name", ["/no/such", "./mini", "~/no/such", "models/none/", "a/b/c", "", "../mini"])
def test_a_missing_folder_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ConfigError, match=f"model {name!r}: there is no such folder, .*Check the path, or give one"):
        model_identity(name)
    with pytest.raises(ConfigError, match="there is no such folder"):
        model_folder(name)


@pytest.mark.parametrize("files", [{}, {"README.md": "x"}, {"notes.txt": "x"}, {"sub/config.json": "{}"}])
def test_a_folder_without_a_model_is_named(tmp_path, files):
    folder = write(tmp_path / "model", files)
    folder.mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=f"There is no model in the folder {folder}: .*Give `model` the folder"):
        names(folder)


def test_a_file_that_cannot_be_read_is_named(model):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(model / "gone")
    with pytest.raises(ConfigError, match=r"Cannot read .*model\.safetensors of the model .*: No such file"):
        names(model)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_named(model):
    (model / "nested").chmod(0)
    try:
        with pytest.raises(ConfigError, match="Cannot read .*nested of the model .*: Permission denied"):
            names(model)
    finally:
        (model / "nested").chmod(0o755)


# --- what is shipped


def test_the_name_of_a_shipped_model_means_that_model(model, tmp_path, monkeypatch):
    """A folder of the same name in the working directory is ./mini."""
    before = names("mini")
    monkeypatch.chdir(tmp_path)
    model.rename(tmp_path / "mini")
    assert names("mini") == before
    assert model_folder("mini") == str(mini_model_path("mini"))
    assert changed(before, names("./mini")) == ALL
    assert Path(model_folder("./mini")).resolve() == tmp_path / "mini"
    assert model_identity("mini")["model"] == "mini"
    assert model_identity("./mini")["model"] is None


def test_the_content_of_a_shipped_model_counts(tmp_path, monkeypatch):
    before, copy = names("mini"), shutil.copytree(mini_model_path("mini"), tmp_path / "copy")
    monkeypatch.setattr("tampo.runs.training_data.mini_model_path", lambda name: copy)
    assert names("mini") == before
    (copy / "build.json").write_text("{}")  # says how it was built
    assert names("mini") == before
    (copy / "tokenizer.json").write_text("{}")
    assert changed(before, names("mini")) == ALL


@pytest.mark.skipif(not BENCHMARK_FILES, reason=f"{DATA_DIR_VARIABLE} does not name a folder with the benchmark files")
def test_the_grader_and_its_version_count_where_it_judges():
    base = load_params("paper", {"data_dir": BENCHMARK_FILES, "model": "mini"})
    plain = load_params("paper", {"data_dir": BENCHMARK_FILES, "model": "mini", "grader": "math-verify"})
    for identity in (training_identity, lambda config: evaluation_identity(config, "mini", None)):
        kind = "training" if identity is training_identity else "evaluation"
        one, other = (identity(getattr(params, kind)()) for params in (base, plain))
        assert one.pop("grader").startswith("tampo ")
        assert other.pop("grader").startswith("math-verify ")
        assert one == other
    assert "grader" not in training_identity(load_params("mini").training())
