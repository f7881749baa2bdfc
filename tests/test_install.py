"""It installs on machines that see the public package index alone, and the wheel is whole.

`uv` resolves without downloading; it does not look at wheels on this machine's disk or at its settings.
"""

import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import archives
import tampo
from tests.versions import HIGHEST, LOWEST

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])
# On aarch64 a dependency of vllm (pynvvideocodec) has wheels for glibc 2.34 and newer only.
LINUX = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_34")
PLATFORMS = (*LINUX, "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
PYTHONS = ("3.11", "3.12", "3.13")


def uv(*arguments, **settings):
    """`uv` as a stranger would run it: nothing that is set on this machine, but how it reaches the network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    kept["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # torch has no wheels for older ones
    command = [sys.executable, "-m", "uv", *arguments, "--no-config"]
    return subprocess.run(command, env=kept, capture_output=True, text=True, timeout=600, **settings)


def resolve(requirements, python, platform, *options):
    """What uv finds for requirements: a process with its exit status and messages.

    From what it has asked the index before, where that is enough.
    """
    words = ["--python-version", python, "--python-platform", platform, "--no-python-downloads", "--quiet", *options]
    for offline in (["--offline"], []):
        done = uv("pip", "compile", "-", *words, *offline, input="\n".join(requirements), cwd=ROOT)
        if done.returncode == 0:
            break
    return done


def requirements_of(extras):
    """Direct requirements of the package with `extras`, those of extras in extras included."""
    texts, waiting, seen = [*PROJECT["dependencies"]], [*extras], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for text in PROJECT["optional-dependencies"][name]:
                own = Requirement(text)
                waiting += own.extras if own.name == "tampo" else []
                texts += [] if own.name == "tampo" else [text]
    return texts


@pytest.fixture(scope="module")
def index():
    """The package index; without one there is nothing to resolve from."""
    options = ["--python-version", "3.11", "--python-platform", LINUX[0], "--no-python-downloads", "--quiet"]
    if uv("pip", "compile", "-", *options, "--refresh", input="numpy", cwd=ROOT).returncode:
        pytest.skip("no package index can be reached")


def test_every_extra_resolves_from_the_public_index(index):
    """By the ranges of pyproject.toml, and with the constraints that `make table1` and `make test` install by.

    What satisfies all extras at once satisfies each of them; where all do not, the message says which do not.
    """

    def failures(case):
        options, platform, python = case
        if resolve(requirements_of(EXTRAS), python, platform, *options).returncode == 0:
            return {}
        groups = {"base": [], **{name: [name] for name in EXTRAS}, "everything": EXTRAS}
        tried = {
            group: resolve(requirements_of(extras), python, platform, *options) for group, extras in groups.items()
        }
        return {(*case, group): done.stderr[-1000:] for group, done in tried.items() if done.returncode}

    cases = [*itertools.product([(), ("-c", ".ci/constraints.txt")], PLATFORMS, PYTHONS)]
    with ThreadPoolExecutor(8) as pool:  # they wait for the index
        failed = {case: text for found in pool.map(failures, cases) for case, text in found.items()}
    assert not failed


def pip_part(name):
    environment = yaml.safe_load((ROOT / name).read_text())
    return next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))


def test_the_conda_environment_resolves(index):
    """It is for Linux with a GPU; vllm has wheels of both kinds of processor."""
    for platform in LINUX:
        done = resolve(pip_part("environment.yml"), "3.11.9", platform)
        assert done.returncode == 0, done.stderr[-1500:]


def test_the_environment_of_a_laptop_resolves(index):
    """With the torch that conda brings."""
    for platform in PLATFORMS:
        done = resolve([*pip_part(".binder/environment.yml"), "torch==2.13.0"], "3.11.9", platform)
        assert done.returncode == 0, done.stderr[-1500:]


def test_pins_that_contradict_each_other_are_seen(index):
    """The check can fail: torch 2.13.0, built for CUDA, asks for another triton and another runtime of CUDA."""
    for pin in ("triton==3.9.0", "nvidia-cuda-runtime==13.5.37"):
        done = resolve(["torch==2.13.0", pin], "3.11", PLATFORMS[0])
        assert done.returncode != 0
        assert pin.split("==")[0] in done.stderr


def test_the_lock_file_and_its_exports_agree(index):
    done = subprocess.run([sys.executable, ".ci/lock.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert all(wheel["hash"].startswith("sha256:") for package in locked for wheel in package.get("wheels", [])), (
        "every file has a hash"
    )
    assert len([package for package in locked if package.get("wheels")]) > 300


def test_what_pip_installs_is_what_is_locked():
    locked = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version"))  # tampo's own is in its source
    pinned = {}
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        pin = Requirement(line)
        pinned.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier).removeprefix("=="))
    assert pinned == {name: versions for name, versions in locked.items() if name != "tampo"}
    for name in ("environment.yml", ".binder/environment.yml"):
        for line in pip_part(name):
            pin = Requirement(line)
            assert str(pin.specifier).removeprefix("==") in locked[canonicalize_name(pin.name)], line
    for name in ("torch", "transformers", "trl", "papermill", "datasets", "accelerate", "numpy"):
        assert importlib.metadata.version(name).split("+")[0] in pinned[name]


def test_conda_environments_are_readable_by_any_client():
    for name in ("environment.yml", ".binder/environment.yml"):
        environment = yaml.safe_load((ROOT / name).read_text())
        assert environment["channels"] == ["conda-forge", "nodefaults"]
        plain = [part for part in environment["dependencies"] if isinstance(part, str)]
        assert any(re.fullmatch(r"pip=\d+\.\d+(\.\d+)?", part) for part in plain), "pip is pinned"
        assert not any(line.startswith("-") for line in pip_part(name)), "micromamba reads requirements only"
    everything = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "c-compiler" in everything, "Triton and DeepSpeed compile when they run"


def test_metadata_has_ranges_and_no_pins():
    for text in [*PROJECT["dependencies"], *(t for extra in EXTRAS for t in PROJECT["optional-dependencies"][extra])]:
        own = Requirement(text)
        assert own.name == "tampo" or any(s.operator == ">=" for s in own.specifier), text
        assert not any(s.operator == "==" for s in own.specifier), text


def test_the_ends_of_the_ranges_are_the_versions_that_were_run():
    """`make test-versions` runs the trainer's tests with these."""
    ranges = {Requirement(text).name: Requirement(text) for text in PROJECT["optional-dependencies"]["trl"]}
    for name, lowest in LOWEST.items():
        assert f">={lowest}" in str(ranges[name].specifier) or f">={lowest.removesuffix('.0')}" in str(
            ranges[name].specifier
        )
        assert ranges[name].specifier.contains(HIGHEST[name])


def test_no_file_names_the_host_of_an_index():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a git checkout")
    hosts = re.compile(rb"(pypi|pythonhosted|anaconda|download\.pytorch)\.(" + rb"org|com)")
    found = [name for name in listed.stdout.splitlines() if hosts.search((ROOT / name).read_bytes())]
    assert not found


# The wheel, in an environment outside of the checkout.


def make_environment(folder, wheel, packages=None):
    """A virtual environment with the wheel, and this environment's libraries: all, or those `packages`."""
    venv.create(folder, with_pip=False, symlinks=True)
    done = uv("pip", "install", "--python", str(folder), "--no-deps", "--offline", str(wheel))
    assert done.returncode == 0, done.stderr
    library = next(folder.glob("lib/python*/site-packages"))
    here = Path(importlib.metadata.distribution("numpy").locate_file(""))
    if packages is None:
        # A plain path: the editable install of the checkout, a hook of its own, is not found by it.
        (library / "libraries.pth").write_text(f"{here}\n")
    for name in packages or ():
        for path in here.glob(f"{name}*"):
            (library / path.name).symlink_to(path)
    return folder / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return archives.build(ROOT, "wheel", tmp_path_factory.mktemp("dist"))


in_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a git checkout")


@in_git
def test_the_wheel_has_every_file_and_the_version(wheel):
    assert archives.archive(ROOT, "wheel", wheel) == []
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        assert f"\nVersion: {tampo.__version__}\n" in file.read(metadata).decode()


@in_git
def test_the_sdist_has_every_file(tmp_path):
    assert archives.archive(ROOT, "sdist", archives.build(ROOT, "sdist", tmp_path)) == []


def run(command, folder, status=0):
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TAMPO_DATA_DIR")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=kept)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_wheel_works_in_an_empty_folder(wheel, tmp_path):
    bin_ = make_environment(tmp_path / "env", wheel)
    empty = tmp_path / "empty"
    empty.mkdir()
    where = run([bin_ / "python", "-c", "import tampo; print(tampo.__file__)"], empty)
    assert str(tmp_path / "env") in where
    assert "steps = 3" in run([bin_ / "tampo", "params", "smoke"], empty)
    assert "No scale 'maxi'; known are mini" in run([bin_ / "tampo", "params", "maxi"], empty, status=2)
    assert not list(empty.iterdir()), "looking writes nothing"
    few = ["--max-steps", "1"]
    assert "Trained: results/smoke/runs/training-" in run([bin_ / "tampo", "train", "smoke", *few], empty)

    work = tmp_path / "work"
    assert "Written" in run([bin_ / "tampo", "init", str(work)], empty)
    assert {path.name for path in work.iterdir()} == {".tampo-project", "params", "notebooks"}
    for name in ("params", "notebooks"):
        assert {p.name for p in (work / name).iterdir()} == {
            p.name for p in (ROOT / name).iterdir() if p.name[0] != "."
        }
    assert "exists already" in run([bin_ / "tampo", "init", str(work)], empty, status=2)
    command = [bin_ / "python", "-m", "papermill", "notebooks/fig2.ipynb", "out.ipynb", "-p", "params", "smoke"]
    run(command, work)
    assert (work / "results" / "smoke" / "figures" / "fig2.png").is_file()
    assert str(work / "results") not in (work / "results" / "smoke" / "figures" / "fig2.manifest.json").read_text()


def test_numpy_alone_gives_the_method(wheel, tmp_path):
    """A user of another trainer installs `tampo` without extras."""
    bin_ = make_environment(tmp_path / "env", wheel, packages=("numpy",))
    code = (
        "from tampo import MetaPolicy, pass_at_k, sparsemax\n"
        "from tampo.controllers import CONTROLLERS, make_controller\n"
        "policy = MetaPolicy([0.6, 1.0]); policy.update([[-2.0, -1.0]], [1.0])\n"
        "print([make_controller(name).temperature(0) for name in CONTROLLERS])\n"
        "print(policy.sample(), sparsemax([2.0, 1.5, 0.2]).tolist(), pass_at_k(8, 1, 1))\n"
    )
    said = run([bin_ / "python", "-c", code], tmp_path)
    assert said.endswith("1.0 [0.75, 0.25, 0.0] 0.125\n")
    for name in ("TAMPOTrainer", "TAMPOConfig", "virtual_log_likelihoods"):
        code = f"import tampo\ntry:\n    tampo.{name}\nexcept ImportError as error:\n    print(error)"
        assert 'It comes with: pip install "tampo[trl]"' in run([bin_ / "python", "-c", code], tmp_path)
    rooms = [path.parent.name for path in (ROOT / "tampo").glob("*/__init__.py")]
    modules = sorted(path.stem for path in (ROOT / "tampo").glob("*.py")) + rooms
    for module in modules:
        code = f"try:\n    import tampo.{module}\nexcept ImportError as error:\n    print(error)"
        said = run([bin_ / "python", "-c", code], tmp_path).strip() if module != "__main__" else ""
        assert not said or "pip install" in said, f"tampo.{module}: {said}"
    for command in (["params"], ["train", "smoke"], ["train", "--help"]):
        said = run([bin_ / "tampo", *command], tmp_path, status=2)
        assert 'It comes with: pip install "tampo[reproduce]"' in said
        assert len(said.splitlines()) == 1
    assert "Written" in run([bin_ / "tampo", "init", "here"], tmp_path)
    assert tampo.__version__ in run([bin_ / "tampo", "--version"], tmp_path)


def test_the_extra_trl_is_enough_for_the_trainer():
    """`TAMPOTrainer` imports nothing that `pip install "tampo[trl]"` does not bring."""
    brought, waiting = set(), [Requirement(text) for text in requirements_of(["trl"])]
    while waiting:
        own = waiting.pop()
        name = canonicalize_name(own.name)
        if name not in brought:
            brought.add(name)
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # of another platform
            waiting += [n for n in map(Requirement, needs) if n.marker is None or n.marker.evaluate({"extra": ""})]
    owners = importlib.metadata.packages_distributions()
    blocked = sorted(
        {name for name, dists in owners.items() if not brought & {canonicalize_name(d) for d in dists}} - {"tampo"}
    )
    assert {"papermill", "pydantic_settings", "math_verify", "reasoning_gym"} <= set(blocked)
    code = f"import sys\nfor name in {blocked}: sys.modules.setdefault(name, None)\n"
    code += "import tampo; print(tampo.TAMPOTrainer.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "TAMPOTrainer", done.stderr[-2000:]


def test_another_repository_is_not_taken_for_the_project(tmp_path, monkeypatch):
    """Somebody else's repository may have a params/ and a notebooks/."""
    from tampo.project import project_root

    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    inside = tmp_path / "notebooks" / "deep"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert project_root() == inside
    (tmp_path / ".tampo-project").write_text("")
    assert project_root() == tmp_path
