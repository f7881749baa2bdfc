"""Commits and files of models on the hub, with stand-ins for its library. Nothing here uses the network."""

import huggingface_hub
import pytest

from tampo.tasks.hub import hub_commit, hub_snapshot

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty; and no answer of another test."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub_commit.cache_clear()
    yield tmp_path
    hub_commit.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """The hub online: call it with its answers, commits or errors; returns the list of calls."""

    def serve(*answers):
        calls, left = [], list(answers)

        def repo_info(self, repository, repo_type, revision, timeout):
            assert 0 < timeout < 60, "a hub that does not answer must not stop a run for ever"
            calls.append((repository, repo_type, revision))
            if isinstance(answer := left.pop(0), Exception):
                raise answer
            return huggingface_hub.ModelInfo(id=repository, sha=answer)

        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
        return calls

    return serve


def in_cache(cache, commit, kind="models", reference="main"):
    path = cache / f"{kind}--org--name" / "refs" / reference
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)


def test_a_commit_is_not_asked_for(hub):
    calls = hub()
    assert hub_commit("org/name", "model", COMMIT) == COMMIT
    assert not calls


def test_online_the_hub_says_it_once(hub, cache):
    in_cache(cache, OTHER)
    calls = hub(COMMIT, OTHER, COMMIT)
    assert [hub_commit("org/name", "model") for _ in range(2)] == [COMMIT, COMMIT]
    assert hub_commit("org/name", "model", "v1") == OTHER
    assert hub_commit("org/name", "dataset") == COMMIT
    assert calls == [("org/name", "model", None), ("org/name", "model", "v1"), ("org/name", "dataset", None)]


def test_offline_the_cache_says_it(cache):
    in_cache(cache, f"{COMMIT}\n")
    in_cache(cache, OTHER, "datasets")
    in_cache(cache, OTHER, reference="v1")
    assert hub_commit("org/name", "model") == COMMIT
    assert hub_commit("org/name", "dataset") == OTHER
    assert hub_commit("org/name", "model", "v1") == OTHER
    with pytest.raises(LookupError, match=r"commit of org/name, v2, cannot be found out \(HF_HUB_OFFLINE is set\)"):
        hub_commit("org/name", "model", "v2")


@pytest.mark.parametrize("answer", [OSError("no route"), ValueError("not an id"), None])
def test_a_hub_that_fails_leaves_the_cache(hub, cache, answer):
    hub(answer)
    in_cache(cache, COMMIT)
    assert hub_commit("org/name", "model") == COMMIT


def test_a_failure_is_not_kept(hub, cache):
    calls = hub(OSError("no route"), OSError("no route"), COMMIT)
    for _ in range(2):
        with pytest.raises(LookupError, match=r"commit of org/name, main, cannot be found out \(no route\)"):
            hub_commit("org/name", "model")
    assert hub_commit("org/name", "model") == COMMIT
    assert len(calls) == 3


@pytest.mark.parametrize("text", ["", "main", "\udcff"])
def test_a_damaged_cache_is_none(cache, text):
    in_cache(cache, "")
    (cache / "models--org--name" / "refs" / "main").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LookupError):
        hub_commit("org/name", "model")


SAFE = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SAFE += ["model.safetensors.index.json", "pytorch_model.bin"]
SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "merges.txt"]
SMALL += ["chat_template.jinja", "additional_chat_templates/tools.jinja"]
OTHERS = ["README.md", "model.onnx", "onnx/config.json", "original/consolidated.safetensors", "training_args.bin"]
OTHERS += ["checkpoint-10/model.safetensors", "model.gguf", "optimizer.pt", "tf_model.h5"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository on the hub: call it with its files; returns those that were downloaded, and the commits."""

    def serve(files):
        downloaded, commits = [], []

        def snapshot_download(repository, revision, allow_patterns, ignore_patterns, **options):
            commits.append(revision)
            folder = tmp_path / "models--org--name" / "snapshots" / revision
            for name in huggingface_hub.utils.filter_repo_objects(
                files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
                downloaded.append(name)
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return downloaded, commits

    return serve


def test_the_files_of_one_commit_are_downloaded(repository, tmp_path):
    downloaded, commits = repository([*SMALL, *SAFE, *OTHERS])
    folder = hub_snapshot("org/name", COMMIT)
    assert folder == tmp_path / "models--org--name" / "snapshots" / COMMIT
    assert sorted(downloaded) == sorted([*SMALL, *SAFE[:3]])
    assert set(commits) == {COMMIT}


def test_pickled_weights_only_where_there_are_no_others(repository):
    weights = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    downloaded, commits = repository([*SMALL, *weights, *OTHERS])
    hub_snapshot("org/name", COMMIT)
    assert sorted(downloaded) == sorted([*SMALL, *weights])
    assert set(commits) == {COMMIT}


def test_a_repository_without_weights_is_said(repository):
    repository([*SMALL, *OTHERS])
    with pytest.raises(LookupError, match=f"commit {COMMIT} of org/name has no weights"):
        hub_snapshot("org/name", COMMIT)


def test_a_download_that_fails_is_a_lookup_error(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(LookupError, match=rf"commit {COMMIT} of org/name cannot be loaded \(no route\)"):
        hub_snapshot("org/name", COMMIT)


def test_offline_the_real_library_gives_the_copy_of_the_commit(cache):
    """And no other commit's."""
    in_cache(cache, OTHER)
    for commit in (COMMIT, OTHER):
        folder = cache / "models--org--name" / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(commit)
    assert (hub_snapshot("org/name", COMMIT) / "model.safetensors").read_text() == COMMIT
    with pytest.raises(LookupError, match="cannot be loaded"):
        hub_snapshot("org/name", "a" * 40)
